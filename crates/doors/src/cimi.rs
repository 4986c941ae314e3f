//! CIMI in JSON and XML: one set of handlers for all types, driven by the table of [`cimi::model`].

mod answers;
mod conditions;
pub(crate) mod events;
mod expand;
mod fixed;
mod handlers;
pub(crate) mod negotiation;
mod rendered;
mod sent;

pub(crate) use handlers::{Asked, Cimi};
