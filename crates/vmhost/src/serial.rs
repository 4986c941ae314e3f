//! Logs that QEMU writes and we bound: the serial console's, shown and followed by readers, and QEMU's own output.
//!
//! QEMU appends to `serial.log` (and to `qemu.log`) by a descriptor opened for appending, so logging goes on while no controller runs. A
//! controller keeps the file within its limit: when it grows past it, the older half is cut off the front, in place
//! (`FALLOC_FL_COLLAPSE_RANGE`, no byte is lost), or where the file system can't, by copy and truncate. How much was cut is
//! kept in `serial.cut`, so that positions count from the machine's first byte and never go backwards.
//!
//! Everything is driven by inotify: one instance and one task for all logs of a host. The limit holds while a controller
//! runs, give or take what a guest writes in [`BREATH`]; while none runs the log grows as fast as the guest writes, and is
//! cut as soon as one is back. (A limit that the kernel would keep, on the size of files, counts for disks as well.)

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, inotify};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::HypervisorError;
use crate::hypervisor::{Result, RunFolder};

/// What a log may hold unless told otherwise.
pub const DEFAULT_LIMIT_BYTES: u64 = 1024 * 1024;
/// Guests write byte by byte; after each look at a log it is left alone for this long.
pub const BREATH: Duration = Duration::from_millis(50);
/// A follower gets at most this much at once.
const CHUNK_BYTES: u64 = 64 * 1024;
/// File systems cut in whole blocks; this is a multiple of all usual ones.
const BLOCK_BYTES: u64 = 4096;

/// The logs of all machines of a host. Clones share it.
#[derive(Clone)]
pub struct SerialLogs {
    shared: Arc<Watcher>,
}

struct Watcher {
    inotify: Arc<AsyncFd<OwnedFd>>,
    logs: Arc<Mutex<HashMap<i32, Weak<SerialLog>>>>,
    task: JoinHandle<()>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One machine's log. While it is held, the log stays within its limit.
pub struct SerialLog {
    path: PathBuf,
    limit_bytes: u64,
    /// Bytes cut off so far. Held while reading or cutting, so that a position means one byte.
    cut: Mutex<u64>,
    grown: watch::Sender<()>,
    watch: i32,
    inotify: Weak<AsyncFd<OwnedFd>>,
}

/// A piece of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SerialText {
    /// Position of the first byte, counted from the machine's first.
    pub position: u64,
    /// What the guest wrote; any bytes at all.
    pub bytes: Vec<u8>,
    /// Bytes before `position` that were asked for but are gone.
    pub missing: u64,
}

impl SerialText {
    /// Where to go on reading.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.position + self.bytes.len() as u64
    }
}

impl SerialLogs {
    /// Begins watching. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If the kernel grants no inotify instance.
    pub fn new() -> io::Result<Self> {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let inotify = Arc::new(crate::spawn::watch(inotify::init(flags)?)?);
        let logs = Arc::new(Mutex::new(HashMap::new()));
        let task = tokio::spawn(look_after(Arc::clone(&inotify), Arc::clone(&logs)));
        Ok(Self {
            shared: Arc::new(Watcher {
                inotify,
                logs,
                task,
            }),
        })
    }

    /// Opens the log of a run folder, making it if the machine was never started. Blocks briefly. Two at once of the same
    /// folder would cut at cross purposes: keep one.
    ///
    /// # Errors
    /// `System`.
    pub fn open(&self, folder: &RunFolder, limit_bytes: u64) -> Result<Arc<SerialLog>> {
        self.bound(folder.serial_log(), limit_bytes)
    }

    /// The same for what QEMU itself says.
    ///
    /// # Errors
    /// `System`.
    pub fn open_output(&self, folder: &RunFolder, limit_bytes: u64) -> Result<Arc<SerialLog>> {
        self.bound(folder.output(), limit_bytes)
    }

    fn bound(&self, path: PathBuf, limit_bytes: u64) -> Result<Arc<SerialLog>> {
        let system = |what| HypervisorError::system(what, &path);
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(system("opening"))?;
        let cut = match fs::read_to_string(cut_path(&path)) {
            Ok(text) => text.trim().parse().unwrap_or(0),
            Err(_) => 0,
        };
        let watch = inotify::add_watch(
            self.shared.inotify.get_ref(),
            &path,
            inotify::WatchFlags::MODIFY,
        )
        .map_err(|error| system("watching")(error.into()))?;
        let log = Arc::new(SerialLog {
            path,
            limit_bytes: limit_bytes.max(4 * BLOCK_BYTES),
            cut: Mutex::new(cut),
            grown: watch::Sender::new(()),
            watch,
            inotify: Arc::downgrade(&self.shared.inotify),
        });
        log.keep_limit()?;
        self.shared.logs.lock().insert(watch, Arc::downgrade(&log));
        Ok(log)
    }
}

impl Drop for SerialLog {
    fn drop(&mut self) {
        if let Some(inotify) = self.inotify.upgrade() {
            // Already gone if the file was deleted.
            let _ = inotify::remove_watch(inotify.get_ref(), self.watch);
        }
    }
}

impl SerialLog {
    /// The last bytes.
    ///
    /// # Errors
    /// `System`.
    pub async fn tail(self: &Arc<Self>, bytes: u64) -> Result<SerialText> {
        let log = Arc::clone(self);
        crate::qemu::blocking(move || {
            let cut = log.cut.lock();
            let length = log.length()?;
            let offset = length.saturating_sub(bytes);
            // Fewer than asked for because the rest was cut, not because there never was more.
            let missing = bytes.saturating_sub(length).min(*cut);
            Ok(SerialText {
                position: *cut + offset,
                bytes: log.read(offset, bytes)?,
                missing,
            })
        })
        .await
    }

    /// Up to 64 KiB from a position on; nothing if the guest has not written that far.
    ///
    /// # Errors
    /// `System`.
    pub async fn read_from(self: &Arc<Self>, position: u64) -> Result<SerialText> {
        let log = Arc::clone(self);
        crate::qemu::blocking(move || {
            let cut = log.cut.lock();
            let missing = cut.saturating_sub(position);
            let bytes = log.read(position.saturating_sub(*cut), CHUNK_BYTES)?;
            Ok(SerialText {
                position: position.max(*cut),
                bytes,
                missing,
            })
        })
        .await
    }

    /// Reads on from a position, waiting for the guest.
    #[must_use]
    pub fn follow(self: &Arc<Self>, position: u64) -> SerialFollower {
        SerialFollower {
            grown: self.grown.subscribe(),
            log: Arc::clone(self),
            position,
        }
    }

    fn length(&self) -> Result<u64> {
        Ok(fs::metadata(&self.path)
            .map_err(HypervisorError::system("reading", &self.path))?
            .len())
    }

    fn read(&self, offset: u64, most: u64) -> Result<Vec<u8>> {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = Vec::new();
            file.take(most).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read().map_err(HypervisorError::system("reading", &self.path))
    }

    /// Cuts the older part off if there is too much.
    fn keep_limit(&self) -> Result<()> {
        let mut cut = self.cut.lock();
        let length = self.length()?;
        if length <= self.limit_bytes {
            return Ok(());
        }
        let off = (length - self.limit_bytes / 2) / BLOCK_BYTES * BLOCK_BYTES;
        let off =
            cut_front(&self.path, off).map_err(HypervisorError::system("cutting", &self.path))?;
        *cut += off;
        let note = cut_path(&self.path);
        fs::write(&note, cut.to_string()).map_err(HypervisorError::system("writing", &note))
    }
}

/// Follows a log. See [`SerialLog::follow`].
pub struct SerialFollower {
    log: Arc<SerialLog>,
    grown: watch::Receiver<()>,
    position: u64,
}

impl SerialFollower {
    /// The next piece, never empty: waits until the guest writes. Safe to cancel.
    ///
    /// # Errors
    /// `System`, such as when the machine's folder is deleted.
    pub async fn next(&mut self) -> Result<SerialText> {
        loop {
            self.grown.mark_unchanged();
            let text = self.log.read_from(self.position).await?;
            if !text.bytes.is_empty() {
                self.position = text.end();
                return Ok(text);
            }
            // The sender lives in the log, which is held here.
            let _ = self.grown.changed().await;
        }
    }
}

/// The task: wakes followers of logs that grew, and keeps the limits.
async fn look_after(
    inotify: Arc<AsyncFd<OwnedFd>>,
    logs: Arc<Mutex<HashMap<i32, Weak<SerialLog>>>>,
) {
    loop {
        let Ok(mut ready) = inotify.readable().await else {
            return;
        };
        let grown = match ready.try_io(|inotify| drain(inotify.get_ref())) {
            Ok(Ok(grown)) => grown,
            Ok(Err(error)) => {
                tracing::error!(%error, "serial logs can't be watched any more");
                return;
            }
            Err(_would_block) => continue,
        };
        let grown: Vec<Arc<SerialLog>> = {
            let mut logs = logs.lock();
            logs.retain(|_, log| log.strong_count() > 0);
            match grown {
                Some(watches) => watches
                    .iter()
                    .filter_map(|watch| logs.get(watch)?.upgrade())
                    .collect(),
                None => logs.values().filter_map(Weak::upgrade).collect(),
            }
        };
        for log in &grown {
            log.grown.send_replace(());
        }
        let cutting = tokio::task::spawn_blocking(move || {
            for log in grown {
                if let Err(error) = log.keep_limit() {
                    tracing::warn!(%error, "a serial log is not kept within its limit");
                }
            }
        });
        let _ = cutting.await;
        tokio::time::sleep(BREATH).await;
    }
}

/// The watches that fired, each once; `None` if the kernel's queue overflowed, so that it could be any.
fn drain(inotify: impl AsFd) -> io::Result<Option<Vec<i32>>> {
    let mut space = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(inotify, &mut space);
    let (mut fired, mut any, mut overflowed) = (Vec::new(), false, false);
    loop {
        match reader.next() {
            Ok(event) => {
                any = true;
                overflowed |= event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW);
                if !fired.contains(&event.wd()) {
                    fired.push(event.wd());
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::WOULDBLOCK) if any => return Ok((!overflowed).then_some(fired)),
            Err(error) => return Err(error.into()),
        }
    }
}

fn cut_path(log: &Path) -> PathBuf {
    log.with_extension("cut")
}

/// Takes so many bytes off the front of a file that another process appends to; returns how many it were.
fn cut_front(path: &Path, off: u64) -> io::Result<u64> {
    let file = OpenOptions::new().read(true).append(true).open(path)?;
    match rustix::fs::fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, off) {
        Ok(()) => Ok(off),
        Err(_not_on_this_file_system) => copy_and_truncate(file, off),
    }
}

/// What the guest writes between the two steps is lost.
fn copy_and_truncate(mut file: File, off: u64) -> io::Result<u64> {
    let mut kept = Vec::new();
    file.seek(SeekFrom::Start(off))?;
    file.read_to_end(&mut kept)?;
    file.set_len(0)?;
    file.write_all(&kept)?;
    Ok(off)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 32 * 1024;

    fn writer(folder: &RunFolder) -> File {
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(folder.serial_log())
            .expect("opened")
    }

    fn line(number: u64) -> Vec<u8> {
        format!("{number:015}\n").into_bytes()
    }

    #[tokio::test]
    async fn the_end_is_shown_and_growth_is_followed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let folder = RunFolder(folder.path().to_path_buf());
        let mut guest = writer(&folder);
        guest.write_all(b"before\n").expect("written");
        let logs = SerialLogs::new().expect("inotify");
        let log = logs.open(&folder, LIMIT).expect("opened");
        let tail = log.tail(4).await.expect("read");
        assert_eq!(
            tail,
            SerialText {
                position: 3,
                bytes: b"ore\n".to_vec(),
                missing: 0
            }
        );
        assert_eq!(log.tail(1000).await.expect("read").bytes, b"before\n");

        let mut follower = log.follow(tail.end());
        let next = tokio::spawn(async move { follower.next().await });
        guest.write_all(b"after\n").expect("written");
        let next = tokio::time::timeout(Duration::from_secs(30), next)
            .await
            .expect("in time")
            .expect("no panic");
        assert_eq!(next.expect("read").bytes, b"after\n");
    }

    #[tokio::test]
    async fn a_guest_that_writes_without_end_is_bounded_and_followed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let folder = RunFolder(folder.path().to_path_buf());
        let logs = SerialLogs::new().expect("inotify");
        let log = logs.open(&folder, LIMIT).expect("opened");
        let mut follower = log.follow(0);
        let mut guest = writer(&folder);
        let lines = 20_000u64;
        let write = tokio::task::spawn_blocking(move || {
            for number in 0..lines {
                guest.write_all(&line(number)).expect("written");
                if number % 500 == 0 {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        });
        let mut position = 0;
        let follow = async {
            while position < lines * 16 {
                let text = follower.next().await.expect("read");
                assert_eq!(
                    text.position,
                    position + text.missing,
                    "positions never go back"
                );
                for (index, byte) in (text.position..).zip(&text.bytes) {
                    let expected = line(index / 16)[usize::try_from(index % 16).expect("small")];
                    assert_eq!(*byte, expected, "at {index}");
                }
                position = text.end();
            }
        };
        tokio::time::timeout(Duration::from_secs(60), follow)
            .await
            .expect("in time");
        write.await.expect("no panic");
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while fs::metadata(folder.serial_log()).expect("there").len() > LIMIT {
            assert!(tokio::time::Instant::now() < deadline, "never cut");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }

        // A later controller counts on from the same positions.
        drop((log, follower, logs));
        let logs = SerialLogs::new().expect("inotify");
        let log = logs.open(&folder, LIMIT).expect("opened");
        let tail = log.tail(16).await.expect("read");
        assert_eq!(tail.bytes, line(lines - 1));
        assert_eq!(tail.end(), lines * 16);
        let all = log.read_from(0).await.expect("read");
        assert_eq!(all.missing, all.position);
        assert!(all.missing > 0);
    }

    #[tokio::test]
    async fn what_grew_while_nobody_watched_is_cut_when_opened() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let folder = RunFolder(folder.path().to_path_buf());
        let mut guest = writer(&folder);
        guest.write_all(&vec![b'x'; 1 << 20]).expect("written");
        let logs = SerialLogs::new().expect("inotify");
        let _log = logs.open(&folder, LIMIT).expect("opened");
        assert!(fs::metadata(folder.serial_log()).expect("there").len() <= LIMIT);
        guest
            .write_all(b"end")
            .expect("the writer's descriptor still appends");
        assert!(
            fs::read(folder.serial_log())
                .expect("read")
                .ends_with(b"xend")
        );
    }

    #[tokio::test]
    async fn what_qemu_says_is_bounded_too() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let folder = RunFolder(folder.path().to_path_buf());
        let logs = SerialLogs::new().expect("inotify");
        let _log = logs.open_output(&folder, LIMIT).expect("opened");
        let mut qemu = OpenOptions::new()
            .append(true)
            .open(folder.output())
            .expect("opened");
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        let mut written = 0;
        while written < 4 * LIMIT || fs::metadata(folder.output()).expect("there").len() > LIMIT {
            assert!(tokio::time::Instant::now() < deadline, "never cut");
            if written < 4 * LIMIT {
                qemu.write_all(&line(written)).expect("written");
                written += 16;
            } else {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    #[test]
    fn copy_and_truncate_keeps_the_end() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("log");
        fs::write(&path, b"0123456789").expect("written");
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .open(&path)
            .expect("opened");
        assert_eq!(copy_and_truncate(file, 4).expect("cut"), 4);
        assert_eq!(fs::read(&path).expect("read"), b"456789");
    }
}
