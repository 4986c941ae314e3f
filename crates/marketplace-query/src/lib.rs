//! A bounded part of SPARQL 1.1 over the catalogue of a Marketplace.
//!
//! For who asks what listings can't answer. `SELECT` only: triples (with `;`, `,`, `[ ]` and `a`), `OPTIONAL`, `UNION`, `FILTER` (comparisons,
//! `regex`, `bound`, `EXISTS`, `NOT EXISTS`, functions on text), sub-`SELECT`, `DISTINCT`, `GROUP BY` with `COUNT`, `MIN`, `MAX`, `SAMPLE`, `ORDER BY`, `LIMIT`,
//! `OFFSET`. What isn't supported is refused by its name; so is what asks for more than a query may have.
//!
//! What is asked are the statements of each entry, history included, as far as the catalogue has them ([`data`]). All literals are plain
//! text: times compare as text.
//!
//! The crate promises: no I/O and no clock; whatever the text of a query, it ends, after a bounded number of steps, with bounded memory.
//!
//! - [`token`], [`parse`], [`syntax`]: from text to a query
//! - [`data`]: the statements
//! - [`evaluate`], [`expression`], [`select`]: the answer
//! - [`Table`]: the answer in the forms of W3C's "SPARQL Query Results"
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::panic,
        reason = "a test that panics has failed"
    )
)]

mod data;
mod error;
mod evaluate;
mod expression;
mod parse;
mod select;
mod syntax;
mod table;
mod term;
mod token;

pub use data::Snapshot;
pub use error::Error;
pub use evaluate::Limits;
pub use syntax::Query;
pub use table::{Table, Value, escaped};
