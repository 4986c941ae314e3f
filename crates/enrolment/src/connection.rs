//! Reaching the server: TLS that is verified, time limits, the manager's login.

use std::{sync::Arc, time::Duration};

use cloud::people::DirectoryError;
use ldap3::{Ldap, LdapConnAsync, LdapConnSettings, LdapError};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tokio::time::timeout;

/// How long connecting may take, and each operation.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Where the directory is, and who writes there.
#[derive(Clone)]
pub struct Server {
    /// `ldaps://HOST`, `ldap://HOST:PORT`
    pub url: String,
    /// TLS from the first request on, for `ldap://`.
    pub start_tls: bool,
    /// Certificates of authorities, PEM, that are trusted in place of the system's.
    pub authorities: Option<Vec<u8>>,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectError(pub String);

impl std::fmt::Display for ConnectError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for ConnectError {}

impl Server {
    /// What TLS connections trust.
    pub(crate) fn tls(&self) -> Result<Arc<ClientConfig>, ConnectError> {
        let mut roots = RootCertStore::empty();
        let given: Vec<CertificateDer<'static>> = match &self.authorities {
            Some(pem) => CertificateDer::pem_slice_iter(pem)
                .collect::<Result<_, _>>()
                .map_err(|error| ConnectError(format!("the authorities' certificates: {error}")))?,
            None => rustls_native_certs::load_native_certs().certs,
        };
        for certificate in given {
            // Of the system's, some may be odd; of those that were named, none may.
            if roots.add(certificate).is_err() && self.authorities.is_some() {
                return Err(ConnectError(
                    "an authority's certificate can't be read".to_owned(),
                ));
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| ConnectError(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }

    /// A connection as the manager.
    pub(crate) async fn connect(&self, tls: &Arc<ClientConfig>) -> Result<Manager, DirectoryError> {
        let settings = LdapConnSettings::new()
            .set_conn_timeout(CONNECT_WITHIN)
            .set_starttls(self.start_tls)
            .set_config(Arc::clone(tls));
        let connecting = LdapConnAsync::with_settings(settings, &self.url);
        let (connection, mut ldap) = timeout(CONNECT_WITHIN * 2, connecting)
            .await
            .map_err(|_| DirectoryError::Unavailable("it doesn't answer in time".to_owned()))?
            .map_err(|error| unavailable(&error))?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.drive().await {
                tracing::debug!(%error, "the connection to the directory ended");
            }
        });
        let manager = ldap.with_timeout(ANSWER_WITHIN);
        let bound = manager
            .simple_bind(&self.manager_dn, &self.manager_password)
            .await;
        let connected = Manager { ldap, driver };
        bound
            .and_then(ldap3::LdapResult::success)
            .map_err(|error| unavailable(&error))?;
        Ok(connected)
    }
}

/// A connection as the manager; closed when dropped.
pub(crate) struct Manager {
    ldap: Ldap,
    driver: tokio::task::JoinHandle<()>,
}

impl Manager {
    /// For one operation, which ends in time.
    pub(crate) fn operation(&mut self) -> &mut Ldap {
        self.ldap.with_timeout(ANSWER_WITHIN)
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// What is wrong, in one line.
pub(crate) fn unavailable(error: &LdapError) -> DirectoryError {
    let text = match error {
        LdapError::Timeout { .. } => "it doesn't answer in time".to_owned(),
        LdapError::LdapResult { result } => {
            format!("it refuses (result {}): {}", result.rc, result.text)
        }
        other => other.to_string(),
    };
    let line: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    DirectoryError::Unavailable(line)
}
