//! Root disks that aren't on the computer with the storage: of machines on hosts that have joined.

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::pin::Pin;

use bytes::Bytes;
use cimi::{HostId, MachineId};
use futures::Stream;
use futures::future::BoxFuture;

use crate::error::is_loss;

/// A disk as its host gives it, which may be anything.
pub struct GivenDisk {
    /// The name of the host, for people.
    pub host: String,
    /// Bytes of the file, as the host says.
    pub length: u64,
    /// What it gives of it, from the beginning. An error that holds [`NoDisk::Unreadable`] says that the host can't read on.
    pub content: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>,
}

/// Why a disk isn't given: a sentence.
#[derive(Debug, thiserror::Error)]
pub enum NoDisk {
    /// The host can't be asked, or doesn't know yet that it is to give it, or can't read it for now.
    #[error("{0}")]
    NotNow(String),
    /// It has the disk, and can't read it: that rarely mends itself.
    #[error("{0}")]
    Unreadable(String),
}

impl NoDisk {
    /// On the host itself: its `file` can't be opened or read, with this error. Blocks.
    #[must_use]
    pub fn of(error: &io::Error, file: &Path) -> Self {
        let why = format!("{}: {error}", file.display());
        match is_loss(error, file) {
            true => Self::Unreadable(why),
            false => Self::NotNow(why),
        }
    }
}

/// How hosts that have joined are asked for the disks of their machines.
pub trait DisksElsewhere: Debug + Send + Sync {
    /// The file of the root disk of a machine that is off, from the host that it is on: a qcow2 overlay on the machine's image.
    /// Answered within seconds.
    fn disk<'a>(
        &'a self,
        host: &'a HostId,
        machine: &'a MachineId,
    ) -> BoxFuture<'a, Result<GivenDisk, NoDisk>>;
}
