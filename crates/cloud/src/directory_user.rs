//! Users of a directory: each has a document here once they logged in, brought up to date as often as the directory says
//! something else. What they own, and whether they are let in, is decided here as for everybody.

use std::{collections::BTreeMap, sync::Arc};

use accounts::directory::{Found, SOURCE};
use cimi::{
    Common, Timestamp, UserId,
    resources::{Origin, User},
};
use serde_json::Map;

use crate::{Cloud, CloudError, Result, people::newcomer, user::own_acl};

impl Cloud {
    /// The user that the directory has found: made, or changed if the directory has other names or roles than last time.
    /// An administrator's changes last until then. `None` for a name that somebody else has here, or that can't be one.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn directory_user(&self, found: &Found) -> Result<Option<Arc<User>>> {
        let users = &self.0.documents.users;
        let name = &found.login;
        // Who is here already keeps the name, whatever newcomers may be called today.
        let id = match users.get(name) {
            Some(user) => Some(user.document.id.clone()),
            None => newcomer::id_of(name),
        };
        let Some(id) = id else {
            tracing::warn!(
                dn = found.dn,
                login = name,
                "this can't be the name of a user here: letters, digits and _.-@+ only"
            );
            return Ok(None);
        };
        let digest = found.digest();
        loop {
            let Some(user) = users.get(id.local()) else {
                match self.make_directory_user(&id, found, &digest).await {
                    Err(CloudError::Raced(_)) => continue,
                    made => return made.map(Some),
                }
            };
            if !user.is_of(SOURCE) {
                tracing::warn!(
                    dn = found.dn,
                    login = found.login,
                    "there is another user of this name, who counts"
                );
                return Ok(None);
            }
            let is_news = |user: &User| user.origin.as_ref().is_some_and(|o| o.digest != digest);
            if !is_news(&user) {
                return Ok(Some(Arc::new(user.document.0.clone())));
            }
            let renew = |user: &mut User| {
                let changes = is_news(user);
                if changes {
                    fill(user, found);
                    if let Some(origin) = &mut user.origin {
                        origin.digest.clone_from(&digest);
                    }
                }
                Ok::<bool, CloudError>(changes)
            };
            let renewed = self.0.documents.update(id.local(), renew).await?;
            tracing::info!(
                username = found.login,
                "the directory has changed this user"
            );
            return Ok(Some(Arc::new(renewed.document.0.clone())));
        }
    }

    async fn make_directory_user(
        &self,
        id: &UserId,
        found: &Found,
        digest: &str,
    ) -> Result<Arc<User>> {
        let mut user = User {
            id: id.clone(),
            common: Common::new(own_acl(id.local()), Timestamp::now()),
            username: id.local().to_owned(),
            first_name: None,
            last_name: None,
            email: None,
            password: None,
            enabled: true,
            roles: Vec::new(),
            altnames: BTreeMap::new(),
            quota: cimi::resources::Quota::default(),
            generation: 0,
            origin: Some(Origin {
                source: SOURCE.to_owned(),
                digest: digest.to_owned(),
            }),
            unknown: Map::new(),
        };
        fill(&mut user, found);
        match self.0.documents.changes().create(&user).commit().await {
            Ok(_) => {
                tracing::info!(
                    username = user.username,
                    dn = found.dn,
                    "a user of the directory is here for the first time"
                );
                Ok(Arc::new(user))
            }
            Err(error) if error.is_conflict() => Err(CloudError::Raced(error.to_string())),
            Err(error) => Err(error.into()),
        }
    }
}

fn fill(user: &mut User, found: &Found) {
    user.first_name.clone_from(&found.first_name);
    user.last_name.clone_from(&found.last_name);
    user.email.clone_from(&found.email);
    user.roles.clone_from(&found.roles);
}
