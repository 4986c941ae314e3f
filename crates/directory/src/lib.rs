//! A directory of users, by LDAP (RFC 4511): who has this name, is this the password, which groups is somebody in.
//!
//! - [`LdapDirectory`]: the questions that logins ask.
//! - [`Writable`]: a server that somebody who may writes to.
//!
//! The few messages that this takes are written and read here: the filters are made of values, never of text, so nothing
//! needs escaping; every answer is bounded in size and time; nothing that a server sends makes anything panic.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that panics has failed")
)]

mod ber;
mod connection;
mod message;
mod questions;
mod tls;
mod writing;

pub use message::{Change, Entry};
pub use questions::LdapDirectory;
pub use writing::{Writable, WriteError, Writer, check_url};
