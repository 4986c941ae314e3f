//! What somebody can be called whom no administrator made here: directories, files and providers of identities give names
//! that nobody here has looked at.

use cimi::{Timestamp, UserId};

use crate::Cloud;

use super::is_over;

/// The id of a newcomer from elsewhere. Letters, digits and `_.-@+` only: a name with `:` could be that of an organisation
/// that is let in (`vo:atlas`), one with `=` the name in somebody's certificate, by which members of organisations own things.
pub(crate) fn id_of(name: &str) -> Option<UserId> {
    let is_plain = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"_.-@+".contains(&byte));
    UserId::from_local(name).ok().filter(|_| is_plain)
}

impl Cloud {
    /// Who or what has this name already, in words. A name that a person may choose elsewhere must be nobody's: not of a
    /// user, not of somebody who waits for an account, and nothing may belong to it.
    pub(super) fn holder_of(&self, name: &str) -> Option<&'static str> {
        let documents = &self.0.documents;
        let waits = |name: &str| {
            let found = documents.registrations.get(name);
            found.is_some_and(|found| !is_over(&found, Timestamp::now()))
        };
        if documents.users.count_by_index("login", name) > 0 {
            Some("there is another account of this name")
        } else if waits(name) {
            Some("somebody has asked for an account of this name")
        } else if !self.owned_by(name).is_empty() {
            Some("something here belongs to this name")
        } else {
            None
        }
    }
}
