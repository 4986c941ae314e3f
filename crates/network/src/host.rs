//! What the VM host uses: one face for both ways to connect a machine.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::address::MacAddr;
use crate::bridged::{Bridged, BridgedConfig};
use crate::dnsmasq::{self, DhcpHealth};
use crate::dnsmasq_files::Lease;
use crate::error::{NetworkError, Result};
use crate::firewall;
use crate::group::{GroupTag, Groups};
use crate::name::{InterfaceName, NicTag};
use crate::overlay::Overlay;
use crate::ruleset::{Binding, Peer};
use crate::user_mode::{UserMode, UserModeConfig, UserNetdev};

const READY_LIMIT: Duration = Duration::from_secs(30);

/// A NIC as its document describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlugRequest {
    /// Names the NIC within the cloud, e.g. the machine's `vmid`.
    pub nic: NicTag,
    /// Its MAC.
    pub mac: MacAddr,
    /// Its leased address.
    pub ip: Ipv4Addr,
    /// User mode: the port its SSH was forwarded from before, to keep if it is free. Ignored with a bridge.
    pub ssh_port: Option<u16>,
    /// Its security groups, as [`NetworkHost::set_groups`] defines them; none: it is as free as its network. User mode has none.
    pub groups: BTreeSet<GroupTag>,
}

/// What QEMU is given.
#[derive(Debug)]
pub enum Attachment {
    /// A tap, for `-netdev tap,fd=…`. The tap lives as long as this descriptor and its copies: close ours once QEMU
    /// has its own.
    Tap(OwnedFd),
    /// QEMU's own user-mode network, for `-netdev user,…`.
    User(UserNetdev),
}

/// A machine's link, made.
#[derive(Debug)]
pub struct Plugged {
    /// The tap's name (in user mode: the name it would have).
    pub ifname: InterfaceName,
    /// What QEMU is given.
    pub attachment: Attachment,
    /// To be waited for before the guest runs.
    pub ready: Ready,
}

/// Rules and DHCP on their way. QEMU can be started meanwhile; until then the guest's packets go nowhere.
#[derive(Debug)]
pub struct Ready {
    pub(crate) firewall: Option<firewall::Pending>,
    pub(crate) dnsmasq: Option<dnsmasq::Pending>,
}

impl Ready {
    /// Resolves when the guest can use its address. While dnsmasq is down this does not wait for it: it will know the
    /// lease when it is back, and a DHCP client asks again.
    ///
    /// # Errors
    /// A part failed; the caller unplugs the machine or plugs it again.
    pub async fn wait(self) -> Result<()> {
        let both = async {
            let firewall = async {
                if let Some(pending) = self.firewall {
                    pending.done().await
                } else {
                    Ok(())
                }
            };
            let dnsmasq = async {
                if let Some(pending) = self.dnsmasq {
                    pending.done().await
                } else {
                    Ok(())
                }
            };
            let (firewall, dnsmasq) = futures::join!(firewall, dnsmasq);
            firewall.and(dnsmasq)
        };
        tokio::time::timeout(READY_LIMIT, both)
            .await
            .unwrap_or_else(|_| {
                Err(NetworkError::Timeout {
                    what: "the network of a machine".into(),
                    limit: READY_LIMIT,
                })
            })
    }
}

/// What [`NetworkHost::reconcile`] found besides what it made right.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Wanted NICs without a tap: their machines do not run.
    pub missing: Vec<NicTag>,
    /// Interfaces of this cloud that nobody wants. Somebody's process holds them; they are mute now. Those that nobody
    /// held are gone.
    pub unexpected: Vec<InterfaceName>,
}

/// What exists on this host, read from where it stands, for the leak checker.
#[derive(Debug, Clone, Default)]
pub struct Audit {
    /// What the network needs whatever machines there are, and is not there or not as it should be.
    pub missing: Vec<String>,
    /// The bridge, if it is there.
    pub bridge: Option<InterfaceName>,
    /// The tunnel to other hosts, if it is there.
    pub tunnel: Option<InterfaceName>,
    /// Taps of this cloud.
    pub taps: Vec<InterfaceName>,
    /// NICs that may send.
    pub bindings: Vec<Binding>,
    /// Packets the firewall counted, by counter.
    pub packets: BTreeMap<String, u64>,
    /// Addresses that DHCP knows.
    pub leases: Vec<Lease>,
    /// User mode: forwarded SSH ports by NIC.
    pub forwards: BTreeMap<NicTag, u16>,
}

/// How machines of this host are connected.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "lowercase")]
#[expect(
    clippy::large_enum_variant,
    reason = "one is made for each network, once"
)]
pub enum NetworkConfig {
    /// On a bridge; needs root.
    Bridged(BridgedConfig),
    /// By QEMU's user-mode network; needs nothing.
    User(UserModeConfig),
}

impl NetworkConfig {
    /// What other networks of this host know it by, to forward to it; none of what nobody forwards to: a user-mode network, and one
    /// on the site's Ethernet.
    #[must_use]
    pub fn as_peer(&self) -> Option<Peer> {
        match self {
            Self::Bridged(config) if config.site.is_none() => Some(config.as_peer()),
            Self::Bridged(_) | Self::User(_) => None,
        }
    }
}

/// The network of this host.
#[derive(Debug)]
pub enum NetworkHost {
    /// A bridge, taps, dnsmasq and nftables; needs root (or CAP_NET_ADMIN and CAP_NET_RAW).
    Bridged(Box<Bridged>),
    /// QEMU's user-mode network; needs nothing.
    User(UserMode),
}

impl NetworkHost {
    /// With a bridge: makes it, and makes rules and dnsmasq or takes those of an earlier run over. Whatever machines of
    /// an earlier run have goes on working; [`reconcile`](Self::reconcile) is the next step.
    ///
    /// # Errors
    /// A program is missing, or the kernel refuses. User mode has no errors here.
    pub async fn open(config: NetworkConfig) -> Result<Self> {
        Ok(match config {
            NetworkConfig::Bridged(config) => Self::Bridged(Box::new(Bridged::open(config).await?)),
            NetworkConfig::User(config) => Self::User(UserMode::new(config)),
        })
    }

    /// Makes sure that no other cloud on this host has the addresses of this network, before anything is made.
    ///
    /// # Errors
    /// [`NetworkError::SubnetTaken`] names both.
    pub async fn check(config: &NetworkConfig) -> Result<()> {
        match config {
            NetworkConfig::Bridged(config) => Bridged::check(config).await,
            NetworkConfig::User(_) => Ok(()),
        }
    }

    /// Removes what an earlier process left, as [`teardown`](Self::teardown) does, without opening it first.
    ///
    /// # Errors
    /// The first part that could not be removed; the others are removed all the same.
    pub async fn remove(config: &NetworkConfig) -> Result<()> {
        match config {
            NetworkConfig::Bridged(config) => Bridged::remove(config).await,
            NetworkConfig::User(_) => Ok(()),
        }
    }

    /// Has its guests, and those of exactly these networks, reach each other. The others must be told the same.
    ///
    /// # Errors
    /// `nft` refuses.
    pub async fn forward_to(&self, peers: BTreeSet<Peer>) -> Result<()> {
        match self {
            Self::Bridged(bridged) => bridged.forward_to(peers).await,
            Self::User(_) => Ok(()),
        }
    }

    /// Joins it with the same network on other hosts, exactly so; with `None`, with none. What is joined already stays so,
    /// with its connections. Without effect in user mode, whose machines are each in a network of their own.
    ///
    /// # Errors
    /// No interface has the host's address, guests' packets don't fit between the hosts, the host's address on the network
    /// is none of it (all of these before anything is changed); or the kernel or `nft` refuses: calling again is the cure.
    pub async fn set_overlay(&self, overlay: Option<Overlay>) -> Result<()> {
        match self {
            Self::Bridged(bridged) => bridged.set_overlay(overlay).await,
            Self::User(_) => Ok(()),
        }
    }

    /// Has security groups be exactly these, and machines that run in those named. What still is allowed goes on undisturbed; what
    /// isn't any more ends with its next packet. Without effect in user mode, which nobody reaches but by ports of the host.
    ///
    /// # Errors
    /// `nft` refuses: calling again is the cure.
    pub async fn set_groups(&self, groups: Groups) -> Result<()> {
        match self {
            Self::Bridged(bridged) => bridged.set_groups(groups).await,
            Self::User(_) => Ok(()),
        }
    }

    /// Makes a machine's link. It is usable for starting QEMU at once, and for the guest when [`Plugged::ready`] is.
    ///
    /// # Errors
    /// The tap's name is taken, or there is no free port.
    pub async fn plug(&self, request: &PlugRequest) -> Result<Plugged> {
        match self {
            Self::Bridged(bridged) => bridged.plug(request).await,
            Self::User(user) => user.plug(request),
        }
    }

    /// Takes everything back that [`plug`](Self::plug) gave; what is gone already is no error. The address can be given
    /// to another machine when this returns.
    ///
    /// # Errors
    /// The kernel, `nft` or the file system refuses. Calling again is the cure.
    pub async fn unplug(&self, nic: &NicTag, ip: Ipv4Addr) -> Result<()> {
        match self {
            Self::Bridged(bridged) => bridged.unplug(nic, ip).await,
            Self::User(user) => {
                user.unplug(nic);
                Ok(())
            }
        }
    }

    /// Makes everything exactly as wanted, without touching taps in use or connections.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn reconcile(&self, wanted: &[PlugRequest]) -> Result<Reconciled> {
        match self {
            Self::Bridged(bridged) => bridged.reconcile(wanted).await,
            Self::User(user) => {
                user.reconcile(wanted);
                Ok(Reconciled::default())
            }
        }
    }

    /// What exists.
    ///
    /// # Errors
    /// It cannot be listed.
    pub async fn audit(&self) -> Result<Audit> {
        match self {
            Self::Bridged(bridged) => bridged.audit().await,
            Self::User(user) => Ok(Audit {
                forwards: user.forwards(),
                ..Audit::default()
            }),
        }
    }

    /// Removes dnsmasq, rules, taps, the tunnel and the bridge, and switches IPv4 forwarding off if it was and no other network of a
    /// cloud is left. Machines must have ended before.
    ///
    /// # Errors
    /// The first part that could not be removed; the others are removed all the same.
    pub async fn teardown(&self) -> Result<()> {
        match self {
            Self::Bridged(bridged) => bridged.teardown().await,
            Self::User(user) => {
                user.reconcile(&[]);
                Ok(())
            }
        }
    }

    /// How DHCP and DNS are; none in user mode, where QEMU does both.
    #[must_use]
    pub fn dhcp_health(&self) -> Option<watch::Receiver<DhcpHealth>> {
        match self {
            Self::Bridged(bridged) => Some(bridged.dhcp_health()),
            Self::User(_) => None,
        }
    }
}
