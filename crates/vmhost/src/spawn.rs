//! Starting QEMU so that it outlives this program and owns nothing but what it is given. The one module of this crate's
//! hypervisor layer with `unsafe`.
//!
//! The child runs in its own session, as its own user with no supplementary group but the one it is given, with an empty
//! environment, and with exactly the descriptors it was given, numbered from 3.
#![allow(
    unsafe_code,
    reason = "what comes between fork and exec has no safe form; each block says what keeps it sound"
)]

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, PidfdFlags, Resource, Rlimit};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::command_line::FIRST_DESCRIPTOR;
use crate::launch_spec::Credentials;
use crate::process::ProcessIdentity;

/// Descriptors QEMU may open; Ceph and many disks need thousands.
const OPEN_FILES: u64 = 65_536;

/// Sources of inherited descriptors are moved above this number, so that none sits where another shall be put.
const ABOVE_TARGETS: RawFd = 600;

/// What to start.
#[derive(Debug)]
pub struct Start<'a> {
    /// Program.
    pub binary: &'a Path,
    /// Its arguments.
    pub arguments: &'a [String],
    /// Descriptors it inherits, as numbers 3, 4, 5 …
    pub descriptors: &'a [OwnedFd],
    /// Where standard output and error go.
    pub output: File,
    /// Whom it runs as.
    pub credentials: Option<Credentials>,
}

/// A started process.
#[derive(Debug)]
pub struct Started {
    /// Which one.
    pub identity: ProcessIdentity,
    /// A hold on it.
    pub pidfd: OwnedFd,
}

/// Starts a process. Blocks for the fork and exec, a few milliseconds.
///
/// # Errors
/// If a descriptor can't be moved, or the program can't be executed as wanted; nothing is left running then.
pub fn start(start: Start<'_>) -> io::Result<Started> {
    let Start {
        binary,
        arguments,
        descriptors,
        output,
        credentials,
    } = start;
    let moved = descriptors
        .iter()
        .map(|descriptor| Ok(rustix::io::fcntl_dupfd_cloexec(descriptor, ABOVE_TARGETS)?))
        .collect::<io::Result<Vec<OwnedFd>>>()?;
    let placements: Vec<(RawFd, RawFd)> = moved
        .iter()
        .map(AsRawFd::as_raw_fd)
        .zip(FIRST_DESCRIPTOR..)
        .collect();
    if placements
        .last()
        .is_some_and(|(_, target)| *target >= ABOVE_TARGETS)
    {
        return Err(io::Error::other("too many descriptors"));
    }

    let mut command = Command::new(binary);
    command
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    // SAFETY: the closure runs between fork and exec in a copy of a process with several threads, so it may only do what
    // is safe in a signal handler: it makes system calls (setsid, prlimit, dup2, setgroups, setresgid, setresuid) on numbers
    // computed before, and neither allocates nor takes a lock. The numbers stay valid since `moved` lives until after `spawn`.
    unsafe {
        command.pre_exec(move || {
            rustix::process::setsid()?;
            set_limits()?;
            for (source, target) in &placements {
                // `dup2` wants an owner of the number it overwrites; nobody owns it in this child, and it is not closed.
                let mut place = ManuallyDrop::new(OwnedFd::from_raw_fd(*target));
                rustix::io::dup2(BorrowedFd::borrow_raw(*source), &mut place)?;
            }
            // Last: the rest may need rights.
            credentials.map_or(Ok(()), Credentials::take_on)
        });
    }
    let child = command.spawn()?;
    let pid = child.id();
    // The child is ours and not reaped, so the number still means it. It is reaped through the pidfd; `Child` only
    // forgets it when dropped.
    let raw = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::other("no process number"))?;
    let pidfd = rustix::process::pidfd_open(raw, PidfdFlags::empty())?;
    Ok(Started {
        identity: ProcessIdentity::of(pid)?,
        pidfd,
    })
}

/// Has the async runtime watch a descriptor for being readable. Must be called within a tokio runtime.
///
/// # Errors
/// If the kernel can't watch it (an ordinary file).
pub fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` always names the same open descriptor, and it is closed only when the `AsyncFd`, which owns
    // it from here on, is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}

/// No core files (they would hold the guest's memory), many descriptors.
fn set_limits() -> io::Result<()> {
    rustix::process::setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    )?;
    let most = rustix::process::getrlimit(Resource::Nofile).maximum;
    let files = most.map_or(OPEN_FILES, |most| most.min(OPEN_FILES));
    rustix::process::setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(files),
            maximum: Some(files),
        },
    )?;
    Ok(())
}

/// Opens a queue of an existing tap interface for QEMU.
///
/// # Errors
/// Without `/dev/net/tun`, without the right to the interface, or if another process has it open.
pub fn open_tap(interface: &str) -> io::Result<OwnedFd> {
    const IFF_TAP: i16 = 0x0002;
    const IFF_NO_PI: i16 = 0x1000;
    const IFF_VNET_HDR: i16 = 0x4000;
    /// `TUNSETIFF` of `linux/if_tun.h`: `_IOW('T', 202, int)`.
    const TUNSETIFF: rustix::ioctl::Opcode = rustix::ioctl::opcode::write::<i32>(b'T', 202);
    /// `struct ifreq` of `linux/if.h` as far as `TUNSETIFF` reads it, with its full size.
    #[repr(C)]
    struct InterfaceRequest {
        name: [u8; 16],
        flags: i16,
        unused: [u8; 22],
    }

    if interface.is_empty() || interface.len() > 15 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "an interface name has 1 to 15 bytes",
        ));
    }
    // TUNSETIFF would make an interface that is missing, which nobody would remove.
    if !Path::new("/sys/class/net").join(interface).exists() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("no interface {interface}"),
        ));
    }
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR,
        unused: [0; 22],
    };
    for (place, byte) in request.name.iter_mut().zip(interface.bytes()) {
        *place = byte;
    }
    // SAFETY: `request` has the layout and size of the kernel's `struct ifreq`, lives through the call, and TUNSETIFF
    // reads and writes within it only.
    unsafe {
        let request = rustix::ioctl::Updater::<TUNSETIFF, InterfaceRequest>::new(&mut request);
        rustix::ioctl::ioctl(&device, request)?;
    }
    rustix::io::ioctl_fionbio(&device, true)?;
    Ok(device.into())
}
