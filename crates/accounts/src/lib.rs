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
//! - [`methods`]: which ways to log in there are.
//! - [`token`]: what programs log in with.
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
pub mod password;
mod recent;
pub mod token;

pub use accounts::{Accounts, LoginError, Settings, UserSource};
pub use certificates::Authorities;
pub use certified::Shown;
pub use directory::{Directory, DirectoryError};
pub use hashing::{HashError, Hashing};
pub use identity::{ByToken, Identity, Method};
pub use methods::Methods;
pub use passwords::Cost;
