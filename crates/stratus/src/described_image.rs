//! What a description says of an image's contents: size and checksums of the decompressed stream.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use indicatif::ProgressBar;
use marketplace::Checksums;
use marketplace::digest::Digest;
use md5::{Digest as _, Md5};
use sha1::Sha1;
use sha2::{Sha256, Sha512};

use crate::failure::{Failure, Result};
use crate::packing::{self, Packing};

/// Which checksums are computed, and which are known.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// MD5.
    pub md5: Checksum<16>,
    /// SHA-1; always part of the result.
    pub sha1: Option<Digest<20>>,
    /// SHA-256.
    pub sha256: Checksum<32>,
    /// SHA-512.
    pub sha512: Checksum<64>,
}

/// What is wanted of one checksum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Checksum<const N: usize> {
    /// Computed.
    #[default]
    Computed,
    /// Given, and taken as it is.
    Known(Digest<N>),
    /// Left out.
    Unwanted,
}

impl<const N: usize> Checksum<N> {
    fn or(self, computed: impl FnOnce() -> [u8; N]) -> Option<Digest<N>> {
        match self {
            Self::Computed => Some(Digest::from_bytes(computed())),
            Self::Known(digest) => Some(digest),
            Self::Unwanted => None,
        }
    }
}

const BUFFER_BYTES: usize = 1 << 20;

/// What is inside of a file.
#[derive(Debug)]
pub struct Contents {
    /// Its length.
    pub bytes: u64,
    /// Its checksums.
    pub checksums: Checksums,
    /// The format of the disk, by its beginning.
    pub format: &'static str,
}

/// What is inside of a file that is compressed so, or not at all. `bar` moves with the bytes of the file.
///
/// Reads the whole file; for a thread that may block.
///
/// # Errors
/// [`Failure::Work`] for a file that cannot be read or decompressed.
pub fn contents(
    path: &Path,
    compression: Option<Packing>,
    wanted: &Wanted,
    bar: &ProgressBar,
) -> Result<Contents> {
    let failed = |error: std::io::Error| match compression {
        Some(packing) if error.raw_os_error().is_none() => Failure::Work(format!(
            "'{}' can't be decompressed as {}: {error}",
            path.display(),
            packing.name()
        )),
        _ => Failure::file(path, &error),
    };
    let file = bar.wrap_read(File::open(path).map_err(failed)?);
    let mut stream: Box<dyn Read> = match compression {
        None => Box::new(file),
        Some(packing) => packing.undo(file).map_err(failed)?,
    };
    let mut beginning = Vec::with_capacity(packing::DISK_BEGINNING);
    let mut md5 = (wanted.md5 == Checksum::Computed).then(Md5::new);
    let mut sha1 = wanted.sha1.is_none().then(Sha1::new);
    let mut sha256 = (wanted.sha256 == Checksum::Computed).then(Sha256::new);
    let mut sha512 = (wanted.sha512 == Checksum::Computed).then(Sha512::new);
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut bytes = 0;
    loop {
        let count = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        let piece = buffer.get(..count).unwrap_or_default();
        let missing = packing::DISK_BEGINNING.saturating_sub(beginning.len());
        beginning.extend_from_slice(piece.get(..missing).unwrap_or(piece));
        if let Some(digest) = &mut md5 {
            digest.update(piece);
        }
        if let Some(digest) = &mut sha1 {
            digest.update(piece);
        }
        if let Some(digest) = &mut sha256 {
            digest.update(piece);
        }
        if let Some(digest) = &mut sha512 {
            digest.update(piece);
        }
        bytes += count as u64;
    }
    let sha1 = sha1.map(|digest| Digest::from_bytes(digest.finalize().into()));
    let checksums = Checksums {
        md5: wanted.md5.or(|| md5.unwrap_or_default().finalize().into()),
        sha1: wanted
            .sha1
            .or(sha1)
            .unwrap_or_else(|| Digest::from_bytes(Sha1::new().finalize().into())),
        sha256: wanted
            .sha256
            .or(|| sha256.unwrap_or_default().finalize().into()),
        sha512: wanted
            .sha512
            .or(|| sha512.unwrap_or_default().finalize().into()),
        others: Vec::new(),
    };
    Ok(Contents {
        bytes,
        checksums,
        format: packing::disk_format(&beginning),
    })
}
