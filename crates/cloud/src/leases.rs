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

/// The pool that a network's document describes.
fn pool_of(network: &Network) -> Result<AddressPool> {
    let broken = |error| CloudError::Internal(format!("{}: {error}", network.id));
    let subnet: Ipv4Network = network.subnet.parse().map_err(broken)?;
    AddressPool::range(subnet, network.gateway, Some((network.first, network.last))).map_err(broken)
}
