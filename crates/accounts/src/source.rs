//! Where accounts are looked up.

use std::{net::IpAddr, sync::Arc};

use async_trait::async_trait;
use cimi::{
    Timestamp,
    dn::DistinguishedName,
    resources::{Session, Token, User},
};

use crate::{Methods, directory::Found};

/// Where accounts are looked up: the cache of the store, so that a lookup waits for nothing.
#[async_trait]
pub trait UserSource: Send + Sync + 'static {
    /// The User document whose `username`, or one of whose `altnames`, is `login`. User documents
    /// only: a Credential of the same name is none.
    fn find(&self, login: &str) -> Option<Arc<User>>;

    /// The users who have this name of a certificate among theirs, mostly one.
    fn find_by_name(&self, name: &DistinguishedName) -> Vec<Arc<User>> {
        let _ = name;
        Vec::new()
    }

    /// The account of a user of the directory, made or brought up to date. `None` if there is another user of that name,
    /// or nothing can be written.
    async fn found_in_directory(&self, found: &Found) -> Option<Arc<User>> {
        let _ = found;
        None
    }

    /// The ways to log in, as they are configured now.
    fn methods(&self) -> Arc<Methods> {
        Arc::default()
    }

    /// The token that has this digest.
    fn find_token(&self, digest: &str) -> Option<Arc<Token>> {
        let _ = digest;
        None
    }

    /// Writes down that a token was used.
    async fn token_used(&self, token: &Token, now: Timestamp, address: Option<IpAddr>) {
        let _ = (token, now, address);
    }

    /// The session whose secret has this digest.
    fn find_session(&self, digest: &str) -> Option<Arc<Session>> {
        let _ = digest;
        None
    }

    /// Writes down that a session was used.
    async fn session_used(&self, session: &Session, now: Timestamp, address: Option<IpAddr>) {
        let _ = (session, now, address);
    }

    /// Keeps `hash`, a stronger one of the same password, in place of the one in `user`. Does nothing if the account has
    /// changed since, or nothing can be written: the next login brings another one.
    async fn rehashed(&self, user: &User, hash: String) {
        let _ = (user, hash);
    }
}
