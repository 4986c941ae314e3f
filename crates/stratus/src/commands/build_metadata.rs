//! `stratus build-metadata`: the description of an image, ready to be signed.

use std::path::{Path, PathBuf};

use marketplace::digest::Digest;
use marketplace::{Metadata, UtcTime};

use crate::commands::run_instance::check_version;
use crate::described_image::{Checksum, Contents, Wanted, contents};
use crate::failure::{Failure, Result};
use crate::new_file::NewFile;
use crate::options::Common;
use crate::output::Output;
use crate::packing::{DISK_FORMATS, Packing};
use crate::progress::byte_bar;

/// How long a description is valid, in days: what StratusLab's client says.
const VALID_DAYS: u32 = 178;
/// The publisher of every description.
const PUBLISHER: &str = "StratusLab";
/// The operating system of data.
const NO_SYSTEM: &str = "none";
/// Buses for disks.
const BUSES: [&str; 3] = ["ide", "scsi", "virtio"];

/// Describe an image for a Marketplace
///
/// Reads the image, computes its size and checksums, and writes OS-OSVERSION-OSARCH-TYPE-VERSION.xml in the current folder: a draft, to be edited
/// if need be, then signed (sign-metadata) and published (upload-metadata). Size and checksums are those of the uncompressed image.
/// A draft of this name is replaced, a signed description only with --force. --os and --image-version are needed, --os-version and
/// --os-arch too unless --os is none.
///
/// Says the name of the file (not with -q). --format is that of the image here; the result's is --output-format.
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
    /// Disk format: raw or qcow2; vmdk, vdi and vpc for clouds that convert them [default: by its contents]
    #[arg(long = "format", id = "image_format", value_name = "FORMAT")]
    image_format: Option<String>,
    /// Hypervisor
    #[arg(long, value_name = "NAME", default_value = "kvm")]
    hypervisor: String,
    /// Where the image can be fetched: http, https, ftp, or pdisk:HOST:PORT:UUID; may be repeated
    #[arg(long, value_name = "URI")]
    location: Vec<String>,
    /// How the file is compressed: gz, bz2, xz, zstd or none [default: by its contents]
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
    /// Replace a signed description of the same name
    #[arg(long)]
    force: bool,
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
        if let Some(format) = self.image_format.as_deref().filter(|format| !DISK_FORMATS.contains(format)) {
            return Err(Failure::Usage(format!("Unknown format {format}. Known formats: {}", DISK_FORMATS.join(", "))));
        }
        self.location.iter().try_for_each(|location| check_location(location))?;
        self.check_said()?;
        let file = self.file_name()?;
        let wanted = self.wanted()?;
        let compression = self.compression(&image)?;
        if !self.force {
            check_replaceable(&file)?;
        }
        if self.location.is_empty() {
            out.warning("Image location is not given (--location): add one before the description is published");
        }
        let length = std::fs::metadata(&image).map_err(|error| Failure::file(&image, &error))?.len();
        let bar = byte_bar(&out, "Reading", length);
        let contents = {
            let bar = bar.clone();
            tokio::task::spawn_blocking(move || contents(&image, compression, &wanted, &bar))
                .await
                .map_err(|error| Failure::Work(format!("reading the image broke off: {error}")))??
        };
        bar.finish_and_clear();
        let bytes = contents.bytes;
        self.warn(&out, contents.format, compression);

        let metadata = self.description(contents, compression);
        let text = metadata.to_draft().map_err(|error| Failure::Usage(error.to_string()))?;
        NewFile::at(&file, true)?.write(&text)?;
        out.info(format_args!("Manifest: {}", file.display()));
        if out.is_json() {
            return out.json(&serde_json::json!({ "file": file, "identifier": metadata.identifier, "bytes": bytes }));
        }
        Ok(())
    }

    /// What nobody could find the image by must be said.
    fn check_said(&self) -> Result {
        let is_data = self.os == NO_SYSTEM;
        let needed = [
            ("--os NAME (such as ubuntu; none for data)", &self.os, true),
            ("--os-version VERSION (of the system, such as 24.04)", &self.os_version, !is_data),
            ("--os-arch ARCH (such as x86_64)", &self.os_arch, !is_data),
            ("--image-version VERSION (of this image, such as 1.0)", &self.image_version, true),
        ];
        let missing: Vec<&str> = needed.into_iter().filter(|(_, said, needed)| *needed && said.trim().is_empty()).map(|(option, ..)| option).collect();
        if missing.is_empty() {
            return check_version(&self.image_version);
        }
        Err(Failure::Usage(format!("please say what the image is: {}", missing.join(", "))))
    }

    fn file_name(&self) -> Result<PathBuf> {
        // Data has no system, and mostly nothing else of one.
        let system = if self.os == NO_SYSTEM { "data" } else { &self.os };
        let parts = [system, &self.os_version, &self.os_arch, &self.image_type, &self.image_version];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let name = format!("{}.xml", parts.join("-"));
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

    /// As it was said, or by the first bytes; a file that is named as if it were compressed and isn't is none to describe.
    fn compression(&self, image: &Path) -> Result<Option<Packing>> {
        let said = self.compression.as_deref().map(|text| text.trim_start_matches('.'));
        match said {
            Some("" | "none") => return Ok(None),
            Some(text) => {
                let unknown = || Failure::Usage(format!("Unknown compression {text}. Known compressions: gz, bz2, xz, zstd, none"));
                return Packing::named(text).map(Some).ok_or_else(unknown);
            }
            None => {}
        }
        let found = Packing::of_file(image).map_err(|error| Failure::file(image, &error))?;
        let suffix = image.extension().and_then(|suffix| suffix.to_str()).unwrap_or_default();
        match Packing::named(suffix) {
            Some(_) if found.is_none() => Err(Failure::Work(format!(
                "'{}' is not compressed as its name says; if it is meant as it is: --compression none",
                image.display()
            ))),
            _ => Ok(found),
        }
    }

    /// Tells what may surprise somewhere else.
    fn warn(&self, out: &Output, found: &str, compression: Option<Packing>) {
        let format = self.image_format.as_deref().unwrap_or(found);
        // The end of a fixed vhd tells what it is, not its beginning.
        let is_plausible = match format {
            "vhd" | "vpc" => ["vpc", "raw"].contains(&found),
            _ => format == found,
        };
        if !is_plausible {
            out.warning(format_args!("The image is said to be {format} (--format), but begins like {found}: clouds will refuse it"));
        }
        if !["raw", "qcow2"].contains(&format) {
            out.warning(format_args!("Clouds of StratusLab start raw and qcow2 images only; those of Stratus convert {format}"));
        }
        if let Some(packing) = compression.filter(|packing| !packing.is_stratuslabs()) {
            out.warning(format_args!("Clouds of StratusLab open gz and bz2 only; those of Stratus open {} too", packing.name()));
        }
    }

    fn description(&self, contents: Contents, compression: Option<Packing>) -> Metadata {
        let metadata = Metadata::new(contents.checksums, contents.bytes, self.image_type.clone());
        let now = UtcTime::from_timestamp(jiff::Timestamp::now());
        let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        Metadata {
            kind: some(&self.kind),
            os: some(&self.os),
            os_version: some(&self.os_version),
            os_arch: some(&self.os_arch),
            version: some(&self.image_version),
            compression: compression.map(|packing| packing.name().to_owned()),
            locations: self.location.clone(),
            format: Some(self.image_format.clone().unwrap_or_else(|| contents.format.to_owned())),
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

/// A location that somebody can fetch from.
fn check_location(location: &str) -> Result {
    let refused = |why: &str| Err(Failure::Usage(format!("'{location}' is no location of an image: {why}")));
    if let Some(disk) = location.strip_prefix("pdisk:") {
        let uuid = disk.rsplit([':', '/']).next().unwrap_or_default();
        if disk.len() == uuid.len() || uuid::Uuid::try_parse(uuid).is_err() {
            return refused("of disks they have the form pdisk:HOST:PORT:UUID");
        }
        return Ok(());
    }
    match reqwest::Url::parse(location) {
        Ok(url) if ["http", "https", "ftp"].contains(&url.scheme()) && url.has_host() => Ok(()),
        Ok(url) => refused(&format!("images are fetched by http, https and ftp, not by {}", url.scheme())),
        Err(error) => refused(&format!("it is no URL ({error})")),
    }
}

/// What is there may be replaced if it is nothing, or a draft.
fn check_replaceable(file: &Path) -> Result {
    let text = match std::fs::read(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failure::file(file, &error)),
        Ok(text) => text,
    };
    let what = match Metadata::parse(&text) {
        Ok(metadata) if metadata.endorsement.is_none() => return Ok(()),
        Ok(_) => "a signed description",
        Err(_) => "something else than a draft",
    };
    Err(Failure::Check(format!("'{}' is {what} and stays; --force replaces it", file.display())))
}
