//! The XML form (DSP0263 §4.1.2, 1.0.1), by the same table as JSON.
//!
//! What differs from JSON: the root's name is the type (a collection's is `Collection`, with its type
//! in `resourceURI`); what may be there several times stands in elements of the singular name with
//! nothing around them; maps are elements with a `key`; references have their `href` in the tag.
//!
//! - [`render`], [`render_collection`]: what goes out.
//! - [`read`]: what comes in, as the JSON value that says the same. What it means is then looked at by
//!   [`check`](super::check) and its like, which know nothing of XML.
//!
//! A text keeps its blanks at both ends on the way out and back: they are written as character
//! references, and only those written as they are don't count.

mod content;
mod error;
mod escape;
mod read;
mod text;
mod write;

pub use content::Expected;
pub use error::XmlError;
pub use escape::{escape_attribute, escape_text};
pub use read::read;
pub use write::{render, render_collection};

#[cfg(test)]
mod survival;
