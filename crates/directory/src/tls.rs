//! Encryption of a connection to a directory.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// What to speak TLS with: trusting the authorities of a PEM text, or those of the system.
pub(crate) fn config(authorities: Option<&str>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(text) => {
            for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
                let certificate =
                    certificate.map_err(|error| format!("`ca` is not PEM: {error}"))?;
                roots
                    .add(certificate)
                    .map_err(|error| format!("`ca` can't be used: {error}"))?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
        }
    }
    if roots.is_empty() {
        return Err(
            "there is no authority that could have signed its certificate: give `ca`".to_owned(),
        );
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Agrees on TLS with the server of this name or address.
pub(crate) async fn agree<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    config: Arc<ClientConfig>,
    address: &str,
) -> Result<TlsStream<S>, String> {
    let name = ServerName::try_from(address.to_owned())
        .map_err(|_| format!("`{address}` is no name that a certificate could have"))?;
    TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(|error| format!("TLS: {error}"))
}
