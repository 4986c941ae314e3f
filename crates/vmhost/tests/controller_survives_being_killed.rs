//! The controller is killed hundreds of times at random moments, while users do what users do and guests do what guests
//! do. Afterwards documents, processes, folders, addresses and attachments agree: nothing lost, nothing left.
//!
//! `STRATUS_SEED` repeats a run (as far as the moments repeat), `STRATUS_KILLS` sets how often it is killed.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use crate::controller_cloud::{World, object, user};
use cimi::{
    lifecycle::{EndCause, MachineState, Phase, Stage},
    resources::{Host, Volume},
};
use cloud::Cloud;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::json;
use uuid::Uuid;
use vmhost::{
    ExitCause,
    simulated::{Behaviour, SimulatedHypervisor},
};

const POLICIES: [&str; 3] = ["never", "on-failure", "always"];
const ACTIONS: [&str; 9] = [
    "start", "stop", "restart", "kill", "shutdown", "stop", "pause", "suspend", "start",
];
/// Machines at a time; more only make it slower.
const MOST: usize = 12;

/// One thing that a user or a guest does. Refusals are answers, too.
async fn something(
    cloud: &Cloud,
    simulated: &SimulatedHypervisor,
    image: &str,
    random: &mut StdRng,
) {
    let documents = cloud.documents();
    let machines = documents.machines.all();
    let machine = machines
        .choose(random)
        .map(|machine| machine.id().to_owned());
    let volumes = documents.volumes.all();
    let volume = volumes.choose(random).map(|volume| volume.id().to_owned());
    let who = user();
    match (random.random_range(0..12), machine, volume) {
        (0..=2, ..) if machines.len() < MOST => {
            let policy = POLICIES.choose(random).unwrap();
            let body = json!({"machineTemplate": {"machineImage": {"href": image}, "restartPolicy": policy}});
            let _ = cloud.create_machine(&who, object(body)).await;
        }
        (3..=5, Some(machine), _) => {
            let (action, force) = (ACTIONS.choose(random).unwrap(), random.random());
            let _ = cloud.act_on_machine(&who, &machine, action, force).await;
        }
        (6 | 7, Some(machine), Some(volume)) => {
            let body = json!({"volume": {"href": format!("Volume/{volume}")}});
            let _ = cloud.attach_volume(&who, &machine, object(body)).await;
        }
        (8, Some(machine), Some(volume)) => {
            let _ = cloud.detach_volume(&who, &machine, &volume).await;
        }
        (9, Some(machine), _) => {
            if let Some(guest) = simulated.machine(machine.parse::<Uuid>().unwrap()) {
                match random.random_range(0..4) {
                    0 => guest.halt(),
                    1 => guest.panic(),
                    2 => guest.die(&ExitCause::Signal(9)),
                    _ => guest.reboot(),
                }
            }
        }
        _ => simulated.behave(Behaviour {
            launch_fails: random.random_bool(0.1).then(|| "no memory".to_owned()),
            launch_takes: Duration::from_millis(random.random_range(0..20)),
            ignores_power_button: random.random_bool(0.3),
            ignores_detach: random.random_bool(0.3),
            kvm_is_refused: false,
        }),
    }
}

/// Guests that were asked for something, and never answered, do.
fn obey(world: &World) {
    for uuid in world.simulated.running() {
        if let Some(guest) = world.simulated.machine(uuid) {
            guest.ignore_power_button(false);
            guest.ignore_detach(false);
            guest.complete_detaches();
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::test]
async fn kills_at_random_moments_lose_nothing_and_leave_nothing() {
    let seed = number("STRATUS_SEED", u64::from(std::process::id()));
    let kills = number("STRATUS_KILLS", 100);
    println!("STRATUS_SEED={seed} repeats this run");
    let mut random = StdRng::seed_from_u64(seed);
    let mut world =
        World::with(|settings| settings.power_button_limit = Duration::from_millis(100)).await;
    for _ in 0..6 {
        world.volume().await;
    }
    for kill in 1..=kills {
        for _ in 0..2 {
            let (cloud, simulated) = (world.cloud().clone(), world.simulated.clone());
            let (image, mut random) = (world.image.to_string(), StdRng::from_rng(&mut random));
            world.spawn(async move {
                loop {
                    something(&cloud, &simulated, &image, &mut random).await;
                }
            });
        }
        tokio::time::sleep(Duration::from_micros(random.random_range(0..40_000))).await;
        world.crash().await;
        world.start().await;
        if kill % 20 == 0 || kill == kills {
            world.simulated.behave(Behaviour::default());
            obey(&world);
            world.settles().await;
        }
    }
    // In the end everything can be removed, and nothing is left.
    for machine in world.documents().machines.all() {
        let _ = world
            .cloud()
            .delete_machine(&crate::controller_cloud::admin(), machine.id())
            .await;
    }
    world.settles().await;
    assert!(world.documents().machines.is_empty());
    assert!(world.simulated.running().is_empty());
    assert!(world.documents().addresses.is_empty());
    for volume in world.documents().volumes.all() {
        let volume: &Volume = &volume.document.0;
        assert_eq!(volume.attachment, None, "{volume:?}");
    }
    let records: Vec<_> = world.documents().machine_records.all();
    let records = records.iter().map(|record| record.machine.to_string());
    crate::uses_are_written_down_once::check(&world, records.collect()).await;
}

#[tokio::test]
async fn running_machines_are_taken_over_as_they_are() {
    let mut world = World::new().await;
    let id = world.running(json!({})).await;
    let before = world.machine(&id).unwrap();
    let process = world.guest(&id);
    world.crash().await;
    world.start().await;
    let job = world.act(&id, "restart", true).await;
    world.succeeds(&job).await;
    assert!(
        std::sync::Arc::ptr_eq(&process, &world.guest(&id)),
        "no second process"
    );
    let after = world.machine(&id).unwrap();
    assert_eq!(after.observed.since, before.observed.since);
    assert_eq!(after.ssh, before.ssh);
    // What happens while nobody looks is seen by the next life.
    world.crash().await;
    process.halt();
    world.start().await;
    let machine = world.phase(&id, Phase::Unknown).await;
    assert_eq!(machine.state, MachineState::Stopped);
    world.settles().await;
}

#[tokio::test]
async fn after_a_power_cut_the_restart_policy_decides() {
    let mut world = World::new().await;
    let mut ids = Vec::new();
    for policy in POLICIES {
        ids.push(world.running(json!({"restartPolicy": policy})).await);
    }
    let stopped = world.running(json!({"restartPolicy": "always"})).await;
    let job = world.act(&stopped, "stop", true).await;
    world.succeeds(&job).await;
    let host = world.host().host().local().to_owned();
    // The kernel that starts next is another one.
    world
        .edit::<Host>(&host, |host| host.boot_id = "before the cut".into())
        .await;
    world.crash().await;
    world.simulated.power_cut();
    world.start().await;
    for id in &ids[1..] {
        world.phase(id, Phase::Running).await;
        assert!(world.lives(id));
    }
    let never = world.machine(&ids[0]).unwrap();
    let cause = EndCause::HostReboot;
    assert_eq!(never.observed.stage, Stage::Ended { cause });
    assert_eq!(never.state, MachineState::Stopped);
    assert!(never.reason.unwrap().contains("lost power"));
    assert!(!world.lives(&ids[0]) && !world.lives(&stopped));
    assert_eq!(world.machine(&stopped).unwrap().phase, Phase::Stopped);
    // Later deaths are no power cuts.
    world.guest(&ids[1]).die(&ExitCause::Signal(9));
    let machine = world.phase(&ids[1], Phase::Unknown).await;
    assert_eq!(machine.state, MachineState::Error);
    world.settles().await;
}
