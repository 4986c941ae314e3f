//! Reaching the server as the manager.

use cloud::people::DirectoryError;
use directory::{Writable, WriteError, Writer};

/// Where the directory is, and who writes there.
#[derive(Clone)]
pub struct Server {
    /// `ldaps://HOST`, `ldap://HOST:PORT`
    pub url: String,
    /// TLS from the first request on, for `ldap://`.
    pub start_tls: bool,
    /// Certificates of authorities, PEM, that are trusted in place of the system's.
    pub authorities: Option<String>,
    /// Who writes.
    pub manager_dn: String,
    /// The manager's password.
    pub manager_password: String,
    /// Where people are.
    pub users: String,
    /// Where groups are.
    pub groups: String,
}

// No log shows the password.
impl std::fmt::Debug for Server {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Server({} at {})", self.manager_dn, self.url)
    }
}

/// What is wrong with how a server is to be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConnectError(pub String);

impl Server {
    /// Where it is and what TLS trusts there.
    pub(crate) fn place(&self) -> Result<Writable, ConnectError> {
        Writable::new(&self.url, self.start_tls, self.authorities.as_deref()).map_err(ConnectError)
    }

    /// A connection as the manager.
    pub(crate) async fn log_in(&self, place: &Writable) -> Result<Writer, DirectoryError> {
        let entered = place.log_in(&self.manager_dn, &self.manager_password).await;
        entered.map_err(|error| unavailable(&error))
    }
}

/// What is wrong, in one line.
pub(crate) fn unavailable(error: &WriteError) -> DirectoryError {
    let text = error.to_string();
    let line: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    DirectoryError::Unavailable(line)
}
