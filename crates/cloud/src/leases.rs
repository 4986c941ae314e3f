//! Address leases: which address a new machine gets.
//!
//! The existence of `Address/<network>.<ip>` is the lease, so the store itself makes sure that an address is leased
//! once. What is kept in memory here only avoids conflicts: where the last search ended, and the addresses of
//! creations that are on their way.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use cimi::{
    AddressId, NetworkId,
    resources::{Address, Network},
};
use documents::Documents;
use network::{AddressPool, Ipv4Network};
use parking_lot::Mutex;

use crate::{CloudError, Result};

#[derive(Debug, Default)]
struct Pending {
    taken: HashSet<AddressId>,
    hints: HashMap<NetworkId, Ipv4Addr>,
    /// How many addresses were in use when a search found none free. As long as no less are, none is.
    full: HashMap<NetworkId, usize>,
}

/// Finds free addresses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leases(Arc<Mutex<Pending>>);

/// An address that nobody else of this process will choose until this is dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    pub(crate) id: AddressId,
    pub(crate) ip: IpAddr,
    pub(crate) mac: String,
    pending: Arc<Mutex<Pending>>,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.pending.lock().taken.remove(&self.id);
    }
}

impl Leases {
    /// Reserves `wanted`, or any free address of the network.
    pub(crate) fn reserve(
        &self,
        documents: &Documents,
        network: &Network,
        wanted: Option<IpAddr>,
    ) -> Result<Reserved> {
        let pool = pool_of(network)?;
        let mut pending = self.0.lock();
        let used = |ip: Ipv4Addr| {
            let id = AddressId::of(&network.id, ip.into());
            pending.taken.contains(&id) || documents.addresses.get(id.local()).is_some()
        };
        let ip = match wanted {
            None => {
                let in_use = in_use(documents, &pending, &network.id);
                let full = pending.full.get(&network.id);
                let free = if full.is_some_and(|full| in_use >= *full) {
                    None
                } else {
                    pool.next_free(used, pending.hints.get(&network.id).copied())
                };
                let Some(ip) = free else {
                    pending.full.insert(network.id.clone(), in_use);
                    return Err(CloudError::Exhausted(format!(
                        "all {} addresses of network {} are in use; try again when a machine was removed, or choose \
                         another network",
                        pool.capacity(),
                        network.id.local()
                    )));
                };
                pending.full.remove(&network.id);
                ip
            }
            Some(IpAddr::V4(ip)) if pool.contains(ip) => {
                if used(ip) {
                    return Err(CloudError::Conflict(format!("address {ip} is in use")));
                }
                ip
            }
            Some(other) => {
                return Err(CloudError::invalid(
                    "machineTemplate.networkInterfaces.addresses",
                    format!(
                        "{other} can't be leased: network {} leases {} to {}",
                        network.id.local(),
                        network.first,
                        network.last
                    ),
                ));
            }
        };
        let id = AddressId::of(&network.id, ip.into());
        pending.taken.insert(id.clone());
        pending.hints.insert(network.id.clone(), ip);
        Ok(Reserved {
            id,
            ip: ip.into(),
            mac: pool.mac_of(ip).to_string(),
            pending: self.0.clone(),
        })
    }
}

/// How many addresses of a network are leased, or reserved for creations on their way.
fn in_use(documents: &Documents, pending: &Pending, network: &NetworkId) -> usize {
    let prefix = format!("{}.", network.local());
    let reserved = pending.taken.iter().filter(|id| {
        id.local().starts_with(&prefix) && documents.addresses.get(id.local()).is_none()
    });
    documents
        .addresses
        .count_by_index("network", network.local())
        + reserved.count()
}

/// What to tell of leased addresses that their network leases no more, since it was configured to lease others.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct LeftOver {
    /// Of those that their holders keep.
    pub(crate) kept: Option<String>,
    /// Of the one that is the gateway's now, too.
    pub(crate) gateways: Option<String>,
}

pub(crate) fn left_over<'a>(
    network: &Network,
    leased: impl IntoIterator<Item = &'a Address>,
) -> Result<LeftOver> {
    let pool = pool_of(network)?;
    let name = network.id.local();
    let mut told = LeftOver::default();
    let mut left: Vec<Ipv4Addr> = Vec::new();
    for address in leased {
        match address.ip {
            IpAddr::V4(ip) if ip == network.gateway => {
                let holder = match &address.resource {
                    Some(machine) => format!("leased to {}", machine.href),
                    None => format!("kept by a user ({})", address.id),
                };
                told.gateways = Some(format!(
                    "the gateway {ip} of network {name} is {holder}, too, and can't be both: configure another `gateway`, \
                     or have that removed"
                ));
            }
            IpAddr::V4(ip) if !pool.contains(ip) => left.push(ip),
            _ => {}
        }
    }
    let Some(lowest) = left.iter().min() else {
        return Ok(told);
    };
    let mut text = format!(
        "network {name} leases {} to {} now, and {} of its leased addresses are others ({lowest} is the lowest): who has them keeps \
         them until they are given back",
        network.first,
        network.last,
        left.len(),
    );
    let outside = left.iter().filter(|ip| !pool.network().has_host(**ip));
    let outside = outside.count();
    if outside > 0 {
        text += &format!(
            "; {outside} of them are outside of `subnet`: their machines reach nobody and can't be started again; make it what it \
             was, or have them removed"
        );
    }
    told.kept = Some(text);
    Ok(told)
}

/// The pool that a network's document describes.
fn pool_of(network: &Network) -> Result<AddressPool> {
    let broken = |error| CloudError::Internal(format!("{}: {error}", network.id));
    let subnet: Ipv4Network = network.subnet.parse().map_err(broken)?;
    AddressPool::range(subnet, network.gateway, Some((network.first, network.last))).map_err(broken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cimi::{Acl, Common, MachineId, Ref, Timestamp, resources::NetworkClass};
    use serde_json::Map;

    #[test]
    fn leases_that_the_configuration_lacks_are_told_with_what_becomes_of_them() {
        let settings = crate::testing::network("public", NetworkClass::Public);
        let mut network = crate::network::document(&settings).expect("a network");
        network.subnet = "10.99.1.0/24".to_owned();
        network.gateway = [10, 99, 1, 1].into();
        (network.first, network.last) = ([10, 99, 1, 50].into(), [10, 99, 1, 99].into());
        let holder = MachineId::generate();
        let address = |ip: [u8; 4], machine: Option<&MachineId>| Address {
            id: AddressId::of(&network.id, ip.into()),
            common: Common::new(Acl::owned_by_admin(), Timestamp::now()),
            ip: ip.into(),
            mac: "02:00:0a:63:01:0a".to_owned(),
            hostname: "one".to_owned(),
            network: Ref::to(network.id.clone()),
            resource: machine.map(|machine| Ref::to(machine.clone())),
            kept: machine.is_none(),
            used_since: None,
            unknown: Map::new(),
        };
        let told = |leased: &[[u8; 4]]| {
            let leased: Vec<_> = leased
                .iter()
                .map(|ip| address(*ip, Some(&holder)))
                .collect();
            left_over(&network, &leased).expect("a pool")
        };
        assert_eq!(told(&[]), LeftOver::default());
        let all_are_its = told(&[[10, 99, 1, 50], [10, 99, 1, 99]]);
        assert_eq!(all_are_its, LeftOver::default());
        let others = told(&[[10, 99, 1, 60], [10, 99, 1, 100], [10, 99, 1, 10]]);
        let text = others.kept.expect("two are others");
        assert!(
            text.contains("10.99.1.50 to 10.99.1.99 now, and 2 of"),
            "{text}"
        );
        assert!(text.contains("(10.99.1.10 is the lowest)"), "{text}");
        assert!(!text.contains("subnet"), "{text}");
        let text = told(&[[10, 99, 2, 10], [10, 99, 1, 9]]).kept;
        let text = text.expect("two are others");
        assert!(text.contains("1 of them are outside of `subnet`"), "{text}");
        assert!(text.contains("can't be started again"), "{text}");
        // The gateway's is none of the others, who have it or not.
        let its = told(&[[10, 99, 1, 1], [10, 99, 1, 60]]);
        let text = its.gateways.expect("the gateway's");
        let says = format!("gateway 10.99.1.1 of network public is leased to {holder}");
        assert!(text.contains(&says), "{text}");
        assert_eq!(its.kept, None);
        let its = left_over(&network, [&address([10, 99, 1, 1], None)]).expect("a pool");
        let text = its.gateways.expect("the gateway's");
        assert!(text.contains("Address/public.10.99.1.1"), "{text}");
    }
}
