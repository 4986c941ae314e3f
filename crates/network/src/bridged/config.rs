//! The network as it is configured, and what follows of that for each part.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::address::{Ipv4Network, MacPrefix};
use crate::bridge::{self, BridgeSpec, BridgeState};
use crate::dnsmasq::Dnsmasq;
use crate::dnsmasq_files::{DnsmasqConfig, Elsewhere, Upstream};
use crate::error::{NetworkError, Result};
use crate::forwarding::Forwarding;
use crate::ipv6::Ipv6Prefix;
use crate::links::Links;
use crate::name::{Domain, InstanceTag};
use crate::overlay::{Overlay, VXLAN_PORT};
use crate::ruleset::{Outward, Peer, Ruleset};
use crate::site::{self, Site, service_of};
use crate::vxlan::{self, VxlanSpec};

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
    /// The guests' IPv6 prefix; without one there is no IPv6.
    #[serde(default)]
    pub network6: Option<Ipv6Prefix>,
    /// The site whose Ethernet the guests are on, by a bridge of the operator's: then `gateway` is the site's router, `outward` and
    /// `network6` count for nothing, and there are no tunnels and no networks that are forwarded to.
    #[serde(default)]
    pub site: Option<Site>,
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
    /// UDP port of tunnels between hosts, the same on all of them. Guests behind an address of this host can't send to it,
    /// whether this network has a tunnel or not: other networks may.
    #[serde(default = "vxlan_port")]
    pub tunnel_port: u16,
    /// How it is joined with the same network on other hosts from the first moment on, as
    /// [`NetworkHost::set_overlay`](crate::NetworkHost::set_overlay) has it later.
    #[serde(skip)]
    pub overlay: Option<Overlay>,
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

fn vxlan_port() -> u16 {
    VXLAN_PORT
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
            network6: None,
            site: None,
            domain,
            mtu: ethernet_mtu(),
            outward: Outward::default(),
            host_tcp_ports: BTreeSet::new(),
            upstream: Upstream::default(),
            lease_seconds: an_hour(),
            dnsmasq_user: None,
            dnsmasq: dnsmasq_program(),
            nft: nft_program(),
            tunnel_port: vxlan_port(),
            overlay: None,
            peers: BTreeSet::new(),
        }
    }

    /// What other networks of this host know it by, to forward to it.
    #[must_use]
    pub fn as_peer(&self) -> Peer {
        Peer {
            bridge: self.instance.bridge(),
            network: self.network,
            network6: self.network6,
        }
    }

    pub(super) fn ruleset(&self) -> Ruleset {
        let is_ours = self.site.is_none();
        Ruleset {
            instance: self.instance.clone(),
            network: self.network,
            gateway: self.own_address(),
            network6: self.network6.filter(|_| is_ours),
            // What guests send by the host goes nowhere: their router is another.
            outward: match is_ours {
                true => self.outward,
                false => Outward::Isolated,
            },
            host_tcp_ports: self.host_tcp_ports.clone(),
            peers: match is_ours {
                true => self.peers.clone(),
                false => BTreeSet::new(),
            },
            tunnel_port: self.tunnel_port,
            overlay: self.overlay.clone().filter(|_| is_ours),
            site: self.site.clone(),
        }
    }

    /// The host's own address on the bridge.
    fn own_address(&self) -> Ipv4Addr {
        match self.site {
            None => self.gateway,
            Some(_) => service_of(self.network).1,
        }
    }

    pub(super) fn mtu(&self) -> u16 {
        self.mtu.clamp(576, 9216)
    }

    pub(super) fn bridge_spec(&self, overlay: Option<&Overlay>) -> BridgeSpec {
        BridgeSpec {
            name: self.instance.bridge(),
            gateway: self.own_address(),
            host_address: overlay.and_then(|overlay| overlay.host_address),
            network: match self.site {
                None => self.network,
                Some(_) => service_of(self.network).0,
            },
            network6: self.network6.filter(|_| self.site.is_none()),
            mac: MacPrefix::default().mac(self.own_address()),
            mtu: self.mtu(),
            owner: owner(&self.directory),
        }
    }

    pub(super) fn vxlan_spec<'a>(&self, overlay: &'a Overlay) -> VxlanSpec<'a> {
        VxlanSpec {
            name: self.instance.tunnel(),
            overlay,
            port: self.tunnel_port,
            mtu: self.mtu(),
        }
    }

    /// Has the host forward what it is to; what is on the site's Ethernet it isn't asked to.
    pub(super) async fn switch_forwarding_on(&self) -> Result<()> {
        if self.site.is_some() {
            return Ok(());
        }
        Forwarding::of(&self.directory)
            .switch_on(self.network6.is_some())
            .await
    }

    /// Refuses an overlay that can't work here, before anything is changed.
    pub(super) async fn check_overlay(&self, links: &Links, overlay: &Overlay) -> Result<()> {
        overlay.check(self.network, self.gateway)?;
        vxlan::ensure_fits(links, &self.vxlan_spec(overlay)).await
    }

    /// The bridge, and the tunnel on it or none.
    pub(super) async fn ensure_links(
        &self,
        links: &Links,
        overlay: Option<&Overlay>,
    ) -> Result<BridgeState> {
        let state = bridge::ensure(links, &self.bridge_spec(overlay)).await?;
        match &self.site {
            Some(site) => {
                site::answer_for_itself(&self.instance.bridge()).await?;
                let ours = (&self.instance, state.index, self.mtu());
                site.ensure_cable(links, ours).await?;
            }
            None => site::remove_cable(links, &self.instance).await?,
        }
        match overlay {
            Some(overlay) => {
                vxlan::ensure(links, &self.vxlan_spec(overlay), state.index).await?;
            }
            None => {
                links.delete(&self.instance.tunnel()).await?;
            }
        }
        Ok(state)
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
            gateway: self.own_address(),
            elsewhere: self.site.as_ref().map(|site| Elsewhere {
                router: self.gateway,
                name_servers: site.name_servers.clone(),
            }),
            network6: self.network6.filter(|_| self.site.is_none()),
            domain: self.domain.clone(),
            mtu: self.mtu(),
            lease_time: Duration::from_secs(self.lease_seconds.into()),
            upstream: self.upstream.clone(),
            user,
        })
    }

    /// Where dnsmasq's files are, and where they would be were folders passable that aren't, or the other way round: an
    /// earlier process may have found that so.
    pub(super) async fn dnsmasq_places(&self) -> Result<(DnsmasqConfig, DnsmasqConfig)> {
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
    pub(super) async fn dnsmasq_place(&self) -> Result<DnsmasqConfig> {
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
pub(super) const RUN: &str = "/run/stratus";
/// Characters of a folder's path that become the name of its stand-in.
const LONGEST_NAME: usize = 60;

/// The stand-in of a folder, named for it.
pub(super) fn run_directory(directory: &Path) -> PathBuf {
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
