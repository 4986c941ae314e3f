//! What no document knows is found and put away, and nothing else is; nothing of it is lost.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::{fs, path::Path};

use crate::controller_cloud::World;
use crate::support::{Bench, until};
use serde_json::json;
use uuid::Uuid;
use vmhost::{Hypervisor as _, controller::Finding};

async fn findings(world: &World, repair: bool) -> Vec<Finding> {
    world.host().audit(repair).await
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folders_of_unknown_machines_go_to_the_quarantine() {
    let mut world = World::new().await;
    let known = world.running(json!({})).await;
    assert_eq!(findings(&world, false).await, []);
    let machines = world.settings.machines_dir.clone();
    let orphan = Uuid::now_v7();
    let folder = machines.join(orphan.to_string());
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("root.qcow2"), b"precious").unwrap();
    fs::write(folder.join("serial.log"), b"login:").unwrap();
    fs::create_dir(machines.join("lost+found")).unwrap();

    let found = findings(&world, false).await;
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(folder.exists());
    findings(&world, true).await;
    assert!(!folder.exists());
    let kept = names(&world.settings.quarantine_dir);
    assert_eq!(kept.len(), 2, "{kept:?}");
    let disk = kept
        .iter()
        .find(|name| name.ends_with(&format!("_{orphan}_root.qcow2")))
        .unwrap();
    assert_eq!(
        fs::read(world.settings.quarantine_dir.join(disk)).unwrap(),
        b"precious"
    );
    assert_eq!(names(&machines), {
        let mut left = vec![known, "lost+found".to_owned()];
        left.sort();
        left
    });
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_qemu_whose_folder_is_gone_is_found_and_ended() {
    let Some(bench) = Bench::new() else { return };
    let hypervisor = bench.hypervisor.clone();
    let mut world = World::over(|_| hypervisor, |_| {}).await;
    let folder = world
        .settings
        .machines_dir
        .canonicalize()
        .unwrap()
        .join(bench.machine.to_string());
    let mut spec = bench.spec();
    spec.folder = folder.clone();
    let machine = bench.hypervisor.launch(spec).await.unwrap();
    let pid = machine.process_id().unwrap();
    drop(machine);
    let found = findings(&world, false).await;
    let kinds: Vec<_> = found.iter().map(|finding| finding.kind).collect();
    assert_eq!(kinds, ["folder", "process"], "{found:?}");
    fs::remove_dir_all(&folder).unwrap();

    let found = findings(&world, false).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].kind == "process"
            && found[0].detail.contains(&pid.to_string())
            && found[0].detail.contains("folder is gone"),
        "{found:?}"
    );
    findings(&world, true).await;
    until("it has ended", async || bench.processes().is_empty()).await;
    assert_eq!(findings(&world, false).await, []);
    world.stop().await;
}

#[tokio::test]
async fn a_root_disk_that_is_gone_is_to_be_put_back_and_one_folder_is_told_once() {
    let mut world = World::new().await;
    let lost = world.running(json!({})).await;
    let other = world.running(json!({})).await;
    for id in [&lost, &other] {
        let job = world.act(id, "stop", true).await;
        world.succeeds(&job).await;
    }
    let machines = world.settings.machines_dir.clone();
    let disk = world.run_folder(&lost).join("root.qcow2");
    let aside = disk.with_extension("aside");
    fs::rename(&disk, &aside).unwrap();
    let found = findings(&world, true).await;
    let [one] = &*found else { panic!("{found:?}") };
    assert_eq!((one.kind, one.what.contains(&lost)), ("disk", true));
    assert!(one.detail.contains("root.qcow2 is gone"), "{found:?}");
    assert!(one.repair.contains("put the file back"), "{found:?}");
    // As when their file system isn't mounted.
    let unmounted = machines.with_extension("aside");
    fs::rename(&machines, &unmounted).unwrap();
    fs::create_dir(&machines).unwrap();
    let found = findings(&world, true).await;
    let [all] = &*found else { panic!("{found:?}") };
    assert_eq!((all.kind, Path::new(&all.what)), ("disk", &*machines));
    assert!(all.detail.contains("all 2 machines"), "{found:?}");
    assert!(all.repair.contains("is mounted"), "{found:?}");
    fs::remove_dir(&machines).unwrap();
    fs::rename(&unmounted, &machines).unwrap();
    fs::rename(&aside, &disk).unwrap();
    assert_eq!(findings(&world, false).await, []);
    let job = world.act(&lost, "start", false).await;
    world.succeeds(&job).await;
    world.stop().await;
}
