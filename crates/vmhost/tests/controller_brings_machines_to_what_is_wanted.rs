//! The controller brings machines to what is wanted, and shows what became of them.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::controller_cloud::{PATIENCE, World, admin, image, object, peer};
use async_trait::async_trait;
use cimi::{
    lifecycle::{MachineState, Phase},
    resources::{AcceleratorKind, Host, Image, ImageState},
};
use serde_json::json;
use tokio::sync::Notify;
use vmhost::{
    Adopted, DiskId, ExitCause, Hypervisor, LaunchSpec, RunState, RunningMachine,
    controller::{ImageContent, VmHostError},
    hypervisor::{self, HypervisorKind},
    launch_spec::Accelerator,
    simulated::{Behaviour, SimulatedHypervisor},
};

#[tokio::test]
async fn a_created_machine_runs_and_everything_tells_so() {
    let world = World::new().await;
    let (id, job) = world.create(json!({})).await;
    world.succeeds(&job).await;
    let machine = world.phase(&id, Phase::Running).await;
    assert_eq!(machine.state, MachineState::Started);
    assert!(machine.vmid.0 > 0);
    assert!(machine.first_started.is_some() && machine.accelerator.is_some());
    assert_eq!(machine.reason, None);
    assert!(machine.ssh.is_some(), "its SSH port is told");
    let lease = world.documents().addresses.all();
    assert_eq!(lease.len(), 1);
    assert_eq!(lease[0].ip, machine.ip().unwrap());
    let guest = world.guest(&id);
    assert_eq!(guest.vmid(), u64::from(machine.vmid.0));
    assert_eq!(guest.status().await.unwrap().run_state, RunState::Running);
    for file in ["root.qcow2", "context.iso", "cidata.iso"] {
        assert!(world.run_folder(&id).join(file).exists(), "{file}");
    }
    let phases: Vec<String> = world
        .documents()
        .events
        .all()
        .iter()
        .filter(|event| event.kind == "state")
        .map(|event| event.content["state"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(phases.last().unwrap(), "Running", "{phases:?}");
    world.settles().await;
}

#[tokio::test]
async fn a_guest_that_obeys_is_stopped_and_started_again() {
    let world = World::with(|settings| settings.power_button_limit = Duration::from_secs(50)).await;
    let id = world.running(json!({})).await;
    let job = world.act(&id, "stop", false).await;
    world.succeeds(&job).await;
    let machine = world.phase(&id, Phase::Stopped).await;
    assert_eq!(machine.state, MachineState::Stopped);
    assert!(!world.lives(&id));
    assert!(world.run_folder(&id).join("root.qcow2").exists());
    assert_eq!(world.documents().addresses.len(), 1);
    let job = world.act(&id, "start", false).await;
    world.succeeds(&job).await;
    assert!(world.lives(&id));
    world.settles().await;
}

#[tokio::test]
async fn a_guest_that_ignores_the_power_button_has_its_limit() {
    let limit = Duration::from_millis(700);
    let world = World::with(|settings| settings.power_button_limit = limit).await;
    let id = world.running(json!({})).await;
    world.guest(&id).ignore_power_button(true);
    let began = Instant::now();
    let job = world.act(&id, "stop", false).await;
    assert_eq!(
        world.machine(&id).unwrap().phase,
        Phase::Shutdown,
        "it waits"
    );
    world.succeeds(&job).await;
    assert!(
        began.elapsed() >= limit - Duration::from_millis(50),
        "the guest had its time"
    );
    assert!(!world.lives(&id));
}

#[tokio::test]
async fn force_does_not_wait_for_the_guest() {
    let world =
        World::with(|settings| settings.power_button_limit = Duration::from_secs(3600)).await;
    let id = world.running(json!({})).await;
    world.guest(&id).ignore_power_button(true);
    let polite = world.act(&id, "stop", false).await;
    let forced = world.act(&id, "stop", true).await;
    world.succeeds(&forced).await;
    world.succeeds(&polite).await;
    assert!(!world.lives(&id));
}

#[tokio::test]
async fn restarts_reset_the_guest_whether_it_obeys_or_not() {
    let world =
        World::with(|settings| settings.power_button_limit = Duration::from_millis(500)).await;
    let id = world.running(json!({})).await;
    let process = world.guest(&id);
    let job = world.act(&id, "restart", false).await;
    world.succeeds(&job).await;
    process.ignore_power_button(true);
    let job = world.act(&id, "restart", false).await;
    world.succeeds(&job).await;
    let job = world.act(&id, "restart", true).await;
    world.succeeds(&job).await;
    let machine = world.phase(&id, Phase::Running).await;
    assert_eq!(machine.observed.restart, 3);
    assert!(
        std::sync::Arc::ptr_eq(&process, &world.guest(&id)),
        "the process is the same"
    );
    assert_eq!(process.status().await.unwrap().run_state, RunState::Running);
}

#[tokio::test]
async fn a_halted_or_paused_machine_can_be_restarted() {
    let world = World::new().await;
    let id = world.running(json!({})).await;
    world.guest(&id).pause().await.unwrap();
    world.state(&id, MachineState::Paused).await;
    let job = world.act(&id, "restart", false).await;
    world.succeeds(&job).await;
    world.phase(&id, Phase::Running).await;
    world.guest(&id).halt();
    let machine = world.phase(&id, Phase::Unknown).await;
    assert_eq!(machine.state, MachineState::Stopped);
    let job = world.act(&id, "restart", false).await;
    world.succeeds(&job).await;
    world.settles().await;
}

#[tokio::test]
async fn what_ended_a_run_is_seen_at_once_and_everything_is_kept() {
    let world = World::new().await;
    for (end, state, reason) in [
        ("halt", MachineState::Stopped, "powered off by the guest"),
        ("panic", MachineState::Error, "kernel panicked"),
        (
            "die",
            MachineState::Error,
            "QEMU process died: ended by signal 9",
        ),
    ] {
        let id = world.running(json!({})).await;
        let guest = world.guest(&id);
        let began = Instant::now();
        match end {
            "halt" => guest.halt(),
            "panic" => guest.panic(),
            _ => guest.die(&ExitCause::Signal(9)),
        }
        let machine = world.phase(&id, Phase::Unknown).await;
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{end}: {:?}",
            began.elapsed()
        );
        assert_eq!(machine.state, state, "{end}");
        assert!(
            machine.reason.as_deref().unwrap().contains(reason),
            "{:?}",
            machine.reason
        );
        assert!(!world.lives(&id), "nothing of the process is left");
        assert!(world.run_folder(&id).join("root.qcow2").exists());
        assert!(
            world
                .documents()
                .addresses
                .get(machine.nics[0].address.local())
                .is_some()
        );
        let job = world.act(&id, "start", false).await;
        world.succeeds(&job).await;
        let job = world.act(&id, "kill", false).await;
        world.succeeds(&job).await;
        assert!(!world.run_folder(&id).exists());
    }
    assert!(world.documents().addresses.is_empty());
    world.settles().await;
}

#[tokio::test]
async fn a_full_disk_halts_a_machine_until_there_is_room() {
    let world = World::new().await;
    let id = world.running(json!({})).await;
    world.guest(&id).fill(&DiskId::new("root").unwrap());
    let guest = world.guest(&id);
    let resumed = async {
        while guest.status().await.unwrap().run_state != RunState::Running {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(crate::controller_cloud::PATIENCE, resumed)
        .await
        .unwrap();
    world
        .until(&id, "running without a reason", |m| {
            m.phase == Phase::Running && m.reason.is_none()
        })
        .await;
}

#[tokio::test]
async fn restart_policies_decide_and_wait_longer_each_time() {
    let world = World::new().await;
    let never = world.running(json!({})).await;
    let on_failure = world.running(json!({"restartPolicy": "on-failure"})).await;
    let always = world.running(json!({"restartPolicy": "always"})).await;
    for id in [&never, &on_failure, &always] {
        world.guest(id).halt();
    }
    world
        .until(&always, "a second run", |m| m.phase == Phase::Running)
        .await;
    for id in [&never, &on_failure] {
        assert_eq!(
            world.phase(id, Phase::Unknown).await.state,
            MachineState::Stopped
        );
    }
    let job = world.act(&on_failure, "start", false).await;
    world.succeeds(&job).await;
    let mut took = Vec::new();
    for _ in 0..3 {
        world.phase(&on_failure, Phase::Running).await;
        let began = Instant::now();
        world.guest(&on_failure).die(&ExitCause::Signal(11));
        world.phase(&on_failure, Phase::Unknown).await;
        world.phase(&on_failure, Phase::Running).await;
        took.push(began.elapsed());
    }
    assert!(
        took[0] >= Duration::from_millis(490) && took[2] >= Duration::from_millis(1990),
        "{took:?}"
    );
    assert!(took[2] > took[0], "{took:?}");
    world.settles().await;
}

#[tokio::test]
async fn kill_and_shutdown_release_everything() {
    let world =
        World::with(|settings| settings.power_button_limit = Duration::from_secs(3600)).await;
    let (killed, shut_down) = (
        world.running(json!({})).await,
        world.running(json!({})).await,
    );
    let volume = world.volume().await;
    let job = world.attach(&killed, &volume).await;
    world.succeeds(&job).await;
    world.guest(&killed).ignore_power_button(true);
    let numbers: Vec<_> = [&killed, &shut_down]
        .map(|id| world.machine(id).unwrap().vmid)
        .to_vec();
    let job = world.act(&killed, "kill", false).await;
    world.succeeds(&job).await;
    let job = world.act(&shut_down, "shutdown", false).await;
    world.succeeds(&job).await;
    for id in [&killed, &shut_down] {
        world.gone(id).await;
        assert!(!world.lives(id) && !world.run_folder(id).exists());
    }
    for number in numbers {
        assert!(
            world
                .documents()
                .machine_records
                .get(&number.to_string())
                .is_some()
        );
    }
    assert!(world.documents().addresses.is_empty());
    assert_eq!(
        world.documents().volumes.get(&volume).unwrap().attachment,
        None
    );
    let kept = std::fs::read_dir(&world.settings.quarantine_dir).unwrap();
    assert_eq!(kept.count(), 2, "their root disks wait in quarantine");
    world.settles().await;
}

#[tokio::test]
async fn a_shutdown_that_the_guest_ignores_ends_at_the_limit_and_a_kill_ends_it_at_once() {
    let world =
        World::with(|settings| settings.power_button_limit = Duration::from_millis(500)).await;
    let id = world.running(json!({})).await;
    world.guest(&id).ignore_power_button(true);
    let job = world.act(&id, "shutdown", false).await;
    assert_eq!(world.machine(&id).unwrap().state, MachineState::Deleting);
    world.succeeds(&job).await;
    world.gone(&id).await;
}

#[tokio::test]
async fn a_machine_waits_for_its_image_and_for_its_volume() {
    let world = World::new().await;
    let path = world.folder.path().join("base.raw");
    let coming = image(&path, ImageState::Creating);
    world.add(&coming).await;
    let volume = world.volume_to_be().await;
    let (id, job) = world
        .create(json!({
            "machineImage": {"href": coming.id.to_string()},
            "volumes": [{"href": format!("Volume/{volume}")}],
        }))
        .await;
    let machine = world
        .until(&id, "the reason", |m| {
            m.reason.as_deref().is_some_and(|r| r.contains("image"))
        })
        .await;
    assert_eq!(
        (machine.state, machine.phase),
        (MachineState::Creating, Phase::Prolog)
    );
    let ready = image(&path, ImageState::Available);
    world
        .edit::<Image>(coming.id.local(), |image| {
            image.state = ImageState::Available;
            image.file.clone_from(&ready.file);
        })
        .await;
    world
        .until(&id, "the other reason", |m| {
            m.reason.as_deref().is_some_and(|r| r.contains("Volume"))
        })
        .await;
    world.make_volume(&volume).await;
    world.succeeds(&job).await;
    world.settles().await;
}

#[tokio::test]
async fn a_machine_waits_for_the_file_of_an_image_that_is_available_elsewhere() {
    let world = World::new().await;
    let coming = |text: &str| Some(ImageContent::OnItsWay(text.to_owned()));
    world.images.tell(coming("fetching its image: 10 %"));
    let (id, job) = world.create(json!({})).await;
    let reason = |wanted: &'static str| {
        move |machine: &cimi::resources::Machine| machine.reason.as_deref() == Some(wanted)
    };
    world
        .until(&id, "the reason", reason("fetching its image: 10 %"))
        .await;
    // Nothing of the machine is made before all of it can be.
    assert!(!world.settings.machines_dir.join(&id).exists());
    world.images.tell(coming("fetching its image: 80 %"));
    world.images.ring(&world.image);
    let machine = world
        .until(&id, "the next reason", reason("fetching its image: 80 %"))
        .await;
    assert_eq!(machine.phase, Phase::Prolog);
    world.images.tell(None);
    world.images.ring(&world.image);
    world.succeeds(&job).await;
    world.settles().await;
}

#[tokio::test]
async fn a_file_of_an_image_that_can_not_be_had_fails_the_start() {
    let world = World::new().await;
    let reason = "its image has a backing file".to_owned();
    world.images.tell(Some(ImageContent::Unusable(reason)));
    let (id, job) = world.create(json!({})).await;
    assert!(world.fails(&job).await.contains("has a backing file"));
    world.phase(&id, Phase::Failed).await;
    let job = world.act(&id, "kill", false).await;
    world.succeeds(&job).await;
    world.settles().await;
}

#[tokio::test]
async fn an_image_in_error_fails_the_start_with_its_reason() {
    let world = World::new().await;
    let path = world.folder.path().join("base.raw");
    let coming = image(&path, ImageState::Creating);
    world.add(&coming).await;
    let href = json!({"machineImage": {"href": coming.id.to_string()}});
    let (id, job) = world.create(href).await;
    world
        .edit::<Image>(coming.id.local(), |image| {
            image.state = ImageState::Error;
            image.reason = Some("checksum differs".into());
        })
        .await;
    assert!(world.fails(&job).await.contains("checksum differs"));
    let machine = world.phase(&id, Phase::Failed).await;
    assert_eq!(machine.state, MachineState::Error);
    let job = world.act(&id, "kill", false).await;
    world.succeeds(&job).await;
    world.settles().await;
}

#[tokio::test]
async fn a_failed_launch_says_why_and_a_later_start_works() {
    let world = World::new().await;
    world.simulated.behave(Behaviour {
        launch_fails: Some("cannot allocate memory".into()),
        ..Behaviour::default()
    });
    let (id, job) = world.create(json!({"restartPolicy": "always"})).await;
    assert!(world.fails(&job).await.contains("cannot allocate memory"));
    let machine = world.phase(&id, Phase::Failed).await;
    assert!(machine.reason.unwrap().contains("cannot allocate memory"));
    world.simulated.behave(Behaviour::default());
    let job = world.act(&id, "start", false).await;
    world.succeeds(&job).await;
    assert_eq!(world.machine(&id).unwrap().reason, None);
    world.settles().await;
}

/// A hypervisor whose first launch takes until it is let go.
struct StuckOnce {
    inner: SimulatedHypervisor,
    stuck: AtomicBool,
    go: Arc<Notify>,
}

#[async_trait]
impl Hypervisor for StuckOnce {
    fn kind(&self) -> HypervisorKind {
        self.inner.kind()
    }

    fn accelerator(&self) -> Accelerator {
        self.inner.accelerator()
    }

    async fn launch(&self, spec: LaunchSpec) -> hypervisor::Result<Arc<dyn RunningMachine>> {
        if !self.stuck.swap(true, Ordering::SeqCst) {
            self.go.notified().await;
        }
        self.inner.launch(spec).await
    }

    fn lives(&self, folder: &Path) -> hypervisor::Result<bool> {
        self.inner.lives(folder)
    }

    async fn adopt(&self, folder: &Path) -> hypervisor::Result<Adopted> {
        self.inner.adopt(folder).await
    }
}

#[tokio::test]
async fn no_machine_waits_for_another() {
    let go = Arc::new(Notify::new());
    let wrap = |inner| -> Arc<dyn Hypervisor> {
        let (stuck, go) = (AtomicBool::new(false), go.clone());
        Arc::new(StuckOnce { inner, stuck, go })
    };
    let world = World::over(wrap, |_| {}).await;
    let (slow, slow_job) = world.create(json!({})).await;
    world.phase(&slow, Phase::Boot).await;
    let quick = world.running(json!({})).await;
    let job = world.act(&quick, "stop", false).await;
    world.succeeds(&job).await;
    let job = world.act(&quick, "kill", false).await;
    world.succeeds(&job).await;
    assert_eq!(
        world.machine(&slow).unwrap().phase,
        Phase::Boot,
        "all that was done meanwhile"
    );
    go.notify_one();
    world.succeeds(&slow_job).await;
}

#[tokio::test]
async fn a_machine_made_stopped_waits_to_be_started() {
    let world = World::new().await;
    let (id, job) = world.create(json!({"initialState": "STOPPED"})).await;
    world.succeeds(&job).await;
    let machine = world.machine(&id).unwrap();
    assert_eq!(
        (machine.state, machine.phase),
        (MachineState::Stopped, Phase::Hold)
    );
    let volume = world.volume().await;
    let job = world.attach(&id, &volume).await;
    world.succeeds(&job).await;
    let job = world.act(&id, "start", false).await;
    world.succeeds(&job).await;
    world.settles().await;
    let job = world.act(&id, "kill", false).await;
    world.succeeds(&job).await;
    world.settles().await;
}

#[tokio::test]
async fn where_qemu_may_not_use_kvm_machines_run_under_tcg() {
    let mut world = World::with(|settings| {
        settings.accelerator.kind = vmhost::accel::AcceleratorKind::Kvm;
        settings.falls_back_to_tcg = true;
    })
    .await;
    world.simulated.behave(Behaviour {
        kvm_is_refused: true,
        ..Behaviour::default()
    });
    let id = world.running(json!({})).await;
    let machine = world.machine(&id).unwrap();
    assert_eq!(machine.accelerator, Some(AcceleratorKind::Tcg));
    let host = world.host().host().local().to_owned();
    world
        .wait::<Host>(&host, "the host tells why", |host| {
            host.is_some_and(|host| {
                host.accelerator == AcceleratorKind::Tcg
                    && host.accelerator_reason.contains("Permission denied")
            })
        })
        .await;
    // The next one doesn't try it any more.
    world.running(json!({})).await;
    world.stop().await;
}

#[tokio::test]
async fn a_network_that_can_not_be_set_up_is_told_and_tried_again() {
    let mut world = World::new().await;
    let check = |world: &World| {
        let checks = world.host().checks();
        checks
            .into_iter()
            .find(|check| check.name == "network local")
            .unwrap()
    };
    assert!(check(&world).ok && !check(&world).needed);
    world.running(json!({})).await;
    assert!(check(&world).ok && check(&world).needed);
    assert!(world.host().checks().iter().all(|check| check.ok));
    world.break_networks(true);
    world.crash().await;
    world.start().await;
    let until = |ok: bool| {
        let deadline = std::time::Instant::now() + crate::controller_cloud::PATIENCE;
        let world = &world;
        async move {
            while check(world).ok != ok || !check(world).needed {
                assert!(std::time::Instant::now() < deadline, "never {ok}");
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }
    };
    until(false).await;
    assert!(check(&world).detail.contains("can't be set up: "));
    world.break_networks(false);
    until(true).await;
    world.stop().await;
}

#[tokio::test]
async fn a_network_forwards_to_its_group_from_its_first_moment_after_a_restart_too() {
    let mut world = World::new().await;
    let mut second = world
        .documents()
        .networks
        .get("local")
        .unwrap()
        .document
        .0
        .clone();
    second.id = cimi::NetworkId::from_local("second").unwrap();
    world.add(&second).await;
    world.running(json!({})).await;
    assert_eq!(world.opened(), [("local".to_owned(), [].into())]);
    let group = json!({"networks": [{"href": "Network/local"}, {"href": "Network/second"}]});
    let body = object(json!({"forwardingGroupTemplate": group}));
    let made = world.cloud().create_forwarding_group(&admin(), body).await;
    made.unwrap();
    // Whether the other is set up here or not.
    world.crash().await;
    world.start().await;
    let deadline = std::time::Instant::now() + PATIENCE;
    let opened = loop {
        let opened = world.opened();
        if !opened.is_empty() {
            break opened;
        }
        assert!(std::time::Instant::now() < deadline, "never set up");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    assert_eq!(opened, [("local".to_owned(), [peer("second")].into())]);
    world.stop().await;
}

#[tokio::test]
async fn a_daemon_takes_no_host_over_that_has_joined_from_elsewhere() {
    let world = World::new().await;
    let mut other = cimi::testing::host();
    other.common.name = Some("elsewhere".into());
    other.desired.apart = true;
    world.add(&other).await;
    let refused = world.open_named("elsewhere").await.err().unwrap();
    assert!(
        matches!(&refused, VmHostError::NameTaken { host, .. } if *host == other.id),
        "{refused}"
    );
    let kept = world.documents().hosts.get(other.id.local()).unwrap();
    assert_eq!(kept.cpu_model, other.cpu_model);
}

#[tokio::test]
async fn a_machine_that_has_run_never_begins_with_an_empty_disk() {
    let mut world = World::new().await;
    let id = world.running(json!({})).await;
    let stopped = world.act(&id, "stop", true).await;
    world.succeeds(&stopped).await;
    let disk = world.run_folder(&id).join("root.qcow2");
    let aside = disk.with_extension("aside");
    std::fs::rename(&disk, &aside).unwrap();
    let job = world.act(&id, "start", false).await;
    let why = world.fails(&job).await;
    assert!(why.contains("root.qcow2 is gone: put it back"), "{why}");
    assert!(!disk.exists());
    std::fs::rename(&aside, &disk).unwrap();
    let job = world.act(&id, "start", false).await;
    world.succeeds(&job).await;
    world.stop().await;
}

#[tokio::test]
async fn a_machine_without_its_disk_says_so_and_begins_once_that_is_there() {
    let world = World::new().await;
    let lost = world.running(json!({"restartPolicy": "always"})).await;
    let torn = world.running(json!({})).await;
    let disk_of = |id: &str| world.run_folder(id).join("root.qcow2");
    let aside_of = |id: &str| disk_of(id).with_extension("aside");
    for id in [&lost, &torn] {
        std::fs::rename(disk_of(id), aside_of(id)).unwrap();
    }
    std::fs::write(disk_of(&torn), [7; 4096]).unwrap();
    for (id, why) in [(&lost, "root.qcow2 is gone"), (&torn, "is no qcow2 disk")] {
        world.guest(id).die(&ExitCause::Signal(9));
        if id == &torn {
            world.phase(id, Phase::Unknown).await;
            let job = world.act(id, "start", false).await;
            world.fails(&job).await;
        }
        let reason = world.phase(id, Phase::Failed).await.reason.unwrap();
        let says = reason.contains(why) && reason.contains("start it again");
        assert!(says, "{reason}");
    }
    for id in [&lost, &torn] {
        std::fs::rename(aside_of(id), disk_of(id)).unwrap();
    }
    // One by its policy, the other by its user.
    world.phase(&lost, Phase::Running).await;
    assert_eq!(world.machine(&torn).unwrap().phase, Phase::Failed);
    let job = world.act(&torn, "start", false).await;
    world.succeeds(&job).await;
    world.settles().await;
}
