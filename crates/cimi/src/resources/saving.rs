//! A machine's root disk as the content of a new image: what is wanted of it, and what was told of it.

use serde::{Deserialize, Serialize};

use crate::{ImageId, MachineId, Timestamp, VmId, size::ByteSize};

/// How a machine is described when it is saved as a new image at its shutdown (`--save`, StratusLab `CREATE_IMAGE`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Save {
    /// Who made it: one line of at most 80 characters.
    pub author: String,
    /// Where the letter goes that tells of the new image.
    pub author_email: String,
    /// Title of the new entry, and name of the image.
    #[serde(default)]
    pub title: String,
    /// What is new about it.
    #[serde(default)]
    pub comment: String,
    /// Its version; none: that of the image it began as, the number behind the first dot raised by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The Marketplace that takes the temporary entry; none: the cloud's own choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marketplace: Option<String>,
}

/// The root disk of a machine that is off, as the source of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Capture {
    /// Whose disk.
    pub machine: MachineId,
    /// Its number.
    pub vmid: VmId,
    /// The image the machine began as.
    pub origin: ImageId,
    /// The identifier of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin_identifier: Option<String>,
    /// How large the disk is, which counts from the moment it is to be saved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<ByteSize>,
    /// The machine goes when it is saved, and its author is told; none: it was only captured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub save: Option<Save>,
}

/// What was done so that others learn of a saved image. Written by the controller of crate `saving`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Announcement {
    /// When it was done; while it is pending, when it was begun, which is the time of the entry.
    pub at: Timestamp,
    /// The Marketplace that has the temporary entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marketplace: Option<String>,
    /// Until when that entry is valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<Timestamp>,
    /// Why no Marketplace has it, or why its author could not be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// It is tried again; its author is told when that is over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
}
