//! Whose a name is: of the names of users, and of the certificates that people say are theirs, each is one person's. Two who
//! have one could not be told apart by it, and would lock each other out.
//!
//! Whoever gives somebody a name first reads a mark in the store, then looks who has the name, and renews the mark with the
//! change: of two who give the same name at once, one has to look again.

use cimi::{Timestamp, dn::DistinguishedName, resources::User};
use documents::Changes;
use store::{Key, Revision};

use crate::{Cloud, CloudError, Result, people::is_over};

/// Where the mark is.
const MARK: (&str, &str) = ("NameMark", "names");

/// What was in the store when somebody began to look who has which name.
pub(crate) struct NamesSeen {
    key: Key,
    revision: Revision,
}

impl NamesSeen {
    /// `changes`, which are made only if nobody was given a name since.
    pub(crate) fn guard<'a>(&self, changes: Changes<'a>) -> Changes<'a> {
        changes.put_raw(&self.key, self.revision, b"{}".to_vec())
    }
}

impl Cloud {
    /// Begins to look who has which name.
    pub(crate) async fn names_seen(&self) -> Result<NamesSeen> {
        let documents = &self.0.documents;
        let key = Key::new(MARK.0, MARK.1).map_err(documents::DocumentsError::from)?;
        let there = documents.store().get(&key).await;
        let there = there.map_err(documents::DocumentsError::from)?;
        let revision = there.map_or(Revision::ZERO, |entry| entry.revision);
        // The names that were given with the mark are seen, too.
        let seen = documents.wait_for(revision).await;
        seen.map_err(documents::DocumentsError::from)?;
        Ok(NamesSeen { key, revision })
    }

    /// Refuses a user who has a name of somebody else's: what the user has had before counts for nothing new.
    pub(crate) fn check_names(&self, user: &User, before: Option<&User>) -> Result<()> {
        let users = &self.0.documents.users;
        let old: Vec<&str> = before.map(names).unwrap_or_default();
        for name in names(user) {
            if old.contains(&name) {
                continue;
            }
            let same = DistinguishedName::parse(name)
                .map(|name| users.by_index("dn", &name.canonical()))
                .unwrap_or_default();
            let called = users.by_index("login", name);
            let others = same.iter().chain(&called);
            if let Some(other) = others
                .into_iter()
                .find(|other| other.document.id != user.id)
            {
                return Err(CloudError::Conflict(format!(
                    "`{name}` is a name of {} already: take it away there first",
                    other.document.id
                )));
            }
        }
        Ok(())
    }

    /// Whether a certificate's name is somebody's already, other than of the registration of this user: of a user, of
    /// somebody who waits for an account, or of who owns anything by it as member of an organisation.
    pub(crate) fn is_somebodys(&self, name: &str, of: &str) -> bool {
        let documents = &self.0.documents;
        let Some(parsed) = DistinguishedName::parse(name) else {
            return false;
        };
        let canonical = parsed.canonical();
        let waiting = documents.registrations.by_index("dn", &canonical);
        documents.users.count_by_index("dn", &canonical) > 0
            || waiting
                .iter()
                .any(|other| other.username != of && !is_over(other, Timestamp::now()))
            || !self.owned_by(&parsed.to_string()).is_empty()
    }
}

/// All that a user is known by.
fn names(user: &User) -> Vec<&str> {
    let others = user.altnames.values().map(String::as_str);
    others.chain([user.username.as_str()]).collect()
}
