//! What a failed call means: whether it can have happened, and whether asking again makes sense.

use std::error::Error;

use tonic::{Code, ConnectError, Status};

/// Why a call has no answer.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// It was not executed and won't be: another member, or later, may do it.
    NotDone(String),
    /// It may have been executed, or still be.
    Unknown(String),
    /// As `NotDone`: our login isn't accepted any more (the token ended, or a member was restarted).
    LoggedOut(String),
    /// etcd says no, and would again.
    Refused(Refusal),
}

/// What etcd says no to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    LeaseNotFound,
    Compacted,
    FutureRevision,
    NoSpace,
    Other(String),
}

impl Failure {
    /// That a member didn't answer in time.
    pub(super) fn silence(member: &str) -> Self {
        Self::Unknown(format!("{member} does not answer"))
    }

    /// What `status` from `member` means. The texts are etcd's (`rpctypes/error.go`), the same from 3.2 to 3.6.
    pub(super) fn of(member: &str, status: &Status) -> Self {
        let text = status.message();
        let says = |what: &str| text.contains(what);
        let told = || format!("{member}: {text}");
        match status.code() {
            // Refused before it is proposed to anybody.
            _ if says("no leader") || says("too many requests") || says("not capable") => {
                Self::NotDone(told())
            }
            _ if never_connected(status) => {
                Self::NotDone(format!("{member} can't be reached: {}", deepest(status)))
            }
            Code::Unauthenticated => Self::LoggedOut(told()),
            _ if says("revision of auth store is old") => Self::LoggedOut(told()),
            _ if says("requested lease not found") => Self::Refused(Refusal::LeaseNotFound),
            _ if says("revision has been compacted") => Self::Refused(Refusal::Compacted),
            _ if says("is a future revision") => Self::Refused(Refusal::FutureRevision),
            _ if says("database space exceeded") => Self::Refused(Refusal::NoSpace),
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::ResourceExhausted
            | Code::Unimplemented => Self::Refused(Refusal::Other(told())),
            // Timed out, leader changed, connection lost.
            _ => Self::Unknown(told()),
        }
    }

    /// In words.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::NotDone(reason) | Self::Unknown(reason) | Self::LoggedOut(reason) => {
                reason.clone()
            }
            Self::Refused(Refusal::Other(reason)) => reason.clone(),
            Self::Refused(refusal) => format!("{refusal:?}"),
        }
    }
}

fn never_connected(status: &Status) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The innermost cause, which names the trouble.
fn deepest(status: &Status) -> String {
    let mut cause: &dyn Error = status;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
