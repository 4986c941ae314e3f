//! A running QEMU: its monitor, its process, its ports.
//!
//! One task, the `keeper`, owns the monitor's events and the process's end, tells [`MachineEvent`]s, and finishes what takes
//! its time: detachments whose device is gone. Steps of attachments and detachments are noted in the launch record before
//! QEMU is told, so that whoever comes later ([`QemuMachine::reconcile_after_adoption`]) can finish them; that also cures a caller that
//! was cancelled in the middle.

mod crossing;
mod disks;
mod keeper;
mod memory;
mod usage;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex as Lock;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::{Mutex, broadcast, mpsc, watch};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::block_nodes;
use crate::error::HypervisorError;
use crate::hypervisor::{
    Crossing, EVENT_QUEUE, EventStream, ExitCause, MachineEvent, MachineStatus, QUIT_LIMIT, Result,
    RunFolder, RunState, RunningMachine, Saving,
};
use crate::launch_spec::{Accelerator, DiskId, DiskSpec};
use crate::ports::PortState;
use crate::process::HeldProcess;
use crate::qemu::ShortWay;
use crate::qmp::{GREETING_LIMIT, Qmp, QmpError, QmpEvent};
use crate::record::{LaunchRecord, RecordFile};
use crate::usage::{Traffic, Usage};

/// How long a QEMU whose guest is off may take to close its disks and end.
const QUIT_OFF_LIMIT: Duration = Duration::from_secs(5);
/// A killed process that isn't gone by then hangs in the kernel (dead storage).
pub(crate) const KILL_LIMIT: Duration = Duration::from_secs(5);
/// Between attempts to reach a monitor again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);
const SIGABRT: i32 = 6;

/// A connected QEMU.
pub struct QemuMachine {
    shared: Arc<Shared>,
    keeper: JoinHandle<()>,
}

impl Drop for QemuMachine {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

struct Shared {
    machine: Uuid,
    vmid: u64,
    accelerator: Accelerator,
    folder: RunFolder,
    process: HeldProcess,
    monitor: Lock<Arc<Qmp>>,
    /// Held during the steps of an attachment or detachment, never while waiting for the guest.
    record: Mutex<LaunchRecord>,
    file: Arc<RecordFile>,
    events: broadcast::Sender<MachineEvent>,
    exit: watch::Sender<Option<ExitCause>>,
    /// Disks whose device is known to be gone, for the keeper to finish.
    device_gone: mpsc::Sender<DiskId>,
    /// Whether the guest has switched itself off.
    is_guest_off: AtomicBool,
}

impl QemuMachine {
    /// Wraps a process whose monitor is in command mode.
    pub(crate) fn connected(
        folder: RunFolder,
        record: LaunchRecord,
        process: HeldProcess,
        qmp: Qmp,
        qmp_events: mpsc::Receiver<QmpEvent>,
    ) -> Arc<Self> {
        let (device_gone, gone) = mpsc::channel(128);
        let shared = Arc::new(Shared {
            machine: record.machine,
            vmid: record.vmid,
            accelerator: record.accelerator,
            file: Arc::new(RecordFile::new(folder.record())),
            folder,
            process,
            monitor: Lock::new(Arc::new(qmp)),
            record: Mutex::new(record),
            events: broadcast::Sender::new(EVENT_QUEUE),
            exit: watch::Sender::new(None),
            device_gone,
            is_guest_off: AtomicBool::new(false),
        });
        let keeper = tokio::spawn(keeper::keep(Arc::clone(&shared), qmp_events, gone));
        Arc::new(Self { shared, keeper })
    }

    /// Connects to the monitor of a running QEMU and makes sure it is this machine's.
    pub(crate) async fn connect(
        folder: &RunFolder,
        machine: Uuid,
    ) -> std::result::Result<(Qmp, mpsc::Receiver<QmpEvent>), QmpError> {
        let attempt = async {
            loop {
                // The monitor serves one at a time, and a full queue refuses at once; who is ahead may go away.
                match connect_once(folder).await {
                    Ok(socket) => return socket,
                    Err(error) => {
                        tracing::debug!(%error, socket = %folder.monitor().display(), "no connection yet");
                    }
                }
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
        };
        let socket = tokio::time::timeout(GREETING_LIMIT, attempt)
            .await
            .map_err(|_| QmpError::TimedOut {
                command: "connect".to_owned(),
                limit: GREETING_LIMIT,
            })?;
        let (qmp, events) = Qmp::start(socket).await?;
        let answer = qmp.execute("query-uuid", None).await?;
        let uuid = answer
            .get("UUID")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if uuid != machine.to_string() {
            return Err(QmpError::Protocol {
                what: "machine behind the monitor",
                text: uuid.to_owned(),
            });
        }
        Ok((qmp, events))
    }

    /// Finishes what an earlier controller began.
    pub(crate) async fn reconcile_after_adoption(&self) -> Result<()> {
        let mut record = self.shared.record.lock().await;
        self.shared.save(&record).await?;
        self.shared.reconcile(&mut record).await
    }
}

async fn connect_once(folder: &RunFolder) -> std::io::Result<std::os::unix::net::UnixStream> {
    let way = ShortWay::to(&folder.0)?;
    UnixStream::connect(way.path(&folder.monitor())?)
        .await?
        .into_std()
}

#[async_trait]
impl RunningMachine for QemuMachine {
    fn uuid(&self) -> Uuid {
        self.shared.machine
    }

    fn vmid(&self) -> u64 {
        self.shared.vmid
    }

    fn folder(&self) -> &Path {
        &self.shared.folder.0
    }

    fn process_id(&self) -> Option<u32> {
        Some(self.shared.process.pid())
    }

    async fn cont(&self) -> Result<()> {
        let outcome = self.shared.execute("cont", None).await;
        if outcome.is_err()
            && self.shared.accelerator == Accelerator::Kvm
            && self.shared.exited_within(Duration::from_millis(500)).await
                == Some(ExitCause::Signal(SIGABRT))
        {
            return Err(HypervisorError::AcceleratorFailed {
                how: ExitCause::Signal(SIGABRT).to_string(),
                output: format!("see {}", self.shared.folder.output().display()),
            });
        }
        outcome.map(drop)
    }

    async fn power_button(&self) -> Result<()> {
        self.shared
            .execute("system_powerdown", None)
            .await
            .map(drop)
    }

    async fn reset(&self) -> Result<()> {
        self.shared.execute("system_reset", None).await.map(drop)
    }

    async fn pause(&self) -> Result<()> {
        self.shared.execute("stop", None).await.map(drop)
    }

    async fn set_link(&self, nic: usize, up: bool) -> Result<()> {
        let arguments = json!({"name": format!("nic{nic}"), "up": up});
        self.shared
            .execute("set_link", Some(arguments))
            .await
            .map(drop)
    }

    async fn usage(&self) -> Result<Usage> {
        self.shared.usage().await
    }

    async fn traffic(&self) -> Option<Traffic> {
        self.shared.traffic().await
    }

    async fn begin_save(&self, file: OwnedFd) -> Result<()> {
        self.shared.begin_save(file).await
    }

    async fn saving(&self) -> Result<Saving> {
        self.shared.saving().await
    }

    async fn cancel_save(&self) -> Result<()> {
        self.shared.execute("migrate_cancel", None).await.map(drop)
    }

    async fn quit(&self) -> Result<ExitCause> {
        let shared = &self.shared;
        // The answer doesn't matter, the end does.
        let asked = async {
            if let Err(error) = shared.monitor().execute("quit", None).await {
                tracing::debug!(vmid = shared.vmid, %error, "quit was not answered");
            }
            std::future::pending::<()>().await;
        };
        // Nobody waits for the process of a guest that has switched itself off.
        let limit = match shared.is_guest_off.load(Ordering::Relaxed) {
            true => QUIT_OFF_LIMIT,
            false => QUIT_LIMIT,
        };
        let exit = tokio::select! {
            exit = shared.exited_within(limit) => exit,
            () = asked => None,
        };
        if let Some(how) = exit {
            return Ok(how);
        }
        tracing::info!(
            vmid = shared.vmid,
            pid = shared.process.pid(),
            "QEMU did not quit in time and is killed"
        );
        shared.process.kill();
        let limit = KILL_LIMIT;
        shared
            .exited_within(limit)
            .await
            .ok_or(HypervisorError::TimedOut {
                what: "the end of a killed QEMU",
                limit,
            })
    }

    async fn attach_disk(&self, disk: DiskSpec) -> Result<()> {
        disk.check()?;
        let shared = &self.shared;
        let mut record = shared.record.lock().await;
        if record
            .ports
            .occupied
            .iter()
            .any(|used| used.state == PortState::Attaching)
        {
            // Left by a caller that was cancelled: the lock is ours, so nobody is at it.
            shared.reconcile(&mut record).await?;
        }
        let entry = record.ports.occupy(&disk)?;
        let outcome = async {
            shared.save(&record).await?;
            shared.plug(&disk, &entry).await
        }
        .await;
        match outcome {
            Ok(()) => {
                record.ports.set_state(&disk.id, PortState::Attached);
                shared.save(&record).await
            }
            Err(error) => {
                // Whether QEMU carried out the last step may be unknown (time-out): what it has now decides.
                if let Err(left) = shared.reconcile(&mut record).await {
                    tracing::warn!(vmid = shared.vmid, disk = %disk.id, error = %left, "a failed attachment remains to be cleared up");
                }
                Err(error)
            }
        }
    }

    async fn begin_detach(&self, disk: &DiskId) -> Result<()> {
        let shared = &self.shared;
        let mut record = shared.record.lock().await;
        if record.ports.find(disk).is_none() {
            return Err(HypervisorError::UnknownDisk { disk: disk.clone() });
        }
        record.ports.set_state(disk, PortState::Detaching);
        shared.save(&record).await?;
        let arguments = json!({"id": block_nodes::device_id(disk)});
        match shared.execute("device_del", Some(arguments)).await {
            Ok(_) => Ok(()),
            Err(HypervisorError::Monitor(error)) if error.is_device_not_found() => {
                // The queue holds more than there are ports; a repeated request finds a full one only if it is no news.
                let _ = shared.device_gone.try_send(disk.clone());
                Ok(())
            }
            Err(HypervisorError::Monitor(error))
                if error
                    .refusal()
                    .is_some_and(|words| words.contains("already in the process of unplug")) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn status(&self) -> Result<MachineStatus> {
        let shared = &self.shared;
        let ended = |exit| MachineStatus {
            run_state: RunState::Exited,
            disks: Vec::new(),
            free_ports: 0,
            exit: Some(exit),
        };
        if let Some(exit) = shared.exit.borrow().clone() {
            return Ok(ended(exit));
        }
        let read = async {
            let answer = shared.execute("query-status", None).await?;
            let status = answer.get("status").and_then(Value::as_str);
            let run_state = run_state(status.unwrap_or_default());
            let off = run_state == RunState::ShutDown;
            shared.is_guest_off.store(off, Ordering::Relaxed);
            let mut record = shared.record.lock().await;
            shared.reconcile(&mut record).await?;
            Ok(MachineStatus {
                run_state,
                disks: record.ports.attached(),
                free_ports: record.ports.free(),
                exit: None,
            })
        };
        match read.await {
            Err(HypervisorError::Ended) => Ok(ended(
                shared.exit.borrow().clone().unwrap_or(ExitCause::Unseen),
            )),
            other => other,
        }
    }

    fn crossing(&self) -> Option<&dyn Crossing> {
        Some(&*self.shared)
    }

    fn events(&self) -> EventStream {
        let stream = EventStream::new(self.shared.events.subscribe());
        if let Some(how) = self.shared.exit.borrow().clone() {
            // Too late for the last event: tell it again.
            let _ = self.shared.events.send(MachineEvent::Exited { how });
        }
        stream
    }
}

/// QEMU's run states; later versions may know more.
fn run_state(status: &str) -> RunState {
    match status {
        "prelaunch" => RunState::Prelaunch,
        "running" => RunState::Running,
        "paused" | "debug" => RunState::Paused,
        "shutdown" => RunState::ShutDown,
        "guest-panicked" => RunState::Panicked,
        "io-error" => RunState::IoError,
        "suspended" => RunState::Suspended,
        "finish-migrate" => RunState::Saving,
        "postmigrate" => RunState::Saved,
        "inmigrate" => RunState::Loading,
        _ => RunState::Other,
    }
}

impl Shared {
    fn monitor(&self) -> Arc<Qmp> {
        Arc::clone(&self.monitor.lock())
    }

    /// Carries out a command; a closed monitor of an ended process is told as such.
    async fn execute(&self, command: &str, arguments: Option<Value>) -> Result<Value> {
        match self.monitor().execute(command, arguments).await {
            Err(QmpError::Closed { .. })
                if self
                    .exited_within(Duration::from_millis(300))
                    .await
                    .is_some() =>
            {
                Err(HypervisorError::Ended)
            }
            other => Ok(other?),
        }
    }

    async fn exited_within(&self, limit: Duration) -> Option<ExitCause> {
        let mut exit = self.exit.subscribe();
        let waited = tokio::time::timeout(limit, exit.wait_for(Option::is_some)).await;
        waited.ok()?.ok()?.clone()
    }

    async fn save(&self, record: &LaunchRecord) -> Result<()> {
        self.file.save(record).await
    }

    fn tell(&self, event: MachineEvent) {
        // Nobody listening is fine: whatever is told can be read.
        let _ = self.events.send(event);
    }
}
