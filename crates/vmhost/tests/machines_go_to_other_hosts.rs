//! Machines that go to another host and come from one; what is left of those that went on elsewhere.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)] // a test that panics has failed

use crate::controller_cloud::{PATIENCE, World};
use cimi::{
    lifecycle::{MachineState, Moving, Phase},
    resources::Machine,
};
use serde_json::json;

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

/// A machine is wanted on this host from now on.
fn moving(to: &cimi::HostId, since: cimi::Timestamp, ready: bool) -> Moving {
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
    let since = cimi::Timestamp::now();
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
        let since = cimi::Timestamp::now();
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
    let id = world.running(json!({})).await;
    let job = world.act(&id, "stop", true).await;
    world.succeeds(&job).await;
    let own = world.host().host().clone();
    let other = cimi::testing::host();
    world.add(&other).await;
    // It is the other's, with these files.
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

    // Given up on the way: what was copied goes.
    let arriving = world.run_folder(&id).with_extension("arriving");
    let since = cimi::Timestamp::now();
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
    tokio::time::timeout(PATIENCE, async {
        while !root.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
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
    tokio::time::timeout(PATIENCE, async {
        while whole.exists() || partly.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
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
