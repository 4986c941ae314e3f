//! A running QEMU: its monitor, its process, its ports.
//!
//! One task, the keeper, owns the monitor's events and the process's end, tells [`MachineEvent`]s, and finishes what takes
//! its time: detachments whose device is gone. Steps of attachments and detachments are noted in the launch record before
//! QEMU is told, so that whoever comes later ([`QemuMachine::reconcile`]) can finish them; that also cures a caller that
//! was cancelled in the middle.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::stream::{FuturesUnordered, StreamExt as _};
use parking_lot::Mutex as Lock;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::{Mutex, broadcast, mpsc, watch};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::block_nodes;
use crate::error::HypervisorError;
use crate::hypervisor::{
    EVENT_QUEUE, EventStream, ExitCause, MachineEvent, MachineStatus, QUIT_LIMIT, Result,
    RunFolder, RunState, RunningMachine,
};
use crate::launch_spec::{Accelerator, DiskId, DiskSpec};
use crate::ports::{OccupiedPort, PortState};
use crate::process::HeldProcess;
use crate::qemu::{ShortWay, blocking, open_image, remove_leftovers};
use crate::qmp::{COMMAND_LIMIT, GREETING_LIMIT, Qmp, QmpError, QmpEvent};
use crate::record::{LaunchRecord, RecordFile};

/// How long a QEMU whose guest is off may take to close its disks and end.
const QUIT_OFF_LIMIT: Duration = Duration::from_secs(5);
/// A killed process that isn't gone by then hangs in the kernel (dead storage).
pub(crate) const KILL_LIMIT: Duration = Duration::from_secs(5);
/// Before the second attempt to remove a block node that is still held: by a job, an export, or QEMU itself, which lets go
/// of a device only when the virtual CPU has paused for a moment. Doubled each time.
const FIRST_NODE_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_NODE_PAUSE: Duration = Duration::from_secs(2);
/// Attempts (about a minute) before a detachment is left for the next request or reading of the status.
const NODE_ATTEMPTS: u32 = 40;
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
        let keeper = tokio::spawn(keep(Arc::clone(&shared), qmp_events, gone));
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

    /// The steps of an attachment after the port is noted.
    async fn plug(&self, disk: &DiskSpec, entry: &OccupiedPort) -> Result<()> {
        let read_only = disk.read_only;
        let paths: Vec<_> = disk.images().map(|image| image.path.clone()).collect();
        let opened = blocking(move || {
            let open = |(depth, path): (usize, &std::path::PathBuf)| {
                open_image(path, read_only || depth > 0)
            };
            paths
                .iter()
                .enumerate()
                .map(open)
                .collect::<Result<Vec<_>>>()
        })
        .await?;
        let qmp = self.monitor();
        for (set, descriptor) in entry.sets().zip(opened) {
            let arguments = json!({"fdset-id": set});
            qmp.execute_with_descriptor("add-fd", arguments, descriptor)
                .await?;
        }
        for node in block_nodes::definitions(disk, entry.port, entry.first_set) {
            qmp.execute("blockdev-add", Some(node)).await?;
        }
        let device = block_nodes::device(disk, entry.port, None);
        qmp.execute("device_add", Some(device))
            .await
            .map_err(|error| match error.refusal() {
                Some(words) if words.contains("lock") || words.contains("Permission conflict") => {
                    HypervisorError::DiskInUse {
                        disk: disk.id.clone(),
                        reason: words.to_owned(),
                    }
                }
                _ => error.into(),
            })?;
        Ok(())
    }

    /// Makes the port account and QEMU agree: what QEMU has is attached, what it has no more is cleared away.
    async fn reconcile(&self, record: &mut LaunchRecord) -> Result<()> {
        let devices = self.devices().await?;
        let mut changed = false;
        for entry in record.ports.occupied.clone() {
            if devices.contains(&entry.disk) {
                if entry.state == PortState::Attaching {
                    record.ports.set_state(&entry.disk, PortState::Attached);
                    changed = true;
                }
            } else if self.remove_nodes(&entry).await? {
                self.release(record, &entry).await?;
                changed = true;
                if entry.state != PortState::Attaching {
                    self.tell(MachineEvent::DiskDetached { disk: entry.disk });
                }
            } else if entry.state != PortState::Detaching {
                record.ports.set_state(&entry.disk, PortState::Detaching);
                changed = true;
            }
        }
        if changed {
            self.save(record).await
        } else {
            Ok(())
        }
    }

    /// The disks whose devices QEMU has.
    async fn devices(&self) -> Result<Vec<DiskId>> {
        let answer = self
            .execute("qom-list", Some(json!({"path": "/machine/peripheral"})))
            .await?;
        let children = answer.as_array().map(Vec::as_slice).unwrap_or_default();
        let names = children
            .iter()
            .filter_map(|child| child.get("name")?.as_str());
        Ok(names.filter_map(block_nodes::disk_of_device).collect())
    }

    /// Removes the nodes and descriptors of a disk whose device is gone. `false`: something still uses a node.
    async fn remove_nodes(&self, entry: &OccupiedPort) -> Result<bool> {
        for node in block_nodes::names_to_remove(entry.port, entry.images) {
            match self
                .execute("blockdev-del", Some(json!({"node-name": node})))
                .await
            {
                Ok(_) => {}
                Err(HypervisorError::Monitor(error)) => match error.refusal() {
                    Some(words) if words.contains("in use") || words.contains("busy") => {
                        return Ok(false);
                    }
                    Some(words) if words.contains("Failed to find node") => {}
                    _ => return Err(error.into()),
                },
                Err(error) => return Err(error),
            }
        }
        self.remove_descriptors(entry.sets()).await?;
        Ok(true)
    }

    async fn remove_descriptors(&self, sets: impl IntoIterator<Item = u32>) -> Result<()> {
        for set in sets {
            match self
                .execute("remove-fd", Some(json!({"fdset-id": set})))
                .await
            {
                // It is gone already.
                Err(HypervisorError::Monitor(error)) if error.refusal().is_some() => {}
                other => drop(other?),
            }
        }
        Ok(())
    }

    /// Frees the port of a disk whose nodes are gone.
    async fn release(&self, record: &mut LaunchRecord, entry: &OccupiedPort) -> Result<()> {
        record.ports.release(&entry.disk);
        record.ports.lingering_sets.extend(entry.sets());
        self.drop_lingering(record).await
    }

    /// QEMU closes a removed descriptor only while the guest runs; what is left now is tried again at the next `RESUME`.
    async fn drop_lingering(&self, record: &mut LaunchRecord) -> Result<()> {
        self.remove_descriptors(record.ports.lingering_sets.clone())
            .await?;
        let answer = self.execute("query-fdsets", None).await?;
        let sets = answer.as_array().map(Vec::as_slice).unwrap_or_default();
        let left: Vec<u64> = sets
            .iter()
            .filter_map(|set| set.get("fdset-id")?.as_u64())
            .collect();
        record
            .ports
            .lingering_sets
            .retain(|set| left.contains(&u64::from(*set)));
        Ok(())
    }

    /// After the guest began to run: closes what could not be closed before.
    async fn tidy(&self) {
        let mut record = self.record.lock().await;
        if record.ports.lingering_sets.is_empty() {
            return;
        }
        let tidied = async {
            self.drop_lingering(&mut record).await?;
            self.save(&record).await
        };
        if let Err(error) = tidied.await {
            tracing::warn!(vmid = self.vmid, %error, "descriptors of detached disks are still open");
        }
    }

    /// After the device of a disk is gone: frees its image and port, patiently.
    async fn finish_detach(&self, disk: DiskId) {
        let mut pause = Duration::ZERO;
        for _ in 0..NODE_ATTEMPTS {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).clamp(FIRST_NODE_PAUSE, LONGEST_NODE_PAUSE);
            let mut record = self.record.lock().await;
            let Some(entry) = record.ports.find(&disk).cloned() else {
                return;
            };
            let step = async {
                if self.devices().await?.contains(&disk) {
                    return Ok(None);
                }
                Ok::<_, HypervisorError>(Some(self.remove_nodes(&entry).await?))
            };
            match step.await {
                // The device is there (again): nothing to finish.
                Ok(None) => return,
                Ok(Some(true)) => {
                    let freed = async {
                        self.release(&mut record, &entry).await?;
                        self.save(&record).await
                    };
                    if let Err(error) = freed.await {
                        tracing::warn!(vmid = self.vmid, %disk, %error, "a detachment could not be recorded");
                    }
                    self.tell(MachineEvent::DiskDetached { disk });
                    return;
                }
                Ok(Some(false)) => {}
                Err(error) => {
                    tracing::warn!(vmid = self.vmid, %disk, %error, "a detachment could not be finished");
                    return;
                }
            }
        }
        tracing::warn!(vmid = self.vmid, %disk, "the image of a detached disk is still in use inside QEMU");
    }

    /// Tells what an event means; returns what is to be done after it.
    async fn take(&self, event: QmpEvent) -> Option<FollowUp> {
        let QmpEvent::Happened { name, data } = event else {
            self.tell(MachineEvent::Missed);
            return None;
        };
        let text = |field: &str| data.get(field).and_then(Value::as_str).unwrap_or_default();
        let flag = |field: &str| data.get(field).and_then(Value::as_bool).unwrap_or_default();
        let told = match name.as_str() {
            "RESUME" => {
                self.tell(MachineEvent::Running);
                return Some(FollowUp::Tidy);
            }
            "STOP" => MachineEvent::Paused,
            "POWERDOWN" => MachineEvent::PowerButton,
            "RESET" if flag("guest") => MachineEvent::GuestReset,
            "RESET" => MachineEvent::HostReset,
            "SHUTDOWN" if flag("guest") => MachineEvent::GuestShutdown,
            "SHUTDOWN" => MachineEvent::HostShutdown {
                reason: text("reason").to_owned(),
            },
            "GUEST_PANICKED" => MachineEvent::GuestPanicked,
            "DEVICE_DELETED" => {
                // virtio devices tell twice; the first time, for their back end, without `device`.
                return block_nodes::disk_of_device(text("device")).map(FollowUp::FinishDetach);
            }
            "DEVICE_UNPLUG_GUEST_ERROR" => {
                let disk = block_nodes::disk_of_device(text("device"))?;
                let mut record = self.record.lock().await;
                record.ports.set_state(&disk, PortState::Attached);
                if let Err(error) = self.save(&record).await {
                    tracing::warn!(vmid = self.vmid, %disk, %error, "a refused detachment could not be recorded");
                }
                MachineEvent::DetachRefused { disk }
            }
            "BLOCK_IO_ERROR" => {
                let port = block_nodes::port_of_node(text("node-name"));
                let record = self.record.lock().await;
                let disk = port
                    .and_then(|port| record.ports.on_port(port))
                    .map(|entry| entry.disk.clone());
                MachineEvent::IoError {
                    disk,
                    operation: text("operation").to_owned(),
                    no_space: flag("nospace"),
                    halted: text("action") == "stop",
                    reason: text("reason").to_owned(),
                }
            }
            "VSERPORT_CHANGE" if text("id") == "agent" => {
                MachineEvent::AgentConnected(flag("open"))
            }
            _ => return None,
        };
        self.tell(told);
        None
    }

    async fn follow_up(&self, task: FollowUp) {
        match task {
            FollowUp::FinishDetach(disk) => self.finish_detach(disk).await,
            FollowUp::Tidy => self.tidy().await,
        }
    }

    /// The process has ended: clears up, then tells.
    async fn finish(&self, how: ExitCause) {
        let mut record = self.record.lock().await;
        record.ended = Some(how.clone());
        let (ended, folder) = (record.clone(), self.folder.clone());
        let cleared = blocking(move || {
            remove_leftovers(&folder, &ended);
            Ok(())
        });
        if let Err(error) = futures::future::try_join(cleared, self.save(&record)).await {
            tracing::warn!(vmid = self.vmid, %error, "the end of a machine could not be recorded");
        }
        self.exit.send_replace(Some(how.clone()));
        self.tell(MachineEvent::Exited { how });
    }
}

/// What takes its time, done beside the reading of events.
enum FollowUp {
    FinishDetach(DiskId),
    Tidy,
}

/// The keeper: until the process ends or the handle is dropped.
async fn keep(
    shared: Arc<Shared>,
    mut events: mpsc::Receiver<QmpEvent>,
    mut device_gone: mpsc::Receiver<DiskId>,
) {
    let mut finishing = FuturesUnordered::new();
    let mut orderly = false;
    let mut connected = true;
    let how = loop {
        tokio::select! {
            biased;
            event = events.recv(), if connected => match event {
                Some(event) => {
                    orderly |= is_orderly_end(&event);
                    if let Some(task) = shared.take(event).await {
                        finishing.push(shared.follow_up(task));
                    }
                }
                None => connected = false,
            },
            how = shared.process.ended() => break how,
            Some(disk) = device_gone.recv() => {
                finishing.push(shared.follow_up(FollowUp::FinishDetach(disk)));
            }
            Some(()) = finishing.next() => {}
            anew = reconnect(&shared), if !connected => {
                events = anew;
                connected = true;
                shared.tell(MachineEvent::Missed);
            }
        }
    };
    drop(finishing);
    // What it said last may still be on its way; the socket of a dead process is closed, so this ends.
    while let Ok(Some(event)) =
        tokio::time::timeout(Duration::from_millis(200), events.recv()).await
    {
        orderly |= is_orderly_end(&event);
        let _ = shared.take(event).await;
    }
    let how = match how {
        // Nobody can wait for another's child, but it said that it ends.
        ExitCause::Unseen if orderly => ExitCause::Requested,
        how => how,
    };
    shared.finish(how).await;
}

fn is_orderly_end(event: &QmpEvent) -> bool {
    let QmpEvent::Happened { name, data } = event else {
        return false;
    };
    let reason = data
        .get("reason")
        .and_then(Value::as_str)
        .unwrap_or_default();
    name == "SHUTDOWN" && matches!(reason, "host-qmp-quit" | "host-signal")
}

/// The monitor was lost though the process lives (a broken line, an operator's tool): tries until it works.
async fn reconnect(shared: &Shared) -> mpsc::Receiver<QmpEvent> {
    // A process that is just ending closes its monitor first.
    let mut pause = Duration::from_millis(50);
    let began = Instant::now();
    loop {
        tokio::time::sleep(pause).await;
        match QemuMachine::connect(&shared.folder, shared.machine).await {
            Ok((qmp, events)) => {
                *shared.monitor.lock() = Arc::new(qmp);
                return events;
            }
            Err(error) => {
                tracing::warn!(vmid = shared.vmid, %error, lost_for = ?began.elapsed(), "the monitor can't be reached");
                pause = (pause * 2).min(COMMAND_LIMIT);
            }
        }
    }
}
