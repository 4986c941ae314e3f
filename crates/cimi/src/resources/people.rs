//! Who is logged in by a browser, who wants an account, and the links that letters bring.

use serde::{Deserialize, Serialize};

use super::{Unknown, resource};
use crate::dn::DistinguishedName;
use crate::{Common, EmailAddress, MailLinkId, RegistrationId, SessionId, Timestamp};

/// A browser that somebody is logged in with. The secret in its cookie is not kept, only its digest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Times and access.
    #[serde(flatten)]
    pub common: Common,
    /// Whose it is; the owner by the access list, too.
    pub user: String,
    /// SHA-256 of the secret, hexadecimal. Never shown.
    pub digest: String,
    /// The [generation](super::User::generation) of the user at login: what raises it ends the session.
    pub generation: u64,
    /// How the user logged in: `password`, `oidc` …
    pub method: String,
    /// When it ends, however much it is used.
    pub expires: Timestamp,
    /// When it was last used, to the minute; it ends when that is too long ago.
    pub last_used: Timestamp,
    /// From where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_address: Option<String>,
    /// What the browser calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(Session, "Session", |session, add| {
    add("digest", &session.digest);
    add("user", &session.user);
});

/// Somebody who asked for an account and has none yet.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Registration {
    /// `Registration/<username>`: a name is asked for by one at a time.
    pub id: RegistrationId,
    /// Times and access.
    #[serde(flatten)]
    pub common: Common,
    /// The name to log in with.
    pub username: String,
    /// Given name.
    pub first_name: String,
    /// Family name.
    pub last_name: String,
    /// Where to write to.
    pub email: EmailAddress,
    /// The name in the person's certificate, as RFC 2253 writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x500dn: Option<String>,
    /// What the person says to the administrator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Hash of the password chosen, as the account is to have it. Never shown.
    pub password: String,
    /// How far it got.
    pub state: RegistrationState,
    /// When it is forgotten, if nothing happens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// Who decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<String>,
    /// What keeps it from going on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(Registration, "Registration", |registration, add| {
    add("state", registration.state.name());
    let name = registration.x500dn.as_deref();
    if let Some(name) = name.and_then(DistinguishedName::parse) {
        add("dn", &name.canonical());
    }
});

/// How far a registration got. Confirmed → decided → an account, and the registration is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RegistrationState {
    /// Whether the address is the person's isn't known yet.
    EmailPending,
    /// The administrators have to decide.
    ApprovalPending,
    /// Approved, and on the way into the directory.
    Approved,
    /// Refused; kept for a while.
    Rejected,
}

impl RegistrationState {
    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::EmailPending => "EMAIL_PENDING",
            Self::ApprovalPending => "APPROVAL_PENDING",
            Self::Approved => "APPROVED",
            Self::Rejected => "REJECTED",
        }
    }
}

/// A secret that somebody was given to do one thing, once: a link in a letter, or the code that brings a command its token.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MailLink {
    /// Its id.
    pub id: MailLinkId,
    /// Times and access.
    #[serde(flatten)]
    pub common: Common,
    /// SHA-256 of the secret, hexadecimal.
    pub digest: String,
    /// What it does.
    pub purpose: Purpose,
    /// Until when.
    pub expires: Timestamp,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(MailLink, "MailLink", |link, add| {
    add("digest", &link.digest);
    let purpose = &link.purpose;
    add("about", &purpose.kind().about(purpose.username()));
});

/// What a [`MailLink`] does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Purpose {
    /// Says that the address of a registration is the person's.
    Confirm {
        /// The name asked for.
        username: String,
    },
    /// Lets an administrator decide about a registration.
    Decide {
        /// The name asked for.
        username: String,
    },
    /// Says that a new address is the user's.
    Address {
        /// Whose.
        username: String,
        /// The new address.
        email: EmailAddress,
    },
    /// Lets a user choose a new password.
    Reset {
        /// Who.
        username: String,
    },
    /// Brings a command a token of the user who let it.
    Command {
        /// Whose.
        username: String,
        /// SHA-256 of what the command alone knows, base64 for URLs (RFC 7636).
        challenge: String,
        /// What the token is to be called.
        name: String,
    },
}

/// What kind of thing a [`MailLink`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PurposeKind {
    /// [`Purpose::Confirm`]
    Confirm,
    /// [`Purpose::Decide`]
    Decide,
    /// [`Purpose::Address`]
    Address,
    /// [`Purpose::Reset`]
    Reset,
    /// [`Purpose::Command`]
    Command,
}

impl PurposeKind {
    /// Kind and user: what newer links of the same kind replace.
    #[must_use]
    pub fn about(self, username: &str) -> String {
        let kind = match self {
            Self::Confirm => "confirm",
            Self::Decide => "decide",
            Self::Address => "address",
            Self::Reset => "reset",
            Self::Command => "command",
        };
        format!("{kind}:{username}")
    }
}

impl Purpose {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> PurposeKind {
        match self {
            Self::Confirm { .. } => PurposeKind::Confirm,
            Self::Decide { .. } => PurposeKind::Decide,
            Self::Address { .. } => PurposeKind::Address,
            Self::Reset { .. } => PurposeKind::Reset,
            Self::Command { .. } => PurposeKind::Command,
        }
    }

    /// Whom it is about.
    #[must_use]
    pub fn username(&self) -> &str {
        match self {
            Self::Confirm { username }
            | Self::Decide { username }
            | Self::Address { username, .. }
            | Self::Reset { username }
            | Self::Command { username, .. } => username,
        }
    }
}
