//! Machines that go to another host while their guests run: what both hosts do, as two tasks that speak with each other.
//!
//! ```text
//!  the host that it is on (go)                                the host that it comes to (come)
//!  Offer: which disks are on which ports, what was said ───▶  makes disks and interfaces, starts QEMU halted
//!                                                        ◀──  Prepared, or why not
//!  mirrors each disk ─────────────── disk-N ──────────────▶   a process that writes it
//!  Same: all disks are, and stay so ──────────────────────▶   puts them on its disk
//!  sends memory ─────────────────── memory ───────────────▶   QEMU reads it
//!  the guest is halted, mirrors end
//!  Still ─────────────────────────────────────────────────▶   ends these processes, puts the rest on its disk
//!  Gone: for how long it has stood still, what was said ──▶   waits until QEMU has read all
//! ```
//!
//! Each of these is a connection of its own ([`MachineFiles::channel`](super::MachineFiles)). Neither end lets the guest run: who does is said by the
//! documents ([`worker::cross`](super::worker)). Whatever fails ends both tasks.

mod coming;
mod going;

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    os::{
        fd::OwnedFd,
        unix::{fs::OpenOptionsExt as _, net::UnixStream as StdUnixStream},
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

use cimi::resources::{Disk, DiskRole, Machine};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep},
};
use tokio_util::task::AbortOnDropHandle;

use self::{coming::Coming, going::Going};
use super::{Channel, Shared, WayEnd, arrival, memory::MemoryRecord};
use crate::{RunningMachine, hypervisor::Sent};

/// The connection by which the two hosts speak.
const CONTROL: &str = "control";
const MEMORY: &str = "memory";
/// How long the last step may take.
const ENDING: Duration = Duration::from_secs(20);
/// Rest before a connection is asked for again.
const REST: Duration = Duration::from_secs(1);
/// How often is looked how far it is.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// The longest word of the other host, and the longest console that is taken from it.
const WORD_BYTES: u32 = 64 << 10;
const CONSOLE_BYTES: u32 = 16 << 20;
/// What is read before it is written, each way.
const BUFFER_BYTES: usize = 256 << 10;

/// What the two hosts say to each other.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Said {
    /// What comes. The console so far follows.
    Offer { record: MemoryRecord },
    /// These disks can be written, by their ports.
    Prepared { disks: Vec<u8> },
    /// It can't come.
    Refused { why: String },
    /// All disks are the same, and stay so.
    Same,
    /// The guest is halted, and nobody writes disks any more.
    Still,
    /// All was sent; the guest has stood still for so long. What was said on the console since follows, after so many bytes.
    Gone { halted_micros: u64, console_at: u64 },
}

/// A task for one end of a way, and what became of it. Ended when dropped.
pub(super) struct Way<T> {
    /// Which, by [`Moving::since`](cimi::lifecycle::Moving).
    pub(super) since: cimi::Timestamp,
    /// How far it is.
    pub(super) sent: watch::Receiver<Option<Sent>>,
    outcome: Arc<Mutex<Option<Result<T, String>>>>,
    _task: AbortOnDropHandle<()>,
}

impl<T: Send + 'static> Way<T> {
    /// Runs `work`, and rings when it has ended.
    fn begun(
        since: cimi::Timestamp,
        bell: Arc<Notify>,
        work: impl FnOnce(
            watch::Sender<Option<Sent>>,
        ) -> futures::future::BoxFuture<'static, Result<T, String>>,
    ) -> Self {
        let (tell, sent) = watch::channel(None);
        let outcome = Arc::new(Mutex::new(None));
        let (told, work) = (Arc::clone(&outcome), work(tell));
        let task = tokio::spawn(async move {
            let ended = work.await;
            *told.lock() = Some(ended);
            bell.notify_one();
        });
        Self {
            since,
            sent,
            outcome,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Whether it has ended, and if not well, why.
    pub(super) fn ended(&self) -> Option<Result<(), String>> {
        let outcome = self.outcome.lock();
        let ended = outcome.as_ref()?.as_ref();
        Some(ended.map(drop).map_err(Clone::clone))
    }

    /// What it has led to, if it has ended well.
    pub(super) fn take(&self) -> Option<T> {
        self.outcome.lock().take()?.ok()
    }
}

/// A machine that has come, halted.
pub(super) struct Come {
    pub(super) handle: Arc<dyn RunningMachine>,
    /// For how long its guest had stood still, when.
    halted: (Duration, Instant),
}

impl Come {
    /// For how long its guest has stood still by now.
    pub(super) fn stands_still(&self) -> Duration {
        self.halted.0 + self.halted.1.elapsed()
    }
}

/// Begins to send a machine to the host that it is to go to.
pub(super) fn go(
    shared: Arc<Shared>,
    machine: Machine,
    handle: Arc<dyn RunningMachine>,
    bell: Arc<Notify>,
) -> Option<Way<()>> {
    let way = machine.crossing()?.clone();
    Some(Way::begun(way.since, bell, move |tell| {
        Box::pin(async move {
            let going = Going {
                shared: &shared,
                machine: &machine,
                handle: &*handle,
                crossing: handle.crossing().ok_or("its hypervisor can't")?,
                tell,
            };
            going.go(way.bandwidth).await
        })
    }))
}

/// Begins to wait for a machine, and to receive it. Whoever ends this early waits for `launching` before it looks whether a process
/// was started.
pub(super) fn come(
    shared: Arc<Shared>,
    machine: Machine,
    bell: Arc<Notify>,
    launching: Arc<tokio::sync::Mutex<()>>,
) -> Option<Way<Come>> {
    let since = machine.desired.moving.as_ref()?.since;
    Some(Way::begun(since, bell, move |_| {
        Box::pin(async move {
            let control = loop {
                // Until its host comes, or it doesn't any more.
                let asked = shared.moves.channel(&machine, WayEnd::Coming, CONTROL);
                match asked.await {
                    Ok(control) => break control,
                    Err(why) => tracing::debug!(why, "waits for its host to send it"),
                }
                sleep(REST).await;
            };
            let coming = Coming {
                shared: &shared,
                machine: &machine,
                folder: arrival::folder(&shared.settings, machine.id.local()),
                launching,
            };
            coming.come(Line::of(control)).await
        })
    }))
}

/// The disks that live and die with a machine and that its guest writes.
fn own_disks(machine: &Machine) -> impl Iterator<Item = &Disk> {
    let is_written = |disk: &&Disk| !matches!(disk.role, DiskRole::ReadOnly { .. });
    machine.disks.iter().filter(is_written)
}

/// What is said to the other host, and heard of it.
struct Line {
    to: tokio::io::WriteHalf<Channel>,
    heard: mpsc::Receiver<Result<Vec<u8>, String>>,
    _reader: AbortOnDropHandle<()>,
}

impl Line {
    fn of(channel: Channel) -> Self {
        let (mut from, to) = tokio::io::split(channel);
        let (tell, heard) = mpsc::channel(4);
        // A task of its own: what is read in part is lost with whoever gives up waiting for the rest.
        let reader = tokio::spawn(async move {
            let gone = |error: std::io::Error| {
                format!("the connection to the other host is lost: {error}")
            };
            loop {
                let word = async {
                    let length = from.read_u32().await.map_err(gone)?;
                    if length > CONSOLE_BYTES {
                        return Err("the other host makes no sense".to_owned());
                    }
                    let mut word = vec![0; length as usize];
                    from.read_exact(&mut word).await.map_err(gone)?;
                    Ok(word)
                };
                let word = word.await;
                let is_last = word.is_err();
                if tell.send(word).await.is_err() || is_last {
                    return;
                }
            }
        });
        Self {
            to,
            heard,
            _reader: AbortOnDropHandle::new(reader),
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        let gone =
            |error: std::io::Error| format!("the connection to the other host is lost: {error}");
        let length = u32::try_from(bytes.len()).map_err(|error| error.to_string())?;
        self.to.write_u32(length).await.map_err(gone)?;
        self.to.write_all(bytes).await.map_err(gone)?;
        self.to.flush().await.map_err(gone)
    }

    async fn say(&mut self, said: &Said) -> Result<(), String> {
        let bytes = serde_json::to_vec(said).map_err(|error| error.to_string())?;
        self.send(&bytes).await
    }

    async fn bytes(&mut self) -> Result<Vec<u8>, String> {
        let gone = || Err("the other host has given it up".to_owned());
        self.heard.recv().await.unwrap_or_else(gone)
    }

    async fn hear(&mut self) -> Result<Said, String> {
        let bytes = self.bytes().await?;
        if bytes.len() > WORD_BYTES as usize {
            return Err("the other host makes no sense".to_owned());
        }
        match serde_json::from_slice(&bytes) {
            Ok(Said::Refused { why }) => Err(why.chars().take(1000).collect()),
            Ok(said) => Ok(said),
            Err(error) => Err(format!("the other host makes no sense: {error}")),
        }
    }
}

/// Two ends of a connection, one for QEMU.
fn pair() -> std::io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs.into()))
}

/// What a console says from a byte on; none if it has become shorter. Blocks.
fn tail(log: &Path, from: u64) -> Option<Vec<u8>> {
    let mut file = File::open(log).ok()?;
    if file.metadata().ok()?.len() < from {
        return None;
    }
    file.seek(SeekFrom::Start(from)).ok()?;
    let mut bytes = Vec::new();
    file.take(u64::from(CONSOLE_BYTES))
        .read_to_end(&mut bytes)
        .ok()?;
    Some(bytes)
}

/// Makes a console say this after so many bytes. Blocks.
fn add(log: &Path, after: u64, bytes: &[u8]) -> std::io::Result<()> {
    let mut options = File::options();
    let mut file = options.append(true).create(true).mode(0o600).open(log)?;
    if file.metadata()?.len() > after {
        file.set_len(after)?;
    }
    file.write_all(bytes)
}

fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(told)?
        .map_err(told)
}
