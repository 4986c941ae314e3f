use std::time::Duration;

use cimi::resources::{Attachment, Resource as _, Volume, VolumeLocation, VolumeState, VolumeUse};
use cimi::size::ByteSize;
use cimi::{HostId, MachineId, Timestamp};
use tokio::time::timeout;

use super::super::FindingKind;
use super::world::{World, names, volume};
use crate::exports::User;

const MIB: u64 = 1 << 20;

fn available(volume: &Volume) -> bool {
    volume.state == VolumeState::Available
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_made_grows_and_goes() {
    let mut world = World::new().await;
    world.start().await;
    let wanted = volume(4 * MIB);
    let local = wanted.id.local();
    world.create(&wanted).await;
    let made = world.until::<Volume>(local, available).await;
    let Some(VolumeLocation::File { path, .. }) = made.location.clone() else {
        panic!("no location");
    };
    assert_eq!(std::fs::metadata(&path).expect("file").len(), 4 * MIB);

    world
        .edit::<Volume>(local, |volume| volume.size_bytes = ByteSize(8 * MIB))
        .await;
    World::eventually("grown", || {
        std::fs::metadata(&path).is_ok_and(|file| file.len() == 8 * MIB)
    })
    .await;

    // Attached it is left alone, whatever is asked.
    let attachment = Attachment {
        machine: MachineId::generate(),
        since: Timestamp::now(),
    };
    world
        .edit::<Volume>(local, |volume| {
            volume.attachment = Some(attachment.clone());
            volume.deleted = true;
        })
        .await;
    let other = volume(MIB);
    world.create(&other).await;
    world.until::<Volume>(other.id.local(), available).await;
    assert!(std::fs::exists(&path).expect("exists"));
    world
        .edit::<Volume>(local, |volume| volume.attachment = None)
        .await;
    world.until_gone::<Volume>(local).await;
    assert!(!std::fs::exists(&path).expect("exists"));
    assert_eq!(world.events(&wanted.key()), ["AVAILABLE", "DELETED"]);
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_a_host_still_writes_is_left_alone_until_it_does_not() {
    let mut world = World::new().await;
    let settings = world.settings();
    let exports = settings.exports.clone();
    world.start_with(settings, None).await;
    let wanted = volume(MIB);
    let local = wanted.id.local();
    world.create(&wanted).await;
    let made = world.until::<Volume>(local, available).await;
    let Some(VolumeLocation::File { path, .. }) = made.location.clone() else {
        panic!("no location");
    };
    let length = || std::fs::metadata(&path).expect("file").len();

    let user = User {
        host: HostId::generate(),
        of: VolumeUse {
            volume: wanted.id.clone(),
            machine: MachineId::generate(),
            taken: None,
        },
    };
    let claim = exports.claim(user).await.expect("nobody has it");
    let bigger = |volume: &mut Volume| volume.size_bytes = ByteSize(2 * MIB);
    world.edit::<Volume>(local, bigger).await;
    let cut = timeout(Duration::from_secs(60), claim.cut()).await;
    cut.expect("the host is cut off");
    assert_eq!(length(), MIB);
    drop(claim);
    World::eventually("grown", || length() == 2 * MIB).await;
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_any_two_steps_of_a_volume_is_cured() {
    for place in [
        "volume: before it is made",
        "volume: made, not told",
        "volume: made and told",
    ] {
        let mut world = World::new().await;
        let wanted = volume(MIB);
        world.create(&wanted).await;
        world.crash_at(place).await;
        // It may have been edited while nobody worked.
        world
            .edit::<Volume>(wanted.id.local(), |volume| {
                volume.size_bytes = ByteSize(2 * MIB);
            })
            .await;
        let controller = world.start().await;
        let made = world.until::<Volume>(wanted.id.local(), available).await;
        let Some(VolumeLocation::File { path, .. }) = made.location.clone() else {
            panic!("no location");
        };
        World::eventually("grown", || {
            std::fs::metadata(&path).is_ok_and(|file| file.len() == 2 * MIB)
        })
        .await;
        assert_eq!(world.events(&wanted.key()), ["AVAILABLE"], "{place}");
        assert_eq!(controller.audit().await.expect("audit"), [], "{place}");
        drop(controller);
        world.kill().await;
    }
    for place in [
        "volume: before its file is removed",
        "volume: file removed, document not",
    ] {
        let mut world = World::new().await;
        let wanted = volume(MIB);
        world.create(&wanted).await;
        world.start().await;
        world.until::<Volume>(wanted.id.local(), available).await;
        world.kill().await;
        world.delete_volume(wanted.id.local()).await;
        world.crash_at(place).await;
        assert!(world.documents.volumes.get(wanted.id.local()).is_some());
        world.start().await;
        world.until_gone::<Volume>(wanted.id.local()).await;
        assert_eq!(
            names(&world.storage_dir().join("volumes")),
            ["lock"],
            "{place}"
        );
        assert_eq!(
            world.events(&wanted.key()),
            ["AVAILABLE", "DELETED"],
            "{place}"
        );
        world.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_without_space_or_with_a_lost_file_says_so() {
    let mut world = World::new().await;
    let mut settings = world.settings();
    settings.reserve_bytes = u64::MAX;
    world.start_with(settings, None).await;
    let wanted = volume(MIB);
    world.create(&wanted).await;
    let failed = world
        .until::<Volume>(wanted.id.local(), |volume| {
            volume.state == VolumeState::Error
        })
        .await;
    assert!(
        failed
            .reason
            .as_deref()
            .is_some_and(|reason| reason.contains("not enough space")),
        "{:?}",
        failed.reason
    );
    assert_eq!(names(&world.storage_dir().join("volumes")), ["lock"]);
    world.delete_volume(wanted.id.local()).await;
    world.until_gone::<Volume>(wanted.id.local()).await;

    world.start().await;
    let kept = volume(MIB);
    let local = kept.id.local();
    world.create(&kept).await;
    world.until::<Volume>(local, available).await;
    world.kill().await;
    let path = world.storage_dir().join(format!("volumes/{local}.raw"));
    let aside = world.dir.path().join("aside");
    std::fs::rename(&path, &aside).expect("rename");
    let controller = world.start().await;
    let lost = world
        .until::<Volume>(local, |volume| volume.state == VolumeState::Error)
        .await;
    assert!(
        lost.reason
            .as_deref()
            .is_some_and(|reason| reason.contains("is gone")),
        "{:?}",
        lost.reason
    );
    drop(controller);
    std::fs::rename(&aside, &path).expect("rename back");
    world.start().await;
    let back = world.until::<Volume>(local, available).await;
    assert_eq!(back.reason, None);
    world.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orphaned_volumes_are_found_and_set_aside() {
    let mut world = World::new().await;
    let controller = world.start().await;
    let known = volume(MIB);
    world.create(&known).await;
    world.until::<Volume>(known.id.local(), available).await;
    let volumes = world.storage_dir().join("volumes");
    let orphan = format!("{}.raw", volume(MIB).id.local());
    std::fs::write(volumes.join(&orphan), "precious").expect("write");
    let findings = controller.audit().await.expect("audit");
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].kind, FindingKind::VolumeFileWithoutDocument);
    assert_eq!(findings[0].severity, cimi::resources::EventSeverity::Medium);
    let repaired = controller.repair().await.expect("repair");
    assert!(repaired[0].repair.starts_with("moved to"), "{repaired:?}");
    assert_eq!(
        std::fs::read(volumes.join("orphans").join(orphan)).expect("kept"),
        b"precious"
    );
    assert_eq!(controller.audit().await.expect("audit"), []);
    assert!(controller.space().await.expect("space").total_bytes > 0);
    drop(controller);
    world.kill().await;
}
