//! A disk of a machine: its name, its images, what the guest sees of it.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::HypervisorError;

/// virtio-blk shows the guest this many bytes of a serial, QEMU cuts the rest.
pub const SERIAL_BYTES: usize = 20;
/// An overlay may stand on this many images; descriptors are numbered by it.
pub const MAX_CHAIN: usize = 16;

/// Names a disk for its whole life on a machine: letters, digits, `.`, `_`, `-`; 64 at most, first a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DiskId(String);

impl DiskId {
    /// # Errors
    /// [`HypervisorError::InvalidSpec`] if the text could not be part of a QEMU device id.
    pub fn new(text: impl Into<String>) -> Result<Self, HypervisorError> {
        let text = text.into();
        let fits = text.len() <= 64
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if fits {
            Ok(Self(text))
        } else {
            Err(HypervisorError::invalid(
                "a disk identifier",
                text,
                "must be 1 to 64 letters, digits, '.', '_' or '-'",
            ))
        }
    }

    /// The identifier as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for DiskId {
    type Error = HypervisorError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(text)
    }
}

impl From<DiskId> for String {
    fn from(id: DiskId) -> Self {
        id.0
    }
}

/// How the bytes of a file are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// The disk's bytes as they are.
    Raw,
    /// QEMU copy-on-write version 2 or 3.
    Qcow2,
}

impl DiskFormat {
    /// The name of QEMU's block driver.
    #[must_use]
    pub fn driver(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// What kind of thing an image's path names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageStorage {
    /// An ordinary file.
    #[default]
    File,
    /// A block device (logical volume).
    BlockDevice,
    /// A socket in the machine's folder of these ([`RunFolder::volumes`](crate::hypervisor::RunFolder::volumes)), at which the
    /// image is spoken of in NBD. QEMU connects by itself, and again when the connection ends.
    Socket,
    /// An iSCSI target, to which QEMU connects by itself, and again when the connection ends. Its secret is in a file in the same
    /// folder.
    Iscsi(IscsiTarget),
}

/// A target of iSCSI, at LUN 1, by TCP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IscsiTarget {
    /// Where it is.
    pub portal: SocketAddr,
    /// Its name.
    pub target: String,
    /// Who logs in.
    pub initiator: String,
    /// And as whom, by CHAP.
    pub user: String,
}

/// One file of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFile {
    /// Absolute path; opened by this process, so QEMU needs no right on it. Of a socket: its name. Of a target: the name of the file
    /// with its secret.
    pub path: PathBuf,
    /// Stated, never probed: a guest could write another format's header.
    pub format: DiskFormat,
    /// File or block device.
    pub storage: ImageStorage,
}

impl ImageFile {
    /// An image in an ordinary file.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>, format: DiskFormat) -> Self {
        Self {
            path: path.into(),
            format,
            storage: ImageStorage::File,
        }
    }

    /// A whole disk behind a socket of this name.
    #[must_use]
    pub fn socket(name: impl Into<PathBuf>) -> Self {
        Self {
            path: name.into(),
            format: DiskFormat::Raw,
            storage: ImageStorage::Socket,
        }
    }

    /// A whole disk at a target, with its secret in the file of this name.
    #[must_use]
    pub fn iscsi(target: IscsiTarget, secret: impl Into<PathBuf>) -> Self {
        Self {
            path: secret.into(),
            format: DiskFormat::Raw,
            storage: ImageStorage::Iscsi(target),
        }
    }

    /// Whether we open it, and QEMU is handed the descriptor.
    #[must_use]
    pub fn is_opened(&self) -> bool {
        match self.storage {
            ImageStorage::File | ImageStorage::BlockDevice => true,
            ImageStorage::Socket | ImageStorage::Iscsi(_) => false,
        }
    }
}

/// A disk of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpec {
    /// Name for attach, detach and events.
    pub id: DiskId,
    /// The top image, which the guest writes to.
    pub image: ImageFile,
    /// Images below it, nearest first; opened read-only. Headers of the images are not followed.
    pub backing: Vec<ImageFile>,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// What the guest sees as the serial, [`SERIAL_BYTES`] at most.
    pub serial: String,
    /// Place in the guest's order, for disks present at start. Ignored by a later attach, which takes any free port.
    pub slot: u8,
}

impl DiskSpec {
    /// Refuses what QEMU would refuse or cut.
    ///
    /// # Errors
    /// [`HypervisorError::InvalidSpec`].
    pub fn check(&self) -> Result<(), HypervisorError> {
        if self.serial.len() > SERIAL_BYTES || !self.serial.chars().all(|c| c.is_ascii_graphic()) {
            return Err(HypervisorError::invalid(
                "a disk's serial",
                &self.serial,
                format!("must be at most {SERIAL_BYTES} printable ASCII characters"),
            ));
        }
        if self.backing.len() >= MAX_CHAIN {
            return Err(HypervisorError::invalid(
                "a disk's chain",
                self.id.to_string(),
                format!("must have at most {MAX_CHAIN} images"),
            ));
        }
        for image in self.images() {
            if !image.is_opened() {
                let is_name = image.path.file_name() == Some(image.path.as_os_str());
                if !is_name || image.path.to_str().is_none() || !self.backing.is_empty() {
                    return Err(HypervisorError::invalid(
                        "a disk's socket or secret",
                        image.path.to_string_lossy(),
                        "must be a name, and stand on nothing",
                    ));
                }
            } else if !image.path.is_absolute() {
                return Err(HypervisorError::invalid(
                    "a disk's path",
                    image.path.to_string_lossy(),
                    "must be absolute",
                ));
            }
        }
        let covering = std::iter::once(&self.image)
            .chain(&self.backing)
            .take(self.backing.len());
        for image in covering {
            if image.format == DiskFormat::Raw {
                return Err(HypervisorError::invalid(
                    "a disk's chain",
                    image.path.to_string_lossy(),
                    "a raw image can't stand on another image",
                ));
            }
        }
        Ok(())
    }

    /// All images, top first.
    pub fn images(&self) -> impl Iterator<Item = &ImageFile> {
        std::iter::once(&self.image).chain(&self.backing)
    }
}
