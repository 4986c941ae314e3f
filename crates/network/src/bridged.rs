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
use crate::forwarding::Forwarding;
use crate::host::{Attachment, Audit, PlugRequest, Plugged, Ready, Reconciled};
use crate::links::{Link, Links};
use crate::name::{Domain, InstanceTag, InterfaceName, NicTag};
use crate::nft::Nft;
use crate::ruleset::{Binding, Outward, Peer, Ruleset};
use crate::tap;

/// The network as the administrator configures it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BridgedConfig {
    /// Keeps several clouds on one host apart.
    pub instance: InstanceTag,
    /// Folder for dnsmasq's files. dnsmasq runs as a user of its own and must reach them after start: if not every user
    /// may pass through this folder and those above, the files are in one of `/run/stratus/` instead.
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
    /// Networks that are forwarded to from the first moment on, as [`NetworkHost::forward_to`](crate::NetworkHost::forward_to) has it later.
    #[serde(skip)]
    pub peers: BTreeSet<Peer>,
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
            peers: BTreeSet::new(),
        }
    }

    /// What other networks of this host know it by, to forward to it.
    #[must_use]
    pub fn as_peer(&self) -> Peer {
        Peer {
            bridge: self.instance.bridge(),
            network: self.network,
        }
    }

    fn ruleset(&self) -> Ruleset {
        Ruleset {
            instance: self.instance.clone(),
            network: self.network,
            gateway: self.gateway,
            outward: self.outward,
            host_tcp_ports: self.host_tcp_ports.clone(),
            peers: self.peers.clone(),
        }
    }

    fn bridge_spec(&self) -> BridgeSpec {
        BridgeSpec {
            name: self.instance.bridge(),
            gateway: self.gateway,
            network: self.network,
            mac: MacPrefix::default().mac(self.gateway),
            mtu: self.mtu.clamp(576, 9216),
            owner: owner(&self.directory),
        }
    }

    async fn dnsmasq_config(&self) -> Result<DnsmasqConfig> {
        let user = match &self.dnsmasq_user {
            Some(user) => user.clone(),
            None if has_user("dnsmasq").await => "dnsmasq".into(),
            None => "nobody".into(),
        };
        if user == "root" {
            return Err(NetworkError::Dnsmasq {
                reason: "it listens to guests and must not run as root; choose another user".into(),
            });
        }
        Ok(DnsmasqConfig {
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
        })
    }

    /// Where dnsmasq's files are, and where they would be were folders passable that aren't, or the other way round: an
    /// earlier process may have found that so.
    async fn dnsmasq_places(&self) -> Result<(DnsmasqConfig, DnsmasqConfig)> {
        let named = self.dnsmasq_config().await?;
        let run = DnsmasqConfig {
            directory: run_directory(&self.directory),
            ..named.clone()
        };
        // Who isn't root can't change users: dnsmasq is then whoever we are.
        let reachable =
            !rustix::process::geteuid().is_root() || blocked_at(&self.directory).is_none();
        Ok(if reachable {
            (named, run)
        } else {
            (run, named)
        })
    }

    /// The same, with the folder made, and nothing left at the other place.
    async fn dnsmasq_place(&self) -> Result<DnsmasqConfig> {
        let (place, other) = self.dnsmasq_places().await?;
        if other.directory.exists() {
            Dnsmasq::remove(&other).await?;
        }
        if place.directory != self.directory {
            for folder in [Path::new(RUN), &place.directory] {
                std::fs::create_dir_all(folder)
                    .and_then(|()| {
                        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))
                    })
                    .map_err(NetworkError::file(folder))?;
            }
            if let Some(folder) = blocked_at(&place.directory) {
                let (folder, user) = (folder.display(), &place.user);
                return Err(NetworkError::Dnsmasq {
                    reason: format!(
                        "its user {user} can't pass {folder}, and it must not run as root; allow it (chmod o+x {folder})"
                    ),
                });
            }
        }
        Ok(place)
    }
}

/// Where everybody may pass: for files of dnsmasq whose own folder is shut.
const RUN: &str = "/run/stratus";
/// Characters of a folder's path that become the name of its stand-in.
const LONGEST_NAME: usize = 60;

/// The stand-in of a folder, named for it.
fn run_directory(directory: &Path) -> PathBuf {
    let name = directory.display().to_string();
    let name: Vec<char> = name.trim_matches('/').chars().collect();
    let tail = name.get(name.len().saturating_sub(LONGEST_NAME)..);
    let tail = tail.unwrap_or(&name).iter();
    Path::new(RUN).join(tail.collect::<String>().replace('/', "-"))
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
        bridge::ensure_alone(&links, &config.bridge_spec()).await?;
        // Rules before the bridge: there is no moment in which it forwards without them.
        let firewall = Firewall::open(
            Nft {
                program: config.nft.clone(),
            },
            config.ruleset(),
        )
        .await?;
        let state = bridge::ensure(&links, &config.bridge_spec()).await?;
        Forwarding::of(&config.directory).switch_on().await?;
        let dnsmasq = Dnsmasq::open(config.dnsmasq_place().await?, state.created).await?;
        Ok(Self {
            config,
            links,
            firewall,
            dnsmasq,
            bridge: Mutex::new(state),
        })
    }

    pub(crate) async fn check(config: &BridgedConfig) -> Result<()> {
        bridge::ensure_alone(&Links::open()?, &config.bridge_spec()).await
    }

    /// What was found or made at the last opening or reconciliation.
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
        Forwarding::of(&self.config.directory).switch_on().await?;
        *self.bridge.lock() = state;
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
            } else if name != spec.name && !tap::remove_unheld(&self.links, &name).await? {
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
        let (bridges, taps): (Vec<_>, Vec<_>) =
            names.iter().partition(|link| link.name == name.as_str());
        let listing = self.firewall.list().await?;
        let mut missing = Vec::new();
        match bridges.first() {
            None => missing.push(format!("the bridge {name} is not there")),
            Some(bridge) if !bridge.up => missing.push(format!("the bridge {name} is down")),
            Some(bridge) => missing.extend(
                taps.iter()
                    .filter(|tap| tap.controller != Some(bridge.index))
                    .map(|tap| format!("{} is not on the bridge {name}", tap.name)),
            ),
        }
        if listing.is_none() {
            missing.push("the rules of the firewall are not there".to_owned());
        }
        let listing = listing.unwrap_or_default();
        let parsed = |link: &&Link| link.name.parse::<InterfaceName>().ok();
        Ok(Audit {
            missing,
            bridge: bridges.iter().find_map(parsed),
            taps: taps.iter().filter_map(parsed).collect(),
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
        let rest = clear_away(&self.config, &self.links).await;
        dnsmasq.and(links).and(firewall).and(rest)
    }

    /// As [`teardown`](Self::teardown), for what an earlier process left, without starting anything.
    pub(crate) async fn remove(config: &BridgedConfig) -> Result<()> {
        let kernel = Links::open()?;
        bridge::ensure_ours(&kernel, &config.bridge_spec()).await?;
        let (place, other) = config.dnsmasq_places().await?;
        let dnsmasq = Dnsmasq::remove(&place)
            .await
            .and(Dnsmasq::remove(&other).await);
        let links = remove_links(&kernel, &config.instance).await;
        let firewall = Firewall::remove(
            &Nft {
                program: config.nft.clone(),
            },
            &config.ruleset(),
        )
        .await;
        let rest = clear_away(config, &kernel).await;
        dnsmasq.and(links).and(firewall).and(rest)
    }

    pub(crate) async fn forward_to(&self, peers: BTreeSet<Peer>) -> Result<()> {
        self.firewall.forward_to(peers).await
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

/// What tells this cloud from another: the folder of its network, or the end of it. An alias has 255 bytes at most.
fn owner(directory: &Path) -> String {
    let path = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
    let shown = path.display().to_string();
    let begin = shown.len().saturating_sub(250);
    let begin = (begin..=shown.len()).find(|at| shown.is_char_boundary(*at));
    shown
        .get(begin.unwrap_or_default()..)
        .unwrap_or_default()
        .to_owned()
}

/// The empty folders, and the host's forwarding as it was.
async fn clear_away(config: &BridgedConfig, links: &Links) -> Result<()> {
    for folder in [
        &config.directory,
        &run_directory(&config.directory),
        Path::new(RUN),
    ] {
        // Not there, or with something of somebody else's in it.
        let _ = tokio::fs::remove_dir(folder).await;
    }
    Forwarding::of(&config.directory).put_back(links).await
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
