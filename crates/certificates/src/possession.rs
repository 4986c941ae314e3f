//! Whether somebody has the key of a certificate, of whatever kind: what the handshake of TLS asks.

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer};
use webpki::RawPublicKeyEntity;
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

/// The public key of a certificate, whatever else is in that: also proxies have one, with which other libraries don't
/// want to have to do.
#[must_use]
pub fn key_of<'c>(certificate: &'c CertificateDer<'_>) -> Option<SubjectPublicKeyInfoDer<'c>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(SubjectPublicKeyInfoDer::from(
        certificate.tbs_certificate.subject_pki.raw,
    ))
}

/// Whether a signature was made with the key of the certificate, by this algorithm.
#[must_use]
pub fn is_by_key_of(
    certificate: &CertificateDer<'_>,
    algorithm: &dyn SignatureVerificationAlgorithm,
    message: &[u8],
    signature: &[u8],
) -> bool {
    let Some(key) = key_of(certificate) else {
        return false;
    };
    RawPublicKeyEntity::try_from(&key)
        .is_ok_and(|key| key.verify_signature(algorithm, message, signature).is_ok())
}
