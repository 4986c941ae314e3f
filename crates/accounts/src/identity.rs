//! Somebody who has shown who they are.

use cimi::{common::ADMIN_ROLE, resources::User};

/// A user whose credentials were right, with the roles held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user name (not one of the other names somebody may have logged in with).
    pub user: Box<str>,
    /// Roles held, e.g. `::ADMIN`.
    pub roles: Vec<String>,
}

impl Identity {
    /// The identity that an account confers.
    #[must_use]
    pub fn of(user: &User) -> Self {
        Self {
            user: user.username.as_str().into(),
            roles: user.roles.clone(),
        }
    }

    /// Whether the administrators' role is among the roles.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.roles.iter().any(|role| role == ADMIN_ROLE)
    }
}
