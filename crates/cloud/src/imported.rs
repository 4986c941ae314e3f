//! Users who come from a file: made, changed and disabled as their entries are.

use std::collections::BTreeMap;

use accounts::files::Entry;
use cimi::{
    Common, Timestamp, UserId,
    resources::{Origin, User},
};
use serde_json::Map;

use crate::{Cloud, CloudError, Result, people::newcomer, user::own_acl};

/// What an import did, in numbers of users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// New ones.
    pub made: usize,
    /// Those whose entry had changed.
    pub changed: usize,
    /// Those who have no entry any more.
    pub disabled: usize,
    /// Those who can't be users, or are users already that somebody made here.
    pub skipped: usize,
}

impl Cloud {
    /// Makes the users of `source` those of `entries`. Each entry is taken over once: what administrators do to the user
    /// afterwards lasts until the entry changes. Who has no entry any more is disabled, and nothing of theirs is touched.
    /// Users who were made here are nobody's from a file: they stay as they are.
    ///
    /// # Errors
    /// Those of the database; then the next import goes on.
    pub async fn import_users(
        &self,
        source: &str,
        entries: &BTreeMap<String, Entry>,
    ) -> Result<Imported> {
        let mut done = Imported::default();
        for (name, entry) in entries {
            match self.0.documents.users.get(name) {
                None => {
                    let Some(id) = newcomer::id_of(name) else {
                        tracing::warn!(
                            source,
                            name,
                            "this can't be the name of a user: letters, digits and _.-@+ only"
                        );
                        done.skipped += 1;
                        continue;
                    };
                    let user = self.imported(id, source, entry).await?;
                    match self.0.documents.changes().create(&user).commit().await {
                        Ok(_) => done.made += 1,
                        Err(error) if error.is_conflict() => done.skipped += 1,
                        Err(error) => return Err(error.into()),
                    }
                }
                Some(user) if user.is_of(source) => {
                    if self.renew(&user.document.0, entry).await? {
                        done.changed += 1;
                    }
                }
                Some(_) => {
                    tracing::warn!(
                        source,
                        name,
                        "there is another user of this name, who counts"
                    );
                    done.skipped += 1;
                }
            }
        }
        for user in self.0.documents.users.all() {
            if user.is_of(source) && !entries.contains_key(&user.username) {
                done.disabled += usize::from(self.disable_imported(&user.document.0).await?);
            }
        }
        Ok(done)
    }

    async fn imported(&self, id: UserId, source: &str, entry: &Entry) -> Result<User> {
        let name = id.local().to_owned();
        Ok(User {
            common: Common::new(own_acl(&name), Timestamp::now()),
            id,
            username: name,
            first_name: None,
            last_name: None,
            email: None,
            password: Some(self.hash_of(entry).await?),
            enabled: entry.has_access,
            roles: entry.roles.clone(),
            altnames: BTreeMap::new(),
            quota: cimi::resources::Quota::default(),
            generation: 0,
            origin: Some(Origin {
                source: source.to_owned(),
                digest: entry.digest.clone(),
            }),
            unknown: Map::new(),
        })
    }

    /// Takes a changed entry over; whether it was changed.
    async fn renew(&self, user: &User, entry: &Entry) -> Result<bool> {
        let is_new = |user: &User| {
            user.origin
                .as_ref()
                .is_some_and(|o| o.digest != entry.digest)
        };
        if !is_new(user) {
            return Ok(false);
        }
        let hash = self.hash_of(entry).await?;
        let documents = &self.0.documents;
        loop {
            let read = documents.users.get(user.id.local());
            let Some(read) = read.filter(|read| is_new(read)) else {
                return Ok(false);
            };
            let mut next = read.document.0.clone();
            next.password = Some(hash.clone());
            next.enabled = entry.has_access;
            // What the cloud itself gives stays: no file has it.
            next.roles.retain(|role| role.starts_with("::"));
            next.roles.extend(entry.roles.iter().cloned());
            next.generation += 1;
            if let Some(origin) = &mut next.origin {
                origin.digest.clone_from(&entry.digest);
            }
            self.end_surplus_tokens(&next.username).await?;
            let changes = self.without_logins(documents.changes(), &next.username);
            match changes.replace(&read, next).commit().await {
                Ok(_) => return Ok(true),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Disables a user without an entry; whether that was still to be done.
    pub(crate) async fn disable_imported(&self, user: &User) -> Result<bool> {
        let is_entered = |user: &User| user.origin.as_ref().is_some_and(|o| !o.digest.is_empty());
        if !is_entered(user) {
            return Ok(false);
        }
        let disable = |user: &mut User| {
            user.enabled = false;
            user.generation += 1;
            if let Some(origin) = &mut user.origin {
                // An entry that comes back is a new one.
                origin.digest.clear();
            }
            Ok::<bool, CloudError>(true)
        };
        self.0.documents.update(user.id.local(), disable).await?;
        Ok(true)
    }

    async fn hash_of(&self, entry: &Entry) -> Result<String> {
        let hashed = self.0.settings.passwords.imported(entry).await;
        hashed.map_err(|error| CloudError::Unavailable(error.to_string()))
    }
}
