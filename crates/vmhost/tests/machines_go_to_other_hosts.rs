//! Machines that go to another host and come from one; what is left of those that went on elsewhere.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)] // a test that panics has failed

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::controller_cloud::{PATIENCE, World};
use cimi::{
    HostId, Timestamp,
    lifecycle::{MachineState, Moving, Phase, Stage},
    resources::{Host, Machine},
};
use parking_lot::Mutex;
use serde_json::json;
use store::StoreError;
use tokio::sync::Notify;
use vmhost::{RunState, RunningMachine as _};

const WHOLE: &str = "0190a000-0000-7000-8000-000000000001";
const PARTLY: &str = "0190a000-0000-7000-8000-000000000002";

/// Root disks of this machine that are kept for a while.
fn quarantined(world: &World, machine: &str) -> Vec<std::path::PathBuf> {
    let all = std::fs::read_dir(&world.settings.quarantine_dir).unwrap();
    let all = all.map(|one| one.unwrap().path());
    all.filter(|path| path.display().to_string().contains(machine))
        .collect()
}

#[tokio::test]
async fn what_is_left_of_a_machine_that_goes_on_elsewhere_is_cleared_away() {
    let mut world = World::new().await;
    let id = world.running(json!({})).await;
    let stays = world.running(json!({})).await;
    let own = world.host().host().clone();
    // The cloud was told that this host is off, and it was only cut off; its daemon has the machine in its hands, or begins anew.
    for begins_anew in [false, true] {
        if begins_anew {
            world.crash().await;
            world.start().await;
        }
        let other = cimi::testing::host();
        world
            .edit::<Machine>(&id, |machine| {
                machine.host = Some(other.id.clone());
                machine.left_on = vec![own.clone()];
                // One with a disk that was written goes on only with that.
                machine.first_started = None;
                machine.settle();
            })
            .await;
        let machine = world
            .until(&id, "nothing to be left", |machine| {
                machine.left_on.is_empty()
            })
            .await;
        assert_eq!(machine.host, Some(other.id));
        assert!(!world.lives(&id) && !world.run_folder(&id).exists());
        assert!(world.lives(&stays));

        // Placed here again, it begins anew.
        world
            .edit::<Machine>(&id, |machine| {
                machine.host = Some(own.clone());
                machine.desired.run += 1;
                machine.settle();
            })
            .await;
        let run = world.machine(&id).unwrap().desired.run;
        world
            .until(&id, "the new run", |machine| {
                machine.observed.run == run && machine.phase == Phase::Running
            })
            .await;
        assert!(world.lives(&id));
    }
    // While another host still has something of it, it isn't forgotten.
    let other = cimi::testing::host();
    world
        .edit::<Machine>(&id, |machine| machine.left_on = vec![other.id.clone()])
        .await;
    let _ = world.act(&id, "kill", false).await;
    let waits = |machine: &Machine| {
        machine
            .reason
            .as_ref()
            .is_some_and(|why| why.contains("the host that had it before"))
    };
    world.until(&id, "to wait for the other host", waits).await;
    assert!(!world.lives(&id));
    world
        .edit::<Machine>(&id, |machine| machine.left_on.clear())
        .await;
    world.gone(&id).await;
    world.settles().await;
}

/// Waits until it is so.
async fn until(is_so: impl Fn() -> bool) {
    tokio::time::timeout(PATIENCE, async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

/// A machine that stands still on another host, and of which nothing is here; what its root disk is there.
async fn at_another_host(world: &World) -> (String, Host, Vec<u8>) {
    let id = world.running(json!({})).await;
    let job = world.act(&id, "stop", true).await;
    world.succeeds(&job).await;
    let (own, other) = (world.host().host().clone(), cimi::testing::host());
    world.add(&other).await;
    let elsewhere = world.elsewhere();
    std::fs::create_dir(&elsewhere).unwrap();
    let mut disk = std::fs::read(world.run_folder(&id).join("root.qcow2")).unwrap();
    disk.extend_from_slice(b"of the other host");
    std::fs::write(elsewhere.join("root.qcow2"), &disk).unwrap();
    world
        .edit::<Machine>(&id, |machine| {
            machine.host = Some(other.id.clone());
            machine.left_on = vec![own.clone()];
        })
        .await;
    world
        .until(&id, "nothing to be left", |machine| {
            machine.left_on.is_empty()
        })
        .await;
    (id, other, disk)
}

/// A machine is wanted on this host from now on.
fn moving(to: &HostId, since: Timestamp, ready: bool) -> Moving {
    Moving {
        to: Some(to.clone()),
        ready,
        ..Moving::asked(since)
    }
}

#[tokio::test]
async fn a_machine_that_is_to_go_stands_still_and_goes_on_if_that_is_given_up() {
    let world = World::new().await;
    let id = world.running(json!({})).await;
    let other = cimi::testing::host();
    world.add(&other).await;
    let since = Timestamp::now();
    world
        .edit::<Machine>(&id, |machine| {
            machine.desired.moving = Some(moving(&other.id, since, false));
        })
        .await;
    assert!(world.host().files(&id).is_none(), "it runs");
    world
        .edit::<Machine>(&id, |machine| {
            machine.desired.moving = Some(moving(&other.id, since, true));
            machine.settle();
        })
        .await;
    let machine = world
        .until(&id, "it to stand still", |machine| machine.has_left())
        .await;
    assert_eq!(machine.state, MachineState::Suspended);
    assert!(!world.lives(&id) && world.host().files(&id).is_some());
    // Asked to start, or off and on again: nothing is started as long as it is on its way.
    let _ = world.act(&id, "start", false).await;
    let _ = world.act(&id, "stop", true).await;
    let _ = world.act(&id, "start", false).await;
    world
        .until(&id, "it to stand still again", |machine| machine.has_left())
        .await;
    assert!(!world.lives(&id));
    world
        .edit::<Machine>(&id, |machine| {
            machine.desired.moving = None;
            machine.settle();
        })
        .await;
    world.phase(&id, Phase::Running).await;
    assert!(world.lives(&id) && world.host().files(&id).is_none());
}

#[tokio::test]
async fn a_machine_that_can_not_run_on_its_way_goes_at_rest() {
    let world = World::new().await;
    let other = cimi::testing::host();
    world.add(&other).await;
    for is_paused in [false, true] {
        let id = world.running(json!({})).await;
        if is_paused {
            let job = world.act(&id, "pause", false).await;
            world.succeeds(&job).await;
        }
        let since = Timestamp::now();
        let live = Moving {
            live: true,
            ..moving(&other.id, since, true)
        };
        world
            .edit::<Machine>(&id, |machine| {
                machine.desired.moving = Some(live.clone());
                machine.settle();
            })
            .await;
        let machine = world
            .until(&id, "it to stand still", |machine| machine.has_left())
            .await;
        assert_eq!(machine.observed.at_rest, Some(since));
        assert_eq!(machine.state, MachineState::Suspended);
        assert!(!world.lives(&id) && world.host().files(&id).is_some());
    }
}

#[tokio::test]
async fn a_machine_that_comes_has_its_files_when_it_is_this_hosts() {
    let mut world = World::new().await;
    let (id, other, disk) = at_another_host(&world).await;
    let own = world.host().host().clone();

    // Given up on the way: what was copied goes.
    let arriving = world.run_folder(&id).with_extension("arriving");
    let since = Timestamp::now();
    world
        .edit::<Machine>(&id, |machine| {
            machine.desired.moving = Some(moving(&own, since, false));
        })
        .await;
    let is_ready = |machine: &Machine| {
        machine
            .desired
            .moving
            .as_ref()
            .is_some_and(|moving| moving.ready)
    };
    world.until(&id, "it to be ready for it", is_ready).await;
    assert!(!arriving.exists(), "it doesn't stand still yet");
    world
        .edit::<Machine>(&id, |machine| {
            machine.desired.moving = None;
        })
        .await;

    world
        .edit::<Machine>(&id, |machine| {
            machine.desired.moving = Some(moving(&own, since, true));
            machine.observed.left_for = Some(since);
        })
        .await;
    // The rules make it this host's once its files are here.
    let machine = world
        .until(&id, "it to be here", |machine| {
            machine.host.as_ref() == Some(&own)
        })
        .await;
    assert_eq!(machine.left_on, std::slice::from_ref(&other.id));
    world
        .edit::<Machine>(&id, |machine| machine.left_on.clear())
        .await;
    let root = world.run_folder(&id).join("root.qcow2");
    until(|| root.exists()).await;
    assert!(std::fs::read(&root).unwrap() == disk && !arriving.exists());
    let job = world.act(&id, "start", false).await;
    world.succeeds(&job).await;
    assert!(world.lives(&id));

    // What was copied of machines that never came is thrown away at the start. What came whole may be the only copy.
    let [whole, partly] =
        [WHOLE, PARTLY].map(|stray| world.run_folder(stray).with_extension("arriving"));
    for stray in [&whole, &partly] {
        std::fs::create_dir(stray).unwrap();
        std::fs::write(stray.join("root.qcow2"), stray.display().to_string()).unwrap();
    }
    std::fs::write(whole.join("whole"), "").unwrap();
    // Those that can't be cleared away keep no others from it, in whatever order they are found.
    let stuck: Vec<_> = (100..120)
        .map(|number| {
            world.run_folder(&format!(
                "0190a000-0000-7000-8000-000000000{number}.arriving"
            ))
        })
        .collect();
    for stuck in &stuck {
        std::fs::write(stuck, "no folder").unwrap();
    }
    world.crash().await;
    world.start().await;
    until(|| !whole.exists() && !partly.exists()).await;
    let kept = quarantined(&world, WHOLE);
    assert_eq!(kept.len(), 1);
    let text = std::fs::read_to_string(&kept[0]).unwrap();
    assert_eq!(text, whole.display().to_string());
    assert!(quarantined(&world, PARTLY).is_empty());
    for stuck in &stuck {
        std::fs::remove_file(stuck).unwrap();
    }
    let _ = world.act(&id, "kill", false).await;
    world.gone(&id).await;
    world.settles().await;
}

#[tokio::test]
async fn the_root_disk_of_one_that_has_run_is_kept_for_a_while_where_it_was() {
    let world = World::new().await;
    let id = world.running(json!({})).await;
    let own = world.host().host().clone();
    let disk = std::fs::read(world.run_folder(&id).join("root.qcow2")).unwrap();
    let other = cimi::testing::host();
    world
        .edit::<Machine>(&id, |machine| {
            machine.host = Some(other.id.clone());
            machine.left_on = vec![own.clone()];
            machine.settle();
        })
        .await;
    world
        .until(&id, "nothing to be left", |machine| {
            machine.left_on.is_empty()
        })
        .await;
    assert!(!world.lives(&id) && !world.run_folder(&id).exists());
    let kept = quarantined(&world, &id);
    assert_eq!(kept.len(), 1);
    assert!(std::fs::read(&kept[0]).unwrap() == disk);
    // Back here it finds none, and gets no empty one in its place.
    world
        .edit::<Machine>(&id, |machine| {
            machine.host = Some(own.clone());
            machine.desired.run += 1;
            machine.settle();
        })
        .await;
    let is_told = |machine: &Machine| {
        let reason = machine.reason.as_deref().unwrap_or_default();
        reason.contains("root.qcow2 is gone")
    };
    world
        .until(&id, "to say that its disk is gone", is_told)
        .await;
    assert!(!world.lives(&id));
}

#[tokio::test]
async fn what_came_whole_is_not_copied_again_when_that_could_not_be_said() {
    let mut world = World::new().await;
    let (id, _, disk) = at_another_host(&world).await;
    let (own, kept) = (world.host().host().clone(), quarantined(&world, &id));
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = tries.clone();
    world.writes.with(move |written| {
        let is_it = written.contains(r#""arrived":true"#);
        counted.fetch_add(usize::from(is_it), Ordering::SeqCst);
        Box::pin(async move {
            match is_it {
                true => Err(StoreError::Unavailable {
                    endpoints: "the database".to_owned(),
                    doing: "a transaction",
                    reason: "it isn't heard".to_owned(),
                }),
                false => Ok(()),
            }
        })
    });
    let since = Timestamp::now();
    world
        .edit::<Machine>(&id, |machine| {
            machine.desired.moving = Some(moving(&own, since, true));
            machine.observed.left_for = Some(since);
        })
        .await;
    until(|| tries.load(Ordering::SeqCst) > 0).await;
    // Nobody would give them once more.
    std::fs::remove_dir_all(world.elsewhere()).unwrap();
    let before = tries.load(Ordering::SeqCst);
    until(|| tries.load(Ordering::SeqCst) > before).await;
    // Neither does a daemon copy them that begins anew.
    world.crash().await;
    let before = tries.load(Ordering::SeqCst);
    world.start().await;
    until(|| tries.load(Ordering::SeqCst) > before).await;
    world.writes.ends();
    world
        .until(&id, "it to be here", |machine| {
            machine.host.as_ref() == Some(&own)
        })
        .await;
    let root = world.run_folder(&id).join("root.qcow2");
    until(|| root.exists()).await;
    assert!(std::fs::read(&root).unwrap() == disk);
    assert_eq!(quarantined(&world, &id), kept);
}

#[tokio::test]
async fn what_is_said_of_a_way_that_was_given_up_is_not_said_of_the_next() {
    let world = World::new().await;
    let (id, ..) = at_another_host(&world).await;
    let own = world.host().host().clone();
    let first = Timestamp::now();
    let second = first.after(std::time::Duration::from_millis(1));
    // That it is ready for the first way is on its way to the store when another one is wanted.
    let (held, goes) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let said = Arc::new(Mutex::new(Vec::new()));
    let (reached, waits, hears) = (held.clone(), goes.clone(), said.clone());
    world.writes.with(move |written| {
        let (reached, waits) = (reached.clone(), waits.clone());
        let is_ready = written.contains(r#""ready":true"#);
        let is_first = written.contains(&first.to_string());
        if is_ready || written.contains(r#""problem":"#) {
            hears.lock().push((is_first, is_ready));
        }
        Box::pin(async move {
            if is_ready && is_first {
                reached.notify_one();
                waits.notified().await;
            }
            Ok(())
        })
    });
    let wanted = async |since| {
        let way = moving(&own, since, false);
        let edit = |machine: &mut Machine| machine.desired.moving = Some(way.clone());
        world.edit::<Machine>(&id, edit).await;
    };
    wanted(first).await;
    held.notified().await;
    // It can't come by the next one.
    std::fs::create_dir(world.run_folder(&id)).unwrap();
    wanted(second).await;
    goes.notify_one();
    until(|| said.lock().len() > 1).await;
    assert_eq!(*said.lock(), [(true, true), (false, false)]);
}

#[tokio::test]
async fn after_a_restart_a_machine_that_has_come_goes_on_once_its_volumes_are_its_own() {
    let mut world = World::new().await;
    let id = world.running(json!({})).await;
    let volume = world.volume().await;
    let job = world.attach(&id, &volume).await;
    world.succeeds(&job).await;
    let guest = world.guest(&id);
    // Killed between the transaction that made it this host's and letting its guest run. The storage waits for the host before.
    world.crash().await;
    guest.pause().await.unwrap();
    world
        .edit_meanwhile(&id, |machine| {
            machine.observed.stage = Stage::Crossing;
            machine.settle();
        })
        .await;
    let why = "another host still has it";
    world.volumes.refused(Some(why));
    world.start().await;
    let volumes = world.volumes.clone();
    until(|| volumes.times_refused() > 2).await;
    assert_eq!(guest.status().await.unwrap().run_state, RunState::Paused);
    world.volumes.refused(None);
    let goes_on = |machine: &Machine| machine.observed.stage == Stage::Running;
    world.until(&id, "it to go on", goes_on).await;
    assert_eq!(guest.status().await.unwrap().run_state, RunState::Running);
    world.settles().await;
}
