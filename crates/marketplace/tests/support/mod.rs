//! Endorsers made for a test.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    reason = "each test uses its part; a test that panics has failed"
)]

use marketplace::draft::endorsed;
use marketplace::signature::Hash;
use marketplace::{Entry, SigningKey, UtcTime};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType, SignatureAlgorithm,
};

pub const DRAFT: &str = include_str!("../data/draft.xml");
pub const SIGNED: &str = include_str!("../data/signed.xml");

pub const ALGORITHMS: [&SignatureAlgorithm; 3] = [
    &PKCS_ECDSA_P256_SHA256,
    &PKCS_ECDSA_P384_SHA384,
    &PKCS_ED25519,
];

pub fn at(text: &str) -> UtcTime {
    text.parse().unwrap()
}

pub fn parameters(name: &str, email: Option<&str>) -> CertificateParams {
    let mut parameters = CertificateParams::new([]).unwrap();
    parameters
        .distinguished_name
        .push(DnType::CountryName, "EU");
    parameters.distinguished_name.push(DnType::CommonName, name);
    let email = email.map(|email| SanType::Rfc822Name(email.try_into().unwrap()));
    parameters.subject_alt_names.extend(email);
    parameters
}

/// Somebody with a self-signed certificate.
pub fn endorser(name: &str, email: Option<&str>) -> SigningKey {
    endorser_with(name, email, &PKCS_ECDSA_P256_SHA256)
}

pub fn endorser_with(
    name: &str,
    email: Option<&str>,
    algorithm: &'static SignatureAlgorithm,
) -> SigningKey {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let certificate = parameters(name, email).self_signed(&key).unwrap();
    SigningKey::from_pem(
        &format!("{}{}", key.serialize_pem(), certificate.pem()),
        None,
    )
    .unwrap()
}

/// An authority, and the PEM of its certificate.
pub fn authority(name: &str) -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().unwrap();
    let mut parameters = parameters(name, None);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = parameters.self_signed(&key).unwrap().pem();
    (Issuer::new(parameters, key), pem)
}

/// Somebody with a certificate of an authority.
pub fn endorser_of(issuer: &Issuer<'_, KeyPair>, name: &str, email: &str) -> SigningKey {
    let key = KeyPair::generate().unwrap();
    let certificate = parameters(name, Some(email))
        .signed_by(&key, issuer)
        .unwrap();
    SigningKey::from_pem(
        &format!("{}{}", certificate.pem(), key.serialize_pem()),
        None,
    )
    .unwrap()
}

/// The reference draft, signed at the time of the reference entry.
pub fn signed_by(key: &SigningKey) -> String {
    endorsed(
        DRAFT.as_bytes(),
        key,
        Hash::Sha256,
        Some("claimed@example.org"),
        at("2030-01-15T08:05:00Z"),
    )
    .unwrap()
}

pub fn entry(document: &str) -> Entry {
    Entry::verify(document.as_bytes()).unwrap()
}

/// What stands between two marks, marks included.
pub fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let start = text.find(from).unwrap();
    let end = text[start..].find(to).unwrap() + start + to.len();
    &text[start..end]
}
