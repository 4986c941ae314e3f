//! One daemon for one state directory, and what it tells others about itself by files there.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            fs::{DirBuilderExt as _, OpenOptionsExt as _},
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use rustix::fs::FlockOperation;

/// How long the lock of a daemon that is gone is waited for.
const ORPHANED_LOCK_LIMIT: Duration = Duration::from_secs(5);

/// The right to use a state directory, held until this is dropped. Also by `STATE/stratusd.pid`, for people and scripts:
/// the lock on that file counts, not its content.
#[derive(Debug)]
pub struct Instance {
    state: PathBuf,
    /// Never removed, since a lock on a removed file would hold nobody off; emptied at the end.
    lock: File,
}

impl Instance {
    /// Takes the state directory, and makes it if it isn't there.
    ///
    /// # Errors
    /// If another daemon has it, or it can't be written.
    pub fn take(state: &Path) -> anyhow::Result<Self> {
        // Others may pass through, since dnsmasq and QEMU run as users of their own; what is secret is closed itself.
        make_dir(state, 0o711)?;
        let path = state.join("stratusd.pid");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(&path)
            .with_context(|| path.display().to_string())?;
        let began = Instant::now();
        loop {
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let mut pid = String::new();
                    let _ = lock.rewind().and_then(|()| lock.read_to_string(&mut pid));
                    let pid = pid.trim();
                    // A daemon that was killed while it started a program: the lock is the child's until that has
                    // become the program, which takes a moment.
                    let is_gone = !pid.is_empty() && !Path::new("/proc").join(pid).exists();
                    if is_gone && began.elapsed() < ORPHANED_LOCK_LIMIT {
                        std::thread::sleep(Duration::from_millis(10));
                        continue;
                    }
                    bail!(
                        "another stratusd (process {pid}) runs with {}; stop it first, or give this one another `state_dir`",
                        state.display()
                    );
                }
                Err(error) => {
                    return Err(error).with_context(|| format!("locking {}", path.display()));
                }
            }
        }
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .with_context(|| path.display().to_string())?;
        // Of an earlier run that was killed.
        remove(&state.join("ready"))?;
        Ok(Self {
            state: state.to_owned(),
            lock,
        })
    }

    /// Tells those who wait for it that the cloud is ready: by `STATE/ready`, which holds the API's address, by a line
    /// on an inherited descriptor, and the supervisor that asks to be told.
    ///
    /// # Errors
    /// If that can't be written.
    pub fn ready(&self, address: &str, descriptor: Option<i32>) -> anyhow::Result<()> {
        let path = self.state.join("ready");
        write_atomically(&path, format!("{address}\n").as_bytes(), 0o644)?;
        if let Some(number) = descriptor {
            // By its name in /proc, which needs no trust in the number.
            let path = format!("/proc/self/fd/{number}");
            let mut file = OpenOptions::new()
                .write(true)
                .open(&path)
                .with_context(|| format!("--ready-fd {number}"))?;
            writeln!(file, "{address}").with_context(|| format!("--ready-fd {number}"))?;
        }
        tell_supervisor(&format!("READY=1\nSTATUS={address}"))
    }
}

impl Instance {
    /// Takes back that the cloud is ready.
    pub fn stopping(&self) {
        let taken_back =
            remove(&self.state.join("ready")).and_then(|()| tell_supervisor("STOPPING=1"));
        if let Err(error) = taken_back {
            tracing::warn!("{error:#}");
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.stopping();
        let _ = self.lock.set_len(0);
    }
}

/// Tells the supervisor how it is with this process, if it asked to be told: systemd (`Type=notify`), and Debian's
/// `start-stop-daemon --notify-await`. A datagram to the socket that NOTIFY_SOCKET names (sd_notify(3)).
fn tell_supervisor(text: &str) -> anyhow::Result<()> {
    match std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) {
        Some(name) => tell(&name, text),
        None => Ok(()),
    }
}

fn tell(name: &OsStr, text: &str) -> anyhow::Result<()> {
    let told = || {
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        // A supervisor that doesn't read is not waited for.
        socket.set_nonblocking(true)?;
        socket.send_to_addr(text.as_bytes(), &address)
    };
    match told() {
        Ok(_) => Ok(()),
        // Of whoever waited until this was ready, and no longer: it is inherited all the same.
        Err(error) if is_nobody(&error) => Ok(()),
        Err(error) => {
            Err(error).with_context(|| format!("NOTIFY_SOCKET {}", name.to_string_lossy()))
        }
    }
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

/// Makes a directory and those above it, if they aren't there.
///
/// # Errors
/// If that can't be done.
pub fn make_dir(path: &Path, mode: u32) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .with_context(|| {
            format!(
                "{}: can't be made; see that the daemon may write there, or change `state_dir`",
                path.display()
            )
        })
}

/// Writes a file so that it is there wholly or not at all, whatever happens.
///
/// # Errors
/// If that can't be done.
pub fn write_atomically(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    let write = || {
        remove_file(&new)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        path.parent()
            .map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    write().with_context(|| path.display().to_string())
}

/// Removes a file, if it is there.
///
/// # Errors
/// If that can't be done.
pub fn remove(path: &Path) -> anyhow::Result<()> {
    remove_file(path).with_context(|| path.display().to_string())
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_refused_with_the_number_of_the_first() {
        let state = tempfile::tempdir().unwrap();
        let first = Instance::take(state.path()).unwrap();
        let refused = Instance::take(state.path()).unwrap_err().to_string();
        assert!(
            refused.contains(&format!("process {}", std::process::id())),
            "{refused}"
        );
        first.ready("https://127.0.0.1:8443", None).unwrap();
        assert!(state.path().join("ready").exists());
        drop(first);
        assert!(!state.path().join("ready").exists());
        Instance::take(state.path()).unwrap();
    }

    #[test]
    fn the_supervisor_is_told_when_it_is_ready() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let own = format!("@{}", path.display());
        let named = UnixDatagram::bind(&path).unwrap();
        let unnamed =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&own[1..]).unwrap()).unwrap();
        for (name, socket) in [(path.as_os_str(), named), (OsStr::new(&own), unnamed)] {
            tell(name, "READY=1\nSTATUS=here").unwrap();
            let mut text = [0; 64];
            let length = socket.recv(&mut text).unwrap();
            assert_eq!(&text[..length], b"READY=1\nSTATUS=here");
            // Who waited for it doesn't any more.
            drop(socket);
            tell(name, "STOPPING=1").unwrap();
        }
    }

    #[test]
    fn a_secret_is_written_whole_and_closed() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        write_atomically(&path, b"one", 0o600).unwrap();
        write_atomically(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
