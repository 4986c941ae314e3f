//! How the file of an image is compressed, and what is inside.

use std::io::Read;

use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;
use liblzma::read::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};

/// Memory an xz stream may make us reserve: `xz -9` needs 65 MiB.
const MOST_XZ_BYTES: u64 = 192 << 20;
/// The same for zstd, as a power of two.
const MOST_ZSTD_WINDOW: u32 = 27;
/// Enough of a file to know it by.
const BEGINNING: usize = 6;

/// A compression that images come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// gzip.
    Gz,
    /// bzip2.
    Bz2,
    /// xz.
    Xz,
    /// Zstandard.
    Zstd,
}

impl Packing {
    const ALL: [Self; 4] = [Self::Gz, Self::Bz2, Self::Xz, Self::Zstd];

    /// The name in descriptions.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gz => "gz",
            Self::Bz2 => "bz2",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }

    /// Reads the names in use, which are also the suffixes of files.
    #[must_use]
    pub fn named(text: &str) -> Option<Self> {
        match text.trim_start_matches('.').to_ascii_lowercase().as_str() {
            "gz" | "gzip" => Some(Self::Gz),
            "bz2" | "bzip2" => Some(Self::Bz2),
            "xz" => Some(Self::Xz),
            "zst" | "zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Whether StratusLab's clouds undo it.
    #[must_use]
    pub const fn is_stratuslabs(self) -> bool {
        matches!(self, Self::Gz | Self::Bz2)
    }

    /// Known by the first bytes of a file.
    #[must_use]
    pub fn of(beginning: &[u8]) -> Option<Self> {
        let is_it = |packing: &Self| {
            beginning.starts_with(match packing {
                Self::Gz => b"\x1f\x8b",
                Self::Bz2 => b"BZh",
                Self::Xz => b"\xfd7zXZ\0",
                Self::Zstd => b"\x28\xb5\x2f\xfd",
            })
        };
        Self::ALL.into_iter().find(is_it)
    }

    /// As [`of`](Self::of), of a file that is there.
    ///
    /// # Errors
    /// Of reading it.
    pub fn of_file(path: &std::path::Path) -> std::io::Result<Option<Self>> {
        let mut beginning = Vec::with_capacity(BEGINNING);
        std::fs::File::open(path)?
            .take(BEGINNING as u64)
            .read_to_end(&mut beginning)?;
        Ok(Self::of(&beginning))
    }

    /// What is inside of a file; several streams one behind the other are one.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn undo<'a>(self, file: impl Read + 'a) -> std::io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::Gz => Box::new(MultiGzDecoder::new(file)),
            Self::Bz2 => Box::new(MultiBzDecoder::new(file)),
            Self::Xz => {
                let stream = Stream::new_stream_decoder(MOST_XZ_BYTES, CONCATENATED)?;
                Box::new(XzDecoder::new_stream(file, stream))
            }
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(file)?;
                decoder.window_log_max(MOST_ZSTD_WINDOW)?;
                Box::new(decoder)
            }
        })
    }
}

/// Formats of disks that clouds of Stratus take, by the names of descriptions.
pub const DISK_FORMATS: [&str; 6] = ["raw", "qcow2", "vmdk", "vdi", "vpc", "vhd"];
/// How much of a disk [`disk_format`] wants to see.
pub const DISK_BEGINNING: usize = 512;

/// The format of a disk that begins like this: a raw one, unless it says what it is.
#[must_use]
pub fn disk_format(beginning: &[u8]) -> &'static str {
    if beginning.starts_with(b"QFI\xfb") {
        "qcow2"
    } else if beginning.starts_with(b"KDMV") || beginning.starts_with(b"# Disk DescriptorFile") {
        "vmdk"
    } else if beginning.get(64..68) == Some(&[0x7f, 0x10, 0xda, 0xbe]) {
        "vdi"
    } else if beginning.starts_with(b"conectix") {
        "vpc"
    } else {
        "raw"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_known_by_their_beginnings() {
        let mut vdi = [0; DISK_BEGINNING];
        vdi[64..68].copy_from_slice(&[0x7f, 0x10, 0xda, 0xbe]);
        for (beginning, format) in [
            (&b"QFI\xfb\0\0\0\x03"[..], "qcow2"),
            (b"KDMV", "vmdk"),
            (&vdi, "vdi"),
            (b"conectix", "vpc"),
            (b"", "raw"),
            (b"\xeb\x63\x90", "raw"),
        ] {
            assert_eq!(disk_format(beginning), format);
            assert!(DISK_FORMATS.contains(&format));
        }
    }
}
