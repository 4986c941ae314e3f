//! Machines rest as they are asked to, in memory or on disk, and go on; whoever can't is told why and runs on.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::sync::Arc;

use crate::controller_cloud::{World, user};
use cimi::{
    lifecycle::{MachineState, Phase, Stage},
    resources::{Machine, Volume},
};
use cloud::CloudError;
use serde_json::json;
use vmhost::{RunState, RunningMachine as _, simulated::Behaviour};

#[tokio::test]
async fn a_paused_machine_goes_on_in_the_same_process() {
    let mut world = World::new().await;
    let id = world.running(json!({})).await;
    let process = world.guest(&id);
    let job = world.act(&id, "pause", false).await;
    world.succeeds(&job).await;
    assert_eq!(world.machine(&id).unwrap().state, MachineState::Paused);
    assert_eq!(process.status().await.unwrap().run_state, RunState::Paused);
    world.crash().await;
    world.start().await;
    world.settles().await;
    assert_eq!(world.machine(&id).unwrap().state, MachineState::Paused);
    assert_eq!(process.status().await.unwrap().run_state, RunState::Paused);
    let job = world.act(&id, "start", false).await;
    world.succeeds(&job).await;
    assert!(Arc::ptr_eq(&process, &world.guest(&id)));
    // A soft stop lets it go on first: its guest can hear the power button then.
    let job = world.act(&id, "pause", false).await;
    world.succeeds(&job).await;
    let job = world.act(&id, "stop", false).await;
    world.succeeds(&job).await;
    assert_eq!(world.machine(&id).unwrap().phase, Phase::Stopped);
    world.settles().await;
}

#[tokio::test]
async fn a_suspended_machine_has_no_process_and_goes_on_with_its_disks() {
    let mut world = World::new().await;
    let id = world.running(json!({})).await;
    let volume = world.volume().await;
    let job = world.attach(&id, &volume).await;
    world.succeeds(&job).await;
    let disks = world.guest(&id).status().await.unwrap().disks;
    let job = world.act(&id, "suspend", false).await;
    world.succeeds(&job).await;
    let machine = world.machine(&id).unwrap();
    assert_eq!(
        (machine.state, machine.phase),
        (MachineState::Suspended, Phase::Suspended)
    );
    assert!(!world.lives(&id));
    let memory = world.run_folder(&id).join("memory");
    assert!(memory.exists());
    world.settles().await;
    let local = volume.trim_start_matches("Volume/");
    let refused = world.cloud().detach_volume(&user(), &id, local).await;
    assert!(
        matches!(refused, Err(CloudError::Conflict(_))),
        "{refused:?}"
    );
    let held = world.documents().volumes.get(local).unwrap();
    let held: &Volume = &held.document.0;
    assert!(held.attachment.is_some(), "nobody else can have it");

    world.crash().await;
    world.start().await;
    let job = world.act(&id, "start", false).await;
    world.succeeds(&job).await;
    assert!(!memory.exists(), "it is read once");
    assert_eq!(world.guest(&id).status().await.unwrap().disks, disks);
    let job = world.detach(&id, &volume).await;
    world.succeeds(&job).await;

    for given_up in ["restart", "stop"] {
        let job = world.act(&id, "suspend", false).await;
        world.succeeds(&job).await;
        assert!(memory.exists());
        let job = world.act(&id, given_up, false).await;
        world.succeeds(&job).await;
        assert!(!memory.exists(), "{given_up}");
    }
    world.settles().await;
}

#[tokio::test]
async fn a_machine_whose_memory_finds_no_space_runs_on() {
    let mut world = World::new().await;
    let id = world.running(json!({})).await;
    world.crash().await;
    world.settings.reserve_bytes = u64::MAX / 4;
    world.start().await;
    let job = world.act(&id, "suspend", false).await;
    let reason = world.fails(&job).await;
    assert!(reason.contains("could not be suspended"), "{reason}");
    let machine = world.phase(&id, Phase::Running).await;
    assert_eq!(machine.state, MachineState::Started);
    assert!(machine.reason.is_some());
    let guest = world.guest(&id).status().await.unwrap();
    assert_eq!(guest.run_state, RunState::Running);
}

#[tokio::test]
async fn a_machine_is_made_to_be_paused() {
    let world = World::new().await;
    let (id, job) = world.create(json!({"initialState": "PAUSED"})).await;
    world.succeeds(&job).await;
    assert_eq!(world.machine(&id).unwrap().state, MachineState::Paused);
    assert_eq!(
        world.guest(&id).status().await.unwrap().run_state,
        RunState::Prelaunch
    );
    let job = world.act(&id, "start", false).await;
    world.succeeds(&job).await;
    world.settles().await;
}

#[tokio::test]
async fn memory_that_an_earlier_version_has_saved_is_said_to_be_there_until_its_guest_goes_on() {
    let mut world = World::new().await;
    let id = world.running(json!({"restartPolicy": "never"})).await;
    let memory = world.run_folder(&id).join("memory");
    let broken = Behaviour {
        launch_fails: Some("the accelerator can't be used".to_owned()),
        ..Behaviour::default()
    };
    let slow = Behaviour {
        launch_takes: std::time::Duration::from_secs(3600),
        ..Behaviour::default()
    };
    // That said nothing of it: a machine was known by its state alone.
    let suspended = async |world: &World| {
        let job = world.act(&id, "suspend", false).await;
        world.succeeds(&job).await;
        world
            .edit::<Machine>(&id, |machine| machine.observed.has_memory = false)
            .await;
    };
    suspended(&world).await;
    world.simulated.behave(slow);
    let begun = world.act(&id, "start", false).await;
    let is_booting = |machine: &Machine| machine.observed.stage == Stage::Booting;
    let machine = world.until(&id, "it to boot", is_booting).await;
    assert!(machine.observed.has_memory && memory.exists());

    // The daemon is upgraded meanwhile, and what it starts now can't read it back.
    world.crash().await;
    world.simulated.behave(broken.clone());
    world
        .edit_meanwhile(&id, |machine| machine.observed.has_memory = false)
        .await;
    world.start().await;
    let has_failed = |machine: &Machine| machine.observed.stage == Stage::Failed;
    let machine = world.until(&id, "it to fail", has_failed).await;
    assert!(machine.observed.has_memory && memory.exists());
    world.fails(&begun).await;

    // That is mended: it goes on from it.
    world.simulated.behave(Behaviour::default());
    let job = world.act(&id, "start", false).await;
    world.succeeds(&job).await;
    assert!(!world.machine(&id).unwrap().observed.has_memory && !memory.exists());

    // Begun anew it goes on without it, also if it can't begin.
    let job = world.act(&id, "suspend", false).await;
    world.succeeds(&job).await;
    assert!(world.machine(&id).unwrap().observed.has_memory);
    world.simulated.behave(broken);
    world.act(&id, "restart", false).await;
    let machine = world.until(&id, "it to fail", has_failed).await;
    assert!(!machine.observed.has_memory && !memory.exists());
}
