//! Browsers that somebody is logged in with: 190 random bits in a cookie, of which only a digest is kept.

use std::{net::IpAddr, sync::Arc, time::Duration};

use cimi::{
    Timestamp,
    common::ADMIN_ROLE,
    resources::{Session, User},
};
use rand::{Rng, TryRngCore, distr::Alphanumeric, rngs::OsRng};
use ring::hmac;

use crate::{Accounts, Identity, Method, token};

/// Characters of a secret.
const SECRET_LENGTH: usize = 32;
/// How often at most it is written down that a session is used.
const NOTED_EVERY: Duration = Duration::from_secs(60);
/// A session that may not be idle for long is written down so many times within that.
const NOTED_WITHIN_IDLE: u32 = 4;
/// What the secret of a session makes the token of its forms of.
const FORM_TOKEN_LABEL: &[u8] = b"stratus form token";

/// How long sessions last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lasting {
    /// Without being used.
    pub idle: Duration,
    /// In all.
    pub most: Duration,
}

impl Default for Lasting {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(30 * 60),
            most: Duration::from_secs(12 * 3600),
        }
    }
}

/// A new secret, of a session or of a link, from the system's generator.
#[must_use]
pub fn secret() -> String {
    OsRng
        .unwrap_err()
        .sample_iter(Alphanumeric)
        .take(SECRET_LENGTH)
        .map(char::from)
        .collect()
}

/// Whether this could be a secret.
#[must_use]
pub fn looks_like_one(text: &str) -> bool {
    text.len() == SECRET_LENGTH && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// What forms of the session with this secret carry, which no other site's page knows.
#[must_use]
pub fn form_token(secret: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, FORM_TOKEN_LABEL);
    token::hexadecimal(tag.as_ref())
}

/// Whether `given` is the form token of the session with this secret; takes the same time whatever it is.
#[must_use]
pub fn is_form_token(secret: &str, given: &str) -> bool {
    use subtle::ConstantTimeEq as _;
    form_token(secret).as_bytes().ct_eq(given.as_bytes()).into()
}

impl Accounts {
    /// Whose session this is, if it still is one. It is used by that, and not idle.
    pub async fn by_session(&self, secret: &str, address: Option<IpAddr>) -> Option<Arc<Identity>> {
        let (session, identity) = self.session(secret).await?;
        let now = Timestamp::now();
        if is_news(&session, now, address, self.sessions.idle) {
            self.source.session_used(&session, now, address).await;
        }
        Some(identity)
    }

    /// The same for what a browser does by itself, such as going on with a stream that has ended: that is no use.
    pub async fn by_unused_session(&self, secret: &str) -> Option<Arc<Identity>> {
        let (_, identity) = self.session(secret).await?;
        Some(identity)
    }

    async fn session(&self, secret: &str) -> Option<(Arc<Session>, Arc<Identity>)> {
        if !looks_like_one(secret) {
            return None;
        }
        let session = self.source.find_session(&token::digest(secret))?;
        let now = Timestamp::now();
        if now >= session.expires || now.since(session.last_used) > self.sessions.idle {
            return None;
        }
        let user = self
            .current(&session.user)
            .await
            // Not of somebody else who has the name now, and not after what ends all sessions of a user.
            .filter(|user| user.username == session.user)
            .filter(|user| user.common.created <= session.common.created)
            .filter(|user| user.generation == session.generation)
            .filter(|user| self.is_on(&session.method, user))?;
        let identity = Arc::new(Identity {
            session: Some(session.id.clone()),
            ..Identity::of(&user).by(Method::Session)
        });
        Some((session, identity))
    }
}

impl Accounts {
    /// Whether the way in which a user logged in still is one.
    fn is_on(&self, method: &str, user: &User) -> bool {
        let methods = self.methods();
        match method {
            "oidc" => methods.asks_provider(),
            "password" => {
                let is_admin = user.roles.iter().any(|role| role == ADMIN_ROLE);
                methods.localdb.password_enabled || is_admin
            }
            // The directory itself is asked.
            _ => true,
        }
    }
}

fn is_news(session: &Session, now: Timestamp, address: Option<IpAddr>, idle: Duration) -> bool {
    let address = address.map(|address| address.to_string());
    let noted_every = NOTED_EVERY.min(idle / NOTED_WITHIN_IDLE);
    session.last_address != address || now.since(session.last_used) >= noted_every
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_uses_a_session_is_not_logged_out_as_idle() {
        let now = Timestamp::now();
        let mut session = Session {
            id: cimi::SessionId::generate(),
            common: cimi::Common::new(cimi::Acl::owned_by_user("ann"), now),
            user: "ann".to_owned(),
            digest: String::new(),
            generation: 0,
            method: "password".to_owned(),
            expires: now.after(Duration::from_secs(86_400)),
            last_used: now,
            last_address: None,
            agent: None,
            unknown: serde_json::Map::new(),
        };
        // Somebody who looks every half of the limit, as the configuration may set it: one minute at least.
        for minutes in [1, 2, 30] {
            let idle = Duration::from_secs(60 * minutes);
            session.last_used = now;
            for half in 1..9 {
                let then = now.after(idle / 2 * half);
                assert!(then.since(session.last_used) <= idle, "{minutes} min");
                if is_news(&session, then, None, idle) {
                    session.last_used = then;
                }
            }
        }
        // Not with each request.
        assert!(!is_news(
            &session,
            session.last_used.after(Duration::from_secs(10)),
            None,
            Duration::from_secs(60)
        ));
    }

    #[test]
    fn secrets_differ_and_the_token_of_forms_follows_from_them() {
        let (a, b) = (secret(), secret());
        assert_ne!(a, b);
        assert!(
            looks_like_one(&a)
                && !looks_like_one(&a[1..])
                && !looks_like_one("../../../../../../../../../../..")
        );
        assert!(is_form_token(&a, &form_token(&a)));
        assert!(!is_form_token(&a, &form_token(&b)));
        assert!(!is_form_token(&a, "") && !form_token(&a).contains(&a));
    }
}
