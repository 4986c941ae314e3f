//! On whose behalf, and how long, an operation runs.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use accounts::{ByToken, Identity, Method};
use cimi::{Acl, Right, Timestamp};

use crate::{CloudError, Result};

/// Who asks.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Nobody we know: may see what `::ANON` may.
    Anonymous,
    /// A user who has shown who they are.
    User(Arc<Identity>),
}

/// What every operation gets first: who asks, how the request is named in logs, and until when an
/// answer is of use.
#[derive(Clone, Debug)]
pub struct OpContext {
    /// Who asks.
    pub caller: Caller,
    /// The request's name in logs and error answers.
    pub request_id: Arc<str>,
    /// When whoever asks stops waiting.
    pub deadline: Instant,
    /// Where the request came from, if from outside.
    pub peer: Option<IpAddr>,
    /// What the operation is only wanted on.
    pub unchanged: Option<Unchanged>,
    /// The component of a system that is being made: what is created is marked so.
    /// Written by the cloud itself; requests have none.
    pub part_of: Option<String>,
    /// The job of a system that this is done for: the jobs of what is done are nested in it.
    /// Written by the cloud itself; requests have none.
    pub parent_job: Option<cimi::JobId>,
}

/// A resource as the caller saw it: an operation that changes it is only wanted if nobody did so since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unchanged {
    /// Its id, `Machine/<uuid>`.
    pub id: Arc<str>,
    /// Its `updated`, which rises with every change.
    pub updated: Timestamp,
}

impl OpContext {
    /// A request of `caller` that is of use for `limit` from now.
    #[must_use]
    pub fn new(caller: Caller, request_id: Arc<str>, limit: Duration) -> Self {
        Self {
            caller,
            request_id,
            deadline: Instant::now() + limit,
            peer: None,
            unchanged: None,
            part_of: None,
            parent_job: None,
        }
    }

    /// The user name; `None` for anonymous callers.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        match &self.caller {
            Caller::Anonymous => None,
            Caller::User(identity) => Some(&identity.user),
        }
    }

    /// The roles held.
    #[must_use]
    pub fn roles(&self) -> &[String] {
        match &self.caller {
            Caller::Anonymous => &[],
            Caller::User(identity) => &identity.roles,
        }
    }

    /// Whether the caller is an administrator.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        matches!(&self.caller, Caller::User(identity) if identity.is_admin())
    }

    /// How the caller is here by a token, if so.
    #[must_use]
    pub fn token(&self) -> Option<&ByToken> {
        match &self.caller {
            Caller::Anonymous => None,
            Caller::User(identity) => identity.token.as_ref(),
        }
    }

    /// By which session of a browser the caller is here, if by one.
    #[must_use]
    pub fn session(&self) -> Option<&cimi::SessionId> {
        match &self.caller {
            Caller::Anonymous => None,
            Caller::User(identity) => identity.session.as_ref(),
        }
    }

    /// The generation in which what opens the caller's account was shown; none where there is no account.
    #[must_use]
    pub fn generation(&self) -> Option<u64> {
        match &self.caller {
            Caller::User(identity) => identity.generation,
            _ => None,
        }
    }

    /// How the caller has shown who they are.
    #[must_use]
    pub fn method(&self) -> Option<Method> {
        match &self.caller {
            Caller::Anonymous => None,
            Caller::User(identity) => Some(identity.method),
        }
    }

    /// Whether the caller is there in person: not by something that was handed on, or can be found.
    #[must_use]
    pub fn is_in_person(&self) -> bool {
        match &self.caller {
            Caller::Anonymous => false,
            Caller::User(identity) => identity.method.is_in_person(),
        }
    }

    /// Whether the caller's rights were handed on without that of starting machines.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        matches!(&self.caller, Caller::User(identity) if identity.is_limited)
    }

    /// Whether the caller may only look, whatever the resource.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.token().is_some_and(|token| token.is_read_only)
    }

    /// The greatest right that the caller has by an access control list.
    #[must_use]
    pub fn right_on(&self, acl: &Acl) -> Option<Right> {
        let right = acl.right_of(self.user(), self.roles());
        if self.is_read_only() {
            return right.map(|right| right.min(Right::View));
        }
        right
    }

    /// Refuses to go on once nobody waits for the answer any more: what is tried again and again ends so.
    pub(crate) fn in_time(&self) -> Result<()> {
        in_time(self.deadline)
    }
}

/// Refuses to go on after a moment.
pub(crate) fn in_time(deadline: Instant) -> Result<()> {
    if Instant::now() < deadline {
        return Ok(());
    }
    Err(CloudError::Unavailable(
        "others kept changing the same resources until the time for this request was over: try again"
            .to_owned(),
    ))
}
