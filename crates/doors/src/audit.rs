//! The audit log: who did what to which resource, from where, and what came of it.
//!
//! Every request that would change something is in it, every read that was refused to somebody known, and every wrong
//! password. Written where all dialects pass; no request changes what is there.

use std::{
    io,
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use ::cimi::Timestamp;
use accounts::Identity;
use async_trait::async_trait;
use http::{Method, Response, StatusCode, header, request::Parts};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{auth, body::ResponseBody, health, problem::Problem};

/// Characters of a path that are kept.
const PATH_AT_MOST: usize = 300;
/// Entries that are shown if nobody says how many, and at most.
const SHOWN: usize = 100;
const SHOWN_AT_MOST: usize = 10_000;

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Audited {
    /// When it was answered.
    pub time: Timestamp,
    /// The request's name, as in answers and logs.
    pub request_id: Arc<str>,
    /// Who; none: nobody known.
    pub user: Option<Box<str>>,
    /// How they have shown that: `password`, `ldap`, `token`, `certificate`, `proxy`, `voms`,
    /// `link` (of a letter), `command` (by the code of a browser's page).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authenticated_by: Option<&'static str>,
    /// By which token, if by one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Whom somebody said to be who had a wrong password, or whose code somebody used up for nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claimed: Option<String>,
    /// From where.
    pub address: IpAddr,
    /// HTTP method.
    pub method: String,
    /// What it was about. Never with the query, which may hold secrets.
    pub path: String,
    /// What it was about, where the path is a secret: `Registration/joe/approve`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// What came to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made: Option<String>,
    /// HTTP status.
    pub status: u16,
    /// `unknown`: the request ran into its time limit, and what it wanted may have been done or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<&'static str>,
    /// So many more by the same user or from the same place came to nothing in the same minute, this being the last of them;
    /// they are not written down one by one.
    #[serde(skip_serializing_if = "is_none")]
    pub others: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_none(number: &u64) -> bool {
    *number == 0
}

impl Audited {
    /// Whether nothing came of it: such can be sent as often as one likes.
    #[must_use]
    pub const fn is_in_vain(&self) -> bool {
        self.status >= 400 && self.outcome.is_none()
    }
}

/// Whom an answer is about that came without credentials: somebody logged in by it, or didn't.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    user: Option<Box<str>>,
    method: Option<&'static str>,
    claimed: Option<String>,
    about: Option<String>,
    made: Option<String>,
}

/// Characters of a name that somebody claimed.
const CLAIMED_AT_MOST: usize = 100;

impl Told {
    /// Logged in.
    pub(crate) fn user(name: &str, method: &'static str) -> Self {
        Self {
            user: Some(name.into()),
            method: Some(method),
            claimed: None,
            about: None,
            made: None,
        }
    }

    /// Whoever has a letter that goes to more than one did this.
    pub(crate) fn by_letter(about: String) -> Self {
        Self {
            user: None,
            method: Some("link"),
            claimed: None,
            about: Some(about),
            made: None,
        }
    }

    /// Somebody used up the code that a user was given for a command, without getting a token. It need not have been that user.
    pub(crate) fn by_code(whose: Option<String>) -> Self {
        Self {
            user: None,
            method: Some("command"),
            claimed: whose,
            about: Some("command/token".to_owned()),
            made: None,
        }
    }

    /// With what came to be, where no `Location` says it.
    pub(crate) fn making(mut self, what: String) -> Self {
        self.made = Some(what);
        self
    }

    /// Said to be somebody, with a wrong password.
    pub(crate) fn claimed(name: &str) -> Self {
        Self {
            user: None,
            method: None,
            claimed: Some(name.chars().take(CLAIMED_AT_MOST).collect()),
            about: None,
            made: None,
        }
    }
}

/// Where entries go.
#[async_trait]
pub trait AuditLog: Send + Sync + 'static {
    /// Keeps an entry. Waits while there is no room for it: what isn't written down doesn't go on.
    async fn record(&self, what: Audited);

    /// The last entries, at most so many, the newest at the end; with `user`, those of one user.
    ///
    /// # Errors
    /// If they can't be read.
    async fn last(&self, most: usize, user: Option<&str>) -> io::Result<Vec<Value>>;
}

/// Keeps nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoAudit;

#[async_trait]
impl AuditLog for NoAudit {
    async fn record(&self, _what: Audited) {}

    async fn last(&self, _most: usize, _user: Option<&str>) -> io::Result<Vec<Value>> {
        Ok(Vec::new())
    }
}

/// The entry of a request that was answered, if it is worth one.
pub(crate) fn entry(
    head: &Parts,
    request_id: &Arc<str>,
    identity: &OnceLock<Arc<Identity>>,
    address: IpAddr,
    response: &Response<ResponseBody>,
    in_time: bool,
) -> Option<Audited> {
    let identity = identity.get();
    let reads = matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS);
    let status = response.status();
    let claimed = (status == StatusCode::UNAUTHORIZED)
        .then(|| auth::claimed(&head.headers))
        .flatten();
    let told = response.extensions().get::<Told>();
    let claimed = claimed.or_else(|| told?.claimed.clone());
    let logged_in = told.and_then(|told| told.user.clone());
    let about = told.and_then(|told| told.about.clone());
    // What anybody can send as often as they like isn't kept: it would push out what counts.
    let is_known = identity.is_some() && (!reads || status == StatusCode::FORBIDDEN);
    if !is_known && claimed.is_none() && logged_in.is_none() && about.is_none() {
        return None;
    }
    let location = response.headers().get(header::LOCATION);
    let made = location
        .and_then(|location| location.to_str().ok()?.split_once("/cimi/"))
        .map(|(_, id)| id.to_owned())
        .or_else(|| told?.made.clone());
    Some(Audited {
        time: Timestamp::now(),
        request_id: Arc::clone(request_id),
        user: identity.map(|identity| identity.user.clone()).or(logged_in),
        authenticated_by: identity
            .map(|identity| identity.method.name())
            .or(told.and_then(|told| told.method)),
        token: identity
            .and_then(|identity| identity.token.as_ref())
            .map(|token| token.id.to_string()),
        claimed,
        address,
        method: head.method.to_string(),
        path: shown_path(head.uri.path()),
        about,
        made,
        status: status.as_u16(),
        outcome: (!in_time && !reads).then_some("unknown"),
        others: 0,
    })
}

/// A path without the secret that a link of a letter is: of registrations, and of the Marketplace, which reads paths with several
/// slashes and escaped letters, too, and may be at the root.
pub(crate) fn shown_path(path: &str) -> String {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let mut part = || percent_decode_str(parts.next().unwrap_or_default()).decode_utf8_lossy();
    let first = part();
    if first == "action" {
        return "/action/…".to_owned();
    }
    if matches!(&*first, "register" | "marketplace") && part() == "action" {
        return format!("/{first}/action/…");
    }
    path.chars().take(PATH_AT_MOST).collect()
}

/// `GET /stratus/audit`, for administrators.
pub(crate) async fn answer<'q>(
    log: &dyn AuditLog,
    parameters: impl Iterator<Item = (&'q str, &'q str)>,
) -> Result<Response<ResponseBody>, Problem> {
    let (mut most, mut user) = (SHOWN, None);
    for (name, value) in parameters {
        match name {
            "last" => {
                let number = value.parse().ok();
                most = number
                    .filter(|n| (1..=SHOWN_AT_MOST).contains(n))
                    .ok_or_else(|| {
                        Problem::new(400, format!("`last` is a number from 1 to {SHOWN_AT_MOST}"))
                    })?;
            }
            "user" => user = Some(value),
            _ => {
                return Err(Problem::new(
                    400,
                    "the audit log is asked by `last` and `user`",
                ));
            }
        }
    }
    let entries = log.last(most, user).await;
    let entries = entries.map_err(|error| Problem::internal(format!("the audit log: {error}")))?;
    Ok(health::json_answer(
        StatusCode::OK,
        &json!({"entries": entries}),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::marketplace::place::Place;

    #[test]
    fn links_of_letters_are_not_shown_and_all_else_is() {
        let secret = "00000000-0000-4000-8000-000000000000";
        for example in Place::EXAMPLES {
            let alone = example.strip_prefix("/marketplace").unwrap_or_default();
            for path in [example, alone] {
                let shown = shown_path(path);
                if path.contains(secret) {
                    assert!(shown.ends_with("/action/…"), "{shown}");
                } else {
                    assert_eq!(shown, path);
                }
            }
        }
        for path in [
            format!("/register/action/{secret}"),
            format!("//marketplace//action//{secret}/confirm/"),
            format!("/marketplace/%61ction/{secret}/abuse"),
            format!("/action/{secret}"),
        ] {
            assert!(!shown_path(&path).contains(secret), "{path}");
        }
    }
}
