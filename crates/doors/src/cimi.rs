//! CIMI in JSON and XML: one set of handlers for all types, driven by the table of [`cimi::model`].

mod answers;
mod conditions;
mod expand;
mod handlers;
pub(crate) mod negotiation;
mod rendered;
mod sent;

pub(crate) use handlers::{Asked, Cimi};
