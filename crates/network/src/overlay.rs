//! One network over several hosts: what has to be known for it. Pure.
//!
//! Each host has the bridge of the network with the same gateway, answers DHCP and DNS for its own guests and lets them out
//! itself; a VXLAN device joins the bridges, every host to every other. So there is no centre, and a host that dies takes
//! nothing along but its own guests. What belongs to each host (the gateway, DHCP) doesn't cross: see [`ruleset`](crate::ruleset).

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;

use crate::address::{Ipv4Network, MacAddr, MacPrefix, PoolError};

/// What VXLAN adds to a packet over IPv4: outer IP and UDP headers, its own, and the inner Ethernet header (RFC 7348 §5).
pub const TUNNEL_OVERHEAD: u16 = 20 + 8 + 8 + 14;

/// The UDP port of VXLAN (RFC 7348 §5).
pub const VXLAN_PORT: u16 = 4789;

/// The number that tells networks apart that share hosts: 1 to 16,777,215. The same on all hosts of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vni(u32);

impl Vni {
    /// The number, if it is in the range.
    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        (1..1 << 24).contains(&number).then_some(Self(number))
    }

    /// The number of a network that was given none: the first three bytes of its subnet, so that all hosts find the same
    /// one. Two networks of less than 256 addresses can have the same.
    #[must_use]
    pub fn of_subnet(subnet: Ipv4Network) -> Self {
        // At least 1, since the first byte of a subnet that guests can have isn't 0.
        Self((subnet.address().to_bits() >> 8).max(1))
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a network of this host is joined with the same network on others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Which network it is, to the other hosts.
    pub vni: Vni,
    /// This host's address between the hosts; an interface must have it.
    pub local: Ipv4Addr,
    /// Addresses of the other hosts of this network. Ours among them does no harm.
    pub peers: BTreeSet<Ipv4Addr>,
    /// An address of the network that only this host has, by which it speaks to guests of other hosts itself: their
    /// answers to the gateway's address would go to their own host. Not one that machines can be given. Without it, this
    /// host reaches its own guests only.
    pub host_address: Option<Ipv4Addr>,
}

impl Overlay {
    /// The other hosts.
    pub fn others(&self) -> impl Iterator<Item = Ipv4Addr> {
        let local = self.local;
        self.peers
            .iter()
            .copied()
            .filter(move |peer| *peer != local)
    }

    /// The MAC by which guests of other hosts know this host.
    #[must_use]
    pub fn host_mac(&self) -> Option<MacAddr> {
        self.host_address
            .map(|address| MacPrefix::default().mac(address))
    }

    /// Refuses a host address that can't be used in a network with this gateway.
    ///
    /// # Errors
    /// It is outside of the network, or the gateway's.
    pub fn check(&self, network: Ipv4Network, gateway: Ipv4Addr) -> Result<(), PoolError> {
        let Some(address) = self.host_address else {
            return Ok(());
        };
        network.check_host("the host's own address", address)?;
        if address == gateway {
            return Err(PoolError::Twice(address.to_string()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_that_do_not_overlap_have_numbers_of_their_own_down_to_256_addresses() {
        let vni = |subnet: &str| Vni::of_subnet(subnet.parse().unwrap());
        assert_eq!(vni("10.77.0.0/24").number(), 0x000a_4d00);
        assert_ne!(vni("10.77.0.0/24"), vni("10.77.1.0/24"));
        assert_ne!(vni("10.0.0.0/8"), vni("11.0.0.0/8"));
        assert_eq!(vni("10.77.0.0/25"), vni("10.77.0.128/25"));
    }

    #[test]
    fn numbers_have_24_bits() {
        assert_eq!((Vni::new(0), Vni::new(1 << 24)), (None, None));
        assert_eq!(Vni::new((1 << 24) - 1).unwrap().number(), 0x00ff_ffff);
    }

    #[test]
    fn the_gateways_address_and_those_of_elsewhere_are_no_address_of_a_host() {
        let network = "172.16.0.0/24".parse().unwrap();
        let gateway = Ipv4Addr::new(172, 16, 0, 1);
        let with = |last| Overlay {
            vni: Vni::of_subnet(network),
            local: Ipv4Addr::LOCALHOST,
            peers: BTreeSet::new(),
            host_address: Some(Ipv4Addr::new(172, 16, 0, last)),
        };
        assert!(with(250).check(network, gateway).is_ok());
        assert!(with(1).check(network, gateway).is_err());
        assert!(with(255).check(network, gateway).is_err());
    }
}
