//! Whether what a stream was begun with still counts.
//!
//! A request is over before anything changes; a stream may go on for hours. Whoever sends one asks here before each part,
//! and is woken when a document changes that the answer rests on: the user's account, the token, the session, the account
//! that admits an organisation, and what is followed; and when the token or the session comes to its end. That something is
//! told is no use of a session: whoever only looks on is logged out like anybody who does nothing.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use accounts::{Method, certified::ORGANISATION};
use cimi::{
    Timestamp,
    resources::{Machine, Resource, Session, Token, TokenScope, User},
};
use documents::{Documents, OfType};
use parking_lot::Mutex;
use tokio::{sync::Notify, task::JoinSet, time::timeout};

use crate::{Caller, Cloud, OpContext};

/// Who is woken by which document.
#[derive(Default)]
pub(crate) struct Bells(OnceLock<Ringing>);

type Cords = Arc<Mutex<HashMap<String, Vec<Weak<Notify>>>>>;

struct Ringing {
    cords: Cords,
    /// One for each type; they end with this.
    _followers: JoinSet<()>,
}

impl Bells {
    fn cords(&self, documents: &Documents) -> &Cords {
        let ringing = self.0.get_or_init(|| {
            let cords = Cords::default();
            let mut followers = JoinSet::new();
            follow::<User>(documents, &cords, &mut followers);
            follow::<Token>(documents, &cords, &mut followers);
            follow::<Session>(documents, &cords, &mut followers);
            follow::<Machine>(documents, &cords, &mut followers);
            Ringing {
                cords,
                _followers: followers,
            }
        });
        &ringing.cords
    }
}

fn follow<R: OfType>(documents: &Documents, cords: &Cords, followers: &mut JoinSet<()>) {
    let mut changes = documents.view::<R>().changes();
    let cords = Arc::clone(cords);
    followers.spawn(async move {
        loop {
            let changed = changes.next().await;
            let key = key::<R>(changed.id());
            let woken = cords.lock().get(&key).cloned().unwrap_or_default();
            for bell in woken.iter().filter_map(Weak::upgrade) {
                bell.notify_one();
            }
        }
    });
}

fn key<R: Resource>(local: &str) -> String {
    format!("{}/{local}", R::COLLECTION)
}

/// What the right to a stream rests on.
pub(crate) struct Standing {
    documents: Documents,
    context: OpContext,
    since: Timestamp,
    /// How long a session lasts that isn't used.
    idle: Duration,
    bell: Arc<Notify>,
    keys: Vec<String>,
    cords: Cords,
}

impl Drop for Standing {
    fn drop(&mut self) {
        let mut cords = self.cords.lock();
        for key in &self.keys {
            if let Some(bells) = cords.get_mut(key) {
                bells.retain(|bell| !std::ptr::eq(bell.as_ptr(), Arc::as_ptr(&self.bell)));
                if bells.is_empty() {
                    cords.remove(key);
                }
            }
        }
    }
}

impl Cloud {
    /// What the caller's right to a stream rests on; woken also by changes of `machine`, if one is followed.
    pub(crate) fn standing(&self, context: &OpContext, machine: Option<&str>) -> Standing {
        let documents = &self.0.documents;
        let mut keys: Vec<String> = machine.into_iter().map(key::<Machine>).collect();
        keys.extend(context.token().map(|token| key::<Token>(token.id.local())));
        keys.extend(context.session().map(|id| key::<Session>(id.local())));
        if context.method() == Some(Method::Voms) {
            let admitting = context.roles().iter().filter_map(|fqan| admitting(fqan));
            keys.extend(admitting.map(|name| key::<User>(&name)));
        } else {
            keys.extend(context.user().map(key::<User>));
        }
        let cords = Arc::clone(self.0.bells.cords(documents));
        let bell = Arc::new(Notify::new());
        {
            let mut cords = cords.lock();
            for key in &keys {
                let bells = cords.entry(key.clone()).or_default();
                bells.push(Arc::downgrade(&bell));
            }
        }
        Standing {
            documents: documents.clone(),
            context: context.clone(),
            since: Timestamp::now(),
            idle: self.0.settings.people.sessions.idle,
            bell,
            keys,
            cords,
        }
    }
}

impl Standing {
    /// Who has the right.
    pub(crate) fn context(&self) -> &OpContext {
        &self.context
    }

    /// Waits until something changes that the answer may rest on. Safe to cancel.
    pub(crate) async fn changed(&self) {
        let changed = self.bell.notified();
        match self.end() {
            None => changed.await,
            Some(end) => {
                let _ = timeout(end.since(Timestamp::now()), changed).await;
            }
        }
    }

    /// When what was shown counts no more, if nothing changes until then.
    fn end(&self) -> Option<Timestamp> {
        let Caller::User(identity) = &self.context.caller else {
            return None;
        };
        let documents = &self.documents;
        let token = identity.token.as_ref();
        let token = token.and_then(|by| Some(documents.tokens.get(by.id.local())?.expires));
        let session = identity.session.as_ref();
        let session = session.and_then(|id| documents.sessions.get(id.local()));
        let session = session.map(|session| self.end_of(&session));
        token.into_iter().chain(session).min()
    }

    fn end_of(&self, session: &Session) -> Timestamp {
        session.expires.min(session.last_used.after(self.idle))
    }

    /// Whether a request with the same credentials would still be the same person's, with the same rights. Costs a few
    /// lookups in the caches.
    pub(crate) fn counts(&self) -> bool {
        let Caller::User(identity) = &self.context.caller else {
            return true;
        };
        let documents = &self.documents;
        let now = Timestamp::now();
        if let Some(by) = &identity.token {
            let token = documents.tokens.get(by.id.local());
            let counts = token.is_some_and(|token| {
                now < token.expires && (token.scope == TokenScope::ReadOnly) == by.is_read_only
            });
            if !counts {
                return false;
            }
        }
        if let Some(id) = &identity.session {
            let session = documents.sessions.get(id.local());
            if session.is_none_or(|session| now >= self.end_of(&session)) {
                return false;
            }
        }
        if identity.method == Method::Voms {
            let is_admitted = |fqan: &String| {
                let account = documents.users.get(&admitting(fqan)?)?;
                account.enabled.then_some(())
            };
            return identity
                .roles
                .iter()
                .all(|fqan| is_admitted(fqan).is_some());
        }
        let Some(generation) = identity.generation else {
            // Who has no account can't lose it.
            return true;
        };
        documents.users.get(&identity.user).is_some_and(|user| {
            user.enabled
                && user.generation == generation
                && user.roles == identity.roles
                // Not somebody else who has the name now.
                && user.common.created <= self.since
        })
    }
}

/// The account that admits the organisation of a group: `vo:atlas` for `/atlas/production/Role=pilot`.
fn admitting(fqan: &str) -> Option<String> {
    let organisation = fqan.strip_prefix('/')?.split('/').next()?;
    (!organisation.is_empty()).then(|| format!("{ORGANISATION}{organisation}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_of_a_group_is_that_of_its_organisation() {
        let of = |fqan: &str| admitting(fqan);
        assert_eq!(of("/atlas").as_deref(), Some("vo:atlas"));
        assert_eq!(of("/atlas/prod/Role=pilot").as_deref(), Some("vo:atlas"));
        assert_eq!(of("atlas"), None);
        assert_eq!(of("/"), None);
    }
}
