//! What a confined child does between `fork` and `exec`: give up everything it does not need.
//!
//! # Invariant
//! The closure below runs in the forked child of a process with several threads. It must only make system calls: no
//! allocation, no lock, nothing that another thread could have left half done. All it needs is therefore made before the
//! fork, and all it calls are `rustix` functions that are bare system calls on Linux.

#![expect(
    unsafe_code,
    reason = "`pre_exec` is unsafe; the invariant above is what it asks for"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::SocketAddrUnix;
use rustix::process::{
    Gid, Resource, Rlimit, Signal, Uid, set_parent_process_death_signal, setrlimit,
};
use rustix::thread::{
    UnshareFlags, set_no_new_privs, set_thread_gid, set_thread_groups, set_thread_uid,
    unshare_unsafe,
};

use super::Bounds;

/// Stack of a thread. `qemu-img` starts up to 64 of them: with the usual 8 MiB they alone could use up the address space.
const THREAD_STACK_BYTES: u64 = 1 << 20;

/// Makes `command` confine itself before it becomes the program. `files` keep their numbers and are inherited; the
/// caller keeps them open until the child is started.
pub(crate) fn confine(
    command: &mut Command,
    files: &[&File],
    user: (u32, u32),
    bounds: &Bounds,
    max_file_bytes: u64,
) {
    let apart = UnshareFlags::NEWNET | UnshareFlags::NEWIPC;
    confine_apart(command, files, user, (bounds, max_file_bytes), apart);
}

/// The same for a program that is to be spoken to in the network of the thread that starts it: one that it has
/// [for itself](leave_network).
pub(crate) fn confine_in_network(
    command: &mut Command,
    files: &[&File],
    user: (u32, u32),
    bounds: &Bounds,
) {
    confine_apart(
        command,
        files,
        user,
        (bounds, u64::MAX),
        UnshareFlags::NEWIPC,
    );
}

/// Gives this thread a network of its own, in which nobody else is. What it starts is in it, too.
pub(crate) fn leave_network() -> io::Result<()> {
    // SAFETY: the flag leaves the descriptor table and the file system's state shared, as they are.
    Ok(unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?)
}

/// Connects a socket to the one of this name in a folder as another user and group, as which the other side then knows us: by
/// a child that is that user, and ends. When we aren't root, as we are.
pub(crate) fn connect_as(
    socket: BorrowedFd<'_>,
    (folder, address): (&Path, &SocketAddrUnix),
    id: u32,
) -> io::Result<()> {
    let user = rustix::process::geteuid()
        .is_root()
        .then(|| (Uid::from_raw(id), Gid::from_raw(id)));
    let (socket, address) = (socket.as_raw_fd(), address.clone());
    let in_child = move || {
        if let Some((uid, gid)) = user {
            set_thread_groups(&[])?;
            set_thread_gid(gid)?;
            set_thread_uid(uid)?;
        }
        // SAFETY: the caller holds it until the child has ended.
        rustix::net::connect(unsafe { BorrowedFd::borrow_raw(socket) }, &address)?;
        // There is no program to go on with.
        Err(io::Error::from(Errno::CANCELED))
    };
    let mut child = Command::new("/proc/self/exe");
    child.current_dir(folder);
    // SAFETY: see the invariant at the top of this file.
    unsafe { child.pre_exec(in_child) };
    match child.spawn() {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::CANCELED) => Ok(()),
        Err(error) => Err(error),
        Ok(mut child) => {
            child.kill()?;
            child.wait()?;
            Err(io::Error::other("a child went on"))
        }
    }
}

fn confine_apart(
    command: &mut Command,
    files: &[&File],
    (uid, gid): (u32, u32),
    (bounds, max_file_bytes): (&Bounds, u64),
    apart: UnshareFlags,
) {
    let descriptors: Vec<i32> = files.iter().map(|file| file.as_raw_fd()).collect();
    let limits = [
        (Resource::As, bounds.memory_bytes),
        // What each thread of its pool takes of the address space.
        (Resource::Stack, THREAD_STACK_BYTES),
        (Resource::Cpu, bounds.cpu.as_secs().max(1)),
        (Resource::Fsize, max_file_bytes),
        (Resource::Nofile, 64),
        (Resource::Core, 0),
    ];
    let user = rustix::process::geteuid()
        .is_root()
        .then(|| (Uid::from_raw(uid), Gid::from_raw(gid)));
    let in_child = move || {
        for descriptor in &descriptors {
            // SAFETY: the number was open before the fork (the caller's promise), so it is open here.
            let file = unsafe { BorrowedFd::borrow_raw(*descriptor) };
            fcntl_setfd(file, FdFlags::empty())?;
        }
        if let Some((uid, gid)) = user {
            // SAFETY: the flags leave the descriptor table shared with nobody but this single-threaded child.
            unsafe { unshare_unsafe(apart) }?;
            set_thread_groups(&[])?;
            set_thread_gid(gid)?;
            set_thread_uid(uid)?;
        }
        for (resource, limit) in limits {
            setrlimit(
                resource,
                Rlimit {
                    current: Some(limit),
                    maximum: Some(limit),
                },
            )?;
        }
        set_no_new_privs(true)?;
        // The thread that starts the child waits for it, so its death is ours. Changing the user clears this: it is last.
        set_parent_process_death_signal(Some(Signal::KILL))?;
        Ok(())
    };
    // SAFETY: see the invariant at the top of this file.
    unsafe { command.pre_exec(in_child) };
}
