//! Looks at an image before any program opens it: which format it really has, and whether it is harmless.
//!
//! An image comes from a stranger. A disk format may name other files (a backing file, an external data file, the
//! extents of a VMDK) that QEMU would open with our rights, or promise a size nobody has. So the format is found here,
//! from the bytes, and only `raw` and standalone `qcow2` pass. Some others can be converted into the latter first. Nothing
//! here does I/O except [`whole_file`] and [`is_fixed_vhd`].

mod qcow2_header;
mod text;

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use self::qcow2_header::Qcow2Header;
use self::text::Text;
use crate::error::Error;
use crate::foreign::ForeignFormat;

/// As many first bytes as [`first_bytes`] wants to see (fewer only if the image is shorter).
pub const PREFIX_BYTES: usize = 64 * 1024;

/// The formats in which images are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The disk's bytes as they are.
    Raw,
    /// QEMU copy-on-write, version 2 or 3.
    Qcow2,
}

impl Format {
    /// The name QEMU and Marketplace entries use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Format {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "raw" | "img" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            _ => Err(Refusal::StatedFormat(text.chars().take(40).collect())),
        }
    }
}

/// Limits an image must keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeLimits {
    /// Largest disk the guest may see.
    pub max_virtual_bytes: u64,
    /// Largest disk for one byte of image; disks up to 1 GiB are not asked. An empty disk of 800 GiB has about 4,000.
    pub max_virtual_per_byte: u64,
}

impl Default for SizeLimits {
    fn default() -> Self {
        Self {
            max_virtual_bytes: 1 << 40,
            max_virtual_per_byte: 8192,
        }
    }
}

/// Why an image is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A format name we do not take.
    #[error("format `{0}` is not accepted; give raw or qcow2, or convert the image first")]
    StatedFormat(String),
    /// A disk format that must be converted.
    #[error(
        "it is a {0} image, which is not accepted here: convert it first (`qemu-img convert -O qcow2`)"
    )]
    Foreign(&'static str),
    /// What a Marketplace has instead of images.
    #[error(
        "it is a Marketplace's description of an image, not the image; name the image by its identifier, or by the address of an entry in a Marketplace that this cloud asks"
    )]
    Description,
    /// What a server has for people.
    #[error("it is a web page, not an image; give the address of the image itself")]
    Page,
    /// Stated one thing, is another.
    #[error("it was stated to be {stated}, but its contents are {found}")]
    NotAsStated {
        /// What the entry or the user says.
        stated: Format,
        /// What it is.
        found: &'static str,
    },
    /// No bytes at all.
    #[error("it is empty")]
    Empty,
    /// The file ends before what its header promises.
    #[error("it is cut off: {what} should end at byte {end}, the file has {length} bytes")]
    Truncated {
        /// Which part is missing.
        what: &'static str,
        /// Where it should end.
        end: u64,
        /// Where the file ends.
        length: u64,
    },
    /// It would make QEMU read another file.
    #[error("it has a backing file (`{0}`); flatten it first (`qemu-img convert -O qcow2`)")]
    BackingFile(String),
    /// Its data is in another file.
    #[error("its data is in an external file (`{0}`); convert it to a standalone qcow2 first")]
    ExternalData(String),
    /// It needs a key.
    #[error("it is encrypted (method {0}); give an unencrypted image")]
    Encrypted(u32),
    /// It was not closed, so its reference counts are unreliable.
    #[error(
        "it is marked dirty: it was not closed cleanly; repair it first (`qemu-img check -r all`)"
    )]
    Dirty,
    /// QEMU found damage in it.
    #[error("it is marked corrupt; repair it first (`qemu-img check -r all`)")]
    Corrupt,
    /// It carries snapshots that may hold somebody's memory and old data.
    #[error("it has {0} internal snapshots; give an image without (`qemu-img snapshot -d`)")]
    Snapshots(u32),
    /// Something we do not know.
    #[error(
        "it uses unknown features (incompatible bits {0:#x}); convert it first (`qemu-img convert -O qcow2`)"
    )]
    UnknownFeatures(u64),
    /// A header field that no writer produces.
    #[error("its header is not valid: {field} is {value}, {rule}")]
    Header {
        /// Field of the header.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What it should be.
        rule: &'static str,
    },
    /// The guest's disk would be too large.
    #[error("its virtual size is {virtual_bytes} bytes; the limit is {limit_bytes}")]
    VirtualSize {
        /// As the header says.
        virtual_bytes: u64,
        /// What is allowed.
        limit_bytes: u64,
    },
    /// The guest's disk is absurdly large for what the file holds.
    #[error(
        "its virtual size of {virtual_bytes} bytes is absurd for a file of {file_bytes} bytes (limit: {ratio} times)"
    )]
    Ratio {
        /// As the header says.
        virtual_bytes: u64,
        /// Length of the file.
        file_bytes: u64,
        /// What is allowed.
        ratio: u64,
    },
}

/// What the first bytes tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inspected {
    /// A raw disk: its virtual size is its length.
    Raw,
    /// A standalone qcow2 whose header is in order.
    Qcow2(Qcow2Header),
}

impl Inspected {
    /// Its format.
    #[must_use]
    pub const fn format(&self) -> Format {
        match self {
            Self::Raw => Format::Raw,
            Self::Qcow2(_) => Format::Qcow2,
        }
    }

    /// Size of the guest's disk, given the length of the file.
    #[must_use]
    pub const fn virtual_bytes(&self, file_bytes: u64) -> u64 {
        match self {
            // QEMU counts a disk in sectors of 512 bytes and reads zeroes behind the end of the file.
            Self::Raw => file_bytes.div_ceil(512).saturating_mul(512),
            Self::Qcow2(header) => header.virtual_bytes,
        }
    }
}

/// Finds the format and examines the header, as soon as the first [`PREFIX_BYTES`] are there.
///
/// # Errors
/// A [`Refusal`] says what is wrong with it.
pub fn first_bytes(
    prefix: &[u8],
    stated: Option<Format>,
    limits: &SizeLimits,
) -> Result<Inspected, Refusal> {
    if prefix.is_empty() {
        return Err(Refusal::Empty);
    }
    let found = detect(prefix);
    match (found, stated) {
        (Found::Qcow2, None | Some(Format::Qcow2)) => {
            let header = Qcow2Header::parse(prefix)?;
            if header.virtual_bytes > limits.max_virtual_bytes {
                return Err(Refusal::VirtualSize {
                    virtual_bytes: header.virtual_bytes,
                    limit_bytes: limits.max_virtual_bytes,
                });
            }
            Ok(Inspected::Qcow2(header))
        }
        (Found::Raw, None | Some(Format::Raw)) => Ok(Inspected::Raw),
        (Found::Qcow2, Some(stated)) => Err(Refusal::NotAsStated {
            stated,
            found: "qcow2",
        }),
        (Found::Raw, Some(stated)) => Err(Refusal::NotAsStated {
            stated,
            found: "not qcow2",
        }),
        (Found::Foreign(name), _) => Err(Refusal::Foreign(name)),
        (Found::Text(Text::Description), _) => Err(Refusal::Description),
        (Found::Text(Text::Page), _) => Err(Refusal::Page),
    }
}

/// The format of an image that can be used once `qemu-img` has converted it, by its first bytes.
#[must_use]
pub fn convertible(prefix: &[u8]) -> Option<ForeignFormat> {
    match detect(prefix) {
        Found::Foreign(VMDK) => Some(ForeignFormat::Vmdk),
        Found::Foreign(VDI) => Some(ForeignFormat::Vdi),
        Found::Foreign(VHD) => Some(ForeignFormat::Vpc),
        Found::Foreign(_) | Found::Raw | Found::Qcow2 | Found::Text(_) => None,
    }
}

/// Whether what seems to be a raw disk is a fixed VHD: a raw disk with a footer, so that only its end shows what it is.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read.
pub fn is_fixed_vhd(file: &File, path: &Path) -> Result<bool, Error> {
    let file_bytes = file.metadata().map_err(Error::io("examine", path))?.len();
    let mut footer = [0; 8];
    if let Some(start) = file_bytes.checked_sub(512) {
        file.read_exact_at(&mut footer, start)
            .map_err(Error::io("read", path))?;
    }
    Ok(&footer == b"conectix")
}

/// Examines what can only be known of the finished file: that nothing is missing, that tables point inside,
/// that the sizes are sensible.
///
/// # Errors
/// [`Error::Refused`] with the reason; [`Error::Io`] if the file cannot be read.
pub fn whole_file(
    file: &File,
    path: &Path,
    inspected: &Inspected,
    limits: &SizeLimits,
) -> Result<(), Error> {
    let file_bytes = file.metadata().map_err(Error::io("examine", path))?.len();
    let virtual_bytes = inspected.virtual_bytes(file_bytes);
    if virtual_bytes > limits.max_virtual_bytes {
        return Err(Refusal::VirtualSize {
            virtual_bytes,
            limit_bytes: limits.max_virtual_bytes,
        }
        .into());
    }
    match inspected {
        Inspected::Raw => {
            if is_fixed_vhd(file, path)? {
                return Err(Refusal::Foreign(VHD).into());
            }
            Ok(())
        }
        Inspected::Qcow2(header) => {
            header.check_length(file_bytes)?;
            let ratio = limits.max_virtual_per_byte;
            if virtual_bytes > (1 << 30) && virtual_bytes / ratio.max(1) > file_bytes {
                return Err(Refusal::Ratio {
                    virtual_bytes,
                    file_bytes,
                    ratio,
                }
                .into());
            }
            header.check_tables(file, path, file_bytes)
        }
    }
}

/// What the first bytes of an image look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Raw,
    Qcow2,
    /// A format that must be converted before it can be used.
    Foreign(&'static str),
    /// No image at all.
    Text(Text),
}

const VMDK: &str = "VMDK";
const VDI: &str = "VDI";
const VHD: &str = "VHD (vpc)";

fn detect(prefix: &[u8]) -> Found {
    const SIGNATURES: [(usize, &[u8], &str); 12] = [
        (0, b"KDMV", VMDK),
        (0, b"COWD", "VMDK (version 3)"),
        (64, &0xbeda_107f_u32.to_le_bytes(), VDI),
        (0, b"conectix", VHD),
        (0, b"vhdxfile", "VHDX"),
        (0, b"QED\0", "QED"),
        (0, b"WithoutFreeSpace", "Parallels"),
        (0, b"WithouFreSpacExt", "Parallels"),
        (0, b"Bochs Virtual HD Image", "Bochs"),
        (0, b"#!/bin/sh\n#V2.0 Format\n", "cloop"),
        (0, b"OOOM\0\0\0\x02", "COW (user-mode Linux)"),
        (0, b"LUKS\xba\xbe", "LUKS (encrypted)"),
    ];
    if prefix.starts_with(b"QFI\xfb") {
        return match prefix.get(4..8) {
            Some([0, 0, 0, 1]) => Found::Foreign("qcow (version 1)"),
            _ => Found::Qcow2,
        };
    }
    for (offset, signature, name) in SIGNATURES {
        if prefix
            .get(offset..)
            .is_some_and(|rest| rest.starts_with(signature))
        {
            return Found::Foreign(name);
        }
    }
    if is_vmdk_descriptor(prefix) {
        return Found::Foreign("VMDK (descriptor)");
    }
    text::of(prefix).map_or(Found::Raw, Found::Text)
}

/// A VMDK may be a text naming extents; comments and blank lines may precede its version line, as QEMU's probe allows.
fn is_vmdk_descriptor(prefix: &[u8]) -> bool {
    prefix
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .take_while(|line| {
            line.is_empty() || line.starts_with(b"#") || line.starts_with(b"version=")
        })
        .take(1000)
        .any(|line| {
            line.starts_with(b"version=")
                || line
                    .to_ascii_lowercase()
                    .starts_with(b"# disk descriptorfile")
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn foreign_formats_are_named_whatever_was_stated() {
        let mut vdi = vec![0; 512];
        vdi[64..68].copy_from_slice(&[0x7f, 0x10, 0xda, 0xbe]);
        let cases: [(&[u8], &str); 8] = [
            (b"KDMV\x01\0\0\0", "VMDK"),
            (b"# Disk DescriptorFile\nversion=1\n", "VMDK"),
            (
                b"# a comment\n\nversion=1\nRW 1 FLAT \"/etc/shadow\" 0\n",
                "VMDK",
            ),
            (&vdi, "VDI"),
            (b"conectix\0\0", "VHD"),
            (b"vhdxfile", "VHDX"),
            (b"QED\0", "QED"),
            (b"QFI\xfb\0\0\0\x01", "qcow (version 1)"),
        ];
        for (bytes, name) in cases {
            for stated in [None, Some(Format::Raw), Some(Format::Qcow2)] {
                let refusal = first_bytes(bytes, stated, &SizeLimits::default()).expect_err(name);
                assert!(refusal.to_string().contains(name), "{refusal}");
            }
        }
    }

    #[test]
    fn texts_that_servers_have_at_addresses_are_no_disks() {
        for stated in [None, Some(Format::Raw)] {
            let of = |text: &str| first_bytes(text.as_bytes(), stated, &SizeLimits::default());
            let entry = "<?xml version=\"1.0\"?>\n<!-- ours -->\n<rdf:RDF xmlns:rdf=\"x\">";
            assert_eq!(of(entry), Err(Refusal::Description));
            assert_eq!(of("<!DOCTYPE html>\n<title>"), Err(Refusal::Page));
        }
    }

    #[test]
    fn a_raw_disk_passes_and_a_stated_format_must_be_true() {
        let limits = SizeLimits::default();
        assert_eq!(first_bytes(&[0; 512], None, &limits), Ok(Inspected::Raw));
        assert_eq!(
            first_bytes(b"#!/bin/sh\necho\n", Some(Format::Raw), &limits),
            Ok(Inspected::Raw)
        );
        assert!(matches!(
            first_bytes(&[0; 512], Some(Format::Qcow2), &limits),
            Err(Refusal::NotAsStated {
                stated: Format::Qcow2,
                ..
            })
        ));
        assert!(matches!(
            first_bytes(b"QFI\xfb\0\0\0\x03", Some(Format::Raw), &limits),
            Err(Refusal::NotAsStated {
                stated: Format::Raw,
                ..
            })
        ));
        assert_eq!(first_bytes(&[], None, &limits), Err(Refusal::Empty));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let _ = first_bytes(&bytes, None, &SizeLimits::default());
        }
    }
}
