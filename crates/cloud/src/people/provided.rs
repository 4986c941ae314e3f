//! Users whom a provider of identities vouches for (OpenID Connect).
//!
//! Who somebody is, is the provider and its word for the person, kept as the other name `oidc` of a user; never a name or an
//! address that somebody else could have there tomorrow.

use std::collections::BTreeMap;

use accounts::{
    Identity,
    oidc::{Person, SOURCE},
};
use cimi::{
    Common, Timestamp,
    resources::{Origin, User},
};
use documents::Cached;
use serde_json::Map;

use crate::{Cloud, CloudError, Result, user::own_acl};

use super::newcomer;

/// The other name that holds who somebody is at a provider.
const ALTNAME: &str = "oidc";

impl Cloud {
    /// The user whom a provider vouches for; made at the first login if `creates`. Roles, names and address of an account that
    /// came from there follow the provider at each login; one that was made here and linked keeps its own.
    ///
    /// # Errors
    /// [`CloudError::Forbidden`] if there is no such account and none is made, or it is disabled.
    pub async fn provided(&self, person: &Person, creates: bool) -> Result<Identity> {
        let documents = &self.0.documents;
        loop {
            let found = documents.users.by_index("login", &person.subject);
            let known = found
                .into_iter()
                .find(|user| user.altnames.get(ALTNAME) == Some(&person.subject));
            let changes = match &known {
                Some(user) if !user.enabled => {
                    return Err(CloudError::Forbidden(
                        "your account is disabled; ask the administrators".to_owned(),
                    ));
                }
                Some(user) => match followed(user, person) {
                    None => return Ok(Identity::of(user)),
                    Some(next) => documents.changes().replace(user, next),
                },
                None => documents.changes().create(&self.newcomer(person, creates)?),
            };
            match changes.commit().await {
                Ok(_) => {}
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The name that an account would get that were made for this person now; none if there is one, or nothing is made.
    #[must_use]
    pub fn newcomers_name<'p>(&self, person: &'p Person, creates: bool) -> Option<&'p str> {
        let known = self.0.documents.users.by_index("login", &person.subject);
        let is_known = known
            .iter()
            .any(|user| user.altnames.get(ALTNAME) == Some(&person.subject));
        person.username.as_deref().filter(|_| creates && !is_known)
    }

    fn newcomer(&self, person: &Person, creates: bool) -> Result<User> {
        if !creates {
            return Err(CloudError::Forbidden(format!(
                "no account here is linked with you; tell the administrators this name: {}",
                person.subject
            )));
        }
        let username = person.username.clone().unwrap_or_default();
        let id = newcomer::id_of(&username).ok_or_else(|| {
            CloudError::Forbidden(format!(
                "the login provider gives you the name `{username}`, but names from there have letters, digits and _.-@+ only; \
                 the administrators can link an account with {}",
                person.subject
            ))
        })?;
        // A local name is never taken over by whoever has it at a provider.
        if let Some(reason) = self.holder_of(&username) {
            return Err(CloudError::Forbidden(format!(
                "you can't have the name `{username}`: {reason} already; if it is yours, the administrators can link it with {}",
                person.subject
            )));
        }
        Ok(User {
            id,
            common: Common::new(own_acl(&username), Timestamp::now()),
            username,
            first_name: person.first_name.clone(),
            last_name: person.last_name.clone(),
            email: person.email.clone(),
            password: None,
            enabled: true,
            roles: person.roles.clone(),
            altnames: BTreeMap::from([(ALTNAME.to_owned(), person.subject.clone())]),
            quota: cimi::resources::Quota::default(),
            generation: 0,
            origin: Some(Origin {
                source: SOURCE.to_owned(),
                digest: String::new(),
            }),
            unknown: Map::new(),
        })
    }
}

/// The account as the provider has it now, if that is news.
fn followed(user: &Cached<User>, person: &Person) -> Option<User> {
    if !user.is_of(SOURCE) {
        return None;
    }
    let mut next = user.document.0.clone();
    next.roles.clone_from(&person.roles);
    for (kept, new) in [
        (&mut next.first_name, &person.first_name),
        (&mut next.last_name, &person.last_name),
        (&mut next.email, &person.email),
    ] {
        if new.is_some() {
            kept.clone_from(new);
        }
    }
    if next.roles != user.roles {
        next.generation += 1;
    }
    let same = next.roles == user.roles
        && next.first_name == user.first_name
        && next.last_name == user.last_name
        && next.email == user.email;
    (!same).then_some(next)
}
