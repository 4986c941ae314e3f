//! Who somebody is: users, password verification, lock-out.
//!
//! This crate decides whether credentials are right and what roles follow from them. What a role
//! may do is decided in `cloud`.

mod identity;

pub use identity::Identity;
