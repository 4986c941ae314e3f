//! A host's key, which never leaves it, and what others see of it. All are of one kind: ECDSA on P-256.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rcgen::{CertificateParams, KeyPair, PublicKeyData, SignatureAlgorithm};
use x509_parser::{
    certification_request::X509CertificationRequest, prelude::FromDer as _,
    public_key::PublicKey as Parsed,
};

use crate::{
    TrustError,
    fingerprint::{hexadecimal, sha256},
};

/// Longest request for a certificate, DER; ours have about 200 bytes.
const REQUEST_AT_MOST: usize = 2048;
/// Bytes of a point of P-256, and what those begin with that are written in full (SEC 1, 2.3.3).
const POINT_BYTES: usize = 65;
const IN_FULL: u8 = 4;

/// The private key of a host.
pub struct HostKey(KeyPair);

impl HostKey {
    /// A new one.
    ///
    /// # Errors
    /// If the system gives no random numbers.
    pub fn generate() -> Result<Self, TrustError> {
        Ok(Self(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?))
    }

    /// As it was kept, PEM.
    ///
    /// # Errors
    /// If it isn't one.
    pub fn from_pem(text: &str) -> Result<Self, TrustError> {
        let key = KeyPair::from_pem(text).map_err(|_unreadable| TrustError::Kept("host's key"))?;
        Ok(Self(key))
    }

    /// To be kept where only the host reads it.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// A request for a certificate of this key, which proves that who asks has it (PKCS#10, base64).
    ///
    /// # Errors
    /// If it can't be made.
    pub fn request(&self) -> Result<String, TrustError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let request = params.serialize_request(&self.0)?;
        Ok(BASE64_STANDARD.encode(request.der()))
    }
}

impl std::fmt::Debug for HostKey {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("HostKey(…)")
    }
}

/// A public key that somebody has proven to have the private one of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(Vec<u8>);

impl PublicKey {
    /// From a request by [`HostKey::request`]. All else that the request says doesn't count.
    ///
    /// # Errors
    /// If it isn't one, or was signed by another key.
    pub fn requested(request: &str) -> Result<Self, TrustError> {
        let wrong = TrustError::Request;
        if request.len() > 2 * REQUEST_AT_MOST {
            return Err(wrong("it is too long"));
        }
        let der = BASE64_STANDARD.decode(request);
        let der = der.map_err(|_invalid| wrong("it is not written in base64"))?;
        let (rest, parsed) = X509CertificationRequest::from_der(&der)
            .map_err(|_malformed| wrong("it is none by PKCS#10"))?;
        if !rest.is_empty() {
            return Err(wrong("something follows it"));
        }
        let key = Self::of(&parsed.certification_request_info.subject_pki)
            .ok_or_else(|| wrong("its key is not one of ECDSA on P-256"))?;
        let proven = parsed.verify_signature();
        proven.map_err(|_unproven| wrong("it was not signed with its own key"))?;
        Ok(key)
    }

    pub(crate) fn of(info: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> Option<Self> {
        let Ok(Parsed::EC(point)) = info.parsed() else {
            return None;
        };
        let point = point.data();
        let is_full = point.len() == POINT_BYTES && point.first() == Some(&IN_FULL);
        is_full.then(|| Self(point.to_vec()))
    }

    /// Its point (SEC 1, 2.3.3).
    pub(crate) fn point(&self) -> &[u8] {
        &self.0
    }

    /// What is kept of it: SHA-256 of its point, hexadecimal.
    #[must_use]
    pub fn digest(&self) -> String {
        hexadecimal(&sha256(&self.0))
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_a_key_asks_for_a_certificate_of_it() {
        let key = HostKey::generate().unwrap();
        let request = key.request().unwrap();
        let public = PublicKey::requested(&request).unwrap();
        let again = HostKey::from_pem(&key.to_pem()).unwrap();
        let again = PublicKey::requested(&again.request().unwrap()).unwrap();
        assert_eq!(public, again);

        // Another's key under the signature of one's own.
        let der = |key: &HostKey| BASE64_STANDARD.decode(key.request().unwrap()).unwrap();
        let (mine, mut forged) = (der(&HostKey::generate().unwrap()), der(&key));
        let at = |of: &[u8], point: &[u8]| of.windows(point.len()).position(|w| w == point);
        let other = PublicKey::requested(&BASE64_STANDARD.encode(&mine)).unwrap();
        let place = at(&forged, &public.0).unwrap();
        forged[place..place + POINT_BYTES].copy_from_slice(&other.0);
        let refused = PublicKey::requested(&BASE64_STANDARD.encode(&forged)).unwrap_err();
        assert!(refused.to_string().contains("its own key"), "{refused}");

        for length in 0..mine.len() {
            let cut = BASE64_STANDARD.encode(&mine[..length]);
            assert!(PublicKey::requested(&cut).is_err(), "{length}");
        }
        for place in 0..mine.len() {
            let mut other = mine.clone();
            other[place] ^= 0x21;
            // Whatever was read of it was signed as it is.
            if let Ok(key) = PublicKey::requested(&BASE64_STANDARD.encode(&other)) {
                assert_eq!(key.0.len(), POINT_BYTES, "{place}");
            }
        }
        let longer = BASE64_STANDARD.encode([&mine[..], b"x"].concat());
        assert!(PublicKey::requested(&longer).is_err());
        assert!(PublicKey::requested(&"A".repeat(10_000)).is_err());
    }
}
