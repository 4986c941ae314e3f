//! What clients show of themselves while TLS is agreed on: certificates, of which only the key is asked for here.
//!
//! Whom a chain belongs to, and whether to believe it, is asked when a request comes ([`accounts::Accounts::by_certificate`]):
//! then the reason of a refusal reaches whoever asks, in words, and what has changed since the connection began counts.
//! So every certificate is taken here whose key the client has, proxies included, which TLS libraries refuse.

use std::sync::Arc;

use accounts::Shown;
use base64::{Engine, prelude::BASE64_STANDARD};
use certificates::possession::{is_by_key_of, key_of};
use http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key},
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

/// Bytes of names of authorities that clients are told; with more, they are told none, and choose by themselves.
const NAMES_AT_MOST: usize = 16 * 1024;
/// Certificates that a proxy in front of this server may pass on, and their bytes.
const PASSED_AT_MOST: usize = 20;
const PASSED_BYTES: usize = 24 * 1024;

/// Takes any certificate whose key the client has, and none as well.
#[derive(Debug)]
pub(crate) struct Showing {
    names: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Showing {
    /// Clients are told these names of authorities, DER.
    pub(crate) fn new(provider: &Arc<CryptoProvider>, names: &[Vec<u8>]) -> Self {
        let fits = names.iter().map(|name| name.len() + 2).sum::<usize>() <= NAMES_AT_MOST;
        let names = if fits { names } else { &[] };
        Self {
            names: names.iter().map(|name| name.clone().into()).collect(),
            algorithms: provider.signature_verification_algorithms,
        }
    }
}

impl ClientCertVerifier for Showing {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.names
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if key_of(end_entity).is_none() {
            return Err(CertificateError::BadEncoding.into());
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let mapping = self.algorithms.mapping.iter();
        let algorithms = mapping
            .filter(|(scheme, _)| *scheme == signed.scheme)
            .flat_map(|(_, algorithms)| algorithms.iter());
        for algorithm in algorithms {
            if is_by_key_of(certificate, *algorithm, message, signed.signature()) {
                return Ok(HandshakeSignatureValid::assertion());
            }
        }
        Err(CertificateError::BadSignature.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = key_of(certificate)
            .ok_or(PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon)?;
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The certificates that a proxy in front of this server passes on in a header: PEM, with its line breaks escaped (nginx's
/// `$ssl_client_escaped_cert`) or made to white space (`$ssl_client_cert`). `None` if there is none, or what is there is
/// something else.
pub(crate) fn passed_on(headers: &HeaderMap, name: &HeaderName) -> Option<Shown> {
    let value = headers.get(name)?.as_bytes();
    if value.is_empty() || value.len() > PASSED_BYTES {
        return None;
    }
    let text: Vec<u8> = percent_decode(value).collect();
    let text = String::from_utf8(text).ok()?;
    let mut chain = Vec::new();
    for piece in text.split("-----BEGIN CERTIFICATE-----").skip(1) {
        let (content, _) = piece.split_once("-----END CERTIFICATE-----")?;
        let digits: String = content.split_ascii_whitespace().collect();
        let der = BASE64_STANDARD.decode(digits).ok()?;
        if chain.len() == PASSED_AT_MOST {
            return None;
        }
        chain.push(CertificateDer::from(der));
    }
    (!chain.is_empty()).then(|| Shown::of(chain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_proxy_passes_on_is_read_in_all_spellings() {
        let name = HeaderName::from_static("x-client-certificate");
        let (first, second) = (
            BASE64_STANDARD.encode(vec![7; 80]),
            BASE64_STANDARD.encode(b"more"),
        );
        let pem = |content: &str| {
            format!("-----BEGIN CERTIFICATE-----\n{content}\n-----END CERTIFICATE-----\n")
        };
        let (begin, end) = first.split_at(64);
        let chain = pem(&format!("{begin}\n{end}")) + &pem(&second);
        let expected = Shown::of(vec![vec![7; 80].into(), b"more".to_vec().into()]);
        let escaped =
            percent_encoding::utf8_percent_encode(&chain, percent_encoding::NON_ALPHANUMERIC);
        for value in [
            chain.replace('\n', "\t"),
            chain.replace('\n', " "),
            escaped.to_string(),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(&name, value.parse().unwrap());
            assert_eq!(
                passed_on(&headers, &name),
                Some(expected.clone()),
                "{value}"
            );
        }
        for value in [
            "",
            "x",
            "-----BEGIN CERTIFICATE-----",
            "-----BEGIN CERTIFICATE-----!-----END CERTIFICATE-----",
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(&name, value.parse().unwrap());
            assert_eq!(passed_on(&headers, &name), None, "{value}");
        }
    }
}
