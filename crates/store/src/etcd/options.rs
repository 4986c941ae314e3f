//! How an [`EtcdStore`](super::EtcdStore) is to be reached.

use std::fmt;
use std::time::Duration;

/// Where the cluster is, which part of it is ours, and how long anything may take.
#[derive(Debug, Clone)]
pub struct EtcdOptions {
    /// The members, `https://host:2379` or `http://…`. Any of them can be lost; name all.
    pub endpoints: Vec<String>,
    /// All keys are below `/PREFIX/`, so that several clouds can share a cluster. Letters, digits, `-`, `_`, `.` and,
    /// between them, `/`.
    pub prefix: String,
    /// Whom to trust and who we are, for endpoints with `https`.
    pub tls: EtcdTls,
    /// The user to log in as, if the cluster asks.
    pub login: Option<EtcdLogin>,
    /// How many revisions back a watch can begin: what is older is compacted, of the whole cluster. `None`: somebody
    /// else compacts (etcd's own `--auto-compaction-…`).
    pub history_revisions: Option<u64>,
    /// How long one member may take to answer, before another is asked.
    pub attempt: Duration,
    /// How long a call may take with everything that is tried, before it fails.
    pub deadline: Duration,
    /// How long a connection is quiet before it is tried. etcd drops who does that more often than every 5 s.
    pub ping: Duration,
}

impl EtcdOptions {
    /// Usual options for these endpoints.
    #[must_use]
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            prefix: "stratus".to_owned(),
            tls: EtcdTls::default(),
            login: None,
            history_revisions: Some(50_000),
            // A cluster with etcd's defaults has a new leader within one to two seconds.
            attempt: Duration::from_secs(2),
            deadline: Duration::from_secs(8),
            ping: Duration::from_secs(6),
        }
    }
}

/// TLS towards etcd. All as PEM.
#[derive(Clone, Default)]
pub struct EtcdTls {
    /// The authority that signed the members' certificates.
    pub authority: Option<Vec<u8>>,
    /// Our certificate and its private key, if members ask for one (`--client-cert-auth`).
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name that the members' certificates are of, where it isn't the one in their addresses.
    pub server_name: Option<String>,
}

impl fmt::Debug for EtcdTls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("EtcdTls")
            .field("authority", &self.authority.is_some())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}

/// A user of etcd.
#[derive(Clone)]
pub struct EtcdLogin {
    /// Its name.
    pub user: String,
    /// Its password.
    pub password: String,
}

impl fmt::Debug for EtcdLogin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "EtcdLogin({:?}, …)", self.user)
    }
}
