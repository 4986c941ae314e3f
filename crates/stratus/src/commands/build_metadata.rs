//! `stratus build-metadata`: the description of an image, ready to be signed.

use std::path::{Path, PathBuf};

use marketplace::digest::Digest;
use marketplace::{Metadata, UtcTime};

use crate::described_image::{Checksum, Wanted, contents};
use crate::failure::{Failure, Result};
use crate::options::Common;
use crate::progress::byte_bar;

/// How long a description is valid, in days: what StratusLab's client says.
const VALID_DAYS: u32 = 178;
/// The publisher of every description.
const PUBLISHER: &str = "StratusLab";
/// Buses for disks.
const BUSES: [&str; 3] = ["ide", "scsi", "virtio"];

/// Describe an image for a Marketplace
///
/// Reads the image, computes its size and checksums, and writes OS-OSVERSION-OSARCH-TYPE-VERSION.xml in the current folder: a draft, to be edited
/// if need be, then signed (sign-metadata) and published (upload-metadata). Size and checksums are those of the uncompressed image.
///
/// Prints nothing; -v: the name of the file. --format is that of the image here; the result's is --output-format.
/// JSON: {"file", "identifier", "bytes"}.
#[derive(Debug, clap::Args)]
#[command(mut_arg("format", |format| format.long("output-format")), after_help = "Example:
  stratus build-metadata --os ubuntu --os-version 24.04 --os-arch x86_64 --image-version 1.0 --author 'Jane Doe' \\
      --format qcow2 --disks-bus virtio --comment 'Ubuntu with our tools' --location https://images.example.org/ubuntu.qcow2.gz ubuntu.qcow2.gz")]
pub struct Arguments {
    /// The image
    #[arg(value_name = "image")]
    image: Option<PathBuf>,
    /// Author
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    author: String,
    /// Flavour: base or grid
    #[arg(long = "type", value_name = "TYPE", default_value = "base")]
    image_type: String,
    /// machine or disk
    #[arg(long, value_name = "KIND", default_value = "machine")]
    kind: String,
    /// Operating system, 'none' for data
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    os: String,
    /// Its version
    #[arg(long, value_name = "VERSION", default_value = "", hide_default_value = true)]
    os_version: String,
    /// Its architecture, such as x86_64
    #[arg(long, value_name = "ARCH", default_value = "", hide_default_value = true)]
    os_arch: String,
    /// Version of the image
    #[arg(long, value_name = "VERSION", default_value = "", hide_default_value = true)]
    image_version: String,
    /// Disk format: raw or qcow2
    #[arg(long = "format", id = "image_format", value_name = "FORMAT", default_value = "raw")]
    image_format: String,
    /// Hypervisor
    #[arg(long, value_name = "NAME", default_value = "kvm")]
    hypervisor: String,
    /// Where the image can be fetched; may be repeated
    #[arg(long, value_name = "URI")]
    location: Vec<String>,
    /// How the file is compressed: gz, bz2, none [default: by its suffix]
    #[arg(long, value_name = "EXT")]
    compression: Option<String>,
    /// Short name
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    title: String,
    /// Tag, by which the newest of your images is found
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    tag: String,
    /// Description
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    comment: String,
    /// Bus for its disks: ide, scsi, virtio
    #[arg(long, value_name = "BUS", default_value = "ide")]
    disks_bus: String,
    /// MD5, if it is known
    #[arg(long, value_name = "HEX", help_heading = "Checksums (computed if not given)")]
    md5: Option<String>,
    /// SHA-1, if it is known
    #[arg(long, value_name = "HEX", help_heading = "Checksums (computed if not given)")]
    sha1: Option<String>,
    /// SHA-256, if it is known
    #[arg(long, value_name = "HEX", help_heading = "Checksums (computed if not given)")]
    sha256: Option<String>,
    /// SHA-512, if it is known
    #[arg(long, value_name = "HEX", help_heading = "Checksums (computed if not given)")]
    sha512: Option<String>,
    /// Leave MD5 out
    #[arg(long, help_heading = "Checksums (computed if not given)")]
    no_md5: bool,
    /// Leave SHA-256 out
    #[arg(long, help_heading = "Checksums (computed if not given)")]
    no_sha256: bool,
    /// Leave SHA-512 out
    #[arg(long, help_heading = "Checksums (computed if not given)")]
    no_sha512: bool,
    #[command(flatten)]
    common: Common,
}

impl Arguments {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) async fn run(self) -> Result {
        let out = crate::session::output(&self.common);
        let image = self.image.clone().ok_or_else(|| Failure::Usage("Please specify an image".to_owned()))?;
        if !image.is_file() {
            return Err(Failure::Usage(format!("Image does not exist: {}", image.display())));
        }
        if !BUSES.contains(&self.disks_bus.as_str()) {
            return Err(Failure::Usage(format!("Unknown disks bus type {}. Available types: {}", self.disks_bus, BUSES.join(", "))));
        }
        let file = self.file_name()?;
        let wanted = self.wanted()?;
        if self.location.is_empty() {
            out.warning("Image location is not given (--location): add one before the description is published");
        }
        let compression = self.compression(&image);
        let length = std::fs::metadata(&image).map_err(|error| Failure::file(&image, &error))?.len();
        let bar = byte_bar(&out, "Reading", length);
        let (bytes, checksums) = {
            let (compression, bar) = (compression.clone(), bar.clone());
            tokio::task::spawn_blocking(move || contents(&image, compression.as_deref(), &wanted, &bar))
                .await
                .map_err(|error| Failure::Work(format!("reading the image broke off: {error}")))??
        };
        bar.finish_and_clear();

        let metadata = self.description(Metadata::new(checksums, bytes, self.image_type.clone()), compression);
        let text = metadata.to_draft().map_err(|error| Failure::Usage(error.to_string()))?;
        std::fs::write(&file, text).map_err(|error| Failure::file(&file, &error))?;
        out.detail(format_args!("Manifest: {}", file.display()));
        if out.is_json() {
            return out.json(&serde_json::json!({ "file": file, "identifier": metadata.identifier, "bytes": bytes }));
        }
        Ok(())
    }

    fn file_name(&self) -> Result<PathBuf> {
        let name = format!("{}-{}-{}-{}-{}.xml", self.os, self.os_version, self.os_arch, self.image_type, self.image_version);
        if name.contains(['/', '\\', '\0']) {
            return Err(Failure::Usage(format!("'{name}' can't be the name of a file: operating system, versions, architecture and type must have no slash")));
        }
        Ok(PathBuf::from(name))
    }

    fn wanted(&self) -> Result<Wanted> {
        fn parsed<const N: usize>(text: &str) -> Result<Digest<N>> {
            text.parse().map_err(|error: marketplace::digest::InvalidDigest| Failure::Usage(error.to_string()))
        }
        fn checksum<const N: usize>(given: Option<&str>, is_unwanted: bool) -> Result<Checksum<N>> {
            match given {
                _ if is_unwanted => Ok(Checksum::Unwanted),
                Some(text) => parsed(text).map(Checksum::Known),
                None => Ok(Checksum::Computed),
            }
        }
        Ok(Wanted {
            md5: checksum(self.md5.as_deref(), self.no_md5)?,
            sha1: self.sha1.as_deref().map(parsed).transpose()?,
            sha256: checksum(self.sha256.as_deref(), self.no_sha256)?,
            sha512: checksum(self.sha512.as_deref(), self.no_sha512)?,
        })
    }

    /// As it was said, or by the suffix.
    fn compression(&self, image: &Path) -> Option<String> {
        let suffix = image.extension().and_then(|suffix| suffix.to_str()).filter(|suffix| ["gz", "bz2"].contains(suffix));
        self.compression
            .as_deref()
            .or(suffix)
            .map(|text| text.trim_start_matches('.').to_owned())
            .filter(|text| !text.is_empty() && text != "none")
    }

    fn description(&self, metadata: Metadata, compression: Option<String>) -> Metadata {
        let now = UtcTime::from_timestamp(jiff::Timestamp::now());
        let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        Metadata {
            kind: some(&self.kind),
            os: some(&self.os),
            os_version: some(&self.os_version),
            os_arch: some(&self.os_arch),
            version: some(&self.image_version),
            compression,
            locations: self.location.clone(),
            format: some(&self.image_format),
            creator: some(&self.author),
            publisher: Some(PUBLISHER.to_owned()),
            created: Some(now.to_string()),
            valid: Some(now.plus_days(VALID_DAYS)),
            title: some(&self.title),
            tag: some(&self.tag),
            description: some(&self.comment),
            hypervisor: some(&self.hypervisor),
            disks_buses: vec![self.disks_bus.clone()],
            ..metadata
        }
    }
}
