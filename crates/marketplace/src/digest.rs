//! Digests of an image's contents, as they are written.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

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

/// Digests of a content, in the order the original client writes them: the one that names it, one that proves it (of what was
/// made just now it may still be missing), and those that somebody stated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    /// MD5 (kept because entries state it; proves nothing against an attacker).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub md5: Option<Digest<16>>,
    /// SHA-1, from which the identifier follows.
    pub sha1: Digest<20>,
    /// SHA-256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest<32>>,
    /// SHA-512.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha512: Option<Digest<64>>,
}

impl Digests {
    /// Whether there is one that nobody can make another content for.
    #[must_use]
    pub const fn is_proof(&self) -> bool {
        self.sha256.is_some() || self.sha512.is_some()
    }

    /// These, and what `others` has besides; nothing if they can't be of one content.
    #[must_use]
    pub fn joined(&self, others: &Self) -> Option<Self> {
        fn either<T: Copy + PartialEq>(one: Option<T>, other: Option<T>) -> Option<Option<T>> {
            match (one, other) {
                (Some(one), Some(other)) if one != other => None,
                _ => Some(one.or(other)),
            }
        }
        (self.sha1 == others.sha1).then_some(())?;
        Some(Self {
            md5: either(self.md5, others.md5)?,
            sha1: self.sha1,
            sha256: either(self.sha256, others.sha256)?,
            sha512: either(self.sha512, others.sha512)?,
        })
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
