//! The whole control plane in virtual time, for tests: entries with rules and schedulers, the storage, hosts with their controllers over
//! simulated guests, and the store that they share, in a schedule of crashes, cuts, lost and late messages and jumps of clocks which a
//! seed decides.
//!
//! ```text
//!   users ──▶ entry 0..2 (cloud, scheduler) ──wire──┐
//!             storage (controller of volumes) ─wire─┤── MemoryStore: one history, in virtual time
//!             host 0..3 (VmHost, pulse) ──wire─gate─┘
//!                └─ guests, guard: outlive the daemon
//! ```
//!
//! The code is that of the product; what stands in for something are the store (which passes the suite that every store has to
//! pass), the wires, the guests, and the few lines by which `stratusd` starts what it is made of. What hosts see and write goes by the
//! gateway's rules for hosts.
//!
//! | module | holds |
//! |---|---|
//! | [`clock`] | what time it is |
//! | [`store`] | the store |
//! | [`wire`] | what is between a daemon and the store |
//! | [`gate`] | what hosts see and may write, and what follows from it |
//! | [`node`] | a daemon that can be killed anywhere |
//! | [`fuse`] | also between two writes to its disk |
//! | [`entry`], [`host`] | what each kind of daemon is made of |
//! | [`ledger`] | what users asked for and were told |
//! | [`world`] | a schedule, and what has to hold at each moment and in the end |

#![forbid(unsafe_code)]

pub mod clock;
pub mod entry;
pub mod fuse;
pub mod gate;
pub mod host;
pub mod ledger;
pub mod node;
pub mod store;
pub mod wire;
pub mod world;
