//! The user's own certificate, or a proxy of it, shown to clouds that ask for one.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    SignatureScheme,
    client::ResolvesClientCert,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};

use super::ApiError;

/// Where certificate and key are; a proxy has both in one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnCertificate {
    /// The certificate with those of who signed it, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM, not encrypted.
    pub key: PathBuf,
}

/// Shows it whatever the cloud says whom it trusts: the cloud's answer then has the reason in words.
#[derive(Debug)]
pub(super) struct Shown(Arc<CertifiedKey>);

impl OwnCertificate {
    /// Reads both.
    pub(super) fn read(&self) -> Result<Arc<Shown>, ApiError> {
        let content = read(&self.certificate)?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&content)
            .collect::<Result<_, _>>()
            .map_err(|error| unusable(&self.certificate, &error))?;
        if chain.is_empty() {
            return Err(unusable(
                &self.certificate,
                &"there is no certificate in it (PEM, 'BEGIN CERTIFICATE')",
            ));
        }
        let content = read(&self.key)?;
        let key = PrivateKeyDer::from_pem_slice(&content).map_err(|error| {
            if content.windows(9).any(|part| part == b"ENCRYPTED") {
                unusable(
                    &self.key,
                    &"the key is encrypted: make a proxy of it (grid-proxy-init), and use that",
                )
            } else {
                unusable(&self.key, &error)
            }
        })?;
        let key =
            ring::sign::any_supported_type(&key).map_err(|error| unusable(&self.key, &error))?;
        // Not `from_der`, which doesn't want to have to do with proxies.
        Ok(Arc::new(Shown(Arc::new(CertifiedKey::new(chain, key)))))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ApiError> {
    std::fs::read(path).map_err(|error| unusable(path, &error))
}

fn unusable(path: &Path, problem: &dyn std::fmt::Display) -> ApiError {
    ApiError::Setup(format!(
        "'{}' cannot be used to log in: {problem}",
        path.display()
    ))
}

impl ResolvesClientCert for Shown {
    fn resolve(
        &self,
        _authorities: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
