//! What one host joins by, once: whom to trust, and a secret, in one word.

use std::{fmt, str::FromStr};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    Fingerprint, TrustError,
    fingerprint::{hexadecimal, sha256},
};

/// What every token begins with, so that people and scanners of repositories know one.
pub(crate) const PREFIX: &str = "sjoin_";

/// The secret of a token: 256 bits that nobody guesses, so a plain digest of it is kept, and nobody is kept from trying.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinSecret([u8; 32]);

impl JoinSecret {
    /// A new one.
    ///
    /// # Errors
    /// If the system gives no random numbers.
    pub fn generate() -> Result<Self, TrustError> {
        let mut bytes = [0; 32];
        let filled = SystemRandom::new().fill(&mut bytes);
        filled.map_err(|_unspecified| TrustError::Kept("source of random numbers"))?;
        Ok(Self(bytes))
    }

    /// What is kept of it: SHA-256, hexadecimal.
    #[must_use]
    pub fn digest(&self) -> String {
        hexadecimal(&sha256(&self.0))
    }
}

impl fmt::Debug for JoinSecret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("…")
    }
}

impl Serialize for JoinSecret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for JoinSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text.as_bytes()).ok();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        // Not the text: it may be somebody's secret.
        bytes
            .map(Self)
            .ok_or_else(|| de::Error::custom("that is no secret of a token"))
    }
}

/// A token as it is printed once: `sjoin_` and 86 letters, digits, `-` and `_`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// The authority that entries have to show a certificate of.
    pub authority: Fingerprint,
    /// What lets a host in.
    pub secret: JoinSecret,
}

impl JoinToken {
    /// The word. Shown once, to whom asked for it.
    #[must_use]
    pub fn word(&self) -> String {
        let bytes = [self.authority.0, self.secret.0].concat();
        format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for JoinToken {
    type Err = TrustError;

    fn from_str(text: &str) -> Result<Self, TrustError> {
        let content = text.trim().strip_prefix(PREFIX).ok_or(TrustError::Token)?;
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(content);
        let bytes = bytes.map_err(|_invalid| TrustError::Token)?;
        let (authority, secret) = bytes.split_at_checked(32).ok_or(TrustError::Token)?;
        let whole = |part: &[u8]| <[u8; 32]>::try_from(part).map_err(|_length| TrustError::Token);
        Ok(Self {
            authority: Fingerprint(whole(authority)?),
            secret: JoinSecret(whole(secret)?),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_word_and_nothing_shows_its_secret() {
        let secret = JoinSecret::generate().unwrap();
        let token = JoinToken {
            authority: Fingerprint::of(b"certificate"),
            secret,
        };
        let word = token.word();
        assert_eq!(word.parse::<JoinToken>().unwrap(), token);
        assert_eq!(word.len(), PREFIX.len() + 86);
        assert!(
            word.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        );
        let secret = serde_json::to_string(&token.secret).unwrap();
        assert_eq!(
            serde_json::from_str::<JoinSecret>(&secret).unwrap(),
            token.secret
        );
        assert!(!format!("{token:?}").contains(secret.trim_matches('"')));
        for wrong in [
            "",
            "sjoin_",
            &word[1..],
            &word[..90],
            &format!("{word}A"),
            "strat_abc",
        ] {
            assert!(wrong.parse::<JoinToken>().is_err(), "{wrong}");
        }
    }
}
