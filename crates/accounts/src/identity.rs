//! Somebody who has shown who they are.

use cimi::{SessionId, TokenId, common::ADMIN_ROLE, resources::User};

/// A user whose credentials were right, with the roles held.
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
}

/// How somebody is here by a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByToken {
    /// Which.
    pub id: TokenId,
    /// Whether nothing may be changed with it.
    pub is_read_only: bool,
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
        }
    }

    /// Whether the administrators' role is among the roles.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.roles.iter().any(|role| role == ADMIN_ROLE)
    }
}
