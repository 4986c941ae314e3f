//! The client's side: from what a user typed to the variables that are sent.
//!
//! Encodings and messages are those of the StratusLab command-line client, so that its scripts and files go on working.
//! Files are read through a closure given by the caller; this crate opens nothing.

mod cloud_init;
mod context_text;
mod mime;

pub use cloud_init::{
    CloudInit, MimePair, encode_cloud_init, parse_cloud_init_arguments, parse_cloud_init_option,
};
pub use context_text::{parse_context_file, parse_context_option};
pub use mime::{Part, multipart};

use crate::error::Result;
use crate::keys;

/// The variable that carries the user's public keys.
pub const PUBLIC_KEY: &str = "PUBLIC_KEY";
/// The variable that chooses the contextualization method.
pub const CONTEXT_METHOD: &str = "CONTEXT_METHOD";
/// The variable with the keys of `ssh` pairs, in base64.
pub const CLOUD_INIT_AUTHORIZED_KEYS: &str = "CLOUD_INIT_AUTHORIZED_KEYS";
/// The variable with the user data, gzip in base64.
pub const CLOUD_INIT_USER_DATA: &str = "CLOUD_INIT_USER_DATA";

/// The value of `public_key` for the text of a key file: without `Comment:` lines, the rest unchanged (the final newline too).
///
/// # Errors
/// [`ContextError::PrivateKey`](crate::ContextError::PrivateKey), naming `file`.
pub fn public_key_value(text: &str, file: &str) -> Result<String> {
    keys::refuse_private_key(text, file)?;
    Ok(text
        .split_inclusive('\n')
        .filter(|line| !line.trim_start().starts_with("Comment:"))
        .collect())
}
