//! What every resource has (DSP0263 §5.1 common attributes, and StratusLab's access control list).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// The attributes common to all resources. `id` and `resourceURI` follow from the document's key
/// and type, so they are written on the way out and not kept here twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Common {
    /// For people; free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// For people; free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// When the resource came to be.
    pub created: Timestamp,
    /// When its representation last changed.
    pub updated: Timestamp,
    /// The user's own key-value pairs, kept and returned as given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
    /// Who may do what.
    pub acl: Acl,
    /// The component of a system that it was made as: `<system's uuid>#<name>`. Never shown; by it, what was made is
    /// found again by who was killed before noting it down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_of: Option<String>,
}

impl Common {
    /// A resource owned by `acl`'s owner, made at `now`.
    #[must_use]
    pub fn new(acl: Acl, now: Timestamp) -> Self {
        Self {
            name: None,
            description: None,
            created: now,
            updated: now,
            properties: BTreeMap::new(),
            acl,
            part_of: None,
        }
    }
}

/// A reference to another resource: `{"href": "Machine/…"}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ref<I> {
    /// The id referred to.
    pub href: I,
}

impl<I> Ref<I> {
    /// A reference to `id`.
    pub const fn to(id: I) -> Self {
        Self { href: id }
    }
}

/// Something the caller may do with a resource in its present state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// `add`, `edit`, `delete`, or an action URI.
    pub rel: String,
    /// Where to send it.
    pub href: String,
}

/// Who a rule speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum PrincipalType {
    /// One user, by name.
    User,
    /// Everybody who holds a role: `::ADMIN`, `::USER` (anyone authenticated), `::ANON` (anyone).
    Role,
}

/// What a principal may do; a greater right includes the smaller ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Right {
    /// Read it.
    View,
    /// Change, delete and operate it.
    Modify,
    /// Everything.
    All,
}

/// A user or a role.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Principal {
    /// User name or role name.
    pub principal: String,
    /// Which of the two.
    #[serde(rename = "type")]
    pub kind: PrincipalType,
}

/// One rule of an access control list.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AclRule {
    /// Whom it concerns.
    #[serde(flatten)]
    pub who: Principal,
    /// What they may do.
    pub right: Right,
}

/// The access control list of a resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Acl {
    /// Has every right.
    pub owner: Principal,
    /// Rights of others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<AclRule>,
}

/// The role of administrators; it has every right on everything.
pub const ADMIN_ROLE: &str = "::ADMIN";
/// The role of everybody who is authenticated.
pub const USER_ROLE: &str = "::USER";
/// The role of everybody.
pub const ANONYMOUS_ROLE: &str = "::ANON";

impl Acl {
    /// Owned by one user, nobody else has a right.
    #[must_use]
    pub fn owned_by_user(name: &str) -> Self {
        Self {
            owner: Principal {
                principal: name.to_owned(),
                kind: PrincipalType::User,
            },
            rules: Vec::new(),
        }
    }

    /// Owned by the administrators.
    #[must_use]
    pub fn owned_by_admin() -> Self {
        Self {
            owner: Principal {
                principal: ADMIN_ROLE.to_owned(),
                kind: PrincipalType::Role,
            },
            rules: Vec::new(),
        }
    }

    /// With one more rule for a role.
    #[must_use]
    pub fn allowing_role(self, role: &str, right: Right) -> Self {
        self.allowing(role, PrincipalType::Role, right)
    }

    /// With one more rule for a user.
    #[must_use]
    pub fn allowing_user(self, name: &str, right: Right) -> Self {
        self.allowing(name, PrincipalType::User, right)
    }

    fn allowing(mut self, name: &str, kind: PrincipalType, right: Right) -> Self {
        let who = Principal {
            principal: name.to_owned(),
            kind,
        };
        self.rules.push(AclRule { who, right });
        self
    }

    /// The greatest right that a caller has who is `user` (if authenticated) and holds `roles`
    /// (StratusLab profile §9.4; administrators have every right).
    #[must_use]
    pub fn right_of(&self, user: Option<&str>, roles: &[String]) -> Option<Right> {
        let is = |who: &Principal| match who.kind {
            PrincipalType::User => user == Some(who.principal.as_str()),
            PrincipalType::Role => {
                who.principal == ANONYMOUS_ROLE
                    || (who.principal == USER_ROLE && user.is_some())
                    || roles.contains(&who.principal)
            }
        };
        if roles.iter().any(|r| r == ADMIN_ROLE) || is(&self.owner) {
            return Some(Right::All);
        }
        self.rules
            .iter()
            .filter(|rule| is(&rule.who))
            .map(|rule| rule.right)
            .max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_has_all_and_others_what_the_rules_say() {
        let acl = Acl::owned_by_user("alice").allowing_role(USER_ROLE, Right::View);
        assert_eq!(acl.right_of(Some("alice"), &[]), Some(Right::All));
        assert_eq!(acl.right_of(Some("bob"), &[]), Some(Right::View));
        assert_eq!(acl.right_of(None, &[]), None);
        assert_eq!(
            acl.right_of(Some("root"), &[ADMIN_ROLE.to_owned()]),
            Some(Right::All)
        );
    }

    #[test]
    fn a_user_named_like_a_role_is_not_that_role() {
        assert_eq!(Acl::owned_by_admin().right_of(Some(ADMIN_ROLE), &[]), None);
    }
}
