//! How an operation can fail, in terms of what the caller can do about it.

use cimi::model::Violation;
use serde::{Deserialize, Serialize};

/// Result of an operation of the cloud.
pub type Result<T> = std::result::Result<T, CloudError>;

/// Why an operation was not done. The texts reach the user: what, which value, what to do.
#[derive(Debug, thiserror::Error)]
pub enum CloudError {
    /// There is no such resource, or the caller may not know of it.
    #[error("there is no {what}")]
    NotFound {
        /// E.g. `Machine/0190…`.
        what: String,
    },
    /// The caller is known, but lacks the right.
    #[error("{0}")]
    Forbidden(String),
    /// The caller must show who they are.
    #[error("log in first")]
    Unauthenticated,
    /// The request says something that can't be.
    #[error("{}", sentence(.violations))]
    Invalid {
        /// Everything wrong with it; never empty.
        violations: Vec<Violation>,
    },
    /// The resource's present state doesn't allow it.
    #[error("{0}")]
    Conflict(String),
    /// Somebody else changed one of the resources at the same moment, and nothing was done. From a fresh read it may well
    /// be possible: operations try that themselves before they answer so.
    #[error("{0}")]
    Raced(String),
    /// The resource is not what the caller saw and wants this done on.
    #[error("{0}")]
    Changed(String),
    /// Something limited is used up: addresses, quota, space.
    #[error("{0}")]
    Exhausted(String),
    /// The content is larger than allowed.
    #[error("{0}")]
    TooLarge(String),
    /// It can't be done now, but may be later: the database is busy, the deadline has passed.
    #[error("{0}")]
    Unavailable(String),
    /// A defect. The text goes to the log; the user gets the request's id only.
    #[error("internal error: {0}")]
    Internal(String),
}

impl CloudError {
    /// There is no `<collection>/<id>`.
    #[must_use]
    pub fn not_found(what: impl std::fmt::Display) -> Self {
        Self::NotFound {
            what: what.to_string(),
        }
    }

    /// One attribute is wrong.
    #[must_use]
    pub fn invalid(path: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid {
            violations: vec![Violation::new(path, problem)],
        }
    }
}

/// A failure as one daemon of a cloud tells it to another, which did the part of an operation that the first can't.
#[derive(Debug, Serialize, Deserialize)]
pub enum Relayed {
    /// [`CloudError::NotFound`]
    NotFound(String),
    /// [`CloudError::Forbidden`]
    Forbidden(String),
    /// [`CloudError::Unauthenticated`]
    Unauthenticated,
    /// [`CloudError::Raced`]
    Raced(String),
    /// [`CloudError::Changed`]
    Changed(String),
    /// [`CloudError::Invalid`]: paths and problems.
    Invalid(Vec<(String, String)>),
    /// [`CloudError::Conflict`]
    Conflict(String),
    /// [`CloudError::Exhausted`]
    Exhausted(String),
    /// [`CloudError::TooLarge`]
    TooLarge(String),
    /// [`CloudError::Unavailable`]
    Unavailable(String),
    /// [`CloudError::Internal`]
    Internal(String),
}

impl From<CloudError> for Relayed {
    fn from(error: CloudError) -> Self {
        match error {
            CloudError::NotFound { what } => Self::NotFound(what),
            CloudError::Forbidden(text) => Self::Forbidden(text),
            CloudError::Unauthenticated => Self::Unauthenticated,
            CloudError::Raced(text) => Self::Raced(text),
            CloudError::Changed(text) => Self::Changed(text),
            CloudError::Invalid { violations } => {
                let of_one = |one: Violation| (one.path, one.problem);
                Self::Invalid(violations.into_iter().map(of_one).collect())
            }
            CloudError::Conflict(text) => Self::Conflict(text),
            CloudError::Exhausted(text) => Self::Exhausted(text),
            CloudError::TooLarge(text) => Self::TooLarge(text),
            CloudError::Unavailable(text) => Self::Unavailable(text),
            CloudError::Internal(text) => Self::Internal(text),
        }
    }
}

impl From<Relayed> for CloudError {
    fn from(told: Relayed) -> Self {
        match told {
            Relayed::NotFound(what) => Self::NotFound { what },
            Relayed::Forbidden(text) => Self::Forbidden(text),
            Relayed::Unauthenticated => Self::Unauthenticated,
            Relayed::Raced(text) => Self::Raced(text),
            Relayed::Changed(text) => Self::Changed(text),
            Relayed::Invalid(all) => {
                let of_one = |(path, problem)| Violation::new(path, problem);
                all.into_iter().map(of_one).collect::<Vec<_>>().into()
            }
            Relayed::Conflict(text) => Self::Conflict(text),
            Relayed::Exhausted(text) => Self::Exhausted(text),
            Relayed::TooLarge(text) => Self::TooLarge(text),
            Relayed::Unavailable(text) => Self::Unavailable(text),
            Relayed::Internal(text) => Self::Internal(text),
        }
    }
}

/// An attribute that can't be read into what it is.
pub(crate) fn unreadable(path: &str, error: &serde_json::Error) -> CloudError {
    CloudError::invalid(path, cimi::wording::plainly(&error.to_string()))
}

impl From<Vec<Violation>> for CloudError {
    fn from(violations: Vec<Violation>) -> Self {
        Self::Invalid { violations }
    }
}

fn sentence(violations: &[Violation]) -> String {
    let mut text = String::new();
    for violation in violations {
        if !text.is_empty() {
            text.push_str("; ");
        }
        text.push_str(&violation.to_string());
    }
    if text.is_empty() {
        text.push_str("the request is not valid");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_daemon_tells_is_what_it_was() {
        let text = || "why".to_owned();
        for error in [
            CloudError::not_found("Machine/1"),
            CloudError::Forbidden(text()),
            CloudError::Unauthenticated,
            CloudError::invalid("name", "is long"),
            CloudError::Conflict(text()),
            CloudError::Raced(text()),
            CloudError::Changed(text()),
            CloudError::Exhausted(text()),
            CloudError::TooLarge(text()),
            CloudError::Unavailable(text()),
            CloudError::Internal(text()),
        ] {
            let was = format!("{error:?}");
            let told = serde_json::to_string(&Relayed::from(error)).unwrap_or_default();
            let told: std::result::Result<Relayed, _> = serde_json::from_str(&told);
            let is = told.map(CloudError::from);
            assert_eq!(is.map(|error| format!("{error:?}")).ok(), Some(was));
        }
    }
}
