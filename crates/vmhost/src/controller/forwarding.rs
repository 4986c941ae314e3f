//! Which networks of this host forward to which others: those of one forwarding group, by what the documents say. A network
//! begins with its peers and keeps them whether they are set up or not: until then there is nothing to forward to, and one
//! that could not be taken over after a restart may well be at work.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use cimi::resources::Network;
use network::Peer;
use tokio_util::sync::CancellationToken;

use super::Shared;

/// What the firewall refused is tried again after this.
const AGAIN: Duration = Duration::from_secs(5);

/// Has networks forward as their documents say, until `stop`.
pub(super) async fn follow_groups(shared: Arc<Shared>, stop: CancellationToken) {
    let mut networks = shared.documents.networks.changes();
    let mut refused = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = networks.next() => {}
            () = shared.network_opened.notified() => {}
            () = tokio::time::sleep(AGAIN), if refused => {}
        }
        refused = !shared.forward().await;
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

    /// One round; whether all went well.
    async fn forward(&self) -> bool {
        let mut all_well = true;
        for (name, host) in self.networks_in_use() {
            if let Err(error) = host.forward_to(self.peers_of(&name)).await {
                tracing::warn!(network = name, %error, "it can't be said which networks it forwards to; trying again");
                all_well = false;
            }
        }
        all_well
    }
}
