//! dnsmasq's command line and files, as pure functions. It reads nothing but these (`--conf-file=/dev/null`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::address::{Ipv4Network, MacAddr};
use crate::ipv6::{Ipv6Prefix, PREFIX_LENGTH};
use crate::name::{Domain, Hostname, InterfaceName};

/// Where names outside of our domain are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Upstream {
    /// Nowhere: guests resolve names of the cloud only.
    #[default]
    None,
    /// The resolvers of the host's `/etc/resolv.conf`, followed when it changes.
    Host,
    /// These.
    Servers(Vec<IpAddr>),
}

/// What DHCP knows of a NIC. Its name follows from its address ([`Hostname`]).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Lease {
    /// Its address.
    pub ip: Ipv4Addr,
    /// The only MAC that gets it.
    pub mac: MacAddr,
}

/// Leases by address: an address is one machine's.
pub type Leases = BTreeMap<Ipv4Addr, Lease>;

/// Where guests' packets and questions go that are on somebody else's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    /// The router.
    pub router: Ipv4Addr,
    /// The resolvers; none are told if there are none.
    pub name_servers: Vec<Ipv4Addr>,
}

/// Everything the command line depends on.
#[derive(Debug, Clone)]
pub struct DnsmasqConfig {
    /// The program.
    pub program: PathBuf,
    /// Folder of its files; made if missing.
    pub directory: PathBuf,
    /// The only interface it serves.
    pub bridge: InterfaceName,
    /// The guests' network.
    pub network: Ipv4Network,
    /// The host's address on the bridge.
    pub gateway: Ipv4Addr,
    /// The guests' router and resolvers, where they are not this host.
    pub elsewhere: Option<Elsewhere>,
    /// The guests' IPv6 prefix, if they have one.
    pub network6: Option<Ipv6Prefix>,
    /// Domain of the guests' names.
    pub domain: Domain,
    /// Largest packet, told to guests when it is not 1500 (DHCP option 26).
    pub mtu: u16,
    /// How long a lease is valid without renewal.
    pub lease_time: Duration,
    /// Resolvers for other names.
    pub upstream: Upstream,
    /// User it runs as after start.
    pub user: String,
}

impl DnsmasqConfig {
    /// `MAC,IP,NAME` lines, read again at SIGHUP.
    #[must_use]
    pub fn dhcp_hosts(&self) -> PathBuf {
        self.directory.join("dhcp-hosts")
    }

    /// The marker, in the form of `hosts(5)`, read again at SIGHUP.
    #[must_use]
    pub fn dns_hosts(&self) -> PathBuf {
        self.directory.join("dns-hosts")
    }

    /// Leases in use, written by dnsmasq.
    #[must_use]
    pub fn lease_file(&self) -> PathBuf {
        self.directory.join("leases")
    }

    /// Written by dnsmasq.
    #[must_use]
    pub fn pid_file(&self) -> PathBuf {
        self.directory.join("dnsmasq.pid")
    }

    /// Its log, errors only.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.directory.join("dnsmasq.log")
    }

    /// The arguments. A running dnsmasq with other ones is of an older configuration.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let file = |option: &str, path: &Path| format!("--{option}={}", path.display());
        let (network, domain) = (self.network, &self.domain);
        let hosts = u32::from(network.broadcast()) - u32::from(network.address());
        let mut arguments = vec![
            "--conf-file=/dev/null".into(),
            format!("--interface={}", self.bridge),
            "--except-interface=lo".into(),
            "--bind-interfaces".into(),
            "--no-hosts".into(),
            file("addn-hosts", &self.dns_hosts()),
            file("dhcp-hostsfile", &self.dhcp_hosts()),
            file("dhcp-leasefile", &self.lease_file()),
            file("pid-file", &self.pid_file()),
            file("log-facility", &self.log_file()),
            "--quiet-dhcp".into(),
            format!("--user={}", self.user),
            format!("--domain={domain}"),
            format!("--local=/{domain}/"),
            format!(
                "--dhcp-range={},static,{},{}",
                network.address(),
                network.netmask(),
                self.lease_time.as_secs().max(120)
            ),
            // Its default is 1000, whatever the size of the network.
            format!("--dhcp-lease-max={hosts}"),
            // What a guest calls itself must not become a name in DNS.
            "--dhcp-ignore-names".into(),
            "--dhcp-authoritative".into(),
            "--no-ping".into(),
            "--bogus-priv".into(),
            "--domain-needed".into(),
        ];
        arguments.extend(self.ways_out());
        arguments.extend(
            network
                .reverse_zones()
                .into_iter()
                .map(|zone| format!("--local=/{zone}/")),
        );
        let machines = Hostname::PREFIX;
        arguments.extend(
            self.ranges_of_machines()
                .map(|(first, last)| format!("--synth-domain={domain},{first},{last},{machines}")),
        );
        if self.mtu != 1500 {
            arguments.push(format!("--dhcp-option-force=option:mtu,{}", self.mtu));
        }
        if let Some(prefix) = self.network6 {
            arguments.extend(self.ipv6_arguments(prefix));
        }
        match &self.upstream {
            Upstream::None => arguments.push("--no-resolv".into()),
            Upstream::Host => arguments.push("--resolv-file=/etc/resolv.conf".into()),
            Upstream::Servers(servers) => {
                arguments.push("--no-resolv".into());
                arguments.extend(servers.iter().map(|server| format!("--server={server}")));
            }
        }
        arguments
    }

    /// What guests are told of their router and resolvers.
    fn ways_out(&self) -> Vec<String> {
        let gateway = self.gateway;
        let Some(Elsewhere {
            router,
            name_servers,
        }) = &self.elsewhere
        else {
            return vec![
                format!("--dhcp-option=option:router,{gateway}"),
                format!("--dhcp-option=option:dns-server,{gateway}"),
            ];
        };
        let servers: String = name_servers
            .iter()
            .map(|server| format!(",{server}"))
            .collect();
        vec![
            // Our own address is none of the guests' network.
            format!(
                "--shared-network={},{}",
                self.bridge,
                self.network.address()
            ),
            format!("--dhcp-option=option:router,{router}"),
            // It resolves nothing for them, nor for anybody of the site.
            "--port=0".into(),
            // Without any it is not to tell its own.
            format!("--dhcp-option=option:dns-server{servers}"),
        ]
    }

    /// Guests make their addresses themselves, of what the advertisements say: router, prefix, resolver, domain and MTU. Who
    /// asks by DHCPv6 is told the same, and no address.
    fn ipv6_arguments(&self, prefix: Ipv6Prefix) -> Vec<String> {
        let (bridge, mtu, domain) = (&self.bridge, self.mtu, &self.domain);
        let (network, gateway) = (prefix.address(), prefix.gateway());
        let lease_seconds = self.lease_time.as_secs().max(120);
        let machines = Hostname::PREFIX;
        vec![
            "--enable-ra".into(),
            format!("--dhcp-range={network},ra-stateless,{PREFIX_LENGTH},{lease_seconds}"),
            // As often as it does by itself.
            format!("--ra-param={bridge},mtu:{mtu},0"),
            format!("--dhcp-option=option6:dns-server,[{gateway}]"),
            format!("--dhcp-option=option6:domain-search,{domain}"),
            "--quiet-dhcp6".into(),
            "--quiet-ra".into(),
            format!("--synth-domain={domain},{prefix},{machines}"),
            format!("--local=/{}/", prefix.reverse_zone()),
        ]
    }

    /// Text of the DHCP hosts file.
    #[must_use]
    pub fn dhcp_hosts_text(&self, leases: &Leases) -> String {
        leases.values().fold(String::new(), |mut text, lease| {
            let name = Hostname::from(lease.ip);
            let _ = writeln!(text, "{},{},{name}", lease.mac, lease.ip);
            text
        })
    }

    /// Text of the DNS hosts file: the marker of this generation of the files, by which is seen that dnsmasq has read them.
    /// Names of machines are in no file, since they follow from addresses.
    #[must_use]
    pub fn dns_hosts_text(&self, generation: u64) -> String {
        format!("0.0.0.0 {}\n", self.marker(generation))
    }

    /// The addresses that machines can have, as ranges on both sides of the gateway's.
    fn ranges_of_machines(&self) -> impl Iterator<Item = (Ipv4Addr, Ipv4Addr)> {
        let (first, last) = (self.network.address(), self.network.broadcast());
        let elsewhere = self.elsewhere.as_ref().map(|elsewhere| elsewhere.router);
        let router = elsewhere.unwrap_or(self.gateway);
        let between = [(first, router), (router, last)];
        between.into_iter().filter_map(|(below, above)| {
            let (first, last) = (below.to_bits() + 1, above.to_bits().checked_sub(1)?);
            (first <= last).then(|| (first.into(), last.into()))
        })
    }

    /// The name that exists as long as dnsmasq serves this generation of its files.
    #[must_use]
    pub fn marker(&self, generation: u64) -> String {
        format!("stratus-generation-{generation:x}.{}", self.domain)
    }
}

/// Reads a DHCP hosts file of ours back; lines that are not ours are left out.
#[must_use]
pub fn parse_dhcp_hosts(text: &str) -> Leases {
    let line = |line: &str| {
        let mut fields = line.split(',');
        let mac = fields.next()?.parse().ok()?;
        let ip = fields.next()?.parse().ok()?;
        let _name = fields.next()?;
        fields.next().is_none().then_some((ip, Lease { ip, mac }))
    };
    text.lines().filter_map(line).collect()
}

/// A line of dnsmasq's lease file: what it remembers to have given out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RememberedLease {
    /// To which MAC.
    pub mac: MacAddr,
    /// Which address.
    pub ip: Ipv4Addr,
    /// The client's own identifier (DHCP option 61), empty if it sent none.
    pub client_id: Vec<u8>,
}

/// Reads dnsmasq's lease file (`expiry MAC IP NAME CLIENT-ID`, dnsmasq 2.90); other lines are left out.
#[must_use]
pub fn parse_lease_file(text: &str) -> Vec<RememberedLease> {
    text.lines().filter_map(parse_lease_line).collect()
}

fn parse_lease_line(line: &str) -> Option<RememberedLease> {
    let mut fields = line.split(' ');
    let _expiry: u64 = fields.next()?.parse().ok()?;
    let mac = fields.next()?.parse().ok()?;
    let ip = fields.next()?.parse().ok()?;
    let _name = fields.next()?;
    let client_id = match fields.next()? {
        "*" => Vec::new(),
        text => text
            .split(':')
            .map(|pair| u8::from_str_radix(pair, 16))
            .collect::<std::result::Result<_, _>>()
            .ok()?,
    };
    Some(RememberedLease { mac, ip, client_id })
}

/// The lease file without what is no longer wanted: an address whose lease is gone or belongs to another MAC.
#[must_use]
pub fn purge_lease_file(text: &str, wanted: &Leases) -> String {
    let keep = |line: &&str| {
        parse_lease_line(line).is_none_or(|remembered| !is_stale(&remembered, wanted))
    };
    text.lines()
        .filter(keep)
        .fold(String::new(), |text, line| text + line + "\n")
}

/// Whether dnsmasq remembers a lease that is no longer wanted.
#[must_use]
pub fn is_stale(remembered: &RememberedLease, wanted: &Leases) -> bool {
    wanted
        .get(&remembered.ip)
        .is_none_or(|lease| lease.mac != remembered.mac)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lease(last: u8) -> (Ipv4Addr, Lease) {
        let ip = Ipv4Addr::new(172, 16, 0, last);
        (
            ip,
            Lease {
                ip,
                mac: MacAddr([2, 0, 172, 16, 0, last]),
            },
        )
    }

    fn config() -> DnsmasqConfig {
        DnsmasqConfig {
            program: "dnsmasq".into(),
            directory: "/run/net".into(),
            bridge: "stx-br0".parse().unwrap(),
            network: "172.16.0.0/24".parse().unwrap(),
            gateway: "172.16.0.1".parse().unwrap(),
            elsewhere: None,
            network6: None,
            domain: "cloud.test".parse().unwrap(),
            mtu: 1450,
            lease_time: Duration::from_secs(3600),
            upstream: Upstream::None,
            user: "dnsmasq".into(),
        }
    }

    #[test]
    fn its_files_survive_reading_back() {
        let leases: Leases = [lease(5), lease(6)].into();
        let text = config().dhcp_hosts_text(&leases);
        assert_eq!(
            text,
            "02:00:ac:10:00:05,172.16.0.5,vm-172-16-0-5\n02:00:ac:10:00:06,172.16.0.6,vm-172-16-0-6\n"
        );
        assert_eq!(parse_dhcp_hosts(&text), leases);
    }

    #[test]
    fn every_address_but_the_gateways_has_a_name() {
        let named = |gateway: &str| {
            let config = DnsmasqConfig {
                gateway: gateway.parse().unwrap(),
                ..config()
            };
            let arguments = config.arguments().into_iter();
            let synthetic =
                arguments.filter_map(|a| Some(a.strip_prefix("--synth-domain=")?.to_owned()));
            synthetic.collect::<Vec<_>>()
        };
        assert_eq!(
            named("172.16.0.1"),
            ["cloud.test,172.16.0.2,172.16.0.254,vm-"]
        );
        assert_eq!(
            named("172.16.0.254"),
            ["cloud.test,172.16.0.1,172.16.0.253,vm-"]
        );
        assert_eq!(
            named("172.16.0.9"),
            [
                "cloud.test,172.16.0.1,172.16.0.8,vm-",
                "cloud.test,172.16.0.10,172.16.0.254,vm-"
            ]
        );
    }

    #[test]
    fn stale_leases_are_purged_and_the_rest_kept() {
        let leases: Leases = [lease(5)].into();
        let text = "1795222160 02:00:ac:10:00:05 172.16.0.5 web 01:02:00:ac:10:00:05\n\
                    1795222160 02:00:ac:10:00:06 172.16.0.6 db *\nduid 00:01\n";
        assert_eq!(parse_lease_file(text).len(), 2);
        assert_eq!(
            parse_lease_file(text)[0].client_id,
            [1, 2, 0, 172, 16, 0, 5]
        );
        assert_eq!(
            purge_lease_file(text, &leases),
            "1795222160 02:00:ac:10:00:05 172.16.0.5 web 01:02:00:ac:10:00:05\nduid 00:01\n"
        );
        let moved: Leases = [(
            leases[&Ipv4Addr::new(172, 16, 0, 5)].ip,
            Lease {
                mac: MacAddr([2; 6]),
                ..lease(5).1
            },
        )]
        .into();
        assert!(!purge_lease_file(text, &moved).contains("172.16.0.5"));
    }

    #[test]
    fn it_serves_one_interface_and_reads_nothing_else() {
        let arguments = config().arguments();
        for wanted in [
            "--conf-file=/dev/null",
            "--no-hosts",
            "--no-resolv",
            "--bind-interfaces",
            "--interface=stx-br0",
            "--dhcp-lease-max=255",
        ] {
            assert!(arguments.iter().any(|a| a == wanted), "{wanted}");
        }
    }

    proptest! {
        #[test]
        fn any_text_can_be_read(text in "\\PC{0,200}") {
            let _ = (parse_dhcp_hosts(&text), parse_lease_file(&text));
        }
    }
}
