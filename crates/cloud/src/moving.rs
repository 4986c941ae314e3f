//! Machines that are moved to another host, at rest: the guest stands still, its memory and disks are copied, it goes on there.
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

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use cimi::{
    HostId, Right, Timestamp,
    lifecycle::Moving,
    resources::{Event, Machine},
};
use documents::{Documents, DocumentsError, step};
use serde_json::{Map, Value};
use tokio::time::sleep;

use crate::{Cloud, CloudError, Done, OpContext, Result, access};

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
        let wanted = body.get("properties").and_then(|all| all.get("host"));
        let wanted = wanted
            .and_then(Value::as_str)
            .map(|name| self.host_named(name));
        let wanted = wanted.transpose()?;
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
            let now = Timestamp::now().max(read.desired.since);
            let mut next = read.document.0.clone();
            next.desired.since = now;
            next.desired.moving = Some(Moving {
                wanted: wanted.clone(),
                to: None,
                ready: false,
                arrived: false,
                problem: None,
                since: now,
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
    loop {
        if let Some(local) = due.pop_first() {
            if let Err(error) = bring_on(&documents, &local).await {
                tracing::warn!(machine = &*local, %error, "its way to another host could not be written; will be tried again");
                sleep(REST).await;
                due.insert(local);
            }
            continue;
        }
        tokio::select! {
            changed = machines.next() => if let Some(machine) = changed.present() && machine.desired.moving.is_some() {
                due.insert(machine.id().into());
            },
            changed = pulses.next() => {
                let coming = documents.machines.by_index("movingTo", changed.id());
                due.extend(coming.iter().map(|machine| Arc::from(machine.id())));
            }
        }
    }
}

async fn bring_on(documents: &Documents, local: &str) -> std::result::Result<(), DocumentsError> {
    loop {
        let Some(read) = documents.machines.get(local) else {
            return Ok(());
        };
        let Some(next) = next_of(documents, &read) else {
            return Ok(());
        };
        match step::step(documents, &read, next).commit().await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error),
        }
    }
}

/// What becomes of a machine on its way, if anything does now.
fn next_of(documents: &Documents, machine: &Machine) -> Option<Machine> {
    let moving = machine.desired.moving.as_ref()?;
    let mut next = machine.clone();
    if let Some(to) = moving
        .to
        .as_ref()
        .filter(|_| moving.arrived && machine.has_left())
    {
        next.left_on.extend(next.host.replace(to.clone()));
        next.unseen_since = None;
        next.desired.moving = None;
        (next.ssh, next.accelerator, next.reason) = (None, None, None);
        return Some(next);
    }
    let is_lost = moving.to.as_ref().is_some_and(|to| {
        let host = documents.hosts.get(to.local());
        host.is_none_or(|host| host.has_joined() && documents.host_pulses.get(to.local()).is_none())
    });
    let why = if machine.desired.deleted {
        "it is removed"
    } else if machine.observed.refused == Some(machine.desired.since) && moving.ready {
        "it could not be brought to rest"
    } else if is_lost {
        "the host that it was to go to is lost"
    } else if let Some(problem) = &moving.problem {
        problem
    } else {
        return None;
    };
    next.desired.moving = None;
    if machine.observed.refused != Some(machine.desired.since) {
        next.reason = Some(format!("it is not moved: {why}"));
    }
    Some(next)
}
