//! Images made of the disks of machines, whatever happens on the way.

use std::fs::Permissions;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cimi::lifecycle::{EndCause, Power, Stage};
use cimi::resources::{
    Capture, Image, ImageFile, ImageSource, ImageState, Machine, MediumFormat, Resource as _,
};
use cimi::{Ref, Timestamp};

use sha2::{Digest as _, Sha256};

use super::super::Settings;
use super::web_server::{Answer, WebServer};
use super::world::{World, image};
use crate::digest::Digest;
use crate::inspect::Format;
use crate::{Durability, qcow2};

/// A machine on an image, with something of its own on its disk, and the image it becomes.
pub(super) struct Saved {
    pub(super) machine: Machine,
    pub(super) image: Image,
    pub(super) overlay: PathBuf,
}

fn qemu_io(arguments: &[&str]) -> bool {
    let output = Command::new("qemu-io").args(arguments).output();
    match output {
        Err(error) => {
            eprintln!("skipped: cannot run qemu-io: {error} (Debian: qemu-utils)");
            false
        }
        Ok(output) => {
            assert!(output.status.success(), "{output:?}");
            true
        }
    }
}

pub(super) fn settings(world: &World) -> Settings {
    Settings {
        machines_dir: Some(world.dir.path().join("machines")),
        ..world.settings()
    }
}

/// A machine that is shut down to be saved and still runs; none if QEMU's tools aren't here.
pub(super) async fn saved(world: &mut World) -> Option<Saved> {
    saved_from(world, b"").await
}

/// The same; its disk begins like this.
async fn saved_from(world: &mut World, beginning: &[u8]) -> Option<Saved> {
    let mut raw: Vec<u8> = (0..2_u32 << 18)
        .flat_map(|n| (n / 5).to_le_bytes())
        .collect();
    raw[..beginning.len()].copy_from_slice(beginning);
    let server = WebServer::start(move |_| Answer::Body {
        bytes: std::sync::Arc::new(raw.clone()),
        etag: "one",
        ranges: true,
        at_most: usize::MAX,
    })
    .await;
    let origin = image(
        ImageSource::Url {
            url: server.url.clone(),
        },
        "IMAGE",
    );
    world.start_with(settings(world), None).await;
    world.create(&origin).await;
    let origin = world
        .until::<Image>(origin.id.local(), |image| {
            image.state == ImageState::Available
        })
        .await;
    world.kill().await;
    let mut machine = cimi::testing::machine(7);
    machine.image = Some(Ref::to(origin.id.clone()));
    machine.first_started = Some(Timestamp::now());
    machine.desired.deleted = true;
    machine.desired.graceful = true;
    machine.observed.stage = Stage::Running;
    machine.observed.run = 1;
    let host = cimi::testing::host();
    machine.host = Some(host.id.clone());
    world.create(&host).await;
    let capture = Capture {
        machine: machine.id.clone(),
        vmid: machine.vmid,
        origin: origin.id.clone(),
        origin_identifier: origin.identifier().map(str::to_owned),
        disk_bytes: None,
        save: None,
    };
    let image = image(ImageSource::Machine(capture), "IMAGE");
    machine.saved_as = Some(Ref::to(image.id.clone()));
    machine.settle();
    let folder = world.dir.path().join("machines").join(machine.id.local());
    std::fs::create_dir_all(&folder).expect("folder");
    let overlay = folder.join("root.qcow2");
    let file = origin.file.as_ref().expect("file");
    let backing = qcow2::Backing {
        path: Path::new(&file.path),
        format: Format::Raw,
    };
    qcow2::create(
        &overlay,
        file.virtual_size.0,
        Some(backing),
        Durability::Cached,
    )
    .expect("overlay");
    let path = overlay.to_str().expect("text");
    if !qemu_io(&["-f", "qcow2", "-c", "write -P 9 64k 128k", path]) {
        return None;
    }
    world.create(&machine).await;
    world.create(&image).await;
    Some(Saved {
        machine,
        image,
        overlay,
    })
}

/// The machine's host reports that it is off.
pub(super) async fn ended(world: &World, saved: &Saved) {
    world
        .edit::<Machine>(saved.machine.local_id(), |machine| {
            machine.observed.stage = Stage::Ended {
                cause: EndCause::Requested,
            };
            machine.settle();
        })
        .await;
}

/// The daemon runs until it comes to this place, and no further.
pub(super) async fn dies_at(world: &mut World, settings: Settings, place: &'static str) {
    let controller = world.start_with(settings, Some(place)).await;
    tokio::time::timeout(std::time::Duration::from_secs(60), controller.stopped())
        .await
        .unwrap_or_else(|_| panic!("`{place}` is not reached"));
    drop(controller);
    world.kill().await;
}

fn same_disk(one: &Path, other: &Path) -> bool {
    let output = Command::new("qemu-img")
        .args(["compare", "-q", "-f", "qcow2", "-F", "qcow2"])
        .args([one, other])
        .output();
    output.expect("qemu-img").status.success()
}

fn is_proven(image: &Image) -> bool {
    image.file.as_ref().is_some_and(ImageFile::is_proven)
}

pub(super) async fn is_saved(world: &World, saved: &Saved) {
    let image = world
        .until::<Image>(saved.image.local_id(), |image| {
            image.state != ImageState::Creating
        })
        .await;
    assert_eq!(image.state, ImageState::Available, "{:?}", image.reason);
    let file = image.file.clone().expect("file");
    assert_eq!(file.format, MediumFormat::Qcow2);
    assert!(same_disk(Path::new(&file.path), &saved.overlay));
    let proven = world
        .until::<Image>(saved.image.local_id(), is_proven)
        .await;
    let content = std::fs::read(&file.path).expect("readable");
    let sha256 = Digest::from_bytes(Sha256::digest(content).into()).to_string();
    let told = proven.file.clone().expect("file").digests;
    assert_eq!(told.sha256, Some(sha256));
    assert_eq!(world.events(&image.id.to_string()), ["AVAILABLE"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_saved_as_soon_as_it_is_off_and_not_before() {
    let mut world = World::new().await;
    let Some(saved) = saved(&mut world).await else {
        return;
    };
    world.start_with(settings(&world), None).await;
    // What was asked for later is done.
    let later = image(
        ImageSource::Url {
            url: "http://127.0.0.1:1/".to_owned(),
        },
        "IMAGE",
    );
    world.create(&later).await;
    world
        .until::<Image>(later.id.local(), |image| image.reason.is_some())
        .await;
    let before = world
        .documents
        .images
        .get(saved.image.local_id())
        .expect("there");
    assert_eq!(before.state, ImageState::Creating, "it still runs");
    ended(&world, &saved).await;
    is_saved(&world, &saved).await;
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_the_daemon_ends_the_image_is_made_once_and_whole() {
    for place in [
        "save: before the disk is merged",
        "image: in the cache, not told",
        "image: in the cache and told",
        "image: proven, not told",
    ] {
        let mut world = World::new().await;
        let Some(saved) = saved(&mut world).await else {
            return;
        };
        ended(&world, &saved).await;
        let at_work = settings(&world);
        dies_at(&mut world, at_work, place).await;
        assert!(saved.overlay.exists(), "{place}: the disk is only read");
        world.start_with(settings(&world), None).await;
        is_saved(&world, &saved).await;
        world.kill().await;
        assert!(
            super::world::names(&world.storage_dir().join("cache/disks/incoming")).is_empty(),
            "{place}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_before_it_is_proven_is_told_and_never_proven() {
    let mut world = World::new().await;
    let Some(saved) = saved(&mut world).await else {
        return;
    };
    ended(&world, &saved).await;
    let at_work = settings(&world);
    dies_at(&mut world, at_work, "image: in the cache and told").await;
    let local = saved.image.local_id();
    let there = world.documents.images.get(local).expect("there");
    assert!(!is_proven(&there), "nothing waited for that");
    let path = PathBuf::from(&there.file.as_ref().expect("file").path);
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("writable");
    let file = std::fs::OpenOptions::new().write(true).open(&path);
    let length = std::fs::metadata(&path).expect("there").len();
    file.and_then(|file| file.write_all_at(b"!", length - 1))
        .expect("written");
    world.start_with(settings(&world), None).await;
    let is_told = |image: &Image| {
        let reason = image.reason.as_deref().unwrap_or_default();
        image.state == ImageState::Error && reason.contains("isn't what was written")
    };
    let told = world.until::<Image>(local, is_told).await;
    assert!(!is_proven(&told));
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_the_daemon_ends_it_is_told_what_could_not_be_cleaned() {
    for place in [
        "save: before the disk is merged",
        "save: uncleaned and told",
        "image: in the cache, not told",
        "image: in the cache and told",
    ] {
        let mut world = World::new().await;
        let Some(saved) = saved_from(&mut world, b"XFSB").await else {
            return;
        };
        ended(&world, &saved).await;
        let at_work = settings(&world);
        dies_at(&mut world, at_work, place).await;
        let local = saved.image.local_id();
        let left = world.documents.images.get(local).expect("there");
        assert!(
            left.state != ImageState::Available || left.warning().is_some(),
            "{place}: nobody sees it without the warning"
        );
        world.start_with(settings(&world), None).await;
        is_saved(&world, &saved).await;
        let told = world.documents.images.get(local).expect("there");
        let reason = told.reason.clone().unwrap_or_default();
        assert!(
            told.uncleaned.len() == 1 && reason.contains("XFS"),
            "{place}: {:?} {reason}",
            told.uncleaned
        );
        world.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_space_the_machine_waits_and_is_saved_when_there_is_some() {
    let mut world = World::new().await;
    let Some(saved) = saved(&mut world).await else {
        return;
    };
    ended(&world, &saved).await;
    let mut full = settings(&world);
    full.cache_bytes = Some(1);
    world.start_with(full, None).await;
    let waits = world
        .until::<Image>(saved.image.local_id(), |image| image.reason.is_some())
        .await;
    assert_eq!(waits.state, ImageState::Creating, "{:?}", waits.reason);
    assert!(
        waits
            .reason
            .as_deref()
            .unwrap_or_default()
            .contains("image cache"),
        "{:?}",
        waits.reason
    );
    world.start_with(settings(&world), None).await;
    is_saved(&world, &saved).await;
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_gone_is_named_and_not_waited_for_without_end() {
    for is_put_back in [true, false] {
        let mut world = World::new().await;
        let Some(saved) = saved(&mut world).await else {
            return;
        };
        ended(&world, &saved).await;
        let aside = saved.overlay.with_extension("aside");
        std::fs::rename(&saved.overlay, &aside).expect("renamed");
        let mut settings = settings(&world);
        settings.fetch_pause = Duration::from_millis(20);
        settings.fetch_tries = if is_put_back { 16 } else { 3 };
        world.start_with(settings, None).await;
        let named = |image: &Image| {
            let reason = image.reason.as_deref().unwrap_or_default();
            reason.contains("root.qcow2") && reason.contains("put the machine's root disk back")
        };
        world.until::<Image>(saved.image.local_id(), named).await;
        if is_put_back {
            std::fs::rename(&aside, &saved.overlay).expect("renamed");
            is_saved(&world, &saved).await;
        } else {
            let ended = world
                .until::<Image>(saved.image.local_id(), |image| {
                    image.state == ImageState::Error
                })
                .await;
            let reason = ended.reason.clone().unwrap_or_default();
            assert!(named(&ended), "{reason}");
            assert!(reason.ends_with("given up after 3 tries"), "{reason}");
        }
        world.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_out_of_reach_for_now_is_waited_for() {
    let mut world = World::new().await;
    let Some(saved) = saved(&mut world).await else {
        return;
    };
    ended(&world, &saved).await;
    let folder = saved.overlay.parent().expect("folder");
    let machines = folder.parent().expect("the folder of machines");
    let aside = machines.with_extension("aside");
    let mut settings = settings(&world);
    settings.fetch_tries = 1;
    // As when what machines are on isn't mounted; and when the file system doesn't let it be opened (ELOOP).
    for unmounted in [true, false] {
        let (from, to) = match unmounted {
            true => (machines, aside.clone()),
            false => (&*saved.overlay, saved.overlay.with_extension("aside")),
        };
        std::fs::rename(from, &to).expect("renamed");
        if !unmounted {
            std::os::unix::fs::symlink(from, from).expect("linked");
        }
        let clear = |image: &mut Image| image.reason = None;
        world.edit::<Image>(saved.image.local_id(), clear).await;
        world.start_with(settings.clone(), None).await;
        let waits = world
            .until::<Image>(saved.image.local_id(), |image| image.reason.is_some())
            .await;
        assert_eq!(waits.state, ImageState::Creating, "{:?}", waits.reason);
        let reason = waits.reason.clone().unwrap_or_default();
        assert!(reason.contains("root.qcow2"), "{reason}");
        world.kill().await;
        if !unmounted {
            std::fs::remove_file(from).expect("removed");
        }
        std::fs::rename(&to, from).expect("renamed");
    }
    world.start_with(settings, None).await;
    is_saved(&world, &saved).await;
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_killed_or_gone_leaves_no_image() {
    let mut world = World::new().await;
    let Some(saved) = saved(&mut world).await else {
        return;
    };
    world.start_with(settings(&world), None).await;
    world
        .edit::<Machine>(saved.machine.local_id(), |machine| {
            machine.desired.graceful = false;
            machine.desired.power = Power::Off;
        })
        .await;
    let image = world
        .until::<Image>(saved.image.local_id(), |image| {
            image.state == ImageState::Error
        })
        .await;
    assert!(
        image
            .reason
            .as_deref()
            .unwrap_or_default()
            .contains("was killed"),
        "{:?}",
        image.reason
    );
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_makes_no_sense_is_told_and_not_followed() {
    let mut world = World::new().await;
    let Some(saved) = saved(&mut world).await else {
        return;
    };
    // An external data file: what QEMU would open by the name that stands there.
    let mut bytes = std::fs::read(&saved.overlay).expect("read");
    bytes[79] |= 4;
    std::fs::write(&saved.overlay, &bytes).expect("write");
    ended(&world, &saved).await;
    world.start_with(settings(&world), None).await;
    let image = world
        .until::<Image>(saved.image.local_id(), |image| {
            image.state == ImageState::Error
        })
        .await;
    assert!(
        image
            .reason
            .as_deref()
            .unwrap_or_default()
            .contains("external file"),
        "{:?}",
        image.reason
    );
    world.kill().await;
}
