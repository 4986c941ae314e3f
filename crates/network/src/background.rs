//! A process that is not our child: found by its command line, held by a pidfd, so that a number used again by another
//! process is never signalled.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::{NetworkError, Result};

/// A running process that is held, not owned.
#[derive(Debug)]
pub(crate) struct BackgroundProcess {
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
}

impl BackgroundProcess {
    /// The process a pid file names, if it runs and has `argument` in its command line.
    pub(crate) fn by_pid_file(file: &Path, argument: &str) -> Option<Self> {
        let pid = fs::read_to_string(file).ok()?.trim().parse().ok()?;
        Self::with_argument(pid, argument)
    }

    /// Any process with `argument` in its command line, other than ourselves.
    pub(crate) fn by_argument(argument: &str) -> Option<Self> {
        fs::read_dir("/proc")
            .ok()?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|&pid: &i32| pid.unsigned_abs() != std::process::id())
            .find_map(|pid| Self::with_argument(pid, argument))
    }

    fn with_argument(pid: i32, argument: &str) -> Option<Self> {
        if !arguments_of(pid)?.iter().any(|a| a == argument) {
            return None;
        }
        let pid = Pid::from_raw(pid)?;
        let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
        // Deprecated for types that may close or change their descriptor while it is registered; an `OwnedFd` cannot.
        #[expect(
            deprecated,
            reason = "sound for OwnedFd, and the successor is an unsafe function"
        )]
        let pidfd = AsyncFd::with_interest(pidfd, Interest::READABLE).ok()?;
        let process = Self { pid, pidfd };
        // Looked at again now that the number cannot change hands.
        process
            .arguments()?
            .iter()
            .any(|a| a == argument)
            .then_some(process)
    }

    /// Its process number.
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Its command line; none when it has ended.
    pub(crate) fn arguments(&self) -> Option<Vec<String>> {
        arguments_of(self.pid())
    }

    /// Resolves when it has ended.
    pub(crate) async fn ended(&self) {
        // Readable for good from the end on (pidfd_open(2)); an error here means there is nothing left to watch.
        let _ = self.pidfd.readable().await;
    }

    /// Sends a signal; one that has ended is no error.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        match pidfd_send_signal(self.pidfd.get_ref(), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(NetworkError::Dnsmasq {
                reason: format!("cannot signal process {}: {error}", self.pid()),
            }),
        }
    }

    /// Asks it to end, and after `limit` makes it.
    pub(crate) async fn end(self, limit: Duration) -> Result<()> {
        for signal in [Signal::TERM, Signal::KILL] {
            self.signal(signal)?;
            if tokio::time::timeout(limit, self.ended()).await.is_ok() {
                return Ok(());
            }
        }
        Err(NetworkError::Timeout {
            what: format!("the end of process {}", self.pid()),
            limit: limit * 2,
        })
    }
}

/// Empty for a process that has ended and waits to be collected: no match for anything.
fn arguments_of(pid: i32) -> Option<Vec<String>> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let line = line.strip_suffix(&[0]).unwrap_or(&line);
    Some(
        line.split(|&byte| byte == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect(),
    )
}
