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

use cimi::{AddressId, NetworkId, resources::Network};
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

/// What to tell of leased addresses that their network leases no more, since it was configured to lease others; none: there are
/// no such.
pub(crate) fn left_over(
    network: &Network,
    leased: impl IntoIterator<Item = IpAddr>,
) -> Result<Option<String>> {
    let pool = pool_of(network)?;
    let is_left = |ip: &IpAddr| matches!(ip, IpAddr::V4(ip) if !pool.contains(*ip));
    let left: Vec<IpAddr> = leased.into_iter().filter(is_left).collect();
    let Some(lowest) = left.iter().min() else {
        return Ok(None);
    };
    let mut text = format!(
        "network {} leases {} to {} now, and {} of its leased addresses are others ({lowest} is the lowest): who has them keeps \
         them until they are given back",
        network.id.local(),
        network.first,
        network.last,
        left.len(),
    );
    let is_outside = |ip: &IpAddr| matches!(ip, IpAddr::V4(ip) if !pool.network().has_host(*ip));
    if left.iter().any(is_outside) {
        text += "; those outside of `subnet` reach nobody: make it what it was, or remove their machines";
    }
    Ok(Some(text))
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
    use cimi::resources::NetworkClass;

    #[test]
    fn leases_that_the_configuration_lacks_are_told_with_what_becomes_of_them() {
        let settings = crate::testing::network("public", NetworkClass::Public);
        let mut network = crate::network::document(&settings).expect("a network");
        network.subnet = "10.99.1.0/24".to_owned();
        network.gateway = [10, 99, 1, 1].into();
        (network.first, network.last) = ([10, 99, 1, 50].into(), [10, 99, 1, 99].into());
        let told = |leased: &[[u8; 4]]| {
            let leased = leased.iter().map(|ip| IpAddr::from(*ip));
            left_over(&network, leased).expect("a pool")
        };
        assert_eq!(told(&[]), None);
        assert_eq!(told(&[[10, 99, 1, 50], [10, 99, 1, 99]]), None);
        let text = told(&[[10, 99, 1, 60], [10, 99, 1, 100], [10, 99, 1, 10]]);
        let text = text.expect("two are others");
        assert!(
            text.contains("10.99.1.50 to 10.99.1.99 now, and 2 of"),
            "{text}"
        );
        assert!(text.contains("(10.99.1.10 is the lowest)"), "{text}");
        assert!(!text.contains("subnet"), "{text}");
        let text = told(&[[10, 99, 2, 10]]).expect("one is another");
        assert!(text.contains("outside of `subnet`"), "{text}");
    }
}
