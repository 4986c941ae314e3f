//! Machines of a host that is lost go on elsewhere, by an administrator's word that the host is off.
//!
//! ```text
//!  Machine.host = H, H lost ── evacuate ──▶ host: none, leftOn: [H]       placed anew by the scheduler, with its volumes
//!                                           a new run is wanted, if its restart policy says so,
//!                                           or if it was to be restarted and has not been
//!  H is back ── ends what it still runs of it, puts its files away ──▶ leftOn: []
//! ```
//!
//! Its volumes need no such word: one host writes them, and that is the one that `Machine.host` names. The word is about all
//! else that would be there twice: the guest, and its addresses. So a machine goes that has all its data on volumes; one with a
//! root disk of its own, or whose memory is saved, stays where that is, also while it begins from it. Where the host ends its machines by itself, nobody's word
//! is needed: see `fencing`.

use cimi::{
    Right, Timestamp,
    lifecycle::{EndCause, Power, RestartPolicy, Stage},
    resources::{Event, Host, HostPulse, Machine, Resource as _},
};
use documents::{Cached, DocumentsError, step};
use store::{Key, Revision};

use crate::{Cloud, CloudError, Done, OpContext, Result, access};

impl Cloud {
    /// `evacuate`: the machines of a lost host that can go on elsewhere do.
    ///
    /// # Errors
    /// [`CloudError::Forbidden`] for all but administrators, [`CloudError::Conflict`] for a host that is heard of.
    pub(crate) async fn act_on_host(
        &self,
        context: &OpContext,
        local: &str,
        action: &str,
    ) -> Result<Done> {
        if action != "evacuate" {
            let problem = format!("`{action}` is not something a Host does");
            return Err(CloudError::invalid("action", problem));
        }
        access::require_admin(context, "evacuate hosts")?;
        let documents = &self.0.documents;
        let host = access::find::<Host>(documents, context, local, Right::Modify)?;
        let name = host.common.name.as_deref().unwrap_or(local);
        if !self.is_lost(&host) {
            return Err(CloudError::Conflict(format!(
                "{name} is not lost, so its machines are not started elsewhere: two of each would run. To keep new machines off \
                 it: `stratus host maintenance {name}`"
            )));
        }
        let user = context.user().unwrap_or_default();
        for machine in documents.machines.by_index("host", host.local_id()) {
            context.in_time()?;
            self.evacuate(&host, name, machine).await?;
        }
        let event = Event::request(&host.document.0, action, user, Timestamp::now());
        documents.changes().create(&event).commit().await?;
        tracing::info!(host = %host.document.id, name, user, "a host was evacuated");
        Ok(Done::default())
    }

    /// Has one machine go on elsewhere, if it can and is still there.
    async fn evacuate(
        &self,
        host: &Cached<Host>,
        name: &str,
        machine: std::sync::Arc<Cached<Machine>>,
    ) -> Result<()> {
        let mut read = machine;
        while !self.evacuate_as_read(host, name, &read).await? {
            match self.0.documents.machines.get(read.id()) {
                Some(again) => read = again,
                None => break,
            }
        }
        Ok(())
    }

    /// The same of a machine as it was read; false if it isn't so any more, or its host has said something in this moment: whoever has
    /// other reasons than somebody's word looks at all of them again.
    pub(crate) async fn evacuate_as_read(
        &self,
        host: &Cached<Host>,
        name: &str,
        read: &Cached<Machine>,
    ) -> Result<bool> {
        let documents = &self.0.documents;
        let pulse = Key::new(HostPulse::COLLECTION, host.local_id());
        let pulse = pulse.map_err(|error| CloudError::Internal(error.to_string()))?;
        // A host that is back looks after its machines itself.
        if read.host.as_ref() != Some(&host.document.id)
            || !can_go_on_elsewhere(read)
            || !self.is_lost(host)
        {
            return Ok(true);
        }
        let next = elsewhere(read, name, Timestamp::now());
        // Unless the host says something at this moment: its pulse would be there.
        let changes = step::step(documents, read, next).unchanged_raw(&pulse, Revision::ZERO);
        match changes.commit().await {
            Ok(_) => Ok(true),
            Err(error) if error.is_conflict() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Nobody waits any more for a host that is one no more to clear away what it has of machines.
    pub(crate) async fn forget_left_on(&self, host: &Cached<Host>) -> Result<()> {
        let documents = &self.0.documents;
        for machine in documents.machines.by_index("leftOn", host.local_id()) {
            let forget = |machine: &mut Machine| {
                let before = machine.left_on.len();
                machine.left_on.retain(|one| *one != host.document.id);
                Ok::<_, DocumentsError>(machine.left_on.len() < before)
            };
            match documents.update(machine.id(), forget).await {
                Ok(_) | Err(DocumentsError::Absent { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Machines that are on their way to a host that is one no more stay where they are. One that is there in this moment is that
    /// host's own, as whoever looks again sees.
    pub(crate) async fn give_up_ways_to(&self, host: &Cached<Host>) -> Result<()> {
        let documents = &self.0.documents;
        for machine in documents.machines.by_index("movingTo", host.local_id()) {
            while let Some(read) = documents.machines.get(machine.id())
                && read.moving_to() == Some(&host.document.id)
            {
                let mut next = read.document.0.clone();
                next.desired.moving = None;
                next.reason = Some(Machine::not_moved(
                    "the host that it was to go to is being removed",
                ));
                match step::step(documents, &read, next).commit().await {
                    Ok(_) => break,
                    Err(error) if error.is_conflict() => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }
}

/// Whether all of a machine that can't be made anew is on volumes.
fn can_go_on_elsewhere(machine: &Machine) -> bool {
    !machine.is_bound_to_host() && !machine.desired.deleted
}

/// The machine as it is when its host is off for good: its run has ended, and it waits for another host.
fn elsewhere(read: &Machine, lost: &str, now: Timestamp) -> Machine {
    let mut machine = read.clone();
    machine.left_on.extend(machine.host.take());
    machine.unseen_since = None;
    machine.desired.moving = None;
    machine.observed.guarded = false;
    (machine.ssh, machine.accelerator) = (None, None);
    let was_on = !matches!(
        machine.observed.stage,
        Stage::Waiting | Stage::Ended { .. } | Stage::Failed
    );
    let restarts = machine.desired.restarts(&machine.observed);
    if restarts {
        // The run that was to be restarted is over here.
        machine.desired.run += 1;
        machine.desired.since = now.max(machine.desired.since);
    }
    if !was_on {
        return machine;
    }
    machine.observed.since = now.max(machine.observed.since);
    if matches!(machine.observed.stage, Stage::Preparing | Stage::Booting) {
        // It never ran there.
        machine.observed.stage = Stage::Waiting;
        return machine;
    }
    let cause = EndCause::HostReboot;
    machine.observed.stage = Stage::Ended { cause };
    let is_on = machine.desired.power == Power::On;
    machine.reason = Some(if is_on && machine.desired.run > machine.observed.run {
        format!("its host {lost} is lost: it is started on another one, as it was asked")
    } else if is_on && machine.restart_policy != RestartPolicy::Never {
        machine.desired.run += 1;
        machine.desired.since = now.max(machine.desired.since);
        format!("its host {lost} is lost: it is started on another one")
    } else {
        format!("its host {lost} is lost: start it again, and it runs on another one")
    });
    machine
}
