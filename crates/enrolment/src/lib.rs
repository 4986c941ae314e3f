//! Entries of people, written to an LDAP directory: the tree that StratusLab's registration writes, so that what reads it
//! there goes on.
//!
//! The crate promises: every call ends within seconds, whatever the server does; every call can be repeated and does what is
//! missing; what people wrote (names, addresses) can't change which entry is meant.
//!
//! | module | holds |
//! |---|---|
//! | `entries` | [`LdapEntries`], the implementation of [`cloud::people::Directory`] |
//! | `connection` | where the server is, and the manager's login |
//! | `name` | names of entries |
//! | `password` | passwords as entries have them |

#![forbid(unsafe_code)]

mod connection;
mod entries;
mod name;
mod password;

pub use connection::{ConnectError, Server};
pub use entries::LdapEntries;
