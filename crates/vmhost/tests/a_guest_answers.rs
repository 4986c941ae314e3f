//! The tiny appliance under a real QEMU: the answers only a guest can give.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::support::{Bench, PATIENCE, wait_for};
use vmhost::hypervisor::RunFolder;
use vmhost::launch_spec::{Boot, DiskFormat, ImageFile};
use vmhost::serial::{DEFAULT_LIMIT_BYTES, SerialLogs};
use vmhost::{Hypervisor as _, LaunchSpec, MachineEvent, RunState};

/// The appliance, built once (the build keeps its result); `None` with the reason printed if it can't be built here.
fn appliance() -> Option<PathBuf> {
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../appliances/tiny/build");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tiny");
    match Command::new(&build).arg(&folder).output() {
        Ok(output) if output.status.success() => Some(folder),
        Ok(output) => {
            eprintln!(
                "skipped: the tiny appliance can't be built: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            None
        }
        Err(error) => {
            eprintln!("skipped: {} can't be run: {error}", build.display());
            None
        }
    }
}

/// A machine that boots the appliance from an overlay.
fn booting(bench: &Bench, appliance: &Path) -> LaunchSpec {
    let base = appliance.join("tiny.qcow2");
    let overlay = bench.path().join("root.qcow2");
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
        .args([&base, &overlay])
        .status()
        .unwrap();
    assert!(made.success());
    // The kernel must be readable for QEMU's user; the folders of a build need not be.
    let (kernel, initrd) = (bench.path().join("vmlinuz"), bench.path().join("initrd"));
    std::fs::copy(appliance.join("tiny.vmlinuz"), &kernel).unwrap();
    std::fs::copy(appliance.join("tiny.initrd"), &initrd).unwrap();
    let arguments = std::fs::read_to_string(appliance.join("tiny.cmdline")).unwrap();
    let mut spec = bench.spec();
    spec.memory_mib = 128;
    spec.spare_ports = 8;
    spec.boot = Boot::Kernel {
        kernel,
        initrd: Some(initrd),
        arguments: arguments.trim().replace(" quiet", ""),
    };
    spec.disks[0].image = ImageFile::file(overlay, DiskFormat::Qcow2);
    spec.disks[0].backing = vec![ImageFile::file(base, DiskFormat::Qcow2)];
    spec
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_gives_up_a_disk_powers_off_and_runs_again() {
    let Some(bench) = Bench::new() else { return };
    let Some(appliance) = appliance() else { return };
    let machine = bench
        .hypervisor
        .launch(booting(&bench, &appliance))
        .await
        .unwrap();
    let logs = SerialLogs::new().unwrap();
    let log = logs
        .open(&RunFolder(bench.run_folder()), DEFAULT_LIMIT_BYTES)
        .unwrap();
    let mut events = machine.events();
    let began = Instant::now();
    machine.cont().await.unwrap();

    // The console is followed until the system's first program has taken over.
    let mut follower = log.follow(0);
    let booted = async {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains("Run /init as init process") {
            seen.extend(follower.next().await.unwrap().bytes);
        }
    };
    tokio::time::timeout(PATIENCE, booted).await.unwrap();
    eprintln!("kernel up after {:?}", began.elapsed());

    let volume = bench.disk("volume");
    let began = Instant::now();
    machine.attach_disk(volume.clone()).await.unwrap();
    eprintln!("attached after {:?}", began.elapsed());
    let began = Instant::now();
    machine.begin_detach(&volume.id).await.unwrap();
    // A guest that was just booting may have overlooked the request: it is asked again, as a controller does.
    let detached = async {
        loop {
            let once = wait_for(&mut events, |event| {
                *event
                    == MachineEvent::DiskDetached {
                        disk: volume.id.clone(),
                    }
            });
            if tokio::time::timeout(std::time::Duration::from_secs(2), once)
                .await
                .is_ok()
            {
                break;
            }
            // No longer there: the event came between two waits.
            if machine.begin_detach(&volume.id).await.is_err() {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, detached).await.unwrap();
    eprintln!("detached after {:?}", began.elapsed());
    assert_eq!(machine.status().await.unwrap().free_ports, 8);

    // The power button: pressed until the guest listens to it.
    let began = Instant::now();
    let off = async {
        loop {
            machine.power_button().await.unwrap();
            let once = wait_for(&mut events, |event| *event == MachineEvent::GuestShutdown);
            if tokio::time::timeout(std::time::Duration::from_secs(3), once)
                .await
                .is_ok()
            {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, off).await.unwrap();
    eprintln!("powered off after {:?}", began.elapsed());
    assert_eq!(
        machine.status().await.unwrap().run_state,
        RunState::ShutDown
    );

    // That it powered itself off is still known to the next controller, which may start it again.
    drop(machine);
    let adopted = bench
        .another_hypervisor()
        .adopt(&bench.run_folder())
        .await
        .unwrap();
    let vmhost::Adopted::Running(machine) = adopted else {
        panic!("{adopted:?}")
    };
    assert_eq!(
        machine.status().await.unwrap().run_state,
        RunState::ShutDown
    );
    assert!(machine.cont().await.is_err());
    machine.reset().await.unwrap();
    machine.cont().await.unwrap();
    assert_eq!(machine.status().await.unwrap().run_state, RunState::Running);
    machine.quit().await.unwrap();
}
