//! Who somebody is: users, password verification, lock-out.
//!
//! This crate decides whether credentials are right and what roles follow from them. What a role
//! may do is decided in `cloud`.
//!
//! - [`Accounts`]: verifies user names and passwords.
//! - [`password`]: policy, hashing, generation.

#![cfg_attr(test, allow(clippy::unwrap_used))] // a test that panics has failed

mod accounts;
mod attempts;
mod identity;
pub mod password;
mod recent;

pub use accounts::{Accounts, LoginError, Settings, UserSource};
pub use identity::Identity;
