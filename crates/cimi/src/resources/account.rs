//! User and Credential.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Unknown, resource};
use crate::{Common, CredentialId, UserId};

/// An account. Members are spelled as StratusLab spells them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct User {
    /// `User/<username>`.
    pub id: UserId,
    /// Times and access.
    #[serde(flatten)]
    pub common: Common,
    /// The name used to log in; can't be changed.
    pub username: String,
    /// Given name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_name: Option<String>,
    /// Family name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_name: Option<String>,
    /// Where to write to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Its hash, in one of the formats of crate `passwords`; new ones are argon2id. Never shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Whether the account can be used.
    pub enabled: bool,
    /// Roles held, e.g. `::ADMIN`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Other names of the same person, e.g. `x500dn`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub altnames: BTreeMap<String, String>,
    /// Rises when the password, roles or the enabled flag change, so that sessions end.
    #[serde(default)]
    pub generation: u64,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(User, "User", |user, add| {
    add("login", &user.username);
    for name in user.altnames.values() {
        add("login", name);
    }
});

/// What a machine accepts its owner by.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Credential {
    /// Its id.
    pub id: CredentialId,
    /// Name, times, access.
    #[serde(flatten)]
    pub common: Common,
    /// An SSH public key (one line), or several lines.
    pub public_key: String,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(Credential, "Credential");
