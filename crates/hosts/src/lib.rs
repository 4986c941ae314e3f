//! What a host is trusted with: the [`Rules`](store::Rules) by which a gateway answers it. Pure: no I/O, no clock.
//!
//! The promise: whatever a host asks for, it sees only its own document, its pulse and the machines placed on it, and changes of
//! them only what it is there to observe. Everything else isn't there for it.
//!
//! | module | holds |
//! |---|---|
//! | [`HostRules`] | who sees a document, and which changes are looked at |
//! | `machine` | what a host may say of a machine placed on it |
//! | `own` | what a host may say of itself |
//!
//! They are those of the entry's door for hosts. What a host needs beside (images, volumes, networks) is not in its sight yet,
//! and what a controller of machines writes in the same transaction as a report (events, records of use, the release of a
//! machine) is refused: `docs/contributor/hosts.md` says what has to come first. So no host that joins says yet that it takes
//! machines.

#![forbid(unsafe_code)]

mod machine;
mod own;
mod rules;

pub use rules::HostRules;
