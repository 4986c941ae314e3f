//! Volumes that another host uses: each is shown to it, in NBD, by a `qemu-storage-daemon` of its own, and to nobody else meanwhile;
//! or by iSCSI (`targets.rs`), by the same claim.
//!
//! The process has the files of one volume and nothing else: no rights, no network, one connection, which we hold. It ends with
//! that connection, and with this program: whoever uses the volume from afar connects anew, and what was written until then is
//! in the file. So who may write a volume is decided in one place, and [`Exports::end`] ends it for good.

mod io_uring;
mod iscsi;
mod login;
mod portal;
mod server;
mod starts;
mod strangers;
mod targets;
mod way;

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{
            fs::{DirBuilderExt as _, PermissionsExt as _, fchown},
            net::{UnixListener, UnixStream},
            process::CommandExt as _,
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use cimi::{HostId, resources::VolumeUse};
use parking_lot::Mutex;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::json;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use self::io_uring::IoUring;
pub use self::{
    iscsi::TargetDaemon,
    portal::Portal,
    server::VolumeServer,
    targets::{Offer, Targets, WhyTarget},
};
use crate::{
    confine::{Bounds, confine},
    error::Error,
    inspect::Format,
};

/// The name of the one export of each process.
pub const EXPORT: &str = "volume";

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Absolute path.
    pub path: PathBuf,
    /// What is in it, stated and never probed.
    pub format: Format,
}

/// The `qemu-storage-daemon` of this host.
#[derive(Clone, Debug)]
pub struct StorageDaemon {
    program: PathBuf,
    /// Where sockets are made, for a moment.
    folder: PathBuf,
    uring: Arc<IoUring>,
}

/// Which volumes are shown, by name. Clones are of the same.
#[derive(Clone, Debug, Default)]
pub struct Exports(Arc<Mutex<HashMap<String, Slot>>>);

/// Who uses a volume from afar: a host, for one attachment to one of its machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// On which host.
    pub host: HostId,
    /// What for.
    pub of: VolumeUse,
}

/// Who uses a volume from afar, or waits to: one at a time.
#[derive(Debug, Default)]
struct Slot {
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Of who came last.
    cut: CancellationToken,
    /// Who came last, if it is another host.
    user: Option<User>,
    /// How many hold or await the turn.
    claims: usize,
}

/// The right to show a volume, as long as it isn't [`cut`](Self::cut).
#[derive(Debug)]
pub struct Claim {
    exports: Exports,
    volume: String,
    cut: CancellationToken,
    turn: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl Exports {
    /// Claims a volume for a host that uses it from now on: who has it is cut off, and waited for. None if somebody else came
    /// while it waited: of many that come, one waits.
    pub async fn claim(&self, user: User) -> Option<Claim> {
        let volume = user.of.volume.local().to_owned();
        let (mut claim, turn) = self.next(&volume, Some(user));
        claim.turn = claim.cut.run_until_cancelled(turn.lock_owned()).await;
        claim.turn.is_some().then_some(claim)
    }

    /// Ends the use of a volume from afar: when this returns, nobody writes it.
    pub async fn end(&self, volume: &str) {
        if self.0.lock().contains_key(volume) {
            let (mut claim, turn) = self.next(volume, None);
            claim.turn = Some(turn.lock_owned().await);
        }
    }

    /// Cuts off who has a volume for somebody else, whose turn is still to come.
    fn next(&self, volume: &str, user: Option<User>) -> (Claim, Arc<tokio::sync::Mutex<()>>) {
        let mut slots = self.0.lock();
        let slot = slots.entry(volume.to_owned()).or_default();
        slot.cut.cancel();
        slot.cut = CancellationToken::new();
        slot.user = user;
        slot.claims += 1;
        let claim = Claim {
            exports: self.clone(),
            volume: volume.to_owned(),
            cut: slot.cut.clone(),
            turn: None,
        };
        (claim, Arc::clone(&slot.turn))
    }

    /// Tells whoever uses a volume from afar to end. Doesn't wait for it.
    pub fn cut(&self, volume: &str) {
        if let Some(slot) = self.0.lock().get(volume) {
            slot.cut.cancel();
        }
    }

    /// Who uses a volume, or is about to.
    #[must_use]
    pub fn user(&self, volume: &str) -> Option<User> {
        self.0.lock().get(volume)?.user.clone()
    }
}

impl Claim {
    /// Waits until somebody else is to have the volume.
    pub async fn cut(&self) {
        self.cut.cancelled().await;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Before the slot is forgotten: whoever makes another must not find this one's turn still taken.
        self.turn = None;
        let mut slots = self.exports.0.lock();
        if let Some(slot) = slots.get_mut(&self.volume) {
            slot.claims -= 1;
            if slot.claims == 0 {
                slots.remove(&self.volume);
            }
        }
    }
}

/// The process that shows a volume. Killed when dropped.
#[derive(Debug)]
pub struct Shown {
    process: OwnedFd,
    /// What it said.
    ended: oneshot::Receiver<String>,
}

impl Shown {
    /// Asks it to end, with all that it was given in its files: not on their disk yet. When this returns, nobody writes them.
    /// Whether it has taken its leave within this time, or had to be killed.
    pub async fn close(mut self, limit: Duration) -> bool {
        // It fails only if the process has ended.
        let _ = pidfd_send_signal(&self.process, Signal::TERM);
        let has_ended = tokio::time::timeout(limit, &mut self.ended).await.is_ok();
        if !has_ended {
            self.kill();
            let _ = (&mut self.ended).await;
        }
        has_ended
    }

    /// Ends it; when this returns, nobody writes the files.
    pub async fn end(mut self) {
        self.kill();
        let _ = (&mut self.ended).await;
    }

    /// Ends it; what it said. Blocks.
    fn end_and_hear(mut self) -> String {
        self.kill();
        let ended = std::mem::replace(&mut self.ended, oneshot::channel().1);
        ended.blocking_recv().unwrap_or_default()
    }

    fn kill(&self) {
        // It fails only if the process has ended.
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.kill();
    }
}

impl StorageDaemon {
    /// The program at this absolute path. In `folder`, which is made, are sockets for a moment each. From now on it is tried, beside,
    /// whether its processes can have `io_uring`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such program, [`Error::Io`].
    pub fn at(program: &Path, folder: PathBuf) -> Result<Self, Error> {
        if !program.is_absolute() || !program.is_file() {
            return Err(Error::NotFound {
                kind: "program",
                name: program.display().to_string(),
            });
        }
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder);
        made.map_err(Error::io("make", &folder))?;
        // What a killed process left.
        for left in fs::read_dir(&folder).map_err(Error::io("read", &folder))? {
            let left = left.map_err(Error::io("read", &folder))?;
            fs::remove_file(left.path()).map_err(Error::io("remove", &left.path()))?;
        }
        let daemon = Self {
            program: program.to_owned(),
            folder,
            uring: Arc::default(),
        };
        daemon.try_io_uring();
        Ok(daemon)
    }

    /// Shows a volume, its top file first, by a process of this user and group when we are root: what is said in NBD goes by the
    /// one connection to it.
    ///
    /// # Errors
    /// [`Error::Io`] for files that can't be opened, and a program that can't be run.
    pub async fn show(
        &self,
        parts: Vec<Part>,
        user: Option<u32>,
    ) -> Result<(Shown, tokio::net::UnixStream), Error> {
        let what = What {
            parts,
            ..What::default()
        };
        self.started(what, user).await
    }

    /// Shows a disk that is being copied, as [`show`](Self::show) does: what was written is whole only once it is
    /// [closed](Shown::close).
    ///
    /// # Errors
    /// [`Error::Io`] for files that can't be opened, and a program that can't be run.
    pub async fn show_copy(
        &self,
        parts: Vec<Part>,
        user: Option<u32>,
    ) -> Result<(Shown, tokio::net::UnixStream), Error> {
        let what = What {
            parts,
            is_copied: true,
            ..What::default()
        };
        self.started(what, user).await
    }

    async fn started(
        &self,
        what: What,
        user: Option<u32>,
    ) -> Result<(Shown, tokio::net::UnixStream), Error> {
        let daemon = self.clone();
        let started = tokio::task::spawn_blocking(move || daemon.start(&what, user)).await;
        let (stream, shown) = started.map_err(|_| Error::Tool {
            program: "qemu-storage-daemon".to_owned(),
            reason: "it could not be started".to_owned(),
        })??;
        let stream = stream
            .set_nonblocking(true)
            .and_then(|()| tokio::net::UnixStream::from_std(stream));
        Ok((
            shown,
            stream.map_err(Error::io("connect to", &self.program))?,
        ))
    }

    /// Shows a volume of so many bytes that reads as zeroes and can't be written: to be opened in place of one that comes later.
    ///
    /// # Errors
    /// [`Error::Io`] for a program that can't be run.
    pub async fn show_blank(
        &self,
        bytes: u64,
        user: Option<u32>,
    ) -> Result<(Shown, tokio::net::UnixStream), Error> {
        let what = What {
            empty_bytes: bytes,
            is_blank: true,
            ..What::default()
        };
        self.started(what, user).await
    }

    /// Shows a volume that can't be read nor written: everything that is asked of it fails at once.
    ///
    /// # Errors
    /// [`Error::Io`] for a program that can't be run.
    pub async fn show_broken(
        &self,
        user: Option<u32>,
    ) -> Result<(Shown, tokio::net::UnixStream), Error> {
        let what = What {
            empty_bytes: BROKEN_BYTES,
            ..What::default()
        };
        self.started(what, user).await
    }

    fn start(&self, what: &What, user: Option<u32>) -> Result<(UnixStream, Shown), Error> {
        let parts = &what.parts;
        let user = user.filter(|_| rustix::process::geteuid().is_root());
        let mut files = Vec::with_capacity(parts.len() + 1);
        for (depth, part) in parts.iter().enumerate() {
            files.push(opened(part, depth == 0, user)?);
        }
        let failed = Error::io("listen in", &self.folder);
        let (listener, stream) = self.socket().map_err(failed)?;
        let aio = match what.is_tried || self.uring.is_had() {
            true => "io_uring",
            false => "threads",
        };
        let mut arguments = blocks(what, aio, &files);
        let listener = File::from(OwnedFd::from(listener));
        arguments.extend([
            "--nbd-server".to_owned(),
            format!(
                "addr.type=fd,addr.str={},max-connections=1",
                listener.as_raw_fd()
            ),
            "--export".to_owned(),
            // A guest goes on where it was when this process, or this computer, is gone and back. What it was told to be written
            // must be there then, though it asked for no flush: not in this process's memory (tables of qcow2), nor in the kernel's.
            format!(
                "type=nbd,id=volume,node-name=d0,name={EXPORT},writable=on,writethrough={}",
                if what.is_copied { "off" } else { "on" }
            ),
        ]);
        files.push(listener);
        let volume = (!what.is_tried).then(|| match parts.first() {
            Some(top) => top.path.display().to_string(),
            None => "one that is lost".to_owned(),
        });
        Ok((stream, self.run(volume, arguments, files, user)?))
    }

    /// A listening socket, and the one connection to it: it has no name any more.
    fn socket(&self) -> io::Result<(UnixListener, UnixStream)> {
        // Socket addresses hold 107 bytes only: the way leads through a descriptor of the folder.
        let folder = File::open(&self.folder)?;
        let name = uuid::Uuid::new_v4().simple().to_string();
        let path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
        let listener = UnixListener::bind(&path)?;
        let stream = UnixStream::connect(&path);
        fs::remove_file(&path)?;
        Ok((listener, stream?))
    }

    fn run(
        &self,
        volume: Option<String>,
        arguments: Vec<String>,
        files: Vec<File>,
        user: Option<u32>,
    ) -> Result<Shown, Error> {
        let (tell_start, started) = std::sync::mpsc::sync_channel(1);
        let (tell_end, ended) = oneshot::channel();
        let (program, uring) = (self.program.clone(), Arc::clone(&self.uring));
        // A thread of its own: the process dies with the thread that started it.
        let work = move || {
            let mut command = Command::new(&program);
            command
                .args(arguments)
                .env_clear()
                // Each arena takes of the address space, one for each processor and more.
                .env("MALLOC_ARENA_MAX", "2")
                .current_dir("/")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .process_group(0);
            let inherited: Vec<&File> = files.iter().collect();
            let user = user.unwrap_or(0);
            confine(&mut command, &inherited, (user, user), &BOUNDS, u64::MAX);
            let child = command.spawn().and_then(|child| {
                let number = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
                let number = number.ok_or_else(|| io::Error::other("it has no number"))?;
                // Where memory is short, it goes before a machine does: its guest waits for the next one.
                let score = format!("/proc/{}/oom_score_adj", child.id());
                let _ = fs::write(score, "500");
                Ok((pidfd_open(number, PidfdFlags::empty())?, child))
            });
            drop(files);
            let said = match child {
                Err(error) => {
                    let _ = tell_start.send(Err(Error::io("run", &program)(error)));
                    return;
                }
                Ok((process, mut child)) => {
                    let _ = tell_start.send(Ok(process));
                    let said = child.stderr.take().map(beginning).unwrap_or_default();
                    let _ = child.wait();
                    said
                }
            };
            if let Some(volume) = volume.filter(|_| !said.is_empty()) {
                uring.hear(&said);
                tracing::warn!(volume, said, "of a volume that is shown to another host");
            }
            let _ = tell_end.send(said);
        };
        let failed = Error::io("run", &self.program);
        thread::Builder::new()
            .name("export".to_owned())
            .spawn(work)
            .map_err(failed)?;
        let gone = |_| Error::io("run", &self.program)(io::Error::other("its thread ended"));
        Ok(Shown {
            process: started.recv().map_err(gone)??,
            ended,
        })
    }
}

/// What a process may use: its threads, and the memory of what is under way. It lives as long as it is needed.
const BOUNDS: Bounds = Bounds {
    time: Duration::MAX,
    cpu: Duration::MAX,
    memory_bytes: 1 << 30,
    output_bytes: 0,
};

/// How much of what a process says is kept.
const SAID_BYTES: u64 = 2048;

/// The beginning of what is said until the end, on one line. The rest is read and forgotten: who says it may be a host's.
fn beginning(mut from: impl Read) -> String {
    let mut kept = Vec::new();
    let _ = from.by_ref().take(SAID_BYTES).read_to_end(&mut kept);
    let _ = io::copy(&mut from, &mut io::sink());
    let kept = String::from_utf8_lossy(&kept);
    kept.trim().escape_debug().to_string()
}

/// Larger than any volume: nobody asks for what isn't there.
const BROKEN_BYTES: u64 = 1 << 50;

/// What a process shows.
#[derive(Default)]
struct What {
    /// The files; none: it is broken, or blank.
    parts: Vec<Part>,
    /// How large it is then.
    empty_bytes: u64,
    /// It can be read.
    is_blank: bool,
    /// It counts only once it is whole.
    is_copied: bool,
    /// It is nobody's, and shown to see whether `io_uring` can be had.
    is_tried: bool,
}

/// A file as the process needs it: it opens it anew, by its descriptor, and has the right to. Nobody else has the way to it.
fn opened(part: &Part, is_top: bool, user: Option<u32>) -> Result<File, Error> {
    let file = OpenOptions::new()
        .read(true)
        .write(is_top)
        .open(&part.path)
        .map_err(Error::io("open", &part.path))?;
    let Some(user) = user else { return Ok(file) };
    let given = if is_top {
        fchown(&file, Some(user), Some(user))
    } else {
        // It was a volume once, and may be that of whoever used it.
        fchown(&file, Some(0), Some(0)).and_then(|()| {
            let mode = (file.metadata()?.permissions().mode() & !0o022) | 0o004;
            file.set_permissions(fs::Permissions::from_mode(mode))
        })
    };
    given.map_err(Error::io("give", &part.path))?;
    Ok(file)
}

/// The files as block nodes, from the bottom up; `d0` is the volume. Without files it is one that is broken.
fn blocks(what: &What, aio: &str, files: &[File]) -> Vec<String> {
    let parts = &what.parts;
    let mut arguments = Vec::new();
    if parts.is_empty() {
        // A read that fails ends the connection.
        let fails = |iotype: Option<&str>| {
            let mut fails =
                json!({"event": "none", "errno": 5, "once": false, "immediately": true});
            if let Some(iotype) = iotype {
                fails["iotype"] = json!(iotype);
            }
            fails
        };
        let errors = match what.is_blank {
            true => ["write", "write-zeroes", "discard"]
                .map(|one| fails(Some(one)))
                .to_vec(),
            false => vec![fails(None)],
        };
        let broken = json!({
            "driver": "blkdebug", "node-name": "d0", "inject-error": errors,
            "image": {"driver": "null-co", "size": what.empty_bytes, "read-zeroes": what.is_blank},
        });
        return vec!["--blockdev".to_owned(), broken.to_string()];
    }
    for (depth, (part, file)) in parts.iter().zip(files).enumerate().rev() {
        let read_only = depth > 0;
        let below = depth + 1;
        let (driver, backing) = match part.format {
            Format::Raw => ("raw", None),
            Format::Qcow2 if below < parts.len() => ("qcow2", Some(json!(format!("d{below}")))),
            // Stated: else its header would be followed.
            Format::Qcow2 => ("qcow2", Some(json!(null))),
        };
        let mut nodes = [
            json!({
                "driver": "file", "node-name": format!("f{depth}"),
                "filename": format!("/proc/self/fd/{}", file.as_raw_fd()),
                "read-only": read_only, "auto-read-only": false, "discard": "unmap", "aio": aio,
            }),
            json!({
                "driver": driver, "node-name": format!("d{depth}"), "file": format!("f{depth}"),
                "read-only": read_only, "discard": "unmap",
            }),
        ];
        if let Some(backing) = backing {
            nodes[1]["backing"] = backing;
        }
        for node in nodes {
            arguments.extend(["--blockdev".to_owned(), node.to_string()]);
        }
    }
    arguments
}
