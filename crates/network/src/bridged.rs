//! Machines on a bridge: tap, firewall and dnsmasq put together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::address::{Ipv4Network, MacPrefix};
use crate::bridge::{self, BridgeSpec, BridgeState};
use crate::dnsmasq::{DhcpHealth, Dnsmasq};
use crate::dnsmasq_files::{DnsmasqConfig, Lease, Upstream};
use crate::error::{NetworkError, Result};
use crate::firewall::Firewall;
use crate::host::{Attachment, Audit, PlugRequest, Plugged, Ready, Reconciled};
use crate::links::Links;
use crate::name::{Domain, InstanceTag, InterfaceName, NicTag};
use crate::nft::Nft;
use crate::ruleset::{Binding, Outward, Ruleset};
use crate::tap;

/// The network as the administrator configures it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BridgedConfig {
    /// Keeps several clouds on one host apart.
    pub instance: InstanceTag,
    /// Folder for dnsmasq's files. If every user may pass through it and the folders above, dnsmasq runs as its own
    /// user, else as root: it must reach these files after start.
    pub directory: PathBuf,
    /// The guests' network.
    pub network: Ipv4Network,
    /// The host's address on it.
    pub gateway: Ipv4Addr,
    /// Domain of the guests' names.
    pub domain: Domain,
    /// Largest packet, 576 to 9216.
    #[serde(default = "ethernet_mtu")]
    pub mtu: u16,
    /// How guests reach the world.
    #[serde(default)]
    pub outward: Outward,
    /// TCP ports of the host guests may reach, besides DNS.
    #[serde(default)]
    pub host_tcp_ports: BTreeSet<u16>,
    /// Resolvers for names outside of the domain.
    #[serde(default)]
    pub upstream: Upstream,
    /// How long a DHCP lease is valid without renewal; at least two minutes.
    #[serde(default = "an_hour")]
    pub lease_seconds: u32,
    /// User dnsmasq runs as; by default `dnsmasq`, else `nobody`.
    #[serde(default)]
    pub dnsmasq_user: Option<String>,
    /// The program.
    #[serde(default = "dnsmasq_program")]
    pub dnsmasq: PathBuf,
    /// The program.
    #[serde(default = "nft_program")]
    pub nft: PathBuf,
}

fn ethernet_mtu() -> u16 {
    1500
}

fn an_hour() -> u32 {
    3600
}

fn dnsmasq_program() -> PathBuf {
    "dnsmasq".into()
}

fn nft_program() -> PathBuf {
    "nft".into()
}

impl BridgedConfig {
    /// A configuration with the defaults.
    #[must_use]
    pub fn new(
        instance: InstanceTag,
        directory: PathBuf,
        network: Ipv4Network,
        gateway: Ipv4Addr,
        domain: Domain,
    ) -> Self {
        Self {
            instance,
            directory,
            network,
            gateway,
            domain,
            mtu: ethernet_mtu(),
            outward: Outward::default(),
            host_tcp_ports: BTreeSet::new(),
            upstream: Upstream::default(),
            lease_seconds: an_hour(),
            dnsmasq_user: None,
            dnsmasq: dnsmasq_program(),
            nft: nft_program(),
        }
    }

    fn ruleset(&self) -> Ruleset {
        Ruleset {
            instance: self.instance.clone(),
            network: self.network,
            gateway: self.gateway,
            outward: self.outward,
            host_tcp_ports: self.host_tcp_ports.clone(),
        }
    }

    fn bridge_spec(&self) -> BridgeSpec {
        BridgeSpec {
            name: self.instance.bridge(),
            gateway: self.gateway,
            network: self.network,
            mac: MacPrefix::default().mac(self.gateway),
            mtu: self.mtu.clamp(576, 9216),
        }
    }

    async fn dnsmasq_config(&self) -> DnsmasqConfig {
        let wanted = match &self.dnsmasq_user {
            Some(user) => user.clone(),
            None if has_user("dnsmasq").await => "dnsmasq".into(),
            None => "nobody".into(),
        };
        let user = match blocked_at(&self.directory) {
            None => wanted,
            Some(folder) => {
                tracing::warn!(folder = %folder.display(), user = wanted, "dnsmasq runs as root: its user could not pass this folder");
                "root".into()
            }
        };
        DnsmasqConfig {
            program: self.dnsmasq.clone(),
            directory: self.directory.clone(),
            bridge: self.instance.bridge(),
            network: self.network,
            gateway: self.gateway,
            domain: self.domain.clone(),
            mtu: self.bridge_spec().mtu,
            lease_time: Duration::from_secs(self.lease_seconds.into()),
            upstream: self.upstream.clone(),
            user,
        }
    }
}

async fn has_user(name: &str) -> bool {
    let users = tokio::fs::read_to_string("/etc/passwd")
        .await
        .unwrap_or_default();
    users
        .lines()
        .any(|line| line.split(':').next() == Some(name))
}

/// The first folder on the way that not everybody may pass.
fn blocked_at(directory: &Path) -> Option<&Path> {
    directory.ancestors().find(|folder| {
        std::fs::metadata(folder).is_ok_and(|data| data.permissions().mode() & 0o001 == 0)
    })
}

/// The bridge, its firewall and its dnsmasq.
#[derive(Debug)]
pub struct Bridged {
    config: BridgedConfig,
    links: Links,
    firewall: Firewall,
    dnsmasq: Dnsmasq,
    bridge: Mutex<BridgeState>,
}

impl Bridged {
    /// See [`NetworkHost::open`](crate::NetworkHost::open).
    ///
    /// # Errors
    /// A program is missing, or the kernel refuses.
    pub async fn open(config: BridgedConfig) -> Result<Self> {
        config.network.check_host("the gateway", config.gateway)?;
        std::fs::create_dir_all(&config.directory)
            .map_err(NetworkError::file(&config.directory))?;
        let links = Links::open()?;
        // Rules before the bridge: there is no moment in which it forwards without them.
        let firewall = Firewall::open(
            Nft {
                program: config.nft.clone(),
            },
            config.ruleset(),
        )
        .await?;
        let state = bridge::ensure(&links, &config.bridge_spec()).await?;
        let dnsmasq = Dnsmasq::open(config.dnsmasq_config().await, state.created).await?;
        Ok(Self {
            config,
            links,
            firewall,
            dnsmasq,
            bridge: Mutex::new(state),
        })
    }

    /// What was found or made at the last opening or reconciliation, and whether this process switched forwarding on.
    #[must_use]
    pub fn bridge(&self) -> BridgeState {
        *self.bridge.lock()
    }

    pub(crate) async fn plug(&self, request: &PlugRequest) -> Result<Plugged> {
        self.config
            .network
            .check_host("the address of a machine", request.ip)?;
        let ifname = self.config.instance.tap(&request.nic);
        let index = self.bridge().index;
        // The tap first: QEMU waits for nothing else, and a name that is taken must not touch the rules of the
        // machine that has it.
        let fd = tap::create(&self.links, &ifname, index, self.config.bridge_spec().mtu).await?;
        let ready = Ready {
            firewall: Some(self.firewall.allow(self.binding(request)).await?),
            dnsmasq: Some(self.dnsmasq.add(lease(request)).await?),
        };
        Ok(Plugged {
            ifname,
            attachment: Attachment::Tap(fd),
            ready,
        })
    }

    pub(crate) async fn unplug(&self, nic: &NicTag, ip: Ipv4Addr) -> Result<()> {
        let ifname = self.config.instance.tap(nic);
        let ready = Ready {
            firewall: Some(self.firewall.forget(ifname.clone()).await?),
            dnsmasq: Some(self.dnsmasq.forget(ip).await?),
        };
        let (link, rest) = futures::join!(self.links.delete(&ifname), ready.wait());
        link.map(drop).and(rest)
    }

    pub(crate) async fn reconcile(&self, wanted: &[PlugRequest]) -> Result<Reconciled> {
        let bindings: BTreeSet<Binding> =
            wanted.iter().map(|request| self.binding(request)).collect();
        let leases = wanted
            .iter()
            .map(|request| (request.ip, lease(request)))
            .collect();
        self.firewall.reconcile(bindings).await?;
        let spec = self.config.bridge_spec();
        let state = bridge::ensure(&self.links, &spec).await?;
        {
            let mut known = self.bridge.lock();
            let switched_forwarding_on =
                known.switched_forwarding_on || state.switched_forwarding_on;
            *known = BridgeState {
                switched_forwarding_on,
                ..state
            };
        }
        if state.created {
            self.dnsmasq.renew().await?;
        }
        self.dnsmasq.reconcile(leases).await?;

        let mut missing: BTreeMap<String, NicTag> = wanted
            .iter()
            .map(|request| {
                (
                    self.config.instance.tap(&request.nic).into(),
                    request.nic.clone(),
                )
            })
            .collect();
        let mut unexpected = Vec::new();
        for link in self
            .links
            .list(&self.config.instance.interface_prefix())
            .await?
        {
            let Ok(name) = link.name.parse::<InterfaceName>() else {
                continue;
            };
            if missing.remove(&link.name).is_some() {
                if link.controller != Some(state.index) || !link.up {
                    self.links.attach(&name, state.index, spec.mtu).await?;
                }
            } else if name != spec.name {
                unexpected.push(name);
            }
        }
        Ok(Reconciled {
            missing: missing.into_values().collect(),
            unexpected,
        })
    }

    pub(crate) async fn audit(&self) -> Result<Audit> {
        let name = self.config.instance.bridge();
        let names = self
            .links
            .list(&self.config.instance.interface_prefix())
            .await?;
        let (bridges, taps): (Vec<_>, Vec<_>) = names
            .iter()
            .filter_map(|link| link.name.parse::<InterfaceName>().ok())
            .partition(|link| *link == name);
        let listing = self.firewall.list().await?;
        Ok(Audit {
            bridge: bridges.into_iter().next(),
            taps,
            bindings: listing.bindings,
            packets: listing.packets,
            leases: self.dnsmasq.list().await?.into_values().collect(),
            forwards: BTreeMap::new(),
        })
    }

    pub(crate) async fn teardown(&self) -> Result<()> {
        let dnsmasq = self.dnsmasq.stop().await;
        let links = remove_links(&self.links, &self.config.instance).await;
        // The rules go last: nothing of ours forwards without them.
        let firewall = self.firewall.teardown().await;
        let _ = tokio::fs::remove_dir(&self.config.directory).await;
        dnsmasq.and(links).and(firewall)
    }

    /// As [`teardown`](Self::teardown), for what an earlier process left, without starting anything.
    pub(crate) async fn remove(config: &BridgedConfig) -> Result<()> {
        let dnsmasq = Dnsmasq::remove(&config.dnsmasq_config().await).await;
        let links = remove_links(&Links::open()?, &config.instance).await;
        let firewall = Firewall::remove(
            &Nft {
                program: config.nft.clone(),
            },
            &config.ruleset(),
        )
        .await;
        let _ = tokio::fs::remove_dir(&config.directory).await;
        dnsmasq.and(links).and(firewall)
    }

    pub(crate) fn dhcp_health(&self) -> watch::Receiver<DhcpHealth> {
        self.dnsmasq.health()
    }

    fn binding(&self, request: &PlugRequest) -> Binding {
        Binding {
            port: self.config.instance.tap(&request.nic),
            mac: request.mac,
            ip: request.ip,
        }
    }
}

async fn remove_links(links: &Links, instance: &InstanceTag) -> Result<()> {
    let mut result = Ok(());
    for name in links
        .list(&instance.interface_prefix())
        .await?
        .iter()
        .filter_map(|link| link.name.parse().ok())
    {
        result = result.and(links.delete(&name).await.map(drop));
    }
    result
}

fn lease(request: &PlugRequest) -> Lease {
    Lease {
        ip: request.ip,
        mac: request.mac,
        hostname: request.hostname.clone(),
    }
}
