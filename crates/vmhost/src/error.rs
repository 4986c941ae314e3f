//! What can go wrong below the controller, named for what the caller can do about it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::launch_spec::DiskId;
use crate::qmp::QmpError;

/// An error of the hypervisor layer.
#[derive(Debug, thiserror::Error)]
pub enum HypervisorError {
    /// The launch specification can't be carried out as it stands; nothing was started.
    #[error("{what} is not usable: {value:?}: {why}")]
    InvalidSpec {
        /// Which part of the specification.
        what: &'static str,
        /// The value refused.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// A hypervisor process of this machine is alive; adopt it instead.
    #[error("machine in {} already has a living process: adopt it instead of starting another", folder.display())]
    AlreadyRunning {
        /// The machine's run folder.
        folder: PathBuf,
    },
    /// QEMU could not use KVM, or aborted within its first second under it: try the other accelerator.
    #[error(
        "the accelerator failed at the start of the machine ({how}): {output}; use `tcg`, or repair KVM on this host"
    )]
    AcceleratorFailed {
        /// How the process ended.
        how: String,
        /// The end of what it wrote.
        output: String,
    },
    /// The process ended, or never answered, before the machine was ready.
    #[error("the hypervisor did not start ({how}): {output}")]
    StartFailed {
        /// How it failed.
        how: String,
        /// The end of what it wrote.
        output: String,
    },
    /// The process has ended; only the record is left.
    #[error("the machine's process has ended")]
    Ended,
    /// Every hot-plug port carries a disk.
    #[error("all {ports} disk ports of the machine are occupied: detach a disk first")]
    NoFreePort {
        /// How many ports the machine was started with.
        ports: u8,
    },
    /// The disk is attached, or being attached or detached.
    #[error("disk {disk} is already attached")]
    DiskAlreadyAttached {
        /// Which disk.
        disk: DiskId,
    },
    /// No such disk on this machine.
    #[error("disk {disk} is not attached")]
    UnknownDisk {
        /// Which disk.
        disk: DiskId,
    },
    /// Another process (or machine) has the disk open for writing.
    #[error("disk {disk} is in use elsewhere: {reason}")]
    DiskInUse {
        /// Which disk.
        disk: DiskId,
        /// QEMU's words.
        reason: String,
    },
    /// A disk could not be copied to its end.
    #[error("a disk could not be copied: {why}")]
    CopyFailed {
        /// QEMU's words.
        why: String,
    },
    /// The monitor refused a command or could not be reached.
    #[error(transparent)]
    Monitor(#[from] QmpError),
    /// The machine's process holds its lock but can't be found or identified.
    #[error("the machine in {} is alive but its process can't be identified: {why}", folder.display())]
    Unidentified {
        /// The machine's run folder.
        folder: PathBuf,
        /// What was tried.
        why: String,
    },
    /// Nothing was ever started in this folder.
    #[error("no machine was ever started in {}", folder.display())]
    NeverStarted {
        /// The machine's run folder.
        folder: PathBuf,
    },
    /// The launch record is there and can't be read, or is missing pieces. No process of its machine lives.
    #[error("launch record {} can't be read: {why}", path.display())]
    Record {
        /// The record's file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Something took longer than it may.
    #[error("{what} took longer than {limit:?}")]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// How long.
        limit: Duration,
    },
    /// The operating system refused.
    #[error("{what} {}: {source}", path.display())]
    System {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl HypervisorError {
    /// A `System` error; shaped for `map_err`.
    pub(crate) fn system(
        what: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::System { what, path, source }
    }

    /// An `InvalidSpec` error.
    pub(crate) fn invalid(
        what: &'static str,
        value: impl Into<String>,
        why: impl Into<String>,
    ) -> Self {
        Self::InvalidSpec {
            what,
            value: value.into(),
            why: why.into(),
        }
    }
}
