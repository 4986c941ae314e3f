//! Where persistent volumes live.
//!
//! A [`Backend`] makes, grows, copies and removes volumes, and says where a machine finds one. It knows nothing of users,
//! quotas or machines. Every call may be repeated after a crash: making what is there and removing what is gone succeed.

mod file;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::file::FileBackend;
use crate::error::Error;
use crate::inspect::Format;
use crate::space::Space;

/// The name of a volume on its back-end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VolumeId(pub Uuid);

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for VolumeId {
    type Err = Error;

    /// Reads the lower-case form with hyphens and no other, so that a volume has one name only.
    fn from_str(text: &str) -> Result<Self, Error> {
        match Uuid::try_parse(text) {
            Ok(uuid) if uuid.hyphenated().to_string() == text => Ok(Self(uuid)),
            _ => Err(Error::Invalid {
                what: "volume identifier",
                value: text.chars().take(60).collect(),
                reason: "it must be a lower-case UUID with hyphens".to_owned(),
            }),
        }
    }
}

/// Where a machine finds a volume. Other kinds follow with the back-ends that have them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Location {
    /// A file or block device of this host.
    Local {
        /// Absolute path.
        path: PathBuf,
        /// What is in it.
        format: Format,
    },
}

/// What a volume takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct VolumeStat {
    /// Bytes the guest sees.
    pub virtual_bytes: u64,
    /// Bytes it occupies.
    pub allocated_bytes: u64,
}

/// A technology that keeps volumes: files here; LVM and Ceph elsewhere.
#[async_trait]
pub trait Backend: Send + Sync + fmt::Debug {
    /// Its name in configuration and messages.
    fn name(&self) -> &'static str;

    /// Makes an empty volume that reads as zeroes. One of the same name and size is taken as made.
    ///
    /// # Errors
    /// [`Error::Exists`] if it exists with another size, [`Error::Invalid`] unless `bytes` is a positive multiple of
    /// 512, [`Error::NoSpace`], [`Error::Io`].
    async fn create(&self, volume: VolumeId, bytes: u64) -> Result<(), Error>;

    /// Removes a volume and its contents. That it is missing is fine.
    ///
    /// # Errors
    /// [`Error::Io`].
    async fn delete(&self, volume: VolumeId) -> Result<(), Error>;

    /// Grows a volume; what is added reads as zeroes. A running machine is told separately (QMP `block_resize`).
    ///
    /// # Errors
    /// [`Error::Invalid`] for a smaller size, [`Error::NotFound`], [`Error::NoSpace`], [`Error::Io`].
    async fn resize(&self, volume: VolumeId, bytes: u64) -> Result<(), Error>;

    /// Makes `target` an independent copy of `origin` as it is now. The origin must not be written meanwhile. A
    /// `target` that exists is taken as made.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NoSpace`], [`Error::Io`], [`Error::Unsupported`].
    async fn copy(&self, origin: VolumeId, target: VolumeId) -> Result<(), Error> {
        let _ = (origin, target);
        Err(Error::Unsupported {
            backend: self.name(),
            action: "copy volumes",
        })
    }

    /// Makes `snapshot`, which keeps showing `origin` as it is now, in constant time.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Unsupported`] where the technology has none.
    async fn snapshot(&self, origin: VolumeId, snapshot: VolumeId) -> Result<(), Error> {
        let _ = (origin, snapshot);
        Err(Error::Unsupported {
            backend: self.name(),
            action: "make snapshots",
        })
    }

    /// Size and use of a volume.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`].
    async fn stat(&self, volume: VolumeId) -> Result<VolumeStat, Error>;

    /// Where a machine on this host finds the volume. Does not look whether it exists.
    fn location(&self, volume: VolumeId) -> Location;

    /// All volumes there are, whether anybody knows of them or not.
    ///
    /// # Errors
    /// [`Error::Io`].
    async fn list(&self) -> Result<Vec<VolumeId>, Error>;

    /// Size and free space of what the volumes lie on.
    ///
    /// # Errors
    /// [`Error::Io`].
    async fn space(&self) -> Result<Space, Error>;
}
