//! A network card: what the guest sees, and where its frames go.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::error::HypervisorError;

/// A network card.
#[derive(Debug, Clone)]
pub struct NicSpec {
    /// Hardware address.
    pub mac: MacAddress,
    /// The device the guest sees.
    pub model: NicModel,
    /// Where frames go.
    pub backend: NicBackend,
}

impl NicSpec {
    pub(super) fn check(&self) -> Result<(), HypervisorError> {
        match &self.backend {
            NicBackend::Tap { interface, .. } => {
                let fits = !interface.is_empty()
                    && interface.len() <= 15
                    && interface
                        .chars()
                        .all(|c| c.is_ascii_graphic() && !"/,:%".contains(c));
                if !fits {
                    return Err(HypervisorError::invalid(
                        "a tap's name",
                        interface,
                        "must be 1 to 15 printable characters without / , : %",
                    ));
                }
            }
            NicBackend::User(user) => {
                if let Some((_, bits)) = user.network
                    && !(8..=30).contains(&bits)
                {
                    return Err(HypervisorError::invalid(
                        "a user network's prefix",
                        bits.to_string(),
                        "must be 8 to 30",
                    ));
                }
            }
        }
        Ok(())
    }
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Which network card the guest sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NicModel {
    /// virtio-net, fast.
    #[default]
    Virtio,
    /// Intel 82540EM, for old guests.
    E1000,
    /// Realtek 8139, for very old guests.
    Rtl8139,
}

impl NicModel {
    /// QEMU's device name.
    #[must_use]
    pub fn driver(self) -> &'static str {
        match self {
            Self::Virtio => "virtio-net-pci",
            Self::E1000 => "e1000",
            Self::Rtl8139 => "rtl8139",
        }
    }
}

/// Where a card's frames go.
#[derive(Debug, Clone)]
pub enum NicBackend {
    /// A tap interface that exists.
    Tap {
        /// Its name.
        interface: String,
        /// An open queue of it; `None`: opened at launch by name, which needs the right to.
        descriptor: Option<Arc<OwnedFd>>,
    },
    /// QEMU's own user-mode network: no privilege, no reachability but by forwards.
    User(UserNetwork),
}

/// User-mode network of one card.
#[derive(Debug, Clone, Default)]
pub struct UserNetwork {
    /// Network and prefix length the guest gets its address in; QEMU's default 10.0.2.0/24.
    pub network: Option<(Ipv4Addr, u8)>,
    /// What the guest is told by DHCP; QEMU's defaults otherwise.
    pub lease: Option<UserLease>,
    /// Ports of this host handed to the guest.
    pub forwards: Vec<PortForward>,
}

/// What the DHCP server of a user-mode network tells the guest.
#[derive(Debug, Clone)]
pub struct UserLease {
    /// The guest's address.
    pub guest: Ipv4Addr,
    /// The router: the host as the guest sees it.
    pub gateway: Ipv4Addr,
    /// The resolver.
    pub dns: Ipv4Addr,
    /// The guest's name.
    pub hostname: network::Hostname,
    /// Its domain.
    pub domain: network::Domain,
}

/// A TCP port of this host that leads to one of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortForward {
    /// Address listened on. IPv4 only: QEMU's user network has no IPv6 forwards.
    pub host_address: Ipv4Addr,
    /// Port listened on.
    pub host_port: u16,
    /// Port in the guest.
    pub guest_port: u16,
}

impl PortForward {
    /// The address as a general one.
    #[must_use]
    pub fn host_ip(&self) -> IpAddr {
        IpAddr::V4(self.host_address)
    }
}
