//! Who somebody is: users, password verification, lock-out.
//!
//! This crate decides whether credentials are right and what roles follow from them. What a role
//! may do is decided in `cloud`.
//!
//! - [`Accounts`]: verifies user names and passwords.
//! - [`certificate_file`]: StratusLab's file of owners of certificates.
//! - [`certified`]: client certificates.
//! - [`directory`]: users of a directory, whoever asks it.
//! - [`Hashing`]: rations the slow computing of hashes, for logins and new passwords alike.
//! - [`files`]: StratusLab's file of users.
//! - [`token`]: what programs log in with; [`session`]: browsers that somebody is logged in with.
//! - [`oidc`]: logging in by a provider of identities.
//! - [`methods`]: which ways to log in there are.
//! - [`password`]: policy, hashing, generation; the formats are those of crate `passwords`.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that panics has failed")
)]

mod accounts;
mod attempts;
pub mod certificate_file;
pub mod certified;
pub mod directory;
pub mod files;
mod hashing;
mod identity;
pub mod methods;
pub mod oidc;
pub mod password;
mod recent;
mod refusals;
pub mod session;
mod source;
pub mod token;

pub use accounts::{Accounts, LoginError, Settings};
pub use certificates::Authorities;
pub use certified::Shown;
pub use directory::{Directory, DirectoryError};
pub use hashing::{HashError, Hashing, network_of};
pub use identity::{ByToken, Identity, Method};
pub use methods::Methods;
pub use passwords::Cost;
pub use source::UserSource;
