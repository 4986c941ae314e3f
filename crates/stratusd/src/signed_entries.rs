//! Entries that somebody signed, for tests of who is believed.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use marketplace::draft::endorsed;
use marketplace::signature::Hash;
use marketplace::{Checksums, Entry, Metadata, SigningKey, UtcTime};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

fn parameters(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::new([]).unwrap();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters
}

/// An authority, and its certificate in PEM.
pub fn authority(name: &str) -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().unwrap();
    let mut parameters = parameters(name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = parameters.self_signed(&key).unwrap().pem();
    (Issuer::new(parameters, key), pem)
}

/// Whom an authority vouches for; whether it says that the address is theirs, too.
pub fn endorser_of(
    issuer: &Issuer<'_, KeyPair>,
    email: &str,
    is_address_certified: bool,
) -> SigningKey {
    let key = KeyPair::generate().unwrap();
    let mut parameters = parameters(email);
    if is_address_certified {
        let address = email.try_into().unwrap();
        parameters
            .subject_alt_names
            .push(SanType::Rfc822Name(address));
    }
    let certificate = parameters.signed_by(&key, issuer).unwrap();
    let pem = format!("{}{}", key.serialize_pem(), certificate.pem());
    SigningKey::from_pem(&pem, None).unwrap()
}

/// For whom nobody vouches.
pub fn self_signed(email: &str) -> SigningKey {
    let key = KeyPair::generate().unwrap();
    let mut parameters = parameters(email);
    let address = email.try_into().unwrap();
    parameters
        .subject_alt_names
        .push(SanType::Rfc822Name(address));
    let certificate = parameters.self_signed(&key).unwrap();
    let pem = format!("{}{}", key.serialize_pem(), certificate.pem());
    SigningKey::from_pem(&pem, None).unwrap()
}

/// An entry with this tag, signed just now and valid for a month.
pub fn entry(key: &SigningKey, tag: &str) -> Entry {
    entry_of(key, tag, None)
}

/// The same of an endorser who gives an address that the certificate doesn't have.
pub fn entry_of(key: &SigningKey, tag: &str, email: Option<&str>) -> Entry {
    let checksums = Checksums {
        md5: None,
        sha1: marketplace::digest::Digest::from_bytes([7; 20]),
        sha256: None,
        sha512: None,
        others: Vec::new(),
    };
    let now = UtcTime::from_timestamp(jiff::Timestamp::now());
    let mut metadata = Metadata::new(checksums, 1 << 20, "base");
    metadata.valid = Some(now.plus_days(30));
    metadata.tag = Some(tag.to_owned());
    let draft = metadata.to_draft().unwrap();
    let signed = endorsed(draft.as_bytes(), key, Hash::Sha256, email, now).unwrap();
    Entry::verify(signed.as_bytes()).unwrap()
}
