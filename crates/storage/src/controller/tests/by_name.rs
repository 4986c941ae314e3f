//! Images by the identifiers of Marketplaces: found, judged, fetched once, and never wrong.

use std::io::Write as _;
use std::sync::Arc;

use cimi::resources::{Image, ImageSource, ImageState, Volume, VolumeState};
use tokio::sync::Notify;

use super::site::{
    Site, absent, asking, base, described, endorser, seconds_from_now, signed, signed_at, wanted,
    whole, withdrawn,
};
use super::states::{available, failed, numbers, waiting_because};
use super::web_server::Answer;
use super::world::{World, image, names, volume};

fn bytes() -> Vec<u8> {
    numbers(3 << 16)
}

fn nothing_is_left(world: &World) {
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
async fn of_several_endorsers_the_last_one_accepted_counts_also_of_several_marketplaces() {
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
    for (rule, endorser, marketplace) in [
        ("", "carol@example.org", "m1"),
        (
            "[endorsers]\nblacklistendorsers = carol@example.org\n",
            "bob@example.org",
            "m0",
        ),
        (
            "[endorsers]\nwhitelistendorsers = alice@example.org\n",
            "alice@example.org",
            "m0",
        ),
    ] {
        std::fs::write(&policy, rule).expect("policy");
        world
            .start_with(asking(world.settings(), &[&one, &two], Some(&policy)), None)
            .await;
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
    let unknown = controller.entry_in_time(&identifier).await;
    assert!(
        unknown.is_err_and(|why| !why.is_temporary()),
        "nobody has it"
    );
    site.put_entries(&name, &[signed(&metadata, &alice)]);
    controller
        .entry_in_time(&identifier)
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
            .entry_in_time(&identifier)
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
    drop(absent());
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
