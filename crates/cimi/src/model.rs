//! The table of public attributes: what every type looks like to the outside.
//!
//! One static description a type ([`Type`]), from which follow the checking of what comes in
//! ([`check`], [`check_changes`]), the form of what goes out ([`render`], [`render_collection`]),
//! the same in XML ([`xml`]), what is told of the types themselves ([`metadata`], [`schema`]). Nothing else in the program lists attribute names for these
//! purposes. To add a type: a name in `kind.rs`, a description in `table.rs`.

mod asked;
mod changes;
mod check;
mod describe;
mod further;
mod kind;
mod metadata;
mod overlay;
mod reference;
mod render;
mod scalar;
pub mod schema;
mod table;
mod violation;
pub mod xml;

pub use asked::check_query;
pub use changes::{Changes, check_changes};
pub use check::{check, check_action};
pub use describe::{
    Access, Attribute, Capability, Collection, Creation, Limit, Namespace, Place, Shape, Type,
};
pub use further::FURTHER;
pub use kind::Kind;
pub use metadata::metadata;
pub use overlay::overlay;
pub use reference::relative;
pub use render::{Operations, Representation, render, render_collection, strangers};
use table::COMPONENTS;
pub use table::{COMMON, describe};
pub use violation::Violation;
