//! The connection to the mail server.

use std::time::Duration;

use lettre::{
    AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor,
    message::Mailbox,
    transport::smtp::{
        authentication::Credentials,
        client::{Certificate, Tls, TlsParameters},
    },
};
use thiserror::Error;
use tokio::time::timeout;

/// How long one delivery may take, from connecting to the last answer.
const DELIVERY_LIMIT: Duration = Duration::from_secs(60);

/// How the connection is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Security {
    /// Begins in clear text and must become TLS before anything is said (port 587, or 25).
    #[default]
    StartTls,
    /// TLS from the beginning (port 465).
    Tls,
    /// Clear text: for a server on this host.
    None,
}

/// A name and a password for the server.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Who we are there.
    pub user: String,
    /// Never shown.
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Login")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Which server takes our letters, and how.
#[derive(Clone, Debug)]
pub struct SmtpSettings {
    /// Name or address of the server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is protected.
    pub security: Security,
    /// Authorities that are trusted besides the system's, in PEM.
    pub authorities: Vec<Vec<u8>>,
    /// Who we are there, if the server asks.
    pub login: Option<Login>,
    /// Who letters are from, such as `Stratus <cloud@example.org>`.
    pub from: String,
}

/// What is wrong with the settings.
#[derive(Debug, Error)]
pub enum SmtpError {
    /// The sender is no address.
    #[error("`{0}` is no sender: write an address, or `Name <address>`")]
    From(String),
    /// The server's name, or an authority, can't be used with TLS.
    #[error("TLS with the mail server {host}: {reason}")]
    Tls {
        /// The server.
        host: String,
        /// Why.
        reason: String,
    },
    /// A password without protection.
    #[error("the mail server {0} would get the password in clear text: use `starttls` or `tls`")]
    ClearPassword(String),
}

/// Why a letter was not delivered.
#[derive(Debug)]
pub(crate) enum Undelivered {
    /// Not now: again later.
    NotNow(String),
    /// Never: the server says so.
    Never(String),
}

/// The server, and who we are.
pub(crate) struct Server {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    pub(crate) from: Mailbox,
}

impl Server {
    pub(crate) fn new(settings: &SmtpSettings) -> Result<Self, SmtpError> {
        let from = settings
            .from
            .parse()
            .map_err(|_| SmtpError::From(settings.from.clone()))?;
        let host = settings.host.clone();
        let tls = || -> Result<TlsParameters, lettre::transport::smtp::Error> {
            let mut builder = TlsParameters::builder(host.clone());
            for authority in &settings.authorities {
                builder = builder.add_root_certificate(Certificate::from_pem(authority)?);
            }
            builder.build_rustls()
        };
        let tls = || {
            tls().map_err(|error| SmtpError::Tls {
                host: host.clone(),
                reason: error.to_string(),
            })
        };
        let protection = match settings.security {
            Security::StartTls => Tls::Required(tls()?),
            Security::Tls => Tls::Wrapper(tls()?),
            Security::None => Tls::None,
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&host)
            .port(settings.port)
            .tls(protection)
            .timeout(Some(DELIVERY_LIMIT / 2));
        if let Some(login) = &settings.login {
            if settings.security == Security::None {
                return Err(SmtpError::ClearPassword(host));
            }
            let credentials = Credentials::new(login.user.clone(), login.password.clone());
            builder = builder.credentials(credentials);
        }
        Ok(Self {
            transport: builder.build(),
            from,
        })
    }

    /// Hands a letter over. Returns when the server has taken it.
    pub(crate) async fn deliver(&self, message: Message) -> Result<(), Undelivered> {
        match timeout(DELIVERY_LIMIT, self.transport.send(message)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                let text = with_causes(&error);
                // 535 is about our login, 530 about TLS: a matter of the configuration, not of the letter.
                let about_us = error
                    .status()
                    .is_some_and(|code| matches!(u16::from(code), 530..=538));
                if error.is_permanent() && !about_us {
                    Err(Undelivered::Never(text))
                } else {
                    Err(Undelivered::NotNow(text))
                }
            }
            Err(_) => Err(Undelivered::NotNow(format!(
                "no end after {} s",
                DELIVERY_LIMIT.as_secs()
            ))),
        }
    }
}

/// The error with what caused it.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}
