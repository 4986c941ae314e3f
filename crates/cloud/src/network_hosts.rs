//! On which hosts a network is, once machines run on several.
//!
//! ```text
//!  a host that has joined takes machines ─▶ Network.hosts: every host with an address for the others, each with an address of its
//!  the last one of these is removed      ─▶ none                                       own on the network, leased with it
//! ```
//!
//! A host that is lost stays: its machines may well run, and be reached. It goes when it is removed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use cimi::{
    Acl, AddressId, Common, HostId, NetworkId, Timestamp,
    resources::{Network, NetworkClass, NetworkOnHost, NetworkState},
};
use tokio::time::timeout;

use crate::{Cloud, CloudError, Result, address::leased};

/// How long it rests when a network could not be written: one without a free address, until somebody gives one back.
const REST: Duration = Duration::from_secs(5);
/// Most leases that are made and ended in one transaction.
const LEASES_AT_ONCE: usize = 100;

/// Hosts, by what address others reach them, and what they are called.
type Reached = BTreeMap<HostId, (Ipv4Addr, Option<String>)>;

/// Keeps every network's list as its hosts are, until the caches stop. It may do so in several places at once.
pub(crate) async fn follow(cloud: Cloud) {
    let mut hosts = cloud.documents().hosts.changes();
    let mut troubles = BTreeMap::new();
    loop {
        if troubles.is_empty() {
            hosts.next().await;
        } else {
            let _ = timeout(REST, hosts.next()).await;
        }
        cloud.spread_networks(&mut troubles).await;
    }
}

impl Cloud {
    /// Each by itself: what is wrong with one keeps no host out of the others. What is wrong is told once.
    async fn spread_networks(&self, troubles: &mut BTreeMap<NetworkId, String>) {
        let hosts = self.hosts_with_networks();
        for network in self.documents().networks.all() {
            let id = &network.document.id;
            let ended = loop {
                match self.spread(id, &hosts).await {
                    Ok(true) | Err(CloudError::Conflict(_) | CloudError::Raced(_)) => {}
                    ended => break ended,
                }
            };
            let Err(error) = ended else {
                troubles.remove(id);
                continue;
            };
            let why = error.to_string();
            if troubles.get(id) != Some(&why) {
                tracing::warn!(
                    network = id.local(),
                    why,
                    "not all hosts have an address on it; will be tried again"
                );
                troubles.insert(id.clone(), why);
            }
        }
    }

    /// One step for one network; whether there may be more to take.
    async fn spread(&self, network: &NetworkId, hosts: &Reached) -> Result<bool> {
        let documents = self.documents();
        let Some(read) = documents.networks.get(network.local()) else {
            return Ok(false);
        };
        let nowhere = Reached::new();
        let wanted = match spans_hosts(&read) {
            true => hosts,
            false => &nowhere,
        };
        let (mut changes, mut left) = (documents.changes(), LEASES_AT_ONCE);
        let mut next = read.document.0.clone();
        next.hosts.clear();
        for known in &read.hosts {
            match wanted.get(&known.host) {
                Some((tunnel, _)) => next.hosts.push(NetworkOnHost {
                    tunnel: *tunnel,
                    ..known.clone()
                }),
                None if left == 0 => next.hosts.push(known.clone()),
                None => {
                    left -= 1;
                    let id = AddressId::of(network, known.address.into());
                    if let Some(lease) = documents.addresses.get(id.local()) {
                        changes = changes.remove(&lease);
                    }
                }
            }
        }
        let known: BTreeSet<_> = read.hosts.iter().map(|known| &known.host).collect();
        let newcomers = wanted.iter().filter(|(host, _)| !known.contains(host));
        let (mut reserved, mut full) = (Vec::new(), None);
        for (host, (tunnel, name)) in newcomers.take(left) {
            let lease = match self.0.leases.reserve(documents, &read, None) {
                Ok(lease) => lease,
                Err(error) => {
                    full = Some(error);
                    break;
                }
            };
            let IpAddr::V4(address) = lease.ip else {
                return Err(CloudError::Internal(format!("{}: {}", read.key, lease.ip)));
            };
            let mut common = Common::new(Acl::owned_by_admin(), Timestamp::now());
            common.name.clone_from(name);
            changes = changes.create(&leased(network, &lease, common, None));
            next.hosts.push(NetworkOnHost {
                host: host.clone(),
                tunnel: *tunnel,
                address,
            });
            reserved.push(lease);
        }
        next.hosts.sort_by(|one, other| one.host.cmp(&other.host));
        if next.hosts != read.hosts {
            changes.replace(&read, next).commit().await?;
        }
        match full {
            Some(error) => Err(error),
            None => Ok(left == reserved.len()),
        }
    }

    /// The hosts that have machines and reach each other; none as long as there is only the cloud's own.
    fn hosts_with_networks(&self) -> Reached {
        let mut hosts = self.documents().hosts.all();
        hosts.retain(|host| host.runs_machines() && host.tunnel.is_some());
        if !hosts.iter().any(|host| host.has_joined()) {
            hosts.clear();
        }
        let reached = hosts.iter().filter_map(|host| {
            let name = host.common.name.clone();
            Some((host.document.id.clone(), (host.tunnel?, name)))
        });
        reached.collect()
    }
}

/// Whether a network is joined by tunnels between hosts: where its machines reach those of others, have addresses that do, and
/// no Ethernet of the site joins them.
fn spans_hosts(network: &Network) -> bool {
    let local = network.class == NetworkClass::Private || network.bridge.is_some();
    network.state == NetworkState::Started && !network.forwarded && !local
}
