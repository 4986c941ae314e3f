//! The daemon's one configuration file. Every key has a default, so that an empty file, or none, makes a cloud.
//!
//! [`reference`] holds the commented file that `stratusd reference-config` prints; a test keeps it equal to the defaults.

mod catalogue;
mod certificates;
mod check;
mod keys;
mod mail;
mod marketplace;
pub mod reference;
mod registration;
mod saving;
mod tables;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub use catalogue::{CatalogueEntry, CatalogueKind, OWN_MARKETPLACE};
pub use certificates::{Certificates, RevocationLists};
pub use mail::{Mail, MailSecurity};
pub use marketplace::Marketplace;
pub use registration::Registration;
pub use saving::Saving;
pub use tables::{
    Accounts, Images, Limits, Log, LogFormat, MachineType, Machines, Network, NetworkClass,
    NetworkEntry, NetworkMode, Placement, Retention, Storage, Store, StoreKind, Strategy, Tls,
};
use tables::{default_machine_types, default_networks};

/// Where the file is if nobody says so; it may be absent there.
pub const DEFAULT_PATH: &str = "/etc/stratus/stratusd.toml";

/// A configuration that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{path}: {problem}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why. (A part of the message, and no source beside it: that would be told twice.)
        problem: io::Error,
    },
    /// It isn't TOML, or a value isn't of the right kind.
    #[error("{path}: {}", cimi::wording::plainly(&.problem.to_string()))]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Where and why.
        problem: Box<toml::de::Error>,
    },
    /// There is no such key.
    #[error("{path}: there is no key `{key}`{}; `stratusd reference-config` shows all", near(.nearest.as_deref()))]
    UnknownKey {
        /// Which file.
        path: PathBuf,
        /// The key with the names of the tables it is in.
        key: String,
        /// The key that is spelled most like it.
        nearest: Option<String>,
    },
    /// A value can't be, alone or together with others.
    #[error("{path}: `{key}` {problem}")]
    Value {
        /// Which file.
        path: PathBuf,
        /// Which key.
        key: String,
        /// What is wrong with which value, and what to write.
        problem: String,
    },
}

fn near(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!(" (is `{name}` meant?)"))
}

/// Everything an operator can decide. The reference file explains each key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "said once, in the reference file, as for the tables"
)]
pub struct Config {
    pub instance: String,
    pub host_name: String,
    pub state_dir: String,
    pub listen: String,
    pub workers: usize,
    pub catalogue: Vec<CatalogueEntry>,
    pub log: Log,
    pub store: Store,
    pub tls: Tls,
    pub machines: Machines,
    pub placement: Placement,
    pub network: Network,
    pub networks: BTreeMap<String, NetworkEntry>,
    pub storage: Storage,
    pub images: Images,
    pub limits: Limits,
    pub accounts: Accounts,
    pub certificates: Certificates,
    pub retention: Retention,
    pub mail: Mail,
    pub marketplace: Marketplace,
    pub registration: Registration,
    pub saving: Saving,
    pub machine_types: BTreeMap<String, MachineType>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            instance: "c".into(),
            host_name: String::new(),
            state_dir: String::new(),
            listen: "0.0.0.0:8443".into(),
            workers: 0,
            catalogue: Vec::new(),
            log: Log::default(),
            tls: Tls::default(),
            machines: Machines::default(),
            placement: Placement::default(),
            network: Network::default(),
            networks: default_networks(),
            storage: Storage::default(),
            images: Images::default(),
            limits: Limits::default(),
            accounts: Accounts::default(),
            certificates: Certificates::default(),
            retention: Retention::default(),
            mail: Mail::default(),
            marketplace: Marketplace::default(),
            registration: Registration::default(),
            saving: Saving::default(),
            store: Store::default(),
            machine_types: default_machine_types(),
        }
    }
}

impl Config {
    /// The configuration in a file; without one named, that at [`DEFAULT_PATH`] or, if there is none, the defaults.
    ///
    /// # Errors
    /// If it can't be read, has keys that don't exist, or values that can't be.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let at = path.unwrap_or(Path::new(DEFAULT_PATH));
        let text = match std::fs::read_to_string(at) {
            Ok(text) => text,
            Err(error) if path.is_none() && error.kind() == io::ErrorKind::NotFound => {
                String::new()
            }
            Err(problem) => {
                return Err(ConfigError::Unreadable {
                    path: at.to_owned(),
                    problem,
                });
            }
        };
        Self::parse(&text, at)
    }

    /// The configuration in a text; `path` is for messages.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let syntax = |problem| ConfigError::Syntax {
            path: path.to_owned(),
            problem: Box::new(problem),
        };
        let given: toml::Table = toml::from_str(text).map_err(syntax)?;
        keys::check(&given, path)?;
        // From the text again: errors then say line and column.
        let config: Self = toml::from_str(text).map_err(syntax)?;
        config.check(path)?;
        Ok(config)
    }

    /// Where everything is kept that is to outlive the daemon.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        if !self.state_dir.is_empty() {
            return PathBuf::from(&self.state_dir);
        }
        if is_root() {
            return PathBuf::from("/var/lib/stratus");
        }
        let home = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        home("XDG_STATE_HOME")
            .or_else(|| home("HOME").map(|home| home.join(".local/state")))
            .unwrap_or_else(|| PathBuf::from("."))
            .join("stratus")
    }

    /// Where images, disks and volumes are.
    #[must_use]
    pub fn storage_dir(&self) -> PathBuf {
        if self.storage.dir.is_empty() {
            self.state_dir()
        } else {
            PathBuf::from(&self.storage.dir)
        }
    }

    /// The address to listen on. Checked when the configuration was read.
    #[must_use]
    pub fn listen(&self) -> SocketAddr {
        self.listen
            .parse()
            .unwrap_or_else(|_| SocketAddr::from(([127, 0, 0, 1], 8443)))
    }

    /// Where people find this daemon, for links in letters when no other address is configured for them: by the name that it was
    /// given, else at the address that it listens at, and if it listens at all of them by the computer's name.
    #[must_use]
    pub fn origin(&self) -> String {
        let scheme = if self.tls.enabled { "https" } else { "http" };
        let listen = self.listen();
        if self.host_name.is_empty() && !listen.ip().is_unspecified() {
            return format!("{scheme}://{listen}");
        }
        format!("{scheme}://{}:{}", self.host_name(), listen.port())
    }

    /// Whether machines are on bridges: as configured, else if we may make them.
    #[must_use]
    pub fn bridged(&self) -> bool {
        match self.network.mode {
            NetworkMode::Auto => is_root(),
            NetworkMode::Bridge => true,
            NetworkMode::User => false,
        }
    }

    /// This host's address for others: as configured, else the one it reaches `other` from, to which nothing is sent; none
    /// without bridges, which are what is joined.
    #[must_use]
    pub fn tunnel_address(&self, other: SocketAddr) -> Option<Ipv4Addr> {
        if !self.bridged() {
            return None;
        }
        if let Ok(given) = self.network.tunnel_address.parse() {
            return Some(given);
        }
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.connect(other).ok()?;
        match socket.local_addr().ok()?.ip() {
            IpAddr::V4(own) if !own.is_loopback() => Some(own),
            _ => None,
        }
    }

    /// What this host is called.
    #[must_use]
    pub fn host_name(&self) -> String {
        if !self.host_name.is_empty() {
            return self.host_name.clone();
        }
        let name = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        if name.is_empty() {
            "localhost".to_owned()
        } else {
            name
        }
    }

    /// The addresses of `dns_upstream` that are addresses.
    #[must_use]
    pub fn upstream_servers(&self) -> Vec<IpAddr> {
        self.network
            .dns_upstream
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect()
    }
}

/// Whether this process may do everything.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
