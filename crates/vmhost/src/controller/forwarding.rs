//! Which networks of this host forward to which others: those of one forwarding group, as far as they are set up here.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

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
    /// One round; whether all went well.
    async fn forward(&self) -> bool {
        let in_use = self.networks_in_use();
        let group_of = |name: &str| {
            let network = self.documents.networks.get(name)?;
            network
                .forwarding_group
                .as_ref()
                .map(|group| group.href.clone())
        };
        let mut all_well = true;
        for (name, host) in &in_use {
            let group = group_of(name);
            let others = in_use
                .iter()
                .filter(|(other, _)| other != name && group.is_some() && group_of(other) == group);
            let peers: BTreeSet<Peer> = others.filter_map(|(_, other)| other.as_peer()).collect();
            if let Err(error) = host.forward_to(peers).await {
                tracing::warn!(network = name, %error, "it can't be said which networks it forwards to; trying again");
                all_well = false;
            }
        }
        all_well
    }
}
