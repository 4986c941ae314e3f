//! IPv6 of a network: one prefix of 64 bits, and whose each address of it is. Pure.
//!
//! There is nothing to lease: a machine's address follows from its MAC (modified EUI-64, RFC 4291 appendix A), as its MAC
//! follows from its IPv4 address. It is the one that a guest makes for itself from a router's advertisement (RFC 4862).

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::address::{Ipv4Network, MacAddr, MacPrefix, PoolError};

/// Bits of a prefix: with more or less guests can't make their own address.
pub const PREFIX_LENGTH: u8 = 64;

/// A prefix of 64 bits of global or unique local addresses, written `fd12:3456:789a:1::/64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv6Prefix(u64);

/// Addresses that every machine has beside those of its network, on any link.
pub const LINK_LOCAL: Ipv6Prefix = Ipv6Prefix(0xfe80 << 48);

impl Ipv6Prefix {
    /// The address of the n-th number in it.
    const fn nth(self, n: u64) -> Ipv6Addr {
        Ipv6Addr::from_bits(((self.0 as u128) << 64) | n as u128)
    }

    /// First address, the prefix itself.
    #[must_use]
    pub fn address(self) -> Ipv6Addr {
        self.nth(0)
    }

    /// The host's own address on the network: the same on all hosts.
    #[must_use]
    pub fn gateway(self) -> Ipv6Addr {
        self.nth(1)
    }

    /// The address of the machine with this MAC.
    #[must_use]
    pub fn address_of(self, mac: MacAddr) -> Ipv6Addr {
        self.nth(interface_id(mac))
    }

    /// Whether the address is in it.
    #[must_use]
    pub fn contains(self, address: Ipv6Addr) -> bool {
        address.to_bits() >> 64 == self.0.into()
    }

    /// The `ip6.arpa` zone of exactly this prefix.
    #[must_use]
    pub fn reverse_zone(self) -> String {
        let mut zone = String::new();
        for digit in 0..16 {
            let digit = (self.0 >> (4 * digit)) & 0xf;
            zone.push_str(&format!("{digit:x}."));
        }
        zone + "ip6.arpa"
    }
}

/// The lower half of an address (RFC 4291 appendix A).
fn interface_id(mac: MacAddr) -> u64 {
    let [a, b, c, d, e, f] = mac.octets();
    u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// The lower halves that machines of an IPv4 network have, with MACs by rule: those that are `value` where `mask` has ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InterfaceIds {
    pub(crate) mask: u64,
    pub(crate) value: u64,
}

impl InterfaceIds {
    pub(crate) fn of(network: Ipv4Network) -> Self {
        let [a, b, c, d] = network.netmask().octets();
        Self {
            mask: u64::from_be_bytes([0xff, 0xff, a, 0xff, 0xff, b, c, d]),
            value: interface_id(MacPrefix::default().mac(network.address())),
        }
    }
}

impl fmt::Display for Ipv6Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{PREFIX_LENGTH}", self.address())
    }
}

impl FromStr for Ipv6Prefix {
    type Err = PoolError;

    fn from_str(text: &str) -> Result<Self, PoolError> {
        let wrong = || PoolError::Prefix(text.chars().take(60).collect());
        let (address, length) = text.split_once('/').ok_or_else(wrong)?;
        let address: Ipv6Addr = address.parse().map_err(|_| wrong())?;
        let bits = address.to_bits();
        // Global unicast (2000::/3) and unique local (fc00::/7) addresses.
        let usable = bits >> 125 == 0b001 || bits >> 121 == 0b111_1110;
        let prefix = Self((bits >> 64) as u64);
        if length != "64" || !usable || prefix.address() != address {
            return Err(wrong());
        }
        Ok(prefix)
    }
}

impl TryFrom<String> for Ipv6Prefix {
    type Error = PoolError;

    fn try_from(text: String) -> Result<Self, PoolError> {
        text.parse()
    }
}

impl From<Ipv6Prefix> for String {
    fn from(prefix: Ipv6Prefix) -> Self {
        prefix.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn the_address_of_a_machine_follows_from_its_mac() {
        let prefix: Ipv6Prefix = "fd12:3456:789a:1::/64".parse().unwrap();
        let mac = MacPrefix::default().mac(Ipv4Addr::new(10, 77, 0, 5));
        assert_eq!(
            prefix.address_of(mac).to_string(),
            "fd12:3456:789a:1:0:aff:fe4d:5"
        );
        assert_eq!(LINK_LOCAL.address_of(mac).to_string(), "fe80::aff:fe4d:5");
        assert_eq!(prefix.gateway().to_string(), "fd12:3456:789a:1::1");
        assert_eq!(
            prefix.reverse_zone(),
            "1.0.0.0.a.9.8.7.6.5.4.3.2.1.d.f.ip6.arpa"
        );
    }

    #[test]
    fn the_ids_of_a_network_are_those_of_its_machines() {
        let network: Ipv4Network = "10.77.4.0/22".parse().unwrap();
        let ids = InterfaceIds::of(network);
        let is_one = |address: &str| {
            let mac = MacPrefix::default().mac(address.parse().unwrap());
            interface_id(mac) & ids.mask == ids.value
        };
        assert!(is_one("10.77.4.1") && is_one("10.77.7.255"));
        assert!(!is_one("10.77.8.1") && !is_one("10.76.4.1") && !is_one("11.77.4.1"));
        // The gateway's own number is nobody's.
        assert_ne!(1 & ids.mask, ids.value);
    }

    #[test]
    fn only_prefixes_that_guests_can_use_are_taken() {
        for text in ["fd12:3456:789a:1::/64", "2001:db8::/64", "fd00::/64"] {
            assert_eq!(text.parse::<Ipv6Prefix>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "fd12::",
            "fd12::/63",
            "fd12::/065",
            "fd12::/ 64",
            "fd12::1/64",
            "fe80::/64",
            "ff02::/64",
            "::/64",
            "10.0.0.0/24",
            "64:ff9b::/64",
        ] {
            assert!(text.parse::<Ipv6Prefix>().is_err(), "{text}");
        }
    }
}
