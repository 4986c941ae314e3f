//! A server with a cloud that is made up, and a client that can be as rude as it likes.

#![allow(dead_code, clippy::unwrap_used, clippy::panic, missing_docs)]

pub mod client;
pub mod fake;
pub mod market;
pub mod recorder;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use accounts::{Accounts, Cost, Hashing, Settings as AccountSettings, UserSource};
use cimi::{Acl, Common, Timestamp, UserId, resources::User};
use doors::{AuditLog, Audited, CloudApi, Doors, Limits, Running, Server, Settings, tls};
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::CertificateDer};

pub use fake::FakeCloud;

/// Two users: `alice`, and the administrator `root`; both have the password `correct horse`.
struct Users(Vec<Arc<User>>);

impl Users {
    fn new() -> Self {
        let hash = accounts::password::hash_blocking("correct horse", Cost::NONE).unwrap();
        let user = |name: &str, roles: &[&str]| {
            Arc::new(User {
                id: UserId::from_local(name).unwrap(),
                common: Common::new(Acl::owned_by_admin(), Timestamp::from_millis(0)),
                username: name.into(),
                first_name: None,
                last_name: None,
                email: None,
                password: Some(hash.clone()),
                enabled: true,
                roles: roles.iter().map(|role| (*role).to_owned()).collect(),
                altnames: std::collections::BTreeMap::new(),
                quota: cimi::resources::Quota::default(),
                generation: 0,
                origin: None,
                unknown: serde_json::Map::new(),
            })
        };
        Self(vec![user("alice", &[]), user("root", &["::ADMIN"])])
    }
}

impl UserSource for Users {
    fn find(&self, login: &str) -> Option<Arc<User>> {
        self.0.iter().find(|user| user.username == login).cloned()
    }
}

/// Accounts over the two users.
pub fn accounts() -> Arc<Accounts> {
    accounts_as(AccountSettings::default())
}

fn accounts_as(settings: AccountSettings) -> Arc<Accounts> {
    let (users, hashing) = (Arc::new(Users::new()), Hashing::with_cost(Cost::NONE));
    Arc::new(Accounts::new(users, hashing, settings))
}

/// Passes on what is written down.
struct Entries(tokio::sync::mpsc::UnboundedSender<Audited>);

#[async_trait::async_trait]
impl AuditLog for Entries {
    async fn record(&self, what: Audited) {
        let _ = self.0.send(what);
    }

    async fn last(&self, _: usize, _: Option<&str>) -> std::io::Result<Vec<serde_json::Value>> {
        Ok(Vec::new())
    }
}

/// A running server on loopback.
pub struct World {
    pub running: Running,
    pub cloud: Arc<FakeCloud>,
    pub client: Arc<ClientConfig>,
    pub audited: tokio::sync::Mutex<tokio::sync::mpsc::UnboundedReceiver<Audited>>,
    files: tls::CertificateFiles,
    folder: tempfile::TempDir,
}

impl World {
    pub async fn start() -> Self {
        Self::with(Settings::default(), Limits::default()).await
    }

    pub async fn with(settings: Settings, limits: Limits) -> Self {
        Self::of(accounts(), settings, limits).await
    }

    /// A world in which a wrong password is refused after this time.
    pub async fn that_refuses_after(time: Duration, settings: Settings) -> Self {
        let accounts = accounts_as(AccountSettings {
            refused_after: time,
            ..AccountSettings::default()
        });
        Self::of(accounts, settings, Limits::default()).await
    }

    async fn of(accounts: Arc<Accounts>, settings: Settings, limits: Limits) -> Self {
        doors::metrics::install();
        let folder = tempfile::tempdir().unwrap();
        let files = tls::ensure_self_signed(folder.path(), &[]).unwrap();
        let cloud = Arc::new(FakeCloud::default());
        let (entries, audited) = tokio::sync::mpsc::unbounded_channel();
        let api = Arc::clone(&cloud) as Arc<dyn CloudApi>;
        let doors =
            Arc::new(Doors::new(api, accounts, settings).audited_by(Arc::new(Entries(entries))));
        let certificate = tls::Certificate::read(&files).unwrap();
        let tls = tls::Speech::new(certificate.into()).unwrap();
        let server = Server::new(doors, limits, Some(tls));
        let running = server.start("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_file(files.authority.clone().unwrap()).unwrap();
        roots.add(authority).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            running,
            cloud,
            client: Arc::new(client),
            audited: audited.into(),
            files,
            folder,
        }
    }

    pub fn files(&self) -> tls::CertificateFiles {
        self.files.clone()
    }

    pub fn address(&self) -> SocketAddr {
        self.running.address
    }
}
