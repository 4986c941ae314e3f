//! What a cloud of any size would do: hosts and arrivals as a scenario describes them, in virtual time, placed by the very function
//! that the scheduler calls. For planning capacity, and for our own tests.
//!
//! The promise: the same scenario gives the same placements; no host is ever given more than it offers; the only thing that
//! depends on the computer is how long decisions take.
//!
//! | module | holds |
//! |---|---|
//! | [`Scenario`] | what is simulated, read from TOML or made of two numbers |
//! | [`simulate`] | the run |
//! | [`Report`] | what came of it: figures, course, a page with charts |

#![forbid(unsafe_code)]

mod chart;
mod report;
mod run;
mod scenario;

pub use report::{Balance, Decisions, Moment, Report, Waiting};
pub use run::simulate;
pub use scenario::{Hosts, Machines, Maintenance, Policy, Scenario, ScenarioError, Strategy};
