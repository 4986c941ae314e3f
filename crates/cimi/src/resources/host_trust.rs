//! What hosts are known by, and the cloud to them. None of it is shown by any door, and no host sees more of it than its own
//! pulse.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Unknown, resource};
use crate::{Common, HostAuthorityId, HostId, HostIdentityId, HostPulseId, HostTokenId, Timestamp};

/// The authority that signs the certificates of hosts, and of entries towards hosts. There is one, [`OWN`](Self::OWN).
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostAuthority {
    /// Its id.
    pub id: HostAuthorityId,
    /// Times and access.
    #[serde(flatten)]
    pub common: Common,
    /// PEM.
    pub certificate: String,
    /// The private key, PEM (PKCS#8). Never shown.
    pub private_key: String,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(HostAuthority, "HostAuthority");

impl HostAuthority {
    /// The part of its id after the slash.
    pub const OWN: &'static str = "own";
}

impl fmt::Debug for HostAuthority {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the key.
        out.debug_struct("HostAuthority")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

/// What one host can join by, once. The part of its id after the slash is the SHA-256 of the secret, hexadecimal: the secret
/// itself is kept nowhere.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostToken {
    /// Its id.
    pub id: HostTokenId,
    /// Times and access.
    #[serde(flatten)]
    pub common: Common,
    /// Who made it.
    pub user: String,
    /// The [generation](super::User::generation) of that account then: what raises it ends the token.
    #[serde(default)]
    pub generation: u64,
    /// What the host that joins is to be called; none: what it calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_name: Option<String>,
    /// When it ends, used or not.
    pub expires: Timestamp,
    /// Which host has joined by it. That one gets its certificate once more, if the answer was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<HostId>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(HostToken, "HostToken");

/// By what a host that has joined is known. The part of its id after the slash is that of the [`Host`](super::Host): whose is
/// gone is no host of this cloud any more, whatever certificates it has.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostIdentity {
    /// Its id.
    pub id: HostIdentityId,
    /// Times and access.
    #[serde(flatten)]
    pub common: Common,
    /// SHA-256 of the host's public key, hexadecimal.
    pub key_digest: String,
    /// When its newest certificate ends.
    pub expires: Timestamp,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(HostIdentity, "HostIdentity");

/// That a host which has joined is there: it writes this under a lease that it keeps alive, so that this ends with it. The
/// part of its id after the slash is that of the [`Host`](super::Host).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPulse {
    /// Its id.
    pub id: HostPulseId,
    /// Times and access.
    #[serde(flatten)]
    pub common: Common,
}
resource!(HostPulse, "HostPulse");
