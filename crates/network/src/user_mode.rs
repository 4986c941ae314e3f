//! Machines behind QEMU's own user-mode network (slirp): no privileges, no address others can reach, but SSH forwarded
//! from a port of 127.0.0.1.
//!
//! A port is reserved by a socket that is bound to it and never listens. With `SO_REUSEADDR` on both, Linux lets QEMU
//! bind and listen on the same port meanwhile, while a port chosen by the kernel for anybody else is never this one. So the
//! reservation need not be given up at the moment QEMU takes over, and nobody can come between.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
use serde::{Deserialize, Serialize};

use crate::address::Ipv4Network;
use crate::error::{NetworkError, Result};
use crate::host::{Attachment, PlugRequest, Plugged, Ready};
use crate::name::{Domain, Hostname, InstanceTag, NicTag};

const SSH_PORT: u16 = 22;

/// The network as the administrator configures it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserModeConfig {
    /// Names of interfaces, as with a bridge.
    pub instance: InstanceTag,
    /// The network each guest sees; every guest is alone in its own copy.
    pub network: Ipv4Network,
    /// The host as the guest sees it.
    pub gateway: Ipv4Addr,
    /// Domain told to guests.
    pub domain: Domain,
    /// Lowest port for forwarding; below the ports the kernel chooses by itself (32768 by default).
    #[serde(default = "lowest_port")]
    pub first_port: u16,
    /// Highest port for forwarding.
    #[serde(default = "highest_port")]
    pub last_port: u16,
}

fn lowest_port() -> u16 {
    22000
}

fn highest_port() -> u16 {
    27999
}

impl UserModeConfig {
    /// A configuration with the default ports.
    #[must_use]
    pub fn new(
        instance: InstanceTag,
        network: Ipv4Network,
        gateway: Ipv4Addr,
        domain: Domain,
    ) -> Self {
        Self {
            instance,
            network,
            gateway,
            domain,
            first_port: lowest_port(),
            last_port: highest_port(),
        }
    }
}

/// The parameters of `-netdev user`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserNetdev {
    /// The guest's network.
    pub network: Ipv4Network,
    /// The host in it.
    pub gateway: Ipv4Addr,
    /// The resolver in it, which asks the host's.
    pub dns: Ipv4Addr,
    /// The guest's address.
    pub guest: Ipv4Addr,
    /// The guest's name.
    pub hostname: Hostname,
    /// The guest's domain.
    pub domain: Domain,
    /// Port of 127.0.0.1 that leads to the guest's SSH. Worth recording: a port given in [`PlugRequest`] is kept.
    pub ssh_port: u16,
}

impl UserNetdev {
    /// The value of `-netdev` with this id.
    #[must_use]
    pub fn argument(&self, id: &str) -> String {
        let Self {
            network,
            gateway,
            dns,
            guest,
            hostname,
            domain,
            ssh_port,
        } = self;
        format!(
            "user,id={id},ipv6=off,net={network},host={gateway},dns={dns},dhcpstart={guest},hostname={hostname},domainname={domain},\
             hostfwd=tcp:127.0.0.1:{ssh_port}-{guest}:{SSH_PORT}"
        )
    }
}

#[derive(Debug)]
struct Forward {
    port: u16,
    /// None when the machine itself was found listening: then it holds the port.
    _reservation: Option<OwnedFd>,
}

#[derive(Debug, Default)]
struct Forwards {
    by_nic: BTreeMap<NicTag, Forward>,
    last: Option<u16>,
}

/// The forwarded ports of this host.
#[derive(Debug)]
pub struct UserMode {
    config: UserModeConfig,
    forwards: Mutex<Forwards>,
}

impl UserMode {
    /// Nothing is reserved yet.
    #[must_use]
    pub fn new(config: UserModeConfig) -> Self {
        Self {
            config,
            forwards: Mutex::default(),
        }
    }

    pub(crate) fn plug(&self, request: &PlugRequest) -> Result<Plugged> {
        self.config
            .network
            .check_host("the address of a machine", request.ip)?;
        let port = self.reserve(&request.nic, request.ssh_port)?;
        let netdev = UserNetdev {
            network: self.config.network,
            gateway: self.config.gateway,
            dns: self.resolver(request.ip),
            guest: request.ip,
            hostname: request.ip.into(),
            domain: self.config.domain.clone(),
            ssh_port: port,
        };
        Ok(Plugged {
            ifname: self.config.instance.tap(&request.nic),
            attachment: Attachment::User(netdev),
            ready: Ready {
                firewall: None,
                dnsmasq: None,
            },
        })
    }

    pub(crate) fn unplug(&self, nic: &NicTag) {
        self.forwards.lock().by_nic.remove(nic);
    }

    /// Ports of running machines are taken as recorded; all others are given up.
    pub(crate) fn reconcile(&self, wanted: &[PlugRequest]) {
        let mut forwards = self.forwards.lock();
        let mut old = std::mem::take(&mut forwards.by_nic);
        for request in wanted {
            let kept = old
                .remove(&request.nic)
                .filter(|forward| request.ssh_port.is_none_or(|port| port == forward.port));
            let forward = kept.or_else(|| {
                let port = request.ssh_port?;
                Some(Forward {
                    port,
                    _reservation: reserve_again(port).ok(),
                })
            });
            if let Some(forward) = forward {
                forwards.by_nic.insert(request.nic.clone(), forward);
            }
        }
    }

    pub(crate) fn forwards(&self) -> BTreeMap<NicTag, u16> {
        self.forwards
            .lock()
            .by_nic
            .iter()
            .map(|(nic, forward)| (nic.clone(), forward.port))
            .collect()
    }

    fn reserve(&self, nic: &NicTag, recorded: Option<u16>) -> Result<u16> {
        let mut forwards = self.forwards.lock();
        let recorded = recorded.or_else(|| forwards.by_nic.get(nic).map(|forward| forward.port));
        forwards.by_nic.remove(nic);
        let taken = |forwards: &Forwards, port: u16| {
            forwards.by_nic.values().any(|forward| forward.port == port)
        };
        if let Some(port) = recorded
            && !taken(&forwards, port)
            && let Ok(socket) = reserve_again(port)
        {
            forwards.by_nic.insert(
                nic.clone(),
                Forward {
                    port,
                    _reservation: Some(socket),
                },
            );
            return Ok(port);
        }
        let (first, last) = (self.config.first_port, self.config.last_port);
        let start = forwards
            .last
            .filter(|port| (first..last).contains(port))
            .map_or(first, |port| port + 1);
        for port in (start..=last).chain(first..start) {
            if taken(&forwards, port) {
                continue;
            }
            match reserve_new(port) {
                Ok(socket) => {
                    forwards.by_nic.insert(
                        nic.clone(),
                        Forward {
                            port,
                            _reservation: Some(socket),
                        },
                    );
                    forwards.last = Some(port);
                    return Ok(port);
                }
                Err(Errno::ADDRINUSE | Errno::ACCESS) => {}
                Err(error) => {
                    return Err(NetworkError::Socket {
                        what: format!("reserving 127.0.0.1:{port}"),
                        source: error.into(),
                    });
                }
            }
        }
        Err(NetworkError::NoFreePort { first, last })
    }

    /// An address for the resolver that is neither the host nor the guest. A network of the smallest size has none
    /// left; then the host's, which answers nothing there.
    fn resolver(&self, guest: Ipv4Addr) -> Ipv4Addr {
        let network = self.config.network;
        (1..=3)
            .rev()
            .filter_map(|n| network.nth(n))
            .find(|&address| {
                network.has_host(address) && address != self.config.gateway && address != guest
            })
            .unwrap_or(self.config.gateway)
    }
}

fn bound(port: u16, reuse_at_bind: bool) -> rustix::io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    sockopt::set_socket_reuseaddr(&socket, reuse_at_bind)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    // From now on QEMU may bind it too.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    Ok(socket)
}

/// A port nobody has, another reservation of this kind included.
fn reserve_new(port: u16) -> rustix::io::Result<OwnedFd> {
    bound(port, false)
}

/// A port that was ours: connections of the machine's last life may still linger on it.
fn reserve_again(port: u16) -> rustix::io::Result<OwnedFd> {
    bound(port, true)
}
