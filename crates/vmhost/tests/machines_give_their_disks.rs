//! The disk of a machine that is off is given to the storage, to be saved; or why it isn't.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::{fs, os::unix::fs::symlink};

use crate::controller_cloud::World;
use cimi::lifecycle::MachineState;
use serde_json::json;
use storage::elsewhere::NoDisk;

#[tokio::test]
async fn what_a_host_can_not_read_for_now_is_told_from_what_is_lost() {
    let world = World::new().await;
    let id = world.running(json!({})).await;
    let disk = world.run_folder(&id).join("root.qcow2");
    let given = async || {
        world
            .host()
            .disk_to_save(&id)
            .await
            .map(|one| one.map(|(length, _)| length))
    };
    assert!(given().await.unwrap().is_none(), "it runs");
    let job = world.act(&id, "stop", true).await;
    world.succeeds(&job).await;
    world.state(&id, MachineState::Stopped).await;
    let length = fs::metadata(&disk).unwrap().len();
    assert_eq!(given().await.unwrap(), Some(length));

    // The system refuses for a reason of which nothing follows for the disk.
    let kept = disk.with_extension("kept");
    fs::rename(&disk, &kept).unwrap();
    symlink(&disk, &disk).unwrap();
    let why = given().await.unwrap_err();
    assert!(matches!(why, NoDisk::NotNow(_)), "{why}");

    fs::remove_file(&disk).unwrap();
    let why = given().await.unwrap_err();
    assert!(matches!(why, NoDisk::Unreadable(_)), "{why}");

    // As when it isn't mounted.
    let away = world.folder.path().join("away");
    fs::rename(world.run_folder(&id), &away).unwrap();
    let why = given().await.unwrap_err();
    assert!(matches!(why, NoDisk::NotNow(_)), "{why}");

    fs::rename(&away, world.run_folder(&id)).unwrap();
    fs::rename(&kept, &disk).unwrap();
    assert_eq!(given().await.unwrap(), Some(length));
}
