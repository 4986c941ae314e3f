//! Whether a cloud's certificate is trusted.
//!
//! In this order: a certificate pinned for this host and port counts alone (any other is refused: it changed);
//! else the authorities of the system and of the user's CA file, with the usual rules (chain, name, validity).
//! What was seen and why it was refused is kept by the [`Witness`], for the message to the user.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::{ApiError, Endpoint, Fingerprint, OwnCertificate};

/// What a connection accepts.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// The pinned certificate of this host and port.
    pub pin: Option<Fingerprint>,
    /// A PEM file with certificates to trust besides the system's.
    pub ca_file: Option<PathBuf>,
}

/// What the last handshake showed.
#[derive(Debug, Default)]
pub struct Witness(Mutex<Option<Seen>>);

/// A certificate, and why it was refused.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// Why it was refused; nothing if it was accepted.
    pub refusal: Option<String>,
}

impl Witness {
    /// The certificate that was shown last.
    #[must_use]
    pub fn seen(&self) -> Option<Seen> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn record(&self, fingerprint: Fingerprint, refusal: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Seen {
            fingerprint,
            refusal,
        });
    }
}

impl Trust {
    /// The TLS configuration, and the witness of its handshakes.
    ///
    /// # Errors
    /// [`ApiError::Setup`] when the CA file cannot be used.
    pub fn client_config(
        &self,
        endpoint: &Endpoint,
        own_certificate: Option<&OwnCertificate>,
    ) -> Result<(ClientConfig, Arc<Witness>), ApiError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let witness = Arc::new(Witness::default());
        let mut roots = RootCertStore::empty();
        let mut own = Vec::new();
        if endpoint.is_secure() && self.pin.is_none() {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if let Some(path) = &self.ca_file {
                own = certificates(path)?;
                let (added, _) = roots.add_parsable_certificates(own.iter().cloned());
                if added == 0 {
                    return Err(ApiError::Setup(format!(
                        "the CA file '{}' has no usable certificate (PEM, 'BEGIN CERTIFICATE')",
                        path.display()
                    )));
                }
            }
        }
        let authorities = if roots.is_empty() {
            None
        } else {
            let builder =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
            Some(builder.build().map_err(|error| {
                ApiError::Setup(format!(
                    "the certificates of the system cannot be used: {error}"
                ))
            })?)
        };
        let verifier = Verifier {
            pin: self.pin,
            own,
            authorities,
            provider: provider.clone(),
            witness: witness.clone(),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| ApiError::Setup(format!("TLS cannot be set up: {error}")))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match own_certificate {
            Some(own) => builder.with_client_cert_resolver(own.read()?),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok((config, witness))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ApiError> {
    let unusable = |problem: String| {
        ApiError::Setup(format!(
            "the CA file '{}' cannot be used: {problem}",
            path.display()
        ))
    };
    let text = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
    CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(error.to_string()))
}

#[derive(Debug)]
struct Verifier {
    pin: Option<Fingerprint>,
    /// The certificates of the CA file.
    own: Vec<CertificateDer<'static>>,
    authorities: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
    witness: Arc<Witness>,
}

impl Verifier {
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(pin) = self.pin {
            return if Fingerprint::of(end_entity) == pin {
                Ok(ServerCertVerified::assertion())
            } else {
                Err(Error::InvalidCertificate(
                    CertificateError::ApplicationVerificationFailure,
                ))
            };
        }
        let Some(authorities) = &self.authorities else {
            return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        };
        match authorities.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            // A self-signed certificate that is marked as an authority, and that the user named: it is its own authority.
            Err(Error::InvalidCertificate(CertificateError::Other(other)))
                if self.own.contains(end_entity)
                    && other.to_string().contains("CaUsedAsEndEntity") =>
            {
                let parsed = rustls::server::ParsedCertificate::try_from(end_entity)?;
                rustls::client::verify_server_name(&parsed, name)?;
                Ok(ServerCertVerified::assertion())
            }
            result => result,
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let result = self.verify(end_entity, intermediates, server_name, ocsp_response, now);
        self.witness.record(
            Fingerprint::of(end_entity),
            result.as_ref().err().map(refusal),
        );
        result
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// The reason in words.
fn refusal(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(problem) => match problem {
            CertificateError::UnknownIssuer => {
                "it is signed by itself or by an authority that this system does not know"
                    .to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "it has expired".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "it is not valid yet (are the clocks right?)".to_owned()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "it is for another host name".to_owned()
            }
            CertificateError::ApplicationVerificationFailure => {
                "it is not the one that was trusted before".to_owned()
            }
            CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
                "it is signed by itself".to_owned()
            }
            other => other.to_string(),
        },
        other => other.to_string(),
    }
}
