//! Images made of the disks of machines on other hosts, which may give anything.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cimi::resources::{Host, Image, ImageSource, ImageState, Machine, Resource as _};
use cimi::{Acl, HostId, MachineId, Ref, VmId};
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use parking_lot::Mutex;

use super::super::Settings;
use super::saved_machines::{Saved, dies_at, ended, is_saved, saved, settings};
use super::web_server::{Answer, WebServer};
use super::world::{World, image, names};
use crate::elsewhere::{DisksElsewhere, GivenDisk, NoDisk};

/// What a host does that is asked for a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gives {
    Nothing,
    Everything,
    /// Half of it, and then an error.
    BrokenOff,
    /// Half of it, and then the end.
    TooLittle,
    /// Its word that it can't read it.
    Unreadable,
    /// Half of it, and then the same.
    BadSector,
    /// Half of it, and then nothing for ever.
    Silence,
    /// More than it says, without end.
    Endless,
    /// What it says to be more than such a disk can be.
    Much,
    Emptiness,
    /// What is no disk.
    Nonsense,
    /// A disk of which a guest would see more.
    Larger,
    /// A disk whose data is in another file, which its header names.
    Reference,
}

/// A host that was taken over.
#[derive(Debug)]
struct Hostile {
    gives: Mutex<Gives>,
    asked: AtomicUsize,
    disk: PathBuf,
    of: HostId,
    machines: Mutex<Vec<MachineId>>,
}

impl DisksElsewhere for Hostile {
    fn disk<'a>(
        &'a self,
        host: &'a HostId,
        machine: &'a MachineId,
    ) -> BoxFuture<'a, Result<GivenDisk, NoDisk>> {
        assert_eq!(host, &self.of);
        assert!(self.machines.lock().contains(machine), "{machine}");
        self.asked.fetch_add(1, Ordering::Relaxed);
        let gives = *self.gives.lock();
        let mut disk = std::fs::read(&self.disk).expect("the disk");
        match gives {
            Gives::Larger => disk[24..32].copy_from_slice(&(1_u64 << 28).to_be_bytes()),
            Gives::Reference => disk[79] |= 4,
            Gives::Nonsense => disk = b"<html>".repeat(1000),
            Gives::Emptiness => disk.clear(),
            _ => {}
        }
        let half = match gives {
            Gives::BrokenOff | Gives::BadSector | Gives::TooLittle | Gives::Silence => {
                disk.len() / 2
            }
            _ => disk.len(),
        };
        let length = match gives {
            Gives::Much => u64::MAX,
            _ => disk.len() as u64,
        };
        let pieces: Vec<io::Result<Bytes>> = disk[..half]
            .chunks(7001)
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect();
        let begun = stream::iter(pieces);
        async move {
            Ok(GivenDisk {
                host: "node7".to_owned(),
                length,
                content: match gives {
                    Gives::Nothing => {
                        let why = "its host node7 can't be asked".to_owned();
                        return Err(NoDisk::NotNow(why));
                    }
                    Gives::Unreadable => return Err(unreadable()),
                    Gives::BadSector => {
                        let error = Err(io::Error::other(unreadable()));
                        begun.chain(stream::iter([error])).boxed()
                    }
                    Gives::BrokenOff => {
                        let error = Err(io::ErrorKind::ConnectionReset.into());
                        begun.chain(stream::iter([error])).boxed()
                    }
                    Gives::Silence => begun.chain(stream::pending()).boxed(),
                    Gives::Endless => {
                        let more = stream::repeat_with(|| Ok(Bytes::from(vec![7; 65536])));
                        begun.chain(more).boxed()
                    }
                    _ => begun.boxed(),
                },
            })
        }
        .boxed()
    }
}

fn unreadable() -> NoDisk {
    NoDisk::Unreadable("its host node7 can't read the machine's disk".to_owned())
}

/// A machine that is off on a host that has joined, and that host.
async fn elsewhere(world: &mut World, gives: Gives) -> Option<(Saved, Arc<Hostile>)> {
    let mut saved = saved(world).await?;
    let mut host = cimi::testing::host();
    host.desired.apart = true;
    world.create(&host).await;
    world
        .edit::<Machine>(saved.machine.local_id(), |machine| {
            machine.host = Some(host.id.clone());
            machine.settle();
        })
        .await;
    // Nothing of it is on this computer.
    let disk = world.dir.path().join("on-its-host.qcow2");
    std::fs::rename(&saved.overlay, &disk).expect("moved");
    saved.overlay.clone_from(&disk);
    ended(world, &saved).await;
    let hostile = Hostile {
        gives: Mutex::new(gives),
        asked: AtomicUsize::new(0),
        disk,
        of: host.id,
        machines: Mutex::new(vec![saved.machine.id.clone()]),
    };
    Some((saved, Arc::new(hostile)))
}

/// Another machine there that left the same disk, and belongs to somebody else.
async fn same_of(
    owner: &str,
    vmid: u32,
    (world, saved, host): (&World, &Saved, &Hostile),
) -> Saved {
    let read = world.documents.machines.get(saved.machine.local_id());
    let mut machine = read.expect("there").document.0.clone();
    machine.id = MachineId::generate();
    machine.vmid = VmId(vmid);
    machine.common.acl = Acl::owned_by_user(owner);
    let ImageSource::Machine(mut capture) = saved.image.desired.source.clone() else {
        panic!("not of a machine");
    };
    (capture.machine, capture.vmid) = (machine.id.clone(), machine.vmid);
    let mut image = image(ImageSource::Machine(capture), "IMAGE");
    image.common.acl = Acl::owned_by_user(owner);
    machine.saved_as = Some(Ref::to(image.id.clone()));
    host.machines.lock().push(machine.id.clone());
    world.create(&machine).await;
    world.create(&image).await;
    Saved {
        machine,
        image,
        overlay: saved.overlay.clone(),
    }
}

fn settings_with(world: &World, host: &Arc<Hostile>) -> Settings {
    let mut settings = settings(world);
    settings.limits.stall = Duration::from_millis(300);
    settings.disks_elsewhere = Some(Arc::<Hostile>::clone(host));
    settings
}

/// What is here of disks from elsewhere, whole or not.
fn brought(world: &World) -> Vec<String> {
    let saving = world.storage_dir().join("saving");
    let mut all = names(&saving.join("incoming"));
    all.extend(names(&saving.join("images")));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_the_daemon_ends_a_disk_from_elsewhere_is_saved_and_nothing_of_it_stays() {
    for place in [
        "save: the host gives the disk",
        "save: the disk is here",
        "save: before the disk is merged",
        "image: in the cache, not told",
        "image: in the cache and told",
    ] {
        let mut world = World::new().await;
        let Some((saved, host)) = elsewhere(&mut world, Gives::Everything).await else {
            return;
        };
        let at_work = settings_with(&world, &host);
        dies_at(&mut world, at_work, place).await;
        assert!(saved.overlay.exists(), "{place}: the disk is only read");
        let again = settings_with(&world, &host);
        world.start_with(again, None).await;
        is_saved(&world, &saved).await;
        World::eventually(place, || brought(&world).is_empty()).await;
        let saving = std::fs::metadata(world.storage_dir().join("saving")).expect("there");
        assert_eq!(saving.permissions().mode() & 0o777, 0o700);
        world.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_host_gives_the_machine_waits_until_it_gives_the_disk() {
    for (gives, told) in [
        (Gives::Nothing, "node7 can't be asked"),
        (Gives::BrokenOff, "from its host node7"),
        (Gives::TooLittle, "size in bytes mismatch"),
        (Gives::Silence, "no data of the image came"),
        (Gives::Endless, "more than"),
        (Gives::Much, "more than such a disk can be"),
        (Gives::Emptiness, "from its host node7"),
    ] {
        let mut world = World::new().await;
        let Some((saved, host)) = elsewhere(&mut world, gives).await else {
            return;
        };
        let settings = settings_with(&world, &host);
        world.start_with(settings, None).await;
        let waits = world
            .until::<Image>(saved.image.local_id(), |image| image.reason.is_some())
            .await;
        let reason = waits.reason.as_deref().unwrap_or_default();
        assert!(reason.contains(told), "{gives:?}: {reason}");
        assert_eq!(waits.state, ImageState::Creating, "{gives:?}");
        World::eventually("nothing of it", || brought(&world).is_empty()).await;
        *host.gives.lock() = Gives::Everything;
        is_saved(&world, &saved).await;
        assert!(host.asked.load(Ordering::Relaxed) > 1, "{gives:?}");
        world.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_gives_that_is_no_disk_of_the_machine_becomes_no_image() {
    for (gives, told) in [
        (Gives::Nonsense, "qcow2"),
        (Gives::Larger, "268435456"),
        (Gives::Reference, "external file"),
    ] {
        let mut world = World::new().await;
        let Some((saved, host)) = elsewhere(&mut world, gives).await else {
            return;
        };
        let settings = settings_with(&world, &host);
        world.start_with(settings, None).await;
        let refused = world
            .until::<Image>(saved.image.local_id(), |image| {
                image.state == ImageState::Error
            })
            .await;
        let reason = refused.reason.as_deref().unwrap_or_default();
        assert!(reason.contains(told), "{gives:?}: {reason}");
        World::eventually("nothing of it", || brought(&world).is_empty()).await;
        world.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_nobody_wants_any_more_is_not_waited_for() {
    let mut world = World::new().await;
    let Some((saved, host)) = elsewhere(&mut world, Gives::Silence).await else {
        return;
    };
    let mut settings = settings_with(&world, &host);
    settings.limits.stall = Duration::from_secs(3600);
    world.start_with(settings, None).await;
    World::eventually("a part of it", || !brought(&world).is_empty()).await;
    let machine = saved.machine.local_id();
    world
        .edit::<Machine>(machine, |machine| machine.saved_as = None)
        .await;
    world.delete_image(saved.image.local_id()).await;
    world.until_gone::<Image>(saved.image.local_id()).await;
    World::eventually("nothing of it", || brought(&world).is_empty()).await;
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_machines_that_left_the_same_are_both_saved() {
    let mut world = World::new().await;
    let Some((first, host)) = elsewhere(&mut world, Gives::Everything).await else {
        return;
    };
    let settings = settings_with(&world, &host);
    let here = "save: the disk is here";
    let controller = world.start_with(settings, Some(here)).await;
    controller.stopped().await;
    // The other one's comes, is merged and forgotten, while this one's is still to be merged.
    controller.stop_no_more();
    let second = same_of("bob", 8, (&world, &first, &host)).await;
    is_saved(&world, &second).await;
    World::eventually("the other one is forgotten", || {
        !controller.0.transfers.contains(second.image.local_id())
    })
    .await;
    assert_eq!(brought(&world).len(), 1, "it is needed still");
    controller.go_on();
    is_saved(&world, &first).await;
    World::eventually("nothing of it", || brought(&world).is_empty()).await;
    drop(controller);
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_its_host_cannot_read_is_not_asked_for_without_end() {
    for gives in [Gives::Unreadable, Gives::BadSector] {
        let mut world = World::new().await;
        let Some((saved, host)) = elsewhere(&mut world, gives).await else {
            return;
        };
        let mut settings = settings_with(&world, &host);
        (settings.fetch_tries, settings.fetch_pause) = (3, Duration::from_millis(20));
        world.start_with(settings, None).await;
        let ended = world
            .until::<Image>(saved.image.local_id(), |image| {
                image.state == ImageState::Error
            })
            .await;
        let reason = ended.reason.as_deref().unwrap_or_default();
        let told = "its host node7 can't read the machine's disk; given up after 3 tries";
        assert_eq!(reason, told, "{gives:?}");
        assert_eq!(host.asked.load(Ordering::Relaxed), 3, "{gives:?}");
        World::eventually("nothing of it", || brought(&world).is_empty()).await;
        world.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_its_host_can_read_again_is_saved() {
    let mut world = World::new().await;
    let Some((saved, host)) = elsewhere(&mut world, Gives::Unreadable).await else {
        return;
    };
    let mut settings = settings_with(&world, &host);
    settings.fetch_pause = Duration::from_millis(20);
    world.start_with(settings, None).await;
    let waits = world
        .until::<Image>(saved.image.local_id(), |image| image.reason.is_some())
        .await;
    let reason = waits.reason.as_deref().unwrap_or_default();
    assert!(reason.contains("can't read"), "{reason}");
    assert_eq!(waits.state, ImageState::Creating);
    *host.gives.lock() = Gives::Everything;
    is_saved(&world, &saved).await;
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_gives_nothing_more_keeps_nobody_else_waiting() {
    let mut world = World::new().await;
    let Some((first, host)) = elsewhere(&mut world, Gives::Silence).await else {
        return;
    };
    for (vmid, owner) in (8..).zip(["bob", "carol", "dave"]) {
        same_of(owner, vmid, (&world, &first, &host)).await;
    }
    let mut settings = settings_with(&world, &host);
    settings.limits.stall = Duration::from_secs(3600);
    assert_eq!((settings.imports, settings.imports_per_host()), (4, 2));
    world.start_with(settings, None).await;
    World::eventually("all that it may give at once", || {
        brought(&world).len() == 2
    })
    .await;
    let server = WebServer::start(move |_| Answer::Body {
        bytes: Arc::new(vec![7; 1 << 20]),
        etag: "one",
        ranges: true,
        at_most: usize::MAX,
    })
    .await;
    let url = server.url.clone();
    let other = image(ImageSource::Url { url }, "IMAGE");
    world.create(&other).await;
    world
        .until::<Image>(other.id.local(), |image| {
            image.state == ImageState::Available
        })
        .await;
    assert_eq!(host.asked.load(Ordering::Relaxed), 2);
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_whose_host_is_not_known_is_waited_for_and_one_that_went_with_it_is_not() {
    let mut world = World::new().await;
    let Some((saved, host)) = elsewhere(&mut world, Gives::Everything).await else {
        return;
    };
    let id = host.of.local();
    let read = world.documents.hosts.get(id).expect("there");
    let known: Host = read.document.0.clone();
    let removed = world.documents.changes().remove(&read).commit().await;
    removed.expect("removed");
    world.start_with(settings_with(&world, &host), None).await;
    let waits = world
        .until::<Image>(saved.image.local_id(), |image| image.reason.is_some())
        .await;
    let reason = waits.reason.as_deref().unwrap_or_default();
    assert_eq!(reason, format!("its {} isn't known here just now", host.of));
    assert_eq!(waits.state, ImageState::Creating);
    world.create(&known).await;
    is_saved(&world, &saved).await;

    world.kill().await;

    // As the removal of a host leaves it that others have to clear up after, too.
    let left = same_of("bob", 8, (&world, &saved, &host)).await;
    world
        .edit::<Machine>(left.machine.local_id(), |machine| machine.host = None)
        .await;
    world.start_with(settings_with(&world, &host), None).await;
    let ended = world
        .until::<Image>(left.image.local_id(), |image| {
            image.state == ImageState::Error
        })
        .await;
    let reason = ended.reason.as_deref().unwrap_or_default();
    assert!(reason.contains("was removed from the cloud"), "{reason}");
    world.kill().await;
}
