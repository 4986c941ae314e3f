//! Whose a certificate by the authority is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

use crate::PublicKey;

/// What the certificates of hosts name them by.
const URI: &str = "urn:stratus:host:";
/// What those of entries have in its place, when they ask another daemon of their cloud.
pub(crate) const ENTRY: &str = "urn:stratus:entry";

/// Who has shown a certificate that was found to be by the authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A host: trusted with nothing but what is its own.
    Host(HostPeer),
    /// An entry, which has all of the cloud's documents, the authority's key among them, until then.
    Entry(SystemTime),
}

impl Peer {
    /// From a certificate, DER; none if it is not one of these.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let (name, key, expires) = read(certificate)?;
        if name == ENTRY {
            return Some(Self::Entry(expires));
        }
        Some(Self::Host(HostPeer {
            host: name.strip_prefix(URI)?.to_owned(),
            key,
            expires,
        }))
    }
}

/// The one name in a certificate, the digest of its key, and when it ends.
fn read(certificate: &[u8]) -> Option<(String, String, SystemTime)> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let [GeneralName::URI(uri)] = &*names.value.general_names else {
        return None;
    };
    let ends = certificate.validity().not_after.timestamp();
    Some((
        (*uri).to_owned(),
        PublicKey::of(certificate.public_key())?.digest(),
        UNIX_EPOCH + Duration::from_secs(u64::try_from(ends).ok()?),
    ))
}

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
