//! What a description says of an image's contents: size and checksums of the decompressed stream.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;
use indicatif::ProgressBar;
use marketplace::Checksums;
use marketplace::digest::Digest;
use md5::{Digest as _, Md5};
use sha1::Sha1;
use sha2::{Sha256, Sha512};

use crate::failure::{Failure, Result};

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

/// Size and checksums of what `compression` (`gz`, `bz2`, or nothing) makes of a file. `bar` moves with the bytes of the file.
///
/// Reads the whole file; for a thread that may block.
///
/// # Errors
/// [`Failure::Work`] for a file that cannot be read or decompressed, and for another compression.
pub fn contents(
    path: &Path,
    compression: Option<&str>,
    wanted: &Wanted,
    bar: &ProgressBar,
) -> Result<(u64, Checksums)> {
    let failed = |error: std::io::Error| Failure::file(path, &error);
    let file = bar.wrap_read(File::open(path).map_err(failed)?);
    let mut stream: Box<dyn Read> = match compression {
        None => Box::new(file),
        Some("gz") => Box::new(MultiGzDecoder::new(file)),
        Some("bz2") => Box::new(MultiBzDecoder::new(file)),
        Some(other) => {
            return Err(Failure::Work(format!(
                "'{}' can't be opened: of compressions gz and bz2 are known here, not '{other}'",
                path.display()
            )));
        }
    };
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
    Ok((bytes, checksums))
}
