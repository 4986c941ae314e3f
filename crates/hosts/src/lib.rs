//! What a host is trusted with: the [`Rules`](store::Rules) by which a gateway answers it.
//!
//! The promise: whatever a host asks for, it sees only its own document, its pulse, the machines placed on it and what these
//! need (images, networks, ports, security groups, volumes); and changes of the machines only what it is there to observe, or that one is gone
//! which is to go. Everything else isn't there for it.
//!
//! | module | holds |
//! |---|---|
//! | [`HostRules`] | who sees a document, which changes are looked at, what follows from them |
//! | `allowance` | how many runs it may end |
//! | `machine` | what a host may say of a machine placed on it |
//! | `own` | what a host may say of itself |
//! | `said` | what is written of what it says: in what isn't its own the entry's, so that older hosts erase nothing |
//!
//! What may be seen and written is decided without I/O and clock. What follows, in documents that a host can't write, is made
//! by [`documents::step`], as it is for the machines of the entry's own host.

#![forbid(unsafe_code)]

mod allowance;
mod machine;
mod own;
mod rules;
mod said;

pub use rules::HostRules;
