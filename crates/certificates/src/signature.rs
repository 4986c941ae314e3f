//! Signatures by keys of certificates.

use x509_parser::{
    asn1_rs::BitString,
    certificate::X509Certificate,
    oid_registry::{OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA},
    verify::verify_signature,
    x509::{AlgorithmIdentifier, SubjectPublicKeyInfo},
};

/// Whether `by` signed this certificate.
pub(crate) fn is_signed(certificate: &X509Certificate<'_>, by: &SubjectPublicKeyInfo<'_>) -> bool {
    // Who can choose what is signed can have two of one digest.
    !is_sha1(&certificate.signature_algorithm) && certificate.verify_signature(Some(by)).is_ok()
}

/// Whether `by` signed these bytes.
pub(crate) fn is_signature(
    bytes: &[u8],
    algorithm: &AlgorithmIdentifier<'_>,
    signature: &BitString<'_>,
    by: &SubjectPublicKeyInfo<'_>,
) -> bool {
    !is_sha1(algorithm) && verify_signature(by, algorithm, signature, bytes).is_ok()
}

fn is_sha1(algorithm: &AlgorithmIdentifier<'_>) -> bool {
    [OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA].contains(&algorithm.algorithm)
}
