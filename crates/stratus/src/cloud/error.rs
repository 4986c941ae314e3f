//! What can go wrong between the client and a cloud.

use std::error::Error as _;

use crate::failure::errno_text;

/// What somebody was shown to be by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShownBy {
    /// Nothing.
    Nothing,
    /// A user name and a password.
    Password,
    /// A token.
    Token,
    /// A certificate.
    Certificate,
}

/// An exchange with the cloud that did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The cloud said no; its own words.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The `message` of the answer, or the status in words.
        message: String,
        /// What was shown to log in.
        shown: ShownBy,
    },
    /// No exchange took place, or it broke off.
    #[error("{text}")]
    Network {
        /// What happened, `[Errno N] …` where the system gave a number.
        text: String,
    },
    /// The certificate is not trusted.
    #[error("{message}")]
    Untrusted {
        /// What is wrong with it.
        message: String,
        /// What to do.
        hint: String,
    },
    /// An answer that is not what the interface promises.
    #[error("{url} does not answer like a Stratus cloud: {problem}")]
    Strange {
        /// What was asked.
        url: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// The client cannot be set up.
    #[error("{0}")]
    Setup(String),
}

impl ApiError {
    /// Whether the cloud answered with this status.
    #[must_use]
    pub fn is_status(&self, wanted: u16) -> bool {
        match self {
            Self::Refused { status, .. } => *status == wanted,
            _ => false,
        }
    }

    /// What happened on the network, in the words of the system.
    #[must_use]
    pub fn network(error: &reqwest::Error, peer: &str) -> Self {
        let mut innermost: Option<&(dyn std::error::Error + 'static)> = None;
        let mut next = error.source();
        while let Some(cause) = next {
            if let Some(io_error) = cause.downcast_ref::<std::io::Error>()
                && io_error.raw_os_error().is_some()
            {
                return Self::Network {
                    text: format!("{} ({peer})", errno_text(io_error)),
                };
            }
            // What the libraries say of it is about them, with an address in their manuals.
            if let Some(io_error) = cause.downcast_ref::<std::io::Error>()
                && io_error.kind() == std::io::ErrorKind::UnexpectedEof
            {
                return Self::Network {
                    text: format!("the connection ended before the answer came ({peer})"),
                };
            }
            innermost = Some(cause);
            next = cause.source();
        }
        if error.is_timeout() {
            return Self::Network {
                text: format!("[Errno 110] Connection timed out ({peer})"),
            };
        }
        let text = innermost.map_or_else(|| error.to_string(), ToString::to_string);
        // A TLS service answers plain HTTP with an alert, which is no HTTP.
        if error.url().is_some_and(|url| url.scheme() == "http")
            && text.contains("invalid HTTP version")
        {
            return Self::Network {
                text: format!(
                    "{peer} does not answer in plain http, it speaks https: give https://{peer} as the endpoint"
                ),
            };
        }
        if text.contains("failed to lookup address") {
            return Self::Network {
                text: format!("[Errno -2] Name or service not known ({peer})"),
            };
        }
        Self::Network {
            text: format!("{text} ({peer})"),
        }
    }
}
