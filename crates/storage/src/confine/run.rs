//! Waits for a confined program: collects bounded output, and kills the whole process group on time-out or when asked to.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::Bounds;
use crate::error::Error;

/// A program that ended by itself.
pub(crate) struct Done {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Done {
    /// Whether it says that the disk was full (the C library's words for `ENOSPC` and `EDQUOT`).
    pub(super) fn found_no_space(&self) -> bool {
        let said = String::from_utf8_lossy(&self.stderr);
        said.contains("No space left on device") || said.contains("Disk quota exceeded")
    }

    pub(super) fn error(&self, program: &str) -> Error {
        let how = match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => {
                format!("killed by signal {signal} (a limit of its confinement?)")
            }
            (None, None) => "unknown end".to_owned(),
        };
        let said = String::from_utf8_lossy(&self.stderr);
        let said: String = said.trim().chars().take(500).collect();
        Error::Tool {
            program: program.to_owned(),
            reason: format!("{how}: {}", said.escape_debug()),
        }
    }
}

/// A started child; killed with its group when dropped before it was collected.
pub(super) struct Running {
    child: Child,
    /// Its process id may be somebody else's by now.
    collected: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.collected {
            self.kill();
            // SIGKILL cannot be refused; this collects the child.
            let _ = self.child.wait();
        }
    }
}

impl Running {
    /// Takes charge of a child that leads a process group of its own.
    pub(super) const fn new(child: Child) -> Self {
        Self {
            child,
            collected: false,
        }
    }

    fn kill(&self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // It fails only when there is nobody left to kill.
        let _ = pid.map(|pid| kill_process_group(pid, Signal::KILL));
    }

    /// Collects output until the child ends; `Err` says why it was killed.
    pub(super) fn wait(
        mut self,
        bounds: &Bounds,
        cancelled: Option<&OwnedFd>,
    ) -> Result<Done, String> {
        let deadline = Instant::now() + bounds.time;
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or("it has no process id")?;
        let ended = pidfd_open(pid, PidfdFlags::empty())
            .map_err(|error| format!("cannot watch it: {error}"))?;
        let mut outputs = [
            Output::new(
                self.child.stdout.take().map(Into::into),
                bounds.output_bytes,
            ),
            Output::new(
                self.child.stderr.take().map(Into::into),
                bounds.output_bytes,
            ),
        ];
        loop {
            let left = deadline
                .checked_duration_since(Instant::now())
                .ok_or_else(|| {
                    format!(
                        "it took longer than {} s and was stopped",
                        bounds.time.as_secs()
                    )
                })?;
            let left = Timespec {
                tv_sec: left.as_secs().cast_signed(),
                tv_nsec: left.subsec_nanos().into(),
            };
            let (exited, abandoned, ready) = {
                let mut watched = vec![PollFd::new(&ended, PollFlags::IN)];
                if let Some(cancelled) = cancelled {
                    watched.push(PollFd::new(cancelled, PollFlags::IN));
                }
                let first_output = watched.len();
                for pipe in outputs.iter().filter_map(|output| output.pipe.as_ref()) {
                    watched.push(PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN));
                }
                match poll(&mut watched, Some(&left)) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(format!("cannot watch it: {error}")),
                }
                let happened: Vec<bool> =
                    watched.iter().map(|fd| !fd.revents().is_empty()).collect();
                let exited = happened.first().copied().unwrap_or(false);
                let abandoned = cancelled.is_some() && happened.get(1).copied().unwrap_or(false);
                (
                    exited,
                    abandoned,
                    happened.get(first_output..).unwrap_or_default().to_vec(),
                )
            };
            if abandoned {
                return Err("nobody waits for it any more".to_owned());
            }
            let mut ready = ready.into_iter();
            for output in outputs.iter_mut().filter(|output| output.pipe.is_some()) {
                if ready.next() == Some(true) {
                    output.read();
                }
            }
            if exited {
                break;
            }
        }
        // Nothing of its group may outlive it and hold the pipes open.
        self.kill();
        let status = self
            .child
            .wait()
            .map_err(|error| format!("cannot learn how it ended: {error}"))?;
        self.collected = true;
        for output in &mut outputs {
            while output.pipe.is_some() {
                output.read();
            }
        }
        let [stdout, stderr] = outputs.map(|output| output.kept);
        Ok(Done {
            status,
            stdout,
            stderr,
        })
    }
}

/// One output of the child.
struct Output {
    pipe: Option<File>,
    kept: Vec<u8>,
    limit: usize,
}

impl Output {
    fn new(pipe: Option<OwnedFd>, limit: usize) -> Self {
        Self {
            pipe: pipe.map(File::from),
            kept: Vec::new(),
            limit,
        }
    }

    /// Reads what is there; the pipe goes at its end.
    fn read(&mut self) {
        let mut buffer = [0; 8192];
        match self.pipe.as_mut().map(|pipe| pipe.read(&mut buffer)) {
            Some(Ok(length @ 1..)) => {
                let room = self.limit.saturating_sub(self.kept.len());
                self.kept.extend(buffer.iter().take(length.min(room)));
            }
            Some(Err(error)) if error.kind() == std::io::ErrorKind::Interrupted => {}
            _ => self.pipe = None,
        }
    }
}
