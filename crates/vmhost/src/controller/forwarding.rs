//! Which networks of this host forward to which others: those of one forwarding group, by what the documents say; and with
//! which hosts they are one network. And what they have to know of security groups.
//!
//! A network begins with its peers and keeps them whether they are set up or not: until then there is nothing to forward to, and
//! one that could not be taken over after a restart may well be at work.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use cimi::{
    HostId,
    resources::{Machine, Network},
};
use network::{Overlay, Peer, Vni};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Shared, groups::Noticed};

/// What the firewall refused is tried again after this.
const AGAIN: Duration = Duration::from_secs(5);

/// Has networks forward as their documents say, until `stop`.
pub(super) async fn follow_groups(shared: Arc<Shared>, stop: CancellationToken) {
    let mut networks = shared.documents.networks.changes();
    let mut groups = shared.documents.security_groups.changes();
    let mut machines = shared.documents.machines.changes();
    let mut noticed = Noticed::default();
    let mut told = BTreeMap::new();
    // When what was refused is tried again, whatever happens until then.
    let mut again = None;
    let in_a_while = |all_well: bool| (!all_well).then(|| Instant::now() + AGAIN);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            // Of very many groups, few are those of machines here.
            changed = groups.next() => {
                if shared.has_members_of(changed.id()) {
                    let all_well = shared.tell_all_groups().await;
                    again = again.or(in_a_while(all_well));
                }
                continue;
            }
            changed = machines.next() => {
                let id = changed.id().to_owned();
                let ours = changed.present().filter(|machine| shared.has(machine));
                if noticed.differs(&id, ours.as_deref().map(|machine| &machine.document.0)) {
                    let all_well = shared.tell_all_groups().await;
                    again = again.or(in_a_while(all_well));
                }
                continue;
            }
            _ = networks.next() => {}
            () = shared.network_opened.notified() => {}
            () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
        }
        let groups = shared.tell_all_groups().await;
        again = in_a_while(shared.forward(&mut told).await && groups);
    }
}

impl Shared {
    /// The networks that one forwards to.
    pub(super) fn peers_of(&self, network: &str) -> BTreeSet<Peer> {
        let networks = self.documents.networks.all();
        let group = networks
            .iter()
            .find(|other| other.id.local() == network)
            .and_then(|network| network.forwarding_group.as_ref());
        let Some(group) = group else {
            return BTreeSet::new();
        };
        let is_other = |other: &Network| {
            let theirs = other.forwarding_group.as_ref();
            other.id.local() != network && theirs.is_some_and(|theirs| theirs.href == group.href)
        };
        let others = networks.iter().filter(|other| is_other(&other.document));
        others
            .filter_map(|other| self.setup.as_peer(other.id.local()))
            .collect()
    }

    /// Has all networks that are set up know the security groups of their machines; whether all went well.
    async fn tell_all_groups(&self) -> bool {
        let mut all_well = true;
        for (name, host) in self.networks_in_use() {
            if let Err(error) = self.tell_groups(&name, &host).await {
                tracing::warn!(network = name, %error, "its machines are held to security groups as they were; trying again");
                all_well = false;
            }
        }
        all_well
    }

    /// Whether a machine of this host, or one that comes to it, is in a security group.
    fn has_members_of(&self, group: &str) -> bool {
        let machines = self.documents.machines.by_index("securityGroup", group);
        machines.iter().any(|machine| self.has(machine))
    }

    /// Whether a machine is on this host, or comes to it.
    fn has(&self, machine: &Machine) -> bool {
        machine.host.as_ref() == Some(&self.host) || machine.moving_to() == Some(&self.host)
    }

    /// With which hosts a network of this one is one.
    fn overlay_of(&self, network: &str) -> Option<Overlay> {
        let network = self.documents.networks.get(network)?;
        overlay(&network, &self.host)
    }

    /// One round; whether all went well. What keeps a network from being joined stays so until somebody changes it, and is
    /// told once.
    async fn forward(&self, told: &mut BTreeMap<String, String>) -> bool {
        let mut all_well = true;
        // What is one network over several hosts is reached from each of them, whether it has machines there or not.
        for network in self.documents.networks.all() {
            if overlay(&network, &self.host).is_some()
                && let Err(error) = self.network(&network).await
            {
                tracing::warn!(network = network.id(), %error, "it can't be set up; trying again");
                all_well = false;
            }
        }
        for (name, host) in self.networks_in_use() {
            if let Err(error) = host.forward_to(self.peers_of(&name)).await {
                tracing::warn!(network = name, %error, "it can't be said which networks it forwards to; trying again");
                all_well = false;
            }
            let overlay = self.overlay_of(&name);
            if let Err(error) = host.set_overlay(overlay).await {
                let why = error.to_string();
                if told.get(&name) != Some(&why) {
                    tracing::warn!(
                        network = name,
                        why,
                        "machines on other hosts can't be reached on it; it will be tried again"
                    );
                    told.insert(name, why);
                }
                all_well = false;
            } else {
                told.remove(&name);
            }
        }
        all_well
    }
}

/// How a network is joined with the same on other hosts, as `host` sets it up; none if it is on this host alone.
#[must_use]
pub fn overlay(network: &Network, host: &HostId) -> Option<Overlay> {
    let own = network.hosts.iter().find(|one| one.host == *host)?;
    Some(Overlay {
        vni: Vni::of_subnet(network.subnet.parse().ok()?),
        local: own.tunnel,
        peers: network.hosts.iter().map(|one| one.tunnel).collect(),
        host_address: Some(own.address),
    })
}
