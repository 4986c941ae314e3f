//! Writing to a directory, as somebody who may.

use std::time::Duration;

use accounts::methods::Host;

use crate::{
    connection::{Connection, Encryption},
    message::{Change, Entry, NO_SUCH_OBJECT, Outcome, SUCCESS, Search},
    tls,
};

/// How long connecting, and each answer, may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Entries of one search.
const ENTRIES_AT_MOST: u32 = 100;
/// Results of RFC 4511 §4.1.9 that only writing has.
const TYPE_OR_VALUE_EXISTS: u32 = 20;
const ENTRY_ALREADY_EXISTS: u32 = 68;

/// Why something wasn't written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// There is an entry of that name, or such a value, already.
    #[error("it is there already")]
    Exists,
    /// There is no entry of that name.
    #[error("there is no such entry")]
    Absent,
    /// The server doesn't want it; its result and its words.
    #[error("it refuses (result {0}): {1}")]
    Refused(u32, String),
    /// The server can't be reached, is too slow, or answers nonsense. What of it.
    #[error("{0}")]
    Unreachable(String),
}

/// A server that can be written to.
#[derive(Clone)]
pub struct Writable {
    host: Host,
    encryption: Encryption,
}

impl std::fmt::Debug for Writable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host.address, self.host.port)
    }
}

impl Writable {
    /// The server at `ldap://HOST[:PORT]` or `ldaps://…`, which is asked nothing yet. With `start_tls`, TLS from the first
    /// request on. `authorities` (PEM) sign its certificate; if none are given, whom the system trusts.
    ///
    /// # Errors
    /// What is wrong with the address or the certificates.
    pub fn new(url: &str, start_tls: bool, authorities: Option<&str>) -> Result<Self, String> {
        let (ssl, host) = server(url)?;
        let encryption = match (ssl, start_tls) {
            (true, _) => Encryption::Tls(tls::config(authorities)?),
            (false, true) => Encryption::StartTls(tls::config(authorities)?),
            (false, false) => Encryption::None,
        };
        Ok(Self { host, encryption })
    }

    /// A connection as somebody.
    ///
    /// # Errors
    /// [`WriteError::Refused`] for a wrong password, [`WriteError::Unreachable`].
    pub async fn log_in(&self, dn: &str, password: &str) -> Result<Writer, WriteError> {
        let encryption = self.encryption.clone();
        let opened = Connection::open(&self.host, encryption, PATIENCE).await;
        let mut connection = opened.map_err(WriteError::Unreachable)?;
        taken(connection.log_in(dn, password).await)?;
        Ok(Writer(connection))
    }
}

/// Whether a server can be named so, as [`Writable::new`] sees it.
///
/// # Errors
/// What to write in its place.
pub fn check_url(url: &str) -> Result<(), String> {
    server(url).map(drop)
}

/// Whether TLS is spoken from the beginning, and with whom.
fn server(url: &str) -> Result<(bool, Host), String> {
    let read = read_url(url);
    read.ok_or_else(|| format!("`{url}` is no server; write ldaps://HOST or ldap://HOST:PORT"))
}

fn read_url(url: &str) -> Option<(bool, Host)> {
    let (scheme, rest) = url.split_once("://")?;
    let (ssl, port) = match scheme {
        "ldaps" => (true, 636),
        "ldap" => (false, 389),
        _ => return None,
    };
    let place = rest.strip_suffix('/').unwrap_or(rest);
    let (address, after) = match place.strip_prefix('[') {
        Some(inner) => inner.split_once(']')?,
        None => place.split_at(place.find(':').unwrap_or(place.len())),
    };
    let port = match after.strip_prefix(':') {
        Some(port) => port.parse().ok()?,
        None if after.is_empty() => port,
        None => return None,
    };
    let usable = !address.is_empty()
        && address
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-._:%".contains(c));
    let address = address.to_owned();
    usable.then_some((ssl, Host { address, port }))
}

/// A connection that may write. Each call ends in time.
pub struct Writer(Connection);

impl Writer {
    /// The entries below `base` that have all of these values, with these attributes; the first hundred.
    ///
    /// # Errors
    /// [`WriteError::Unreachable`].
    pub async fn find(
        &mut self,
        base: &str,
        equal: &[(&str, &str)],
        attributes: &[&str],
    ) -> Result<Vec<Entry>, WriteError> {
        let search = Search {
            base,
            equal,
            attributes,
            entries_at_most: ENTRIES_AT_MOST,
            seconds_at_most: u32::try_from(PATIENCE.as_secs()).unwrap_or(1),
        };
        let found = self.0.search(search).await;
        found.map_err(WriteError::Unreachable)
    }

    /// Makes an entry with these values.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn add(&mut self, dn: &str, values: &[(&str, &str)]) -> Result<(), WriteError> {
        taken(self.0.add(dn, values).await)
    }

    /// Changes an entry, wholly or not at all.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn modify(&mut self, dn: &str, changes: &[Change<'_>]) -> Result<(), WriteError> {
        taken(self.0.modify(dn, changes).await)
    }

    /// Says goodbye.
    pub async fn close(self) {
        self.0.close().await;
    }
}

fn taken(outcome: Result<Outcome, String>) -> Result<(), WriteError> {
    let outcome = outcome.map_err(WriteError::Unreachable)?;
    match outcome.code {
        SUCCESS => Ok(()),
        ENTRY_ALREADY_EXISTS | TYPE_OR_VALUE_EXISTS => Err(WriteError::Exists),
        NO_SUCH_OBJECT => Err(WriteError::Absent),
        code => Err(WriteError::Refused(code, outcome.text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_by_addresses() {
        let read = |url: &str| read_url(url).map(|(ssl, host)| (ssl, host.address, host.port));
        for (url, ssl, address, port) in [
            ("ldap://localhost", false, "localhost", 389),
            ("ldaps://ldap.example.org/", true, "ldap.example.org", 636),
            ("ldap://192.0.2.1:10389", false, "192.0.2.1", 10389),
            ("ldaps://[2001:db8::1]:1636", true, "2001:db8::1", 1636),
            ("ldap://[::1]", false, "::1", 389),
        ] {
            assert_eq!(read(url), Some((ssl, address.to_owned(), port)), "{url}");
        }
        for url in [
            "",
            "ldap:",
            "ldap://",
            "ldapi:///x",
            "ldap://:389",
            "ldap://a:b",
            "ldap://a:1:2",
            "ldap://a/b",
            "ldap://[::1",
            "ldap://[::1]x",
            "http://a",
            "ldap://a@b",
        ] {
            assert_eq!(read(url), None, "{url}");
        }
        assert!(Writable::new("ldaps://a", false, Some("no PEM")).is_err());
    }
}
