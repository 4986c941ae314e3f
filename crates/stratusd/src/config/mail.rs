//! `[mail]`: the server that takes letters to users.

use serde::{Deserialize, Serialize};

/// The table; the reference file explains each key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "said once, in the reference file, as for the other tables"
)]
pub struct Mail {
    pub server: String,
    pub port: u16,
    pub security: MailSecurity,
    pub ca: String,
    pub user: String,
    pub password_file: String,
    pub from: String,
}

/// How the connection to the mail server is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MailSecurity {
    /// In clear text first, then TLS, or nothing is sent.
    #[default]
    StartTls,
    /// TLS from the beginning.
    Tls,
    /// Clear text.
    None,
}

impl Mail {
    /// Whether letters can be sent.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.server.is_empty()
    }

    /// The port, by what is usual where none is configured.
    #[must_use]
    pub fn port(&self) -> u16 {
        match (self.port, self.security) {
            (0, MailSecurity::StartTls) => 587,
            (0, MailSecurity::Tls) => 465,
            (0, MailSecurity::None) => 25,
            (port, _) => port,
        }
    }

    /// Which key can't be as it is, and why.
    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        if !self.is_on() {
            return None;
        }
        if self.from.is_empty() {
            return Some((
                "mail.from",
                "is empty; write who letters are from, such as \"Stratus <cloud@example.org>\""
                    .to_owned(),
            ));
        }
        if self.user.is_empty() != self.password_file.is_empty() {
            return Some((
                "mail.user",
                "and `mail.password_file` belong together: write both or none".to_owned(),
            ));
        }
        if !self.user.is_empty() && self.security == MailSecurity::None {
            return Some((
                "mail.security",
                "is \"none\", which would send the password in clear text; write \"starttls\" or \"tls\""
                    .to_owned(),
            ));
        }
        None
    }
}
