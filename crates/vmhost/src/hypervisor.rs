//! The seam between the controller and what runs machines.
//!
//! The life of a process, as this layer sees it:
//!
//! ```text
//!            launch                cont                    power button, halt
//!   (none) ─────────▶ Prelaunch ─────────▶ Running ──────────────────────────▶ ShutDown
//!                         │                 │  ▲                                  │
//!                         │           pause │  │ cont          panic ─▶ Panicked  │ reset, cont
//!                         │                 ▼  │                          │       ▼
//!                         │                Paused         disk full ─▶ IoError  Running
//!                         └───────── quit, kill, crash ──────────┬────────┘
//!                                                                ▼
//!                                                             Exited
//! ```
//!
//! Who causes an edge: the caller by a method, the guest (shut-down, panic, reset, I/O), or the outside (kill, crash).
//! Each edge is told by a [`MachineEvent`]. Events are lost while nobody is connected, so whatever they tell can also be
//! read by [`RunningMachine::status`]; a receiver that fell behind is told so by [`MachineEvent::Missed`].

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use uuid::Uuid;

use crate::adopt::LostProcess;
use crate::error::HypervisorError;
use crate::launch_spec::{Accelerator, DiskId, DiskSpec, LaunchSpec};
use crate::record::LaunchRecord;
use crate::usage::{Traffic, Usage};

/// Result of this layer.
pub type Result<T> = std::result::Result<T, HypervisorError>;

/// Events kept for a receiver that is behind; then it gets [`MachineEvent::Missed`].
pub const EVENT_QUEUE: usize = 256;

/// Starts machines and finds those already started.
#[async_trait]
pub trait Hypervisor: Send + Sync {
    /// What this is.
    fn kind(&self) -> HypervisorKind;

    /// What machines are expected to run with here.
    fn accelerator(&self) -> Accelerator;

    /// Starts a machine, halted before its first instruction ([`RunState::Prelaunch`]): call
    /// [`RunningMachine::cont`] to let it run. The process outlives this program.
    ///
    /// # Errors
    /// `InvalidSpec` before anything happened; `AlreadyRunning` if a process of this folder lives;
    /// `AcceleratorFailed`, `StartFailed` with what the process said. After an error nothing is left running.
    async fn launch(&self, spec: LaunchSpec) -> Result<Arc<dyn RunningMachine>>;

    /// Whether a process of this run folder lives. Blocks briefly.
    ///
    /// # Errors
    /// `System` if that can't be found out; then it may.
    fn lives(&self, folder: &Path) -> Result<bool>;

    /// Takes over the machine of a run folder after a restart of this program, finishing half-done attachments and
    /// detachments. Never starts anything.
    ///
    /// # Errors
    /// `NeverStarted` if nothing ever was; `Record` if what was can't be told, but no process lives; `Unidentified` if one
    /// lives and can't be found. Any other error: nobody knows, try again.
    async fn adopt(&self, folder: &Path) -> Result<Adopted>;
}

/// Which implementation stands behind the trait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HypervisorKind {
    /// The real thing.
    Qemu,
    /// In memory, for tests and benchmarks.
    Simulated,
}

/// What [`Hypervisor::adopt`] found.
pub enum Adopted {
    /// The machine's process lives and is now connected.
    Running(Arc<dyn RunningMachine>),
    /// The process has ended; leftovers (sockets, cgroup) were removed.
    Gone {
        /// What was known of it.
        record: Box<LaunchRecord>,
        /// How it ended, as far as is known.
        how: ExitCause,
    },
    /// The machine's process lives, but its monitor doesn't answer or its record can't be read: try again, or end it.
    Unreachable {
        /// To end it by force.
        process: Box<LostProcess>,
        /// Why it could not be taken over.
        why: HypervisorError,
    },
}

impl fmt::Debug for Adopted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running(machine) => write!(f, "Running({})", machine.uuid()),
            Self::Gone { record, how } => write!(f, "Gone({}, {how:?})", record.machine),
            Self::Unreachable { process, why } => {
                write!(f, "Unreachable({}, {why})", process.pid())
            }
        }
    }
}

/// A connected machine. Dropping the handle leaves the machine running.
#[async_trait]
pub trait RunningMachine: Send + Sync {
    /// The machine's identifier.
    fn uuid(&self) -> Uuid;

    /// The machine's number.
    fn vmid(&self) -> u64;

    /// The machine's run folder.
    fn folder(&self) -> &Path;

    /// Process number, if it is a process.
    fn process_id(&self) -> Option<u32>;

    /// Lets the guest run: the first time, after a pause, after a cured I/O error.
    async fn cont(&self) -> Result<()>;

    /// Presses the power button. That the guest obeys is told by [`MachineEvent::GuestShutdown`]; it may never.
    async fn power_button(&self) -> Result<()>;

    /// Resets the machine as by its reset button. A machine that had shut down needs [`RunningMachine::cont`] after it.
    async fn reset(&self) -> Result<()>;

    /// Halts the virtual CPUs.
    async fn pause(&self) -> Result<()>;

    /// Plugs the cable of a network card (by its place in [`LaunchSpec::nics`](crate::LaunchSpec)) in or out: the guest sees
    /// its link come and go, and no frame passes while it is out. May be repeated.
    async fn set_link(&self, nic: usize, up: bool) -> Result<()>;

    /// What its process has used so far.
    async fn usage(&self) -> Result<Usage>;

    /// What went over its interfaces since its process began, without asking its monitor; `None` where the host has none that
    /// counts.
    async fn traffic(&self) -> Option<Traffic>;

    /// Begins to write the memory of a halted machine to `file`, and returns at once; [`RunningMachine::saving`] tells how
    /// far it is. When it is complete, the machine is [`RunState::Saved`].
    async fn begin_save(&self, file: OwnedFd) -> Result<()>;

    /// How far the last [`RunningMachine::begin_save`] is, whoever began it.
    async fn saving(&self) -> Result<Saving>;

    /// Gives up writing memory. No error if nothing is written.
    async fn cancel_save(&self) -> Result<()>;

    /// Ends the process at once, by force if it doesn't end within [`QUIT_LIMIT`] (a few
    /// seconds if the guest has switched itself off: then nobody waits for it). When this returns, the process, its
    /// sockets and its cgroup are gone. Calling it on an ended machine is no error.
    async fn quit(&self) -> Result<ExitCause>;

    /// Plugs a disk into a free port. When this returns the device exists; the guest sees it within moments.
    ///
    /// # Errors
    /// `DiskAlreadyAttached`, `NoFreePort`, `DiskInUse`, or the monitor's refusal; then nothing of it remains.
    async fn attach_disk(&self, disk: DiskSpec) -> Result<()>;

    /// Asks the guest to give up a disk, and returns at once. [`MachineEvent::DiskDetached`] tells when the image is free;
    /// a guest may never answer. May be repeated; an event follows also if the device is already gone.
    ///
    /// # Errors
    /// `UnknownDisk`.
    async fn begin_detach(&self, disk: &DiskId) -> Result<()>;

    /// Reads the machine's state anew from the hypervisor.
    async fn status(&self) -> Result<MachineStatus>;

    /// What happens from now on.
    fn events(&self) -> EventStream;

    /// By which it goes to another host while its guest runs; none: it can't.
    fn crossing(&self) -> Option<&dyn Crossing> {
        None
    }
}

/// A machine that goes to another host while its guest runs, or comes from one.
///
/// ```text
///  here, as it goes                                       there, as it comes: halted from its launch on
///   mirror, for each disk ──────── what is on it ────────▶ (a process of its own writes it)
///   all Ready: send ────────────── memory ───────────────▶ receive
///   Still: the guest is halted, memory all but sent
///   end_mirrors
///   hand_over ──────────────────── the rest ─────────────▶ RunState::Paused
///   RunState::Saved
/// ```
///
/// Until [`RunningMachine::cont`] is called at either, its guest executes at neither. [`MachineEvent::Memory`] tells that it is a
/// step further.
#[async_trait]
pub trait Crossing: Send + Sync {
    /// Begins to copy a disk to an NBD server that listens at a socket of this name in the folder of volumes, and to write there
    /// what the guest writes from now on; so many bytes a second of what was there before.
    async fn mirror(&self, port: u8, socket: &str, speed: Option<u64>) -> Result<()>;

    /// Begins to send memory, so many bytes a second, with the guest running. It halts the guest when little is left; or before, if
    /// what that writes meanwhile could be missed: whether it did, and then it lets it run again in no case.
    async fn send(&self, to: OwnedFd, speed: Option<u64>) -> Result<bool>;

    /// How far it is, with memory if that [is being sent](Self::send).
    async fn sent(&self, is_sending: bool) -> Result<Sent>;

    /// Lets go of the disks that are mirrored, which are the same now. Only while the guest is halted by
    /// [`send`](Self::send).
    async fn end_mirrors(&self) -> Result<()>;

    /// Sends the rest, after which it is [`RunState::Saved`].
    async fn hand_over(&self) -> Result<()>;

    /// Gives up what was begun, however far it is; the guest runs on, unless all was sent. No error if nothing was begun.
    async fn give_up(&self) -> Result<()>;

    /// Takes memory, at a machine that was [launched for that](crate::launch_spec::SavedMemory).
    async fn receive(&self, from: OwnedFd) -> Result<()>;

    /// Tells the network where the machine is.
    async fn announce(&self) -> Result<()>;
}

/// How far a machine is on its way to another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Bytes of disks and memory that were copied.
    pub copied: u64,
    /// Bytes that are left, as far as is known.
    pub left: u64,
    /// How far.
    pub stage: SentStage,
}

/// See [`Sent`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SentStage {
    /// Something is being copied.
    GoesOn,
    /// All disks are the same, and stay so; no memory is being sent.
    Ready,
    /// The guest is halted, and waits for [`Crossing::hand_over`].
    Still,
    /// All was sent.
    Complete,
    /// It ended early.
    Failed(String),
}

/// How long [`RunningMachine::quit`] waits for an orderly end before it kills the process.
pub const QUIT_LIMIT: std::time::Duration = std::time::Duration::from_millis(200);

/// Run states of QEMU (`query-status`), folded to what makes a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// Started, never continued: whoever started it died before `cont`, or is about to.
    Prelaunch,
    /// The guest runs.
    Running,
    /// Halted by a caller.
    Paused,
    /// The guest powered off; the process is kept so that this can be read.
    ShutDown,
    /// The guest's kernel panicked.
    Panicked,
    /// Halted because a disk could not be written (full); cure and `cont`.
    IoError,
    /// Suspended by the guest (ACPI S3).
    Suspended,
    /// Halted, and the last of its memory is being written: it is [`RunState::Saved`] in a moment, even if
    /// [`Saving::Complete`] is told already.
    Saving,
    /// Halted, and its memory was written: it can go on or be ended.
    Saved,
    /// Its memory is being read back; it is [`RunState::Paused`] then.
    Loading,
    /// QEMU can't go on (KVM internal error) or is busy with a migration.
    Other,
    /// The process has ended.
    Exited,
}

/// How far the writing of a machine's memory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Saving {
    /// It was never begun.
    Never,
    /// It goes on.
    GoesOn {
        /// Bytes written so far.
        written: u64,
    },
    /// All is written (not yet to the disk itself).
    Complete,
    /// It ended early.
    Failed(String),
}

/// What [`RunningMachine::status`] reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineStatus {
    /// Whether and why (not) the guest runs.
    pub run_state: RunState,
    /// Disks on ports, in port order.
    pub disks: Vec<AttachedDisk>,
    /// Ports without a disk.
    pub free_ports: u8,
    /// How the process ended, if it did.
    pub exit: Option<ExitCause>,
}

/// One disk on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedDisk {
    /// Which disk.
    pub id: DiskId,
    /// On which hot-plug port.
    pub port: u8,
    /// Whether the guest was asked to give it up.
    pub detaching: bool,
}

/// Something that happened to a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineEvent {
    /// The guest runs: after the first `cont`, after a pause (QMP `RESUME`).
    Running,
    /// The guest was halted, by a caller or by an event told just before (QMP `STOP`).
    Paused,
    /// The power button was pressed.
    PowerButton,
    /// The guest powered itself off.
    GuestShutdown,
    /// The guest rebooted itself.
    GuestReset,
    /// A caller reset the machine.
    HostReset,
    /// The guest's kernel panicked.
    GuestPanicked,
    /// The hypervisor ends the machine for another reason than the guest's wish.
    HostShutdown {
        /// QEMU's word (`host-qmp-quit`, `host-signal`, …).
        reason: String,
    },
    /// The disk's image is closed and free.
    DiskDetached {
        /// Which disk.
        disk: DiskId,
    },
    /// The guest refused to give up the disk.
    DetachRefused {
        /// Which disk.
        disk: DiskId,
    },
    /// A disk request failed.
    IoError {
        /// The disk, if it could be told.
        disk: Option<DiskId>,
        /// `read` or `write`.
        operation: String,
        /// Out of space on the host: extend, then `cont`.
        no_space: bool,
        /// Whether the machine was halted by it.
        halted: bool,
        /// The system's words.
        reason: String,
    },
    /// The writing or reading of memory, or the copying of a disk, has come a step further: look at [`RunningMachine::saving`],
    /// [`Crossing::sent`] or the status.
    Memory,
    /// The guest agent's port was opened or closed by the guest.
    AgentConnected(bool),
    /// The process ended. The last event of a machine.
    Exited {
        /// How.
        how: ExitCause,
    },
    /// The receiver was too slow, or the monitor was lost: events are missing, read the status.
    Missed,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitCause {
    /// As asked: `quit`, or an orderly end by signal.
    Requested,
    /// By a signal (9 kill, 6 abort, 31 sandbox).
    Signal(i32),
    /// By itself, with this exit code.
    Code(i32),
    /// Nobody saw it: it was not our child, or ended while we were away.
    Unseen,
}

impl fmt::Display for ExitCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requested => f.write_str("ended as asked"),
            Self::Signal(signal) => write!(f, "ended by signal {signal}"),
            Self::Code(code) => write!(f, "ended with code {code}"),
            Self::Unseen => f.write_str("ended, nobody saw how"),
        }
    }
}

/// The events of one machine from a moment on.
#[derive(Debug)]
pub struct EventStream {
    receiver: broadcast::Receiver<MachineEvent>,
    ended: bool,
}

impl EventStream {
    pub(crate) fn new(receiver: broadcast::Receiver<MachineEvent>) -> Self {
        Self {
            receiver,
            ended: false,
        }
    }

    /// The next event; `None` after [`MachineEvent::Exited`] or when the handle is gone. Safe to cancel.
    pub async fn next(&mut self) -> Option<MachineEvent> {
        if self.ended {
            return None;
        }
        match self.receiver.recv().await {
            Ok(event) => {
                self.ended = matches!(event, MachineEvent::Exited { .. });
                Some(event)
            }
            Err(broadcast::error::RecvError::Lagged(_)) => Some(MachineEvent::Missed),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// Names of the files in a run folder.
#[derive(Debug, Clone)]
pub struct RunFolder(pub PathBuf);

impl RunFolder {
    /// QMP monitor; one client at a time.
    #[must_use]
    pub fn monitor(&self) -> PathBuf {
        self.0.join("qmp.sock")
    }
    /// Interactive serial console; one client at a time.
    #[must_use]
    pub fn serial_socket(&self) -> PathBuf {
        self.0.join("serial.sock")
    }
    /// What the guest wrote to its serial console, bounded.
    #[must_use]
    pub fn serial_log(&self) -> PathBuf {
        self.0.join("serial.log")
    }
    /// QEMU guest agent.
    #[must_use]
    pub fn agent(&self) -> PathBuf {
        self.0.join("agent.sock")
    }
    /// Where the socket of the screen is, `vnc.sock`, if the machine has one.
    #[must_use]
    pub fn graphics(&self) -> PathBuf {
        self.0.join("vnc")
    }

    /// Folder of the sockets at which volumes of other hosts are spoken to.
    #[must_use]
    pub fn volumes(&self) -> PathBuf {
        self.0.join("volumes")
    }
    /// The machine's memory while it is suspended.
    #[must_use]
    pub fn memory(&self) -> PathBuf {
        self.0.join("memory")
    }
    /// The same while it is being written.
    #[must_use]
    pub fn unfinished_memory(&self) -> PathBuf {
        self.0.join("memory.part")
    }
    /// The launch record of the process whose memory it is.
    #[must_use]
    pub fn memory_record(&self) -> PathBuf {
        self.0.join("memory.json")
    }
    /// What QEMU itself said.
    #[must_use]
    pub fn output(&self) -> PathBuf {
        self.0.join("qemu.log")
    }
    /// Locked for as long as the process lives.
    #[must_use]
    pub fn alive_lock(&self) -> PathBuf {
        self.0.join("alive")
    }
    /// The launch record.
    #[must_use]
    pub fn record(&self) -> PathBuf {
        self.0.join("launch.json")
    }
}
