//! Taking over the process that an earlier life of this program started, or at least getting hold of it.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use uuid::Uuid;

use crate::cgroup::MachineCgroup;
use crate::error::HypervisorError;
use crate::hypervisor::{Adopted, ExitCause, Result, RunFolder};
use crate::machine::{KILL_LIMIT, QemuMachine};
use crate::process::{self, HeldProcess, ProcessIdentity};
use crate::qemu::{blocking, clean_up_failed, is_alive, remove_leftovers};
use crate::record::LaunchRecord;

/// How long a lock may be held by a process that isn't QEMU yet (between fork and exec) or is just ending.
const SETTLE_LIMIT: Duration = Duration::from_secs(2);

/// A process that is ours and can't be talked to: all that can be done is to end it. Dropping it leaves it running.
#[derive(Debug)]
pub struct LostProcess {
    folder: RunFolder,
    /// None if it can't be read.
    record: Option<LaunchRecord>,
    process: HeldProcess,
}

impl LostProcess {
    /// Process number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Ends it by force. When this returns, the process, its sockets and, if its record can be read, its cgroup are gone.
    ///
    /// # Errors
    /// `TimedOut` if it hangs in the kernel (dead storage).
    pub async fn end(self) -> Result<ExitCause> {
        self.process.kill();
        let how = tokio::time::timeout(KILL_LIMIT, self.process.ended())
            .await
            .map_err(|_| HypervisorError::TimedOut {
                what: "the end of a killed QEMU",
                limit: KILL_LIMIT,
            })?;
        match self.record {
            Some(record) => {
                clean_up_failed(self.folder, record, how.clone()).await;
            }
            None => {
                let folder = self.folder;
                blocking(move || {
                    crate::qemu::remove_sockets(&folder);
                    Ok(())
                })
                .await?;
            }
        }
        Ok(how)
    }
}

/// Whoever started the process may have been killed before it put it into its control group.
async fn enter_cgroup(record: &LaunchRecord, pid: u32) {
    let group = MachineCgroup {
        directories: record.cgroups.clone(),
    };
    let entered = blocking(move || {
        group
            .enter(pid)
            .map_err(HypervisorError::system("entering the cgroup", ""))
    });
    if let Err(error) = entered.await {
        tracing::warn!(vmid = record.vmid, %error, "the machine runs without its limits");
    }
}

/// What a run folder shows.
enum Found {
    Ended(LaunchRecord),
    Lives {
        record: Result<LaunchRecord>,
        identity: ProcessIdentity,
        pidfd: OwnedFd,
    },
}

/// See [`Hypervisor::adopt`](crate::Hypervisor::adopt).
pub(crate) async fn adopt(folder: RunFolder) -> Result<Adopted> {
    let place = folder.clone();
    let found = blocking(move || find(&place)).await?;
    let (record, identity, pidfd) = match found {
        Found::Ended(record) => return gone(folder, record).await,
        Found::Lives {
            record,
            identity,
            pidfd,
        } => (record, identity, pidfd),
    };
    let hold = |pidfd| {
        HeldProcess::new(identity.pid, pidfd).map_err(HypervisorError::system(
            "watching the process of",
            &folder.0,
        ))
    };
    let second = pidfd
        .try_clone()
        .map_err(HypervisorError::system("holding the process of", &folder.0))?;
    let (process, spare) = (hold(pidfd)?, hold(second)?);
    let mut record = match record {
        Ok(record) => record,
        Err(why) => {
            let process = LostProcess {
                folder,
                record: None,
                process,
            };
            return Ok(Adopted::Unreachable {
                process: Box::new(process),
                why,
            });
        }
    };
    record.process = Some(identity);
    enter_cgroup(&record, identity.pid).await;
    let lost = LostProcess {
        folder: folder.clone(),
        record: Some(record.clone()),
        process: spare,
    };
    let unreachable = |why| Adopted::Unreachable {
        process: Box::new(lost),
        why,
    };
    let connected = tokio::select! {
        connected = QemuMachine::connect(&folder, record.machine) => connected,
        how = process.ended() => {
            clean_up_failed(folder, record.clone(), how.clone()).await;
            return Ok(Adopted::Gone { record: Box::new(record), how });
        }
    };
    let (qmp, events) = match connected {
        Ok(connected) => connected,
        Err(why) => return Ok(unreachable(why.into())),
    };
    let machine = QemuMachine::connected(folder, record, process, qmp, events);
    Ok(match machine.reconcile_after_adoption().await {
        Ok(()) => Adopted::Running(machine),
        Err(why) => unreachable(why),
    })
}

/// Ends the process of a run folder by force, if there is one; whether there was. Whoever takes the folder in clears up after it.
pub(crate) fn kill(folder: &Path, still: impl FnOnce() -> bool) -> Result<bool> {
    let folder = RunFolder(folder.to_owned());
    match find(&folder) {
        Ok(Found::Lives { pidfd, .. }) if still() => {
            // It has ended if this fails.
            let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
            Ok(true)
        }
        Ok(_) | Err(HypervisorError::NeverStarted { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn gone(folder: RunFolder, mut record: LaunchRecord) -> Result<Adopted> {
    let how = record.ended.clone().unwrap_or(ExitCause::Unseen);
    record.ended = Some(how.clone());
    let ended = record.clone();
    blocking(move || {
        remove_leftovers(&folder, &ended);
        ended.write(&folder.record())
    })
    .await?;
    Ok(Adopted::Gone {
        record: Box::new(record),
        how,
    })
}

/// Reads the record and finds the process. Only a record that is not there means that there never was a process; whether
/// one lives is told by its lock, whatever the record is like.
fn find(folder: &RunFolder) -> Result<Found> {
    let record = LaunchRecord::read(&folder.record());
    let machine = match &record {
        Ok(record) => Some(record.machine),
        Err(_) => machine_of(folder),
    };
    // A process's own idea of its log has no symbolic links in it.
    let output = fs::canonicalize(folder.output()).unwrap_or_else(|_| folder.output());
    let deadline = Instant::now() + SETTLE_LIMIT;
    loop {
        if !is_alive(folder)? {
            return record.map(Found::Ended);
        }
        let recorded = record.as_ref().ok().and_then(|record| {
            let identity = record.process?;
            let pidfd = process::open_recorded(identity, record.machine)?;
            Some((identity, pidfd))
        });
        let found =
            recorded.or_else(|| machine.and_then(|machine| process::find(machine, &output)));
        if let Some((identity, pidfd)) = found {
            return Ok(Found::Lives {
                record,
                identity,
                pidfd,
            });
        }
        if Instant::now() > deadline {
            return Err(HypervisorError::Unidentified {
                folder: folder.0.clone(),
                why: format!(
                    "no process with `-uuid {}` writes to {}",
                    machine.map_or_else(|| "(unknown)".to_owned(), |machine| machine.to_string()),
                    output.display()
                ),
            });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Folders are named for their machines.
fn machine_of(folder: &RunFolder) -> Option<Uuid> {
    folder.0.file_name()?.to_str()?.parse().ok()
}
