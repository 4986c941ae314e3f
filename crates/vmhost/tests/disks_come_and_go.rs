//! Hot-plug with a real QEMU and no guest system: what needs a guest's answer stays pending until a reset.
//! The virtual CPU is never started: firmware interrupted by a reset at the wrong moment runs wild.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::sync::Arc;

use crate::support::{Bench, until, wait_for};
use vmhost::launch_spec::{DiskFormat, ImageFile};
use vmhost::{DiskId, Hypervisor as _, HypervisorError, MachineEvent, RunningMachine};

async fn detach_by_reset(machine: &Arc<dyn RunningMachine>, id: &str) {
    let id = DiskId::new(id).unwrap();
    let mut events = machine.events();
    machine.begin_detach(&id).await.unwrap();
    machine.reset().await.unwrap();
    wait_for(&mut events, |event| {
        *event == MachineEvent::DiskDetached { disk: id.clone() }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_detachment_nobody_answers_blocks_nothing_and_a_reset_completes_it() {
    let Some(bench) = Bench::new() else { return };
    let machine = bench.launched().await;
    let volume = bench.disk("volume");
    machine.attach_disk(volume.clone()).await.unwrap();
    let status = machine.status().await.unwrap();
    assert_eq!(
        status
            .disks
            .iter()
            .map(|disk| (disk.id.as_str(), disk.port))
            .collect::<Vec<_>>(),
        [("root", 0), ("volume", 1)]
    );
    assert_eq!(status.free_ports, 2);

    // The firmware never answers; asking again is allowed, and everything else goes on.
    machine.begin_detach(&volume.id).await.unwrap();
    machine.begin_detach(&volume.id).await.unwrap();
    machine.attach_disk(bench.disk("another")).await.unwrap();
    let status = machine.status().await.unwrap();
    assert!(
        status
            .disks
            .iter()
            .any(|disk| disk.id == volume.id && disk.detaching)
    );
    assert_eq!(
        status.free_ports, 1,
        "the port is not free before the device is gone"
    );
    assert!(matches!(
        machine.attach_disk(volume.clone()).await,
        Err(HypervisorError::DiskAlreadyAttached { .. })
    ));

    let mut events = machine.events();
    machine.reset().await.unwrap();
    wait_for(&mut events, |event| {
        *event
            == MachineEvent::DiskDetached {
                disk: volume.id.clone(),
            }
    })
    .await;
    assert_eq!(machine.status().await.unwrap().free_ports, 2);
    machine.attach_disk(volume).await.unwrap();
    machine.quit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_is_never_used_twice_and_a_disk_neither() {
    let Some(bench) = Bench::new() else { return };
    let machine = bench.launched().await;
    for id in ["a", "b", "c"] {
        machine.attach_disk(bench.disk(id)).await.unwrap();
    }
    assert!(matches!(
        machine.attach_disk(bench.disk("d")).await,
        Err(HypervisorError::NoFreePort { ports: 4 })
    ));
    detach_by_reset(&machine, "b").await;
    machine.attach_disk(bench.disk("d")).await.unwrap();
    let status = machine.status().await.unwrap();
    assert_eq!(
        status
            .disks
            .iter()
            .map(|disk| disk.id.as_str())
            .collect::<Vec<_>>(),
        ["root", "a", "d", "c"]
    );
    assert!(matches!(
        machine.begin_detach(&DiskId::new("b").unwrap()).await,
        Err(HypervisorError::UnknownDisk { .. })
    ));
    machine.quit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attachment_that_fails_leaves_nothing() {
    let Some(bench) = Bench::new() else { return };
    let machine = bench.launched().await;

    let mut missing = bench.disk("missing");
    missing.image.path = "/nowhere/volume".into();
    assert!(matches!(
        machine.attach_disk(missing).await,
        Err(HypervisorError::System { .. })
    ));

    let mut wrong = bench.disk("wrong");
    wrong.image.format = DiskFormat::Qcow2;
    assert!(matches!(
        machine.attach_disk(wrong.clone()).await,
        Err(HypervisorError::Monitor(_))
    ));
    assert_eq!(machine.status().await.unwrap().free_ports, 3);

    // The same names of nodes and descriptor sets work at once again.
    wrong.image.format = DiskFormat::Raw;
    machine.attach_disk(wrong).await.unwrap();

    let mut twice = bench.disk("twice");
    twice.image = ImageFile::file(bench.path().join("root.raw"), DiskFormat::Raw);
    let refused = machine.attach_disk(twice).await;
    assert!(
        matches!(refused, Err(HypervisorError::DiskInUse { .. })),
        "{refused:?}"
    );
    assert_eq!(machine.status().await.unwrap().free_ports, 2);
    machine.quit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_machines_never_write_one_image() {
    let (Some(first), Some(second)) = (Bench::new(), Bench::new()) else {
        return;
    };
    let machine = first.launched().await;
    let volume = first.disk("volume");
    machine.attach_disk(volume.clone()).await.unwrap();
    let other = second.launched().await;
    let refused = other.attach_disk(volume.clone()).await;
    assert!(
        matches!(refused, Err(HypervisorError::DiskInUse { .. })),
        "{refused:?}"
    );
    machine.quit().await.unwrap();
    other.attach_disk(volume).await.unwrap();
    other.quit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overlay_brings_its_chain_and_frees_all_of_it() {
    let Some(bench) = Bench::new() else { return };
    let qemu_img = std::path::Path::new("/usr/bin/qemu-img");
    if !qemu_img.exists() {
        eprintln!(
            "skipped: {} is not installed (Debian package qemu-utils)",
            qemu_img.display()
        );
        return;
    }
    let base = bench.disk("base").image;
    let overlay = bench.path().join("overlay.qcow2");
    let made = std::process::Command::new(qemu_img)
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
        .args([&base.path, &overlay])
        .status()
        .unwrap();
    assert!(made.success());
    let mut disk = bench.disk("chained");
    disk.image = ImageFile::file(overlay, DiskFormat::Qcow2);
    disk.backing = vec![base];

    let mut spec = bench.spec();
    spec.media = vec![bench.disk("context").image.path];
    let machine = bench.hypervisor.launch(spec).await.unwrap();
    machine.attach_disk(disk.clone()).await.unwrap();
    detach_by_reset(&machine, "chained").await;
    // Freed entirely once the guest runs: no image of it is open any more.
    machine.attach_disk(bench.disk("other")).await.unwrap();
    machine.cont().await.unwrap();
    let pid = machine.process_id().unwrap();
    let open = || -> Vec<_> {
        let entries = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .flatten();
        entries
            .filter_map(|entry| std::fs::read_link(entry.path()).ok())
            .collect()
    };
    until("the images are closed", async || {
        let open = open();
        !open.contains(&disk.image.path) && !open.contains(&disk.backing[0].path)
    })
    .await;
    assert!(open().contains(&bench.path().join("root.raw")));
    assert!(open().contains(&bench.path().join("other.raw")));
    machine.attach_disk(disk).await.unwrap();
    machine.quit().await.unwrap();
}
