//! Whose a chain of X.509 certificates is, and whether to believe it: authorities and their revocation lists, proxy
//! certificates (RFC 3820 and its predecessors), attribute certificates of virtual organisations (VOMS).
//!
//! - [`Authorities`]: whom to believe, made of the files of a site; [`Authorities::verify`] is the question.
//! - [`name`]: names in certificates as [`DistinguishedName`](cimi::dn::DistinguishedName).
//! - [`possession`]: whether somebody has the key of a certificate.
//! - [`voms`]: what a virtual organisation says of somebody.
//!
//! No I/O, and no clock of its own: whoever asks says what time it is. All of it works on what strangers send, so nothing
//! panics and all work is bounded.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that panics has failed")
)]

mod authorities;
mod chain;
mod der;
mod holder;
pub mod name;
mod policy;
pub mod possession;
mod proxy;
mod refusal;
mod signature;
pub mod voms;

pub use authorities::{Authorities, FileProblem, Revocation};
pub use holder::{Attribute, Holder};
pub use refusal::Refusal;
pub use rustls_pki_types::{CertificateDer, UnixTime};
