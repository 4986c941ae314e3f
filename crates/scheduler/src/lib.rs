//! Where machines run: [`placement`] decides, [`Scheduler`] watches the documents and writes the decisions.
//!
//! The promise: no host is ever given more than it offers, not even by a burst of machines at once; no machine waits
//! for another's write; nothing is polled. A machine for which there is no room says why, and is placed as soon as room
//! is made. A machine deleted before it had a host is released here, since no host will.

#![forbid(unsafe_code)]

pub mod placement;
pub mod requirements;

mod controller;
mod ledger;

pub use controller::Scheduler;
pub use placement::{Demand, HostLoad, NoRoom, Policy, Strategy, place};
pub use requirements::{HostFacts, RequirementSyntax, Requirements};
