//! What a host is trusted with: the [`Rules`](store::Rules) by which a gateway answers it. Pure: no I/O, no clock.
//!
//! The promise: whatever a host asks for, it sees only its own document and the machines placed on it, and changes of
//! them only what it is there to observe. Everything else isn't there for it.
//!
//! | module | holds |
//! |---|---|
//! | [`HostRules`] | who sees a document, and which changes are looked at |
//! | `machine` | what a host may say of a machine placed on it |
//! | `own` | what a host may say of itself |
//!
//! These are the first rules of hosts, and no role uses them yet: what a host needs beside (images, volumes, networks) is
//! not in its sight, and what its controller writes today in the same transaction as a report (events, records of use,
//! the release of a machine) is refused. `docs/contributor/hosts.md` says what has to come first.

#![forbid(unsafe_code)]

mod machine;
mod own;
mod rules;

pub use rules::HostRules;
