//! Password hashes: every format that an account of StratusLab, of a directory or of Unix may bring, and the one that
//! new ones get.
//!
//! No policy, no accounts, no I/O; both programs use it. All checks take a time that doesn't depend on where two hashes
//! differ, and no more memory and time than [`Stored`] lets through, whatever a stored hash asks for.
//!
//! - [`Cost`]: what a new hash costs, and [`Cost::hash_blocking`] which makes one (argon2id).
//! - [`Stored`]: a hash as it is kept, and [`Stored::verify_blocking`].
//! - [`des`], [`obfuscated`]: the old `crypt(3)`, and Jetty's reversible obfuscation.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that panics has failed")
)]

mod argon;
pub mod des;
pub mod obfuscated;
mod stored;

pub use argon::Cost;
pub use stored::{BCRYPT_READS_BYTES, Scheme, Stored};
