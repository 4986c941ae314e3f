//! Making a signature: the shape that verification asks for, as StratusLab's signer writes it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{C14N_WITH_COMMENTS, ENVELOPED, Hash};
use crate::error::Error;
use crate::key::SigningKey;
use crate::namespaces::XMLDSIG;
use crate::xml::canonical::{self, Comments};
use crate::xml::{Source, is};

/// Columns of Base64 text.
const COLUMNS: usize = 76;

/// Appends a signature to a document that has none. `hash` matters for RSA only; curves have their own.
///
/// # Errors
/// [`Error::NotXml`]; [`Error::UnusableKey`] if the key can't sign so.
pub fn sign(unsigned: &str, key: &SigningKey, hash: Hash) -> Result<String, Error> {
    let (method, hash) = key.method(hash);
    let source = Source::read(unsigned.as_bytes())?;
    let tree = source.parse()?;
    let contents = canonical::document(tree.root_element(), None, Comments::Dropped)?;
    let place = end_of(source.text(), tree.root_element().range().end)?;
    let (before, after) = source
        .text()
        .split_at_checked(place)
        .ok_or_else(|| Error::NotXml("the end of rdf:RDF is missing".to_owned()))?;

    let head = format!(
        "<Signature xmlns=\"{XMLDSIG}\"><SignedInfo><CanonicalizationMethod Algorithm=\"{C14N_WITH_COMMENTS}\"/><SignatureMethod Algorithm=\"{}\"/>\
         <Reference URI=\"\"><Transforms><Transform Algorithm=\"{ENVELOPED}\"/></Transforms><DigestMethod Algorithm=\"{}\"/><DigestValue>{}</DigestValue></Reference></SignedInfo><SignatureValue>",
        method.uri(),
        hash.uri(),
        wrapped(hash.digest(&contents).as_ref()),
    );
    let tail = format!(
        "</SignatureValue><KeyInfo><X509Data><X509Certificate>{}</X509Certificate></X509Data></KeyInfo></Signature>",
        wrapped(key.certificate().der())
    );
    // What is signed is canonical in its place, so the place comes first.
    let signed_info = {
        let text = format!("{before}{head}{tail}{after}");
        let source = Source::read(text.as_bytes())?;
        let tree = source.parse()?;
        let element = tree
            .descendants()
            .find(|node| is(*node, XMLDSIG, "SignedInfo"))
            .ok_or_else(|| Error::NotXml("the signature is missing".to_owned()))?;
        canonical::element(element, Comments::Kept)?
    };
    let value = wrapped(&key.sign(method, &signed_info)?);
    Ok(format!("{before}{head}{value}{tail}{after}"))
}

/// Where the end tag of an element begins that ends at `end`.
pub fn end_of(text: &str, end: usize) -> Result<usize, Error> {
    text.get(..end)
        .and_then(|text| text.rfind("</"))
        .ok_or_else(|| Error::NotXml("an end tag is missing".to_owned()))
}

fn wrapped(bytes: &[u8]) -> String {
    let text = STANDARD.encode(bytes);
    let mut out = String::with_capacity(text.len() + text.len() / COLUMNS);
    for (index, character) in text.chars().enumerate() {
        if index > 0 && index % COLUMNS == 0 {
            out.push('\n');
        }
        out.push(character);
    }
    out
}
