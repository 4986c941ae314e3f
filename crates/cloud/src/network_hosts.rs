//! On which hosts a network is, once machines run on several.
//!
//! ```text
//!  a host that has joined takes machines ─▶ Network.hosts: every host with an address for the others, each with an address of its
//!  the last one of these is removed      ─▶ none                                       own on the network, leased with it
//! ```
//!
//! A host that is lost stays: its machines may well run, and be reached. It goes when it is removed.

use std::time::Duration;

use cimi::{
    Acl, Common, Timestamp,
    resources::{Host, Network, NetworkClass, NetworkOnHost, NetworkState},
};
use documents::Cached;
use tokio::time::sleep;

use crate::{Cloud, CloudError, Result, address::leased};

/// How long a round rests that could not be written.
const REST: Duration = Duration::from_secs(5);

/// Keeps every network's list as its hosts are, until the caches stop. It may do so in several places at once.
pub(crate) async fn follow(cloud: Cloud) {
    let mut hosts = cloud.documents().hosts.changes();
    loop {
        hosts.next().await;
        while let Err(error) = cloud.spread_networks().await {
            tracing::warn!(%error, "on which hosts networks are could not be written; will be tried again");
            sleep(REST).await;
        }
    }
}

impl Cloud {
    async fn spread_networks(&self) -> Result<()> {
        for network in self.documents().networks.all() {
            while let Err(error) = self.spread(network.id()).await {
                match error {
                    CloudError::Conflict(_) => {}
                    other => return Err(other),
                }
            }
        }
        Ok(())
    }

    async fn spread(&self, network: &str) -> Result<()> {
        let documents = self.documents();
        let Some(read) = documents.networks.get(network) else {
            return Ok(());
        };
        let wanted = match spans_hosts(&read) {
            true => self.hosts_with_networks(),
            false => Vec::new(),
        };
        let mut next = read.document.0.clone();
        next.hosts.clear();
        let mut changes = documents.changes();
        let mut reserved = Vec::new();
        for host in &wanted {
            let Some(tunnel) = host.tunnel else { continue };
            let known = read.hosts.iter().find(|known| known.host == host.id);
            let address = match known {
                Some(known) => known.address,
                None => {
                    let lease = self.0.leases.reserve(documents, &read, None)?;
                    let mut common = Common::new(Acl::owned_by_admin(), Timestamp::now());
                    common.name = host.common.name.clone();
                    changes = changes.create(&leased(&read.document.id, &lease, common, None));
                    let std::net::IpAddr::V4(address) = lease.ip else {
                        return Err(CloudError::Internal(format!("{}: {}", read.key, lease.ip)));
                    };
                    reserved.push(lease);
                    address
                }
            };
            let host = host.id.clone();
            next.hosts.push(NetworkOnHost {
                host,
                tunnel,
                address,
            });
        }
        if next.hosts == read.hosts {
            return Ok(());
        }
        let gone = |known: &&NetworkOnHost| next.hosts.iter().all(|host| host.host != known.host);
        for known in read.hosts.iter().filter(gone) {
            let id = cimi::AddressId::of(&read.document.id, known.address.into());
            if let Some(lease) = documents.addresses.get(id.local()) {
                changes = changes.remove(&lease);
            }
        }
        let written = changes.replace(&read, next).commit().await;
        written.map(drop).map_err(CloudError::from)
    }

    /// The hosts that have machines and reach each other, by id; none as long as there is only the cloud's own.
    fn hosts_with_networks(&self) -> Vec<std::sync::Arc<Cached<Host>>> {
        let mut hosts = self.documents().hosts.all();
        hosts.retain(|host| host.runs_machines() && host.tunnel.is_some());
        if !hosts.iter().any(|host| host.has_joined()) {
            hosts.clear();
        }
        hosts.sort_by(|one, other| one.id.cmp(&other.id));
        hosts
    }
}

/// Whether a network is one over several hosts: where its machines reach those of others, and have addresses that do.
fn spans_hosts(network: &Network) -> bool {
    let local = network.class == NetworkClass::Private;
    network.state == NetworkState::Started && !network.forwarded && !local
}
