//! A machine that is this host's no longer runs here no longer, and what it wrote is kept: nobody tells a host's
//! controller whether another runs it already.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use crate::controller_cloud::World;
use crate::support::until;
use cimi::{
    HostId,
    lifecycle::{Phase, Stage},
    resources::Machine,
};
use serde_json::json;
use store::{Key, Outcome, SqliteStore, Store as _, Transaction};

/// Waits until nothing of a machine is here but what is kept of it.
async fn left(world: &World, id: &str) {
    until("it has left", async || {
        !world.lives(id) && !world.run_folder(id).exists()
    })
    .await;
    let kept: Vec<_> = std::fs::read_dir(&world.settings.quarantine_dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(&format!("_{id}_root.qcow2")))
        .collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
}

/// A machine with something on its disk.
async fn running(world: &World) -> String {
    let id = world.running(json!({})).await;
    assert!(world.run_folder(&id).join("root.qcow2").exists());
    id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_another_host_has_is_ended_and_its_disk_kept() {
    let mut world = World::new().await;
    let (id, stays) = (running(&world).await, running(&world).await);
    let before = world.machine(&id).unwrap();
    let other = cimi::testing::host();
    world.add(&other).await;
    world
        .edit::<Machine>(&id, |machine| machine.host = Some(other.id.clone()))
        .await;
    left(&world, &id).await;

    // What is seen of it is the other host's to tell.
    let after = world.machine(&id).unwrap();
    assert_eq!(after.observed, before.observed);
    assert_eq!(after.observed.stage, Stage::Running);
    assert_eq!(after.running_since, before.running_since);
    assert!(world.lives(&stays));
    assert_eq!(world.phase(&stays, Phase::Running).await.id.local(), stays);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_out_of_sight_is_ended_and_its_disk_kept() {
    let mut world = World::new().await;
    let id = running(&world).await;
    let read = world.documents().machines.get(&id).unwrap();
    let gone = world.documents().changes().remove(&read);
    gone.commit().await.unwrap();
    left(&world, &id).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_left_while_nobody_looked_is_ended_and_its_disk_kept() {
    let mut world = World::new().await;
    let id = running(&world).await;
    world.crash().await;
    place_on(&world, &id, &cimi::testing::host().id).await;
    assert!(world.lives(&id));
    world.start().await;
    left(&world, &id).await;
    world.stop().await;
}

/// What another daemon does while ours is down.
async fn place_on(world: &World, id: &str, host: &HostId) {
    let store = SqliteStore::open(world.folder.path().join("db")).unwrap();
    let key: Key = format!("Machine/{id}").parse().unwrap();
    let read = store.get(&key).await.unwrap().unwrap();
    let mut machine: Machine = serde_json::from_slice(&read.value).unwrap();
    machine.host = Some(host.clone());
    let put = Transaction::new().put(key, serde_json::to_vec(&machine).unwrap());
    let done = store.commit(put).await.unwrap();
    assert!(matches!(done, Outcome::Committed(_)), "{done:?}");
}
