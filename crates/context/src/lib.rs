//! Contextualization: how a machine learns who it is.
//!
//! Everything here is pure: bytes and values in, bytes and values out, no file is opened and no
//! clock is read. The command-line client uses [`encoding`] to turn what the user typed into
//! variables; the service uses [`decoding`] to turn variables back into what a guest is given; the
//! VM host turns a [`Context`] into the two media ([`context_medium`], [`nocloud`]) and writes them
//! with [`iso9660`].
//!
//! What users typed is hostile until it went through [`Variables`], [`AuthorizedKeys`],
//! [`HostName`] or [`decoding`]; the media writers quote every value all the same.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::panic,
        reason = "a test that panics has failed"
    )
)]

pub mod context_medium;
pub mod decoding;
pub mod encoding;
mod error;
mod guest;
pub mod iso9660;
mod keys;
pub mod limits;
mod medium;
mod names;
pub mod nocloud;
mod public_key;
mod shell;
mod user_data;
mod variables;
mod yaml;

pub use error::{ContextError, Result};
pub use guest::{Context, ContextMethod, Ipv4Settings, Ipv6Settings, Nic};
pub use keys::AuthorizedKeys;
pub use medium::MediumFile;
pub use names::{HostName, MacAddress};
pub use public_key::check_public_keys;
pub use user_data::UserData;
pub use variables::{VariableName, Variables};
