//! Sessions of browsers: begun by a login, each with a new secret; ended by their user, by time, and by whatever changes
//! what the account may do.

use std::{net::IpAddr, sync::Arc};

use accounts::{Identity, session, token};
use cimi::{
    Acl, Common, SessionId, Timestamp,
    model::Kind,
    resources::{Session, User},
};
use documents::{Cached, Documents};
use serde_json::{Map, Value, json};

use crate::{
    Cloud, CloudError, Rel, Result,
    catalogue::{Public, object},
};

/// Most sessions of one user: with one more, the one that was used longest ago ends.
const PER_USER: usize = 30;
/// Characters of a browser's name that are kept.
const AGENT_AT_MOST: usize = 200;

/// A login that is to become a session.
#[derive(Clone, Debug)]
pub struct NewSession<'a> {
    /// Who.
    pub identity: &'a Identity,
    /// How it was shown who it is: `password`, `oidc`.
    pub method: &'a str,
    /// From where.
    pub address: Option<IpAddr>,
    /// What the browser calls itself.
    pub agent: Option<&'a str>,
    /// The secret of the session that the browser had before; it ends.
    pub instead_of: Option<&'a str>,
}

impl Cloud {
    /// Begins a session; returns its secret, which is kept nowhere. What the browser had before ends in the same
    /// transaction, so that nobody goes on with a secret that was there before the login.
    ///
    /// # Errors
    /// [`CloudError::Forbidden`] if there is no such user any more; those of the store.
    pub async fn begin_session(&self, new: &NewSession<'_>) -> Result<String> {
        let documents = &self.0.documents;
        loop {
            let user = documents
                .users
                .get(&new.identity.user)
                .filter(|user| user.enabled)
                .ok_or_else(|| {
                    CloudError::Forbidden(format!("User/{} can't log in", new.identity.user))
                })?;
            crate::access::require_current(new.identity.generation, &user)?;
            let now = Timestamp::now();
            let secret = session::secret();
            let session = Session {
                id: SessionId::generate(),
                common: Common::new(Acl::owned_by_user(&user.username), now),
                user: user.username.clone(),
                digest: token::digest(&secret),
                generation: user.generation,
                method: new.method.to_owned(),
                expires: now.after(self.0.settings.people.sessions.most),
                last_used: now,
                last_address: new.address.map(|address| address.to_string()),
                agent: new.agent.map(|agent| {
                    agent
                        .chars()
                        .filter(|c| !c.is_control())
                        .take(AGENT_AT_MOST)
                        .collect()
                }),
                unknown: Map::new(),
            };
            let mut changes = documents
                .changes()
                .unchanged::<User>(&user)
                .create(&session);
            for old in self.superseded(&user, new.instead_of) {
                changes = changes.remove(&old);
            }
            match changes.commit().await {
                Ok(_) => {
                    tracing::info!(
                        username = session.user,
                        session = %session.id,
                        method = new.method,
                        "logged in by a browser"
                    );
                    return Ok(secret);
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What ends when `user` begins another session.
    fn superseded(&self, user: &User, before: Option<&str>) -> Vec<Arc<Cached<Session>>> {
        let mut own = self.0.documents.sessions.by_index("user", &user.username);
        own.sort_unstable_by_key(|session| session.last_used);
        let surplus = (own.len() + 1).saturating_sub(PER_USER);
        let mut ended: Vec<_> = own.into_iter().take(surplus.min(60)).collect();
        let before = before.and_then(|secret| self.session_of(secret));
        ended.extend(before.filter(|old| ended.iter().all(|other| other.id() != old.id())));
        ended
    }

    /// The session with this secret.
    fn session_of(&self, secret: &str) -> Option<Arc<Cached<Session>>> {
        let digest = token::digest(secret);
        let found = self.0.documents.sessions.by_index("digest", &digest);
        found.into_iter().next()
    }

    /// Ends the session with this secret, if there is one.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn end_session(&self, secret: &str) -> Result<()> {
        while let Some(session) = self.session_of(secret) {
            match self.0.documents.changes().remove(&session).commit().await {
                Ok(_) => break,
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Writes down that a session was used. That fails in silence: the use itself was right.
    pub(crate) async fn note_session(
        &self,
        session: &Session,
        now: Timestamp,
        address: Option<IpAddr>,
    ) {
        let noted = self
            .0
            .documents
            .update(session.id.local(), |session: &mut Session| {
                session.last_used = now.max(session.last_used);
                session.last_address = address.map(|address| address.to_string());
                Ok::<bool, CloudError>(true)
            })
            .await;
        if let Err(error) = noted {
            tracing::debug!(session = %session.id, %error, "the use of a session was not written down");
        }
    }

    /// The sessions that are over, whether anybody asks for them or not.
    pub(crate) fn ended_sessions(&self, now: Timestamp) -> Vec<Arc<Cached<Session>>> {
        let documents = &self.0.documents;
        let idle = self.0.settings.people.sessions.idle;
        let is_over = |session: &Session| {
            now >= session.expires
                || now.since(session.last_used) > idle
                || documents
                    .users
                    .get(&session.user)
                    .is_none_or(|user| !user.enabled || user.generation != session.generation)
        };
        let all = documents.sessions.all();
        all.into_iter().filter(|session| is_over(session)).collect()
    }
}

impl Public for Session {
    const KIND: Kind = Kind::Session;

    fn own_attributes(&self, _documents: &Documents) -> Map<String, Value> {
        let mut out = object(json!({
            "user": self.user,
            "method": self.method,
            "expires": self.expires,
            "lastUsed": self.last_used,
        }));
        for (name, text) in [("lastAddress", &self.last_address), ("agent", &self.agent)] {
            if let Some(text) = text {
                out.insert(name.to_owned(), text.as_str().into());
            }
        }
        out
    }

    fn operations(&self, _documents: &Documents) -> Vec<Rel> {
        vec![Rel::Delete]
    }
}
