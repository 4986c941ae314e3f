//! IPv4 networks and MAC addresses as types.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A network or pool that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Not `a.b.c.d/len`.
    #[error("{0:?} is not an IPv4 network; write it as 172.16.0.0/16 (prefix 8 to 30)")]
    Network(String),
    /// Not a prefix of 64 bits.
    #[error(
        "{0:?} is not a prefix that machines can have; write 64 bits of your own, such as fd12:3456:789a:1::/64"
    )]
    Prefix(String),
    /// Not six bytes in hexadecimal.
    #[error("{0:?} is not a MAC address; write it as 02:00:ac:10:00:05")]
    Mac(String),
    /// Outside of the network, or its first or last address.
    #[error("{what} {address} is not a host address of {network}")]
    Outside {
        /// Role of the address.
        what: &'static str,
        /// The address.
        address: Ipv4Addr,
        /// The network.
        network: Ipv4Network,
    },
    /// First above last.
    #[error("the range {first} to {last} is empty; give the lower address first")]
    EmptyRange {
        /// Lower end.
        first: Ipv4Addr,
        /// Upper end.
        last: Ipv4Addr,
    },
    /// The same address or MAC twice.
    #[error("{0} is listed twice")]
    Twice(String),
}

/// A 48-bit MAC address, written `02:00:ac:10:00:05`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// The six bytes.
    #[must_use]
    pub fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Whether a NIC may have it: not multicast, not all zero.
    #[must_use]
    pub fn is_usable(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Exactly `N` pairs of hexadecimal digits with colons between.
fn hex_pairs<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let mut pairs = text.split(':');
    for byte in &mut bytes {
        let pair = pairs.next()?;
        if pair.len() != 2 || !pair.chars().all(|c| c.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    pairs.next().is_none().then_some(bytes)
}

impl FromStr for MacAddr {
    type Err = PoolError;

    fn from_str(text: &str) -> Result<Self, PoolError> {
        hex_pairs(text)
            .map(Self)
            .ok_or_else(|| PoolError::Mac(text.chars().take(40).collect()))
    }
}

impl TryFrom<String> for MacAddr {
    type Error = PoolError;

    fn try_from(text: String) -> Result<Self, PoolError> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> Self {
        mac.to_string()
    }
}

/// First two bytes of the MAC addresses made from IPv4 addresses; `02:00` unless configured.
///
/// The last four are always the address itself: guests of StratusLab's time derive their address from the MAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacPrefix([u8; 2]);

impl Default for MacPrefix {
    fn default() -> Self {
        Self([0x02, 0x00])
    }
}

impl MacPrefix {
    /// The MAC that belongs to `address`.
    #[must_use]
    pub fn mac(self, address: Ipv4Addr) -> MacAddr {
        let [a, b, c, d] = address.octets();
        MacAddr([self.0[0], self.0[1], a, b, c, d])
    }
}

impl FromStr for MacPrefix {
    type Err = PoolError;

    fn from_str(text: &str) -> Result<Self, PoolError> {
        hex_pairs(text)
            .filter(|bytes: &[u8; 2]| bytes[0] & 1 == 0)
            .map(Self)
            .ok_or_else(|| PoolError::Mac(text.chars().take(40).collect()))
    }
}

impl TryFrom<String> for MacPrefix {
    type Error = PoolError;

    fn try_from(text: String) -> Result<Self, PoolError> {
        text.parse()
    }
}

impl From<MacPrefix> for String {
    fn from(prefix: MacPrefix) -> Self {
        format!("{:02x}:{:02x}", prefix.0[0], prefix.0[1])
    }
}

/// An IPv4 network with a prefix of 8 to 30 bits, written `172.16.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, PartialOrd, Ord)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Network {
    address: u32,
    prefix_len: u8,
}

impl Ipv4Network {
    /// The network that contains `address`.
    ///
    /// # Errors
    /// A prefix outside 8 to 30 has no room for a gateway and a guest, or is not a network anyone owns.
    pub fn new(address: Ipv4Addr, prefix_len: u8) -> Result<Self, PoolError> {
        if !(8..=30).contains(&prefix_len) {
            return Err(PoolError::Network(format!("{address}/{prefix_len}")));
        }
        Ok(Self {
            address: u32::from(address) & mask(prefix_len),
            prefix_len,
        })
    }

    /// First address, the network's own.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        self.address.into()
    }

    /// Last address, the broadcast address.
    #[must_use]
    pub fn broadcast(self) -> Ipv4Addr {
        (self.address | !mask(self.prefix_len)).into()
    }

    /// Bits of the prefix.
    #[must_use]
    pub fn prefix_len(self) -> u8 {
        self.prefix_len
    }

    /// The mask, e.g. `255.255.0.0`.
    #[must_use]
    pub fn netmask(self) -> Ipv4Addr {
        mask(self.prefix_len).into()
    }

    /// The n-th address of the network, 0 being the network's own.
    #[must_use]
    pub fn nth(self, n: u32) -> Option<Ipv4Addr> {
        let address = self.address.checked_add(n)?;
        (address <= u32::from(self.broadcast())).then(|| address.into())
    }

    /// The network of four addresses around one.
    pub(crate) fn of_four(address: Ipv4Addr) -> Self {
        let prefix_len = 30;
        Self {
            address: u32::from(address) & mask(prefix_len),
            prefix_len,
        }
    }

    /// Whether the address lies in the network and can belong to a host.
    #[must_use]
    pub fn has_host(self, address: Ipv4Addr) -> bool {
        let number = u32::from(address);
        number & mask(self.prefix_len) == self.address
            && address != self.address()
            && address != self.broadcast()
    }

    /// Refuses an address that cannot belong to a host of the network; `what` is its role, for the message.
    ///
    /// # Errors
    /// [`PoolError::Outside`].
    pub fn check_host(self, what: &'static str, address: Ipv4Addr) -> Result<(), PoolError> {
        if self.has_host(address) {
            Ok(())
        } else {
            Err(PoolError::Outside {
                what,
                address,
                network: self,
            })
        }
    }

    /// The `in-addr.arpa` zones that cover exactly this network.
    #[must_use]
    pub fn reverse_zones(self) -> Vec<String> {
        // Zones end at whole bytes: a /22 is four zones of /24.
        let bytes = usize::from(self.prefix_len.div_ceil(8)).min(3);
        let step = 1u32 << (32 - 8 * bytes);
        let zones = (u64::from(u32::from(self.broadcast())) - u64::from(self.address))
            / u64::from(step)
            + 1;
        (0..zones as u32)
            .map(|n| {
                let octets = Ipv4Addr::from(self.address + n * step).octets();
                let labels: Vec<String> =
                    octets.iter().take(bytes).rev().map(u8::to_string).collect();
                format!("{}.in-addr.arpa", labels.join("."))
            })
            .collect()
    }
}

fn mask(prefix_len: u8) -> u32 {
    u32::MAX << (32 - u32::from(prefix_len))
}

impl fmt::Display for Ipv4Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.prefix_len)
    }
}

impl FromStr for Ipv4Network {
    type Err = PoolError;

    fn from_str(text: &str) -> Result<Self, PoolError> {
        let wrong = || PoolError::Network(text.chars().take(60).collect());
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        Self::new(
            address.parse().map_err(|_| wrong())?,
            prefix.parse().map_err(|_| wrong())?,
        )
        .map_err(|_| wrong())
    }
}

impl TryFrom<String> for Ipv4Network {
    type Error = PoolError;

    fn try_from(text: String) -> Result<Self, PoolError> {
        text.parse()
    }
}

impl From<Ipv4Network> for String {
    fn from(network: Ipv4Network) -> Self {
        network.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reverse_zones_cover_odd_prefixes() {
        let zones = |text: &str| text.parse::<Ipv4Network>().unwrap().reverse_zones();
        assert_eq!(zones("172.16.0.0/16"), ["16.172.in-addr.arpa"]);
        assert_eq!(zones("10.1.2.0/24"), ["2.1.10.in-addr.arpa"]);
        assert_eq!(zones("10.1.2.128/25"), ["2.1.10.in-addr.arpa"]);
        assert_eq!(zones("10.1.4.0/22").len(), 4);
        assert_eq!(
            zones("172.16.0.0/12").first().map(String::as_str),
            Some("16.172.in-addr.arpa")
        );
        assert_eq!(zones("172.16.0.0/12").len(), 16);
    }

    #[test]
    fn wrong_texts_are_refused() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0.0/31",
            "x/8",
            "10.0.0/8",
            "10.0.0.0/+8 ",
        ] {
            assert!(text.parse::<Ipv4Network>().is_err(), "{text}");
        }
        for text in [
            "",
            "02:00",
            "02:00:ac:10:00:05:",
            "2:0:ac:10:0:5",
            "02-00-ac-10-00-05",
            "+2:00:ac:10:00:05",
        ] {
            assert!(text.parse::<MacAddr>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn macs_survive_text(bytes: [u8; 6]) {
            let mac = MacAddr(bytes);
            prop_assert_eq!(mac.to_string().parse::<MacAddr>().unwrap(), mac);
            prop_assert_eq!(mac.to_string().to_uppercase().parse::<MacAddr>().unwrap(), mac);
        }
    }
}
