//! Volume: storage that outlives machines.

use serde::{Deserialize, Serialize};

use super::{MediumFormat, Unknown, resource, weight::BYTES};
use crate::{Common, MachineId, Timestamp, VolumeId, ids::VolumeImageId, size::ByteSize};

/// One attachment of a volume to a machine, told from those before and after it: what a host may use, and no other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VolumeUse {
    /// Which volume.
    pub volume: VolumeId,
    /// Whose.
    pub machine: MachineId,
    /// [`AttachedVolume::taken`](super::AttachedVolume::taken).
    pub taken: Option<Timestamp>,
}

/// The type of all volumes: a block device (DSP0263 §5.23).
pub const MAPPED: &str = "http://schemas.dmtf.org/cimi/1/mapped";

/// States of a Volume (DSP0263 §5.23).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum VolumeState {
    /// Being made.
    Creating,
    /// Usable.
    Available,
    /// An image is being made of it; no machine can take it meanwhile.
    Capturing,
    /// Being removed.
    Deleting,
    /// Could not be made or removed; the reason says why.
    Error,
}

/// A volume (CIMI Volume, StratusLab persistent disk).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// Its id; the part after the slash is the disk UUID.
    pub id: VolumeId,
    /// Name (StratusLab: tag), times, access.
    #[serde(flatten)]
    pub common: Common,
    /// Its state.
    pub state: VolumeState,
    /// Why it is in this state, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Always `http://schemas.dmtf.org/cimi/1/mapped`: a block device.
    #[serde(rename = "type")]
    pub kind: String,
    /// Exact size.
    pub size_bytes: ByteSize,
    /// Whether a machine may boot from it.
    #[serde(default)]
    pub bootable: bool,
    /// The machine that has it; at most one may write it. Set by `cloud` in the transaction that
    /// asks for the attachment, removed by the host's controller in the one that reports it gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<Attachment>,
    /// Its removal was asked for. Written by `cloud`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    /// The image it was made from. Written by `cloud`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<VolumeImageId>,
    /// The image that its file stands on: the origin, or the last one that was made of it. Written by the storage
    /// controller; as long as it says so, that image's file is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<VolumeImageId>,
    /// The image that is being made of it. Written by `cloud`, removed by the storage controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture: Option<VolumeImageId>,
    /// Where it is. Written by the storage controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<VolumeLocation>,
    /// Since when it has this size and this owner, for accounting; none: since it was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_since: Option<Timestamp>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(
    Volume,
    "Volume",
    |volume, add| {
        if let Some(attachment) = &volume.attachment {
            add("machine", attachment.machine.local());
        }
        for image in [&volume.origin, &volume.base].into_iter().flatten() {
            add("image", image.local());
        }
    },
    |volume, add| {
        add(BYTES, volume.size_bytes.0);
    },
    {
        fn uses(&self) -> Vec<super::Use> {
            self.in_use()
        }

        fn use_anew(&mut self, before: &Self, now: Timestamp) {
            self.begin_anew(before, now);
        }
    }
);

/// Who has a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The machine.
    pub machine: MachineId,
    /// Since when.
    pub since: Timestamp,
}

/// How a host reaches a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "protocol")]
pub enum VolumeLocation {
    /// A file on this host.
    File {
        /// Absolute path.
        path: String,
        /// The files it stands on, nearest first; none: it is raw, else an overlay. The last one is raw.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        backing: Vec<String>,
    },
}

impl VolumeLocation {
    /// Its files and what is in them, top first: overlays, but for the last.
    pub fn files(&self) -> impl Iterator<Item = (&str, MediumFormat)> {
        let Self::File { path, backing } = self;
        let all = std::iter::once(path).chain(backing);
        all.enumerate().map(|(depth, path)| {
            let is_last = depth == backing.len();
            let format = if is_last {
                MediumFormat::Raw
            } else {
                MediumFormat::Qcow2
            };
            (path.as_str(), format)
        })
    }
}
