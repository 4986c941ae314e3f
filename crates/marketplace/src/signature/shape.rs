//! The only shape of a signature that is looked at further. No cryptography here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use roxmltree::Node;

use super::{C14N, C14N_WITH_COMMENTS, ENVELOPED, Hash, Method};
use crate::error::Error;
use crate::metadata::schema::shown;
use crate::namespaces::XMLDSIG;
use crate::xml::canonical::Comments;
use crate::xml::{is, text_of};

/// A certificate and the few that vouch for it.
const MAX_CERTIFICATES: usize = 8;

/// A signature of the right shape.
pub struct Shape<'a, 'input> {
    pub signed_info: Node<'a, 'input>,
    /// Whether comments inside `SignedInfo` belong to what was signed.
    pub comments: Comments,
    pub method: Method,
    pub hash: Hash,
    pub digest: Vec<u8>,
    pub signature: Vec<u8>,
    /// DER of the signer's certificate first, then of those that vouch for it.
    pub certificates: Vec<Vec<u8>>,
}

/// Finds the document's signature and reads it.
///
/// # Errors
/// [`Error::NotSigned`], [`Error::SignatureShape`]; [`Error::NoValidationKey`] for unknown algorithms.
pub fn read<'a, 'input>(root: Node<'a, 'input>) -> Result<Shape<'a, 'input>, Error> {
    let mut all = root
        .descendants()
        .filter(|node| is(*node, XMLDSIG, "Signature"));
    let signature = all.next().ok_or(Error::NotSigned)?;
    if all.next().is_some() {
        return Err(Error::shape("there is more than one signature"));
    }
    if signature.parent() != Some(root) || root.last_element_child() != Some(signature) {
        return Err(Error::shape(
            "the signature must be the last element of rdf:RDF",
        ));
    }
    let [signed_info, value, key_info] =
        exactly(signature, ["SignedInfo", "SignatureValue", "KeyInfo"])?;
    let [canonicalization, method, reference] = exactly(
        signed_info,
        ["CanonicalizationMethod", "SignatureMethod", "Reference"],
    )?;
    let comments = match algorithm(canonicalization)? {
        C14N => Comments::Dropped,
        C14N_WITH_COMMENTS => Comments::Kept,
        other => {
            return Err(Error::shape(format!(
                "the canonicalization {} is not accepted",
                shown(other)
            )));
        }
    };
    let method = algorithm(method)?;
    let method = Method::of_uri(method).ok_or_else(|| {
        Error::NoValidationKey(format!(
            "the signature method {} is not accepted",
            shown(method)
        ))
    })?;
    let (hash, digest) = whole_document(reference)?;
    Ok(Shape {
        signed_info,
        comments,
        method,
        hash,
        digest,
        signature: base64(value)?,
        certificates: certificates(key_info)?,
    })
}

/// The reference: to the whole document without the signature, and nothing else.
fn whole_document(reference: Node<'_, '_>) -> Result<(Hash, Vec<u8>), Error> {
    if reference.attribute("URI") != Some("") || reference.attributes().len() != 1 {
        return Err(Error::shape(
            "the reference must be to the whole document: URI=\"\" and no other attribute",
        ));
    }
    let [transforms, method, value] =
        exactly(reference, ["Transforms", "DigestMethod", "DigestValue"])?;
    bare(transforms)?;
    let mut elements = elements(transforms)?;
    let enveloped = elements
        .next()
        .filter(|node| is(*node, XMLDSIG, "Transform"))
        .map(algorithm)
        .transpose()?;
    if enveloped != Some(ENVELOPED) {
        return Err(Error::shape(
            "the first transform must be enveloped-signature",
        ));
    }
    if let Some(second) = elements.next() {
        let is_canonicalization = is(second, XMLDSIG, "Transform")
            && [C14N, C14N_WITH_COMMENTS].contains(&algorithm(second)?);
        if !is_canonicalization || elements.next().is_some() {
            return Err(Error::shape(
                "no other transforms than enveloped-signature and a canonicalization are accepted",
            ));
        }
    }
    let name = algorithm(method)?;
    let hash = Hash::of_uri(name).ok_or_else(|| {
        Error::NoValidationKey(format!("the digest {} is not accepted", shown(name)))
    })?;
    Ok((hash, base64(value)?))
}

fn certificates(key_info: Node<'_, '_>) -> Result<Vec<Vec<u8>>, Error> {
    bare(key_info)?;
    let [data] = exactly(key_info, ["X509Data"])?;
    bare(data)?;
    let mut all = Vec::new();
    for node in elements(data)? {
        if !is(node, XMLDSIG, "X509Certificate") || all.len() == MAX_CERTIFICATES {
            return Err(Error::shape(format!(
                "X509Data must hold 1 to {MAX_CERTIFICATES} X509Certificate and nothing else"
            )));
        }
        all.push(base64(node)?);
    }
    if all.is_empty() {
        return Err(Error::NoValidationKey(
            "the signature holds no certificate".to_owned(),
        ));
    }
    Ok(all)
}

/// The child elements, with nothing but white space between them.
fn elements<'a, 'input>(
    node: Node<'a, 'input>,
) -> Result<impl Iterator<Item = Node<'a, 'input>> + use<'a, 'input>, Error> {
    crate::xml::children(node).map_err(|error| Error::shape(error.to_string()))
}

/// The child elements, which must be these.
fn exactly<'a, 'input, const N: usize>(
    node: Node<'a, 'input>,
    names: [&str; N],
) -> Result<[Node<'a, 'input>; N], Error> {
    let found: Vec<_> = elements(node)?.collect();
    let is_right = found.len() == N
        && found
            .iter()
            .zip(names)
            .all(|(node, name)| is(*node, XMLDSIG, name));
    <[Node<'_, '_>; N]>::try_from(found)
        .ok()
        .filter(|_| is_right)
        .ok_or_else(|| {
            Error::shape(format!(
                "{} must hold {} and nothing else",
                node.tag_name().name(),
                names.join(", ")
            ))
        })
}

/// An element without attributes; identifiers name it for others and change nothing.
fn bare(node: Node<'_, '_>) -> Result<(), Error> {
    if node.attributes().any(|attribute| attribute.name() != "Id") {
        return Err(Error::shape(format!(
            "{} has an attribute that is not accepted",
            node.tag_name().name()
        )));
    }
    Ok(())
}

/// The algorithm that an otherwise empty element names.
fn algorithm<'a>(node: Node<'a, '_>) -> Result<&'a str, Error> {
    let has_content = node.children().any(|child| {
        child.is_element() || child.text().is_some_and(|text| !text.trim().is_empty())
    });
    match node.attribute("Algorithm") {
        Some(name) if node.attributes().len() == 1 && !has_content => Ok(name),
        _ => Err(Error::shape(format!(
            "{} must name an algorithm and hold nothing",
            node.tag_name().name()
        ))),
    }
}

/// Base64 with white space anywhere, carriage returns of some Java versions included.
fn base64(node: Node<'_, '_>) -> Result<Vec<u8>, Error> {
    bare(node)?;
    let name = node.tag_name().name();
    let mut text = text_of(node).map_err(|_| Error::shape(format!("{name} holds elements")))?;
    text.retain(|character| !character.is_ascii_whitespace());
    STANDARD
        .decode(text)
        .map_err(|error| Error::shape(format!("{name} is not Base64: {error}")))
}
