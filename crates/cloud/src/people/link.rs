//! Secrets that somebody was given to do one thing, once.
//!
//! Whatever a link does and its removal are one transaction: of two who follow it at once, one does it.

use std::{sync::Arc, time::Duration};

use accounts::{session, token};
use cimi::{
    Acl, Common, EmailAddress, MailLinkId, Timestamp,
    resources::{MailLink, Purpose, PurposeKind},
};
use documents::{Cached, Changes};
use serde_json::Map;

use crate::{Cloud, CloudError, Result};

/// What somebody can do by a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// What.
    pub kind: LinkKind,
    /// Whom it is about.
    pub username: String,
}

/// What a link does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// Confirms the address of a registration.
    Confirm,
    /// Decides about a registration.
    Decide,
    /// Makes this the address of a user.
    Address(EmailAddress),
    /// Sets a new password.
    Reset,
}

impl Cloud {
    /// A new link beside what `changes` do; those of the same kind for the same user work no more. Returns the secret.
    pub(super) fn with_link<'a>(
        &'a self,
        mut changes: Changes<'a>,
        purpose: Purpose,
        lasts: Duration,
    ) -> (Changes<'a>, String) {
        for old in self.links_about(purpose.kind(), purpose.username()) {
            changes = changes.remove(&old);
        }
        let now = Timestamp::now();
        let secret = session::secret();
        let link = MailLink {
            id: MailLinkId::generate(),
            common: Common::new(Acl::owned_by_admin(), now),
            digest: token::digest(&secret),
            purpose,
            expires: now.after(lasts),
            unknown: Map::new(),
        };
        (changes.create(&link), secret)
    }

    /// All links of the same kind for the same user; a few at most.
    pub(super) fn links_about(
        &self,
        kind: PurposeKind,
        username: &str,
    ) -> Vec<Arc<Cached<MailLink>>> {
        let links = &self.0.documents.mail_links;
        links.by_index("about", &kind.about(username))
    }

    /// The link with this secret, if it still works.
    ///
    /// # Errors
    /// [`CloudError::NotFound`], in the same words whatever is the matter with it.
    pub(super) fn find_link(&self, secret: &str) -> Result<Arc<Cached<MailLink>>> {
        let none = || CloudError::not_found("such link: it was used already, or is too old");
        if !session::looks_like_one(secret) {
            return Err(none());
        }
        let digest = token::digest(secret);
        let found = self.0.documents.mail_links.by_index("digest", &digest);
        found
            .into_iter()
            .find(|link| Timestamp::now() < link.expires)
            .ok_or_else(none)
    }

    /// What following a link would do. Changes nothing: whoever looks at links on their way follows them.
    ///
    /// # Errors
    /// [`CloudError::NotFound`].
    pub fn link(&self, secret: &str) -> Result<Link> {
        let link = self.find_link(secret)?;
        let (kind, username) = match &link.purpose {
            Purpose::Confirm { username } => (LinkKind::Confirm, username),
            Purpose::Decide { username } => (LinkKind::Decide, username),
            Purpose::Address { username, email } => (LinkKind::Address(email.clone()), username),
            Purpose::Reset { username } => (LinkKind::Reset, username),
            Purpose::Command { .. } => return Err(CloudError::not_found("such link")),
        };
        Ok(Link {
            kind,
            username: username.clone(),
        })
    }
}
