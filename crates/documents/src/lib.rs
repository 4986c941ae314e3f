//! The cloud's documents in the store: where the resource types of `cimi` meet the transactions of `store`.
//!
//! - [`Doc`] makes a resource a cacheable document.
//! - [`Documents`] holds one cache a collection, all fed by one watch: what every read is served from.
//! - [`Changes`] is a typed transaction: all documents of a step are written, or none is.
//! - [`usage`] is what was used: records that [`Changes`] writes by itself, and that are read from the store.
//! - [`room`] is how controllers keep to quotas they don't know.
//! - [`step`] is a machine's step, taken by the controllers that run or end machines, with what follows from it.
//!
//! Everybody who reads or writes documents does it through this crate; it knows no rules.

mod changes;
mod doc;
mod error;
mod registry;
pub mod room;
pub mod step;
pub mod usage;

pub use changes::Changes;
pub use doc::{Doc, PART};
pub use error::DocumentsError;
pub use registry::{Cached, Documents, OfType, Registry, View};
