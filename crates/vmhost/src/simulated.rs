//! A hypervisor in memory, for tests and benchmarks: instant, with the behaviour seen of the real one, and with faults on
//! demand.
//!
//! A clone shares the machines, as another controller on the same host would find them: clone it, drop everything else,
//! and a "restarted" controller can adopt. Nothing touches the disk; image paths are only compared, so that two writers
//! of one image collide as they do with QEMU.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::broadcast;
use uuid::Uuid;

use crate::error::HypervisorError;
use crate::hypervisor::{
    Adopted, EVENT_QUEUE, EventStream, ExitCause, Hypervisor, HypervisorKind, MachineEvent,
    MachineStatus, Result, RunState, RunningMachine, Saving,
};
use crate::launch_spec::{Accelerator, DiskId, DiskSpec, LaunchSpec};
use crate::ports::{PortAccount, PortState};
use crate::qmp::QmpError;
use crate::record::{LaunchRecord, RECORD_FORMAT};
use crate::usage::{Traffic, Usage};

/// A host full of pretended machines. Clones share it.
#[derive(Clone, Default)]
pub struct SimulatedHypervisor {
    host: Arc<Host>,
}

#[derive(Default)]
struct Host {
    /// By run folder, ended ones too until their folder is used again or forgotten.
    machines: Mutex<HashMap<PathBuf, Arc<SimulatedMachine>>>,
    /// Who has an image open for writing.
    writers: Mutex<HashMap<PathBuf, Uuid>>,
    next: Mutex<Behaviour>,
}

/// How the next machines behave.
#[derive(Debug, Clone, Default)]
pub struct Behaviour {
    /// Launches fail with these words.
    pub launch_fails: Option<String>,
    /// Launches under KVM fail as where QEMU may not open it.
    pub kvm_is_refused: bool,
    /// Launches take this long.
    pub launch_takes: std::time::Duration,
    /// Guests ignore the power button.
    pub ignores_power_button: bool,
    /// Guests never answer a request to give up a disk.
    pub ignores_detach: bool,
}

impl SimulatedHypervisor {
    /// An empty host.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how machines launched from now on behave.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.host.next.lock() = behaviour;
    }

    /// The machine of this identifier that runs, or else that ended, to play its guest or to break it.
    #[must_use]
    pub fn machine(&self, machine: Uuid) -> Option<Arc<SimulatedMachine>> {
        let machines = self.host.machines.lock();
        let mut found: Vec<&Arc<SimulatedMachine>> = machines
            .values()
            .filter(|known| known.record.machine == machine)
            .collect();
        found.sort_by_key(|known| known.state.lock().exit.is_some());
        found.first().map(|known| Arc::clone(known))
    }

    /// The machines whose pretended processes live, for leak checks.
    #[must_use]
    pub fn running(&self) -> Vec<Uuid> {
        let machines = self.host.machines.lock();
        let alive = machines
            .values()
            .filter(|known| known.state.lock().exit.is_none());
        alive.map(|known| known.record.machine).collect()
    }

    /// Ends all machines at once without a word, as a power cut does. Records stay.
    pub fn power_cut(&self) {
        let all: Vec<_> = self.host.machines.lock().values().cloned().collect();
        for machine in all {
            machine.end(&ExitCause::Unseen);
        }
    }

    /// Forgets an ended machine's record, as deleting its folder does.
    pub fn forget(&self, folder: &Path) {
        let mut machines = self.host.machines.lock();
        if machines
            .get(folder)
            .is_some_and(|known| known.state.lock().exit.is_some())
        {
            machines.remove(folder);
        }
    }
}

impl Host {
    /// Takes the write locks of a disk, or none of them.
    fn lock_images(&self, machine: Uuid, disk: &DiskSpec) -> Result<()> {
        if disk.read_only {
            return Ok(());
        }
        let mut writers = self.writers.lock();
        if let Some(holder) = writers.get(&disk.image.path) {
            return Err(HypervisorError::DiskInUse {
                disk: disk.id.clone(),
                reason: format!("Failed to get \"write\" lock (held by {holder})"),
            });
        }
        writers.insert(disk.image.path.clone(), machine);
        Ok(())
    }
}

#[async_trait]
impl Hypervisor for SimulatedHypervisor {
    fn kind(&self) -> HypervisorKind {
        HypervisorKind::Simulated
    }

    fn accelerator(&self) -> Accelerator {
        Accelerator::default()
    }

    async fn launch(&self, spec: LaunchSpec) -> Result<Arc<dyn RunningMachine>> {
        spec.check()?;
        let behaviour = self.host.next.lock().clone();
        if !behaviour.launch_takes.is_zero() {
            tokio::time::sleep(behaviour.launch_takes).await;
        }
        if behaviour.kvm_is_refused && spec.accelerator == Accelerator::Kvm {
            return Err(HypervisorError::AcceleratorFailed {
                how: ExitCause::Code(1).to_string(),
                output: "Could not access KVM kernel module: Permission denied".to_owned(),
            });
        }
        if let Some(words) = behaviour.launch_fails {
            return Err(HypervisorError::StartFailed {
                how: ExitCause::Code(1).to_string(),
                output: words,
            });
        }
        let mut machines = self.host.machines.lock();
        if machines
            .get(&spec.folder)
            .is_some_and(|known| known.state.lock().exit.is_none())
        {
            return Err(HypervisorError::AlreadyRunning {
                folder: spec.folder,
            });
        }
        let disks = spec.disks_in_order();
        for (taken, disk) in disks.iter().enumerate() {
            if let Err(error) = self.host.lock_images(spec.machine, disk) {
                let mut writers = self.host.writers.lock();
                for disk in disks.iter().take(taken).filter(|disk| !disk.read_only) {
                    writers.remove(&disk.image.path);
                }
                return Err(HypervisorError::StartFailed {
                    how: ExitCause::Code(1).to_string(),
                    output: error.to_string(),
                });
            }
        }
        let writable = disks.iter().filter(|disk| !disk.read_only);
        let images = writable
            .map(|disk| (disk.id.clone(), disk.image.path.clone()))
            .collect();
        let machine = Arc::new(SimulatedMachine {
            host: Arc::downgrade(&self.host),
            record: LaunchRecord {
                format: RECORD_FORMAT,
                machine: spec.machine,
                vmid: spec.vmid,
                name: spec.name.clone(),
                accelerator: spec.accelerator,
                binary: "simulated".to_owned(),
                version: None,
                arguments: Vec::new(),
                process: None,
                cgroups: Vec::new(),
                ports: PortAccount::at_start(0, &[]),
                ended: None,
            },
            folder: spec.folder.clone(),
            state: Mutex::new(State {
                run_state: match spec.memory {
                    None => RunState::Prelaunch,
                    Some(_) => RunState::Paused,
                },
                saving: Saving::Never,
                ports: PortAccount::at_start(spec.port_count(), &spec.disks_on_ports()),
                images,
                exit: None,
                ignores_power_button: behaviour.ignores_power_button,
                presses: 0,
                ignores_detach: behaviour.ignores_detach,
                traffic: None,
                links: HashMap::new(),
            }),
            events: broadcast::Sender::new(EVENT_QUEUE),
        });
        machines.insert(spec.folder, Arc::clone(&machine));
        Ok(machine)
    }

    fn lives(&self, folder: &Path) -> Result<bool> {
        let machines = self.host.machines.lock();
        Ok(machines
            .get(folder)
            .is_some_and(|known| known.state.lock().exit.is_none()))
    }

    async fn adopt(&self, folder: &Path) -> Result<Adopted> {
        let known = self.host.machines.lock().get(folder).cloned();
        let machine = known.ok_or_else(|| HypervisorError::NeverStarted {
            folder: folder.to_path_buf(),
        })?;
        let exit = machine.state.lock().exit.clone();
        Ok(match exit {
            None => Adopted::Running(machine),
            Some(how) => Adopted::Gone {
                record: Box::new(machine.record_now()),
                how,
            },
        })
    }
}

/// A pretended machine: the handle, and the strings to pull.
pub struct SimulatedMachine {
    host: std::sync::Weak<Host>,
    record: LaunchRecord,
    folder: PathBuf,
    state: Mutex<State>,
    events: broadcast::Sender<MachineEvent>,
}

struct State {
    run_state: RunState,
    saving: Saving,
    ports: PortAccount,
    images: HashMap<DiskId, PathBuf>,
    exit: Option<ExitCause>,
    ignores_power_button: bool,
    presses: usize,
    ignores_detach: bool,
    traffic: Option<Traffic>,
    links: HashMap<usize, bool>,
}

/// What the guest, or fate, does.
impl SimulatedMachine {
    /// Whether the cable of a network card was last plugged in or out; `None` if nobody did either.
    #[must_use]
    pub fn link(&self, nic: usize) -> Option<bool> {
        self.state.lock().links.get(&nic).copied()
    }

    /// The guest powers itself off.
    pub fn halt(&self) {
        let mut state = self.state.lock();
        if state.run_state == RunState::Running {
            state.run_state = RunState::ShutDown;
            self.tell(MachineEvent::GuestShutdown);
            self.tell(MachineEvent::Paused);
        }
    }

    /// The guest reboots itself; requests to give up disks are thereby answered.
    pub fn reboot(&self) {
        self.tell(MachineEvent::GuestReset);
        self.complete_detaches();
    }

    /// The guest's kernel panics.
    pub fn panic(&self) {
        let mut state = self.state.lock();
        if state.run_state == RunState::Running {
            state.run_state = RunState::Panicked;
            self.tell(MachineEvent::GuestPanicked);
            self.tell(MachineEvent::Paused);
        }
    }

    /// The process dies.
    pub fn die(&self, how: &ExitCause) {
        self.end(how);
    }

    /// A write to the disk finds no space.
    pub fn fill(&self, disk: &DiskId) {
        self.state.lock().run_state = RunState::IoError;
        self.tell(MachineEvent::IoError {
            disk: Some(disk.clone()),
            operation: "write".to_owned(),
            no_space: true,
            halted: true,
            reason: "No space left on device".to_owned(),
        });
        self.tell(MachineEvent::Paused);
    }

    /// From now on the guest obeys the power button, or not.
    pub fn ignore_power_button(&self, ignore: bool) {
        self.state.lock().ignores_power_button = ignore;
    }

    /// How often its power button was pressed.
    #[must_use]
    pub fn presses(&self) -> usize {
        self.state.lock().presses
    }

    /// From now on the guest gives up disks when asked, or not. Requests under way are not answered by this.
    pub fn ignore_detach(&self, ignore: bool) {
        self.state.lock().ignores_detach = ignore;
    }

    /// The guest has received and sent so many bytes since it was started.
    pub fn traffic_is(&self, bytes_in: u64, bytes_out: u64) {
        self.state.lock().traffic = Some(Traffic {
            bytes_in,
            bytes_out,
            ..Traffic::default()
        });
    }

    /// The guest gives up the disks it was asked for.
    pub fn complete_detaches(&self) {
        let mut state = self.state.lock();
        let pending: Vec<DiskId> = state
            .ports
            .occupied
            .iter()
            .filter(|used| used.state == PortState::Detaching)
            .map(|used| used.disk.clone())
            .collect();
        for disk in pending {
            self.release(&mut state, disk);
        }
    }

    /// The guest refuses to give up a disk.
    pub fn refuse_detach(&self, disk: &DiskId) {
        self.state.lock().ports.set_state(disk, PortState::Attached);
        self.tell(MachineEvent::DetachRefused { disk: disk.clone() });
    }

    fn release(&self, state: &mut State, disk: DiskId) {
        state.ports.release(&disk);
        if let (Some(path), Some(host)) = (state.images.remove(&disk), self.host.upgrade()) {
            host.writers.lock().remove(&path);
        }
        self.tell(MachineEvent::DiskDetached { disk });
    }

    fn end(&self, how: &ExitCause) -> ExitCause {
        let mut state = self.state.lock();
        if let Some(ended) = &state.exit {
            return ended.clone();
        }
        state.exit = Some(how.clone());
        state.run_state = RunState::Exited;
        if let Some(host) = self.host.upgrade() {
            let mut writers = host.writers.lock();
            for path in state.images.values() {
                writers.remove(path);
            }
        }
        self.tell(MachineEvent::Exited { how: how.clone() });
        how.clone()
    }

    fn record_now(&self) -> LaunchRecord {
        let state = self.state.lock();
        LaunchRecord {
            ports: state.ports.clone(),
            ended: state.exit.clone(),
            ..self.record.clone()
        }
    }

    fn tell(&self, event: MachineEvent) {
        // Nobody listening is fine: whatever is told can be read.
        let _ = self.events.send(event);
    }
}

impl State {
    fn alive(&self) -> Result<()> {
        if self.exit.is_some() {
            Err(HypervisorError::Ended)
        } else {
            Ok(())
        }
    }
}

#[async_trait]
impl RunningMachine for SimulatedMachine {
    fn uuid(&self) -> Uuid {
        self.record.machine
    }

    fn vmid(&self) -> u64 {
        self.record.vmid
    }

    fn folder(&self) -> &Path {
        &self.folder
    }

    fn process_id(&self) -> Option<u32> {
        None
    }

    async fn cont(&self) -> Result<()> {
        let mut state = self.state.lock();
        state.alive()?;
        match state.run_state {
            RunState::Running => Ok(()),
            RunState::ShutDown | RunState::Panicked => Err(QmpError::Refused {
                command: "cont".to_owned(),
                class: "GenericError".to_owned(),
                description: "Resetting the Virtual Machine is required".to_owned(),
            }
            .into()),
            _ => {
                state.run_state = RunState::Running;
                self.tell(MachineEvent::Running);
                Ok(())
            }
        }
    }

    async fn power_button(&self) -> Result<()> {
        let ignores = {
            let mut state = self.state.lock();
            state.alive()?;
            state.presses += 1;
            state.ignores_power_button
        };
        self.tell(MachineEvent::PowerButton);
        if !ignores {
            self.halt();
        }
        Ok(())
    }

    async fn reset(&self) -> Result<()> {
        {
            let mut state = self.state.lock();
            state.alive()?;
            if state.run_state != RunState::Running {
                state.run_state = RunState::Prelaunch;
            }
        }
        self.tell(MachineEvent::HostReset);
        self.complete_detaches();
        Ok(())
    }

    async fn pause(&self) -> Result<()> {
        let mut state = self.state.lock();
        state.alive()?;
        if state.run_state == RunState::Running {
            state.run_state = RunState::Paused;
            self.tell(MachineEvent::Paused);
        }
        Ok(())
    }

    async fn set_link(&self, nic: usize, up: bool) -> Result<()> {
        let mut state = self.state.lock();
        state.alive()?;
        state.links.insert(nic, up);
        Ok(())
    }

    async fn usage(&self) -> Result<Usage> {
        Ok(Usage::default())
    }

    async fn traffic(&self) -> Option<Traffic> {
        let state = self.state.lock();
        state.traffic.filter(|_| state.exit.is_none())
    }

    async fn begin_save(&self, file: OwnedFd) -> Result<()> {
        let mut state = self.state.lock();
        state.alive()?;
        let written = std::io::Write::write_all(&mut std::fs::File::from(file), b"memory");
        state.saving = match written {
            // As QEMU does: the migration is complete a moment before its run state tells.
            Ok(()) => {
                state.run_state = RunState::Saving;
                Saving::Complete
            }
            Err(error) => Saving::Failed(error.to_string()),
        };
        self.tell(MachineEvent::Memory);
        Ok(())
    }

    async fn saving(&self) -> Result<Saving> {
        Ok(self.state.lock().saving.clone())
    }

    async fn cancel_save(&self) -> Result<()> {
        Ok(())
    }

    async fn quit(&self) -> Result<ExitCause> {
        Ok(self.end(&ExitCause::Requested))
    }

    async fn attach_disk(&self, disk: DiskSpec) -> Result<()> {
        disk.check()?;
        let mut state = self.state.lock();
        state.alive()?;
        state.ports.occupy(&disk)?;
        let host = self.host.upgrade().ok_or(HypervisorError::Ended)?;
        if let Err(error) = host.lock_images(self.record.machine, &disk) {
            state.ports.release(&disk.id);
            return Err(error);
        }
        if !disk.read_only {
            state.images.insert(disk.id.clone(), disk.image.path);
        }
        state.ports.set_state(&disk.id, PortState::Attached);
        Ok(())
    }

    async fn begin_detach(&self, disk: &DiskId) -> Result<()> {
        let mut state = self.state.lock();
        state.alive()?;
        if state.ports.find(disk).is_none() {
            return Err(HypervisorError::UnknownDisk { disk: disk.clone() });
        }
        state.ports.set_state(disk, PortState::Detaching);
        if state.run_state == RunState::Running && !state.ignores_detach {
            self.release(&mut state, disk.clone());
        }
        Ok(())
    }

    async fn status(&self) -> Result<MachineStatus> {
        let mut state = self.state.lock();
        let ended = state.exit.is_some();
        let run_state = state.run_state;
        if run_state == RunState::Saving {
            state.run_state = RunState::Saved;
        }
        Ok(MachineStatus {
            run_state,
            disks: if ended {
                Vec::new()
            } else {
                state.ports.attached()
            },
            free_ports: if ended { 0 } else { state.ports.free() },
            exit: state.exit.clone(),
        })
    }

    fn events(&self) -> EventStream {
        let stream = EventStream::new(self.events.subscribe());
        if let Some(how) = self.state.lock().exit.clone() {
            self.tell(MachineEvent::Exited { how });
        }
        stream
    }
}
