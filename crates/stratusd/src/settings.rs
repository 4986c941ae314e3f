//! From the configuration to the settings of each part.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use accounts::{Cost, Hashing};
use anyhow::{Context as _, ensure};
use placement::{Policy, Strategy};
use tokio::{process::Command, time::timeout};
use vmhost::{
    accel::{self, AcceleratorKind, AcceleratorPolicy, ProbeCommand},
    launch_spec::{self, CgroupSpec, Credentials},
    qemu::QemuHypervisor,
};

use crate::{
    config::{self, Config},
    descriptors, networks,
};

/// What is reached as all that isn't near: an address that nobody has (RFC 5737).
const ELSEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);
const MIB: u64 = cimi::size::MEBIBYTE;
/// User ids that no distribution and no container manager gives to anybody.
const UNUSED_UIDS: u32 = 1_900_000_000;
/// How many user ids machines share.
const UIDS: u32 = 60_000;

/// How etcd is reached, if it is the store.
///
/// # Errors
/// A file of the configuration that can't be read.
pub fn etcd(config: &Config) -> anyhow::Result<store::EtcdOptions> {
    let given = &config.store;
    let read = |path: &String| std::fs::read(path).with_context(|| path.clone());
    let mut options = store::EtcdOptions::new(given.endpoints.clone());
    options.prefix.clone_from(&given.prefix);
    options.history_revisions = Some(config.retention.history_revisions);
    if !given.ca.is_empty() {
        options.tls.authority = Some(read(&given.ca)?);
    }
    if !given.certificate.is_empty() {
        options.tls.identity = Some((read(&given.certificate)?, read(&given.key)?));
    }
    if !given.user.is_empty() {
        let path = &given.password_file;
        let password = std::fs::read_to_string(path).with_context(|| path.clone())?;
        options.login = Some(store::EtcdLogin {
            user: given.user.clone(),
            password: password.trim_end_matches(['\r', '\n']).to_owned(),
        });
    }
    Ok(options)
}

/// A name that no other daemon has, and that this one has after a restart, too: of the host and of its state directory.
pub fn own_name(state: &std::path::Path) -> String {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let mut hasher = DefaultHasher::new();
    read("/etc/machine-id").hash(&mut hasher);
    read("/proc/sys/kernel/hostname").hash(&mut hasher);
    state.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Which server takes letters; none: they can't be sent.
///
/// # Errors
/// A file of the configuration that can't be read.
pub fn mail(config: &Config) -> anyhow::Result<Option<mail::SmtpSettings>> {
    let given = &config.mail;
    if !given.is_on() {
        return Ok(None);
    }
    let mut authorities = Vec::new();
    if !given.ca.is_empty() {
        authorities.push(std::fs::read(&given.ca).with_context(|| given.ca.clone())?);
    }
    let login = if given.user.is_empty() {
        None
    } else {
        let path = &given.password_file;
        let password = std::fs::read_to_string(path).with_context(|| path.clone())?;
        Some(mail::Login {
            user: given.user.clone(),
            password: password.trim_end_matches(['\r', '\n']).to_owned(),
        })
    };
    Ok(Some(mail::SmtpSettings {
        host: given.server.clone(),
        port: given.port(),
        security: match given.security {
            config::MailSecurity::StartTls => mail::Security::StartTls,
            config::MailSecurity::Tls => mail::Security::Tls,
            config::MailSecurity::None => mail::Security::None,
        },
        authorities,
        login,
        from: given.from.clone(),
    }))
}

/// For the rules.
///
/// # Errors
/// None after the configuration was checked.
pub fn rules(
    config: &Config,
    passwords: Hashing,
    registers: bool,
) -> anyhow::Result<cloud::Settings> {
    let machine_types = config
        .machine_types
        .iter()
        .map(|(name, kind)| cloud::MachineType {
            name: name.clone(),
            cpus: kind.cpus,
            memory_mib: kind.memory_mib,
            swap_mib: kind.swap_mib,
        });
    Ok(cloud::Settings {
        machine_types: machine_types.collect(),
        default_machine_type: config.machines.default_type.clone(),
        default_network: config.network.default.clone(),
        networks: networks::for_rules(config)?,
        per_user: per_user(config),
        spare_ports: config.machines.spare_ports.into(),
        placement: placement(config),
        largest_volume_gib: config.storage.largest_volume_gib,
        passwords,
        people: people(config, registers)?,
    })
}

/// How much one user may have.
#[must_use]
pub fn per_user(config: &Config) -> cloud::PerUser {
    cloud::PerUser {
        machines: config.machines.most_per_user,
        cpus: config.limits.cpus_per_user,
        memory_gib: config.limits.memory_gib_per_user,
        volume_gib: config.limits.volume_gib_per_user,
        image_gib: config.limits.image_gib_per_user,
        local_gib: config.limits.local_gib_per_user,
        volume_image_gib: config.limits.volume_image_gib_per_user,
        addresses: config.limits.addresses_per_user,
        volumes: config.limits.volumes_per_user,
        images: config.limits.images_per_user,
        credentials: config.limits.credentials_per_user,
        templates: config.limits.templates_per_user,
    }
}

/// For sessions and, if this daemon has the role, registration.
fn people(config: &Config, registers: bool) -> anyhow::Result<cloud::people::PeopleSettings> {
    let given = &config.registration;
    let registration = if registers && given.is_on() {
        let url = if given.url.is_empty() {
            config.origin()
        } else {
            given.url.clone()
        };
        Some(cloud::people::RegistrationSettings {
            directory: directory(config)?,
            role: given.role.clone(),
            confirm_within: Duration::from_secs(given.confirm_hours.saturating_mul(3600)),
            reset_within: Duration::from_secs(given.reset_minutes.saturating_mul(60)),
            rejected_kept: Duration::from_secs(given.rejected_days.saturating_mul(86_400)),
            ..cloud::people::RegistrationSettings::new(&given.administrator, &url)
        })
    } else {
        None
    };
    Ok(cloud::people::PeopleSettings {
        sessions: sessions(config),
        registration,
    })
}

/// Where accounts are written to, if not to the cloud's own database.
fn directory(config: &Config) -> anyhow::Result<Option<Arc<dyn cloud::people::Directory>>> {
    let given = &config.registration.ldap;
    if given.url.is_empty() {
        return Ok(None);
    }
    let password = std::fs::read_to_string(&given.manager_password_file)
        .with_context(|| given.manager_password_file.clone())?;
    let authorities = if given.ca.is_empty() {
        None
    } else {
        Some(std::fs::read_to_string(&given.ca).with_context(|| given.ca.clone())?)
    };
    let entries = enrolment::LdapEntries::new(enrolment::Server {
        url: given.url.clone(),
        start_tls: given.start_tls,
        authorities,
        manager_dn: given.manager_dn.clone(),
        manager_password: password.trim_end_matches(['\r', '\n']).to_owned(),
        users: given.users.clone(),
        groups: given.groups.clone(),
    });
    Ok(Some(Arc::new(entries.context("`[registration.ldap]`")?)))
}

/// How long browsers stay logged in.
fn sessions(config: &Config) -> accounts::session::Lasting {
    accounts::session::Lasting {
        idle: Duration::from_secs(config.accounts.session_idle_minutes.saturating_mul(60)),
        most: Duration::from_secs(config.accounts.session_hours.saturating_mul(3600)),
    }
}

/// For the cloud's own work.
#[must_use]
pub fn retention(config: &Config) -> cloud::Retention {
    cloud::Retention {
        events: config.retention.events,
        jobs_at_most: config.retention.jobs,
        jobs: Duration::from_secs(config.retention.jobs_minutes.saturating_mul(60)),
        records: Duration::from_secs(config.retention.records_days.saturating_mul(86_400)),
        usage: (config.retention.usage_days > 0)
            .then(|| Duration::from_secs(config.retention.usage_days.saturating_mul(86_400))),
        images: cloud::Eviction {
            unused: (config.images.unused_days > 0)
                .then(|| Duration::from_secs(config.images.unused_days.saturating_mul(86_400))),
            most_bytes: (config.storage.image_cache_gib > 0).then(|| {
                config
                    .storage
                    .image_cache_gib
                    .saturating_mul(cimi::size::GIBIBYTE)
            }),
            ..cloud::Eviction::default()
        },
    }
}

/// For the scheduler.
#[must_use]
pub const fn placement(config: &Config) -> Policy {
    Policy {
        cpu_overcommit: config.placement.cpu_overcommit,
        memory_overcommit: config.placement.memory_overcommit,
        memory_reserve_kib: config.placement.memory_reserve_mib.saturating_mul(1024),
        strategy: match config.placement.strategy {
            config::Strategy::Spreading => Strategy::Spreading,
            config::Strategy::Packing => Strategy::Packing,
        },
    }
}

/// For the VM host controller.
///
/// # Errors
/// If QEMU can't be run.
pub async fn vm_host(config: &Config) -> anyhow::Result<vmhost::controller::Settings> {
    let (uid_base, kvm_group) = (uid_base(config), accel::kvm_group());
    let policy: AcceleratorPolicy = config.machines.accelerator.parse()?;
    let as_machine = uid_base.map(|uid| Credentials {
        uid,
        gid: uid,
        supplementary_group: kvm_group,
    });
    let accelerator = accelerator(policy, as_machine).await?;
    let storage = config.storage_dir();
    let or_all = |number: u64| (number > 0).then_some(number);
    Ok(vmhost::controller::Settings {
        host_name: config.host_name(),
        joined: None,
        tunnel: config.tunnel_address(ELSEWHERE),
        fence: None,
        images_port: None,
        opens_iscsi: false,
        machines_dir: storage.join("machines"),
        quarantine_dir: storage.join("quarantine"),
        quarantine_period: Duration::from_secs(
            config.storage.quarantine_hours.saturating_mul(3600),
        ),
        accelerator,
        falls_back_to_tcg: policy == AcceleratorPolicy::Auto,
        kvm_group,
        translation_cache_mib: config.machines.translation_cache_mib,
        cpu_model: Some(config.machines.cpu_model.clone()).filter(|model| !model.is_empty()),
        spare_ports: config.machines.spare_ports,
        power_button_limit: Duration::from_secs(config.machines.power_button_seconds),
        uid_base,
        cgroup: (config.machines.cgroups && config::is_root()).then(|| cgroup(config)),
        reserve_bytes: config.storage.reserve_mib.saturating_mul(MIB),
        console_bytes: config.machines.console_kib.saturating_mul(1024),
        cpus: (config.placement.host_cpus > 0).then_some(config.placement.host_cpus),
        memory_mib: or_all(config.placement.host_memory_mib),
        storage_daemon: storage_daemon(
            &config.state_dir(),
            "machines come to this host at rest only",
        ),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        qemu_version: qemu_version(config).await?,
    })
}

/// The control group that holds this cloud's machines.
#[must_use]
pub fn cgroup(config: &Config) -> CgroupSpec {
    CgroupSpec {
        parent: format!("stratus-{}", config.instance),
        ..CgroupSpec::default()
    }
}

/// QEMU, found where the shell would find it.
///
/// # Errors
/// If it isn't there.
pub fn qemu(config: &Config) -> anyhow::Result<PathBuf> {
    let name = PathBuf::from(&config.machines.qemu);
    if name.components().count() > 1 {
        return Ok(name);
    }
    in_path(&name).with_context(|| {
        let name = name.display();
        format!("`{name}` is not in PATH: install QEMU (Debian: qemu-system-x86), or set `machines.qemu`")
    })
}

/// What runs guests as a host is set up. Says so.
///
/// # Errors
/// If QEMU isn't there.
pub fn hypervisor(
    config: &Config,
    settings: &vmhost::controller::Settings,
) -> anyhow::Result<QemuHypervisor> {
    let accelerator = &settings.accelerator;
    tracing::info!(accelerator = %accelerator.kind, reason = accelerator.reason, qemu = settings.qemu_version, "this host runs machines");
    let expected = match accelerator.kind {
        AcceleratorKind::Kvm => launch_spec::Accelerator::Kvm,
        AcceleratorKind::Tcg => launch_spec::Accelerator::Tcg {
            translation_cache_mib: settings.translation_cache_mib,
        },
    };
    Ok(QemuHypervisor::new(qemu(config)?, expected))
}

/// For the storage controller; `marketplace` is this daemon's own, if it has one.
///
/// # Errors
/// If nothing that fetches images can be made.
pub fn storage(
    config: &Config,
    registries: storage::registry::Registries,
) -> anyhow::Result<storage::controller::Settings> {
    let fetcher = storage::import::Fetcher::new(fetching(), reach(config)?)
        .context("preparing to fetch images")?;
    let dir = config.storage_dir();
    let mut settings = storage::controller::Settings::new(dir.clone(), fetcher);
    settings.reserve_bytes = config.storage.reserve_mib.saturating_mul(MIB);
    let gib = |gib: u64| gib.saturating_mul(cimi::size::GIBIBYTE);
    settings.cache_bytes =
        (config.storage.image_cache_gib > 0).then(|| gib(config.storage.image_cache_gib));
    let largest = gib(config.storage.largest_image_gib);
    settings.limits.max_source_bytes = largest;
    settings.limits.max_image_bytes = largest;
    settings.limits.size.max_virtual_bytes = largest;
    let images = &config.images;
    settings.limits.least_bytes_per_second = images.least_kib_per_second.saturating_mul(1024);
    settings.limits.longest = Duration::from_secs(images.longest_hours.saturating_mul(3600));
    settings.imports = images.imports;
    settings.imports_per_owner = images.imports_per_user;
    settings.machines_dir = Some(dir.join("machines"));
    settings.overlay_dirs = vec![dir.join("machines"), dir.join("quarantine")];
    settings.qemu_img = qemu_img();
    settings.registries = registries;
    settings.debugfs = debugfs();
    Ok(settings)
}

/// What follows short URLs that lead to entries of Marketplaces.
///
/// # Errors
/// If it can't be made.
pub fn redirects(config: &Config) -> anyhow::Result<storage::import::Redirects> {
    storage::import::Redirects::new(fetching(), reach(config)?)
        .context("preparing to follow short URLs (Debian: the package ca-certificates has the authorities of TLS)")
}

fn fetching() -> reqwest::ClientBuilder {
    reqwest::Client::builder().user_agent(concat!("stratusd/", env!("CARGO_PKG_VERSION")))
}

/// Where images may come from.
fn reach(config: &Config) -> anyhow::Result<storage::import::Reach> {
    let block = |text: &String| text.parse().with_context(|| format!("`{text}`"));
    let allowed: Result<_, _> = config.images.allow_sources.iter().map(block).collect();
    let networks = config.networks.values();
    let own = networks.flat_map(|network| [Some(&network.subnet), network.subnet6.as_ref()]);
    let own: Result<_, _> = own.flatten().map(block).collect();
    Ok(storage::import::Reach {
        allowed: allowed.context("images.allow_sources")?,
        own: own.context("networks")?,
    })
}

/// What examines images a second time, if it is there.
fn qemu_img() -> Option<storage::confine::QemuImg> {
    let found = in_path("qemu-img".as_ref()).map(|program| storage::confine::QemuImg::at(&program));
    if let Some(Ok(program)) = found {
        return Some(program);
    }
    tracing::warn!(
        "`qemu-img` is not in PATH: qcow2 images are examined by our own rules only (Debian: qemu-utils)"
    );
    None
}

/// By what volumes are shown to them by iSCSI, if that is asked for.
///
/// # Errors
/// If it can't be done.
pub(crate) async fn targets(
    config: &Config,
    state: &Path,
) -> anyhow::Result<Option<storage::exports::Targets>> {
    const PORTAL: &str = "storage.iscsi_portal";
    let Config { storage, .. } = config;
    if storage.iscsi_portal.is_empty() {
        return Ok(None);
    }
    ensure!(
        config::is_root(),
        "`{PORTAL}` is set: what shows volumes by iSCSI can be confined by root only, and this daemon isn't; leave it out"
    );
    // Before it is known who they are, it hears all who are in that network.
    ensure!(
        uid_base(config).is_some(),
        "`{PORTAL}` is set: what shows volumes by iSCSI is never run as root; set `machines.uid_base` to user ids that exist here ({UIDS} from it on), or leave the portal out"
    );
    let usual = PathBuf::from("/usr/sbin/tgtd");
    let program = in_path("tgtd".as_ref()).or_else(|| usual.is_file().then_some(usual));
    let program = program.with_context(|| {
        format!("`{PORTAL}` is set, and `tgtd` is not in PATH: install it (Debian: tgt), or leave it out")
    })?;
    let daemon = storage::exports::TargetDaemon::at(&program, state.join("targets"))?;
    let address = storage.iscsi_portal.parse().context(PORTAL)?;
    let portal = storage::exports::Portal::listen(address).await;
    let portal = portal.with_context(|| {
        format!(
            "listening at `{PORTAL}` {address} (Debian's package tgt starts a `tgtd` of its own at port 3260: systemctl disable --now tgt)"
        )
    })?;
    let is_usual = storage.share == "iscsi";
    let targets = storage::exports::Targets::open(daemon, portal, &config.storage_dir(), is_usual)?;
    tracing::info!(portal = %address, is_usual, "volumes are shown to hosts by iSCSI, which is not encrypted");
    Ok(Some(targets))
}

/// What shows volumes to hosts that have joined, if it is there; else `lacking` is said.
pub(crate) fn storage_daemon(
    state: &Path,
    lacking: &str,
) -> Option<storage::exports::StorageDaemon> {
    let found = in_path("qemu-storage-daemon".as_ref());
    match found.map(|program| storage::exports::StorageDaemon::at(&program, state.join("exports")))
    {
        Some(Ok(daemon)) => Some(daemon),
        Some(Err(error)) => {
            tracing::error!(%error, "{lacking}");
            None
        }
        None => {
            tracing::warn!(
                "`qemu-storage-daemon` is not in PATH: {lacking} (Debian: qemu-system-common)"
            );
            None
        }
    }
}

/// What removes traces from saved machines, if it is there. Folders of administrators' programs are looked into, too.
fn debugfs() -> Option<storage::confine::Debugfs> {
    let usual = || {
        ["/usr/sbin/debugfs", "/sbin/debugfs"]
            .map(PathBuf::from)
            .into_iter()
            .find(|file| file.is_file())
    };
    let found = in_path("debugfs".as_ref()).or_else(usual);
    if let Some(Ok(program)) = found.map(|program| storage::confine::Debugfs::at(&program)) {
        return Some(program);
    }
    tracing::warn!(
        "`debugfs` is not there: keys and histories stay in images that are saved from machines (Debian: e2fsprogs)"
    );
    None
}

pub(crate) fn in_path(name: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_absolute() && file.is_file())
}

/// By trying it out with the very rights that machines have.
async fn accelerator(
    policy: AcceleratorPolicy,
    as_machine: Option<Credentials>,
) -> anyhow::Result<accel::Accelerator> {
    let program = std::env::current_exe().context("this program's own path")?;
    let mut probe = ProbeCommand::new(program, "probe-kvm");
    if let Some(credentials) = as_machine {
        probe = probe.with_rights_of(credentials);
    }
    Ok(accel::decide(policy, &probe).await)
}

/// Who computes hashes, for logins and new passwords.
#[must_use]
pub fn passwords(config: &Config) -> Hashing {
    Hashing::with_cost(Cost {
        memory_kib: config.accounts.password_memory_kib,
        passes: config.accounts.password_passes,
    })
}

/// For the account service.
#[must_use]
pub fn accounts(config: &Config) -> accounts::Settings {
    accounts::Settings {
        remembered_for: Duration::from_secs(config.accounts.remembered_minutes.saturating_mul(60)),
        sessions: sessions(config),
        ..accounts::Settings::default()
    }
}

/// For the doors.
#[must_use]
pub fn doors(config: &Config) -> doors::Settings {
    doors::Settings {
        body_at_most: config.limits.body_kib.saturating_mul(1024),
        request_timeout: Duration::from_secs(config.limits.request_seconds),
        upload_patience: Duration::from_secs(config.limits.upload_stall_seconds),
        requests: config.limits.requests,
        requests_per_caller: config.limits.requests_per_user,
        body_bytes: config.limits.bodies_mib.saturating_mul(1 << 20),
        // In user mode guests reach the host's loopback, too, and look like it.
        metrics_open_to_loopback: config.limits.metrics_open_to_loopback && config.bridged(),
        certificate_header: config.certificates.proxy_header.parse().ok(),
        public_data: config.images.public_data,
        ..doors::Settings::default()
    }
}

/// For the server, where there may be so many open files.
#[must_use]
pub fn server(config: &Config, open_files: u64) -> doors::Limits {
    let connections = descriptors::connections(config.limits.connections, open_files);
    doors::Limits {
        connections,
        connections_per_address: config.limits.connections_per_address.min(connections),
        // What is none was refused when the configuration was read.
        trusted_proxies: config
            .limits
            .trusted_proxies
            .iter()
            .filter_map(|proxy| proxy.parse().ok())
            .collect(),
        drain: Duration::from_secs(config.limits.drain_seconds),
        ..doors::Limits::default()
    }
}

/// The first user id of machines: as configured, else chosen if this process may take on others and they exist here (in
/// a container there may be fewer).
pub(crate) fn uid_base(config: &Config) -> Option<u32> {
    match config.machines.uid_base {
        0 => None,
        -1 if !config::is_root() => None,
        -1 => {
            let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
            let usable = maps(&map, UNUSED_UIDS, UIDS);
            if !usable {
                tracing::warn!(
                    "user ids from {UNUSED_UIDS} on don't exist in this container: machines run as the daemon's user; set `machines.uid_base`"
                );
            }
            usable.then_some(UNUSED_UIDS)
        }
        base => u32::try_from(base).ok(),
    }
}

/// Whether a user namespace has `count` ids from `first` on, by the text of its `uid_map`.
fn maps(map: &str, first: u32, count: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line
            .split_ascii_whitespace()
            .map_while(|number| number.parse::<u64>().ok());
        let (Some(inside), Some(_outside), Some(length)) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return false;
        };
        inside <= u64::from(first) && u64::from(first) + u64::from(count) <= inside + length
    })
}

/// How long QEMU may take to say its version.
const VERSION_LIMIT: Duration = Duration::from_secs(20);

/// QEMU's version, by asking it.
async fn qemu_version(config: &Config) -> anyhow::Result<String> {
    let qemu = qemu(config)?;
    let asking = Command::new(qemu)
        .arg("--version")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let asked = timeout(VERSION_LIMIT, asking).await.with_context(|| {
        let (qemu, seconds) = (&config.machines.qemu, VERSION_LIMIT.as_secs());
        format!("`{qemu} --version` gave no answer within {seconds} s; is it on a file system that hangs?")
    })?;
    let output = asked.with_context(|| format!("running `{} --version`", config.machines.qemu))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text
        .lines()
        .next()
        .and_then(|line| line.split("version ").nth(1))
        .unwrap_or("unknown");
    Ok(version.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_strangers_speak_to_is_never_run_as_root() {
        if !config::is_root() {
            return;
        }
        let mut config = Config::default();
        config.storage.iscsi_portal = "127.0.0.1:0".to_owned();
        config.machines.uid_base = 0;
        let folder = tempfile::tempdir().expect("a folder");
        let refused = targets(&config, folder.path()).await.map(drop);
        let said = refused.expect_err("it can't be").to_string();
        assert!(said.contains("machines.uid_base"), "{said}");
    }

    #[test]
    fn user_ids_are_used_only_where_they_exist() {
        assert!(maps(
            "         0          0 4294967295\n",
            UNUSED_UIDS,
            UIDS
        ));
        assert!(!maps(
            "         0     100000      65536\n",
            UNUSED_UIDS,
            UIDS
        ));
        assert!(!maps("", UNUSED_UIDS, UIDS));
    }
}
