//! The table of public attributes: what every type looks like to the outside.
//!
//! One static description a type ([`Type`]), from which follow the checking of what comes in
//! ([`check`]), the form of what goes out ([`render`]), and later XML and ResourceMetadata.
//! Nothing else in the program lists attribute names for these purposes.

mod changes;
mod kind;
mod violation;

pub use changes::Changes;
pub use kind::Kind;
pub use violation::Violation;
