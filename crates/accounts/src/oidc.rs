//! Logging in by a provider of identities: OpenID Connect, authorization code with PKCE.
//!
//! - `settings`: which provider, and what its claims mean here.
//! - `provider`: what the provider says of itself, and its keys; fetched, bounded, kept for a while.
//! - `id_token`: whether a token is the provider's, for us, of now, and of this login. No I/O.
//! - `configured`: the provider that is configured now.
//! - `login`: the two ends of a login: off to the provider, and back from it.
//!
//! Verification is our own on `ring`, which is in the tree anyway, rather than the crate `openidconnect`: that brings a second
//! implementation of RSA and elliptic curves and some fifty crates for a check of one signature and six claims.

mod configured;
mod id_token;
mod login;
mod provider;
mod settings;

use std::time::Duration;

use crate::Methods;

pub use configured::Configured;
pub use login::{Begun, Oidc, Person, Returned};
pub use settings::{OidcSettings, SettingsError};

/// Where accounts come from that a provider vouched for first.
pub const SOURCE: &str = "oidc";

/// Longest wait for one answer of a provider.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Most bytes of an answer that are read.
const ANSWER_AT_MOST: usize = 256 << 10;
/// How far the provider's clock may be off.
const CLOCK_SKEW_SECONDS: i64 = 120;

impl Methods {
    /// Whether a provider is asked.
    #[must_use]
    pub fn asks_provider(&self) -> bool {
        self.oidc.as_ref().is_some_and(|oidc| oidc.enabled)
    }
}

/// Why a login by a provider failed. The texts are for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OidcError {
    /// The provider can't be reached, is slow, or answers nonsense.
    #[error("the login provider {0}; try again later, or log in with a password")]
    Provider(String),
    /// The user, or the provider, said no.
    #[error("the login provider refused: {0}")]
    Refused(String),
    /// What came back isn't of a login that this browser began, or was used before, or took too long.
    #[error("this login was not begun here, or took too long; begin anew")]
    NotBegun,
    /// The provider's token isn't what it has to be.
    #[error("the login provider's answer can't be trusted: {0}")]
    Token(&'static str),
    /// Nobody of this name may come in.
    #[error("{0}")]
    Unwelcome(String),
}
