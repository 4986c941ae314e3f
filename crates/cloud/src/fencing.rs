//! Machines of a host that is lost go on elsewhere by themselves, once that host has ended them.
//!
//! ```text
//!  HostPulse/H ends ── Host.fencesAfter and a little later, and no pulse since ──▶ each machine that H guards is evacuated
//! ```
//!
//! The host counts from when it was heard last, which is before its pulse ends (by the life of its lease, or at the latest when it
//! says so itself), and has ended its machines that long after ([`Observed::guarded`](cimi::lifecycle::Observed)). Time is counted by each side's own
//! clock, which nobody sets: one that is started anew counts from its start.

use std::{collections::BTreeMap, time::Duration};

use cimi::resources::{Host, Machine};
use documents::Cached;
use tokio::time::{Instant, sleep_until};

use crate::Cloud;

/// How much longer than a host: it looks each second, and the end of a process takes a moment.
const MARGIN: Duration = Duration::from_secs(10);
/// Rest after a machine could not be written.
const REST: Duration = Duration::from_secs(5);

/// Looks after it until the caches stop. It may do so in several places at once.
pub(crate) async fn follow(cloud: Cloud) {
    let documents = cloud.documents();
    let mut pulses = documents.host_pulses.changes();
    // A host that was never heard of here is lost, too, from now on.
    let mut due: BTreeMap<String, Instant> = documents
        .hosts
        .all()
        .iter()
        .filter_map(|host| Some((host.id().to_owned(), deadline(&cloud, host)?)))
        .collect();
    loop {
        let next = due.iter().min_by_key(|(_, at)| **at);
        let next = next.map(|(host, at)| (host.clone(), *at));
        let timer = async {
            match &next {
                Some((_, at)) => sleep_until(*at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = pulses.next() => {
                due.remove(changed.id());
                // Each end counts anew: there was a pulse in between.
                if let Some(host) = documents.hosts.get(changed.id())
                    && let Some(at) = deadline(&cloud, &host)
                {
                    due.insert(host.id().to_owned(), at);
                }
            }
            () = timer => if let Some((host, _)) = next {
                due.remove(&host);
                // A host that was heard meanwhile has another time by then, or none.
                if !cloud.evacuate_fenced(&host).await {
                    due.insert(host, Instant::now() + REST);
                }
            },
        }
    }
}

/// When its machines are ended there, if nothing is heard of the host until then; none if it is there, or ends none.
fn deadline(cloud: &Cloud, host: &Cached<Host>) -> Option<Instant> {
    let after = host.fences_after.filter(|_| cloud.is_lost(host))?;
    Some(Instant::now() + Duration::from_secs(after) + MARGIN)
}

impl Cloud {
    /// Whether nothing is left to be tried again.
    async fn evacuate_fenced(&self, local: &str) -> bool {
        let documents = self.documents();
        let Some(host) = documents.hosts.get(local) else {
            return true;
        };
        let name = host.common.name.as_deref().unwrap_or(local);
        let is_ended = |machine: &Machine| machine.observed.guarded && machine.goes_on_elsewhere();
        let mut all_went = true;
        for machine in documents.machines.by_index("host", local) {
            if !is_ended(&machine) {
                continue;
            }
            let id = &machine.document.id;
            tracing::warn!(machine = %id, host = name, "its host is lost, and has ended it: it goes on elsewhere");
            // One that can't be written keeps no other from going. One that is another by now may not be guarded, and its host
            // may have been heard: both are looked at again.
            match self.evacuate_as_read(&host, name, &machine).await {
                Ok(went) => all_went &= went,
                Err(error) => {
                    tracing::warn!(machine = %id, host = name, %error, "it is not started elsewhere yet; tried again");
                    all_went = false;
                }
            }
        }
        all_went
    }
}
