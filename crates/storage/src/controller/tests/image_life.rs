use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cimi::common::USER_ROLE;
use cimi::resources::{Image, ImageSource, ImageState, Job, JobGoal, MediumFormat, Resource as _};
use cimi::{Acl, Right, Timestamp};
use tokio::sync::Notify;

use super::super::FindingKind;
use super::states::{available, failed};
use super::web_server::{Answer, WebServer};
use super::world::{World, image, names};
use crate::inspect::Format;
use crate::{Durability, Error, qcow2};

fn from(server: &WebServer) -> ImageSource {
    ImageSource::Url {
        url: server.url.clone(),
    }
}

async fn serving(bytes: Vec<u8>) -> WebServer {
    let bytes = Arc::new(bytes);
    WebServer::start(move |_| Answer::Body {
        bytes: bytes.clone(),
        etag: "one",
        ranges: true,
        at_most: usize::MAX,
    })
    .await
}

fn path_of(image: &Image) -> PathBuf {
    image.file.as_ref().expect("file").path.clone().into()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path)
        .expect("metadata")
        .permissions()
        .mode()
        & 0o777
}

/// A disk that compresses, and not to nothing.
fn disk() -> Vec<u8> {
    (0..3_u32 << 18)
        .flat_map(|n| (n / 7).to_le_bytes())
        .collect()
}

/// What a program makes of the bytes, or nothing if it isn't here.
fn piped(program: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    let child = Command::new(program)
        .args(["-c", "-q"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("skipped: no {program}");
        return None;
    };
    let mut input = child.stdin.take().expect("piped");
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&bytes));
    let output = child.wait_with_output().expect("output");
    writer.join().expect("writer").expect("write");
    assert!(output.status.success());
    Some(output.stdout)
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_and_compressed_images_become_the_same_file_which_the_last_document_takes_along() {
    let mut world = World::new().await;
    let controller = world.start().await;
    let raw = disk();
    let mut forms = vec![raw.clone()];
    forms.extend(
        ["gzip", "xz", "zstd"]
            .iter()
            .filter_map(|program| piped(program, &raw)),
    );
    let mut images = Vec::new();
    for (owner, bytes) in ["alice", "bob", "carol", "dave"].into_iter().zip(forms) {
        let server = serving(bytes).await;
        let mut wanted = image(from(&server), "IMAGE");
        wanted.common.acl = Acl::owned_by_user(owner);
        world.create(&wanted).await;
        let read = world.until::<Image>(wanted.id.local(), available).await;
        assert_eq!(read.progress, Some(100));
        let file = read.file.clone().expect("file");
        assert_eq!(file.format, MediumFormat::Raw);
        assert_eq!(file.virtual_size.0, raw.len() as u64);
        assert_eq!(file.digests.bytes, Some(raw.len() as u64));
        assert!(file.digests.sha1.is_some() && file.digests.sha256.is_some());
        images.push(read.document.0.clone());
    }
    let path = path_of(&images[0]);
    assert!(images.iter().all(|image| path_of(image) == path));
    assert!(std::fs::read(&path).expect("read") == raw);
    assert_eq!(mode(&path), 0o400);
    let last = images.pop().expect("one at least");
    for image in &images {
        world.delete_image(image.id.local()).await;
        world.until_gone::<Image>(image.id.local()).await;
        assert!(path.exists());
    }
    world.delete_image(last.id.local()).await;
    world.until_gone::<Image>(last.id.local()).await;
    World::eventually("the file goes", || !path.exists()).await;
    assert_eq!(world.events(&last.key()), ["AVAILABLE", "DELETED"]);
    assert_eq!(controller.audit().await.expect("audit"), []);
    drop(controller);
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_owner_has_already_is_the_same_image_and_others_have_their_own() {
    let mut world = World::new().await;
    let controller = world.start().await;
    let content = || futures::stream::iter([Ok(Bytes::from(disk()))]);
    let first = image(ImageSource::Upload, "IMAGE");
    world.create(&first).await;
    controller
        .take(&first, None, content())
        .await
        .expect("taken");

    // The same again, for everybody this time, with somebody who waits for it.
    let mut again = image(ImageSource::Upload, "IMAGE");
    again.common.acl = again
        .common
        .acl
        .clone()
        .allowing_role(USER_ROLE, Right::View);
    let job = Job::creation(
        Image::COLLECTION.to_owned(),
        again.key(),
        JobGoal::Available,
        again.common.acl.clone(),
        Timestamp::now(),
    );
    world.create(&again).await;
    world.create(&job).await;
    controller
        .take(&again, None, content())
        .await
        .expect("taken, and known");
    world.until_gone::<Image>(again.id.local()).await;
    let read = world
        .until::<Image>(first.id.local(), |image| !image.stands_for.is_empty())
        .await;
    assert!(available(&read) && path_of(&read).exists());
    assert_eq!(read.stands_for, [again.id.clone()]);
    assert_eq!(read.common.acl.rules, again.common.acl.rules);
    let told = world.documents.jobs.get(job.id.local()).expect("a job");
    assert_eq!(told.subject(), first.key());
    assert_eq!(told.affected_resources[0].href, first.key());
    assert_eq!(world.events(&again.key()), ["DELETING", "DELETED"]);

    // Another owner's, and one that boots otherwise, are others.
    let mut bobs = image(ImageSource::Upload, "IMAGE");
    bobs.common.acl = Acl::owned_by_user("bob");
    let mut booted = image(ImageSource::Upload, "IMAGE");
    booted.kernel_arguments = Some("quiet".to_owned());
    for other in [&bobs, &booted] {
        world.create(other).await;
        controller
            .take(other, None, content())
            .await
            .expect("taken");
        let read = world.until::<Image>(other.id.local(), available).await;
        let kept = world.until::<Image>(first.id.local(), available).await;
        assert_eq!(path_of(&read), path_of(&kept));
    }

    // Each deletes their own.
    let path = path_of(&read);
    for (gone, stays) in [(&first, true), (&booted, true), (&bobs, false)] {
        world.delete_image(gone.id.local()).await;
        world.until_gone::<Image>(gone.id.local()).await;
        World::eventually("the file follows", || path.exists() == stays).await;
    }
    drop(controller);
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_image_or_another_one_is_refused_with_the_reason() {
    let mut world = World::new().await;
    world.start().await;
    let base = world.dir.path().join("overlay");
    let secret = Some(qcow2::Backing {
        path: Path::new("/etc/shadow"),
        format: Format::Raw,
    });
    qcow2::create(&base, 1 << 20, secret, Durability::Cached).expect("overlay");
    let hostile = serving(std::fs::read(&base).expect("read")).await;
    let refused = image(from(&hostile), "IMAGE");
    let plain = serving(disk()).await;
    let mut other = image(from(&plain), "IMAGE");
    other.desired.expected.sha1 = Some("0".repeat(40));
    let mut nonsense = image(from(&plain), "IMAGE");
    nonsense.desired.expected.sha256 = Some("short".to_owned());
    for (wanted, reason) in [
        (refused, "backing file"),
        (other, "SHA-1 mismatch"),
        (nonsense, "expected SHA-256 short"),
    ] {
        world.create(&wanted).await;
        let read = world.until::<Image>(wanted.id.local(), failed).await;
        assert!(
            read.reason
                .as_deref()
                .is_some_and(|text| text.contains(reason)),
            "{:?}",
            read.reason
        );
        assert!(read.file.is_none());
        assert_eq!(world.events(&wanted.key()), ["ERROR"]);
    }
    for store in ["disks", "files"] {
        let cache = world.storage_dir().join("cache").join(store);
        assert!(
            names(&cache.join("images")).is_empty() && names(&cache.join("incoming")).is_empty()
        );
    }

    // A good qcow2 is kept as it is.
    qcow2::create(
        &world.dir.path().join("good"),
        1 << 30,
        None,
        Durability::Cached,
    )
    .expect("qcow2");
    let good = serving(std::fs::read(world.dir.path().join("good")).expect("read")).await;
    let wanted = image(from(&good), "IMAGE");
    world.create(&wanted).await;
    let read = world.until::<Image>(wanted.id.local(), available).await;
    let file = read.file.clone().expect("file");
    assert_eq!(
        (file.format, file.virtual_size.0),
        (MediumFormat::Qcow2, 1 << 30)
    );
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_image_twice_at_once_is_fetched_once_and_its_progress_seen() {
    let mut world = World::new().await;
    world.start().await;
    let bytes = Arc::new(disk());
    let gate = Arc::new(Notify::new());
    let half = bytes.len() / 2;
    let server = WebServer::start({
        let (bytes, gate) = (bytes.clone(), gate.clone());
        move |n| {
            let body = |at_most| Answer::Body {
                bytes: bytes.clone(),
                etag: "one",
                ranges: true,
                at_most,
            };
            if n == 0 {
                body(half)
            } else {
                Answer::After(gate.clone(), Box::new(body(usize::MAX)))
            }
        }
    })
    .await;
    let mut pair = [image(from(&server), "IMAGE"), image(from(&server), "IMAGE")];
    pair[1].common.acl = Acl::owned_by_user("bob");
    for wanted in &pair {
        world.create(wanted).await;
    }
    for wanted in &pair {
        let seen = world
            .until::<Image>(wanted.id.local(), |image| {
                image.progress.is_some_and(|percent| percent >= 40)
            })
            .await;
        assert!(
            seen.progress.is_some_and(|percent| percent <= 50),
            "{:?}",
            seen.progress
        );
        assert_eq!(seen.state, ImageState::Creating);
    }
    gate.notify_one();
    let mut paths = Vec::new();
    for wanted in &pair {
        paths.push(path_of(
            &world
                .until::<Image>(wanted.id.local(), available)
                .await
                .document
                .0,
        ));
    }
    assert_eq!(paths[0], paths[1]);
    // One download, taken up again once.
    assert_eq!(server.requests.load(std::sync::atomic::Ordering::SeqCst), 2);
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_ends_when_its_image_is_deleted() {
    let mut world = World::new().await;
    world.start().await;
    let server = WebServer::start(|_| Answer::Silence).await;
    let wanted = image(from(&server), "IMAGE");
    world.create(&wanted).await;
    World::eventually("asked", || {
        server.requests.load(std::sync::atomic::Ordering::SeqCst) > 0
    })
    .await;
    world.delete_image(wanted.id.local()).await;
    world.until_gone::<Image>(wanted.id.local()).await;
    World::eventually("swept", || {
        names(&world.storage_dir().join("cache/disks/incoming")).is_empty()
    })
    .await;
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kernels_are_kept_byte_by_byte_and_readable() {
    let mut world = World::new().await;
    world.start().await;
    let Some(initrd) = piped("gzip", b"an archive of a kind") else {
        return;
    };
    let server = serving(initrd.clone()).await;
    let wanted = image(from(&server), "FILE");
    world.create(&wanted).await;
    let path = path_of(
        &world
            .until::<Image>(wanted.id.local(), available)
            .await
            .document
            .0,
    );
    assert_eq!(std::fs::read(&path).expect("read"), initrd);
    assert_eq!(mode(&path), 0o444);
    let mut above = path.parent();
    while let Some(dir) = above.filter(|dir| *dir != world.dir.path()) {
        assert_eq!(mode(dir) & 0o001, 0o001, "{}", dir.display());
        above = dir.parent();
    }
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_any_two_steps_of_an_image_is_cured() {
    for place in [
        "image: in the cache, not told",
        "image: in the cache and told",
    ] {
        let mut world = World::new().await;
        let server = serving(disk()).await;
        let wanted = image(from(&server), "IMAGE");
        world.create(&wanted).await;
        world.crash_at(place).await;
        let controller = world.start().await;
        world.until::<Image>(wanted.id.local(), available).await;
        assert_eq!(world.events(&wanted.key()), ["AVAILABLE"], "{place}");
        assert_eq!(controller.audit().await.expect("audit"), [], "{place}");
        drop(controller);
        world.kill().await;
    }
    for place in [
        "image: before it is removed",
        "image: marked, document there",
        "image: document gone, file there",
        "image: file gone, mark there",
    ] {
        let mut world = World::new().await;
        let server = serving(disk()).await;
        let wanted = image(from(&server), "IMAGE");
        world.create(&wanted).await;
        world.start().await;
        world.until::<Image>(wanted.id.local(), available).await;
        world.kill().await;
        world.delete_image(wanted.id.local()).await;
        world.crash_at(place).await;
        let controller = world.start().await;
        world.until_gone::<Image>(wanted.id.local()).await;
        let storage = world.storage_dir();
        World::eventually(place, || {
            names(&storage.join("cache/disks/images")).is_empty()
                && names(&storage.join("unwanted")).is_empty()
        })
        .await;
        assert_eq!(
            world.events(&wanted.key()),
            ["AVAILABLE", "DELETED"],
            "{place}"
        );
        drop(controller);
        world.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_stays_while_a_quarantined_disk_stands_on_it() {
    let mut world = World::new().await;
    let controller = world.start().await;
    let server = serving(disk()).await;
    let wanted = image(from(&server), "IMAGE");
    world.create(&wanted).await;
    let path = path_of(
        &world
            .until::<Image>(wanted.id.local(), available)
            .await
            .document
            .0,
    );
    let quarantine = world.dir.path().join("quarantine");
    std::fs::create_dir(&quarantine).expect("directory");
    let overlay = quarantine.join("root.qcow2");
    let backing = Some(qcow2::Backing {
        path: &path,
        format: Format::Raw,
    });
    qcow2::create(&overlay, 1 << 30, backing, Durability::Cached).expect("overlay");
    world.delete_image(wanted.id.local()).await;
    world.until_gone::<Image>(wanted.id.local()).await;
    controller.sweep_unwanted().await.expect("sweep");
    assert!(path.exists());
    // It is no finding: it goes by itself.
    assert_eq!(controller.audit().await.expect("audit"), []);
    std::fs::remove_file(&overlay).expect("purge");
    World::eventually("the file goes", || !path.exists()).await;
    drop(controller);
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_files_and_unknown_ones_are_found() {
    let mut world = World::new().await;
    world.start().await;
    let server = serving(disk()).await;
    let wanted = image(from(&server), "IMAGE");
    world.create(&wanted).await;
    let read = world.until::<Image>(wanted.id.local(), available).await;
    let path = path_of(&read);
    world.kill().await;

    // The database lost the document: the file stays until somebody decides.
    world
        .documents
        .changes()
        .remove(&read)
        .commit()
        .await
        .expect("remove");
    let controller = world.start().await;
    controller.sweep_unwanted().await.expect("sweep");
    let findings = controller.audit().await.expect("audit");
    assert_eq!(
        findings.iter().map(|f| f.kind).collect::<Vec<_>>(),
        [FindingKind::CachedImageWithoutDocument]
    );
    assert!(path.exists());
    controller.repair().await.expect("repair");
    assert!(!path.exists());
    drop(controller);

    let again = image(from(&server), "IMAGE");
    world.create(&again).await;
    world.until::<Image>(again.id.local(), available).await;
    world.kill().await;
    std::fs::remove_dir_all(path.parent().expect("directory")).expect("remove");
    world.start().await;
    let lost = world.until::<Image>(again.id.local(), failed).await;
    assert!(
        lost.reason
            .as_deref()
            .is_some_and(|reason| reason.contains("is gone")),
        "{:?}",
        lost.reason
    );
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_are_taken_once_and_told_when_they_break_off() {
    let mut world = World::new().await;
    let controller = world.start().await;
    let content = |parts: Vec<std::io::Result<Bytes>>| futures::stream::iter(parts);
    let whole = || vec![Ok(Bytes::from(disk()))];

    let good = image(ImageSource::Upload, "IMAGE");
    world.create(&good).await;
    controller
        .take(&good, None, content(whole()))
        .await
        .expect("taken");
    assert!(
        world
            .documents
            .images
            .get(good.id.local())
            .is_some_and(|image| available(&image))
    );
    assert!(matches!(
        controller.take(&good, None, content(whole())).await,
        Err(Error::Invalid { .. })
    ));

    let broken = image(ImageSource::Upload, "IMAGE");
    world.create(&broken).await;
    let parts = vec![
        Ok(Bytes::from(vec![7; 100_000])),
        Err(std::io::Error::other("connection lost")),
    ];
    let error = controller
        .take(&broken, Some(1 << 20), content(parts))
        .await
        .expect_err("broken off");
    let read = world.until::<Image>(broken.id.local(), failed).await;
    assert_eq!(
        read.reason.as_deref(),
        Some(
            "the upload broke off after 100000 of 1048576 bytes: connection lost; create the image anew and send its content again"
        )
    );
    assert!(error.to_string().contains("connection lost"), "{error}");
    drop(controller);

    // The daemon ends in the middle of one, while another has not begun.
    let (begun, mut waiting) = (
        image(ImageSource::Upload, "IMAGE"),
        image(ImageSource::Upload, "IMAGE"),
    );
    waiting.common.acl = Acl::owned_by_user("bob");
    world.create(&begun).await;
    world.create(&waiting).await;
    let controller = world
        .start_with(world.settings(), Some("upload: begun"))
        .await;
    let taking = tokio::spawn({
        let (controller, begun) = (controller.clone(), begun.clone());
        async move {
            controller
                .take(&begun, None, futures::stream::pending())
                .await
        }
    });
    controller.stopped().await;
    drop(controller);
    let ended = async {
        world.kill().await;
        taking.await
    };
    assert!(matches!(
        ended.await.expect("joined"),
        Err(Error::Cancelled)
    ));
    let controller = world.start().await;
    let read = world.until::<Image>(begun.id.local(), failed).await;
    assert!(
        read.reason
            .as_deref()
            .is_some_and(|reason| reason.contains("interrupted")),
        "{:?}",
        read.reason
    );
    controller
        .take(&waiting, None, content(whole()))
        .await
        .expect("taken");
    drop(controller);

    let forgotten = image(ImageSource::Upload, "IMAGE");
    world.create(&forgotten).await;
    let mut settings = world.settings();
    settings.upload_patience = Duration::from_millis(1);
    world.start_with(settings, None).await;
    let read = world.until::<Image>(forgotten.id.local(), failed).await;
    assert!(
        read.reason
            .as_deref()
            .is_some_and(|reason| reason.contains("no content")),
        "{:?}",
        read.reason
    );
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_owner_leaves_places_to_others() {
    let mut world = World::new().await;
    world.start().await;
    let silent = WebServer::start(|_| Answer::Silence).await;
    let good = serving(disk()).await;
    for number in 0..8 {
        let url = format!("{}{number}", silent.url);
        world
            .create(&image(ImageSource::Url { url }, "IMAGE"))
            .await;
    }
    let mut other = image(from(&good), "IMAGE");
    other.common = cimi::Common::new(cimi::Acl::owned_by_user("bob"), cimi::Timestamp::now());
    world.create(&other).await;
    world.until(other.id.local(), available).await;
    let asked = || silent.requests.load(std::sync::atomic::Ordering::SeqCst);
    World::eventually("two of hers ask", || asked() >= 2).await;
    assert_eq!(asked(), 2, "and no more");
}
