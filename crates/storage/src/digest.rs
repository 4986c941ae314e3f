//! Digests of an image's contents while it streams past, and what an importer was told to expect of them.

mod both;

use std::fmt;

use sha2::{Digest as _, Sha256, Sha512};

pub(crate) use self::both::Sha1AndSha256;
pub use marketplace::digest::{Digest, Digests, InvalidDigest};

use crate::decompress::Packing;
use crate::error::Error;
use crate::identifier::ImageIdentifier;
use crate::inspect::Format;

/// Which digests are computed beside SHA-1, which names an image: what was stated, and always one that proves it, now or
/// later. That is SHA-256 if there is a choice, for which processors have instructions; SHA-512 and MD5 each cost about as much as
/// all the rest of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) md5: bool,
    pub(crate) sha256: bool,
    pub(crate) sha512: bool,
}

impl Wanted {
    pub(crate) const ALL: Self = Self {
        md5: true,
        sha256: true,
        sha512: true,
    };

    /// What is computed if nothing was stated.
    pub(crate) const LEAST: Self = Self {
        md5: false,
        sha256: true,
        sha512: false,
    };

    /// What is needed to check what was stated.
    pub(crate) const fn by(expected: &Expected) -> Self {
        Self {
            md5: expected.md5.is_some(),
            sha256: expected.sha256.is_some()
                || (expected.sha512.is_none() && !expected.proven_later),
            sha512: expected.sha512.is_some(),
        }
    }

    /// Those that are wanted and not there.
    pub(crate) const fn missing_in(self, digests: &Digests) -> Self {
        Self {
            md5: self.md5 && digests.md5.is_none(),
            sha256: self.sha256 && digests.sha256.is_none(),
            sha512: self.sha512 && digests.sha512.is_none(),
        }
    }

    pub(crate) const fn is_any(self) -> bool {
        self.md5 || self.sha256 || self.sha512
    }
}

/// What is already known of an image before it is read. Everything given is checked, nothing is required.
///
/// Size and checksums describe the image after decompression but in its own format: for qcow2 the qcow2 file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    /// The identifier; also the key under which two imports of one image share the work.
    pub identifier: Option<ImageIdentifier>,
    /// Size in bytes.
    pub bytes: Option<u64>,
    /// MD5.
    pub md5: Option<Digest<16>>,
    /// SHA-1.
    pub sha1: Option<Digest<20>>,
    /// SHA-256.
    pub sha256: Option<Digest<32>>,
    /// SHA-512.
    pub sha512: Option<Digest<64>>,
    /// Stated format; found from the contents otherwise.
    pub format: Option<Format>,
    /// What is stated of its compression.
    pub packing: Packing,
    /// What the file is as it comes, before decompression.
    pub source: ExpectedSource,
    /// That the content is made here, so that nothing that others state of it is to be proven, and that whoever imports it has it
    /// [proven](crate::import::ImageStore::prove) afterwards.
    pub proven_later: bool,
}

/// What is already known of the file that an image comes in, compressed or not. Everything given is checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExpectedSource {
    /// Its length.
    pub bytes: Option<u64>,
    /// SHA-256.
    pub sha256: Option<Digest<32>>,
    /// SHA-512.
    pub sha512: Option<Digest<64>>,
}

impl ExpectedSource {
    /// Whether there is anything to be checked.
    #[must_use]
    pub fn is_any(&self) -> bool {
        *self != Self::default()
    }

    /// What names this file whatever address it has: its strongest checksum.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        self.sha512
            .map(|digest| digest.to_string())
            .or_else(|| self.sha256.map(|digest| digest.to_string()))
    }
}

/// Digests of the file that an image comes in, as far as they are to be compared.
pub(crate) struct SourceDigests {
    expected: ExpectedSource,
    bytes: u64,
    sha256: Option<Sha256>,
    sha512: Option<Sha512>,
}

impl SourceDigests {
    pub(crate) fn new(expected: ExpectedSource) -> Self {
        Self {
            expected,
            bytes: 0,
            // The stronger one is enough.
            sha256: (expected.sha256.is_some() && expected.sha512.is_none()).then(Sha256::new),
            sha512: expected.sha512.is_some().then(Sha512::new),
        }
    }

    /// Takes more of the file.
    ///
    /// # Errors
    /// [`Error::Mismatch`] as soon as the file is longer than stated.
    pub(crate) fn update(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.bytes += bytes.len() as u64;
        if let Some(digest) = &mut self.sha256 {
            digest.update(bytes);
        }
        if let Some(digest) = &mut self.sha512 {
            digest.update(bytes);
        }
        match self.expected.bytes {
            Some(stated) if self.bytes > stated => Err(Error::Mismatch {
                what: "size of the file in bytes",
                expected: stated.to_string(),
                found: format!("more than {stated}"),
            }),
            _ => Ok(()),
        }
    }

    /// Compares, at the end of the file.
    ///
    /// # Errors
    /// [`Error::Mismatch`] names the first difference.
    pub(crate) fn finish(self) -> Result<(), Error> {
        let mismatch = |what, expected: String, found: String| {
            if expected == found {
                return Ok(());
            }
            Err(Error::Mismatch {
                what,
                expected,
                found,
            })
        };
        if let Some(bytes) = self.expected.bytes {
            let what = "size of the file in bytes";
            mismatch(what, bytes.to_string(), self.bytes.to_string())?;
        }
        if let (Some(expected), Some(digest)) = (self.expected.sha256, self.sha256) {
            let found: Digest<32> = Digest::from_bytes(digest.finalize().into());
            mismatch(
                "SHA-256 of the file",
                expected.to_string(),
                found.to_string(),
            )?;
        }
        if let (Some(expected), Some(digest)) = (self.expected.sha512, self.sha512) {
            let found: Digest<64> = Digest::from_bytes(digest.finalize().into());
            mismatch(
                "SHA-512 of the file",
                expected.to_string(),
                found.to_string(),
            )?;
        }
        Ok(())
    }
}

impl Expected {
    /// Compares what was found with everything that was given.
    ///
    /// # Errors
    /// [`Error::Mismatch`] names the first difference: size, identifier, then the digests.
    pub fn check(&self, bytes: u64, digests: &Digests) -> Result<(), Error> {
        fn same<T: PartialEq + fmt::Display>(
            what: &'static str,
            expected: Option<&T>,
            found: Option<&T>,
        ) -> Result<(), Error> {
            match expected {
                Some(expected) if Some(expected) != found => Err(Error::Mismatch {
                    what,
                    expected: expected.to_string(),
                    found: found.map_or_else(|| "not computed".to_owned(), T::to_string),
                }),
                _ => Ok(()),
            }
        }
        let identifier = ImageIdentifier::from_sha1(&digests.sha1);
        same("size in bytes", self.bytes.as_ref(), Some(&bytes))?;
        same("SHA-1", self.sha1.as_ref(), Some(&digests.sha1))?;
        same("identifier", self.identifier.as_ref(), Some(&identifier))?;
        same("MD5", self.md5.as_ref(), digests.md5.as_ref())?;
        same("SHA-256", self.sha256.as_ref(), digests.sha256.as_ref())?;
        same("SHA-512", self.sha512.as_ref(), digests.sha512.as_ref())
    }

    /// Whether a checksum is stated, so that content which is another's is noticed in the end.
    #[must_use]
    pub const fn is_proof(&self) -> bool {
        self.identifier.is_some()
            || self.md5.is_some()
            || self.sha1.is_some()
            || self.sha256.is_some()
            || self.sha512.is_some()
            || self.source.sha256.is_some()
            || self.source.sha512.is_some()
    }

    /// The identifier, stated or following from a stated SHA-1.
    #[must_use]
    pub fn known_identifier(&self) -> Option<ImageIdentifier> {
        self.identifier
            .or_else(|| self.sha1.as_ref().map(ImageIdentifier::from_sha1))
    }
}
