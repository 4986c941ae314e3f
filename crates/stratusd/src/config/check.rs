//! Values that can't be. What the type of a key can't say is said here, with what to write instead.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use cimi::resources::Host;
use network::{Domain, InstanceTag, InterfaceName, Ipv4Network, Ipv6Prefix};

use super::{Config, ConfigError, NetworkClass, NetworkEntry, StoreKind};
use crate::joining::Entry;

/// What is older than the calendar can't be told from what is new.
const AUDIT_DAYS_AT_MOST: u64 = 36_500;

impl Config {
    pub(super) fn check(&self, path: &Path) -> Result<(), ConfigError> {
        self.problem().map_or(Ok(()), |(key, problem)| {
            Err(ConfigError::Value {
                path: path.to_owned(),
                key,
                problem,
            })
        })
    }

    fn problem(&self) -> Option<(String, String)> {
        let wrong = |key: &str, problem: String| Some((key.to_owned(), problem));
        if self.instance.len() > 3 || self.instance.parse::<InstanceTag>().is_err() {
            let text = format!("is `{}`; write one to three of a-z and 0-9", self.instance);
            return wrong("instance", text);
        }
        if self.listen.parse::<SocketAddr>().is_err() {
            let text = format!(
                "is `{}`; write an address and a port, such as 0.0.0.0:8443 or [::]:8443",
                self.listen
            );
            return wrong("listen", text);
        }
        for (key, dir) in [
            ("state_dir", &self.state_dir),
            ("storage.dir", &self.storage.dir),
            ("accounts.password_file", &self.accounts.password_file),
        ] {
            if !dir.is_empty() && !Path::new(dir).is_absolute() {
                return wrong(key, format!("is `{dir}`; write an absolute path"));
            }
        }
        let fence = self.machines.fence_seconds;
        if fence != 0 && !(30..=3600).contains(&fence) {
            let text = format!("is {fence}; write 30 to 3600, or 0 for never");
            return wrong("machines.fence_seconds", text);
        }
        let door = &self.storage.address;
        if !door.is_empty() && format!("https://{door}").parse::<Entry>().is_err() {
            let text = format!("is `{door}`; write HOST:PORT");
            return wrong("storage.address", text);
        }
        let (share, portal) = (&self.storage.share, &self.storage.iscsi_portal);
        if !["nbd", "iscsi"].contains(&&**share) {
            let text = format!("is `{share}`; write nbd or iscsi");
            return wrong("storage.share", text);
        }
        if share == "iscsi" && portal.is_empty() {
            let text = "is iscsi: set storage.iscsi_portal, too".to_owned();
            return wrong("storage.share", text);
        }
        // Hosts are told it as it is.
        let is_reachable =
            |address: SocketAddr| !address.ip().is_unspecified() && address.port() > 0;
        if !portal.is_empty() && !portal.parse().is_ok_and(is_reachable) {
            let text = format!(
                "is `{portal}`; write an address of this computer that hosts reach, and a port, such as 10.0.0.1:3260"
            );
            return wrong("storage.iscsi_portal", text);
        }
        if tracing_subscriber::EnvFilter::try_new(&self.log.level).is_err() {
            let text = format!(
                "is `{}`; write error, warn, info, debug or trace",
                self.log.level
            );
            return wrong("log.level", text);
        }
        let store = &self.store;
        if (store.kind == StoreKind::Etcd) == store.endpoints.is_empty() {
            let text = "and `store.kind` don't fit: kind \"etcd\" needs endpoints, such as [\"https://etcd1:2379\"], and the other has none";
            return wrong("store.endpoints", text.to_owned());
        }
        for (key, one, other) in [
            ("store.certificate", &store.certificate, &store.key),
            ("store.user", &store.user, &store.password_file),
        ] {
            if one.is_empty() != other.is_empty() {
                let text =
                    "needs its other half (`store.key`, `store.password_file`): write both or none";
                return wrong(key, text.to_owned());
            }
        }
        if self.tls.certificate.is_empty() != self.tls.key.is_empty() {
            return wrong(
                "tls.certificate",
                "and `tls.key` belong together: write both or none".to_owned(),
            );
        }
        if let Err(error) = self
            .machines
            .accelerator
            .parse::<vmhost::accel::AcceleratorPolicy>()
        {
            return wrong("machines.accelerator", format!("is wrong: {error}"));
        }
        if !(-1..=i64::from(u32::MAX - 100_000)).contains(&self.machines.uid_base) {
            let text = format!(
                "is {}; write -1, 0 or the first of 60000 unused user ids",
                self.machines.uid_base
            );
            return wrong("machines.uid_base", text);
        }
        if self.machines.spare_ports > 24 {
            return wrong(
                "machines.spare_ports",
                format!("is {}; at most 24 are possible", self.machines.spare_ports),
            );
        }
        for (key, ratio) in [
            ("placement.cpu_overcommit", self.placement.cpu_overcommit),
            (
                "placement.memory_overcommit",
                self.placement.memory_overcommit,
            ),
        ] {
            if !(0.01..=1000.0).contains(&ratio) {
                return wrong(key, format!("is {ratio}; write a number from 0.01 to 1000"));
            }
        }
        let cost = accounts::Cost {
            memory_kib: self.accounts.password_memory_kib,
            passes: self.accounts.password_passes,
        };
        if !cost.is_possible() {
            let text = format!(
                "is {} and `accounts.password_passes` {}; write 8 (tests only) to 65536 and 1 to 16, and together at most 262144",
                cost.memory_kib, cost.passes
            );
            return wrong("accounts.password_memory_kib", text);
        }
        for (key, value) in [
            ("limits.body_kib", self.limits.body_kib as u64),
            ("limits.request_seconds", self.limits.request_seconds),
            (
                "limits.upload_stall_seconds",
                self.limits.upload_stall_seconds,
            ),
            ("limits.connections", self.limits.connections as u64),
            (
                "limits.connections_per_address",
                self.limits.connections_per_address as u64,
            ),
            ("limits.requests", self.limits.requests as u64),
            (
                "limits.requests_per_user",
                self.limits.requests_per_user as u64,
            ),
            ("limits.bodies_mib", self.limits.bodies_mib as u64),
            ("images.imports", self.images.imports as u64),
            (
                "images.imports_per_user",
                self.images.imports_per_user as u64,
            ),
            ("images.longest_hours", self.images.longest_hours),
            ("machines.console_kib", self.machines.console_kib),
            ("retention.audit_mib", self.retention.audit_mib),
            ("retention.audit_days", self.retention.audit_days),
            (
                "retention.history_revisions",
                self.retention.history_revisions,
            ),
        ] {
            if value == 0 {
                return wrong(key, "is 0; write at least 1".to_owned());
            }
        }
        if self.retention.audit_days > AUDIT_DAYS_AT_MOST {
            let problem = format!(
                "is {}; write at most {AUDIT_DAYS_AT_MOST}, which are a hundred years",
                self.retention.audit_days
            );
            return wrong("retention.audit_days", problem);
        }
        for proxy in &self.limits.trusted_proxies {
            if let Err(error) = proxy.parse::<doors::TrustedProxy>() {
                return wrong("limits.trusted_proxies", format!("is wrong: {error}"));
            }
        }
        if let Some(text) = self
            .images
            .allow_sources
            .iter()
            .find(|text| text.parse::<ipnet::IpNet>().is_err())
        {
            let problem =
                format!("has `{text}`; write ADDRESS/BITS, such as 192.168.1.0/24 or fd00::/8");
            return wrong("images.allow_sources", problem);
        }
        let mail = self.mail.problem().or_else(|| self.saving.problem());
        let mail = mail.or_else(|| self.marketplace.problem());
        mail.map(|(key, problem)| (key.to_owned(), problem))
            .or_else(|| {
                let registration = self.registration.problem(self.mail.is_on());
                registration.map(|(key, problem)| (key.to_owned(), problem))
            })
            .or_else(|| {
                let certificates = self.certificates.problem();
                certificates.map(|(key, problem)| (key.to_owned(), problem))
            })
            .or_else(|| self.problem_of_machine_types())
            .or_else(|| self.problem_of_catalogues())
            .or_else(|| self.problem_of_networks())
    }

    fn problem_of_machine_types(&self) -> Option<(String, String)> {
        for (name, kind) in &self.machine_types {
            let key = format!("machine_types.\"{name}\"");
            if cimi::ids::MachineConfigurationId::from_local(name).is_err() {
                return Some((
                    key,
                    "is no possible name: letters, digits and -_. only".to_owned(),
                ));
            }
            if kind.cpus == 0 || kind.memory_mib < 16 {
                return Some((
                    key,
                    "needs at least 1 in `cpus` and 16 in `memory_mib`".to_owned(),
                ));
            }
        }
        if self.machine_types.contains_key(&self.machines.default_type) {
            return None;
        }
        let text = format!(
            "is `{}`, which is none of `machine_types`",
            self.machines.default_type
        );
        Some(("machines.default_type".to_owned(), text))
    }

    fn problem_of_networks(&self) -> Option<(String, String)> {
        let mut tags = HashMap::new();
        let mut subnets: Vec<(&str, Ipv4Network)> = Vec::new();
        let mut prefixes = HashMap::new();
        for (name, network) in &self.networks {
            let key = |part: &str| format!("networks.{name}{part}");
            if cimi::NetworkId::from_local(name).is_err() {
                return Some((
                    key(""),
                    "is no possible name: letters, digits and -_. only".to_owned(),
                ));
            }
            if network.tag.len() != 1 || network.tag.parse::<InstanceTag>().is_err() {
                return Some((
                    key(".tag"),
                    format!("is `{}`; write one of a-z and 0-9", network.tag),
                ));
            }
            if let Some(other) = tags.insert(network.tag.as_str(), name) {
                return Some((
                    key(".tag"),
                    format!(
                        "is `{}`, as that of `networks.{other}`; write another",
                        network.tag
                    ),
                ));
            }
            if network.domain.parse::<Domain>().is_err() {
                return Some((
                    key(".domain"),
                    format!(
                        "is `{}`; write a DNS domain such as stratus.internal",
                        network.domain
                    ),
                ));
            }
            if let Some((part, problem)) = network.problem_of_bridge() {
                return Some((key(part), problem));
            }
            let range = match network.range() {
                Ok(range) => range,
                Err((part, problem)) => return Some((key(part), problem)),
            };
            let overlaps = |other: Ipv4Network| {
                range.subnet.address() <= other.broadcast()
                    && other.address() <= range.subnet.broadcast()
            };
            if let Some((other, _)) = subnets.iter().find(|(_, other)| overlaps(*other)) {
                return Some((
                    key(".subnet"),
                    format!(
                        "is {}, which overlaps that of `networks.{other}`",
                        network.subnet
                    ),
                ));
            }
            subnets.push((name, range.subnet));
            if let Some(prefix) = range.subnet6
                && let Some(other) = prefixes.insert(prefix, name)
            {
                let problem = format!("is {prefix}, as that of `networks.{other}`; write another");
                return Some((key(".subnet6"), problem));
            }
        }
        if !self.networks.contains_key(&self.network.default) {
            let text = format!("is `{}`, which is none of `networks`", self.network.default);
            return Some(("network.default".to_owned(), text));
        }
        let [first, last] = self.network.forward_ports;
        if first == 0 || first > last {
            return Some((
                "network.forward_ports".to_owned(),
                format!("is [{first}, {last}]; write the lowest and the highest port"),
            ));
        }
        let tunnel = &self.network.tunnel_address;
        if !tunnel.is_empty() && !tunnel.parse().is_ok_and(Host::is_reached_by) {
            let problem = format!("is `{tunnel}`; write an IPv4 address of this host, or nothing");
            return Some(("network.tunnel_address".to_owned(), problem));
        }
        let servers = &self.network.dns_upstream;
        let host = |text: &String| text == "host";
        if let Some(text) = servers
            .iter()
            .find(|text| !host(text) && text.parse::<IpAddr>().is_err())
        {
            let problem =
                format!("has `{text}`; write [\"host\"], or addresses of name servers, or []");
            return Some(("network.dns_upstream".to_owned(), problem));
        }
        if servers.iter().any(host) && servers.len() > 1 {
            let problem = "has \"host\" beside addresses; write one or the other".to_owned();
            return Some(("network.dns_upstream".to_owned(), problem));
        }
        None
    }
}

/// The addresses of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// All of them.
    pub subnet: Ipv4Network,
    /// The prefix of the IPv6 addresses, if there are any.
    pub subnet6: Option<Ipv6Prefix>,
    /// The host's own.
    pub gateway: Ipv4Addr,
    /// The first that may be leased.
    pub first: Ipv4Addr,
    /// The last that may be leased.
    pub last: Ipv4Addr,
}

impl NetworkEntry {
    /// What keeps it from being on the site's Ethernet, if it is to be.
    fn problem_of_bridge(&self) -> Option<(&'static str, String)> {
        let bridge = self.bridge.as_ref()?;
        if let Err(error) = bridge.parse::<InterfaceName>() {
            return Some((".bridge", format!("is `{bridge}`: {error}")));
        }
        let all = [
            (
                self.class == NetworkClass::Private,
                ".class",
                "is private; on a bridge of the site's write public or local",
            ),
            (
                self.nat,
                ".nat",
                "is true; on a bridge of the site's machines have addresses of the site: write false",
            ),
            (
                self.subnet6.is_some(),
                ".subnet6",
                "is set; on a bridge of the site's machines have no IPv6 yet: leave it out",
            ),
            (
                self.gateway.is_none(),
                ".gateway",
                "is missing; with `bridge` write the address of the site's router",
            ),
            (
                self.first.is_none(),
                ".first",
                "is missing; with `bridge` write the first of the addresses that the site leaves to the cloud",
            ),
            (
                self.last.is_none(),
                ".last",
                "is missing; with `bridge` write the last of the addresses that the site leaves to the cloud",
            ),
            (
                self.name_servers.is_empty(),
                ".name_servers",
                "is missing; with `bridge` write the name servers of the site",
            ),
        ];
        let wrong = all.into_iter().find(|(is_wrong, ..)| *is_wrong);
        wrong.map(|(_, key, text)| (key, text.to_owned()))
    }

    /// The addresses as configured, and by rule where they are not: the gateway is the first, all others can be leased.
    ///
    /// # Errors
    /// Which key is wrong, and why.
    pub fn range(&self) -> Result<Range, (&'static str, String)> {
        let subnet: Ipv4Network = self
            .subnet
            .parse()
            .map_err(|error| (".subnet", format!("is `{}`: {error}", self.subnet)))?;
        let small = || {
            (
                ".subnet",
                format!(
                    "is {}, too small; write a prefix of at most 29 bits",
                    self.subnet
                ),
            )
        };
        if subnet.prefix_len() > 29 {
            return Err(small());
        }
        let subnet6 = self.subnet6.as_deref().map(|text| {
            text.parse::<Ipv6Prefix>()
                .map_err(|error| (".subnet6", format!("is `{text}`: {error}")))
        });
        let subnet6 = subnet6.transpose()?;
        if let Some(mtu) = self.mtu.filter(|mtu| subnet6.is_some() && *mtu < 1280) {
            let text = format!("is {mtu}; with `subnet6` write at least 1280, as IPv6 needs");
            return Err((".mtu", text));
        }
        let gateway = self.gateway.or_else(|| subnet.nth(1)).ok_or_else(small)?;
        let first = self.first.or_else(|| subnet.nth(2)).ok_or_else(small)?;
        let before_broadcast = Ipv4Addr::from_bits(subnet.broadcast().to_bits().saturating_sub(1));
        let last = self.last.unwrap_or(before_broadcast);
        for (key, address) in [(".gateway", gateway), (".first", first), (".last", last)] {
            if !subnet.has_host(address) {
                return Err((
                    key,
                    format!("is {address}, which no host in {} can have", self.subnet),
                ));
            }
        }
        if first > last {
            return Err((
                ".first",
                format!("is {first}, which is after `last`, {last}"),
            ));
        }
        Ok(Range {
            subnet,
            subnet6,
            gateway,
            first,
            last,
        })
    }
}
