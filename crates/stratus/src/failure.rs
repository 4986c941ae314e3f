//! How a command ends when it does not succeed: message, stream and exit status.

use crate::cloud::{ApiError, ShownBy};

/// Why a command ended without success. Each kind has its own message shape and exit status.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Wrong options or arguments: usage and message on stderr, status 2.
    #[error("{0}")]
    Usage(String),
    /// A check that the command makes itself: `  [ERROR] MESSAGE` on stderr, status 1.
    #[error("{0}")]
    Check(String),
    /// The work failed: `Error: MESSAGE` on stdout, status 255.
    #[error("{0}")]
    Work(String),
    /// As [`Work`](Self::Work), of a cloud that does not let one in, or that one must not trust: the same would come of everything else
    /// that is asked of it.
    #[error("{0}")]
    NoAccess(String),
    /// As the failure in it, with a line on stderr after it that says what to do.
    #[error("{failure}")]
    Hinted {
        /// What went wrong; has no hint of its own.
        failure: Box<Failure>,
        /// What to do about it.
        hint: String,
    },
    /// A value of the wrong kind: as [`Work`](Self::Work), and an empty line after it.
    #[error("{0}")]
    Value(String),
    /// The configuration file: the message as it is on stdout, status 255.
    #[error("{0}")]
    Configuration(String),
    /// The network: `Network error: MESSAGE` on stdout, status 255.
    #[error("{0}")]
    Network(String),
    /// Everything was said already; end with this status.
    #[error("exit status {0}")]
    Exit(u8),
    /// The reader of our standard output went away.
    #[error("standard output was closed")]
    ClosedOutput,
}

/// The result of a command.
pub type Result<T = (), E = Failure> = std::result::Result<T, E>;

/// Exit status of failures of the work phase.
pub const WORK_FAILED: u8 = 255;

impl Failure {
    /// The exit status that belongs to it.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Check(_) => 1,
            Self::Exit(status) => *status,
            // What a shell shows for a program that SIGPIPE ended.
            Self::ClosedOutput => 141,
            Self::Hinted { failure, .. } => failure.exit_status(),
            Self::Work(_)
            | Self::NoAccess(_)
            | Self::Value(_)
            | Self::Configuration(_)
            | Self::Network(_) => WORK_FAILED,
        }
    }

    /// Whether it came of the work itself, and not of what was given to the command: of such, all is told with `-vvv`.
    #[must_use]
    pub fn is_of_the_work(&self) -> bool {
        match self {
            Self::Hinted { failure, .. } => failure.is_of_the_work(),
            Self::Work(_) | Self::NoAccess(_) | Self::Value(_) | Self::Network(_) => true,
            Self::Usage(_)
            | Self::Check(_)
            | Self::Configuration(_)
            | Self::Exit(_)
            | Self::ClosedOutput => false,
        }
    }

    /// Whether it is about the one thing that was asked for, so that others may fare better.
    #[must_use]
    pub fn is_of_one(&self) -> bool {
        match self {
            Self::Hinted { failure, .. } => failure.is_of_one(),
            Self::Usage(_) | Self::Check(_) | Self::Work(_) | Self::Value(_) => true,
            Self::NoAccess(_)
            | Self::Configuration(_)
            | Self::Network(_)
            | Self::Exit(_)
            | Self::ClosedOutput => false,
        }
    }

    /// What went wrong, and what is said of it besides.
    #[must_use]
    pub fn parts(self) -> (Self, Option<String>) {
        match self {
            Self::Hinted { failure, hint } => (*failure, Some(hint)),
            failure => (failure, None),
        }
    }

    /// The same, and what to do about it; below what is said of it already.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        let (failure, hint) = match self.parts() {
            (failure, Some(first)) => (failure, format!("{first}\n{}", hint.into())),
            (failure, None) => (failure, hint.into()),
        };
        Self::Hinted {
            failure: Box::new(failure),
            hint,
        }
    }

    /// A local file that could not be used, in the words of the contract (`[Errno 2] No such file or directory: 'X'`).
    #[must_use]
    pub fn file(path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::Work(format!("{}: '{}'", errno_text(error), path.display()))
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Network { text } if text.contains("Connection refused") => Self::Network(text).with_hint(
                "Nothing listens there: the cloud does not run, or another address is needed (--endpoint, STRATUSLAB_ENDPOINT, or endpoint in \
                 the configuration file).",
            ),
            ApiError::Network { text } => Self::Network(text),
            ApiError::Refused { status: 401, message, shown } => Self::NoAccess("Unauthorized".to_owned()).with_hint(match shown {
                ShownBy::Password => {
                    "The cloud does not know this user name with this password. Check -u/--username and -p/--password, STRATUSLAB_USERNAME and \
                     STRATUSLAB_PASSWORD, or username and password in the configuration file."
                        .to_owned()
                }
                ShownBy::Token => format!(
                    "The cloud does not take this token ({message}). It comes from STRATUS_TOKEN, -p, token in the configuration file, or 'stratus login': \
                     log in again with 'stratus login', or make another one with 'stratus token create'."
                ),
                ShownBy::Certificate => format!("The cloud does not take this certificate: {message}"),
                ShownBy::Nothing => message,
            }),
            ApiError::Untrusted { message, hint } => Self::NoAccess(message).with_hint(hint),
            other => Self::Work(other.to_string()),
        }
    }
}

/// `[Errno N] TEXT` of an input or output error.
#[must_use]
pub fn errno_text(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => {
            let text = error.to_string();
            let text = text
                .rsplit_once(" (os error")
                .map_or(text.as_str(), |(text, _)| text);
            format!("[Errno {number}] {text}")
        }
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_and_all_that_is_said_of_it_are_told() {
        let failure = Failure::Network("no answer".to_owned())
            .with_hint("first")
            .with_hint("second");
        assert!(
            matches!(
                &failure,
                Failure::Hinted { failure, hint }
                    if matches!(**failure, Failure::Network(_)) && hint == "first\nsecond"
            ),
            "{failure:?}"
        );
    }
}
