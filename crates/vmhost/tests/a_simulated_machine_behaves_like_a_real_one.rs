//! The simulated hypervisor keeps the trait's promises, faults included.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use vmhost::launch_spec::{DiskFormat, ImageFile};
use vmhost::simulated::{Behaviour, SimulatedHypervisor};
use vmhost::{
    Adopted, DiskId, DiskSpec, ExitCause, Hypervisor, HypervisorError, LaunchSpec, MachineEvent,
    RunState,
};

fn spec(number: u128) -> LaunchSpec {
    let machine = uuid::Uuid::from_u128(number);
    let mut spec = LaunchSpec::new(machine, 1, format!("/run/simulated/{machine}"));
    spec.disks = vec![disk(&format!("root-{number}"))];
    spec.spare_ports = 2;
    spec
}

fn disk(id: &str) -> DiskSpec {
    DiskSpec {
        id: DiskId::new(id).unwrap(),
        image: ImageFile::file(format!("/images/{id}"), DiskFormat::Raw),
        backing: Vec::new(),
        read_only: false,
        serial: String::new(),
        slot: 0,
    }
}

#[tokio::test]
async fn a_machine_lives_and_a_restarted_controller_finds_it() {
    let hypervisor = SimulatedHypervisor::new();
    let machine = hypervisor.launch(spec(1)).await.unwrap();
    let mut events = machine.events();
    assert_eq!(
        machine.status().await.unwrap().run_state,
        RunState::Prelaunch
    );
    machine.cont().await.unwrap();
    assert_eq!(events.next().await, Some(MachineEvent::Running));
    assert!(matches!(
        hypervisor.launch(spec(1)).await,
        Err(HypervisorError::AlreadyRunning { .. })
    ));

    let folder = machine.folder().to_path_buf();
    let restarted = hypervisor.clone();
    drop((hypervisor, machine));
    let Adopted::Running(machine) = restarted.adopt(&folder).await.unwrap() else {
        panic!("it runs")
    };
    assert_eq!(machine.status().await.unwrap().run_state, RunState::Running);
    assert_eq!(machine.quit().await.unwrap(), ExitCause::Requested);
    assert_eq!(
        events.next().await,
        Some(MachineEvent::Exited {
            how: ExitCause::Requested
        })
    );
    assert_eq!(events.next().await, None);
    let Adopted::Gone { how, .. } = restarted.adopt(&folder).await.unwrap() else {
        panic!("it is gone")
    };
    assert_eq!(how, ExitCause::Requested);
    assert!(restarted.running().is_empty());
    assert!(
        restarted.launch(spec(1)).await.is_ok(),
        "its image and folder are free again"
    );
}

#[tokio::test]
async fn the_guest_may_halt_and_may_ignore_the_button() {
    let hypervisor = SimulatedHypervisor::new();
    hypervisor.behave(Behaviour {
        ignores_power_button: true,
        ..Behaviour::default()
    });
    let machine = hypervisor.launch(spec(2)).await.unwrap();
    machine.cont().await.unwrap();
    let mut events = machine.events();
    machine.power_button().await.unwrap();
    assert_eq!(events.next().await, Some(MachineEvent::PowerButton));
    assert_eq!(machine.status().await.unwrap().run_state, RunState::Running);
    let guest = hypervisor.machine(machine.uuid()).unwrap();
    guest.ignore_power_button(false);
    machine.power_button().await.unwrap();
    assert_eq!(
        machine.status().await.unwrap().run_state,
        RunState::ShutDown
    );
    assert!(
        machine.cont().await.is_err(),
        "a machine that shut down needs a reset first"
    );
    machine.reset().await.unwrap();
    machine.cont().await.unwrap();
    guest.panic();
    assert_eq!(
        machine.status().await.unwrap().run_state,
        RunState::Panicked
    );
    guest.die(&ExitCause::Signal(9));
    assert!(matches!(machine.cont().await, Err(HypervisorError::Ended)));
    assert_eq!(
        machine.status().await.unwrap().exit,
        Some(ExitCause::Signal(9))
    );
}

#[tokio::test]
async fn disks_keep_the_account_and_collide() {
    let hypervisor = SimulatedHypervisor::new();
    hypervisor.behave(Behaviour {
        ignores_detach: true,
        ..Behaviour::default()
    });
    let machine = hypervisor.launch(spec(3)).await.unwrap();
    machine.cont().await.unwrap();
    let other = hypervisor.launch(spec(4)).await.unwrap();
    let volume = disk("volume");
    machine.attach_disk(volume.clone()).await.unwrap();
    assert!(matches!(
        machine.attach_disk(volume.clone()).await,
        Err(HypervisorError::DiskAlreadyAttached { .. })
    ));
    assert!(matches!(
        other.attach_disk(volume.clone()).await,
        Err(HypervisorError::DiskInUse { .. })
    ));
    assert_eq!(
        other.status().await.unwrap().free_ports,
        2,
        "a failed attachment takes no port"
    );

    let mut events = machine.events();
    machine.begin_detach(&volume.id).await.unwrap();
    machine.begin_detach(&volume.id).await.unwrap();
    assert!(
        machine
            .status()
            .await
            .unwrap()
            .disks
            .iter()
            .any(|disk| disk.id == volume.id && disk.detaching)
    );
    machine.reset().await.unwrap();
    assert_eq!(events.next().await, Some(MachineEvent::HostReset));
    assert_eq!(
        events.next().await,
        Some(MachineEvent::DiskDetached {
            disk: volume.id.clone()
        })
    );
    assert!(matches!(
        machine.begin_detach(&volume.id).await,
        Err(HypervisorError::UnknownDisk { .. })
    ));
    other.attach_disk(volume).await.unwrap();
}

#[tokio::test]
async fn launches_fail_on_demand_and_power_cuts_end_all() {
    let hypervisor = SimulatedHypervisor::new();
    hypervisor.behave(Behaviour {
        launch_fails: Some("no".to_owned()),
        ..Behaviour::default()
    });
    assert!(matches!(
        hypervisor.launch(spec(5)).await,
        Err(HypervisorError::StartFailed { .. })
    ));
    hypervisor.behave(Behaviour::default());
    let machine = hypervisor.launch(spec(5)).await.unwrap();
    hypervisor.power_cut();
    assert!(hypervisor.running().is_empty());
    assert!(matches!(
        hypervisor.adopt(machine.folder()).await.unwrap(),
        Adopted::Gone {
            how: ExitCause::Unseen,
            ..
        }
    ));
    assert!(
        hypervisor
            .adopt(std::path::Path::new("/run/unknown"))
            .await
            .is_err()
    );
}
