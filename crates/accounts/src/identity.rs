//! Somebody who has shown who they are.

use cimi::{SessionId, TokenId, common::ADMIN_ROLE, model::Kind, resources::User};

/// A user whose credentials were right, with the roles held. The one result of every way to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user name (not one of the other names somebody may have logged in with).
    pub user: Box<str>,
    /// Roles held, e.g. `::ADMIN`.
    pub roles: Vec<String>,
    /// By which token, if not by the password itself.
    pub token: Option<ByToken>,
    /// By which session of a browser, if by one.
    pub session: Option<SessionId>,
    /// How it was shown.
    pub method: Method,
    /// Whether somebody's rights were handed on without that of starting machines (a limited proxy).
    pub is_limited: bool,
    /// The [generation](User::generation) of the account when this was shown; none where there is no account behind it.
    pub generation: Option<u64>,
}

/// How somebody has shown who they are; for the audit log, and for what needs more than one of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// The password of an account of the cloud's own.
    #[default]
    Password,
    /// The password of a directory.
    Directory,
    /// A token.
    Token,
    /// A client certificate.
    Certificate,
    /// A proxy of a client certificate, which may have been handed on.
    Proxy,
    /// A proxy with what a virtual organisation says in it.
    Voms,
    /// A browser that somebody logged in with before.
    Session,
}

impl Method {
    /// Its name, as it is written down.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Directory => "ldap",
            Self::Token => "token",
            Self::Certificate => "certificate",
            Self::Proxy => "proxy",
            Self::Voms => "voms",
            Self::Session => "session",
        }
    }

    /// Whether it shows that somebody is there in person, not just something that was handed on or can be found.
    #[must_use]
    pub const fn is_in_person(self) -> bool {
        matches!(self, Self::Password | Self::Directory | Self::Certificate)
    }
}

/// How somebody is here by a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByToken {
    /// Which.
    pub id: TokenId,
    /// Whether nothing may be changed with it.
    pub is_read_only: bool,
    /// The only types of resources that it is for, by their names; empty: it is for everything.
    pub types: Box<[String]>,
}

impl ByToken {
    /// Whether it is for some types of resources only.
    #[must_use]
    pub const fn is_narrow(&self) -> bool {
        !self.types.is_empty()
    }

    /// Whether it is for resources of a type. What there is, and of which types, everybody may know.
    #[must_use]
    pub fn is_for(&self, kind: Kind) -> bool {
        !self.is_narrow()
            || matches!(kind, Kind::CloudEntryPoint | Kind::ResourceMetadata)
            || self.types.iter().any(|name| name == kind.name())
    }

    /// Why it isn't taken for something.
    #[must_use]
    pub fn refusal(&self, what: &str) -> String {
        let types = self.types.join(", ");
        format!("this token is for {types} only, and not for {what}: log in with another one")
    }
}

impl Identity {
    /// The identity that an account confers.
    #[must_use]
    pub fn of(user: &User) -> Self {
        Self {
            user: user.username.as_str().into(),
            roles: user.roles.clone(),
            token: None,
            session: None,
            method: Method::default(),
            is_limited: false,
            generation: Some(user.generation),
        }
    }

    /// The same, shown in another way.
    #[must_use]
    pub fn by(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// Whether the administrators' role is among the roles.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.roles.iter().any(|role| role == ADMIN_ROLE)
    }
}
