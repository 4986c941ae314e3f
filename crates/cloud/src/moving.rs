//! Machines that are moved to another host. At rest: the guest stands still, its memory and disks are copied, it goes on there.
//!
//! ```text
//!  migrate ──▶ moving{}           an administrator's wish
//!  scheduler ▶ to: B              room is booked on both
//!  B ────────▶ ready              it has the images
//!  A ────────▶ leftFor            memory is saved, nothing of it is at work there any more
//!  B ────────▶ arrived            it has the files
//!  here ─────▶ host: B, leftOn: [A]     one transaction: from now on it is B's, which lets it go on
//!  A ────────▶ leftOn: []         its files there are away
//! ```
//!
//! Until the last but one step it is A's machine, with all that it has: whatever fails, the wish is given up, and it goes on there.
//! What B has copied it throws away.
//!
//! Live, the guest runs on meanwhile:
//!
//! ```text
//!  A, B ─────▶ passage               the two hosts copy disks and memory, with the guest running
//!  A ────────▶ leftFor, Crossing     its guest is halted, and all of it is on B, too
//!  B ────────▶ arrived               all of it is there, halted (before or after that)
//!  here ─────▶ host: B, leftOn: [A]     one transaction, after which B lets it run
//! ```
//!
//! If A can't do so with this machine it says so (`atRest`), and it goes at rest; if it fails, A says that it stays (`stays`).
//!
//! A guest that stands still waits for B, which has to say `arrived` in time: a host that is there, and says nothing, is given up
//! like one that is lost.

mod deadlines;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use cimi::{
    HostId, Right, Timestamp,
    lifecycle::{Moving, Stage},
    resources::{Event, Machine},
};
use documents::{Documents, DocumentsError, step};
use futures::{StreamExt as _, stream::FuturesUnordered};
use serde_json::{Map, Value};
use tokio::time::{Instant, sleep};

use self::deadlines::Deadlines;
use crate::{Cloud, CloudError, Done, OpContext, Result, access};

/// Most machines that are written at once.
const WRITES_AT_ONCE: usize = 16;
/// How long a machine rests that could not be written.
const REST: Duration = Duration::from_secs(1);

impl Cloud {
    /// `migrate`: a machine goes to another host; `properties.host` names which.
    ///
    /// # Errors
    /// [`CloudError::Forbidden`] for all but administrators; [`CloudError::Conflict`] if it can't be moved now;
    /// [`CloudError::Invalid`] if there is no such host.
    pub(crate) async fn migrate(
        &self,
        context: &OpContext,
        local: &str,
        body: &Map<String, Value>,
    ) -> Result<Done> {
        access::require_admin(context, "move machines to other hosts")?;
        let asked = |name: &str| body.get("properties").and_then(|all| all.get(name));
        if let Some(cancel) = asked("cancel")
            && truth("cancel", cancel)?
        {
            return self.stay(context, local).await;
        }
        let wanted = asked("host")
            .and_then(Value::as_str)
            .map(|name| self.host_named(name));
        let wanted = wanted.transpose()?;
        let at_rest = asked("atRest").map(|value| truth("atRest", value));
        let live = !at_rest.transpose()?.unwrap_or(false);
        let bandwidth = asked("bandwidth").map(bytes_per_second).transpose()?;
        let documents = &self.0.documents;
        loop {
            context.in_time()?;
            let read = self.find_machine(context, local, Right::Modify)?;
            if let Some(why) = why_not(documents, &read, wanted.as_ref()) {
                return Err(CloudError::Conflict(format!(
                    "{} is not moved: {why}",
                    read.document.id
                )));
            }
            let now = way_after(&read, Timestamp::now());
            let mut next = read.document.0.clone();
            next.desired.since = now;
            next.desired.moving = Some(Moving {
                live,
                bandwidth,
                wanted: wanted.clone(),
                ..Moving::asked(now)
            });
            next.settle();
            let user = context.user().unwrap_or_default();
            let event = Event::request(&read.document.0, "migrate", user, now);
            let changes = documents.changes().replace(&read, next).create(&event);
            match changes.commit().await {
                Ok(_) => return Ok(Done::default()),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Gives up that a machine is moved, as long as it is not the next host's.
    async fn stay(&self, context: &OpContext, local: &str) -> Result<Done> {
        loop {
            context.in_time()?;
            let read = self.find_machine(context, local, Right::Modify)?;
            let mut next = read.document.0.clone();
            if next.desired.moving.take().is_none() {
                return Err(CloudError::Conflict(format!(
                    "{} is not on its way to another host: it is where `stratus host list` and its `host` say",
                    read.document.id
                )));
            }
            next.reason = Some(Machine::not_moved("an administrator has cancelled that"));
            next.settle();
            let user = context.user().unwrap_or_default();
            let now = Timestamp::now();
            let event = Event::request(&read.document.0, "migrate", user, now);
            let changes = step::step(&self.0.documents, &read, next).create(&event);
            match changes.commit().await {
                Ok(_) => return Ok(Done::default()),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn host_named(&self, name: &str) -> Result<HostId> {
        let hosts = self.0.documents.hosts.all();
        let is_it = |host: &&std::sync::Arc<documents::Cached<cimi::resources::Host>>| {
            let id = host.document.id.to_string();
            host.common.name.as_deref() == Some(name) || id == name || host.id() == name
        };
        let host = hosts.iter().find(is_it);
        let host = host.map(|host| host.document.id.clone());
        host.ok_or_else(|| {
            CloudError::invalid(
                "properties",
                format!("name the host `{name}`, which there is not"),
            )
        })
    }
}

/// The least that copying may take of the network: below it hosts take each other for gone.
const LEAST_BANDWIDTH: u64 = 64 * 1024;

fn truth(name: &str, value: &Value) -> Result<bool> {
    let text = value.as_str().and_then(|text| text.parse().ok());
    value.as_bool().or(text).ok_or_else(|| {
        CloudError::invalid("properties", format!("give `{name}` as `true` or `false`"))
    })
}

fn bytes_per_second(value: &Value) -> Result<u64> {
    let text = value.as_str().and_then(|text| text.parse().ok());
    let bytes = value.as_u64().or(text);
    bytes
        .filter(|bytes| *bytes >= LEAST_BANDWIDTH)
        .ok_or_else(|| {
            CloudError::invalid(
                "properties",
                format!("give `bandwidth` in bytes a second, at least {LEAST_BANDWIDTH}"),
            )
        })
}

/// By what a way that begins now is known: later than all that was ever said of another one, however the clocks of entries are set.
fn way_after(machine: &Machine, now: Timestamp) -> Timestamp {
    let seen = &machine.observed;
    let said = [seen.left_for, seen.refused, seen.at_rest, seen.stays];
    let last = said.into_iter().flatten().max();
    let last = last.map_or(machine.desired.since, |last| {
        last.max(machine.desired.since)
    });
    now.max(last.after(Duration::from_millis(1)))
}

/// Why a machine can't be moved now.
fn why_not(documents: &Documents, machine: &Machine, wanted: Option<&HostId>) -> Option<String> {
    let Some(from) = &machine.host else {
        return Some("it has no host yet".to_owned());
    };
    if machine.desired.deleted {
        return Some("it is being removed".to_owned());
    }
    if machine.unseen_since.is_some() {
        return Some("nothing is heard of its host: see `stratus host evacuate`".to_owned());
    }
    if let Some(to) = machine.moving_to() {
        return Some(format!("it is on its way to {to} already"));
    }
    if wanted == Some(from) {
        return Some("it is on that host".to_owned());
    }
    if machine.left_on.iter().any(|one| Some(one) == wanted) {
        return Some("that host still clears away what it had of it".to_owned());
    }
    let image = machine.saved_as.as_ref();
    let image = image.and_then(|saved| documents.images.get(saved.href.local()));
    let is_saved = image.is_some_and(|image| image.is_on_its_way());
    is_saved.then(|| "its disk is being saved as an image".to_owned())
}

/// Brings ways to their end, the good or the other one, until the caches stop. It may do so in several places at once.
pub(crate) async fn follow(documents: Documents) {
    let mut machines = documents.machines.changes();
    let mut pulses = documents.host_pulses.changes();
    let mut due: BTreeSet<Arc<str>> = BTreeSet::new();
    let mut late = Deadlines::default();
    let mut writes = FuturesUnordered::new();
    loop {
        while writes.len() < WRITES_AT_ONCE
            && let Some(local) = due.pop_first()
        {
            let late = late.of(&local, Instant::now());
            writes.push(bring_on_or_rest(documents.clone(), local, late));
        }
        tokio::select! {
            Some(again) = writes.next(), if !writes.is_empty() => due.extend(again),
            changed = machines.next() => {
                let local: Arc<str> = changed.id().into();
                let read = changed.present();
                let machine = read.as_deref().map(|read| &read.document.0);
                late.note(&local, machine, Instant::now());
                if machine.is_some_and(|machine| machine.desired.moving.is_some()) {
                    due.insert(local);
                }
            }
            changed = pulses.next() => {
                let coming = documents.machines.by_index("movingTo", changed.id());
                due.extend(coming.iter().map(|machine| Arc::from(machine.id())));
                let going = documents.machines.by_index("host", changed.id());
                let going = going.iter().filter(|machine| machine.passage().is_some());
                due.extend(going.map(|machine| Arc::from(machine.id())));
            }
            local = late.next() => {
                due.insert(local);
            }
        }
    }
}

/// Returns the machine if it has to be tried again.
async fn bring_on_or_rest(
    documents: Documents,
    local: Arc<str>,
    late: Option<Timestamp>,
) -> Option<Arc<str>> {
    let error = match bring_on(&documents, &local, late).await {
        Ok(()) => return None,
        Err(error) => error,
    };
    tracing::warn!(machine = &*local, %error, "its way to another host could not be written; will be tried again");
    sleep(REST).await;
    Some(local)
}

async fn bring_on(
    documents: &Documents,
    local: &str,
    late: Option<Timestamp>,
) -> std::result::Result<(), DocumentsError> {
    loop {
        let Some(read) = documents.machines.get(local) else {
            return Ok(());
        };
        let Some(next) = next_of(documents, &read, late) else {
            return Ok(());
        };
        match step::step(documents, &read, next).commit().await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error),
        }
    }
}

/// What becomes of a machine on its way, if anything does now; it should have arrived on the way that is `late`.
fn next_of(documents: &Documents, machine: &Machine, late: Option<Timestamp>) -> Option<Machine> {
    let moving = machine.desired.moving.as_ref()?;
    let mut next = machine.clone();
    let is_without_pulse = |host: &HostId| {
        let known = documents.hosts.get(host.local());
        known.is_none_or(|known| {
            known.has_joined() && documents.host_pulses.get(host.local()).is_none()
        })
    };
    let is_lost = moving.to.as_ref().is_some_and(is_without_pulse);
    let is_there = moving.arrived && machine.has_left() && !is_lost;
    if let Some(to) = moving.to.as_ref().filter(|_| is_there) {
        next.left_on.extend(next.host.replace(to.clone()));
        next.unseen_since = None;
        next.desired.moving = None;
        // The next one says so itself.
        next.observed.guarded = false;
        if next.observed.stage == Stage::Crossing {
            // It runs on, by another process, which counts from nothing.
            next.running_since = next.running_since.map(|_| Timestamp::now());
            (next.observed.traffic, next.traffic_before) = (None, None);
        }
        (next.ssh, next.accelerator, next.reason) = (None, None, None);
        return Some(next);
    }
    // At rest its files may still be asked for; on the way its guest may run there, and nobody hears how it ends.
    let is_cut_off = machine.passage().is_some()
        && !machine.has_left()
        && machine.host.as_ref().is_some_and(is_without_pulse);
    let stays = machine.observed.stays == Some(moving.since);
    let why = if machine.desired.deleted {
        "it is removed"
    } else if machine.observed.refused == Some(machine.desired.since) && moving.ready {
        "it could not be brought to rest"
    } else if stays {
        "it could not be sent"
    } else if is_cut_off {
        "its host is lost"
    } else if is_lost {
        "the host that it was to go to is lost"
    } else if let Some(problem) = &moving.problem {
        problem
    } else if late == Some(moving.since) && machine.has_left() {
        "the host that it was to go to doesn't take it"
    } else {
        return None;
    };
    next.desired.moving = None;
    // Its host has said why.
    if !stays && machine.observed.refused != Some(machine.desired.since) {
        next.reason = Some(Machine::not_moved(why));
    }
    Some(next)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use cimi::{
        Acl, Common, HostPulseId,
        resources::{Host, HostPulse},
        testing,
    };
    use store::SqliteStore;

    use super::*;

    /// A cloud of two hosts that have joined and are heard, and a machine that is at rest on its way from the first to the second.
    async fn on_its_way(folder: &tempfile::TempDir) -> (Documents, Machine) {
        let store = Arc::new(SqliteStore::open(folder.path().join("db")).unwrap());
        let documents = Documents::open(store).await.unwrap();
        let mut hosts = Vec::new();
        for _ in 0..2 {
            let mut host: Host = testing::host();
            host.desired.apart = true;
            let pulse = HostPulse {
                id: HostPulseId::from_local(host.id.local()).unwrap(),
                common: Common::new(Acl::owned_by_admin(), Timestamp::now()),
            };
            let changes = documents.changes().create(&host).create(&pulse);
            changes.commit().await.unwrap();
            hosts.push(host.id);
        }
        let since = Timestamp::now();
        let mut machine = testing::machine(1);
        machine.host = Some(hosts.remove(0));
        machine.desired.moving = Some(Moving {
            to: Some(hosts.remove(0)),
            ready: true,
            ..Moving::asked(since)
        });
        machine.observed.stage = Stage::Suspended;
        machine.observed.left_for = Some(since);
        machine.observed.guarded = true;
        (documents, machine)
    }

    fn arrived(machine: &Machine) -> Machine {
        let mut machine = machine.clone();
        if let Some(moving) = &mut machine.desired.moving {
            moving.arrived = true;
        }
        machine
    }

    #[tokio::test]
    async fn it_is_the_next_hosts_only_while_that_is_heard() {
        let folder = tempfile::tempdir().unwrap();
        let (documents, machine) = on_its_way(&folder).await;
        let to = machine.moving_to().cloned().unwrap();
        assert!(next_of(&documents, &machine, None).is_none(), "it waits");
        let there = next_of(&documents, &arrived(&machine), None).unwrap();
        assert_eq!(there.host.as_ref(), Some(&to));
        assert!(
            !there.observed.guarded,
            "what its host before guards is nothing to this one"
        );

        let pulse = documents.host_pulses.get(to.local()).unwrap();
        documents.changes().remove(&pulse).commit().await.unwrap();
        let stays = next_of(&documents, &arrived(&machine), None).unwrap();
        assert_eq!((&stays.host, &stays.desired.moving), (&machine.host, &None));
        assert!(stays.reason.unwrap().ends_with("is lost"));
    }

    #[tokio::test]
    async fn it_stays_if_the_next_host_does_not_take_it_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let (documents, machine) = on_its_way(&folder).await;
        let way = machine.desired.moving.as_ref().unwrap().since;
        let stays = next_of(&documents, &machine, Some(way)).unwrap();
        assert_eq!((&stays.host, &stays.desired.moving), (&machine.host, &None));
        assert!(stays.reason.unwrap().contains("doesn't take it"));
        // In the last moment it is in time, and what was late before is nothing to another way.
        let there = next_of(&documents, &arrived(&machine), Some(way)).unwrap();
        assert_eq!(there.host.as_ref(), machine.moving_to());
        let before = Timestamp::from_millis(way.as_millis() - 1);
        assert!(next_of(&documents, &machine, Some(before)).is_none());
        let mut rests = machine;
        rests.observed.left_for = None;
        assert!(next_of(&documents, &rests, Some(way)).is_none());
    }
}
