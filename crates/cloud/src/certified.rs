//! Users who come from a file of owners of certificates: made, changed and disabled as their entries are.

use std::collections::BTreeMap;

use accounts::certificate_file::Entry;
use cimi::{
    Common, Timestamp, UserId,
    resources::{Origin, User},
};
use serde_json::Map;

use crate::{Cloud, CloudError, Imported, Result, user::own_acl};

/// Under which of a user's other names the subject of the certificate is.
const X500_NAME: &str = "x500dn";

impl Cloud {
    /// Makes the users of `source` those of `entries`, by the rules of [`import_users`](Self::import_users). They have no
    /// password. Whose certificate is one of another user's names already is that user.
    ///
    /// # Errors
    /// Those of the database; then the next import goes on.
    pub async fn import_certified(
        &self,
        source: &str,
        entries: &BTreeMap<String, Entry>,
    ) -> Result<Imported> {
        let mut done = Imported::default();
        let users = &self.0.documents.users;
        for (name, entry) in entries {
            let subject = &entry.name;
            let known = users.by_index("dn", &subject.canonical());
            if let Some(other) = known.iter().find(|user| !user.is_of(source)) {
                tracing::warn!(source, %subject, user = other.username, "this is the name of another user, who counts");
                done.skipped += 1;
                continue;
            }
            match users.get(name) {
                None => {
                    let Some(user) = certified(name, source, entry) else {
                        done.skipped += 1;
                        continue;
                    };
                    match self.0.documents.changes().create(&user).commit().await {
                        Ok(_) => done.made += 1,
                        Err(error) if error.is_conflict() => done.skipped += 1,
                        Err(error) => return Err(error.into()),
                    }
                }
                Some(user) if user.is_of(source) => {
                    done.changed +=
                        usize::from(self.renew_certified(&user.document.0, entry).await?);
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
        for user in users.all() {
            if user.is_of(source) && !entries.contains_key(&user.username) {
                done.disabled += usize::from(self.disable_imported(&user.document.0).await?);
            }
        }
        Ok(done)
    }

    /// Takes a changed entry over; whether it was changed.
    async fn renew_certified(&self, user: &User, entry: &Entry) -> Result<bool> {
        let is_new = |user: &User| {
            user.origin
                .as_ref()
                .is_some_and(|o| o.digest != entry.digest)
        };
        if !is_new(user) {
            return Ok(false);
        }
        let renew = |user: &mut User| {
            let changes = is_new(user);
            if changes {
                user.enabled = entry.has_access;
                // What the cloud itself gives stays: no file has it.
                user.roles.retain(|role| role.starts_with("::"));
                user.roles.extend(entry.roles.iter().cloned());
                user.generation += 1;
                if let Some(origin) = &mut user.origin {
                    origin.digest.clone_from(&entry.digest);
                }
            }
            Ok::<bool, CloudError>(changes)
        };
        self.0.documents.update(user.id.local(), renew).await?;
        Ok(true)
    }
}

fn certified(name: &str, source: &str, entry: &Entry) -> Option<User> {
    let id = UserId::from_local(name).ok()?;
    Some(User {
        id,
        common: Common::new(own_acl(name), Timestamp::now()),
        username: name.to_owned(),
        first_name: None,
        last_name: entry.name.common_name().map(str::to_owned),
        email: None,
        password: None,
        enabled: entry.has_access,
        roles: entry.roles.clone(),
        altnames: [(X500_NAME.to_owned(), entry.name.to_string())].into(),
        quota: cimi::resources::Quota::default(),
        generation: 0,
        origin: Some(Origin {
            source: source.to_owned(),
            digest: entry.digest.clone(),
        }),
        unknown: Map::new(),
    })
}
