//! Machines of hosts that are lost, and of those that are back.
//!
//! ```text
//!  HostPulse/H ends ─────▶ every machine of H: unseen_since = now     shown as UNKNOWN; runs on, for all that is known
//!  HostPulse/H is there ─▶ every machine of H: unseen_since = none    shown as what it was, or as what its host tells now
//! ```
//!
//! What was seen, and what is wanted, stays as it is: a host that was cut off only does what was asked of it meanwhile once it is
//! back. What goes on elsewhere does so by an administrator's word (`evacuation`), or when its host has ended it (`fencing`).

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use cimi::{
    Timestamp,
    resources::{Event, EventOutcome, Host, Machine},
};
use documents::{Cached, Documents, DocumentsError};
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::sleep;

/// Most machines that are written at once: the store commits those of a moment together.
const WRITES_AT_ONCE: usize = 64;
/// How long a machine rests that could not be written (a full disk, a lost store).
const REST: Duration = Duration::from_secs(1);

/// Keeps every machine's `unseen_since` as its host's pulse is, until the caches stop. It may do so in several places at once.
pub(crate) async fn follow(documents: Documents) {
    let mut pulses = documents.host_pulses.changes();
    let mut machines = documents.machines.changes();
    let mut due: BTreeSet<Arc<str>> = BTreeSet::new();
    let mut writes = FuturesUnordered::new();
    loop {
        while writes.len() < WRITES_AT_ONCE
            && let Some(local) = due.pop_first()
        {
            writes.push(bring_in_line(documents.clone(), local));
        }
        tokio::select! {
            biased;
            Some(again) = writes.next(), if !writes.is_empty() => due.extend(again),
            // Before the machines: the end of a pulse is told to who was told that it was there.
            changed = pulses.next() => {
                let there = documents.machines.by_index("host", changed.id());
                let wrong = there.iter().filter(|machine| !is_in_line(&documents, machine));
                due.extend(wrong.map(|machine| Arc::from(machine.id())));
            }
            // One that is placed, or read at the start.
            changed = machines.next() => if let Some(machine) = changed.present() && !is_in_line(&documents, &machine) {
                due.insert(machine.id().into());
            },
        }
    }
}

/// Why nothing is known of a machine, in words for its user.
pub(crate) fn why_unseen(documents: &Documents, machine: &Machine) -> Option<String> {
    let since = machine.unseen_since?;
    let host = host_of(documents, machine)?;
    Some(format!(
        "its host {} has not been heard of since {since}",
        name_of(&host)
    ))
}

/// Whether nothing is heard of a machine that uses its volumes over the network: whoever keeps them ends that by itself.
pub(crate) fn uses_volumes_unseen(documents: &Documents, machine: &Machine) -> bool {
    let is_apart = || host_of(documents, machine).is_some_and(|host| host.has_joined());
    machine.unseen_since.is_some() && is_apart()
}

/// Returns the machine if it has to be tried again.
async fn bring_in_line(documents: Documents, local: Arc<str>) -> Option<Arc<str>> {
    let error = match write(&documents, &local).await {
        Ok(()) => return None,
        Err(error) => error,
    };
    tracing::warn!(machine = &*local, %error, "whether its host is heard of could not be written; will be tried again");
    sleep(REST).await;
    Some(local)
}

async fn write(documents: &Documents, local: &str) -> Result<(), DocumentsError> {
    loop {
        let Some(read) = documents.machines.get(local) else {
            return Ok(());
        };
        if is_in_line(documents, &read) {
            return Ok(());
        }
        let now = Timestamp::now();
        let mut next = read.document.0.clone();
        next.unseen_since = match read.unseen_since {
            None => Some(now),
            Some(_) => None,
        };
        next.settle();
        let event = event_of(documents, &read, &next, now);
        let changes = documents.changes().replace(&read, next).create(&event);
        match changes.commit().await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error),
        }
    }
}

fn event_of(documents: &Documents, before: &Machine, after: &Machine, now: Timestamp) -> Event {
    let (outcome, detail) = match why_unseen(documents, after) {
        Some(why) => (EventOutcome::Failure, why),
        None => {
            let host = host_of(documents, after);
            let name = host.as_ref().map(|host| name_of(host));
            let detail = format!("its host {} is heard of again", name.unwrap_or_default());
            (EventOutcome::Success, detail)
        }
    };
    let text = |machine: &Machine| format!("{:?}", machine.phase);
    let (previous, phase) = (text(before), text(after));
    Event::state_change(after, &previous, &phase, Some(&detail), outcome, now)
}

/// Whether the machine says of its host what is the case.
fn is_in_line(documents: &Documents, machine: &Machine) -> bool {
    // One of the cloud's own daemon is there without saying so.
    let host = host_of(documents, machine).filter(|host| host.has_joined());
    let is_unseen = host.is_some_and(|host| documents.host_pulses.get(host.id()).is_none());
    is_unseen == machine.unseen_since.is_some()
}

fn host_of(documents: &Documents, machine: &Machine) -> Option<Arc<Cached<Host>>> {
    documents.hosts.get(machine.host.as_ref()?.local())
}

fn name_of(host: &Cached<Host>) -> &str {
    host.common.name.as_deref().unwrap_or(host.id())
}
