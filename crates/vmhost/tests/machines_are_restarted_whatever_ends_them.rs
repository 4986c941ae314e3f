//! A restart that was asked for is carried out, also if the run ends first that it was asked for.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::{sync::Arc, time::Duration};

use crate::controller_cloud::{PATIENCE, World};
use cimi::{
    lifecycle::{MachineState, Phase, Power, Stage},
    resources::Machine,
};
use futures::FutureExt as _;
use parking_lot::Mutex;
use serde_json::json;
use vmhost::{ExitCause, MachineEvent, RunState, RunningMachine as _, simulated::Behaviour};

const ENDS: [&str; 3] = ["halt", "panic", "die"];

/// A cloud whose guests may take as long as they like to obey.
async fn patient() -> World {
    World::with(|settings| settings.power_button_limit = Duration::from_secs(3600)).await
}

fn end(world: &World, id: &str, how: &str) {
    let guest = world.guest(id);
    match how {
        "halt" => guest.halt(),
        "panic" => guest.panic(),
        _ => guest.die(&ExitCause::Signal(9)),
    }
}

fn restart(machine: &mut Machine) {
    machine.desired.restart += 1;
}

#[tokio::test]
async fn a_run_that_ends_before_it_is_restarted_begins_anew() {
    let world = patient().await;
    for how in ENDS {
        let id = world.running(json!({})).await;
        world.guest(&id).ignore_power_button(true);
        let job = world.act(&id, "restart", false).await;
        end(&world, &id, how);
        world.succeeds(&job).await;
        let machine = world.phase(&id, Phase::Running).await;
        assert_eq!(machine.observed.restart, 1, "{how}");
        assert!(world.lives(&id), "{how}");
        // It had its restart.
        end(&world, &id, "die");
        let machine = world.phase(&id, Phase::Unknown).await;
        assert_eq!(machine.state, MachineState::Error, "{how}");
    }
    world.settles().await;
}

#[tokio::test]
async fn so_does_one_that_ended_while_nobody_was_there_unless_a_stop_came_after_the_restart() {
    let mut world = patient().await;
    for how in ENDS {
        let restarted = world.running(json!({})).await;
        let stopped = world.running(json!({})).await;
        world.crash().await;
        for id in [&restarted, &stopped] {
            end(&world, id, how);
            world.edit_meanwhile(id, restart).await;
        }
        let stop = |machine: &mut Machine| machine.desired.power = Power::Off;
        world.edit_meanwhile(&stopped, stop).await;
        world.start().await;
        let began =
            |machine: &Machine| machine.phase == Phase::Running && machine.observed.restart == 1;
        world.until(&restarted, "a run begun anew", began).await;
        assert!(world.lives(&restarted), "{how}");
        world.phase(&stopped, Phase::Stopped).await;
        assert!(!world.lives(&stopped), "{how}");
        // A restart of one that is off starts it.
        let job = world.act(&stopped, "restart", false).await;
        world.succeeds(&job).await;
    }
    world.settles().await;
}

#[tokio::test]
async fn a_restart_that_can_not_be_carried_out_is_tried_once() {
    let world = patient().await;
    let id = world.running(json!({})).await;
    world.guest(&id).ignore_power_button(true);
    let job = world.act(&id, "restart", false).await;
    world.simulated.behave(Behaviour {
        launch_fails: Some("cannot allocate memory".into()),
        ..Behaviour::default()
    });
    end(&world, &id, "die");
    assert!(world.fails(&job).await.contains("cannot allocate memory"));
    let machine = world.phase(&id, Phase::Failed).await;
    assert_eq!(machine.state, MachineState::Error);
    assert!(!machine.desired.restarts(&machine.observed));
    world.simulated.behave(Behaviour::default());
    let job = world.act(&id, "restart", false).await;
    world.succeeds(&job).await;
    world.settles().await;
}

/// The second wish isn't taken for a part of the first one.
#[tokio::test]
async fn a_paused_guest_that_is_started_and_then_restarted_is_reset() {
    let mut world = World::new().await;
    let id = world.running(json!({})).await;
    let job = world.act(&id, "pause", false).await;
    world.succeeds(&job).await;
    world.crash().await;
    let guest = world.guest(&id);
    let mut events = guest.events();
    let start_and_restart = |machine: &mut Machine| {
        machine.desired.rest = None;
        machine.desired.run += 1;
        machine.desired.restart += 1;
    };
    world.edit_meanwhile(&id, start_and_restart).await;
    world.start().await;
    let is_reset = async { while events.next().await.unwrap() != MachineEvent::HostReset {} };
    tokio::time::timeout(PATIENCE, is_reset).await.unwrap();
    let machine = world.phase(&id, Phase::Running).await;
    assert_eq!((machine.observed.run, machine.observed.restart), (2, 1));
    world.settles().await;
}

#[tokio::test]
async fn what_has_run_nothing_when_its_host_comes_back_has_had_its_restart() {
    let mut world = patient().await;
    let (id, job) = world.create(json!({"initialState": "PAUSED"})).await;
    world.succeeds(&job).await;
    world.crash().await;
    let guest = world.guest(&id);
    let state = guest.status().await.unwrap().run_state;
    assert_eq!(state, RunState::Prelaunch);
    let mut events = guest.events();
    let start_and_restart = |machine: &mut Machine| {
        machine.desired.rest = None;
        machine.desired.run += 1;
        machine.desired.restart += 1;
    };
    world.edit_meanwhile(&id, start_and_restart).await;
    world.start().await;
    let has_restarted =
        |machine: &Machine| machine.phase == Phase::Running && machine.observed.restart == 1;
    world.until(&id, "its restart", has_restarted).await;
    world.settles().await;
    assert!(Arc::ptr_eq(&guest, &world.guest(&id)), "the same process");
    while let Some(event) = events.next().now_or_never() {
        let event = event.unwrap();
        let is_restarted = matches!(event, MachineEvent::HostReset | MachineEvent::PowerButton);
        assert!(!is_restarted, "{event:?}");
    }
}

/// An image may be made from it until that is known.
#[tokio::test]
async fn a_disk_that_was_left_is_known_to_be_written_before_anybody_writes_it() {
    let world = patient().await;
    let id = world.running(json!({"restartPolicy": "always"})).await;
    let lived = Arc::new(Mutex::new(Vec::new()));
    let (noted, simulated) = (lived.clone(), world.simulated.clone());
    world.writes.with(move |text| {
        if let Ok(machine) = serde_json::from_str::<Machine>(text)
            && machine.observed.stage == Stage::Booting
        {
            noted.lock().push(!simulated.running().is_empty());
        }
        Box::pin(async { Ok(()) })
    });
    end(&world, &id, "halt");
    let begins_anew =
        |machine: &Machine| machine.phase == Phase::Running && !lived.lock().is_empty();
    world.until(&id, "another process", begins_anew).await;
    assert_eq!(*lived.lock(), [false]);
}

/// Not when the machine is wanted on again before the stop is over, either.
#[tokio::test]
async fn a_stop_ends_a_restart_that_was_asked_for_before() {
    let world = patient().await;
    let id = world.running(json!({})).await;
    world.guest(&id).ignore_power_button(true);
    world.act(&id, "restart", false).await;
    world.act(&id, "stop", false).await;
    let is_void = |machine: &Machine| machine.observed.restart == machine.desired.restart;
    world.until(&id, "a restart that is over", is_void).await;
    assert!(world.lives(&id), "its guest has not obeyed yet");
    world.guest(&id).halt();
    world.phase(&id, Phase::Stopped).await;
    let job = world.act(&id, "start", false).await;
    world.succeeds(&job).await;
    world.settles().await;
}
