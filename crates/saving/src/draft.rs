//! The description of a saved image, as far as the cloud knows it.

use cimi::resources::{Capture, Digests, Image, MediumFormat, Save};
use marketplace::{Checksums, Metadata, UtcTime};

/// Flavour of images that are made of machines.
const IMAGE_TYPE: &str = "machine";
const PUBLISHER: &str = "Stratus";
/// What an image is for whose origin doesn't say it: what machines here are.
const USUAL_ARCH: &str = "x86_64";
const USUAL_BUS: &str = "virtio";
/// The version of an image whose origin says none.
const FIRST_VERSION: &str = "1.0";

/// Properties of an image that go into descriptions, and from an image to those made of its machines.
pub const OS: &str = "os";
/// Version of the operating system.
pub const OS_VERSION: &str = "os-version";
/// Architecture it is for.
pub const OS_ARCH: &str = "os-arch";
/// Buses that its disks can be at, with commas between them.
pub const DISKS_BUS: &str = "disks-bus";
/// Version of the image.
pub const VERSION: &str = "version";

/// Why an image can't be described.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DraftError {
    /// Its content isn't known.
    #[error("{0} has no content yet")]
    NoContent(String),
    /// What the document says of it can't be.
    #[error("{0}")]
    Unwritable(String),
}

/// The description of a saved image: its content, what its author said, and what is known of its origin. Valid until
/// `valid`, to be fetched from `locations`.
///
/// # Errors
/// [`DraftError`].
pub fn draft(
    image: &Image,
    capture: &Capture,
    save: &Save,
    locations: Vec<String>,
    created: UtcTime,
    valid: UtcTime,
) -> Result<Metadata, DraftError> {
    let nothing = || DraftError::NoContent(image.id.to_string());
    let file = image.file.as_ref().ok_or_else(nothing)?;
    let bytes = file.digests.bytes.ok_or_else(nothing)?;
    let metadata = Metadata::new(checksums(&file.digests)?, bytes, IMAGE_TYPE);
    let property = |name: &str| image.common.properties.get(name).cloned();
    let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    Ok(Metadata {
        kind: Some("machine".to_owned()),
        os: property(OS),
        os_version: property(OS_VERSION),
        os_arch: property(OS_ARCH).or_else(|| Some(USUAL_ARCH.to_owned())),
        version: save
            .version
            .clone()
            .or_else(|| property(VERSION))
            .or_else(|| Some(FIRST_VERSION.to_owned())),
        locations,
        format: Some(
            match file.format {
                MediumFormat::Raw => "raw",
                MediumFormat::Qcow2 => "qcow2",
            }
            .to_owned(),
        ),
        creator: some(&save.author),
        publisher: Some(PUBLISHER.to_owned()),
        created: Some(created.to_string()),
        valid: Some(valid),
        title: some(&save.title),
        description: some(&save.comment),
        hypervisor: Some("kvm".to_owned()),
        disks_buses: property(DISKS_BUS)
            .as_deref()
            .unwrap_or(USUAL_BUS)
            .split(',')
            .map(str::to_owned)
            .collect(),
        is_version_of: capture.origin_identifier.clone(),
        ..metadata
    })
}

fn checksums(digests: &Digests) -> Result<Checksums, DraftError> {
    fn parsed<const N: usize>(
        text: Option<&String>,
    ) -> Result<Option<marketplace::digest::Digest<N>>, DraftError> {
        text.map(|text| text.parse()).transpose().map_err(
            |error: marketplace::digest::InvalidDigest| DraftError::Unwritable(error.to_string()),
        )
    }
    let sha1 = parsed(digests.sha1.as_ref())?;
    Ok(Checksums {
        md5: parsed(digests.md5.as_ref())?,
        sha1: sha1.ok_or_else(|| DraftError::NoContent("its SHA-1".to_owned()))?,
        sha256: parsed(digests.sha256.as_ref())?,
        sha512: parsed(digests.sha512.as_ref())?,
        others: Vec::new(),
    })
}
