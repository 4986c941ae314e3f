//! Where an image comes from: a file of the user's or a URL; and a file's digests, where they are cheap to have.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;
use marketplace::ImageIdentifier;
use marketplace::digest::Digest;
use md5::{Digest as _, Md5};
use sha1::Sha1;
use sha2::{Sha256, Sha512};

use crate::cloud::hex;
use crate::failure::{Failure, Result};
use crate::packing::Packing;

/// The source of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSource {
    /// The cloud fetches it.
    Url(String),
    /// We send it.
    File(PathBuf),
}

impl ImageSource {
    /// `http://…` and `https://…` are URLs, anything else is a file, which must be there.
    ///
    /// # Errors
    /// [`Failure::Work`] for a file that is not there, [`Failure::Check`] for one that is no plain file, and for URLs of
    /// other kinds.
    pub fn parse(text: &str) -> Result<Self> {
        if text.starts_with("http://") || text.starts_with("https://") {
            return Ok(Self::Url(text.to_owned()));
        }
        let local = text.strip_prefix("file://").unwrap_or(text);
        let path = PathBuf::from(local);
        if let Some((scheme, _)) = local.split_once("://")
            && !path.exists()
        {
            return Err(Failure::Check(format!(
                "'{text}' can't be fetched: images come by http and https, not by {scheme}"
            )));
        }
        let metadata = std::fs::metadata(&path).map_err(|error| Failure::file(&path, &error))?;
        if !metadata.is_file() {
            return Err(Failure::Check(format!(
                "'{}' is not a file",
                path.display()
            )));
        }
        if metadata.len() == 0 {
            return Err(Failure::Check(format!("'{}' is empty", path.display())));
        }
        Ok(Self::File(path))
    }

    /// A name for people: the last part, without the suffixes of compression and format.
    #[must_use]
    pub fn default_name(&self) -> String {
        let last = match self {
            Self::Url(url) => url
                .split(['?', '#'])
                .next()
                .unwrap_or_default()
                .trim_end_matches('/')
                .rsplit('/')
                .next()
                .unwrap_or_default()
                .to_owned(),
            Self::File(path) => path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
        };
        let mut name = last.as_str();
        for suffix in [".gz", ".xz", ".zst", ".bz2", ".qcow2", ".img", ".raw"] {
            name = name.strip_suffix(suffix).unwrap_or(name);
        }
        if name.is_empty() {
            "image".to_owned()
        } else {
            name.to_owned()
        }
    }
}

/// What a file's content is, by its digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalDigests {
    /// Hexadecimal.
    pub md5: String,
    /// Hexadecimal.
    pub sha1: String,
    /// Hexadecimal.
    pub sha256: String,
    /// Hexadecimal.
    pub sha512: String,
    /// The 27 characters that follow from the SHA-1.
    pub identifier: String,
    /// Length of the content.
    pub bytes: u64,
}

const BUFFER_BYTES: usize = 1 << 20;

/// The digests of a file that is not compressed; nothing for a compressed one, whose content only the cloud unpacks.
///
/// Reads the whole file; for a thread that may block.
///
/// # Errors
/// [`Failure::Work`] when the file cannot be read.
pub fn local_digests(path: &Path, bar: &ProgressBar) -> Result<Option<LocalDigests>> {
    let failed = |error: std::io::Error| Failure::file(path, &error);
    let mut file = File::open(path).map_err(failed)?;
    let (mut md5, mut sha1, mut sha256, mut sha512) =
        (Md5::new(), Sha1::new(), Sha256::new(), Sha512::new());
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut bytes = 0_u64;
    loop {
        let count = match file.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        let piece = buffer.get(..count).unwrap_or_default();
        if bytes == 0 && Packing::of(piece).is_some() {
            return Ok(None);
        }
        if piece.is_empty() {
            break;
        }
        md5.update(piece);
        sha1.update(piece);
        sha256.update(piece);
        sha512.update(piece);
        bytes += count as u64;
        bar.inc(count as u64);
    }
    let sha1: [u8; 20] = sha1.finalize().into();
    Ok(Some(LocalDigests {
        md5: hex(&md5.finalize()),
        sha1: hex(&sha1),
        sha256: hex(&sha256.finalize()),
        sha512: hex(&sha512.finalize()),
        identifier: ImageIdentifier::from_sha1(&Digest::from_bytes(sha1)).to_string(),
        bytes,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_their_suffixes() {
        for (text, name) in [
            ("https://h/a/debian-12.qcow2.xz?x=1", "debian-12"),
            ("https://h/", "h"),
            ("http://h/x.raw", "x"),
        ] {
            assert_eq!(ImageSource::parse(text).unwrap().default_name(), name);
        }
        assert!(
            ImageSource::parse("/does/not/exist")
                .unwrap_err()
                .to_string()
                .starts_with("[Errno 2] No such file or directory: '/does")
        );
        assert!(matches!(ImageSource::parse("/"), Err(Failure::Check(_))));
        assert!(
            ImageSource::parse("ftp://h/x.img")
                .unwrap_err()
                .to_string()
                .contains("not by ftp")
        );
    }

    #[test]
    fn only_uncompressed_files_have_local_digests() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, b"abc").unwrap();
        let digests = local_digests(&path, &ProgressBar::hidden())
            .unwrap()
            .unwrap();
        assert_eq!(digests.sha1, "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(digests.identifier, "KmZPjZHBoFquj4lcXhQwmyc0Nid");
        assert_eq!(digests.bytes, 3);
        std::fs::write(&path, b"\x1f\x8babc").unwrap();
        assert_eq!(local_digests(&path, &ProgressBar::hidden()).unwrap(), None);
    }
}
