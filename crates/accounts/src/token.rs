//! Tokens: what programs log in with in place of a password.
//!
//! A token is as good as unguessable, so it is kept as a plain digest, found by it, and costs no slow hash; nobody has to
//! be kept from guessing.

use std::{net::IpAddr, sync::Arc};

use cimi::{
    Timestamp,
    resources::{Token, TokenScope},
};
use rand::{Rng, TryRngCore, distr::Alphanumeric, rngs::OsRng};
use ring::digest;

use crate::{
    Accounts, Identity, LoginError,
    identity::{ByToken, Method},
};

/// What every token begins with, so that people and scanners of repositories know one.
pub const PREFIX: &str = "strat_";
/// Letters and digits after the prefix: 238 bits.
const SECRET_LENGTH: usize = 40;
/// Uses within so many milliseconds of one that was written down aren't.
const NOTED_EVERY_MILLIS: u64 = 60_000;

/// A new token.
#[must_use]
pub fn generate() -> String {
    let secret = OsRng
        .unwrap_err()
        .sample_iter(Alphanumeric)
        .take(SECRET_LENGTH)
        .map(char::from);
    PREFIX.chars().chain(secret).collect()
}

/// Whether this could be a token.
#[must_use]
pub fn looks_like_one(text: &str) -> bool {
    text.strip_prefix(PREFIX).is_some_and(|secret| {
        secret.len() == SECRET_LENGTH && secret.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// What is kept of a token.
#[must_use]
pub fn digest(token: &str) -> String {
    hexadecimal(digest::digest(&digest::SHA256, token.as_bytes()).as_ref())
}

/// The digest itself.
#[must_use]
pub fn sha256(text: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    bytes
}

/// Bytes as two digits each.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(digit.into(), 16));
        }
    }
    text
}

impl Accounts {
    /// Whose token this is, and what can be done with it. With `login`, only if it is of the user who logs in so.
    ///
    /// # Errors
    /// [`LoginError::Token`] for one that is unknown, revoked, expired, or of somebody who can't log in.
    pub async fn by_token(
        &self,
        token: &str,
        login: Option<&str>,
        address: Option<IpAddr>,
    ) -> Result<Arc<Identity>, LoginError> {
        if !looks_like_one(token) {
            return Err(LoginError::Token);
        }
        let now = Timestamp::now();
        let found = self.source.find_token(&digest(token));
        let token = found
            .filter(|token| now < token.expires)
            .filter(|token| login.is_none_or(|login| login == token.user))
            .ok_or(LoginError::Token)?;
        let user = self
            .usable(&token.user)
            // Not of somebody else who has the name now.
            .filter(|user| user.username == token.user)
            .filter(|user| user.common.created <= token.common.created)
            .ok_or(LoginError::Token)?;
        let user = self.confirmed(user).await.ok_or(LoginError::Token)?;
        if is_news(&token, now, address) {
            self.source.token_used(&token, now, address).await;
        }
        Ok(Arc::new(Identity {
            token: Some(ByToken {
                id: token.id.clone(),
                is_read_only: token.scope == TokenScope::ReadOnly,
                types: token.types.clone().into(),
            }),
            ..Identity::of(&user).by(Method::Token)
        }))
    }
}

/// Whether a use is worth writing down.
fn is_news(token: &Token, now: Timestamp, address: Option<IpAddr>) -> bool {
    let address = address.map(|address| address.to_string());
    token.last_address != address
        || token
            .last_used
            .is_none_or(|last| now.since(last).as_millis() >= u128::from(NOTED_EVERY_MILLIS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_are_known_by_their_looks() {
        let (a, b) = (generate(), generate());
        assert_ne!(a, b);
        assert!(looks_like_one(&a) && looks_like_one(&b), "{a} {b}");
        for text in ["", PREFIX, &a[1..], &format!("{a}x"), &a.replace('_', "-")] {
            assert!(!looks_like_one(text), "{text}");
        }
    }

    #[test]
    fn what_is_kept_is_sha_256() {
        assert_eq!(
            digest("abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
