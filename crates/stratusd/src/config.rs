//! The daemon's one configuration file. Every key has a default, so that an empty file, or none, makes a cloud.
//!
//! [`reference`] holds the commented file that `stratusd reference-config` prints; a test keeps it equal to the defaults.

mod check;
mod keys;
pub mod reference;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// Where the file is if nobody says so; it may be absent there.
pub const DEFAULT_PATH: &str = "/etc/stratus/stratusd.toml";

/// A configuration that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It isn't TOML, or a value isn't of the right kind.
    #[error("{path}: {source}")]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
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
#[allow(missing_docs)] // Said once, in the reference file.
pub struct Config {
    pub instance: String,
    pub host_name: String,
    pub state_dir: String,
    pub listen: String,
    pub workers: usize,
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
    pub retention: Retention,
    pub machine_types: BTreeMap<String, MachineType>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Log {
    pub level: String,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Store {
    pub kind: StoreKind,
    pub endpoints: Vec<String>,
    pub prefix: String,
    pub ca: String,
    pub certificate: String,
    pub key: String,
    pub user: String,
    pub password_file: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum StoreKind {
    #[default]
    Sqlite,
    Etcd,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            kind: StoreKind::Sqlite,
            endpoints: Vec::new(),
            prefix: "stratus".to_owned(),
            ca: String::new(),
            certificate: String::new(),
            key: String::new(),
            user: String::new(),
            password_file: String::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Tls {
    pub enabled: bool,
    pub names: Vec<String>,
    pub certificate: String,
    pub key: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Machines {
    pub accelerator: String,
    pub cpu_model: String,
    pub qemu: String,
    pub uid_base: i64,
    pub cgroups: bool,
    pub translation_cache_mib: u32,
    pub spare_ports: u8,
    pub power_button_seconds: u64,
    pub console_kib: u64,
    pub default_type: String,
    pub most_per_user: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Strategy {
    #[default]
    Spreading,
    Packing,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Placement {
    pub strategy: Strategy,
    pub cpu_overcommit: f64,
    pub memory_overcommit: f64,
    pub memory_reserve_mib: u64,
    pub host_cpus: u32,
    pub host_memory_mib: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum NetworkMode {
    #[default]
    Auto,
    Bridge,
    User,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Network {
    pub mode: NetworkMode,
    pub default: String,
    pub dns_upstream: Vec<String>,
    pub host_tcp_ports: Vec<u16>,
    pub forward_ports: [u16; 2],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum NetworkClass {
    #[default]
    Public,
    Local,
    Private,
}

/// One of `[networks.NAME]`. Unlike other tables its keys have no defaults but for those marked: a network half
/// described would be a trap.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct NetworkEntry {
    pub class: NetworkClass,
    pub tag: String,
    pub subnet: String,
    pub domain: String,
    pub nat: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub name_servers: Vec<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Storage {
    pub dir: String,
    pub reserve_mib: u64,
    pub quarantine_hours: u64,
    pub image_cache_gib: u64,
    pub largest_image_gib: u64,
    pub largest_volume_gib: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Images {
    pub allow_sources: Vec<String>,
    pub imports: usize,
    pub imports_per_user: usize,
    pub least_kib_per_second: u64,
    pub longest_hours: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Limits {
    pub body_kib: usize,
    pub request_seconds: u64,
    pub upload_stall_seconds: u64,
    pub connections: usize,
    pub connections_per_address: usize,
    pub drain_seconds: u64,
    pub requests: usize,
    pub requests_per_user: usize,
    pub bodies_mib: usize,
    pub trusted_proxies: Vec<String>,
    pub volumes_per_user: usize,
    pub images_per_user: usize,
    pub credentials_per_user: usize,
    pub templates_per_user: usize,
    pub metrics_open_to_loopback: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Accounts {
    pub password_cost: u32,
    pub remembered_minutes: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Retention {
    pub events: usize,
    pub jobs: usize,
    pub jobs_minutes: u64,
    pub records_days: u64,
    pub history_revisions: u64,
}

/// One of `[machine_types.NAME]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct MachineType {
    pub cpus: u32,
    pub memory_mib: u64,
    #[serde(default)]
    pub swap_mib: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            instance: "c".into(),
            host_name: String::new(),
            state_dir: String::new(),
            listen: "0.0.0.0:8443".into(),
            workers: 0,
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
            retention: Retention::default(),
            store: Store::default(),
            machine_types: default_machine_types(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".into(),
            format: LogFormat::Text,
        }
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            enabled: true,
            names: Vec::new(),
            certificate: String::new(),
            key: String::new(),
        }
    }
}

impl Default for Machines {
    fn default() -> Self {
        Self {
            accelerator: "auto".into(),
            cpu_model: String::new(),
            qemu: "qemu-system-x86_64".into(),
            uid_base: -1,
            cgroups: true,
            translation_cache_mib: 128,
            spare_ports: 8,
            power_button_seconds: 120,
            console_kib: 1024,
            default_type: "m1.small".into(),
            most_per_user: 1000,
        }
    }
}

impl Default for Placement {
    fn default() -> Self {
        Self {
            strategy: Strategy::Spreading,
            cpu_overcommit: 32.0,
            memory_overcommit: 1.0,
            memory_reserve_mib: 512,
            host_cpus: 0,
            host_memory_mib: 0,
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self {
            mode: NetworkMode::Auto,
            default: "public".into(),
            dns_upstream: vec!["host".into()],
            host_tcp_ports: Vec::new(),
            forward_ports: [22000, 27999],
        }
    }
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            dir: String::new(),
            reserve_mib: 1024,
            quarantine_hours: 48,
            image_cache_gib: 0,
            largest_image_gib: 64,
            largest_volume_gib: 1024,
        }
    }
}

impl Default for Images {
    fn default() -> Self {
        Self {
            allow_sources: Vec::new(),
            imports: 4,
            imports_per_user: 2,
            least_kib_per_second: 16,
            longest_hours: 24,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_kib: 1024,
            request_seconds: 30,
            upload_stall_seconds: 60,
            connections: 4096,
            connections_per_address: 1024,
            drain_seconds: 10,
            requests: 2048,
            requests_per_user: 256,
            bodies_mib: 64,
            trusted_proxies: Vec::new(),
            volumes_per_user: 1000,
            images_per_user: 200,
            credentials_per_user: 100,
            templates_per_user: 100,
            metrics_open_to_loopback: false,
        }
    }
}

impl Default for Accounts {
    fn default() -> Self {
        Self {
            password_cost: 12,
            remembered_minutes: 15,
        }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            events: 5_000,
            jobs: 10_000,
            jobs_minutes: 60,
            records_days: 90,
            history_revisions: 50_000,
        }
    }
}

fn default_networks() -> BTreeMap<String, NetworkEntry> {
    let network = |class, tag: &str, subnet: &str, domain: &str, nat| NetworkEntry {
        class,
        tag: tag.into(),
        subnet: subnet.into(),
        domain: domain.into(),
        nat,
        gateway: None,
        first: None,
        last: None,
        name_servers: Vec::new(),
        mtu: None,
    };
    [
        (
            "public",
            network(
                NetworkClass::Public,
                "0",
                "10.77.0.0/16",
                "stratus.internal",
                true,
            ),
        ),
        (
            "local",
            network(
                NetworkClass::Local,
                "1",
                "10.78.0.0/16",
                "local.stratus.internal",
                false,
            ),
        ),
        (
            "private",
            network(
                NetworkClass::Private,
                "2",
                "10.79.0.0/16",
                "private.stratus.internal",
                false,
            ),
        ),
    ]
    .map(|(name, network)| (name.to_owned(), network))
    .into()
}

/// The types of StratusLab's last client.
fn default_machine_types() -> BTreeMap<String, MachineType> {
    [
        ("t1.micro", 1, 512),
        ("m1.small", 1, 1536),
        ("m1.medium", 1, 3072),
        ("m1.large", 2, 6144),
        ("m1.xlarge", 4, 8192),
        ("c1.medium", 2, 1536),
        ("c1.xlarge", 4, 6144),
    ]
    .map(|(name, cpus, memory_mib)| {
        (
            name.to_owned(),
            MachineType {
                cpus,
                memory_mib,
                swap_mib: memory_mib,
            },
        )
    })
    .into()
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
            Err(source) => {
                return Err(ConfigError::Unreadable {
                    path: at.to_owned(),
                    source,
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
        let syntax = |source| ConfigError::Syntax {
            path: path.to_owned(),
            source: Box::new(source),
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

    /// Whether machines are on bridges: as configured, else if we may make them.
    #[must_use]
    pub fn bridged(&self) -> bool {
        match self.network.mode {
            NetworkMode::Auto => is_root(),
            NetworkMode::Bridge => true,
            NetworkMode::User => false,
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
