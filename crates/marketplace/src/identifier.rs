//! The 27-character image identifier of the Marketplace.
//!
//! It is the SHA-1 of the uncompressed contents: two zero bits in front of the 160 bits make 27 groups of six,
//! most significant first, each written as one character of the URL-safe Base64 alphabet (RFC 4648 §5). The first
//! character therefore holds four bits only and is one of `A`…`P`, and an identifier never starts with `-`.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// The name of an image's contents. Safe as a file name and as a command argument.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageIdentifier(Digest<20>);

/// A text that is not an image identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIdentifier {
    /// It has another number of characters.
    #[error("an image identifier has 27 characters, `{text}` has {length}")]
    Length {
        /// The text, cut to a readable length.
        text: String,
        /// Its number of characters.
        length: usize,
    },
    /// It holds a character outside `A-Z a-z 0-9 - _`.
    #[error("`{0}` is not an image identifier: only A-Z, a-z, 0-9, `-` and `_` occur in one")]
    Character(String),
    /// Its first character stands for more than the four bits there are.
    #[error("`{0}` is not an image identifier: the first character is one of A to P")]
    TooLarge(String),
}

impl ImageIdentifier {
    /// Number of characters.
    pub const LENGTH: usize = 27;

    /// The identifier of the contents with this SHA-1.
    #[must_use]
    pub const fn from_sha1(sha1: &Digest<20>) -> Self {
        Self(*sha1)
    }

    /// The SHA-1 it was made from.
    #[must_use]
    pub const fn sha1(&self) -> Digest<20> {
        self.0
    }
}

impl fmt::Display for ImageIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A zero byte in front gives 168 bits: 28 characters, of which the first is the six superfluous bits.
        let mut padded = [0; 21];
        padded[1..].copy_from_slice(self.0.as_bytes());
        let text = URL_SAFE_NO_PAD.encode(padded);
        f.pad(text.get(1..).unwrap_or_default())
    }
}

impl fmt::Debug for ImageIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ImageIdentifier {
    type Err = InvalidIdentifier;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shown = || text.chars().take(40).collect::<String>();
        let length = text.chars().count();
        if length != Self::LENGTH {
            return Err(InvalidIdentifier::Length {
                text: shown(),
                length,
            });
        }
        let bytes = URL_SAFE_NO_PAD
            .decode(format!("A{text}"))
            .map_err(|_| InvalidIdentifier::Character(shown()))?;
        match <[u8; 21]>::try_from(bytes) {
            Ok([0, sha1 @ ..]) => Ok(Self(Digest::from_bytes(sha1))),
            _ => Err(InvalidIdentifier::TooLarge(shown())),
        }
    }
}

impl Serialize for ImageIdentifier {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ImageIdentifier {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAIRS: [(&str, &str); 8] = [
        (
            "c319bbd5afc0a22ba3eaed0507c39383ec28eeff",
            "MMZu9WvwKIro-rtBQfDk4PsKO7_",
        ),
        (
            "1104f3e30c030f8b93f220b04131032dddf51f21",
            "BEE8-MMAw-Lk_IgsEExAy3d9R8h",
        ),
        (
            "da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "No5o-5ea0sNMlW_75VgGJCv2AcJ",
        ),
        (
            "a9993e364706816aba3e25717850c26c9cd0d89d",
            "KmZPjZHBoFquj4lcXhQwmyc0Nid",
        ),
        (
            "3b71f43ff30f4b15b5cd85dd9e95ebc7e84eb5a3",
            "Dtx9D_zD0sVtc2F3Z6V68foTrWj",
        ),
        (
            "024a8581d43fbf76d96ae3ec53b260bcddddad46",
            "AJKhYHUP7922Wrj7FOyYLzd3a1G",
        ),
        (
            "0000000000000000000000000000000000000000",
            "AAAAAAAAAAAAAAAAAAAAAAAAAAA",
        ),
        (
            "ffffffffffffffffffffffffffffffffffffffff",
            "P__________________________",
        ),
    ];

    #[test]
    fn known_pairs_convert_both_ways() {
        for (sha1, text) in PAIRS {
            let digest: Digest<20> = sha1.parse().expect("valid digest");
            assert_eq!(ImageIdentifier::from_sha1(&digest).to_string(), text);
            let identifier: ImageIdentifier = text.parse().expect("valid identifier");
            assert_eq!(identifier.sha1().to_string(), sha1);
        }
    }

    #[test]
    fn refuses_what_is_not_an_identifier() {
        let tail = "A".repeat(26);
        for first in ['Q', 'Z', 'a', '9', '-', '_'] {
            let text = format!("{first}{tail}");
            assert_eq!(
                text.parse::<ImageIdentifier>(),
                Err(InvalidIdentifier::TooLarge(text))
            );
        }
        for text in [
            format!("A{}+", "A".repeat(25)),
            format!("A{}=", "A".repeat(25)),
            format!("A{}é", "A".repeat(25)),
        ] {
            assert!(
                matches!(
                    text.parse::<ImageIdentifier>(),
                    Err(InvalidIdentifier::Character(_))
                ),
                "{text}"
            );
        }
        for text in [String::new(), tail.clone(), format!("AA{tail}")] {
            assert!(
                matches!(
                    text.parse::<ImageIdentifier>(),
                    Err(InvalidIdentifier::Length { .. })
                ),
                "{text}"
            );
        }
    }

    #[test]
    fn sha1_must_have_exactly_forty_digits() {
        let digits = "024a8581d43fbf76d96ae3ec53b260bcddddad46";
        assert!(format!("0{digits}").parse::<Digest<20>>().is_err());
        assert!(digits[1..].parse::<Digest<20>>().is_err());
        assert!(digits.to_uppercase().parse::<Digest<20>>().is_ok());
    }

    proptest! {
        #[test]
        fn every_digest_survives_the_round_trip(bytes: [u8; 20]) {
            let identifier = ImageIdentifier::from_sha1(&Digest::from_bytes(bytes));
            let text = identifier.to_string();
            prop_assert_eq!(text.len(), ImageIdentifier::LENGTH);
            prop_assert!(('A'..='P').contains(&text.chars().next().unwrap_or('z')));
            prop_assert_eq!(text.parse(), Ok(identifier));
        }

        #[test]
        fn any_text_is_read_without_panic_and_accepted_only_as_written(text in "\\PC{0,40}") {
            if let Ok(identifier) = text.parse::<ImageIdentifier>() {
                prop_assert_eq!(identifier.to_string(), text);
            }
        }
    }
}
