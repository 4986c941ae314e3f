//! Images by the identifiers of Marketplaces: found, fetched once, and never wrong.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use cimi::resources::{Image, ImageSource, ImageState, Volume, VolumeState};
use tokio::sync::Notify;

use super::site::{Site, asking, base, described, endorser, signed, wanted, whole};
use super::states::{available, failed, numbers, waiting_because};
use super::web_server::Answer;
use super::world::{World, image, names, volume};

pub(super) fn bytes() -> Vec<u8> {
    numbers(3 << 16)
}

pub(super) fn nothing_is_left(world: &World) {
    for folder in ["images", "incoming"] {
        let folder = world.storage_dir().join("cache/disks").join(folder);
        assert_eq!(names(&folder), Vec::<String>::new(), "{}", folder.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_who_ask_for_one_identifier_cost_one_download() {
    let mut world = World::new().await;
    let (site, bytes, gate) = (Site::default(), bytes(), Arc::new(Notify::new()));
    let server = site.serve().await;
    let mut metadata = described(&bytes, &[format!("{}/disk", base(&server))]);
    metadata.os = Some("debian".to_owned());
    metadata.os_version = Some("12".to_owned());
    metadata.version = Some("1.4".to_owned());
    let identifier = metadata.identifier.to_string();
    let entry = signed(&metadata, &endorser("alice@example.org"));
    site.put_entries(&identifier, &[entry]);
    site.put(
        "/disk",
        Answer::After(gate.clone(), Box::new(whole(bytes.clone()))),
    );
    world
        .start_with(asking(world.settings(), &[&server], None), None)
        .await;
    let all: Vec<Image> = (0..10)
        .map(|number| {
            let mut one = wanted(&identifier);
            one.common.acl = cimi::Acl::owned_by_user(&format!("u{number}"));
            one
        })
        .collect();
    for one in &all {
        world.create(one).await;
    }
    world
        .until::<Image>(all[0].id.local(), |image| image.provenance.is_some())
        .await;
    World::eventually("the download begins", || site.asked("/disk") > 0).await;
    gate.notify_one();
    for one in &all {
        let read = world.until::<Image>(one.id.local(), available).await;
        assert_eq!(read.identifier(), Some(identifier.as_str()));
        let origin = read.provenance.as_ref().expect("an origin");
        assert_eq!(origin.endorser.as_deref(), Some("alice@example.org"));
        assert_eq!(origin.found_in, "m0");
        // What images that are made of it will be said to be.
        let properties = &read.common.properties;
        for (name, value) in [("os", "debian"), ("os-version", "12"), ("version", "1.4")] {
            assert_eq!(properties.get(name).map(String::as_str), Some(value));
        }
    }
    assert_eq!(site.asked("/disk"), 1);
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn places_are_tried_in_order_and_every_altered_byte_is_noticed() {
    let mut world = World::new().await;
    let (site, bytes) = (Site::default(), bytes());
    let server = site.serve().await;
    let places = ["/gone", "/altered", "/short", "/long", "/good"];
    let mut locations: Vec<String> = places.map(|path| format!("{}{path}", base(&server))).into();
    locations.insert(
        0,
        "pdisk:example.org:8445:0190a1c4-0000-7000-8000-000000000001".to_owned(),
    );
    let metadata = described(&bytes, &locations);
    let identifier = metadata.identifier.to_string();
    site.put_entries(
        &identifier,
        &[signed(&metadata, &endorser("alice@example.org"))],
    );
    let mut altered = bytes.clone();
    altered[bytes.len() / 2] ^= 1;
    site.put("/altered", whole(altered));
    site.put("/short", whole(bytes[..bytes.len() - 1].to_vec()));
    let mut long = bytes.clone();
    long.push(0);
    site.put("/long", whole(long));
    let mut settings = asking(world.settings(), &[&server], None);
    settings.fetch_tries = 2;
    world.start_with(settings.clone(), None).await;
    let one = wanted(&identifier);
    world.create(&one).await;
    let read = world.until::<Image>(one.id.local(), failed).await;
    let reason = read.reason.clone().unwrap_or_default();
    for part in [
        "no http or https",
        "/gone",
        "404",
        "/altered: SHA-1 mismatch",
        "/short: size",
        "/long: size",
        "after 2 tries",
    ] {
        assert!(reason.contains(part), "`{part}` in {reason}");
    }
    nothing_is_left(&world);
    // Compressed, and there at last: whoever asks again gets it.
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&bytes).expect("packed");
    site.put("/good", whole(packed.finish().expect("packed")));
    world
        .edit::<Image>(one.id.local(), |image| {
            image.state = ImageState::Creating;
            image.desired.attempt += 1;
        })
        .await;
    let read = world.until::<Image>(one.id.local(), available).await;
    assert_eq!(
        read.file.as_ref().expect("file").digests.bytes,
        Some(bytes.len() as u64)
    );
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_stops_half_way_goes_on_where_it_was_or_leaves_nothing() {
    let mut world = World::new().await;
    let (site, bytes) = (Site::default(), bytes());
    let server = site.serve().await;
    let half = |ranges| Answer::Body {
        bytes: Arc::new(bytes.clone()),
        etag: "one",
        ranges,
        at_most: bytes.len() / 2,
    };
    let mut settings = asking(world.settings(), &[&server], None);
    settings.fetch_tries = 1;
    settings.limits.resumes = 1;
    world.start_with(settings, None).await;
    let alice = endorser("alice@example.org");
    let metadata = described(&bytes, &[format!("{}/disk", base(&server))]);
    let identifier = metadata.identifier.to_string();
    site.put_entries(&identifier, &[signed(&metadata, &alice)]);
    // It ends at the same byte again and again.
    site.put("/disk", half(false));
    let one = wanted(&identifier);
    world.create(&one).await;
    let read = world.until::<Image>(one.id.local(), failed).await;
    let reason = read.reason.clone().unwrap_or_default();
    assert!(reason.contains("/disk"), "{reason}");
    nothing_is_left(&world);
    // With ranges the second half comes after the first.
    let before = site.asked("/disk");
    site.put("/disk", half(true));
    world
        .edit::<Image>(one.id.local(), |image| {
            image.state = ImageState::Creating;
            image.desired.attempt += 1;
        })
        .await;
    let read = world.until::<Image>(one.id.local(), available).await;
    assert_eq!(site.asked("/disk"), before + 2);
    let path = &read.file.as_ref().expect("file").path;
    assert!(std::fs::read(path).expect("read") == bytes);
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_any_step_leaves_an_image_that_comes_all_the_same() {
    for place in [
        "image: found, not fetched",
        "image: in the cache, not told",
        "image: in the cache and told",
    ] {
        let mut world = World::new().await;
        let (site, bytes) = (Site::default(), bytes());
        let server = site.serve().await;
        let metadata = described(&bytes, &[format!("{}/disk", base(&server))]);
        let identifier = metadata.identifier.to_string();
        site.put("/disk", whole(bytes));
        site.put_entries(
            &identifier,
            &[signed(&metadata, &endorser("alice@example.org"))],
        );
        let one = wanted(&identifier);
        world.create(&one).await;
        let settings = asking(world.settings(), &[&server], None);
        let controller = world.start_with(settings.clone(), Some(place)).await;
        controller.stopped().await;
        drop(controller);
        world.kill().await;
        let controller = world.start_with(settings, None).await;
        world.until::<Image>(one.id.local(), available).await;
        assert_eq!(controller.audit().await.expect("audit"), [], "{place}");
        drop(controller);
        world.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_cache_is_told_and_waits_for_room() {
    let mut world = World::new().await;
    let (site, bytes) = (Site::default(), bytes());
    let server = site.serve().await;
    let first = described(&bytes, &[format!("{}/disk", base(&server))]);
    let second = described(&bytes[4096..], &[format!("{}/other", base(&server))]);
    site.put("/disk", whole(bytes.clone()));
    site.put("/other", whole(bytes[4096..].to_vec()));
    let alice = endorser("alice@example.org");
    for metadata in [&first, &second] {
        site.put_entries(
            &metadata.identifier.to_string(),
            &[signed(metadata, &alice)],
        );
    }
    let mut settings = asking(world.settings(), &[&server], None);
    settings.cache_bytes = Some(bytes.len() as u64);
    // Only that there is room is a reason to try again in time.
    settings.fetch_pause = Duration::from_secs(3600);
    settings.recheck = Duration::from_secs(3600);
    world.start_with(settings, None).await;
    let one = wanted(&first.identifier.to_string());
    world.create(&one).await;
    world.until::<Image>(one.id.local(), available).await;
    let two = wanted(&second.identifier.to_string());
    world.create(&two).await;
    let read = world
        .until::<Image>(two.id.local(), waiting_because("image cache is larger"))
        .await;
    assert!(read.needs_space);
    world.delete_image(one.id.local()).await;
    let read = world.until::<Image>(two.id.local(), available).await;
    assert!(!read.needs_space);
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_becomes_an_image_unless_a_machine_has_it() {
    let mut world = World::new().await;
    let mut settings = asking(world.settings(), &[], None);
    settings.fetch_tries = 2;
    world.start_with(settings, None).await;
    let disk = volume(1 << 20);
    world.create(&disk).await;
    let read = world
        .until::<Volume>(disk.id.local(), |volume| {
            volume.state == VolumeState::Available
        })
        .await;
    let Some(cimi::resources::VolumeLocation::File { path, .. }) = &read.location else {
        panic!("a file");
    };
    std::fs::write(path, [7; 1 << 20]).expect("written");
    let source = ImageSource::Volume {
        volume: disk.id.clone(),
    };
    let copy = image(source.clone(), "IMAGE");
    world.create(&copy).await;
    let read = world.until::<Image>(copy.id.local(), available).await;
    assert_eq!(
        std::fs::read(&read.file.as_ref().expect("file").path).expect("read"),
        [7; 1 << 20]
    );
    let machine = cimi::MachineId::generate();
    world
        .edit::<Volume>(disk.id.local(), |volume| {
            volume.attachment = Some(cimi::resources::Attachment {
                machine: machine.clone(),
                since: cimi::Timestamp::now(),
            });
        })
        .await;
    let in_use = image(source, "IMAGE");
    world.create(&in_use).await;
    let read = world.until::<Image>(in_use.id.local(), failed).await;
    let reason = read.reason.clone().unwrap_or_default();
    assert!(reason.contains(&machine.to_string()), "{reason}");
    world.kill().await;
}
