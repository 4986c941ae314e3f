//! Machines of a host that has joined, while nothing is heard of it and when it is back.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test that panics has failed

mod moved;

use crate::support::{World, admin, alice, split, until};
use cimi::{
    Acl, Common, HostId, HostPulseId, Timestamp,
    lifecycle::Stage,
    model::Kind,
    resources::{Event, Host, HostPulse, JobState, Machine},
};
use cloud::{CloudError, Retention, Takes};
use serde_json::json;
use tokio::task::JoinHandle;

/// The cloud's own work, until it is dropped.
struct Working(JoinHandle<()>);

impl Working {
    fn begin(world: &World) -> Self {
        let cloud = world.cloud.clone();
        Self(tokio::spawn(async move {
            cloud.run(Retention::default()).await;
        }))
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A host that has joined, of which is heard.
async fn joined_host(world: &World) -> HostId {
    let mut host = cimi::testing::host();
    host.common.name = Some("node7".into());
    (host.desired.apart, host.runs_machines) = (true, true);
    let pulse = pulse_of(&host);
    let changes = world.documents.changes().create(&host).create(&pulse);
    changes.commit().await.unwrap();
    host.id
}

fn pulse_of(host: &Host) -> HostPulse {
    HostPulse {
        id: HostPulseId::from_local(host.id.local()).unwrap(),
        common: Common::new(Acl::owned_by_admin(), Timestamp::now()),
    }
}

/// Its pulse ends, or is there again.
async fn heard(world: &World, host: &HostId, is_heard: bool) {
    let changes = world.documents.changes();
    let changes = match world.documents.host_pulses.get(host.local()) {
        Some(pulse) if !is_heard => changes.remove(&pulse),
        None if is_heard => {
            changes.create(&pulse_of(&world.documents.hosts.get(host.local()).unwrap()))
        }
        _ => panic!("that is so already"),
    };
    changes.commit().await.unwrap();
}

/// A machine of Alice that was seen to run on this host.
async fn running_on(world: &World, host: &HostId) -> String {
    let body = world.machine(json!({}));
    let id = world.made(&alice(), Kind::Machine, body).await;
    seen(world, &id, |machine| {
        machine.host = Some(host.clone());
        machine.reason = Some("as before".to_owned());
        machine.observed.run = machine.desired.run;
        machine.observed.stage = Stage::Running;
    })
    .await;
    id
}

async fn seen(world: &World, id: &str, see: impl Fn(&mut Machine) + Send + Sync) {
    let (_, local) = split(id);
    let edit = |machine: &mut Machine| {
        see(machine);
        machine.settle();
        Ok::<_, CloudError>(true)
    };
    world.documents.update(local, edit).await.unwrap();
}

/// What is shown as state and phase, and the reason.
fn shown(world: &World, id: &str) -> (String, String) {
    let machine = world.get(&alice(), id);
    let text = |name: &str| machine[name].as_str().unwrap_or_default().to_owned();
    let state = format!("{} {}", text("state"), text("phase"));
    (state, text("reason"))
}

async fn becomes(world: &World, id: &str, state: &str) {
    until(&format!("{state}, not {:?}", shown(world, id)), || async {
        shown(world, id).0 == state
    })
    .await;
}

fn document(world: &World, id: &str) -> Machine {
    let (_, local) = split(id);
    let machine = world.documents.machines.get(local).unwrap();
    machine.document.0.clone()
}

fn events_of(world: &World, id: &str) -> Vec<Event> {
    let mut events: Vec<_> = world
        .documents
        .events
        .by_index("about", id)
        .iter()
        .map(|event| event.document.0.clone())
        .filter(|event| event.kind == "state")
        .collect();
    events.sort_by_key(|event| event.timestamp);
    events
}

#[tokio::test]
async fn they_are_unknown_at_once_and_what_they_were_when_it_is_back() {
    let world = World::start().await;
    let _working = Working::begin(&world);
    let host = joined_host(&world).await;
    let id = running_on(&world, &host).await;
    // Of the cloud's own daemon nobody hears, and it is there.
    let own = running_on(&world, &world.host(4096).await).await;
    let as_before = || ("STARTED Running".to_owned(), "as before".to_owned());
    assert_eq!(shown(&world, &id), as_before());
    let began = document(&world, &id).running_since;
    assert!(began.is_some());

    heard(&world, &host, false).await;
    becomes(&world, &id, "ERROR Unknown").await;
    let since = document(&world, &id).unseen_since.unwrap();
    let (_, reason) = shown(&world, &id);
    assert_eq!(
        reason,
        format!("its host node7 has not been heard of since {since}")
    );
    assert_eq!(shown(&world, &own), as_before());
    // The time goes on: it runs, for all that is known.
    assert_eq!(document(&world, &id).running_since, began);

    heard(&world, &host, true).await;
    becomes(&world, &id, "STARTED Running").await;
    assert_eq!(shown(&world, &id), as_before());
    assert_eq!(document(&world, &id).running_since, began);

    let events = events_of(&world, &id);
    let told: Vec<_> = events
        .iter()
        .map(|event| {
            let text = |name: &str| event.content[name].as_str().unwrap();
            format!("{} {} {}", text("previous"), text("state"), text("detail"))
        })
        .collect();
    assert_eq!(
        told,
        [
            format!("Running Unknown {reason}"),
            "Unknown Running its host node7 is heard of again".to_owned()
        ]
    );
    assert!(events_of(&world, &own).is_empty());
}

#[tokio::test]
async fn what_is_asked_of_them_waits_for_their_host() {
    let world = World::start().await;
    let _working = Working::begin(&world);
    let host = joined_host(&world).await;
    let (stopped, killed) = (
        running_on(&world, &host).await,
        running_on(&world, &host).await,
    );
    heard(&world, &host, false).await;
    becomes(&world, &stopped, "ERROR Unknown").await;
    becomes(&world, &killed, "ERROR Unknown").await;

    let (_, local) = split(&stopped);
    let alice = alice();
    let stop = || world.cloud.act_on_machine(&alice, local, "stop", false);
    let job = stop().await.unwrap().job.unwrap();
    // Twice is the same wish.
    assert_eq!(stop().await.unwrap().job.as_ref(), Some(&job));
    let (_, local) = split(&killed);
    let done = world.cloud.delete_machine(&alice, local).await.unwrap();
    assert_eq!(shown(&world, &stopped).0, "ERROR Unknown");
    // That it goes is known whatever its host says.
    let (state, reason) = shown(&world, &killed);
    assert_eq!(state, "DELETING Epilog");
    assert!(
        reason.starts_with("its host node7 has not been heard of"),
        "{reason}"
    );
    for job in [&job, &done.job.unwrap()] {
        let shown = world.get(&alice, job);
        let text = shown["statusMessage"].as_str().unwrap();
        let waits = "waits for its machine's host to be back: its host node7 has not been heard";
        assert!(text.starts_with(waits), "{text}");
        assert_eq!(shown["state"], "RUNNING");
    }

    heard(&world, &host, true).await;
    becomes(&world, &stopped, "STOPPING Shutdown").await;
    seen(&world, &stopped, |machine| {
        machine.observed.stage = Stage::Ended {
            cause: cimi::lifecycle::EndCause::Requested,
        };
    })
    .await;
    let (_, local) = split(&job);
    until("the job is over", || async {
        world.documents.jobs.get(local).unwrap().state == JobState::Success
    })
    .await;
}

#[tokio::test]
async fn machines_that_are_killed_end_with_a_host_that_never_comes_back() {
    let world = World::start().await;
    let host = joined_host(&world).await;
    let ids = [
        running_on(&world, &host).await,
        running_on(&world, &host).await,
    ];
    let (admin, alice) = (admin(), alice());
    let remove = || world.cloud.delete(&admin, Kind::Host, host.local());
    let refused = remove().await.unwrap_err().to_string();
    assert!(
        refused.starts_with("2 machines are on node7: move"),
        "{refused}"
    );
    heard(&world, &host, false).await;
    let (_, first) = split(&ids[0]);
    world.cloud.delete_machine(&alice, first).await.unwrap();
    // One is not to go.
    let refused = remove().await.unwrap_err().to_string();
    assert!(refused.contains("never comes back"), "{refused}");
    assert!(world.documents.machines.get(first).is_some());
    let (_, second) = split(&ids[1]);
    world.cloud.delete_machine(&alice, second).await.unwrap();
    remove().await.unwrap();
    assert!(world.documents.hosts.get(host.local()).is_none());
    assert!(world.documents.machines.is_empty());
    assert!(world.documents.addresses.is_empty());
    assert_eq!(world.documents.machine_records.len(), 2);
}

#[tokio::test]
async fn what_happened_while_nobody_watched_is_made_up_for() {
    let world = World::start().await;
    let host = joined_host(&world).await;
    let mut machines = Vec::new();
    // More than are written at once.
    for _ in 0..100 {
        machines.push(running_on(&world, &host).await);
    }
    heard(&world, &host, false).await;
    let working = Working::begin(&world);
    for id in &machines {
        becomes(&world, id, "ERROR Unknown").await;
    }
    drop(working);
    heard(&world, &host, true).await;
    assert_eq!(shown(&world, &machines[0]).0, "ERROR Unknown");
    // Two entries do the same, and tell it once.
    let _working = [Working::begin(&world), Working::begin(&world)];
    for id in &machines {
        becomes(&world, id, "STARTED Running").await;
        assert_eq!(events_of(&world, id).len(), 2);
    }
}

#[tokio::test]
async fn the_load_says_how_full_hosts_are_and_which_take_machines() {
    let world = World::start().await;
    let host = joined_host(&world).await;
    running_on(&world, &host).await;
    let off = running_on(&world, &host).await;
    seen(&world, &off, |machine| {
        machine.observed.stage = Stage::Failed;
    })
    .await;
    let load = || world.cloud.load().pop().unwrap();
    let machine = document(&world, &off);
    let is = load();
    assert_eq!((is.name.as_str(), is.running), ("node7", 1));
    assert_eq!(
        (
            is.cpu_percent.total,
            is.cpu_percent.used,
            is.cpu_percent.booked
        ),
        (400, 100, 200)
    );
    assert_eq!(
        (
            is.memory_kib.total,
            is.memory_kib.used,
            is.memory_kib.booked
        ),
        (1 << 22, machine.memory, 2 * machine.memory)
    );
    assert_eq!(is.takes, Takes::Machines);

    heard(&world, &host, false).await;
    assert_eq!(load().takes, Takes::Fault);
    heard(&world, &host, true).await;
    let change = |change: fn(&mut Host)| {
        let documents = world.documents.clone();
        let local = host.local().to_owned();
        let edit = move |host: &mut Host| {
            change(host);
            Ok::<_, CloudError>(true)
        };
        async move { documents.update(&local, edit).await.unwrap() }
    };
    for (edit, takes) in [
        (
            (|host| host.desired.maintenance = true) as fn(&mut Host),
            Takes::Nothing,
        ),
        (|host| host.desired.maintenance = false, Takes::Machines),
        (|host| host.runs_machines = false, Takes::Nothing),
        (|host| host.troubles.push("it burns".into()), Takes::Fault),
    ] {
        change(edit).await;
        assert_eq!(load().takes, takes);
    }
}

/// A machine that boots from a volume, seen in this stage on a host.
async fn from_volume_on(world: &World, host: &HostId, policy: &str, stage: Stage) -> String {
    let volume = world.volume(&alice()).await;
    let body = json!({"machineTemplate": {
        "machineConfig": {"cpu": 1, "memory": 65_536},
        "volumes": [{"volume": {"href": volume}}],
        "restartPolicy": policy,
    }});
    let id = world.made(&alice(), Kind::Machine, body).await;
    seen(world, &id, |machine| {
        machine.host = Some(host.clone());
        machine.observed.run = machine.desired.run;
        machine.observed.stage = stage.clone();
    })
    .await;
    id
}

#[tokio::test]
async fn those_with_all_their_data_on_volumes_go_on_elsewhere_by_a_word() {
    let world = World::start().await;
    let _working = Working::begin(&world);
    let host = joined_host(&world).await;
    let always = from_volume_on(&world, &host, "always", Stage::Running).await;
    let never = from_volume_on(&world, &host, "never", Stage::Running).await;
    let booting = from_volume_on(&world, &host, "never", Stage::Booting).await;
    let restarted = from_volume_on(&world, &host, "never", Stage::Running).await;
    seen(&world, &restarted, |machine| machine.desired.restart = 1).await;
    let suspended = from_volume_on(&world, &host, "always", Stage::Suspended).await;
    // Its guest has not gone on from its memory yet, or could not.
    let resumed = from_volume_on(&world, &host, "always", Stage::Booting).await;
    let failed = from_volume_on(&world, &host, "always", Stage::Failed).await;
    for id in [&resumed, &failed] {
        seen(&world, id, |machine| machine.observed.has_memory = true).await;
        assert!(!document(&world, id).goes_on_elsewhere());
    }
    let with_disk = running_on(&world, &host).await;
    let evacuate = async |who| {
        let body = json!({}).as_object().unwrap().clone();
        let acted = world
            .cloud
            .act(&who, Kind::Host, host.local(), "evacuate", &body);
        acted.await.map(drop)
    };
    // Two of each would run.
    match evacuate(admin()).await {
        Err(CloudError::Conflict(text)) => assert!(text.contains("node7 is not lost"), "{text}"),
        other => panic!("{other:?}"),
    }
    heard(&world, &host, false).await;
    becomes(&world, &with_disk, "ERROR Unknown").await;
    assert!(matches!(
        evacuate(alice()).await,
        Err(CloudError::Forbidden(_))
    ));
    evacuate(admin()).await.unwrap();

    for (id, run, stage) in [
        (&always, 2, "ended"),
        (&never, 1, "ended"),
        (&booting, 1, "waiting"),
        (&restarted, 2, "ended"),
    ] {
        let machine = document(&world, id);
        let (placed, left) = (machine.host.clone(), machine.left_on.clone());
        assert_eq!((placed, left), (None, vec![host.clone()]), "{id}");
        assert_eq!(machine.desired.run, run, "{id}");
        assert_eq!(machine.unseen_since, None, "{id}");
        let is = matches!(machine.observed.stage, Stage::Ended { .. });
        assert_eq!(is, stage == "ended", "{machine:?}");
        assert_eq!(machine.volumes.len(), 1);
    }
    assert_eq!(shown(&world, &always).0, "STARTING Pending");
    assert_eq!(shown(&world, &never).0, "STOPPED Unknown");
    let (state, reason) = shown(&world, &restarted);
    assert_eq!(state, "STARTING Pending");
    assert!(reason.contains("started on another one"), "{reason}");
    for (id, why) in [
        (&suspended, "its memory"),
        (&resumed, "its memory"),
        (&failed, "its memory"),
        (&with_disk, "its disk"),
    ] {
        let machine = document(&world, id);
        assert_eq!(machine.host, Some(host.clone()), "{why} is there");
        assert!(machine.left_on.is_empty());
        assert_eq!(shown(&world, id).0, "ERROR Unknown");
    }
    // Its use of processors and memory has ended.
    assert_eq!(document(&world, &always).running_since, None);
    // Said twice, nothing more happens.
    evacuate(admin()).await.unwrap();
    assert_eq!(document(&world, &always).desired.run, 2);

    // A host that never comes back is waited for by nobody once it is removed.
    for id in [&suspended, &resumed, &failed, &with_disk] {
        seen(&world, id, |machine| machine.desired.deleted = true).await;
    }
    let root = admin();
    let removed = world.cloud.delete(&root, Kind::Host, host.local());
    removed.await.unwrap();
    assert!(document(&world, &always).left_on.is_empty());
    assert!(world.documents.machines.get(split(&with_disk).1).is_none());
}
