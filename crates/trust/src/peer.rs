//! Whose a host's certificate is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

use crate::PublicKey;

/// What the certificates of hosts name them by.
const URI: &str = "urn:stratus:host:";

pub(crate) fn uri_of(host: &str) -> String {
    format!("{URI}{host}")
}

/// What a certificate says that was found to be by the authority. Whether that host still is one, and has this key, its
/// cloud knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPeer {
    /// The part of the host's id after the slash.
    pub host: String,
    /// The digest of its key, see [`PublicKey::digest`].
    pub key: String,
    /// When the certificate ends.
    pub expires: SystemTime,
}

impl HostPeer {
    /// From a certificate, DER; none if it is not a host's.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let names = certificate.subject_alternative_name().ok()??;
        let [GeneralName::URI(uri)] = &*names.value.general_names else {
            return None;
        };
        let ends = certificate.validity().not_after.timestamp();
        Some(Self {
            host: uri.strip_prefix(URI)?.to_owned(),
            key: PublicKey::of(certificate.public_key())?.digest(),
            expires: UNIX_EPOCH + Duration::from_secs(u64::try_from(ends).ok()?),
        })
    }
}
