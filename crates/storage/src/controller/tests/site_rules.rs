//! What is the operator's to change: it is told as such, and a change counts at once.

use std::sync::Arc;
use std::time::Duration;

use cimi::resources::Image;
use tokio::sync::Notify;

use super::site::{Site, asking, base, described, endorser, signed, wanted, whole};
use super::states::{available, failed, numbers, waiting_because};
use super::web_server::Answer;
use super::world::World;
use crate::controller::Settings;

/// Nothing is looked at again by itself.
fn patient(mut settings: Settings) -> Settings {
    settings.recheck = Duration::from_secs(3600);
    settings.fetch_pause = Duration::from_secs(3600);
    settings
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_of_the_policy_counts_at_once_for_what_waits_and_what_is_cached() {
    let mut world = World::new().await;
    let (site, bytes) = (Site::default(), numbers(1 << 12));
    let server = site.serve().await;
    let metadata = described(&bytes, &[format!("{}/disk", base(&server))]);
    let identifier = metadata.identifier.to_string();
    let entry = signed(&metadata, &endorser("alice@example.org"));
    site.put_entries(&identifier, &[entry]);
    site.put("/disk", whole(bytes));
    let folder = world.dir.path().join("etc");
    std::fs::create_dir(&folder).expect("a folder");
    let policy = folder.join("policy.cfg");
    let settings = asking(world.settings(), &[&server], Some(&policy));
    world.start_with(patient(settings), None).await;
    let one = wanted(&identifier);
    world.create(&one).await;
    let unreadable = waiting_because("the policy of this site can't be read");
    world.until::<Image>(one.id.local(), unreadable).await;
    std::fs::write(&policy, "").expect("policy");
    world.until::<Image>(one.id.local(), available).await;
    // Written beside it and renamed, as editors do.
    let rename = |text: &str| {
        let new = folder.join("policy.new");
        std::fs::write(&new, text).expect("policy");
        std::fs::rename(new, &policy).expect("renamed");
    };
    rename("[endorsers]\nblacklistendorsers = alice@example.org\n");
    let read = world.until::<Image>(one.id.local(), failed).await;
    let reason = read.reason.clone().unwrap_or_default();
    assert!(reason.contains("blacklisted"), "{reason}");
    rename("");
    world.until::<Image>(one.id.local(), available).await;
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_counts_wherever_links_lead_to_after_they_were_replaced() {
    let mut world = World::new().await;
    let (site, bytes) = (Site::default(), numbers(1 << 12));
    let server = site.serve().await;
    let metadata = described(&bytes, &[format!("{}/disk", base(&server))]);
    let identifier = metadata.identifier.to_string();
    site.put_entries(
        &identifier,
        &[signed(&metadata, &endorser("alice@example.org"))],
    );
    site.put("/disk", whole(bytes));
    let root = world.dir.path().to_owned();
    let write = |version: &str, text: &str| {
        std::fs::create_dir_all(root.join(version)).expect("a folder");
        std::fs::write(root.join(version).join("policy.cfg"), text).expect("policy");
    };
    // As `ln -sfn` does it.
    let lead_to = |version: &str| {
        std::os::unix::fs::symlink(version, root.join("new")).expect("a link");
        std::fs::rename(root.join("new"), root.join("current")).expect("renamed");
    };
    let closed = "[endorsers]\nblacklistendorsers = alice@example.org\n";
    write("one", "");
    write("two", closed);
    lead_to("one");
    let policy = root.join("current/policy.cfg");
    let settings = asking(world.settings(), &[&server], Some(&policy));
    world.start_with(patient(settings), None).await;
    let image = wanted(&identifier);
    world.create(&image).await;
    world.until::<Image>(image.id.local(), available).await;
    lead_to("two");
    world.until::<Image>(image.id.local(), failed).await;
    // What it leads to now is watched now.
    write("two", "");
    world.until::<Image>(image.id.local(), available).await;
    lead_to("one");
    write("one", closed);
    world.until::<Image>(image.id.local(), failed).await;
    // So is a folder that takes the place of another one.
    write("three", "");
    std::fs::rename(root.join("one"), root.join("old")).expect("renamed");
    std::fs::rename(root.join("three"), root.join("one")).expect("renamed");
    world.until::<Image>(image.id.local(), available).await;
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_very_same_entry_is_that_of_the_marketplace_that_is_configured_first() {
    let world = World::new().await;
    let (first, second, gate) = (Site::default(), Site::default(), Arc::new(Notify::new()));
    let servers = [first.serve().await, second.serve().await];
    let metadata = described(&[1; 512], &["https://x.example.org/x".to_owned()]);
    let entry = signed(&metadata, &endorser("alice@example.org"));
    let identifier = metadata.identifier.to_string();
    let path = format!("/metadata/{identifier}");
    for site in [&first, &second] {
        site.put_entries(&identifier, std::slice::from_ref(&entry));
    }
    // The first one answers last.
    let body = entry.find("?>").map_or("", |end| &entry[end + 2..]);
    let list = format!("<metadata>{body}</metadata>").into_bytes();
    first.put(&path, Answer::After(gate.clone(), Box::new(whole(list))));
    let settings = asking(world.settings(), &[&servers[0], &servers[1]], None);
    let asked = settings.registries.look_up(&metadata.identifier);
    let (found, ()) = tokio::join!(asked, async {
        World::eventually("the other one is asked", || second.asked(&path) > 0).await;
        gate.notify_one();
    });
    assert_eq!(found.expect("found")[0].marketplace, "m0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_is_not_allowed_is_told_at_once_and_others_are_tried() {
    let mut world = World::new().await;
    let site = Site::default();
    let server = site.serve().await;
    let alice = endorser("alice@example.org");
    let forbidden = "http://10.9.9.9/disk".to_owned();
    let publish = |bytes: &[u8], locations: &[String]| {
        let metadata = described(bytes, locations);
        let identifier = metadata.identifier.to_string();
        site.put_entries(&identifier, &[signed(&metadata, &alice)]);
        identifier
    };
    let good = numbers(1 << 12);
    site.put("/disk", whole(good.clone()));
    site.put(
        "/away",
        Answer::Head(format!(
            "HTTP/1.1 302 Found\r\nlocation: {forbidden}\r\ncontent-length: 0\r\n"
        )),
    );
    let here = format!("{}/disk", base(&server));
    let away = format!("{}/away", base(&server));
    let settings = asking(world.settings(), &[&server], None);
    world.start_with(patient(settings), None).await;
    for (number, location) in [(1, &forbidden), (2, &away)] {
        let one = wanted(&publish(&[number; 512], std::slice::from_ref(location)));
        world.create(&one).await;
        let read = world.until::<Image>(one.id.local(), failed).await;
        let reason = read.reason.clone().unwrap_or_default();
        assert!(reason.contains("allow_sources"), "{reason}");
        assert!(!reason.contains("tries"), "{reason}");
    }
    let one = wanted(&publish(&good, &[forbidden, here]));
    world.create(&one).await;
    world.until::<Image>(one.id.local(), available).await;
    world.kill().await;
}
