//! Telling one process from another, and seeing its end.
//!
//! A process number alone is never trusted: it is used again. A process is identified by its number and start time, and as
//! ours by the machine's UUID in its arguments; it is held by a pidfd, which never comes to mean another process.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use uuid::Uuid;

use crate::hypervisor::ExitCause;

/// A process, unmistakably, until the host is booted again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Process number.
    pub pid: u32,
    /// Start time in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub start_time_ticks: u64,
}

impl ProcessIdentity {
    /// Identifies a process that is alive.
    ///
    /// # Errors
    /// If there is none of this number.
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let start_time_ticks =
            start_time(&stat).ok_or_else(|| io::Error::other("unreadable /proc/PID/stat"))?;
        Ok(Self {
            pid,
            start_time_ticks,
        })
    }
}

/// Field 22; the second field, the program's name in parentheses, may hold anything.
fn start_time(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Whether the arguments of a process (`/proc/PID/cmdline`) are those of this machine's QEMU.
fn is_of_machine(cmdline: &[u8], machine: Uuid) -> bool {
    machine_of(cmdline) == Some(machine)
}

/// The machine whose QEMU has these arguments (`/proc/PID/cmdline`).
fn machine_of(cmdline: &[u8]) -> Option<Uuid> {
    let mut words = cmdline.split(|byte| *byte == 0);
    words.find(|word| *word == b"-uuid")?;
    std::str::from_utf8(words.next()?).ok()?.parse().ok()
}

/// A process that is held, whether or not it is our child.
#[derive(Debug)]
pub struct HeldProcess {
    pid: u32,
    pidfd: AsyncFd<OwnedFd>,
}

impl HeldProcess {
    /// Holds a process by an open pidfd. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If the descriptor can't be watched.
    pub fn new(pid: u32, pidfd: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            pid,
            pidfd: crate::spawn::watch(pidfd)?,
        })
    }

    /// Process number; names this process for as long as it is not reaped.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends SIGKILL; no error if it has ended.
    pub fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL);
    }

    /// Waits for the end and reaps the process if it is our child. Safe to cancel.
    pub async fn ended(&self) -> ExitCause {
        // An error of the watch can only mean that the runtime ends.
        if self.pidfd.readable().await.is_err() {
            return ExitCause::Unseen;
        }
        let wait = rustix::process::waitid(
            WaitId::PidFd(std::os::fd::AsFd::as_fd(self.pidfd.get_ref())),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        );
        match wait {
            Ok(Some(status)) => match (status.terminating_signal(), status.exit_status()) {
                (Some(signal), _) => ExitCause::Signal(signal),
                (None, Some(0)) => ExitCause::Requested,
                (None, Some(code)) => ExitCause::Code(code),
                (None, None) => ExitCause::Unseen,
            },
            // Not our child: started by an earlier controller.
            Ok(None) | Err(_) => ExitCause::Unseen,
        }
    }
}

/// Opens the process of a record if it still is that process and that machine.
#[must_use]
pub fn open_recorded(identity: ProcessIdentity, machine: Uuid) -> Option<OwnedFd> {
    let pidfd = open_if_of_machine(identity.pid, machine)?;
    (ProcessIdentity::of(identity.pid).ok()? == identity).then_some(pidfd)
}

/// Looks through all processes for the QEMU of a machine whose output goes to this log: for a record without a process
/// number, and after an upgrade from nothing.
#[must_use]
pub fn find(machine: Uuid, output: &Path) -> Option<(ProcessIdentity, OwnedFd)> {
    // Somebody else's QEMU may carry the same UUID; ours writes to our log.
    let ours = |found: &FoundProcess| found.output == output && !found.output_gone;
    let found = all(|cmdline| is_of_machine(cmdline, machine)).find(ours)?;
    Some((found.identity, found.pidfd))
}

/// A QEMU that was found among all processes.
#[derive(Debug)]
pub struct FoundProcess {
    /// Which process.
    pub identity: ProcessIdentity,
    /// The machine of its arguments.
    pub machine: Uuid,
    /// Where its output goes.
    pub output: PathBuf,
    /// Whether that file was deleted.
    pub output_gone: bool,
    /// A hold on it.
    pub pidfd: OwnedFd,
}

/// All QEMU processes whose output goes below this folder, also to files that were deleted there, found in one look
/// through `/proc`. Reads the arguments of every process on the host: blocks for some milliseconds.
#[must_use]
pub fn all_below(folder: &Path) -> Vec<FoundProcess> {
    all(|_| true)
        .filter(|found| found.output.starts_with(folder))
        .collect()
}

fn all(wanted: impl Fn(&[u8]) -> bool) -> impl Iterator<Item = FoundProcess> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.filter_map(move |pid| {
        let (pidfd, cmdline) = open(pid)?;
        let machine = machine_of(&cmdline)?;
        if !wanted(&cmdline) {
            return None;
        }
        let (output, output_gone) = without_mark(fs::read_link(format!("/proc/{pid}/fd/1")).ok()?);
        Some(FoundProcess {
            identity: ProcessIdentity::of(pid).ok()?,
            machine,
            output,
            output_gone,
            pidfd,
        })
    })
}

/// The kernel marks the names of deleted files.
fn without_mark(target: PathBuf) -> (PathBuf, bool) {
    const MARK: &[u8] = b" (deleted)";
    match target.as_os_str().as_bytes().strip_suffix(MARK) {
        Some(name) => (PathBuf::from(OsStr::from_bytes(name)), true),
        None => (target, false),
    }
}

fn open_if_of_machine(pid: u32, machine: Uuid) -> Option<OwnedFd> {
    let (pidfd, cmdline) = open(pid)?;
    is_of_machine(&cmdline, machine).then_some(pidfd)
}

/// A hold on a process, and its arguments. The pidfd is opened before looking, so that what was looked at is what is held.
fn open(pid: u32) -> Option<(OwnedFd, Vec<u8>)> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let cmdline = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
    Some((pidfd, cmdline))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_any_program_name() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 987654 20 21";
        assert_eq!(start_time(&format!("12 (qemu) {tail}")), Some(987_654));
        assert_eq!(start_time(&format!("12 (a) b) (c) {tail}")), Some(987_654));
        assert_eq!(start_time("12 (qemu) S 1"), None);
        assert_eq!(start_time(""), None);
    }

    #[test]
    fn only_the_uuid_option_counts() {
        let machine = Uuid::from_u128(7);
        let line = |words: &[&str]| words.join("\0").into_bytes();
        assert!(is_of_machine(
            &line(&["qemu", "-uuid", &machine.to_string(), "-S"]),
            machine
        ));
        assert!(!is_of_machine(
            &line(&["qemu", "-name", &machine.to_string()]),
            machine
        ));
        assert!(!is_of_machine(
            &line(&["qemu", "-uuid", &Uuid::from_u128(8).to_string()]),
            machine
        ));
        assert!(!is_of_machine(b"", machine));
    }

    #[test]
    fn a_deleted_file_is_known_by_its_name() {
        let split = |text: &str| without_mark(PathBuf::from(text));
        assert_eq!(split("/m/qemu.log"), (PathBuf::from("/m/qemu.log"), false));
        assert_eq!(
            split("/m/qemu.log (deleted)"),
            (PathBuf::from("/m/qemu.log"), true)
        );
    }

    #[test]
    fn this_process_has_an_identity() {
        let me = std::process::id();
        let identity = ProcessIdentity::of(me).expect("we are alive");
        assert_eq!(identity, ProcessIdentity::of(me).expect("we are alive"));
        assert!(
            open_recorded(identity, Uuid::from_u128(1)).is_none(),
            "we are not a QEMU"
        );
    }
}
