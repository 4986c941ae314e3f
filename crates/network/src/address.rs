//! IPv4 networks, address pools and MAC addresses. Pure: who uses an address is the caller's knowledge.
//!
//! IPv6 will be a second pool beside this one, not a case in it: there a network hands out prefixes, not single addresses.

use std::collections::{BTreeMap, BTreeSet};
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

    /// Whether the address lies in the network and can belong to a host.
    #[must_use]
    pub fn has_host(self, address: Ipv4Addr) -> bool {
        let number = u32::from(address);
        number & mask(self.prefix_len) == self.address
            && address != self.address()
            && address != self.broadcast()
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

#[derive(Debug, Clone)]
enum Members {
    Range {
        first: u32,
        last: u32,
    },
    /// Sorted by address.
    List(Vec<(Ipv4Addr, Option<MacAddr>)>),
}

/// The addresses a network gives to machines.
///
/// It never hands out the network's own address, the broadcast address, the gateway or a reserved one.
#[derive(Debug, Clone)]
pub struct AddressPool {
    network: Ipv4Network,
    gateway: Ipv4Addr,
    members: Members,
    reserved: BTreeSet<Ipv4Addr>,
    mac_prefix: MacPrefix,
}

impl AddressPool {
    /// A pool of all host addresses from `first` to `last` (by default the whole network).
    ///
    /// # Errors
    /// The gateway or an end of the range is no host address of the network, or the range is empty.
    pub fn range(
        network: Ipv4Network,
        gateway: Ipv4Addr,
        range: Option<(Ipv4Addr, Ipv4Addr)>,
    ) -> Result<Self, PoolError> {
        check("the gateway", gateway, network)?;
        let (first, last) = match range {
            None => (
                u32::from(network.address()) + 1,
                u32::from(network.broadcast()) - 1,
            ),
            Some((first, last)) => {
                check("the first address", first, network)?;
                check("the last address", last, network)?;
                if first > last {
                    return Err(PoolError::EmptyRange { first, last });
                }
                (first.into(), last.into())
            }
        };
        let members = Members::Range { first, last };
        Ok(Self {
            network,
            gateway,
            members,
            reserved: BTreeSet::new(),
            mac_prefix: MacPrefix::default(),
        })
    }

    /// A pool of exactly these addresses, each with its own MAC or one made by rule.
    ///
    /// # Errors
    /// An address that is no host address of the network, is the gateway, or is listed twice (as a MAC may not be).
    pub fn list(
        network: Ipv4Network,
        gateway: Ipv4Addr,
        entries: impl IntoIterator<Item = (Ipv4Addr, Option<MacAddr>)>,
    ) -> Result<Self, PoolError> {
        check("the gateway", gateway, network)?;
        let mut members = BTreeMap::new();
        let mut macs = BTreeSet::new();
        for (address, mac) in entries {
            check("the address", address, network)?;
            if address == gateway || members.insert(address, mac).is_some() {
                return Err(PoolError::Twice(address.to_string()));
            }
            if let Some(mac) = mac {
                if !mac.is_usable() {
                    return Err(PoolError::Mac(mac.to_string()));
                }
                if !macs.insert(mac) {
                    return Err(PoolError::Twice(mac.to_string()));
                }
            }
        }
        let members = Members::List(members.into_iter().collect());
        Ok(Self {
            network,
            gateway,
            members,
            reserved: BTreeSet::new(),
            mac_prefix: MacPrefix::default(),
        })
    }

    /// The same pool without these addresses.
    #[must_use]
    pub fn reserving(mut self, reserved: impl IntoIterator<Item = Ipv4Addr>) -> Self {
        self.reserved.extend(reserved);
        self
    }

    /// The same pool with another MAC prefix.
    #[must_use]
    pub fn with_mac_prefix(mut self, prefix: MacPrefix) -> Self {
        self.mac_prefix = prefix;
        self
    }

    /// The network.
    #[must_use]
    pub fn network(&self) -> Ipv4Network {
        self.network
    }

    /// The host's own address on the network.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        self.gateway
    }

    /// Whether the pool may hand out `address`.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.is_member(address)
            && self.network.has_host(address)
            && address != self.gateway
            && !self.reserved.contains(&address)
    }

    /// How many addresses the pool can hand out.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        // A range may be millions long: count what is taken out instead.
        let held: BTreeSet<_> = self
            .reserved
            .iter()
            .copied()
            .chain([self.gateway])
            .collect();
        let held = held
            .into_iter()
            .filter(|&address| self.is_member(address))
            .count();
        self.len()
            .saturating_sub(u32::try_from(held).unwrap_or(u32::MAX))
    }

    /// The MAC of an address: the listed one, else by rule.
    #[must_use]
    pub fn mac_of(&self, address: Ipv4Addr) -> MacAddr {
        let listed = match &self.members {
            Members::Range { .. } => None,
            Members::List(list) => list
                .binary_search_by_key(&address, |entry| entry.0)
                .ok()
                .and_then(|at| list.get(at))
                .and_then(|entry| entry.1),
        };
        listed.unwrap_or_else(|| self.mac_prefix.mac(address))
    }

    /// The first free address after `hint`, going round once; `None` when all are used.
    ///
    /// With the address handed out last as hint this looks at one or two addresses a call, as long as the pool is not
    /// nearly full; and an address given back is used again as late as possible, so that stale entries in guests'
    /// ARP tables and in users' `known_hosts` have time to die.
    pub fn next_free(
        &self,
        used: impl Fn(Ipv4Addr) -> bool,
        hint: Option<Ipv4Addr>,
    ) -> Option<Ipv4Addr> {
        let len = self.len();
        let start = hint.map_or(0, |hint| self.position_after(hint));
        (0..len)
            .filter_map(|step| {
                self.at(((u64::from(start) + u64::from(step)) % u64::from(len)) as u32)
            })
            .find(|&address| self.contains(address) && !used(address))
    }

    fn len(&self) -> u32 {
        match &self.members {
            Members::Range { first, last } => last - first + 1,
            Members::List(list) => u32::try_from(list.len()).unwrap_or(u32::MAX),
        }
    }

    fn at(&self, n: u32) -> Option<Ipv4Addr> {
        match &self.members {
            Members::Range { first, .. } => first.checked_add(n).map(Ipv4Addr::from),
            Members::List(list) => list.get(n as usize).map(|entry| entry.0),
        }
    }

    fn is_member(&self, address: Ipv4Addr) -> bool {
        match &self.members {
            Members::Range { first, last } => (*first..=*last).contains(&address.into()),
            Members::List(list) => list.binary_search_by_key(&address, |entry| entry.0).is_ok(),
        }
    }

    /// Position of the first member above `hint`, which need not be a member itself.
    fn position_after(&self, hint: Ipv4Addr) -> u32 {
        match &self.members {
            Members::Range { first, last } => {
                let hint = u32::from(hint);
                if hint < *first || hint >= *last {
                    0
                } else {
                    hint - first + 1
                }
            }
            Members::List(list) => {
                u32::try_from(list.partition_point(|entry| entry.0 <= hint)).unwrap_or(0)
            }
        }
    }
}

fn check(what: &'static str, address: Ipv4Addr, network: Ipv4Network) -> Result<(), PoolError> {
    if network.has_host(address) {
        Ok(())
    } else {
        Err(PoolError::Outside {
            what,
            address,
            network,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pool(network: &str, gateway: &str) -> AddressPool {
        AddressPool::range(network.parse().unwrap(), gateway.parse().unwrap(), None).unwrap()
    }

    #[test]
    fn the_mac_rule_is_stratuslabs() {
        let pool = pool("172.16.0.0/16", "172.16.0.1");
        assert_eq!(
            pool.mac_of("172.16.0.5".parse().unwrap()).to_string(),
            "02:00:ac:10:00:05"
        );
        let pool = pool.with_mac_prefix("0a:0a".parse().unwrap());
        assert_eq!(
            pool.mac_of("172.16.0.5".parse().unwrap()).to_string(),
            "0a:0a:ac:10:00:05"
        );
        assert!("01:00".parse::<MacPrefix>().is_err(), "multicast");
    }

    #[test]
    fn a_list_keeps_its_macs_and_refuses_doubles() {
        let network = "10.0.0.0/24".parse().unwrap();
        let gateway = "10.0.0.1".parse().unwrap();
        let a: Ipv4Addr = "10.0.0.9".parse().unwrap();
        let b: Ipv4Addr = "10.0.0.7".parse().unwrap();
        let mac: MacAddr = "52:54:00:00:00:01".parse().unwrap();
        let pool = AddressPool::list(network, gateway, [(a, Some(mac)), (b, None)]).unwrap();
        assert_eq!((pool.mac_of(a), pool.capacity()), (mac, 2));
        assert_eq!(pool.next_free(|_| false, None), Some(b));
        assert_eq!(pool.next_free(|_| false, Some(b)), Some(a));
        assert_eq!(pool.next_free(|_| false, Some(a)), Some(b));
        assert!(AddressPool::list(network, gateway, [(a, None), (a, None)]).is_err());
        assert!(AddressPool::list(network, gateway, [(a, Some(mac)), (b, Some(mac))]).is_err());
        assert!(AddressPool::list(network, gateway, [(gateway, None)]).is_err());
        assert!(
            AddressPool::list(network, gateway, [("10.0.1.9".parse().unwrap(), None)]).is_err()
        );
    }

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

    #[test]
    fn a_rotating_hint_looks_at_few_addresses() {
        let pool = pool("172.16.0.0/16", "172.16.0.1");
        let mut used = std::collections::HashSet::new();
        let looks = std::cell::Cell::new(0u32);
        let mut hint = None;
        while let Some(address) = pool.next_free(
            |a| {
                looks.set(looks.get() + 1);
                used.contains(&a)
            },
            hint,
        ) {
            used.insert(address);
            hint = Some(address);
            if used.len() == 60_000 {
                break;
            }
        }
        assert_eq!((used.len(), looks.get()), (60_000, 60_000));
    }

    proptest! {
        #[test]
        fn macs_survive_text(bytes: [u8; 6]) {
            let mac = MacAddr(bytes);
            prop_assert_eq!(mac.to_string().parse::<MacAddr>().unwrap(), mac);
            prop_assert_eq!(mac.to_string().to_uppercase().parse::<MacAddr>().unwrap(), mac);
        }

        #[test]
        fn all_addresses_are_handed_out_once_and_no_forbidden_one(
            base: u32, prefix in 24u8..=30, gateway in 1u32..3, reserved in proptest::collection::vec(0u32..256, 0..8), hint: u32,
        ) {
            let network = Ipv4Network::new(base.into(), prefix).unwrap();
            let gateway = network.nth(gateway).unwrap();
            let reserved: Vec<Ipv4Addr> = reserved.into_iter().filter_map(|n| network.nth(n)).collect();
            let pool = AddressPool::range(network, gateway, None).unwrap().reserving(reserved.clone());
            let mut used = BTreeSet::new();
            let mut hint = Some(Ipv4Addr::from(hint));
            while let Some(address) = pool.next_free(|a| used.contains(&a), hint) {
                prop_assert!(address != gateway && network.has_host(address) && !reserved.contains(&address));
                prop_assert!(used.insert(address));
                hint = Some(address);
            }
            prop_assert_eq!(used.len() as u32, pool.capacity());
        }

        #[test]
        fn what_is_handed_out_is_contained(first in 1u32..250, len in 0u32..5, hint: Option<u32>) {
            let network: Ipv4Network = "10.9.8.0/24".parse().unwrap();
            let last = (first + len).min(254);
            let range = Some((network.nth(first).unwrap(), network.nth(last).unwrap()));
            let pool = AddressPool::range(network, network.nth(1).unwrap(), range).unwrap();
            let got = pool.next_free(|_| false, hint.map(Ipv4Addr::from));
            prop_assert_eq!(got.is_some(), pool.capacity() > 0);
            if let Some(got) = got { prop_assert!(pool.contains(got)); }
        }
    }
}
