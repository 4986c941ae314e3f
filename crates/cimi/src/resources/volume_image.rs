//! VolumeImage: what a volume was at one moment.

use serde::{Deserialize, Serialize};

use super::{ImageState, Unknown, resource, weight::BYTES};
use crate::{Common, Ref, Timestamp, VolumeId, ids::VolumeImageId, size::ByteSize};

/// What a volume was at one moment (DSP0263 §5.26): new volumes can be made from it. Never changes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeImage {
    /// Its id.
    pub id: VolumeImageId,
    /// Name, times, access.
    #[serde(flatten)]
    pub common: Common,
    /// Its state.
    pub state: ImageState,
    /// Why it is in this state, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The volume it was made of; it may be gone.
    pub volume: Ref<VolumeId>,
    /// Exact size of the volume at that moment.
    pub size_bytes: ByteSize,
    /// Whether a machine may boot from volumes made of it.
    #[serde(default)]
    pub bootable: bool,
    /// Its removal was asked for. Written by `cloud`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    /// Whose it was when it was deleted though others stand on it: there it goes on counting. Written by `cloud`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_for: Option<String>,
    /// The image that its file stands on. Written by the storage controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<VolumeImageId>,
    /// Its file and those it stands on, nearest first; absolute paths. Written by the storage controller.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// Since when its owner uses it as it is, if that is not since its creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_since: Option<Timestamp>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(
    VolumeImage,
    "VolumeImage",
    |image, add| {
        add("volume", image.volume.href.local());
        if let Some(base) = &image.base {
            add("base", base.local());
        }
    },
    |image, add| {
        add(BYTES, image.size_bytes.0);
    },
    {
        fn kept_for(&self) -> Option<&str> {
            self.kept_for.as_deref()
        }

        fn uses(&self) -> Vec<super::Use> {
            self.in_use()
        }

        fn use_anew(&mut self, before: &Self, now: Timestamp) {
            self.begin_anew(before, now);
        }
    }
);
