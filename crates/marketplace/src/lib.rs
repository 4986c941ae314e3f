//! Signed descriptions of images: what a Marketplace holds and what a cloud believes about an image.
//!
//! An entry of a Marketplace is an RDF/XML document that names an image by its contents, says what it is and where it can be
//! fetched, and carries the signature of its *endorser*. This crate reads, writes, signs and verifies such documents. Everything
//! here is a pure function of its arguments: no network, no files, no clock. What comes from outside is bounded before it is parsed.
//!
//! - [`identifier`], [`digest`]: the name of an image's contents, and the checksums.
//! - [`metadata`]: the document: [`Metadata`] is read from a draft or a signed entry, and written as a draft.
//! - [`entry`]: [`Entry`], a document whose signature was verified: the only thing to be believed.
//! - [`draft`]: changes of a document's text before it is signed: endorsement, deprecation, location.
//! - [`key`]: keys and certificates of endorsers, from PKCS#12 and PEM.
//! - [`signature`]: the one profile of XML signatures there is.
//! - [`policy`]: which entries a site accepts.
//! - [`rdf`]: a document as statements, in JSON.
//! - [`list`]: several documents in one, as Marketplaces answer.
//! - [`catalogue`]: many entries in memory, searched.
//!
//! ```
//! # fn main() -> Result<(), marketplace::Error> {
//! let document = include_bytes!("../tests/data/signed.xml");
//! let entry = marketplace::Entry::verify(document)?;
//! assert_eq!(entry.endorsement().email, "alice@example.org");
//! assert_eq!(entry.metadata().bytes, 1_048_576);
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::panic,
        reason = "a test that panics has failed"
    )
)]

pub mod catalogue;
pub mod certificate;
pub mod date;
pub mod digest;
mod distinguished_name;
pub mod draft;
pub mod entry;
mod error;
pub mod identifier;
pub mod key;
pub mod list;
pub mod metadata;
mod namespaces;
pub mod policy;
pub mod rdf;
pub mod results;
pub mod signature;
mod xml;

pub use certificate::Certificate;
pub use date::UtcTime;
pub use entry::Entry;
pub use error::Error;
pub use identifier::ImageIdentifier;
pub use key::SigningKey;
pub use metadata::{Checksums, Endorsement, Metadata};
pub use xml::MAX_BYTES;
