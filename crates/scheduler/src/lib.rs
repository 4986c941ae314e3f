//! Where machines run: crate [`placement`] decides, [`Scheduler`] watches the documents and writes the decisions.
//!
//! The promise: no host is ever given more than it offers, not even by a burst of machines at once; no machine waits
//! for another's write; nothing is polled. A machine for which there is no room says why, and is placed as soon as room
//! is made. Any number of them works over one store: of these one decides. A machine deleted before it had a host is released here, since no host will.

#![forbid(unsafe_code)]

mod controller;
mod decisions;
mod turn;
mod ways;
mod wishes;

pub use controller::Scheduler;
