//! What a client asks of a list: `$filter`, `$orderby`, `$first`, `$last`, `$select`
//! (DSP0263 §4.1.6).

mod attributes;

pub use attributes::{Attributes, Scalar};

mod select;

pub use select::Select;

/// What a client asks of a list.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Which attributes the answer shows.
    pub select: Select,
}
