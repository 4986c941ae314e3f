//! Systems: several resources as one.
//!
//! ```text
//! create ──▶ components, none made ──one after the other──▶ all made, their jobs ended ──▶ the state of the parts
//!                   │ one can't be made
//!                   ▼
//!                 ERROR; what was made stays, and goes with the system
//!
//! start, stop, restart ──▶ each part asked, once ──▶ their jobs ended ──▶ the state of the parts
//! delete ──▶ what was made for it deleted, last made first ──▶ no document
//! ```
//!
//! All components are rehearsed before the system is made: what can't be made is refused at once, as it is by itself.
//! A request only writes down what is wanted; [`tend`] does it, a step at a time, each written down before the next, so
//! that whoever is killed goes on where it was. What was created but not noted is found by its mark
//! ([`cimi::Common::part_of`]).

mod components;
mod create;
mod jobs;
mod members;
mod operate;
mod rehearse;
mod state;
mod tend;

pub(crate) use components::check_components;
pub(crate) use jobs::{can_stop_parts, progress_of_parts};
pub(crate) use tend::tend;
