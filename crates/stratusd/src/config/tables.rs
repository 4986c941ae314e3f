//! The tables of the configuration file, and the default of every key.

#![allow(
    missing_docs,
    reason = "packaging/stratusd.toml.ref explains each key, and a test keeps its keys and defaults those here"
)]

use std::{collections::BTreeMap, net::Ipv4Addr};

use serde::{Deserialize, Serialize};

/// `[log]`: what the daemon tells, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    pub level: String,
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".into(),
            format: LogFormat::Text,
        }
    }
}

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// `[store]`: where the documents of the cloud are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
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

/// What keeps the documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// A database in `state_dir`, of one daemon.
    #[default]
    Sqlite,
    /// A cluster of etcd v3.
    Etcd,
}

/// `[tls]`: the certificate of the API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    pub enabled: bool,
    pub names: Vec<String>,
    pub certificate: String,
    pub key: String,
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

/// `[machines]`: how machines are run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Machines {
    pub accelerator: String,
    pub cpu_model: String,
    pub qemu: String,
    pub uid_base: i64,
    pub cgroups: bool,
    pub translation_cache_mib: u32,
    pub spare_ports: u8,
    pub power_button_seconds: u64,
    pub fence_seconds: u64,
    pub console_kib: u64,
    pub default_type: String,
    pub most_per_user: usize,
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
            fence_seconds: 0,
            console_kib: 1024,
            default_type: "m1.small".into(),
            most_per_user: 1000,
        }
    }
}

/// Which host a machine goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// To the emptiest.
    #[default]
    Spreading,
    /// To the fullest that has room.
    Packing,
}

/// `[placement]`: how hosts are filled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Placement {
    pub strategy: Strategy,
    pub cpu_overcommit: f64,
    pub memory_overcommit: f64,
    pub memory_reserve_mib: u64,
    pub host_cpus: u32,
    pub host_memory_mib: u64,
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

/// How machines are connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// On bridges if we are root.
    #[default]
    Auto,
    /// With addresses of their own, on bridges.
    Bridge,
    /// Without privileges, by forwarded ports.
    User,
}

/// `[network]`: what holds for all networks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    pub mode: NetworkMode,
    pub default: String,
    pub dns_upstream: Vec<String>,
    pub tunnel_address: String,
    pub images_port: u16,
    pub host_tcp_ports: Vec<u16>,
    pub forward_ports: [u16; 2],
}

impl Default for Network {
    fn default() -> Self {
        Self {
            mode: NetworkMode::Auto,
            default: "public".into(),
            dns_upstream: vec!["host".into()],
            tunnel_address: String::new(),
            images_port: 8444,
            host_tcp_ports: Vec::new(),
            forward_ports: [22000, 27999],
        }
    }
}

/// How far machines on a network reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkClass {
    /// Out of the cloud.
    #[default]
    Public,
    /// To the machines of the cloud.
    Local,
    /// To machines on the same host.
    Private,
}

/// One of `[networks.NAME]`. Unlike other tables its keys have no defaults but for those marked: a network half
/// described would be a trap.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkEntry {
    pub class: NetworkClass,
    pub tag: String,
    pub subnet: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet6: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
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

/// `[storage]`: the space for images, disks and volumes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Storage {
    pub dir: String,
    pub address: String,
    pub share: String,
    pub iscsi_portal: String,
    pub reserve_mib: u64,
    pub quarantine_hours: u64,
    pub image_cache_gib: u64,
    pub largest_image_gib: u64,
    pub largest_volume_gib: u64,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            dir: String::new(),
            address: String::new(),
            share: "nbd".to_owned(),
            iscsi_portal: String::new(),
            reserve_mib: 1024,
            quarantine_hours: 48,
            image_cache_gib: 0,
            largest_image_gib: 64,
            largest_volume_gib: 1024,
        }
    }
}

/// `[images]`: where images may come from, and how patiently they are waited for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Images {
    pub allow_sources: Vec<String>,
    pub imports: usize,
    pub imports_per_user: usize,
    pub least_kib_per_second: u64,
    pub longest_hours: u64,
    pub unused_days: u64,
    pub own_marketplace: bool,
    pub public_data: bool,
    pub policy: String,
    pub authorities: String,
    pub accept_sha1: bool,
    pub accept_uncertified_addresses: bool,
}

impl Default for Images {
    fn default() -> Self {
        Self {
            allow_sources: Vec::new(),
            imports: 4,
            imports_per_user: 2,
            least_kib_per_second: 16,
            longest_hours: 24,
            unused_days: 30,
            own_marketplace: true,
            public_data: false,
            policy: String::new(),
            authorities: String::new(),
            accept_sha1: true,
            accept_uncertified_addresses: false,
        }
    }
}

/// `[limits]`: what callers may take of the cloud.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
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
    pub cpus_per_user: u64,
    pub memory_gib_per_user: u64,
    pub addresses_per_user: u64,
    pub volumes_per_user: usize,
    pub volume_gib_per_user: u64,
    pub images_per_user: usize,
    pub image_gib_per_user: u64,
    pub local_gib_per_user: u64,
    pub volume_image_gib_per_user: u64,
    pub credentials_per_user: usize,
    pub templates_per_user: usize,
    pub metrics_open_to_loopback: bool,
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
            cpus_per_user: 4_000,
            memory_gib_per_user: 16_000,
            addresses_per_user: 1000,
            volumes_per_user: 1000,
            volume_gib_per_user: 100_000,
            images_per_user: 200,
            image_gib_per_user: 10_000,
            local_gib_per_user: 100_000,
            volume_image_gib_per_user: 100_000,
            credentials_per_user: 100,
            templates_per_user: 100,
            metrics_open_to_loopback: false,
        }
    }
}

/// `[accounts]`: the checking of passwords.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Accounts {
    pub password_memory_kib: u32,
    pub password_passes: u32,
    pub remembered_minutes: u64,
    pub password_file: String,
    pub session_idle_minutes: u64,
    pub session_hours: u64,
    pub certificate_file: String,
}

impl Default for Accounts {
    fn default() -> Self {
        Self {
            password_memory_kib: 19_456,
            password_passes: 2,
            remembered_minutes: 15,
            password_file: String::new(),
            session_idle_minutes: 30,
            session_hours: 12,
            certificate_file: String::new(),
        }
    }
}

/// `[retention]`: how long the past is remembered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    pub events: usize,
    pub jobs: usize,
    pub jobs_minutes: u64,
    pub records_days: u64,
    pub usage_days: u64,
    pub history_revisions: u64,
    pub audit_days: u64,
    pub audit_mib: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            events: 5_000,
            jobs: 10_000,
            jobs_minutes: 60,
            records_days: 90,
            usage_days: 1830,
            history_revisions: 50_000,
            audit_days: 365,
            audit_mib: 4096,
        }
    }
}

/// One of `[machine_types.NAME]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineType {
    pub cpus: u32,
    pub memory_mib: u64,
    #[serde(default)]
    pub swap_mib: u64,
}

pub(super) fn default_networks() -> BTreeMap<String, NetworkEntry> {
    let network = |class, tag: &str, subnet: &str, domain: &str, nat| NetworkEntry {
        class,
        tag: tag.into(),
        subnet: subnet.into(),
        subnet6: None,
        bridge: None,
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
pub(super) fn default_machine_types() -> BTreeMap<String, MachineType> {
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
