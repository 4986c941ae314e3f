//! Digests of an image's contents, and what an importer was told to expect of them.

use std::fmt;
use std::str::FromStr;

use md5::Md5;
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};

use crate::decompress::Compression;
use crate::error::Error;
use crate::identifier::ImageIdentifier;
use crate::inspect::Format;

/// A digest of `N` bytes, written as `2 N` lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest<const N: usize>([u8; N]);

/// A text that is not a digest of the wanted length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a checksum of {digits} hexadecimal digits")]
pub struct InvalidDigest {
    text: String,
    digits: usize,
}

impl<const N: usize> Digest<N> {
    /// The digest with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; N]) -> Self {
        Self(bytes)
    }

    /// Its bytes, most significant first.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> FromStr for Digest<N> {
    type Err = InvalidDigest;

    /// Reads exactly `2 N` hexadecimal digits of either case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidDigest {
            text: text.chars().take(140).collect(),
            digits: 2 * N,
        };
        let digits: Vec<u8> = text
            .chars()
            .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()))
            .collect::<Option<_>>()
            .ok_or_else(invalid)?;
        if digits.len() != 2 * N {
            return Err(invalid());
        }
        let mut bytes = [0; N];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair.iter().fold(0, |high, low| (high << 4) | low);
        }
        Ok(Self(bytes))
    }
}

impl<const N: usize> fmt::Display for Digest<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<const N: usize> fmt::Debug for Digest<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const N: usize> Serialize for Digest<N> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Digest<N> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The four digests a Marketplace entry carries, in the order the original client writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    /// MD5 (kept because entries state it; proves nothing against an attacker).
    pub md5: Digest<16>,
    /// SHA-1, from which the identifier follows.
    pub sha1: Digest<20>,
    /// SHA-256.
    pub sha256: Digest<32>,
    /// SHA-512.
    pub sha512: Digest<64>,
}

/// MD5 and SHA-1 in one pass: about as much work as [`Sha2Pair`], so that the two run side by side.
#[derive(Default)]
pub(crate) struct LegacyPair(Md5, Sha1);

impl LegacyPair {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
        self.1.update(bytes);
    }

    pub(crate) fn finish(self) -> (Digest<16>, Digest<20>) {
        (
            Digest(self.0.finalize().into()),
            Digest(self.1.finalize().into()),
        )
    }
}

/// SHA-256 and SHA-512 in one pass.
#[derive(Default)]
pub(crate) struct Sha2Pair(Sha256, Sha512);

impl Sha2Pair {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
        self.1.update(bytes);
    }

    pub(crate) fn finish(self) -> (Digest<32>, Digest<64>) {
        (
            Digest(self.0.finalize().into()),
            Digest(self.1.finalize().into()),
        )
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
    /// Stated compression; found from the first bytes otherwise.
    pub compression: Option<Compression>,
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
            found: &T,
        ) -> Result<(), Error> {
            match expected {
                Some(expected) if expected != found => Err(Error::Mismatch {
                    what,
                    expected: expected.to_string(),
                    found: found.to_string(),
                }),
                _ => Ok(()),
            }
        }
        same("size in bytes", self.bytes.as_ref(), &bytes)?;
        same("SHA-1", self.sha1.as_ref(), &digests.sha1)?;
        same(
            "identifier",
            self.identifier.as_ref(),
            &ImageIdentifier::from_sha1(&digests.sha1),
        )?;
        same("MD5", self.md5.as_ref(), &digests.md5)?;
        same("SHA-256", self.sha256.as_ref(), &digests.sha256)?;
        same("SHA-512", self.sha512.as_ref(), &digests.sha512)
    }

    /// The identifier, stated or following from a stated SHA-1.
    #[must_use]
    pub fn known_identifier(&self) -> Option<ImageIdentifier> {
        self.identifier
            .or_else(|| self.sha1.as_ref().map(ImageIdentifier::from_sha1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_either_case_and_writes_lower() {
        let digest: Digest<4> = "00AbCdEf".parse().expect("valid");
        assert_eq!(digest.to_string(), "00abcdef");
    }

    #[test]
    fn refuses_wrong_length_signs_and_other_characters() {
        for text in [
            "",
            "00abcde",
            "00abcdef0",
            "+0abcdef",
            "0xabcdef",
            "00abcdeg",
            "00abcdé",
        ] {
            assert!(text.parse::<Digest<4>>().is_err(), "{text}");
        }
    }
}
