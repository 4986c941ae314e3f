//! Whether a document is what its endorser signed.

use ring::signature::UnparsedPublicKey;
use roxmltree::Node;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::{Method, shape};
use crate::certificate::Certificate;
use crate::error::Error;
use crate::xml::canonical::{self, Comments};

/// Who signed, and how.
#[derive(Debug, Clone)]
pub struct Verified {
    /// The certificate whose key made the signature; the identity is this one's and no other's.
    pub certificate: Certificate,
    /// DER of the certificates that vouch for it, in order.
    pub chain: Vec<Vec<u8>>,
    /// How.
    pub method: Method,
    /// Whether the digest of the contents is SHA-1 or the method uses it.
    pub uses_sha1: bool,
}

/// Verifies the signature of a document: shape, certificates, digest of the contents, signature. Whether the certificate is to be trusted
/// is not said.
///
/// # Errors
/// [`Error::NotSigned`], [`Error::SignatureShape`], [`Error::NoValidationKey`], [`Error::SignatureMismatch`].
pub fn verify(root: Node<'_, '_>) -> Result<Verified, Error> {
    let shape = shape::read(root)?;
    let (leaf, chain) = shape
        .certificates
        .split_first()
        .ok_or_else(|| Error::NoValidationKey("there is no certificate".to_owned()))?;
    check_chain(&shape.certificates)?;
    let certificate = Certificate::from_der(leaf)?;
    if certificate.key_type != shape.method.key_type() {
        return Err(Error::NoValidationKey(
            "the certificate's key is of another kind than the signature".to_owned(),
        ));
    }

    let signature_element = shape.signed_info.parent();
    let contents = canonical::document(root, signature_element, Comments::Dropped)?;
    let is_content = shape.hash.digest(&contents).as_ref() == shape.digest.as_slice();
    let signed_info = canonical::element(shape.signed_info, shape.comments)?;
    let is_signature = UnparsedPublicKey::new(shape.method.verification(), &certificate.public_key)
        .verify(&signed_info, &shape.signature)
        .is_ok();
    if !(is_content && is_signature) {
        return Err(Error::SignatureMismatch {
            signature: is_signature,
            content: is_content,
        });
    }
    Ok(Verified {
        certificate,
        chain: chain.to_vec(),
        method: shape.method,
        uses_sha1: shape.hash == super::Hash::Sha1
            || shape.method == Method::Rsa(super::Hash::Sha1),
    })
}

/// Several certificates are accepted as a chain only: each signed by the next.
fn check_chain(certificates: &[Vec<u8>]) -> Result<(), Error> {
    for pair in certificates.windows(2) {
        let [der, issuer_der] = pair else { continue };
        let (Ok((_, certificate)), Ok((_, issuer))) = (
            X509Certificate::from_der(der),
            X509Certificate::from_der(issuer_der),
        ) else {
            return Err(Error::NoValidationKey(
                "a certificate can't be read".to_owned(),
            ));
        };
        let is_issuer = certificate.tbs_certificate.issuer.as_raw()
            == issuer.tbs_certificate.subject.as_raw()
            && certificate
                .verify_signature(Some(issuer.public_key()))
                .is_ok();
        if !is_issuer {
            return Err(Error::shape(
                "several certificates are accepted only as a chain that begins with the signer's",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::Hash;
    use crate::xml::Source;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_reference_entry_has_the_canonical_forms_of_the_reference() {
        let source = Source::read(include_bytes!("../../tests/data/signed.xml")).unwrap();
        let tree = source.parse().unwrap();
        let shape = shape::read(tree.root_element()).unwrap();
        let contents = canonical::document(
            tree.root_element(),
            shape.signed_info.parent(),
            Comments::Dropped,
        )
        .unwrap();
        assert_eq!(contents.len(), 2724);
        assert_eq!(
            hex(Hash::Sha1.digest(&contents).as_ref()),
            "c5fb86beb52c7c166b079b5b1d91a091afa9329b"
        );
        let signed_info = canonical::element(shape.signed_info, shape.comments).unwrap();
        assert_eq!(signed_info.len(), 787);
        assert_eq!(
            hex(Hash::Sha1.digest(&signed_info).as_ref()),
            "d36274a00d801396eeaeba76d6b63fa9b223a9a0"
        );
        let verified = verify(tree.root_element()).unwrap();
        assert_eq!(verified.method, Method::Rsa(Hash::Sha1));
        assert!(verified.uses_sha1);
    }
}
