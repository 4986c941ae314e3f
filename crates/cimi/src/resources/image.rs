//! Image: what machines begin as.

use serde::{Deserialize, Serialize};

use super::{Announcement, Capture, ImageOrigin, OnDemand, Unknown, resource, weight::BYTES};
use crate::{Common, ImageId, Timestamp, VolumeId, size::ByteSize};

/// States of a MachineImage (DSP0263 §5.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ImageState {
    /// Being fetched and checked.
    Creating,
    /// Usable.
    Available,
    /// Being removed.
    Deleting,
    /// Could not be fetched; the reason says why.
    Error,
}

/// Format of an image's content once decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MediumFormat {
    /// Plain sectors.
    Raw,
    /// QEMU copy-on-write, standalone.
    Qcow2,
}

/// Where an image's content comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "from")]
pub enum ImageSource {
    /// The client sends it to the image's `data` resource.
    Upload,
    /// Fetched from an http or https URL.
    Url {
        /// The URL.
        url: String,
    },
    /// Looked up in the Marketplaces of the cloud by the expected identifier, and fetched from where its entry says.
    Marketplace,
    /// Looked up in a catalogue of the cloud.
    Catalogue {
        /// The catalogue's name.
        catalogue: String,
        /// The product's name, or an alias.
        product: String,
        /// One version; the newest if none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<String>,
    },
    /// Copied from a volume that no machine has.
    Volume {
        /// The volume.
        volume: VolumeId,
    },
    /// The root disk of a machine.
    Machine(Capture),
}

/// What the user wants of an image. Written by `cloud`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageDesired {
    /// Where the content comes from.
    pub source: ImageSource,
    /// What it must be; what is absent is not checked. `identifier` here is the expected one.
    #[serde(default)]
    pub expected: Digests,
    /// Counts the tries asked for.
    #[serde(default)]
    pub attempt: u64,
    /// Its removal was asked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    /// It came because somebody asked for it by a name; absent: somebody imported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_demand: Option<OnDemand>,
}

/// Checksums (lower-case hex) and size of the uncompressed content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Digests {
    /// The 27-character identifier that follows from the SHA-1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identifier: Option<String>,
    /// MD5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub md5: Option<String>,
    /// SHA-1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha1: Option<String>,
    /// SHA-256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// SHA-512.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha512: Option<String>,
    /// Size in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// What is in the cache. Written by the storage controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageFile {
    /// Absolute path on the storage host.
    pub path: String,
    /// Its format.
    pub format: MediumFormat,
    /// Size of the disk that a guest sees.
    pub virtual_size: ByteSize,
    /// What was computed while it streamed in, or later.
    pub digests: Digests,
    /// The same of the file itself, where that isn't what came: an image of another hypervisor was converted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Digests>,
}

impl ImageFile {
    /// Whether a checksum is known that nobody can make another content for. Of what was saved just now it is still computed.
    #[must_use]
    pub const fn is_proven(&self) -> bool {
        self.digests.sha256.is_some() || self.digests.sha512.is_some()
    }

    /// Length and checksums of the file.
    #[must_use]
    pub fn content(&self) -> &Digests {
        self.kept.as_ref().unwrap_or(&self.digests)
    }
}

/// An image (CIMI MachineImage; the content is named by [`Digests::identifier`]).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// Its id.
    pub id: ImageId,
    /// Name, times, access.
    #[serde(flatten)]
    pub common: Common,
    /// Its state.
    pub state: ImageState,
    /// Why it is in this state, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `IMAGE` (a machine can boot it) or, for kernels and initrds, `FILE`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What is wanted.
    pub desired: ImageDesired,
    /// Progress of the fetch, 0 to 100. Written by the storage controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<u8>,
    /// What is in the cache, once available. Written by the storage controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<ImageFile>,
    /// It can't come for want of space. Written by the storage controller.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needs_space: bool,
    /// How its description was found. Written by the storage controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<ImageOrigin>,
    /// Boot this kernel (an image of type `FILE`) instead of the disk's boot loader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<ImageId>,
    /// The initrd that goes with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<ImageId>,
    /// The kernel's command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_arguments: Option<String>,
    /// Who was told of it, if it was saved for somebody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announced: Option<Announcement>,
    /// What of a saved disk could not be cleaned of its builder's traces, and why; for people. Written by the storage controller
    /// before the content is there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uncleaned: Vec<String>,
    /// Others of its owner's that turned out to be the same, by which it can be found, too. Written by the storage controller.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stands_for: Vec<ImageId>,
    /// Since when its owner uses it as it is, if that is not since its creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_since: Option<Timestamp>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(
    Image,
    "MachineImage",
    |image, add| {
        if let Some(capture) = image.capture() {
            add("machine", capture.machine.local());
        }
        if let Some(identifier) = image.identifier() {
            add("identifier", identifier);
        }
        if image.desired.on_demand.is_some() {
            add("onDemand", "yes");
        }
        for other in &image.stands_for {
            add("standsFor", other.local());
        }
    },
    |image, add| {
        add(BYTES, image.bytes().unwrap_or(0));
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

impl Image {
    /// What [warnings](Self::warning) begin with.
    pub const WARNING: &str = "it may hold keys and histories of who made it";

    /// What its users are to know of an image that was saved, if all its builder left could not be removed.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        (!self.uncleaned.is_empty()).then(|| {
            let what = self.uncleaned.join("; ");
            format!("{}: {what}", Self::WARNING)
        })
    }

    /// How large the disk is that it is: of the cached content, else as it was told beforehand.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        let cached = self.file.as_ref().map(|file| file.virtual_size.0);
        let told = || Some(self.capture()?.disk_bytes?.0);
        cached.or_else(told).or(self.desired.expected.bytes)
    }

    /// Whose disk it is made of, if it is one's.
    #[must_use]
    pub const fn capture(&self) -> Option<&Capture> {
        match &self.desired.source {
            ImageSource::Machine(capture) => Some(capture),
            _ => None,
        }
    }

    /// Whether its content is still to come.
    #[must_use]
    pub fn is_on_its_way(&self) -> bool {
        self.state == ImageState::Creating && !self.desired.deleted
    }

    /// The 27-character identifier: of the cached content, else the expected one.
    #[must_use]
    pub fn identifier(&self) -> Option<&str> {
        self.file
            .as_ref()
            .and_then(|file| file.digests.identifier.as_deref())
            .or(self.desired.expected.identifier.as_deref())
    }
}
