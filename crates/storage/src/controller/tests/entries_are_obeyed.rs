//! What entries state and sites demand: compression, checksums, formats, hosts; when an image comes, and when another entry
//! takes over.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use cimi::resources::Image;
use marketplace::Metadata;

use super::site::{
    Site, asking, base, described, endorser, seconds_from_now, signed, signed_at, wanted, whole,
    withdrawn,
};
use super::states::{available, failed, numbers};
use super::world::World;
use crate::digest::Digest;

fn bytes() -> Vec<u8> {
    numbers(3 << 16)
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).expect("packed");
    packed.finish().expect("packed")
}

async fn reason(world: &World, metadata: &Metadata) -> String {
    let one = wanted(&metadata.identifier.to_string());
    world.create(&one).await;
    let read = world.until::<Image>(one.id.local(), failed).await;
    read.reason.clone().unwrap_or_default()
}

async fn content(world: &World, metadata: &Metadata) -> Vec<u8> {
    let one = wanted(&metadata.identifier.to_string());
    world.create(&one).await;
    let read = world.until::<Image>(one.id.local(), available).await;
    std::fs::read(&read.file.as_ref().expect("file").path).expect("read")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_unpacked_as_its_entry_says_and_its_first_bytes_agree() {
    let mut world = World::new().await;
    let site = Site::default();
    let server = site.serve().await;
    let alice = endorser("alice@example.org");
    let published = |name: &str, content: &[u8], file: Vec<u8>, compression: &str| {
        let mut metadata = described(content, &[format!("{}/{name}", base(&server))]);
        metadata.compression = Some(compression.to_owned());
        site.put(&format!("/{name}"), whole(file));
        site.put_entries(
            &metadata.identifier.to_string(),
            &[signed(&metadata, &alice)],
        );
        metadata
    };
    world
        .start_with(asking(world.settings(), &[&server], None), None)
        .await;
    let plain = bytes();
    let gz = published("gz", &plain, packed(&plain), "gz");
    assert!(content(&world, &gz).await == plain);
    let not_gz = published("not", &plain[1..], plain[1..].to_vec(), "gz");
    let told = reason(&world, &not_gz).await;
    assert!(told.contains("not those of this compression"), "{told}");
    let bz2 = published("bz2", &plain[2..], packed(&plain[2..]), "bz2");
    let told = reason(&world, &bz2).await;
    assert!(told.contains("its first bytes are those of gz"), "{told}");
    let unknown = published("lzma", &plain[3..], plain[3..].to_vec(), "lzma");
    let told = reason(&world, &unknown).await;
    assert!(told.contains("compression lzma"), "{told}");
    assert_eq!(site.asked("/lzma"), 0);
    // What is said not to be compressed is taken as it is if it has the length of the image, whatever it begins with.
    let as_it_is = packed(&plain[4..]);
    let none = published("none", &as_it_is, as_it_is.clone(), "none");
    assert!(content(&world, &none).await == as_it_is);
    let careless = published("careless", &plain[5..], packed(&plain[5..]), "none");
    assert!(content(&world, &careless).await == plain[5..]);
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn checksums_formats_and_hosts_are_those_that_the_site_demands() {
    let mut world = World::new().await;
    let site = Site::default();
    let server = site.serve().await;
    let alice = endorser("alice@example.org");
    let policy = world.dir.path().join("policy.cfg");
    std::fs::write(
        &policy,
        "[checksums]\nrequiredchecksums = SHA-512\n[formats]\nwhitelistformats = raw\n[hosts]\nblacklisthosts = localhost\n",
    )
    .expect("policy");
    world
        .start_with(asking(world.settings(), &[&server], Some(&policy)), None)
        .await;
    let elsewhere = base(&server).replace("127.0.0.1", "localhost");
    let made = |number: u8| {
        let mut metadata = described(
            &[number; 4096],
            &[format!("{}/disk{number}", base(&server))],
        );
        metadata.format = Some("raw".to_owned());
        site.put(&format!("/disk{number}"), whole(vec![number; 4096]));
        metadata
    };
    let publish = |metadata: &Metadata| {
        let identifier = metadata.identifier.to_string();
        site.put_entries(&identifier, &[signed(metadata, &alice)]);
    };
    let (good, mut weak, mut other, mut far) = (made(1), made(2), made(3), made(4));
    weak.checksums.sha512 = None;
    other.format = Some("qcow2".to_owned());
    far.locations = vec![format!("{elsewhere}/disk4")];
    for metadata in [&good, &weak, &other, &far] {
        publish(metadata);
    }
    for (metadata, why) in [
        (&weak, "states no SHA-512 checksum"),
        (&other, "image format qcow2 is not whitelisted"),
        (&far, "host of a location localhost is blacklisted"),
    ] {
        let told = reason(&world, metadata).await;
        assert!(told.contains(why), "`{why}` in {told}");
    }
    assert_eq!(content(&world, &good).await, [1; 4096]);
    // Of several places those are used that may be.
    let mut both = made(5);
    let here = std::mem::take(&mut both.locations);
    both.locations = vec![format!("{elsewhere}/elsewhere")];
    both.locations.extend(here);
    publish(&both);
    assert_eq!(content(&world, &both).await, [5; 4096]);
    for path in ["/disk2", "/disk3", "/disk4", "/elsewhere"] {
        assert_eq!(site.asked(path), 0, "{path}");
    }
    world.kill().await;
}

/// SHA-1 alone lets another content in; who states more is believed over it.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_takes_over_must_be_of_the_content_that_is_cached() {
    let mut world = World::new().await;
    let (site, bytes) = (Site::default(), bytes());
    let server = site.serve().await;
    let place = format!("{}/disk", base(&server));
    let full = described(&bytes, std::slice::from_ref(&place));
    let identifier = full.identifier.to_string();
    let mut weak = full.clone();
    (weak.checksums.md5, weak.checksums.sha256) = (None, None);
    weak.checksums.sha512 = None;
    let (alice, bob) = (endorser("alice@example.org"), endorser("bob@example.org"));
    let first = signed_at(&weak, &alice, seconds_from_now(-100));
    site.put("/disk", whole(bytes.clone()));
    site.put_entries(&identifier, std::slice::from_ref(&first));
    let mut settings = asking(world.settings(), &[&server], None);
    settings.entries_fresh = Duration::ZERO;
    let controller = world.start_with(settings, None).await;
    let one = wanted(&identifier);
    world.create(&one).await;
    let local = one.id.local();
    let read = world.until::<Image>(local, available).await;
    let file = read.file.clone().expect("file");
    assert_eq!(file.digests.sha512, None, "nobody asked for it");
    let endorsed_by = |email: &'static str| {
        move |image: &Image| {
            let origin = image.provenance.as_ref();
            available(image)
                && origin.is_some_and(|origin| origin.endorser.as_deref() == Some(email))
        }
    };

    // The same content, with sums that have to be computed: not while somebody waits, but then.
    let second = signed_at(&full, &bob, seconds_from_now(-50));
    site.put_entries(&identifier, &[first.clone(), second.clone()]);
    controller.look_again(local).await;
    world
        .until::<Image>(local, endorsed_by("bob@example.org"))
        .await;

    // Another one.
    let mut wrong = full.clone();
    wrong.checksums.sha512 = Some(Digest::from_bytes([7; 64]));
    let carol = endorser("carol@example.org");
    let third = signed_at(&wrong, &carol, seconds_from_now(-20));
    // A stranger to the content says something else of it: who said what it is, is gone by.
    site.put_entries(&identifier, &[first, second.clone(), third.clone()]);
    assert!(controller.look_again(local).await);
    let read = world.documents.images.get(local).expect("there");
    assert!(endorsed_by("bob@example.org")(&read.document.0), "{read:?}");
    // Nobody else vouches for it any more.
    site.put_entries(&identifier, &[third]);
    controller.look_again(local).await;
    let read = world.until::<Image>(local, failed).await;
    let told = read.reason.clone().unwrap_or_default();
    assert!(
        told.contains("the entry of carol@example.org says: SHA-512 mismatch"),
        "{told}"
    );
    let origin = read.provenance.as_ref().expect("origin");
    assert_eq!(origin.endorser.as_deref(), Some("bob@example.org"));
    assert!(PathBuf::from(file.path).exists());
    // The entry that it has is good, which changes nothing.
    controller.step_image(local).await.expect("a step");
    let read = world.documents.images.get(local).expect("there");
    assert!(failed(&read.document.0), "{read:?}");

    // It is thought better of.
    site.put_entries(&identifier, &[second]);
    world
        .edit::<Image>(local, |image| {
            let origin = image.provenance.as_mut().expect("origin");
            origin.checked = cimi::Timestamp::default();
        })
        .await;
    world.until::<Image>(local, available).await;
    drop(controller);
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_its_endorser_withdrew_stays_so_though_the_entry_that_was_kept_is_good() {
    let mut world = World::new().await;
    let (site, bytes) = (Site::default(), bytes());
    let server = site.serve().await;
    let metadata = described(&bytes, &[format!("{}/disk", base(&server))]);
    let identifier = metadata.identifier.to_string();
    let alice = endorser("alice@example.org");
    site.put("/disk", whole(bytes));
    site.put_entries(&identifier, &[signed(&metadata, &alice)]);
    let mut settings = asking(world.settings(), &[&server], None);
    settings.entries_fresh = Duration::ZERO;
    let controller = world.start_with(settings, None).await;
    let one = wanted(&identifier);
    world.create(&one).await;
    let local = one.id.local();
    world.until::<Image>(local, available).await;
    site.put_entries(&identifier, &[withdrawn(&metadata, &alice, "a hole")]);
    assert!(controller.look_again(local).await);
    for _ in 0..3 {
        controller.step_image(local).await.expect("a step");
        let read = world.documents.images.get(local).expect("there");
        assert!(failed(&read.document.0), "{read:?}");
    }
    // Endorsed again: that is seen without anybody's help.
    site.put_entries(&identifier, &[signed(&metadata, &alice)]);
    controller.step_image(local).await.expect("a step");
    world.until::<Image>(local, available).await;
    drop(controller);
    world.kill().await;
}
