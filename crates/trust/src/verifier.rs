//! Whom a host that joins believes: an entry with a certificate by the authority that the token names.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use crate::Fingerprint;

/// See the module. The authority's certificate is among those that the entry shows.
#[derive(Debug)]
pub struct OfAuthority {
    authority: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl OfAuthority {
    /// Believes entries of this authority.
    #[must_use]
    pub const fn new(authority: Fingerprint, provider: Arc<CryptoProvider>) -> Self {
        Self {
            authority,
            provider,
        }
    }
}

impl ServerCertVerifier for OfAuthority {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        stapled: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = others
            .iter()
            .find(|shown| Fingerprint::of(shown) == self.authority)
            .ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let provider = Arc::clone(&self.provider);
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        verifier.verify_server_cert(own, &[], name, stapled, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::time::{Duration, SystemTime};

    use rustls::crypto::ring;

    use super::*;
    use crate::{Authority, HostKey, Peer, PublicKey, SERVER_NAME};

    fn verify(
        authority: Fingerprint,
        chain: &[CertificateDer<'static>],
        name: &str,
        now: SystemTime,
    ) -> Result<ServerCertVerified, Error> {
        let verifier = OfAuthority::new(authority, Arc::new(ring::default_provider()));
        let (own, others) = chain.split_first().unwrap();
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        verifier.verify_server_cert(own, others, &name, &[], UnixTime::since_unix_epoch(now))
    }

    #[test]
    fn only_an_entry_of_the_named_authority_is_believed_and_no_host_plays_one() {
        let now = SystemTime::now();
        let made = Authority::generate(now).unwrap();
        // As it comes out of the store.
        let authority = Authority::from_pem(made.certificate_pem(), made.key_pem()).unwrap();
        let fingerprint = made.fingerprint();
        assert_eq!(fingerprint, authority.fingerprint());
        let provider = ring::default_provider();
        let server = authority.server(&provider, now).unwrap();
        verify(fingerprint, &server.cert, SERVER_NAME, now).unwrap();
        verify(fingerprint, &server.cert, "elsewhere.example", now).unwrap_err();
        let later = now + Duration::from_secs(91 * 24 * 3600);
        verify(fingerprint, &server.cert, SERVER_NAME, later).unwrap_err();

        // Another authority, also one that shows the true one's certificate beside its own.
        let other = Authority::generate(now).unwrap();
        let mut foreign = other.server(&provider, now).unwrap().cert.clone();
        verify(fingerprint, &foreign, SERVER_NAME, now).unwrap_err();
        foreign.extend(server.cert.get(1).cloned());
        verify(fingerprint, &foreign, SERVER_NAME, now).unwrap_err();

        // A host of the same cloud.
        let key = HostKey::generate().unwrap();
        let public = PublicKey::requested(&key.request().unwrap()).unwrap();
        let admitted = authority.admit(&public, "0190-a", "node1", now).unwrap();
        use rustls::pki_types::pem::PemObject as _;
        let own = CertificateDer::from_pem_slice(admitted.certificate.as_bytes()).unwrap();
        let chain = [own.clone(), server.cert.get(1).unwrap().clone()];
        verify(fingerprint, &chain, SERVER_NAME, now).unwrap_err();

        let peer = match Peer::of(&own) {
            Some(Peer::Host(peer)) => Some(peer),
            _ => None,
        };
        let peer = peer.unwrap();
        assert_eq!((&*peer.host, &peer.key), ("0190-a", &public.digest()));
        assert!(admitted.expires.duration_since(peer.expires).unwrap() < Duration::from_secs(1));
        assert_eq!(Peer::of(server.cert.first().unwrap()), None);
        assert_eq!(Peer::of(b"x"), None);

        // An entry that asks: no host is taken for one, whatever it is called, and it plays no server.
        let asking = authority.entry(now).unwrap().certificate;
        assert!(matches!(Peer::of(&asking), Some(Peer::Entry(until)) if until > now));
        let chain = [asking, server.cert.get(1).unwrap().clone()];
        verify(fingerprint, &chain, SERVER_NAME, now).unwrap_err();
        for name in ["entry", "urn:stratus:entry"] {
            let called = authority.admit(&public, name, name, now).unwrap();
            let called = CertificateDer::from_pem_slice(called.certificate.as_bytes()).unwrap();
            assert!(matches!(Peer::of(&called), Some(Peer::Host(_))));
        }
    }
}
