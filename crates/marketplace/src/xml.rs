//! XML of strangers: bounded, without document types, and in the one form that signatures are made of.

mod bounds;
pub mod canonical;
mod tree;

pub use bounds::{Bounds, scan};
pub use tree::{Source, children, is, text_of};

/// The longest document that is read. Entries have about 5,000 bytes.
pub const MAX_BYTES: usize = 1 << 20;
