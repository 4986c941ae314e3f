//! What a host has from another one: the file of an image, by a ticket of an entry, which knows who sees what.
//!
//! ```text
//!  host A ── which image ──▶ entry, which sees that A sees it    a few hosts that likely have it, a ticket for each
//!  host A ── TLS, certificates of hosts, ticket ──▶ host B       B looks at the ticket, A at what it gets
//! ```
//!
//! A ticket is good for one content, from one host, to one host, for a while: B can't use it elsewhere, and nobody but A anywhere.
//! That B gives what it is asked for, nobody believes: A knows the checksum from the image's document.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use cimi::Timestamp;
use rcgen::{KeyPair, SigningKey as _};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use serde::{Deserialize, Serialize};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use crate::{Authority, Peer, PublicKey, TrustError};

/// Where an entry names hosts that likely have an image, by GET: behind [`IMAGES_PATH`](crate::IMAGES_PATH) and the image.
pub const NEIGHBOURS_PATH: &str = "/neighbours";
/// Where a host gives another one the file of an image, by GET: behind it stands what the file is called, `SHA1.disk` or
/// `SHA1.file`. Ranges are taken.
pub const REPLICAS_PATH: &str = "/replicas/";
/// The header that has the ticket then.
pub const TICKET_HEADER: &str = "x-stratus-ticket";
/// How long a ticket is good: by far longer than clocks are apart.
pub const TICKET_LIFE: Duration = Duration::from_secs(600);
/// How many hosts an entry names at once.
pub const NEIGHBOURS_AT_MOST: usize = 3;

/// Longest ticket; ours have about 300 bytes.
const TICKET_BYTES: usize = 1024;
/// Before what is signed, so that it can't be anything else that the authority signs: certificates begin with another byte.
const SIGNED_AS: &[u8] = b"stratus ticket\0";

/// A host that likely has an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Neighbour {
    /// The part of its id after the slash.
    pub host: String,
    /// How people call it.
    pub name: String,
    /// Where it gives images.
    pub address: SocketAddr,
    /// With what it is asked.
    pub ticket: String,
}

/// What a host may have from another one. Hosts are named by the part of their ids after the slash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ticket {
    /// The content, by its SHA-1, hexadecimal.
    pub sha1: String,
    /// Who gives it.
    pub from: String,
    /// Who gets it.
    pub to: String,
    /// Until when.
    pub until: Timestamp,
}

impl Ticket {
    /// As one word, for a header.
    ///
    /// # Errors
    /// If it can't be signed.
    pub fn sign(&self, authority: &Authority) -> Result<String, TrustError> {
        let said = serde_json::to_vec(self).map_err(|_| TrustError::Ticket("can't be written"))?;
        let key = KeyPair::from_pem(authority.key_pem())?;
        let signature = key.sign(&[SIGNED_AS, &said].concat())?;
        let [said, signature] = [said, signature].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
        Ok(format!("{said}.{signature}"))
    }

    /// What was signed by the authority with this certificate, DER.
    ///
    /// # Errors
    /// [`TrustError::Ticket`] if it wasn't.
    pub fn signed(text: &str, authority: &[u8]) -> Result<Self, TrustError> {
        let malformed = || TrustError::Ticket("is malformed");
        if text.len() > TICKET_BYTES {
            return Err(malformed());
        }
        let (said, signature) = text.split_once('.').ok_or_else(malformed)?;
        let decoded = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part);
        let (Ok(said), Ok(signature)) = (decoded(said), decoded(signature)) else {
            return Err(malformed());
        };
        let kept = || TrustError::Kept("authority's certificate");
        let (_, certificate) = X509Certificate::from_der(authority).map_err(|_| kept())?;
        let key = PublicKey::of(certificate.public_key()).ok_or_else(kept)?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.point())
            .verify(&[SIGNED_AS, &said].concat(), &signature)
            .map_err(|_| TrustError::Ticket("was not signed by the cloud"))?;
        serde_json::from_slice(&said).map_err(|_| malformed())
    }

    /// Whether it is good for this.
    ///
    /// # Errors
    /// [`TrustError::Ticket`]
    pub fn is_for(
        &self,
        sha1: &str,
        (from, to): (&str, &str),
        now: Timestamp,
    ) -> Result<(), TrustError> {
        let is_it = self.sha1 == sha1 && self.from == from && self.to == to;
        if !is_it {
            return Err(TrustError::Ticket("is for something else"));
        }
        if self.until < now {
            return Err(TrustError::Ticket(
                "is not good any more by this host's clock",
            ));
        }
        Ok(())
    }
}

/// Believes one host of the cloud, by the certificate that it shows as a server to another host: no entry, and no other host.
#[derive(Debug)]
pub struct OfHost {
    host: String,
    certificates: Arc<dyn ClientCertVerifier>,
}

impl OfHost {
    /// `host` is the part of its id after the slash, `authority` the certificate of the authority.
    ///
    /// # Errors
    /// If that is none of an authority.
    pub fn new(
        host: &str,
        authority: &CertificateDer<'static>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, TrustError> {
        Ok(Self {
            host: host.to_owned(),
            certificates: certificates_of(authority, provider)?,
        })
    }
}

/// What a host asks hosts for that ask it: a certificate by the authority. Whose it is, its [`Peer`] says.
///
/// # Errors
/// If that is none of an authority.
pub fn certificates_of(
    authority: &CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TrustError> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone())?;
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| Error::General(error.to_string()).into())
}

impl ServerCertVerifier for OfHost {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.certificates.verify_client_cert(own, others, now)?;
        match Peer::of(own) {
            Some(Peer::Host(peer)) if peer.host == self.host => Ok(ServerCertVerified::assertion()),
            _ => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.certificates
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.certificates
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.certificates.supported_verify_schemes()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::time::SystemTime;

    use rustls::{crypto::ring, pki_types::pem::PemObject as _};

    use super::*;
    use crate::{HostKey, SERVER_NAME};

    const SHA1: &str = "a9993e364706816aba3e25717850c26c9cd0d89d";

    fn der(authority: &Authority) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(authority.certificate_pem().as_bytes()).unwrap()
    }

    #[test]
    fn a_ticket_is_good_for_what_it_says_and_only_as_the_authority_has_signed_it() {
        let now = Timestamp::now();
        let authority = Authority::generate(SystemTime::now()).unwrap();
        let ticket = Ticket {
            sha1: SHA1.to_owned(),
            from: "0190-b".to_owned(),
            to: "0190-a".to_owned(),
            until: now.after(TICKET_LIFE),
        };
        let text = ticket.sign(&authority).unwrap();
        let read = Ticket::signed(&text, &der(&authority)).unwrap();
        assert_eq!(read, ticket);
        read.is_for(SHA1, ("0190-b", "0190-a"), now).unwrap();
        let other = SHA1.replace('a', "b");
        for (sha1, between, at) in [
            (&*other, ("0190-b", "0190-a"), now),
            (SHA1, ("0190-c", "0190-a"), now),
            (SHA1, ("0190-b", "0190-c"), now),
            (SHA1, ("0190-a", "0190-b"), now),
            (
                SHA1,
                ("0190-b", "0190-a"),
                now.after(TICKET_LIFE + Duration::from_secs(1)),
            ),
        ] {
            read.is_for(sha1, between, at).unwrap_err();
        }

        let foreign = Authority::generate(SystemTime::now()).unwrap();
        Ticket::signed(&text, &der(&foreign)).unwrap_err();
        // Said by the one, signed for the other.
        let longer = Ticket {
            until: now.after(2 * TICKET_LIFE),
            ..ticket
        };
        let longer = longer.sign(&foreign).unwrap();
        let (said, signature) = (
            longer.split_once('.').unwrap().0,
            text.split_once('.').unwrap().1,
        );
        Ticket::signed(&format!("{said}.{signature}"), &der(&authority)).unwrap_err();
        for wrong in [
            "",
            ".",
            "x",
            "x.y",
            &text.replace('.', ""),
            &"A".repeat(5000),
        ] {
            Ticket::signed(wrong, &der(&authority)).unwrap_err();
        }
        for length in 0..text.len() {
            Ticket::signed(&text[..length], &der(&authority)).unwrap_err();
        }
    }

    #[test]
    fn a_host_that_gives_is_believed_to_be_itself_and_nobody_else() {
        let now = SystemTime::now();
        let provider = Arc::new(ring::default_provider());
        let authority = Authority::generate(now).unwrap();
        let foreign = Authority::generate(now).unwrap();
        let host = |authority: &Authority, host: &str| {
            let key = HostKey::generate().unwrap();
            let public = PublicKey::requested(&key.request().unwrap()).unwrap();
            let admitted = authority.admit(&public, host, host, now).unwrap();
            CertificateDer::from_pem_slice(admitted.certificate.as_bytes()).unwrap()
        };
        let verifier = OfHost::new("0190-b", &der(&authority), Arc::clone(&provider)).unwrap();
        let verify = |shown: &CertificateDer<'_>| {
            let at = now.duration_since(SystemTime::UNIX_EPOCH).unwrap();
            let name = ServerName::try_from(SERVER_NAME).unwrap();
            verifier.verify_server_cert(shown, &[], &name, &[], UnixTime::since_unix_epoch(at))
        };
        verify(&host(&authority, "0190-b")).unwrap();
        verify(&host(&authority, "0190-c")).unwrap_err();
        verify(&host(&foreign, "0190-b")).unwrap_err();
        verify(&authority.entry(now).unwrap().certificate).unwrap_err();
        let server = authority.server(&provider, now).unwrap();
        verify(server.cert.first().unwrap()).unwrap_err();
    }
}
