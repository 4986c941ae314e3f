//! User, Group, Credential and Token.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Quota, Unknown, resource};
use crate::dn::DistinguishedName;
use crate::{Common, CredentialId, GroupId, Timestamp, TokenId, UserId};

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
    /// Where the account comes from, if nobody made it here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// The most the user may have, where it isn't what the configuration gives everybody. Administrators write it.
    #[serde(default, skip_serializing_if = "Quota::is_empty")]
    pub quota: Quota,
    /// Rises when the password, roles or the enabled flag change, so that sessions end.
    #[serde(default)]
    pub generation: u64,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl User {
    /// Whether the account comes from there.
    #[must_use]
    pub fn is_of(&self, source: &str) -> bool {
        let origin = self.origin.as_ref();
        origin.is_some_and(|origin| origin.source == source)
    }
}

/// Where an account comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The kind of file or directory.
    pub source: String,
    /// Names the entry that was taken over; empty: there is none any more.
    pub digest: String,
}
resource!(User, "User", |user, add| {
    add("login", &user.username);
    for name in user.altnames.values() {
        add("login", name);
    }
    // Names that come from elsewhere aren't taken for those of certificates.
    let own = Some(&user.username).filter(|_| user.origin.is_none());
    for name in user.altnames.values().chain(own) {
        if let Some(name) = DistinguishedName::parse(name) {
            add("dn", &name.canonical());
        }
    }
    for role in &user.roles {
        add("role", role);
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

/// What programs log in with in place of a password. The token itself is not kept, only its digest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    /// Its id.
    pub id: TokenId,
    /// Name, times, access.
    #[serde(flatten)]
    pub common: Common,
    /// Whose it is; the owner by the access list, too.
    pub user: String,
    /// SHA-256 of the token, hexadecimal. Never shown.
    pub digest: String,
    /// What can be done with it.
    pub scope: TokenScope,
    /// With resources of which types, by their names; empty: of all, and with what is no resource.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// When it ends.
    pub expires: Timestamp,
    /// When it was last used, to the minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Timestamp>,
    /// From where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_address: Option<String>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(Token, "Token", |token, add| {
    add("digest", &token.digest);
});

/// What can be done with a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenScope {
    /// All that its user may do, but for what needs the password itself.
    #[default]
    Full,
    /// See what its user may see, and change nothing.
    ReadOnly,
}

/// People who share something: whoever has its name among the [roles](User::roles) is a member.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// `Group/<groupname>`.
    pub id: GroupId,
    /// Times and access.
    #[serde(flatten)]
    pub common: Common,
    /// The name in access lists; can't be changed.
    pub groupname: String,
    /// The most that all members together may have.
    #[serde(default)]
    pub quota: Quota,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(Group, "Group");
