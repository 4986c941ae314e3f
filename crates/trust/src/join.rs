//! What host and entry say to each other when a host joins, and when its certificate is renewed. JSON, by POST.

use std::time::Duration;

use cimi::Timestamp;
use serde::{Deserialize, Serialize};

use crate::JoinSecret;

/// Where a host asks to join.
pub const JOIN_PATH: &str = "/join";
/// Where a host that has joined asks for its next certificate.
pub const RENEW_PATH: &str = "/renew";
/// What a host hears that shows a good certificate and was removed from its cloud.
pub const REMOVED: &str = "this host was removed from its cloud";
/// How far the clocks of a host and of its entry may be apart when it joins. What was seen of machines is accounted by the
/// host's clock.
pub const CLOCKS_APART_AT_MOST: Duration = Duration::from_secs(30);

/// A host asks to join.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JoinRequest {
    /// That of its token.
    pub secret: JoinSecret,
    /// See [`HostKey::request`](crate::HostKey::request).
    pub request: String,
    /// What it calls itself.
    pub name: String,
    /// What its clock says.
    pub time: Timestamp,
}

/// A host that has joined asks for its next certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RenewRequest {
    /// Of the key that it has joined with.
    pub request: String,
}

/// What it gets.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Joined {
    /// `Host/<id>`
    pub host: String,
    /// What it is called.
    pub name: String,
    /// Its certificate, PEM.
    pub certificate: String,
    /// That of the authority, PEM.
    pub authority: String,
    /// When its certificate ends.
    pub expires: Timestamp,
}
