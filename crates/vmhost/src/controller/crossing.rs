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

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{DirBuilderExt as _, OpenOptionsExt as _},
            net::UnixStream as StdUnixStream,
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cimi::resources::{Disk, DiskRole, Machine};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use storage::{
    exports::{Part, Shown},
    inspect::Format,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional_with_sizes},
    net::{UnixListener, UnixStream},
    sync::{Notify, mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Channel, Shared, VolumeUser, WayEnd, arrival,
    memory::MemoryRecord,
    prepare::{self, Places},
    worker::{Plugged, plug},
};
use crate::{
    MachineEvent, RunState, RunningMachine,
    hypervisor::{Crossing, EventStream, RunFolder, Sent, SentStage},
    launch_spec::{DiskFormat, DiskSpec, ImageStorage},
    qemu::last_words,
};

/// The connection by which the two hosts speak.
const CONTROL: &str = "control";
const MEMORY: &str = "memory";
/// How long the other host may take to ask for a connection, too, and to be prepared.
const MEETING: Duration = Duration::from_secs(60);
const PREPARING: Duration = Duration::from_secs(180);
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

/// The end of a way where the machine is.
struct Going<'a> {
    shared: &'a Shared,
    machine: &'a Machine,
    handle: &'a dyn RunningMachine,
    crossing: &'a dyn Crossing,
    tell: watch::Sender<Option<Sent>>,
}

impl Going<'_> {
    /// Sends it. When this has ended well, all of it is on the other side, and its guest is halted.
    async fn go(&self, bandwidth: Option<u64>) -> Result<(), String> {
        let mut events = self.handle.events();
        let mut line = Line::of(self.channel(CONTROL).await?);
        let folder = prepare::folder(&self.shared.settings, self.machine);
        let by = prepare::volume_user_in(self.shared, self.machine, folder);
        let status = self.handle.status().await.map_err(told)?;
        let (place, log) = (by.folder.clone(), by.folder.serial_log());
        let (record, console) = blocking(move || {
            let record = MemoryRecord::of(&place, &status);
            Ok((record, tail(&log, 0).unwrap_or_default()))
        })
        .await?;
        let disks = self.disks(&record)?;
        line.say(&Said::Offer { record }).await?;
        line.send(&console).await?;
        match timeout(PREPARING, line.hear()).await {
            Ok(Ok(Said::Prepared { disks: there })) if there == disks => {}
            Ok(Ok(_)) => return Err("the other host takes other disks".to_owned()),
            Ok(Err(why)) => return Err(why),
            Err(_) => return Err("the other host was not prepared in time".to_owned()),
        }

        let mut streams = JoinSet::new();
        let of_each = bandwidth.map(|all| (all / disks.len().max(1) as u64).max(1));
        for port in disks {
            let name = format!("crossing-{port}.sock");
            let listener = by.listen(&name).map_err(told)?;
            let channel = self.channel(&format!("disk-{port}")).await?;
            streams.spawn(accept(listener, channel));
            let begun = self.crossing.mirror(port, &name, of_each).await;
            // QEMU is connected, or never will be.
            VolumeUser::forget(&by.folder.0, &name);
            begun.map_err(told)?;
        }
        self.until(false, &SentStage::Ready, &mut events, &mut line)
            .await?;
        line.say(&Said::Same).await?;

        let mut channel = self.channel(MEMORY).await?;
        let (mut from_qemu, to_us) = pair().map_err(told)?;
        let sending = tokio::spawn(async move {
            let mut buffer = vec![0; BUFFER_BYTES];
            loop {
                match from_qemu.read(&mut buffer).await? {
                    0 => return channel.shutdown().await,
                    length => {
                        channel
                            .write_all(buffer.get(..length).unwrap_or_default())
                            .await?;
                    }
                }
            }
        });
        let sending = AbortOnDropHandle::new(sending);
        let sent = self.crossing.send(to_us, bandwidth).await;
        sent.map_err(told)?;
        let halted = self
            .until(true, &SentStage::Still, &mut events, &mut line)
            .await?;
        self.crossing.end_mirrors().await.map_err(told)?;
        line.say(&Said::Still).await?;
        self.crossing.hand_over().await.map_err(told)?;
        let ending = self.until(true, &SentStage::Complete, &mut events, &mut line);
        let late = |_| "the last of its memory was not sent in time".to_owned();
        timeout(ENDING, ending).await.map_err(late)??;
        let all = timeout(ENDING, sending).await.map_err(late)?;
        all.map_err(|error| error.to_string())
            .and_then(|sent| sent.map_err(told))?;
        let (log, console_at) = (by.folder.serial_log(), console.len() as u64);
        let rest = blocking(move || Ok(tail(&log, console_at))).await?;
        // It was cut meanwhile: all of it.
        let (rest, console_at) = match rest {
            Some(rest) => (rest, console_at),
            None => {
                let log = by.folder.serial_log();
                (
                    blocking(move || Ok(tail(&log, 0).unwrap_or_default())).await?,
                    0,
                )
            }
        };
        line.say(&Said::Gone {
            halted_micros: u64::try_from(halted.elapsed().as_micros()).unwrap_or(u64::MAX),
            console_at,
        })
        .await?;
        line.send(&rest).await
    }

    async fn channel(&self, name: &str) -> Result<Channel, String> {
        let asked = self
            .shared
            .moves
            .channel(self.machine, WayEnd::Leaving, name);
        let late = |_| "the other host doesn't answer in time".to_owned();
        timeout(MEETING, asked).await.map_err(late)?
    }

    /// The ports of the disks that are to be copied.
    fn disks(&self, record: &MemoryRecord) -> Result<Vec<u8>, String> {
        let port_of = |disk: &Disk| {
            let name = prepare::disk_name(disk);
            let known = record
                .disks()
                .iter()
                .find(|(_, known)| known.as_str() == name);
            known
                .map(|(port, _)| *port)
                .ok_or_else(|| format!("its disk {name} is not at it"))
        };
        let mut ports = own_disks(self.machine)
            .map(port_of)
            .collect::<Result<Vec<_>, _>>()?;
        ports.sort_unstable();
        Ok(ports)
    }

    /// Waits until it has come so far; says since when its guest is halted, if it is.
    async fn until(
        &self,
        is_sending: bool,
        wanted: &SentStage,
        events: &mut EventStream,
        line: &mut Line,
    ) -> Result<Instant, String> {
        let mut halted = None;
        loop {
            let sent = self.crossing.sent(is_sending).await.map_err(told)?;
            let stage = sent.stage.clone();
            self.tell.send_replace(Some(sent));
            match stage {
                stage if stage == *wanted => return Ok(halted.unwrap_or_else(Instant::now)),
                SentStage::Failed(why) => return Err(why),
                _ => {}
            }
            tokio::select! {
                event = events.next() => match event {
                    Some(MachineEvent::Paused) => halted = Some(Instant::now()),
                    Some(MachineEvent::Exited { how }) => return Err(format!("its QEMU {how}")),
                    _ => {}
                },
                said = line.hear() => {
                    let said = said.err();
                    return Err(said.unwrap_or_else(|| "the other host makes no sense".to_owned()));
                }
                () = sleep(LOOK_AGAIN) => {}
            }
        }
    }
}

/// The end of a way where the machine comes to.
struct Coming<'a> {
    shared: &'a Arc<Shared>,
    machine: &'a Machine,
    folder: PathBuf,
    launching: Arc<tokio::sync::Mutex<()>>,
}

/// A disk that is being written.
struct Written {
    shown: Shown,
    path: PathBuf,
}

impl Coming<'_> {
    async fn come(&self, mut line: Line) -> Result<Come, String> {
        let prepared = self.prepared(&mut line).await;
        let (handle, mut events, disks) = match prepared {
            Ok(prepared) => prepared,
            Err(why) => {
                // So that it says why, and not only that it was given up.
                let _ = line.say(&Said::Refused { why: why.clone() }).await;
                return Err(why);
            }
        };
        let (ports, shown): (Vec<u8>, Vec<DiskSpec>) = disks.into_iter().unzip();
        let mut copies = JoinSet::new();
        for (port, disk) in ports.iter().zip(&shown) {
            copies.spawn(self.written(*port, disk).await?);
        }
        let memory = self.memory(&*handle).await?;
        line.say(&Said::Prepared { disks: ports }).await?;

        let mut syncing = JoinSet::new();
        let mut written: Vec<Written> = Vec::new();
        loop {
            let said = tokio::select! {
                said = line.hear() => said?,
                Some(event) = events.next() => match event {
                    MachineEvent::Exited { how } => return Err(self.last_words(&how.to_string()).await),
                    _ => continue,
                },
            };
            match said {
                Said::Same => {
                    // What is on the disk by now need not be put there while the guest stands still.
                    for disk in &shown {
                        let path = disk.image.path.clone();
                        syncing.spawn_blocking(move || File::open(path)?.sync_all());
                    }
                }
                Said::Still => {
                    let all = async {
                        while let Some(copied) = copies.join_next().await {
                            written.push(copied.map_err(|error| error.to_string())??);
                        }
                        Ok::<_, String>(())
                    };
                    let late = |_| "its disks were not written to their end in time".to_owned();
                    timeout(ENDING, all).await.map_err(late)??;
                    while let Some(synced) = syncing.join_next().await {
                        synced.map_err(told)?.map_err(told)?;
                    }
                    for disk in std::mem::take(&mut written) {
                        if !disk.shown.close(ENDING).await {
                            return Err("a disk could not be closed in time".to_owned());
                        }
                        blocking(move || File::open(disk.path)?.sync_all()).await?;
                    }
                }
                Said::Gone {
                    halted_micros,
                    console_at,
                } => {
                    let now = Instant::now();
                    if !copies.is_empty() {
                        return Err("the other host makes no sense".to_owned());
                    }
                    let (rest, log) = (
                        line.bytes().await?,
                        RunFolder(self.folder.clone()).serial_log(),
                    );
                    blocking(move || add(&log, console_at, &rest)).await?;
                    self.until_read(&*handle, &mut events).await?;
                    drop(memory);
                    let halted = Duration::from_micros(halted_micros);
                    return Ok(Come {
                        handle,
                        halted: (halted, now),
                    });
                }
                Said::Offer { .. } | Said::Prepared { .. } | Said::Refused { .. } => {
                    return Err("the other host makes no sense".to_owned());
                }
            }
        }
    }

    /// Makes all that it needs, and starts its process, which waits.
    async fn prepared(
        &self,
        line: &mut Line,
    ) -> Result<(Arc<dyn RunningMachine>, EventStream, Vec<(u8, DiskSpec)>), String> {
        let Said::Offer { record } = line.hear().await? else {
            return Err("the other host makes no sense".to_owned());
        };
        let console = line.bytes().await?;
        let known = |disk: &str| {
            let own = self
                .machine
                .disks
                .iter()
                .any(|own| prepare::disk_name(own) == disk);
            let mut volumes = self.machine.volumes.iter();
            own || volumes.any(|volume| super::volume_disk(volume) == disk)
        };
        if !record.is_possible() || !record.disks().iter().all(|(_, disk)| known(disk.as_str())) {
            return Err("it has disks there that are not in its document".to_owned());
        }
        let folder = self.folder.clone();
        blocking(move || {
            std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
            // Its name lasts as long as what comes into it.
            if let Some(parent) = folder.parent() {
                File::open(parent)?.sync_all()?;
            }
            add(&RunFolder(folder).serial_log(), 0, &console)
        })
        .await?;
        let mut places = Places::new();
        let by = prepare::volume_user_in(self.shared, self.machine, self.folder.clone());
        for attached in &self.machine.volumes {
            let volume = self.shared.documents.volumes.get(attached.volume.local());
            let volume =
                volume.ok_or_else(|| format!("{} does not exist any more", attached.volume))?;
            let bytes = volume.size_bytes.0;
            let place = self.shared.volumes.expected(&by, attached, bytes).await?;
            places.insert(attached.volume.clone(), place);
        }
        let (shared, machine) = (Arc::clone(self.shared), self.machine.clone());
        let folder = self.folder.clone();
        let (mut spec, record) = blocking(move || {
            let of = (folder, &record);
            let spec = prepare::prepare_to_receive(&shared, &machine, &places, of);
            Ok((spec.map_err(told), record))
        })
        .await
        .and_then(|(spec, record)| Ok((spec?, record)))?;
        let Plugged { nics, waits, .. } = plug(self.shared, self.machine).await.map_err(told)?;
        spec.nics = nics;
        let is_own = |disk: &DiskSpec| {
            let is_file = disk.image.storage == ImageStorage::File;
            let mut own = own_disks(self.machine);
            is_file && own.any(|own| prepare::disk_name(own) == disk.id.as_str())
        };
        let disks = spec.disks.iter().filter(|disk| is_own(disk)).cloned();
        let port_of = |disk: DiskSpec| {
            let known = record.disks().iter().find(|(_, known)| *known == disk.id);
            Some((known?.0, disk))
        };
        let mut disks: Vec<_> = disks.filter_map(port_of).collect();
        disks.sort_unstable_by_key(|(port, _)| *port);
        // Whoever gives this up waits for it: a process that is just being started must not be missed.
        let launching = Arc::clone(&self.launching).lock_owned().await;
        let hypervisor = Arc::clone(&self.shared.hypervisor);
        let launched = tokio::spawn(async move {
            let launched = hypervisor.launch(spec).await;
            drop(launching);
            launched
        });
        let handle = launched.await.map_err(told)?.map_err(told)?;
        let events = handle.events();
        for ready in waits {
            ready.wait().await.map_err(told)?;
        }
        Ok((handle, events, disks))
    }

    /// Shows a disk, and lets the other host write it once it asks for that.
    async fn written(
        &self,
        port: u8,
        disk: &DiskSpec,
    ) -> Result<impl Future<Output = Result<Written, String>> + Send + use<>, String> {
        let daemon = self.shared.settings.storage_daemon.as_ref();
        let daemon = daemon.ok_or("there is no qemu-storage-daemon on the other host")?;
        let parts = disk.images().map(|image| Part {
            path: image.path.clone(),
            format: match image.format {
                DiskFormat::Raw => Format::Raw,
                DiskFormat::Qcow2 => Format::Qcow2,
            },
        });
        let user = prepare::user(&self.shared.settings, self.machine);
        let shown = daemon.show_copy(parts.collect(), user).await;
        let mut shown = shown.map_err(told)?;
        let (shared, machine) = (Arc::clone(self.shared), self.machine.clone());
        let (name, path) = (format!("disk-{port}"), disk.image.path.clone());
        Ok(async move {
            let asked = shared.moves.channel(&machine, WayEnd::Coming, &name);
            let mut channel = asked.await?;
            // However it ends: who has written all has said so.
            let _ = copy_bidirectional_with_sizes(
                &mut channel,
                &mut shown.stream,
                BUFFER_BYTES,
                BUFFER_BYTES,
            )
            .await;
            Ok(Written { shown, path })
        })
    }

    /// Has QEMU read memory from the other host once that sends it.
    async fn memory(&self, handle: &dyn RunningMachine) -> Result<AbortOnDropHandle<()>, String> {
        let (mut ours, theirs) = pair().map_err(told)?;
        let (shared, machine) = (Arc::clone(self.shared), self.machine.clone());
        let task = tokio::spawn(async move {
            let asked = shared.moves.channel(&machine, WayEnd::Coming, MEMORY);
            match asked.await {
                Ok(mut channel) => {
                    let _ = tokio::io::copy_buf(
                        &mut tokio::io::BufReader::with_capacity(BUFFER_BYTES, &mut channel),
                        &mut ours,
                    )
                    .await;
                    let _ = ours.shutdown().await;
                }
                Err(why) => tracing::warn!(why, "its memory doesn't come"),
            }
        });
        let crossing = handle
            .crossing()
            .ok_or("the other host's hypervisor can't")?;
        crossing.receive(theirs).await.map_err(told)?;
        Ok(AbortOnDropHandle::new(task))
    }

    /// Waits until all of its memory was read.
    async fn until_read(
        &self,
        handle: &dyn RunningMachine,
        events: &mut EventStream,
    ) -> Result<(), String> {
        let reading = async {
            loop {
                match handle.status().await.map_err(told)?.run_state {
                    RunState::Paused => return Ok(()),
                    RunState::Exited => return Err(self.last_words("ended").await),
                    _ => {}
                }
                let _ = timeout(LOOK_AGAIN, events.next()).await;
            }
        };
        let late = |_| "its memory was not read in time".to_owned();
        timeout(ENDING, reading).await.map_err(late)?
    }

    async fn last_words(&self, how: &str) -> String {
        let output = RunFolder(self.folder.clone()).output();
        let words = blocking(move || Ok(last_words(&output))).await;
        format!(
            "QEMU on the other host {how}: {}",
            words.unwrap_or_default()
        )
    }
}

/// Leads whoever connects to the other host.
async fn accept(listener: UnixListener, mut channel: Channel) {
    if let Ok((mut stream, _)) = listener.accept().await {
        drop(listener);
        let both =
            copy_bidirectional_with_sizes(&mut stream, &mut channel, BUFFER_BYTES, BUFFER_BYTES);
        let _ = both.await;
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
