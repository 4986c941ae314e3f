//! Address pools. Pure: who uses an address is the caller's knowledge.
//!
//! IPv6 addresses have none: they follow from MACs ([`ipv6`](crate::ipv6)).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::address::{Ipv4Network, MacAddr, MacPrefix, PoolError};

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
        network.check_host("the gateway", gateway)?;
        let (first, last) = match range {
            None => (
                u32::from(network.address()) + 1,
                u32::from(network.broadcast()) - 1,
            ),
            Some((first, last)) => {
                network.check_host("the first address", first)?;
                network.check_host("the last address", last)?;
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
        network.check_host("the gateway", gateway)?;
        let mut members = BTreeMap::new();
        let mut macs = BTreeSet::new();
        for (address, mac) in entries {
            network.check_host("the address", address)?;
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
