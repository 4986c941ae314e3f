//! CIMI in JSON: one set of handlers for all types, driven by the table of [`cimi::model`].

mod handlers;
pub(crate) mod negotiation;
mod rendered;

pub(crate) use handlers::{Asked, Cimi};
