//! Ends machines of this host that are to go on elsewhere once nobody hears it any more, whatever became of its daemon: so that
//! the cloud may start them on another host without a second one of each.
//!
//! ```text
//!  daemon ── heard at T ──▶ FOLDER/heard ◀── looks each second ── the guard, a process of its own
//!         ── guarded    ──▶ MACHINES/<uuid>/guarded          ──▶ T is too long ago: SIGKILL to the QEMU of each
//! ```
//!
//! Time is counted by the clock that no one sets and that goes on while the computer sleeps. What was heard is noted by when it was
//! asked, so the cloud, which counts from when it heard it or later, is never earlier.
//!
//! The daemon says of a machine that it is guarded only while the guard is there, which it looks at each second ([`Presence`]); and
//! starts another one, whether it is heard or not. As long as there is none it looks itself ([`stand_in`]).

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::FlockOperation,
    time::{ClockId, clock_gettime},
};

use tokio::sync::watch;

use crate::{HypervisorError, adopt};

/// How often the guard looks, and how often it is looked whether there is one.
pub const LOOK: Duration = Duration::from_secs(1);
/// How much rather another process ends when memory is short (`/proc/self/oom_score_adj`).
const LAST_TO_END: &str = "-900";
/// In the folder of a machine that is guarded.
const MARK: &str = "guarded";
/// Bytes of a note, whatever it says: written over the one before, it needs no room on a disk that is full.
const NOTE_BYTES: usize = 128;

/// A moment, by the clock that goes on while the computer sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    /// This one.
    #[must_use]
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        let seconds = Duration::from_secs(time.tv_sec.try_into().unwrap_or_default());
        Self(seconds + Duration::from_nanos(time.tv_nsec.try_into().unwrap_or_default()))
    }

    /// How long ago it was.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}

/// How machines end here that go on elsewhere, once nobody hears this host.
#[derive(Clone, Debug)]
pub struct Fence {
    /// After so long unheard.
    pub after: Duration,
    /// Whether there is a guard that does it.
    pub guard: Presence,
}

/// Whether the guard is there, told by whoever looks after it to all who go by it. Clones are of the same.
#[derive(Clone, Debug)]
pub struct Presence(watch::Sender<Seen>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    NotYet,
    There,
    Missing(String),
}

impl Default for Presence {
    /// Nobody has looked yet.
    fn default() -> Self {
        Self(watch::Sender::new(Seen::NotYet))
    }
}

impl Presence {
    /// It is there; or isn't, and why, as a sentence for operators. Returns whether that is news.
    pub fn tell(&self, looked: Result<(), String>) -> bool {
        let seen = looked.map_or_else(Seen::Missing, |()| Seen::There);
        self.0.send_if_modified(|known| {
            let is_new = *known != seen;
            *known = seen;
            is_new
        })
    }

    /// Whether it is there.
    #[must_use]
    pub fn is_there(&self) -> bool {
        *self.0.borrow() == Seen::There
    }

    /// Why it isn't; none if it is, or nobody has looked yet.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        match &*self.0.borrow() {
            Seen::Missing(why) => Some(why.clone()),
            Seen::NotYet | Seen::There => None,
        }
    }

    /// Told of each change from now on.
    pub(crate) fn changes(&self) -> Changes {
        Changes(self.0.subscribe())
    }
}

/// Whether something else is seen than before.
pub(crate) struct Changes(watch::Receiver<Seen>);

impl Changes {
    /// Waits until it is.
    pub(crate) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // Nobody looks any more.
            std::future::pending::<()>().await;
        }
    }
}

/// What the daemon and the guard have in common: a folder.
#[derive(Clone, Debug)]
pub struct Guard {
    folder: PathBuf,
    after: Duration,
}

impl Guard {
    /// One that ends machines after so long.
    #[must_use]
    pub const fn new(folder: PathBuf, after: Duration) -> Self {
        Self { folder, after }
    }

    /// Notes that this host was heard, by a call that was made then.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn heard(&self, at: Moment) -> io::Result<()> {
        let note = Note {
            boot_id: crate::controller::boot_id(),
            at,
            after: self.after,
        };
        fs::create_dir_all(&self.folder)?;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(heard_of(&self.folder))?;
        file.write_all_at(note.to_text().as_bytes(), 0)
    }

    /// Whether the process of this folder is there.
    #[must_use]
    pub fn is_there(folder: &Path) -> bool {
        let Ok(lock) = File::open(folder.join("lock")) else {
            return false;
        };
        let taken = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared);
        taken == Err(rustix::io::Errno::WOULDBLOCK)
    }

    /// Whether there is to be one: this host was heard, and it was not dismissed since.
    #[must_use]
    pub fn is_wanted(folder: &Path) -> bool {
        heard_of(folder).exists()
    }

    /// Has the process end, if there is one.
    ///
    /// # Errors
    /// If that can't be told.
    pub fn dismiss(folder: &Path) -> io::Result<()> {
        match fs::remove_file(heard_of(folder)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn heard_of(folder: &Path) -> PathBuf {
    folder.join("heard")
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Note {
    boot_id: String,
    at: Moment,
    after: Duration,
}

impl Note {
    fn to_text(&self) -> String {
        let (at, after) = (self.at.0.as_nanos(), self.after.as_secs());
        let text = format!("{} {at} {after}", self.boot_id);
        format!("{text:width$}\n", width = NOTE_BYTES - 1)
    }

    fn of_text(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        Some(Self {
            boot_id: words.next()?.to_owned(),
            at: Moment(Duration::from_nanos(words.next()?.parse().ok()?)),
            after: Duration::from_secs(words.next()?.parse().ok()?),
        })
    }

    /// Whether nothing was heard for too long. What was heard before this computer was switched on says nothing.
    fn is_over(&self, boot_id: &str, now: Moment) -> bool {
        self.boot_id != boot_id || now.0.saturating_sub(self.at.0) > self.after
    }
}

/// Whether a machine with this folder is guarded; durable when this returns.
///
/// # Errors
/// If that can't be written.
pub(crate) fn mark(folder: &Path, guarded: bool) -> io::Result<()> {
    let mark = folder.join(MARK);
    if guarded {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        File::create(mark)?.sync_all()?;
        // Its name, too.
        File::open(folder)?.sync_all()?;
    } else {
        match fs::remove_file(mark) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The guard itself: looks until it is dismissed. Returns at once if there is one already.
///
/// # Errors
/// If it can't begin.
pub fn watch(folder: &Path, machines: &Path) -> io::Result<()> {
    // Of no terminal and no group of the daemon's: it outlives that.
    let _ = rustix::process::setsid();
    // It is small, and what depends on it isn't. Without privileges it ends like any other.
    let _ = fs::write("/proc/self/oom_score_adj", LAST_TO_END);
    fs::create_dir_all(folder)?;
    let alone = lock_file(folder, "alone")?;
    if rustix::fs::flock(&alone, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(());
    }
    // A lock of its own, since whoever looks whether it is there holds this one for a moment.
    let mut lock = lock_file(folder, "lock")?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)?;
    writeln!(lock, "{}", std::process::id())?;
    let boot_id = crate::controller::boot_id();
    let mut last = None;
    while look(folder, machines, &boot_id, &mut last, kill) {
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// Does once what the guard does each second: for whoever looks after it, while there is none.
pub fn stand_in(folder: &Path, machines: &Path) {
    let boot_id = crate::controller::boot_id();
    look(folder, machines, &boot_id, &mut None, kill);
}

/// Ends machines by `kill` if that is due; false once the guard is dismissed.
fn look(
    folder: &Path,
    machines: &Path,
    boot_id: &str,
    last: &mut Option<Note>,
    kill: impl Fn(&Path, &mut dyn FnMut() -> bool) -> Result<bool, HypervisorError>,
) -> bool {
    let after = match is_due(folder, boot_id, last) {
        Due::Dismissed => return false,
        Due::No => return true,
        Due::Since(after) => after,
    };
    // Looked at anew for each that runs: this host may be heard meanwhile, and have started it since.
    let mut still = || matches!(is_due(folder, boot_id, last), Due::Since(_));
    let folders = fs::read_dir(machines).into_iter().flatten().flatten();
    let folders = folders.map(|entry| entry.path());
    for machine in folders.filter(|folder| folder.join(MARK).exists()) {
        match kill(&machine, &mut still) {
            Ok(true) => tracing::warn!(
                folder = %machine.display(),
                "no entry has heard this host for {} s: a machine that goes on elsewhere was ended here", after.as_secs()
            ),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(folder = %machine.display(), %error, "a machine can't be ended; tried again");
            }
        }
    }
    true
}

fn kill(machine: &Path, still: &mut dyn FnMut() -> bool) -> Result<bool, HypervisorError> {
    adopt::kill(machine, still)
}

enum Due {
    Dismissed,
    No,
    /// Nothing was heard for longer than this.
    Since(Duration),
}

fn is_due(folder: &Path, boot_id: &str, last: &mut Option<Note>) -> Due {
    match fs::read_to_string(heard_of(folder)) {
        // What can't be read is a moment in which it is written.
        Ok(text) => *last = Note::of_text(&text).or(last.take()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Due::Dismissed,
        Err(error) => tracing::warn!(%error, "what was heard last can't be read"),
    }
    match last {
        Some(note) if note.is_over(boot_id, Moment::now()) => Due::Since(note.after),
        _ => Due::No,
    }
}

fn lock_file(folder: &Path, name: &str) -> io::Result<File> {
    let mut open = OpenOptions::new();
    open.write(true).create(true).truncate(false).mode(0o600);
    open.open(folder.join(name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test that panics has failed
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn a_note_is_read_as_written_and_counts_until_its_time_is_over() {
        let note = Note {
            boot_id: "a-boot".to_owned(),
            at: Moment(Duration::from_secs(1000)),
            after: Duration::from_secs(30),
        };
        let text = note.to_text();
        assert_eq!(text.len(), NOTE_BYTES);
        assert_eq!(Note::of_text(&text), Some(note.clone()));
        for torn in ["", "a-boot", "a-boot 1", "a-boot x 30"] {
            assert_eq!(Note::of_text(torn), None);
        }
        let at = |seconds| Moment(Duration::from_secs(seconds));
        assert!(!note.is_over("a-boot", at(1030)));
        assert!(note.is_over("a-boot", at(1031)));
        assert!(note.is_over("the-next", at(1001)));
    }

    #[test]
    fn what_was_started_since_this_host_was_heard_again_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (own, machines) = (folder.path().join("guard"), folder.path().join("machines"));
        let guard = Guard::new(own.clone(), Duration::from_secs(3600));
        guard.heard(Moment::now()).unwrap();
        for machine in ["one", "another"] {
            mark(&machines.join(machine), true).unwrap();
        }
        let killed = std::cell::RefCell::new(Vec::new());
        // What was noted is of a time before this computer was switched on. The first one takes a moment to be ended.
        let kill = |machine: &Path, still: &mut dyn FnMut() -> bool| {
            let is_due = still();
            if is_due {
                killed.borrow_mut().push(machine.to_owned());
                let note = Note {
                    boot_id: "this-time".to_owned(),
                    at: Moment::now(),
                    after: Duration::from_secs(3600),
                };
                fs::write(heard_of(&own), note.to_text()).unwrap();
            }
            Ok(is_due)
        };
        assert!(look(&own, &machines, "this-time", &mut None, kill));
        assert_eq!(killed.borrow().len(), 1, "{killed:?}");
    }

    #[test]
    fn there_is_one_guard_until_it_is_dismissed() {
        let folder = tempfile::tempdir().unwrap();
        let (own, machines) = (folder.path().join("guard"), folder.path().join("machines"));
        let guard = Guard::new(own.clone(), Duration::from_secs(3600));
        assert!(!Guard::is_there(&own) && !Guard::is_wanted(&own));
        guard.heard(Moment::now()).unwrap();
        let (of, its) = (own.clone(), machines.clone());
        let first = std::thread::spawn(move || watch(&of, &its).unwrap());
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        // However often it is looked: that keeps it from nothing.
        while !Guard::is_there(&own) && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(Guard::is_there(&own) && Guard::is_wanted(&own));
        watch(&own, &machines).unwrap();
        Guard::dismiss(&own).unwrap();
        first.join().unwrap();
        assert!(!Guard::is_there(&own) && !Guard::is_wanted(&own));
    }

    #[test]
    fn what_is_seen_of_it_is_told_and_why_it_is_missing() {
        let (presence, mut changes) = {
            let presence = Presence::default();
            let changes = presence.changes();
            (presence, changes)
        };
        let is_told = |changes: &mut Changes| changes.next().now_or_never().is_some();
        assert!(!presence.is_there() && presence.trouble().is_none());
        presence.tell(Ok(()));
        assert!(presence.is_there() && is_told(&mut changes));
        presence.tell(Ok(()));
        assert!(!is_told(&mut changes), "nothing is new");
        presence.tell(Err("it was killed".to_owned()));
        assert!(!presence.is_there() && is_told(&mut changes));
        assert_eq!(presence.trouble().as_deref(), Some("it was killed"));
    }
}
