//! A real QEMU with firmware only: states, events, ends, and what is left of it (nothing).
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Instant;

use crate::support::{Bench, is_root, wait_for};
use vmhost::{
    Adopted, ExitCause, Hypervisor as _, HypervisorError, MachineEvent, RunState,
    launch_spec::Accelerator,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_runs_pauses_resets_and_ends() {
    let Some(bench) = Bench::new() else { return };
    let machine = bench.launched().await;
    let mut events = machine.events();
    let status = machine.status().await.unwrap();
    assert_eq!(status.run_state, RunState::Prelaunch);
    assert_eq!(status.disks.len(), 1);
    assert_eq!(status.free_ports, 3);

    machine.cont().await.unwrap();
    wait_for(&mut events, |event| *event == MachineEvent::Running).await;
    assert_eq!(machine.status().await.unwrap().run_state, RunState::Running);
    machine.pause().await.unwrap();
    wait_for(&mut events, |event| *event == MachineEvent::Paused).await;
    assert_eq!(machine.status().await.unwrap().run_state, RunState::Paused);
    machine.cont().await.unwrap();
    machine.reset().await.unwrap();
    wait_for(&mut events, |event| *event == MachineEvent::HostReset).await;
    machine.power_button().await.unwrap();
    wait_for(&mut events, |event| *event == MachineEvent::PowerButton).await;
    assert_eq!(
        machine.status().await.unwrap().run_state,
        RunState::Running,
        "no system obeys the button"
    );

    assert_eq!(machine.quit().await.unwrap(), ExitCause::Requested);
    let last = wait_for(&mut events, |event| {
        matches!(event, MachineEvent::Exited { .. })
    })
    .await;
    assert_eq!(
        last,
        MachineEvent::Exited {
            how: ExitCause::Requested
        }
    );
    assert!(events.next().await.is_none(), "nothing comes after the end");
    assert_eq!(
        machine.quit().await.unwrap(),
        ExitCause::Requested,
        "ending an ended machine is no error"
    );
    assert!(matches!(machine.cont().await, Err(HypervisorError::Ended)));
    assert_eq!(
        machine.status().await.unwrap().exit,
        Some(ExitCause::Requested)
    );
    assert!(bench.processes().is_empty());
    for left in ["qmp.sock", "serial.sock", "agent.sock"] {
        assert!(!bench.run_folder().join(left).exists(), "{left} is left");
    }
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
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_is_confined() {
    let Some(bench) = Bench::new() else { return };
    if !is_root() {
        eprintln!("skipped: giving QEMU its own user needs root");
        return;
    }
    let mut spec = bench.spec();
    let credentials = spec.credentials.as_mut().unwrap();
    credentials.supplementary_group = Some(64_322);
    spec.vnc = Some(vmhost::launch_spec::VncSpec {
        keymap: Some("de".to_owned()),
    });
    let machine = bench.hypervisor.launch(spec).await.unwrap();
    let pid = machine.process_id().unwrap();
    let screen = bench.run_folder().join("vnc/vnc.sock");
    let mut viewer = std::os::unix::net::UnixStream::connect(screen).unwrap();
    let mut greeting = [0; 4];
    std::io::Read::read_exact(&mut viewer, &mut greeting).unwrap();
    assert_eq!(greeting, *b"RFB ", "an operator reaches its screen");
    drop(viewer);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    assert_eq!(field("Uid:"), "64321\t64321\t64321\t64321");
    assert_eq!(field("Gid:"), "64321\t64321\t64321\t64321");
    assert_eq!(field("Groups:"), "64322");
    assert_eq!(field("Seccomp:"), "2");
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    assert!(
        limits
            .lines()
            .any(|line| line.starts_with("Max core file size") && line.contains(" 0 "))
    );
    assert!(
        std::fs::read(format!("/proc/{pid}/environ"))
            .unwrap()
            .is_empty()
    );
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .nth(3)
        .unwrap()
        .to_owned();
    assert_eq!(session, pid.to_string(), "it leads its own session");
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let groups = bench.hypervisor.cgroups().machines("stratus-test");
    if groups.is_empty() {
        eprintln!("not shown: this host has no control groups to use");
    } else {
        assert!(
            cgroups.contains(&format!(
                "/stratus-test/machine-4711-{}",
                bench.machine.simple()
            )),
            "{cgroups}"
        );
    }
    machine.quit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_machine_is_seen_at_once() {
    let Some(bench) = Bench::new() else { return };
    let machine = bench.launched().await;
    machine.cont().await.unwrap();
    let mut events = machine.events();
    let pid = i32::try_from(machine.process_id().unwrap()).unwrap();
    let killed = Instant::now();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    let last = wait_for(&mut events, |event| {
        matches!(event, MachineEvent::Exited { .. })
    })
    .await;
    eprintln!("seen after {:?}", killed.elapsed());
    assert_eq!(
        last,
        MachineEvent::Exited {
            how: ExitCause::Signal(9)
        }
    );
    assert!(
        !std::path::Path::new(&format!("/proc/{pid}")).exists(),
        "the process is reaped"
    );
    let Adopted::Gone { record, how } = bench.hypervisor.adopt(&bench.run_folder()).await.unwrap()
    else {
        panic!("it is gone");
    };
    assert_eq!(how, ExitCause::Signal(9));
    assert_eq!(record.machine, bench.machine);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_is_never_started() {
    let Some(bench) = Bench::new() else { return };
    let machine = bench.launched().await;
    let again = bench.another_hypervisor().launch(bench.spec()).await;
    assert!(matches!(again, Err(HypervisorError::AlreadyRunning { .. })));
    assert_eq!(bench.processes().len(), 1);
    assert_eq!(
        machine.status().await.unwrap().run_state,
        RunState::Prelaunch,
        "the first is not disturbed"
    );
    machine.quit().await.unwrap();
    let machine = bench.launched().await;
    machine.quit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_fails_says_why_and_leaves_nothing() {
    let Some(bench) = Bench::new() else { return };
    let mut spec = bench.spec();
    spec.cpu_model = Some("no-such-model".to_owned());
    let Err(HypervisorError::StartFailed { how, output }) = bench.hypervisor.launch(spec).await
    else {
        panic!("it started");
    };
    assert!(output.contains("no-such-model"), "{how}: {output}");
    assert!(bench.processes().is_empty());
    assert!(!bench.run_folder().join("qmp.sock").exists());

    let mut spec = bench.spec();
    spec.disks[0].image.path = "/nowhere/disk".into();
    let Err(error) = bench.hypervisor.launch(spec).await else {
        panic!("it started")
    };
    assert!(error.to_string().contains("/nowhere/disk"), "{error}");
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
}

/// Prints what `design.md` has budgets for. The limits here are loose: the machine that runs tests is busy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starting_and_ending_is_quick() {
    let Some(bench) = Bench::new() else { return };
    let (mut running, mut ending) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let began = Instant::now();
        let machine = bench.launched().await;
        machine.cont().await.unwrap();
        running.push(began.elapsed());
        let began = Instant::now();
        machine.quit().await.unwrap();
        ending.push(began.elapsed());
    }
    running.sort();
    ending.sort();
    eprintln!(
        "specification to running: median {:?} of {running:?}",
        running[2]
    );
    eprintln!("quit to released: median {:?} of {ending:?}", ending[2]);
    assert!(running[0].as_secs() < 5);
    assert!(ending[0].as_millis() < 500);
}

/// Our own part of a start: everything up to an executed program, and its end noticed and cleared away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_part_of_a_start_is_small() {
    let Some(bench) = Bench::new() else { return };
    let hypervisor =
        vmhost::qemu::QemuHypervisor::new("/bin/true", vmhost::launch_spec::Accelerator::default());
    for with_cgroup in [false, true] {
        let mut took = Vec::new();
        for _ in 0..20 {
            let mut spec = bench.spec();
            spec.cgroup = spec.cgroup.filter(|_| with_cgroup);
            let began = Instant::now();
            let outcome = hypervisor.launch(spec).await;
            took.push(began.elapsed());
            assert!(matches!(outcome, Err(HypervisorError::StartFailed { .. })));
        }
        took.sort();
        eprintln!(
            "specification to executed and its end cleared away, cgroup {with_cgroup}: median {:?}, {:?} to {:?}",
            took[10], took[0], took[19]
        );
        assert!(took[0].as_millis() < 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_qemu_that_may_not_use_kvm_says_so() {
    use std::os::unix::fs::MetadataExt as _;
    let Some(bench) = Bench::new() else { return };
    let open_to_all = std::fs::metadata("/dev/kvm").is_ok_and(|kvm| kvm.mode() & 0o006 != 0);
    if !is_root() || open_to_all {
        eprintln!("skipped: QEMU's own user, which needs root, may use /dev/kvm here");
        return;
    }
    let mut spec = bench.spec();
    spec.accelerator = Accelerator::Kvm;
    let refused = bench.hypervisor.launch(spec).await.map(drop);
    assert!(
        matches!(&refused, Err(HypervisorError::AcceleratorFailed { output, .. }) if output.contains("KVM")),
        "{refused:?}"
    );
    assert!(bench.processes().is_empty());
}
