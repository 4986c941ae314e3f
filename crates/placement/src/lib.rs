//! Which host a machine goes to. Pure: no I/O, no clock, no store; the scheduler, the rules and the simulator call the same.
//!
//! The promise: no host is ever given more than it offers; the same account gives the same decision; who gets no host is told
//! why in words for people; a decision among ten thousand hosts takes a fraction of a millisecond.
//!
//! | module | holds |
//! |---|---|
//! | [`Demand`], [`Policy`] | what machines use up; how hosts are filled |
//! | `host` | a host as placement sees it, and its attributes by name |
//! | [`Requirements`], [`Rank`] | a user's expressions over these attributes: which hosts may be, which are liked best |
//! | [`Wish`] | what one machine wants |
//! | [`place`] | the choice itself |
//! | [`NoRoom`] | why there was none |
//! | [`Fleet`] | all hosts and what is booked on each, kept up to date machine by machine |

#![forbid(unsafe_code)]

mod choose;
mod demand;
mod fleet;
mod host;
mod no_room;
mod policy;
mod rank;
mod requirements;
mod wish;

pub use choose::place;
pub use demand::Demand;
pub use fleet::Fleet;
pub use host::{HostFacts, HostLoad, HostState, Means, Members};
pub use no_room::{Kinds, NoRoom};
pub use policy::{Policy, Strategy};
pub use rank::{Rank, RankSyntax};
pub use requirements::{RequirementSyntax, Requirements};
pub use wish::{Group, Togetherness, Way, Wish};
