//! Which entries of Marketplaces count, at the start and later.

use cimi::Timestamp;
use cimi::resources::Image;

use super::by_name::{bytes, nothing_is_left};
use super::site::{
    Site, asking, base, described, endorser, seconds_from_now, signed, signed_at, wanted, whole,
    withdrawn,
};
use super::states::{available, failed, waiting_because};
use super::web_server::Answer;
use super::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn what_the_site_does_not_accept_is_refused_and_says_why() {
    let mut world = World::new().await;
    let site = Site::default();
    let server = site.serve().await;
    let policy = world.dir.path().join("policy.cfg");
    std::fs::write(
        &policy,
        "[endorsers]\nblacklistendorsers = mallory@example.org\n",
    )
    .expect("policy");
    let (alice, mallory) = (
        endorser("alice@example.org"),
        endorser("mallory@example.org"),
    );
    let of = |number: u8| {
        let location = format!("{}/disk{number}", base(&server));
        site.put(&format!("/disk{number}"), whole(vec![number; 4096]));
        described(&[number; 4096], &[location])
    };
    let mut expired = of(1);
    expired.valid = Some(seconds_from_now(-60));
    let (early, revoked, old) = (of(2), of(3), of(4));
    let (altered, other, absent) = (of(5), of(6), of(7));
    let mut unknown_format = of(8);
    unknown_format.format = Some("vhdx".to_owned());
    let mut nowhere = of(9);
    nowhere.locations.clear();
    let cases = [
        (
            &expired,
            vec![signed_at(&expired, &alice, seconds_from_now(-3600))],
            "not valid any more",
        ),
        (
            &early,
            vec![signed_at(&early, &alice, seconds_from_now(3600))],
            "in the future",
        ),
        (
            &revoked,
            vec![signed(&revoked, &mallory)],
            "mallory@example.org is blacklisted",
        ),
        // The newest entry counts, wherever it stands in the list.
        (
            &old,
            vec![
                withdrawn(&old, &alice, "it has a hole"),
                signed_at(&old, &alice, seconds_from_now(-60)),
            ],
            "it has a hole",
        ),
        (
            &altered,
            vec![signed(&altered, &alice).replace("A test", "A tesT")],
            "signature",
        ),
        (&other, vec![signed(&early, &alice)], "an entry for"),
        (
            &absent,
            vec![],
            "no Marketplace of this cloud (m0) has a valid entry",
        ),
        (
            &unknown_format,
            vec![signed(&unknown_format, &alice)],
            "vhdx",
        ),
        (&nowhere, vec![signed(&nowhere, &alice)], "no place"),
    ];
    world
        .start_with(asking(world.settings(), &[&server], Some(&policy)), None)
        .await;
    for (metadata, entries, reason) in cases {
        let identifier = metadata.identifier.to_string();
        if !entries.is_empty() {
            site.put_entries(&identifier, &entries);
        }
        let one = wanted(&identifier);
        world.create(&one).await;
        let read = world.until::<Image>(one.id.local(), failed).await;
        let told = read.reason.clone().unwrap_or_default();
        assert!(told.contains(reason), "`{reason}` in {told}");
    }
    for number in 1..=9 {
        assert_eq!(
            site.asked(&format!("/disk{number}")),
            0,
            "nothing refused is fetched"
        );
    }
    nothing_is_left(&world);
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_endorsers_who_is_in_the_first_marketplace_and_spoke_last_is_tried_first() {
    let mut world = World::new().await;
    let (first, second) = (Site::default(), Site::default());
    let (one, two) = (first.serve().await, second.serve().await);
    let bytes = bytes();
    let by = |name: &str| described(&bytes, &[format!("{}/{name}", base(&one))]);
    for name in ["a", "b", "c"] {
        first.put(&format!("/{name}"), whole(bytes.clone()));
    }
    let identifier = by("a").identifier.to_string();
    let (alice, bob) = (endorser("alice@example.org"), endorser("bob@example.org"));
    let carol = endorser("carol@example.org");
    first.put_entries(
        &identifier,
        &[
            signed_at(&by("a"), &alice, seconds_from_now(-100)),
            signed_at(&by("b"), &bob, seconds_from_now(-50)),
        ],
    );
    second.put_entries(&identifier, &[signed(&by("c"), &carol)]);
    let policy = world.dir.path().join("policy.cfg");
    let origin = async |world: &World| {
        let one = wanted(&identifier);
        world.create(&one).await;
        let read = world.until::<Image>(one.id.local(), available).await;
        let origin = read.provenance.clone().expect("an origin");
        world.delete_image(one.id.local()).await;
        world.until_gone::<Image>(one.id.local()).await;
        (origin.endorser.unwrap_or_default(), origin.found_in)
    };
    let gone = || Answer::Head("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n".to_owned());
    for (rule, order, endorser, marketplace) in [
        ("", [&one, &two], "bob@example.org", "m0"),
        ("", [&two, &one], "carol@example.org", "m0"),
        (
            "[endorsers]\nblacklistendorsers = carol@example.org\n",
            [&two, &one],
            "bob@example.org",
            "m1",
        ),
        (
            "[endorsers]\nwhitelistendorsers = alice@example.org\n",
            [&two, &one],
            "alice@example.org",
            "m1",
        ),
        // Its content isn't where his entry says.
        ("gone", [&one, &two], "alice@example.org", "m0"),
    ] {
        if rule == "gone" {
            first.put("/b", gone());
        }
        std::fs::write(&policy, rule.replace("gone", "")).expect("policy");
        let settings = asking(world.settings(), &order, Some(&policy));
        world.start_with(settings, None).await;
        assert_eq!(
            origin(&world).await,
            (endorser.to_owned(), marketplace.to_owned())
        );
    }
    // What one of them knows to be withdrawn does not come from the other, whichever is asked first.
    std::fs::write(&policy, "").expect("policy");
    for (knows, is_behind) in [(&first, &second), (&second, &first)] {
        knows.put_entries(&identifier, &[withdrawn(&by("a"), &alice, "old")]);
        is_behind.put_entries(
            &identifier,
            &[signed_at(&by("a"), &alice, seconds_from_now(-100))],
        );
        let one = wanted(&identifier);
        world.create(&one).await;
        let read = world.until::<Image>(one.id.local(), failed).await;
        let reason = read.reason.clone().unwrap_or_default();
        assert!(reason.contains("deprecated by alice"), "{reason}");
    }
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marketplace_that_is_down_is_asked_again_and_cached_images_stay() {
    let mut world = World::new().await;
    let (site, bytes) = (Site::default(), bytes());
    let server = site.serve().await;
    let metadata = described(&bytes, &[format!("{}/disk", base(&server))]);
    let identifier = metadata.identifier.to_string();
    let entries = format!("/metadata/{identifier}");
    site.put("/disk", whole(bytes.clone()));
    let down = Answer::Head("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n".to_owned());
    site.put(&entries, down.clone());
    let mut settings = asking(world.settings(), &[&server], None);
    world.start_with(settings.clone(), None).await;
    let one = wanted(&identifier);
    world.create(&one).await;
    world
        .until::<Image>(one.id.local(), waiting_because("503"))
        .await;
    site.put_entries(
        &identifier,
        &[signed(&metadata, &endorser("alice@example.org"))],
    );
    let read = world.until::<Image>(one.id.local(), available).await;
    assert_eq!(read.reason, None);
    // Down for good, and the entries are to be looked up all the time.
    site.put(&entries, down);
    settings.entries_recheck = std::time::Duration::ZERO;
    // It may happen before anything else here does.
    let asked = site.asked(&entries);
    world.start_with(settings.clone(), None).await;
    World::eventually("the entry is looked up", || site.asked(&entries) > asked).await;
    assert!(available(
        &world
            .documents
            .images
            .get(one.id.local())
            .expect("there")
            .document
            .0
    ));
    // When it is up again and says that the image is withdrawn, nobody starts it any more.
    site.put_entries(
        &identifier,
        &[withdrawn(
            &metadata,
            &endorser("alice@example.org"),
            "a hole",
        )],
    );
    let path = read.file.as_ref().expect("file").path.clone();
    world.start_with(settings, None).await;
    let read = world.until::<Image>(one.id.local(), failed).await;
    assert!(
        read.reason
            .as_deref()
            .unwrap_or_default()
            .contains("a hole"),
        "{:?}",
        read.reason
    );
    assert!(
        std::path::Path::new(&path).exists(),
        "machines may stand on it"
    );
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_starts_a_machine_learns_what_the_marketplaces_say_now() {
    let mut world = World::new().await;
    let (site, bytes) = (Site::default(), bytes());
    let server = site.serve().await;
    let metadata = described(&bytes, &[format!("{}/disk", base(&server))]);
    let identifier = metadata.identifier;
    let name = identifier.to_string();
    let entries = format!("/metadata/{name}");
    let alice = endorser("alice@example.org");
    site.put("/disk", whole(bytes.clone()));
    let mut settings = asking(world.settings(), &[&server], None);
    let controller = world.start_with(settings.clone(), None).await;
    let unknown = controller.registries().look_up_in_time(&identifier).await;
    assert!(
        unknown.is_err_and(|why| !why.is_temporary()),
        "nobody has it"
    );
    site.put_entries(&name, &[signed(&metadata, &alice)]);
    controller
        .registries()
        .look_up_in_time(&identifier)
        .await
        .expect("endorsed");
    let one = wanted(&name);
    world.create(&one).await;
    let local = one.id.local();
    let read = world.until::<Image>(local, available).await;

    // What was looked up just now isn't again.
    let asked = site.asked(&entries);
    assert!(!controller.look_again(local).await);
    assert_eq!(site.asked(&entries), asked);
    drop(controller);
    settings.entries_fresh = std::time::Duration::ZERO;
    let controller = world.start_with(settings.clone(), None).await;
    assert!(controller.look_again(local).await);
    let again = world.documents.images.get(local).expect("there");
    let checked = |image: &Image| image.provenance.as_ref().map(|origin| origin.checked);
    assert!(checked(&again.document.0) > checked(&read.document.0));

    // One that doesn't answer holds nobody up for long, and not each of them.
    site.put(
        &entries,
        Answer::Head("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n".to_owned()),
    );
    assert!(!controller.look_again(local).await);
    let asked = site.asked(&entries);
    assert!(!controller.look_again(local).await);
    assert_eq!(site.asked(&entries), asked);
    assert!(available(
        &world.documents.images.get(local).expect("there").document.0
    ));
    assert!(
        controller
            .registries()
            .look_up_in_time(&identifier)
            .await
            .is_err_and(|why| why.is_temporary())
    );

    drop(controller);
    site.put_entries(&name, &[withdrawn(&metadata, &alice, "a hole")]);
    let controller = world.start_with(settings, None).await;
    let all = (0..5).map(|_| controller.look_again(local));
    let changed = futures::future::join_all(all).await;
    assert_eq!(
        changed.iter().filter(|changed| **changed).count(),
        1,
        "one asks for all"
    );
    let read = world.documents.images.get(local).expect("there");
    assert!(failed(&read.document.0));
    let reason = read.reason.clone().unwrap_or_default();
    assert!(reason.contains("a hole"), "{reason}");
    drop(controller);
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endorser_who_is_revoked_takes_cached_images_along_until_the_site_thinks_better_of_it() {
    let mut world = World::new().await;
    let (site, bytes) = (Site::default(), bytes());
    let server = site.serve().await;
    let metadata = described(&bytes, &[format!("{}/disk", base(&server))]);
    let identifier = metadata.identifier.to_string();
    site.put("/disk", whole(bytes.clone()));
    site.put_entries(
        &identifier,
        &[signed(&metadata, &endorser("alice@example.org"))],
    );
    let policy = world.dir.path().join("policy.cfg");
    std::fs::write(&policy, "").expect("policy");
    world
        .start_with(asking(world.settings(), &[&server], Some(&policy)), None)
        .await;
    let one = wanted(&identifier);
    world.create(&one).await;
    world.until::<Image>(one.id.local(), available).await;
    std::fs::write(
        &policy,
        "[endorsers]\nblacklistendorsers = alice@example.org\n",
    )
    .expect("policy");
    let read = world.until::<Image>(one.id.local(), failed).await;
    let reason = read.reason.clone().unwrap_or_default();
    assert!(
        reason.contains("alice@example.org is blacklisted"),
        "{reason}"
    );
    std::fs::write(&policy, "[endorsers]\nblack = nonsense\n").expect("policy");
    let other = described(&[1; 4096], &[format!("{}/disk", base(&server))]);
    site.put_entries(
        &other.identifier.to_string(),
        &[signed(&other, &endorser("alice@example.org"))],
    );
    let two = wanted(&other.identifier.to_string());
    world.create(&two).await;
    world
        .until::<Image>(
            two.id.local(),
            waiting_because("policy of this site can't be read"),
        )
        .await;
    std::fs::write(&policy, "").expect("policy");
    world.until::<Image>(one.id.local(), available).await;
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_image_goes_by_another_endorser_when_the_site_refuses_the_first() {
    let mut world = World::new().await;
    let (site, bytes) = (Site::default(), bytes());
    let server = site.serve().await;
    let metadata = described(&bytes, &[format!("{}/disk", base(&server))]);
    let identifier = metadata.identifier.to_string();
    site.put("/disk", whole(bytes.clone()));
    let entries = [("alice@example.org", -60), ("bob@example.org", -120)]
        .map(|(who, ago)| signed_at(&metadata, &endorser(who), seconds_from_now(ago)));
    site.put_entries(&identifier, &entries);
    let policy = world.dir.path().join("policy.cfg");
    let refuse = |who: &str| {
        let text = format!("[endorsers]\nblacklistendorsers = {who}\n");
        std::fs::write(&policy, text).expect("policy");
    };
    refuse("");
    world
        .start_with(asking(world.settings(), &[&server], Some(&policy)), None)
        .await;
    let one = wanted(&identifier);
    world.create(&one).await;
    let by = |who: &'static str| {
        move |image: &Image| {
            let origin = image.provenance.as_ref();
            let endorser = origin.and_then(|origin| origin.endorser.as_deref());
            available(image) && endorser == Some(who)
        }
    };
    // And the Marketplaces were asked for another one in vain.
    let because = |who: &'static str| {
        move |image: &Image| {
            let reason = image.reason.as_deref().unwrap_or_default();
            let checked = image.provenance.as_ref().map(|origin| origin.checked);
            let is_asked = checked.is_some_and(|checked| checked != Timestamp::default());
            failed(image) && reason.contains(&format!("{who} is blacklisted")) && is_asked
        }
    };
    let local = one.id.local();
    world.until::<Image>(local, by("alice@example.org")).await;
    refuse("alice@example.org");
    world.until::<Image>(local, by("bob@example.org")).await;
    refuse("alice@example.org\n  bob@example.org");
    world
        .until::<Image>(local, because("bob@example.org"))
        .await;
    refuse("bob@example.org");
    world.until::<Image>(local, by("alice@example.org")).await;
    world.kill().await;
}

/// Who it is comes before what is newest: nobody but the endorser pushes out what the endorser said.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_the_future_do_not_push_out_what_an_endorser_said() {
    let mut world = World::new().await;
    let (site, bytes) = (Site::default(), bytes());
    let server = site.serve().await;
    let metadata = described(&bytes, &[format!("{}/disk", base(&server))]);
    let identifier = metadata.identifier.to_string();
    site.put("/disk", whole(bytes.clone()));
    let (alice, stranger) = (endorser("alice@example.org"), endorser("alice@example.org"));
    let good = signed_at(&metadata, &alice, seconds_from_now(-100));
    let entry = marketplace::Entry::verify(good.as_bytes()).expect("an entry");
    let early = signed_at(&metadata, &alice, seconds_from_now(86_400));
    site.put_entries(
        &identifier,
        &[early, withdrawn(&metadata, &stranger, "by me"), good],
    );
    let policy = world.dir.path().join("policy.cfg");
    let fingerprint = entry.certificate().fingerprint();
    let rule = format!("[endorsers]\nwhitelistendorsers = sha256:{fingerprint}\n");
    std::fs::write(&policy, rule).expect("policy");
    world
        .start_with(asking(world.settings(), &[&server], Some(&policy)), None)
        .await;
    let one = wanted(&identifier);
    world.create(&one).await;
    world.until::<Image>(one.id.local(), available).await;
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_marketplace_is_passed_over_when_another_one_has_the_entry() {
    let mut world = World::new().await;
    let (silent, site, bytes) = (Site::default(), Site::default(), bytes());
    let (one, two) = (silent.serve().await, site.serve().await);
    let metadata = described(&bytes, &[format!("{}/disk", base(&two))]);
    let identifier = metadata.identifier.to_string();
    site.put("/disk", whole(bytes.clone()));
    site.put_entries(
        &identifier,
        &[signed(&metadata, &endorser("a@example.org"))],
    );
    silent.put(&format!("/metadata/{identifier}"), Answer::Silence);
    world
        .start_with(asking(world.settings(), &[&one, &two], None), None)
        .await;
    let one = wanted(&identifier);
    world.create(&one).await;
    let read = world.until::<Image>(one.id.local(), available).await;
    let origin = read.provenance.as_ref().expect("an origin");
    assert_eq!(origin.found_in, "m1");
    world.kill().await;
}

/// As on a server that answers whatever is asked for with its first page.
#[tokio::test(flavor = "multi_thread")]
async fn pages_for_people_at_the_root_do_not_hide_a_marketplace_below_it() {
    let world = World::new().await;
    let (site, bytes) = (Site::default(), bytes());
    let server = site.serve().await;
    let mut metadata = described(&bytes, &[format!("{}/disk", base(&server))]);
    metadata.tag = Some("base".to_owned());
    let (identifier, tag) = (metadata.identifier, "/metadata/alice@example.org");
    let entry = signed(&metadata, &endorser("alice@example.org"));
    let page = || whole(b"<!DOCTYPE html><title>Welcome</title>".to_vec());
    let registries = asking(world.settings(), &[&server], None).registries;
    for path in [&format!("/metadata/{identifier}"), tag] {
        site.put(path, page());
    }
    // There it may be, though it isn't found: nobody says that there is no such image.
    let nowhere = registries.look_up(&identifier).await;
    assert!(nowhere.is_err_and(|why| why.to_string().contains("answered nonsense")));
    for path in [&format!("/metadata/{identifier}"), tag] {
        site.put(&format!("/marketplace{path}"), whole(entry.clone().into()));
    }
    registries.look_up(&identifier).await.expect("found");
    let tagged = registries.tagged("alice@example.org", "base").await;
    assert_eq!(
        tagged.expect("found").entry.metadata().identifier,
        identifier
    );
}

/// On a site that is open to everybody, and on one that is not; and where they send more than is read.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_do_not_crowd_out_who_counts_however_many_they_are() {
    let mut world = World::new().await;
    let (site, bytes) = (Site::default(), bytes());
    let server = site.serve().await;
    let place = |name: &str| vec![format!("{}/{name}", base(&server))];
    let (good, nowhere) = (
        described(&bytes, &place("disk")),
        described(&bytes, &place("nowhere")),
    );
    let identifier = good.identifier.to_string();
    site.put("/disk", whole(bytes.clone()));
    let stranger = |number| signed(&nowhere, &endorser(&format!("s{number}@example.org")));
    let mut entries: Vec<_> = (0..120).map(stranger).collect();
    let of_alice = signed_at(
        &good,
        &endorser("alice@example.org"),
        seconds_from_now(-100),
    );
    entries.push(of_alice.clone());
    site.put_entries(&identifier, &entries);
    let policy = world.dir.path().join("policy.cfg");
    let listed = "[endorsers]\nwhitelistendorsers = alice@example.org\n";
    let comes = async |world: &mut World, rule: &str| {
        std::fs::write(&policy, rule).expect("policy");
        let settings = asking(world.settings(), &[&server], Some(&policy));
        let controller = world.start_with(settings, None).await;
        let one = wanted(&identifier);
        world.create(&one).await;
        let read = world.until::<Image>(one.id.local(), available).await;
        let origin = read.provenance.clone().expect("an origin");
        assert_eq!(origin.endorser.as_deref(), Some("alice@example.org"));
        // Nor later: whoever says what it is, is gone by.
        assert!(
            controller
                .registries()
                .look_up(&good.identifier)
                .await
                .is_ok()
        );
        world.delete_image(one.id.local()).await;
        world.until_gone::<Image>(one.id.local()).await;
    };
    comes(&mut world, "").await;
    let asked = site.asked("/nowhere");
    assert_eq!(asked, 120, "each is tried once");
    comes(&mut world, listed).await;
    assert_eq!(site.asked("/nowhere"), asked, "nobody else counts");

    // More than is read: then only those are asked for who count.
    let long = "x".repeat(9 << 20);
    site.put_entries(&identifier, &[long]);
    let settings = asking(world.settings(), &[&server], None);
    let told = settings.registries.look_up(&good.identifier).await;
    let told = told.expect_err("too long");
    assert!(
        told.is_temporary() && told.to_string().contains("whitelistendorsers"),
        "{told}"
    );
    let own = format!("/metadata/{identifier}/alice@example.org");
    site.put(&own, whole(of_alice.into_bytes()));
    comes(&mut world, listed).await;
    assert!(site.asked(&own) > 0);
    world.kill().await;
}

/// A Marketplace in this process: what it has, as `stratusd` gives it.
#[derive(Clone, Debug, Default)]
struct Own(std::sync::Arc<parking_lot::Mutex<Vec<String>>>);

#[async_trait::async_trait]
impl crate::registry::OwnMarketplace for Own {
    async fn documents_of(
        &self,
        _: &marketplace::ImageIdentifier,
        _: Option<&str>,
        _: usize,
    ) -> Result<Vec<Vec<u8>>, crate::registry::Unread> {
        let all = self.0.lock().clone();
        Ok(all.into_iter().rev().map(String::into_bytes).collect())
    }

    fn last_taken(&self, _: &marketplace::ImageIdentifier) -> Option<marketplace::UtcTime> {
        (!self.0.lock().is_empty()).then(super::site::now)
    }

    async fn tagged(&self, _: &str, _: &str) -> Result<Option<Vec<u8>>, String> {
        Ok(None)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_own_marketplace_takes_counts_at_once_also_while_another_is_silent() {
    let mut world = World::new().await;
    let (site, bytes) = (Site::default(), bytes());
    let server = site.serve().await;
    let metadata = described(&bytes, &[format!("{}/disk", base(&server))]);
    let name = metadata.identifier.to_string();
    let alice = endorser("alice@example.org");
    site.put("/disk", whole(bytes.clone()));
    let own = Own::default();
    let before = signed_at(&metadata, &alice, seconds_from_now(-60));
    own.0.lock().push(before);
    let mut settings = asking(world.settings(), &[&server], None);
    let here = crate::registry::Marketplace::here(
        "own".to_owned(),
        "https://cloud.example.org/marketplace",
        &[],
        std::sync::Arc::new(own.clone()),
    );
    let mut all = settings.registries.marketplaces().to_vec();
    all.push(here.expect("a Marketplace"));
    settings.registries =
        crate::registry::Registries::new(all, Vec::new(), crate::registry::PolicySource::default());
    let controller = world.start_with(settings, None).await;
    let one = wanted(&name);
    world.create(&one).await;
    let local = one.id.local();
    world.until::<Image>(local, available).await;

    // The other one is away: all the same, what is withdrawn here is refused, though it was looked up a moment ago.
    site.put(
        &format!("/metadata/{name}"),
        Answer::Head("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n".to_owned()),
    );
    own.0.lock().push(withdrawn(&metadata, &alice, "a hole"));
    assert!(controller.look_again(local).await);
    let read = world.documents.images.get(local).expect("there");
    assert!(failed(&read.document.0));
    let reason = read.reason.clone().unwrap_or_default();
    assert!(reason.contains("a hole"), "{reason}");
    drop(controller);
    world.kill().await;
}
