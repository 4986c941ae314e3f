//! A controller goes away at the worst moments; another takes its machines over, and none is started twice.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::{Bench, until, wait_for};
use vmhost::record::LaunchRecord;
use vmhost::{
    Adopted, ExitCause, Hypervisor as _, HypervisorError, MachineEvent, RunState, RunningMachine,
};

async fn adopted(bench: &Bench) -> Arc<dyn RunningMachine> {
    let hypervisor = bench.another_hypervisor();
    // The connection of a handle just dropped closes in a moment.
    match hypervisor.adopt(&bench.run_folder()).await.unwrap() {
        Adopted::Running(machine) => machine,
        other => panic!("{other:?}"),
    }
}

/// A machine that was started as if the controller had died between fork and record; its process.
async fn never_recorded(bench: &Bench) -> Option<u32> {
    let machine = bench.launched().await;
    let pid = machine.process_id();
    drop(machine);
    let path = bench.run_folder().join("launch.json");
    let mut record = LaunchRecord::read(&path).unwrap();
    record.process = None;
    record.write(&path).unwrap();
    pid
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_machine_is_taken_over_and_goes_on() {
    let Some(bench) = Bench::new() else { return };
    let machine = bench.launched().await;
    machine.cont().await.unwrap();
    machine.attach_disk(bench.disk("volume")).await.unwrap();
    let pid = machine.process_id();
    drop(machine);
    let began = Instant::now();
    let machine = adopted(&bench).await;
    eprintln!("adopted after {:?}", began.elapsed());
    assert_eq!(machine.process_id(), pid);
    let status = machine.status().await.unwrap();
    assert_eq!(status.run_state, RunState::Running);
    assert_eq!(status.disks.len(), 2);
    assert_eq!(status.free_ports, 2);
    let mut events = machine.events();
    machine.pause().await.unwrap();
    wait_for(&mut events, |event| *event == MachineEvent::Paused).await;
    assert_eq!(machine.quit().await.unwrap(), ExitCause::Requested);
    assert!(bench.processes().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_whose_start_was_never_recorded_is_found() {
    let Some(bench) = Bench::new() else { return };
    let pid = never_recorded(&bench).await;
    assert!(matches!(
        bench.hypervisor.launch(bench.spec()).await,
        Err(HypervisorError::AlreadyRunning { .. })
    ));
    let machine = adopted(&bench).await;
    assert_eq!(machine.process_id(), pid);
    assert_eq!(
        machine.status().await.unwrap().run_state,
        RunState::Prelaunch
    );
    assert_eq!(
        LaunchRecord::read(&bench.run_folder().join("launch.json"))
            .unwrap()
            .process
            .map(|process| process.pid),
        pid,
        "now it is recorded"
    );
    machine.quit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_is_found_through_a_symbolic_link() {
    let Some(bench) = Bench::new() else { return };
    let pid = never_recorded(&bench).await;
    let link = bench.path().join("link");
    std::os::unix::fs::symlink(bench.run_folder(), &link).unwrap();
    let Adopted::Running(machine) = bench.another_hypervisor().adopt(&link).await.unwrap() else {
        panic!("not adopted");
    };
    assert_eq!(machine.process_id(), pid);
    machine.quit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_whose_monitor_is_silent_can_be_ended() {
    let Some(bench) = Bench::new() else { return };
    let machine = bench.launched().await;
    let pid = machine.process_id().unwrap();
    drop(machine);
    let raw = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(raw, rustix::process::Signal::STOP).unwrap();
    let found = bench.another_hypervisor().adopt(&bench.run_folder()).await;
    let Ok(Adopted::Unreachable { process, why }) = found else {
        panic!("{found:?}");
    };
    assert!(matches!(why, HypervisorError::Monitor(_)), "{why}");
    assert_eq!(process.pid(), pid);
    process.end().await.unwrap();
    until("the process is gone", async || bench.processes().is_empty()).await;
    assert!(!bench.run_folder().join("qmp.sock").exists());
    bench.launched().await.quit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_can_not_be_read_is_not_one_that_was_never_there() {
    let Some(bench) = Bench::new() else { return };
    let never = bench.another_hypervisor().adopt(&bench.run_folder()).await;
    assert!(
        matches!(never, Err(HypervisorError::NeverStarted { .. })),
        "{never:?}"
    );
    let machine = bench.launched().await;
    let pid = machine.process_id().unwrap();
    drop(machine);
    let path = bench.run_folder().join("launch.json");
    // Opened, and then not read (EISDIR).
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let found = bench.another_hypervisor().adopt(&bench.run_folder()).await;
    let Ok(Adopted::Unreachable { process, why }) = found else {
        panic!("{found:?}");
    };
    assert!(matches!(why, HypervisorError::Record { .. }), "{why}");
    assert_eq!(process.pid(), pid);
    process.end().await.unwrap();
    until("its lock is free", async || {
        !bench.hypervisor.lives(&bench.run_folder()).unwrap()
    })
    .await;
    let found = bench.another_hypervisor().adopt(&bench.run_folder()).await;
    assert!(
        matches!(found, Err(HypervisorError::Record { .. })),
        "{found:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_number_used_again_is_not_mistaken() {
    let Some(bench) = Bench::new() else { return };
    let machine = bench.launched().await;
    machine.quit().await.unwrap();
    let path = bench.run_folder().join("launch.json");
    let mut record = LaunchRecord::read(&path).unwrap();
    record.ended = None;
    record.process.as_mut().unwrap().pid = std::process::id();
    record.write(&path).unwrap();
    let found = bench
        .another_hypervisor()
        .adopt(&bench.run_folder())
        .await
        .unwrap();
    assert!(
        matches!(
            found,
            Adopted::Gone {
                how: ExitCause::Unseen,
                ..
            }
        ),
        "{found:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_died_meanwhile_is_cleared_away() {
    let Some(bench) = Bench::new() else { return };
    let machine = bench.launched().await;
    let pid = machine.process_id().unwrap();
    drop(machine);
    let raw = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(raw, rustix::process::Signal::KILL).unwrap();
    assert!(bench.run_folder().join("qmp.sock").exists());
    let mut found = bench.another_hypervisor().adopt(&bench.run_folder()).await;
    until("the killed process is gone", async || {
        found = bench.another_hypervisor().adopt(&bench.run_folder()).await;
        matches!(found, Ok(Adopted::Gone { .. }))
    })
    .await;
    assert!(!bench.run_folder().join("qmp.sock").exists());
    assert!(
        bench
            .hypervisor
            .cgroups()
            .machines("stratus-test")
            .iter()
            .all(|group| {
                !group
                    .to_string_lossy()
                    .contains(&bench.machine.simple().to_string())
            })
    );
    // The folder is free for a new start.
    bench.launched().await.quit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_detachment_under_way_is_seen_and_finished_by_the_next_controller() {
    let Some(bench) = Bench::new() else { return };
    let machine = bench.launched().await;
    let volume = bench.disk("volume");
    machine.attach_disk(volume.clone()).await.unwrap();
    machine.begin_detach(&volume.id).await.unwrap();
    drop(machine);
    let machine = adopted(&bench).await;
    assert!(
        machine
            .status()
            .await
            .unwrap()
            .disks
            .iter()
            .any(|disk| disk.id == volume.id && disk.detaching)
    );

    // The device goes while nobody is connected: the reset is asked for, and the handle dropped, at once.
    machine.reset().await.unwrap();
    drop(machine);
    let machine = adopted(&bench).await;
    until("the disk is detached", async || {
        !machine
            .status()
            .await
            .unwrap()
            .disks
            .iter()
            .any(|disk| disk.id == volume.id)
    })
    .await;
    machine.attach_disk(volume).await.unwrap();
    machine.quit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attachment_cut_off_in_the_middle_is_cleared_up() {
    let Some(bench) = Bench::new() else { return };
    let machine = bench.launched().await;
    // Cancelled at every few hundred microseconds of its way; whatever is left is the next request's to clear.
    for step in 0..12u32 {
        let volume = bench.disk("volume");
        let limit = Duration::from_micros(300) * step;
        let outcome = tokio::time::timeout(limit, machine.attach_disk(volume.clone())).await;
        check_consistent(&machine).await;
        let status = machine.status().await.unwrap();
        let there = status.disks.iter().any(|disk| disk.id == volume.id);
        assert!(
            there || !matches!(outcome, Ok(Ok(()))),
            "step {step}: it was attached"
        );
        if there {
            let mut events = machine.events();
            machine.begin_detach(&volume.id).await.unwrap();
            machine.reset().await.unwrap();
            wait_for(&mut events, |event| {
                *event
                    == MachineEvent::DiskDetached {
                        disk: volume.id.clone(),
                    }
            })
            .await;
        }
        assert_eq!(machine.status().await.unwrap().free_ports, 3, "step {step}");
    }
    machine.attach_disk(bench.disk("volume")).await.unwrap();
    machine.quit().await.unwrap();
}

async fn check_consistent(machine: &Arc<dyn RunningMachine>) {
    let status = machine.status().await.unwrap();
    assert_eq!(status.disks.len() + usize::from(status.free_ports), 4);
}
