//! XML signatures of the one profile that documents have.
//!
//! The shape is checked first, element by element, and anything else than the profile is refused *before* any cryptography:
//! one signature, the last child of the root; one reference, to the whole document, through the enveloped-signature transform; no
//! objects; one certificate, from which both key and identity are taken. What is then verified is the document that is read.

mod algorithm;
pub(crate) mod rsa_sha1;
mod shape;
mod sign;
mod verify;

pub use algorithm::{Hash, Method};
pub(crate) use sign::sign;
pub(crate) use verify::verify;

/// Appends a signature to a document as it is, whatever it says: for tests of what readers refuse. Endorsers use
/// [`draft::endorsed`](crate::draft::endorsed).
///
/// # Errors
/// As there.
#[doc(hidden)]
pub fn sign_as_is(unsigned: &str, key: &crate::SigningKey) -> Result<String, crate::Error> {
    sign(unsigned, key, Hash::Sha256)
}

/// Canonical XML 1.0 without comments.
const C14N: &str = "http://www.w3.org/TR/2001/REC-xml-c14n-20010315";
/// Canonical XML 1.0 with comments.
const C14N_WITH_COMMENTS: &str = "http://www.w3.org/TR/2001/REC-xml-c14n-20010315#WithComments";
/// The transform that takes the signature out of the document it is in.
const ENVELOPED: &str = "http://www.w3.org/2000/09/xmldsig#enveloped-signature";
