//! A volume as an iSCSI target, by a `tgtd` of its own.
//!
//! As with what shows a volume in NBD, the process has the file of one volume and nothing else: no rights, and a network that is
//! for it alone, in which it listens and nobody but us connects, once ([`way`](super::way)). So whoever ends it has ended the
//! writing, whatever its initiator does; and it dies with this program. What it is to show it is told at the beginning, by its
//! control socket: not on a command line, where everybody could read the secret.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::{
            fs::{DirBuilderExt as _, chown},
            net::UnixStream,
            process::CommandExt as _,
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use tokio::sync::oneshot;
use tokio_util::sync::DropGuard;

use super::{BOUNDS, Part, beginning, opened};
use crate::{
    confine::{confine_in_network, connect_as, leave_network},
    durable::RemoveOnDrop,
    error::Error,
};

/// The one logical unit of each target, as StratusLab had it.
const LUN: u64 = 1;
/// Where each process listens in its own network.
const PORT: u16 = 3260;
/// How long it may take to answer.
const ANSWERING: Duration = Duration::from_secs(10);
/// The name of the control socket; the program puts the number of its control port (0) behind it.
const CONTROL: &str = "control";

/// The `tgtd` of this host.
#[derive(Clone, Debug)]
pub struct TargetDaemon {
    program: PathBuf,
    /// Where control sockets are, for a moment.
    folder: PathBuf,
}

/// What a target is called, and who may log in.
#[derive(Clone)]
pub(super) struct Names {
    pub(super) target: String,
    pub(super) initiator: String,
    pub(super) user: &'static str,
    pub(super) secret: String,
}

/// What each process of a target is to show, and as which user it runs.
#[derive(Clone)]
pub(super) struct Showing {
    pub(super) daemon: TargetDaemon,
    /// A raw file; none: all fails that is asked.
    pub(super) file: Option<Part>,
    pub(super) user: u32,
    pub(super) names: Names,
}

/// A target that is shown. Killed when dropped.
#[derive(Debug)]
pub(super) struct Target {
    /// Where it listens.
    pub(super) network: Network,
    process: OwnedFd,
}

/// The network of one process.
#[derive(Clone, Debug)]
pub(super) struct Network(Arc<File>);

impl Network {
    /// A connection to the process.
    pub(super) async fn connect(&self) -> io::Result<tokio::net::TcpStream> {
        let (tell, connected) = oneshot::channel();
        let network = Self::clone(self);
        // A thread that is in another network is of no use for anything else.
        thread::Builder::new()
            .name("target".to_owned())
            .spawn(move || {
                let connect = || {
                    move_into_link_name_space(network.0.as_fd(), Some(LinkNameSpaceType::Network))?;
                    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))?;
                    stream.set_nodelay(true)?;
                    stream.set_nonblocking(true)?;
                    Ok(stream)
                };
                let _ = tell.send(connect());
            })?;
        let stream: io::Result<TcpStream> = connected.await.map_err(io::Error::other)?;
        tokio::net::TcpStream::from_std(stream?)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // It fails only if the process has ended.
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
    }
}

impl TargetDaemon {
    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    /// The program at this absolute path. In `folder`, which is made, are sockets for a moment each.
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
        // With what a killed process left.
        crate::durable::remove(&folder)?;
        let mut made = fs::DirBuilder::new();
        made.recursive(true)
            .mode(0o711)
            .create(&folder)
            .map_err(Error::io("make", &folder))?;
        Ok(Self {
            program: program.to_owned(),
            folder,
        })
    }
}

impl Showing {
    /// Shows it by a process, whose end drops `over`. `place` is kept while it is started.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that can't be opened and a program that can't be run, [`Error::Tool`] for what it says.
    pub(super) async fn show(
        &self,
        place: impl Send + 'static,
        over: DropGuard,
    ) -> Result<Target, Error> {
        let showing = self.clone();
        let started = tokio::task::spawn_blocking(move || {
            let _place = place;
            showing.start(over)
        });
        started
            .await
            .map_err(|_| failed("it could not be started"))?
    }

    fn start(&self, over: DropGuard) -> Result<Target, Error> {
        let (part, user) = (self.file.as_ref(), self.user);
        let name = uuid::Uuid::new_v4().simple().to_string();
        let place = self.daemon.folder.join(name);
        let made = fs::DirBuilder::new().mode(0o700).create(&place);
        made.and_then(|()| chown(&place, Some(user), Some(user)))
            .map_err(Error::io("make", &place))?;
        // Whoever had it could tell the process to show something else.
        let _control = RemoveOnDrop::new(place.clone());
        let file = part
            .map(|part| opened(part, true, Some(user)))
            .transpose()?;
        let path = file
            .as_ref()
            .map(|file| format!("/proc/self/fd/{}", file.as_raw_fd()));
        let target = self.run(&place, file, over)?;
        let control = Control {
            folder: &place,
            user,
        };
        control.answers()?;
        let Names {
            target: name,
            initiator,
            user: login,
            secret,
        } = &self.names;
        control.ask(TARGET, NEW, &format!("targetname={name}"))?;
        if let Some(path) = path {
            // A guest goes on where it was when this process, or this computer, is gone and back: what it was told to be written
            // must be there then, though it asked for no flush. Zeroes that the guest leaves to the disk are holes, which no
            // flag of the file makes last before it flushes; written, by blocks of 512 bytes one after the other, they would take
            // twenty times as long as any other bytes.
            control.ask(UNIT, NEW, &format!("path={path},bsoflags=sync"))?;
            control.ask(UNIT, UPDATE, "targetOps thin_provisioning=1,")?;
        }
        control.ask(ACCOUNT, NEW, &format!("user={login},password={secret}"))?;
        control.ask(ACCOUNT, BIND, &format!("user={login}"))?;
        control.ask(TARGET, BIND, &format!("initiator-name={initiator}"))?;
        Ok(target)
    }

    fn run(&self, place: &Path, file: Option<File>, over: DropGuard) -> Result<Target, Error> {
        let (tell_start, started) = mpsc::sync_channel(1);
        let program = &self.daemon.program;
        let volume = self.names.target.clone();
        let (of, place, user) = (program.clone(), place.to_owned(), self.user);
        // A thread of its own: it has another network than we, and the process dies with the thread that started it.
        let work = move || {
            match in_own_network(&of, &place, file, user) {
                Err(error) => {
                    let _ = tell_start.send(Err(error));
                }
                Ok((network, process, mut child)) => {
                    let _ = tell_start.send(Ok(Target { network, process }));
                    let said = child.stderr.take().map(beginning).unwrap_or_default();
                    let _ = child.wait();
                    // That it lacks RDMA, and the right to what it was not given: that it says each time.
                    tracing::debug!(volume, said, "of a volume that was shown by iSCSI");
                }
            }
            drop(over);
        };
        thread::Builder::new()
            .name("target".to_owned())
            .spawn(work)
            .map_err(Error::io("run", program))?;
        let gone = |_| Error::io("run", program)(io::Error::other("its thread ended"));
        started.recv().map_err(gone)?
    }
}

/// Starts the program in a network of this thread's own.
fn in_own_network(
    program: &Path,
    place: &Path,
    file: Option<File>,
    user: u32,
) -> Result<(Network, OwnedFd, std::process::Child), Error> {
    const NETWORK: &str = "/proc/thread-self/ns/net";
    let of = |error| Error::io("run", program)(error);
    leave_network().map_err(of)?;
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .stdin(Stdio::null())
        .output()
        .map_err(Error::io("run", Path::new("ip")))?;
    if !up.status.success() {
        return Err(failed(String::from_utf8_lossy(&up.stderr).trim()));
    }
    let network = File::open(NETWORK).map_err(Error::io("open", Path::new(NETWORK)))?;
    let mut command = Command::new(program);
    command
        .args(["-f", "-C", "0", "--iscsi"])
        .arg(format!("portal={}:{PORT}", Ipv4Addr::LOCALHOST))
        .env_clear()
        .env("TGT_IPC_SOCKET", CONTROL)
        .env("MALLOC_ARENA_MAX", "2")
        .current_dir(place)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0);
    let inherited: Vec<&File> = file.iter().collect();
    confine_in_network(&mut command, &inherited, (user, user), &BOUNDS);
    let child = command.spawn().map_err(of)?;
    drop(file);
    // Where memory is short, it goes before a machine does: its guest waits for the next one.
    let score = format!("/proc/{}/oom_score_adj", child.id());
    let _ = fs::write(score, "500");
    let number = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let number = number.ok_or_else(|| of(io::Error::other("it has no number")))?;
    let process = pidfd_open(number, PidfdFlags::empty()).map_err(|error| of(error.into()))?;
    Ok((Network(Arc::new(network)), process, child))
}

fn failed(reason: impl Into<String>) -> Error {
    Error::Tool {
        program: "tgtd".to_owned(),
        reason: reason.into(),
    }
}

/// By which a process is told what to show (`usr/tgtadm.h` of tgt 1.0.85): it listens to its own user only.
struct Control<'a> {
    folder: &'a Path,
    user: u32,
}

// What is asked about, and what is to be done.
const TARGET: u32 = 1;
const UNIT: u32 = 2;
const ACCOUNT: u32 = 7;
const NEW: u32 = 0;
const BIND: u32 = 3;
const UPDATE: u32 = 5;
/// Bytes of a request, before its text, and where its parts are.
const REQUEST_BYTES: usize = 120;
const DRIVER_AT: usize = 8;
const LENGTH_AT: usize = 72;
const TARGET_AT: usize = 76;
const UNIT_AT: usize = 88;

impl Control<'_> {
    /// Waits until the process listens: it tells that to nobody, so it is looked at.
    fn answers(&self) -> Result<(), Error> {
        let path = self.folder.join(format!("{CONTROL}.0"));
        let until = Instant::now() + ANSWERING;
        while !path.exists() {
            if Instant::now() > until {
                return Err(failed("it doesn't listen to what it is to do"));
            }
            thread::sleep(Duration::from_millis(1));
        }
        // It listens a moment later.
        loop {
            match self.connect() {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > until => {
                    return Err(Error::io("connect to", &path)(error));
                }
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    fn connect(&self) -> io::Result<UnixStream> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let address = SocketAddrUnix::new(format!("{CONTROL}.0"))?;
        connect_as(socket.as_fd(), (self.folder, &address), self.user)?;
        let stream = UnixStream::from(socket);
        stream.set_read_timeout(Some(ANSWERING))?;
        stream.set_write_timeout(Some(ANSWERING))?;
        Ok(stream)
    }

    fn ask(&self, mode: u32, operation: u32, text: &str) -> Result<(), Error> {
        let asked = self.asked(mode, operation, text);
        let answer = asked.map_err(Error::io("ask", self.folder))?;
        match answer {
            0 => Ok(()),
            number => {
                let what = text.split('=').next().unwrap_or_default();
                Err(failed(format!("it refuses {what:?} with error {number}")))
            }
        }
    }

    fn asked(&self, mode: u32, operation: u32, text: &str) -> io::Result<u32> {
        let mut request = [0; REQUEST_BYTES];
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(place) = request.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        };
        let length = u32::try_from(REQUEST_BYTES + text.len() + 1).map_err(io::Error::other)?;
        put(0, &mode.to_ne_bytes());
        put(4, &operation.to_ne_bytes());
        put(DRIVER_AT, b"iscsi");
        put(LENGTH_AT, &length.to_ne_bytes());
        put(TARGET_AT, &1_i32.to_ne_bytes());
        put(UNIT_AT, &LUN.to_ne_bytes());
        let mut stream = self.connect()?;
        stream.write_all(&request)?;
        stream.write_all(text.as_bytes())?;
        stream.write_all(&[0])?;
        let (mut error, mut length) = ([0; 4], [0; 4]);
        stream.read_exact(&mut error)?;
        stream.read_exact(&mut length)?;
        Ok(u32::from_ne_bytes(error))
    }
}
