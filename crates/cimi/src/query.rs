//! What a client asks of a list: `$filter`, `$orderby`, `$first`, `$last`, `$select`,
//! `$expand` (DSP0263 §4.1.6).
//!
//! Documents answer through [`Attributes`], so that nothing builds JSON to be filtered or sorted.

mod attributes;
mod filter;
mod order;
mod page;
mod parse;
mod select;

pub use attributes::{Attributes, Scalar};
pub use filter::{Comparison, Filter, Literal};
pub use order::{OrderKey, OrderSyntax};
pub use page::{MEMBERS_AT_MOST, Query, QueryError};
pub use parse::FilterSyntax;
pub use select::Select;
