//! Volumes come and go while machines run and while they don't; a guest that never answers blocks nothing.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use crate::controller_cloud::World;
use cimi::{
    Timestamp,
    lifecycle::Phase,
    resources::{AttachStage, Machine, Volume, VolumeState},
};
use serde_json::{Value, json};
use vmhost::{DiskId, RunningMachine, controller::volume_disk};

/// The disk that a volume is to a machine that has it.
fn disk(world: &World, id: &str, volume: &str) -> DiskId {
    let machine = world.machine(id).unwrap();
    let mut attached = machine.volumes.iter();
    let attached = attached.find(|one| one.volume.local() == volume).unwrap();
    DiskId::new(volume_disk(attached)).unwrap()
}

async fn guest_has(world: &World, id: &str, volume: &str) -> bool {
    let status = world.guest(id).status().await.unwrap();
    let name = format!("vol-{volume}");
    status
        .disks
        .iter()
        .any(|known| known.id.as_str().starts_with(&name))
}

fn holder(world: &World, volume: &str) -> Option<String> {
    let read = world.documents().volumes.get(volume).unwrap();
    let holder = read.attachment.as_ref();
    holder.map(|attachment| attachment.machine.local().to_owned())
}

#[tokio::test]
async fn volumes_come_and_go_while_a_machine_runs() {
    let world = World::new().await;
    let id = world.running(json!({})).await;
    let (first, second) = (world.volume().await, world.volume().await);
    for volume in [&first, &second] {
        let job = world.attach(&id, volume).await;
        world.succeeds(&job).await;
        assert!(guest_has(&world, &id, volume).await);
    }
    let targets: Vec<_> = world
        .machine(&id)
        .unwrap()
        .volumes
        .iter()
        .map(|attached| match &attached.stage {
            AttachStage::Attached { target } => target.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(targets, ["vdb", "vdc"]);
    let job = world.detach(&id, &first).await;
    world.succeeds(&job).await;
    assert!(!guest_has(&world, &id, &first).await);
    assert_eq!(holder(&world, &first), None);
    assert_eq!(holder(&world, &second), Some(id.clone()));
    // What it has stays with it from run to run.
    let job = world.act(&id, "stop", true).await;
    world.succeeds(&job).await;
    let job = world.act(&id, "start", false).await;
    world.succeeds(&job).await;
    assert!(guest_has(&world, &id, &second).await);
    world.settles().await;
}

#[tokio::test]
async fn without_a_process_it_is_done_at_once() {
    let world = World::new().await;
    let id = world.running(json!({})).await;
    let job = world.act(&id, "stop", true).await;
    world.succeeds(&job).await;
    let (stays, goes) = (world.volume().await, world.volume().await);
    for volume in [&stays, &goes] {
        let job = world.attach(&id, volume).await;
        world.succeeds(&job).await;
    }
    let job = world.detach(&id, &goes).await;
    world.succeeds(&job).await;
    assert_eq!(holder(&world, &goes), None);
    let job = world.act(&id, "start", false).await;
    world.succeeds(&job).await;
    assert!(guest_has(&world, &id, &stays).await && !guest_has(&world, &id, &goes).await);
    world.settles().await;
}

#[tokio::test]
async fn a_guest_that_never_answers_blocks_nothing() {
    for cure in ["restart", "stop", "kill"] {
        let world = World::new().await;
        let id = world.running(json!({})).await;
        let (stuck, other) = (world.volume().await, world.volume().await);
        let job = world.attach(&id, &stuck).await;
        world.succeeds(&job).await;
        world.guest(&id).ignore_detach(true);
        let detached = world.detach(&id, &stuck).await;
        world
            .until(&id, "Detaching", |m| {
                matches!(m.volumes[0].stage, AttachStage::Detaching { .. })
            })
            .await;
        let job = world.attach(&id, &other).await;
        world.succeeds(&job).await;
        assert_eq!(
            holder(&world, &stuck),
            Some(id.clone()),
            "nobody else can have it yet"
        );
        let cured = world.act(&id, cure, true).await;
        world.succeeds(&cured).await;
        world.succeeds(&detached).await;
        assert_eq!(holder(&world, &stuck), None);
        world.settles().await;
    }
}

#[tokio::test]
async fn a_guest_that_refuses_is_asked_again_but_not_at_once() {
    let world = World::new().await;
    let id = world.running(json!({})).await;
    let volume = world.volume().await;
    let job = world.attach(&id, &volume).await;
    world.succeeds(&job).await;
    let guest = world.guest(&id);
    guest.ignore_detach(true);
    let job = world.detach(&id, &volume).await;
    world
        .until(&id, "Detaching", |m| {
            matches!(m.volumes[0].stage, AttachStage::Detaching { .. })
        })
        .await;
    guest.refuse_detach(&disk(&world, &id, &volume));
    // A storm of requests would show here as a disk that is being detached again at once.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(
        guest
            .status()
            .await
            .unwrap()
            .disks
            .iter()
            .all(|d| !d.detaching)
    );
    guest.ignore_detach(false);
    world.succeeds(&job).await;
    world.settles().await;
}

#[tokio::test]
async fn a_volume_that_is_not_there_yet_is_waited_for() {
    let world = World::new().await;
    let id = world.running(json!({})).await;
    let volume = world.volume_to_be().await;
    let job = world.attach(&id, &volume).await;
    world.phase(&id, Phase::Running).await;
    assert!(!guest_has(&world, &id, &volume).await);
    world.make_volume(&volume).await;
    world.succeeds(&job).await;
    assert!(guest_has(&world, &id, &volume).await);
    world.settles().await;
}

#[tokio::test]
async fn a_volume_that_can_not_be_had_says_why_and_does_not_hold_up_the_machine() {
    let world = World::new().await;
    let id = world.running(json!({})).await;
    let volume = world.volume_to_be().await;
    let job = world.attach(&id, &volume).await;
    world
        .edit::<Volume>(&volume, |volume| {
            volume.state = VolumeState::Error;
            volume.reason = Some("no space left".into());
        })
        .await;
    assert!(world.fails(&job).await.contains("no space left"));
    let job = world.act(&id, "stop", true).await;
    world.succeeds(&job).await;
    let job = world.act(&id, "start", false).await;
    world.succeeds(&job).await;
    let job = world.detach(&id, &volume).await;
    world.succeeds(&job).await;
    assert_eq!(holder(&world, &volume), None);
    world.settles().await;
}

/// The template of a machine that boots from the first of these volumes.
fn booting_from(volumes: &[&str]) -> Value {
    let volume = |id: &&str| json!({"volume": {"href": format!("Volume/{id}")}});
    let volumes: Vec<Value> = volumes.iter().map(volume).collect();
    json!({"machineImage": null, "volumes": volumes})
}

#[tokio::test]
async fn a_machine_boots_from_its_first_volume_which_stays_with_it() {
    let mut world = World::new().await;
    let [boot, cold, hot] = [
        world.volume().await,
        world.volume().await,
        world.volume().await,
    ];
    let id = world.running(booting_from(&[&boot, &cold])).await;
    world.settles().await;
    let job = world.attach(&id, &hot).await;
    world.succeeds(&job).await;
    let first = world.guest(&id).status().await.unwrap().disks;
    assert_eq!(first.first().unwrap().id, disk(&world, &id, &boot));
    let machine = world.machine(&id).unwrap();
    let targets = ["vda", "vdb", "vdc"].map(|target| AttachStage::Attached {
        target: target.to_owned(),
    });
    let stages: Vec<_> = machine
        .volumes
        .iter()
        .map(|one| one.stage.clone())
        .collect();
    assert_eq!(stages, targets);
    // From run to run, and whatever becomes of the controller.
    let job = world.act(&id, "stop", true).await;
    world.succeeds(&job).await;
    world.settles().await;
    world.crash().await;
    world.start().await;
    let job = world.act(&id, "start", false).await;
    world.succeeds(&job).await;
    let first = world.guest(&id).status().await.unwrap().disks;
    assert_eq!(first.first().unwrap().id, disk(&world, &id, &boot));
    world.settles().await;
    let job = world.act(&id, "kill", true).await;
    world.succeeds(&job).await;
    for volume in [&boot, &cold, &hot] {
        assert_eq!(holder(&world, volume), None);
    }
    world.settles().await;
}

#[tokio::test]
async fn a_machine_waits_for_the_volume_it_boots_from_and_does_not_start_without() {
    let world = World::new().await;
    let (late, never) = (world.volume_to_be().await, world.volume_to_be().await);
    let (id, job) = world.create(booting_from(&[&late])).await;
    world
        .until(&id, "waiting for it", |machine| {
            let reason = machine.reason.as_deref().unwrap_or_default();
            reason.contains(&late)
        })
        .await;
    assert!(!world.lives(&id));
    world.make_volume(&late).await;
    world.succeeds(&job).await;
    assert!(guest_has(&world, &id, &late).await);

    let (id, job) = world.create(booting_from(&[&never])).await;
    world
        .edit::<Volume>(&never, |volume| {
            volume.state = VolumeState::Error;
            volume.reason = Some("no space left".into());
        })
        .await;
    assert!(world.fails(&job).await.contains("no space left"));
    assert!(!world.lives(&id));
    let job = world.act(&id, "kill", true).await;
    world.succeeds(&job).await;
    assert_eq!(holder(&world, &never), None);
    world.settles().await;
}

#[tokio::test]
async fn a_volume_that_nobody_gives_is_waited_for_and_no_hypervisor_is_kept_waiting() {
    let world = World::new().await;
    world.volumes.are_elsewhere();
    let (runs, other) = (
        world.running(json!({})).await,
        world.running(json!({})).await,
    );
    world.volumes.silent(Some("no entry of the cloud gives it"));
    let (first, second) = (world.volume().await, world.volume().await);
    // One that starts with it says what it waits for; one that runs is not asked to open it.
    let (id, started) = world.create(booting_from(&[&first])).await;
    world
        .until(&id, "waiting", |machine| {
            let reason = machine.reason.as_deref().unwrap_or_default();
            reason.contains("no entry of the cloud gives it")
        })
        .await;
    assert!(!world.lives(&id));
    let attached = world.attach(&runs, &second).await;
    // What will never be there is told, not waited for; and what failed keeps nobody waiting.
    let never = world.volume_to_be().await;
    let failed = world.attach(&other, &never).await;
    world
        .edit::<Volume>(&never, |volume| {
            volume.state = VolumeState::Error;
            volume.reason = Some("no space left".into());
        })
        .await;
    assert!(world.fails(&failed).await.contains("no space left"));
    let job = world.act(&other, "stop", true).await;
    world.succeeds(&job).await;
    let job = world.act(&other, "start", false).await;
    world.succeeds(&job).await;
    world.volumes.silent(None);
    world.succeeds(&started).await;
    world.succeeds(&attached).await;
    assert!(guest_has(&world, &runs, &second).await);
    assert!(guest_has(&world, &id, &first).await);
    world.settles().await;
}

#[tokio::test]
async fn what_an_earlier_process_had_of_its_volumes_is_forgotten_before_the_next_one_and_while_none_lives()
 {
    let mut world = World::new().await;
    world.volumes.are_elsewhere();
    let id = world.running(json!({})).await;
    let before = world.volumes.times_begun();
    world.stop().await;
    world.start().await;
    let volume = world.volume().await;
    let job = world.attach(&id, &volume).await;
    world.succeeds(&job).await;
    assert_eq!(world.volumes.times_begun(), before, "its process lives");
    let job = world.act(&id, "stop", true).await;
    world.succeeds(&job).await;
    let job = world.act(&id, "start", false).await;
    world.succeeds(&job).await;
    assert!(world.volumes.times_begun() > before);
    assert!(guest_has(&world, &id, &volume).await);
}

#[tokio::test]
async fn a_volume_that_was_taken_away_unheard_and_is_given_again_is_another_disk() {
    let mut world = World::new().await;
    world.volumes.are_elsewhere();
    let id = world.running(json!({})).await;
    let volume = world.volume().await;
    let job = world.attach(&id, &volume).await;
    world.succeeds(&job).await;
    let old = disk(&world, &id, &volume);
    world.guest(&id).ignore_detach(true);
    // While nobody hears of its host, others have had it and have written it.
    world.stop().await;
    world.start().await;
    let again = Timestamp::now().after(Duration::from_secs(1));
    world
        .edit::<Machine>(&id, |machine| {
            let attached = machine.volumes.first_mut().unwrap();
            attached.taken = Some(again);
            attached.stage = AttachStage::Waiting;
        })
        .await;
    world
        .until(&id, "attached", |machine| {
            matches!(machine.volumes[0].stage, AttachStage::Attached { .. })
        })
        .await;
    let new = disk(&world, &id, &volume);
    let disks = world.guest(&id).status().await.unwrap().disks;
    let has = |disk: &DiskId| disks.iter().any(|known| known.id == *disk);
    assert!(has(&new) && new != old);
    // Its guest knows the old one still, and hears from it nothing but that it is lost.
    assert!(has(&old));
    assert!(world.volumes.lost().contains(&old.to_string()));
    assert!(!world.volumes.lost().contains(&new.to_string()));
    world.guest(&id).ignore_detach(false);
    world.guest(&id).complete_detaches();
    let job = world.act(&id, "kill", true).await;
    world.succeeds(&job).await;
    world.settles().await;
}

#[tokio::test]
async fn who_waits_for_a_volume_hears_what_is_wanted_of_its_machine_meanwhile() {
    let mut world = World::new().await;
    world.volumes.are_elsewhere();
    let mut all = Vec::new();
    for _ in 0..2 {
        let id = world.running(json!({})).await;
        let volume = world.volume().await;
        let job = world.attach(&id, &volume).await;
        world.succeeds(&job).await;
        all.push(id);
    }
    // Whoever begins anew asks for the ways to the volumes, of which nothing is heard.
    world.stop().await;
    world.volumes.hang(true);
    let before = world.volumes.times_hung();
    world.start().await;
    while world.volumes.times_hung() < before + all.len() {
        tokio::task::yield_now().await;
    }
    let job = world.act(&all[0], "stop", true).await;
    world.succeeds(&job).await;
    assert!(!world.lives(&all[0]));
    let job = world.act(&all[1], "kill", true).await;
    world.succeeds(&job).await;
    world.gone(&all[1]).await;
    world.volumes.hang(false);
    world.settles().await;
}
