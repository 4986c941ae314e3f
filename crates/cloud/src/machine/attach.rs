//! Volumes of a machine: attaching and detaching.
//!
//! Attaching is one transaction over machine and volume, so that one volume is never promised to two machines.
//! Detaching only takes the wish back: the guest answers when it likes, and the host's controller releases the volume
//! in the transaction in which it reports that the device is gone.

use std::sync::Arc;

use cimi::{
    Acl, Right, Timestamp, VolumeId,
    resources::{
        AttachStage, AttachedVolume, Event, Job, JobGoal, Machine, Resource, Volume, VolumeState,
    },
};
use documents::Cached;
use placement::Means;
use serde_json::{Map, Value};

use super::{called, members, request::volume_reference};
use crate::{
    Cloud, CloudError, Created, Done, OpContext, Result, access, host::WITHOUT_STORAGE, jobs,
    lost_hosts, resolve, volume,
};

impl Cloud {
    /// Attaches a volume (MachineVolume).
    ///
    /// # Errors
    /// [`CloudError::Conflict`] if somebody has the volume, or the machine has no slot free.
    pub async fn attach_volume(
        &self,
        context: &OpContext,
        id: &str,
        body: Map<String, Value>,
    ) -> Result<Created> {
        let local = volume_reference(&body, "volume")?;
        let location = body
            .get("initialLocation")
            .and_then(Value::as_str)
            .map(str::to_owned);
        loop {
            context.in_time()?;
            let now = Timestamp::now();
            let read = self.find_machine(context, id, Right::Modify)?;
            let volume = resolve::at(
                "volume",
                access::find::<Volume>(&self.0.documents, context, &local, Right::View),
            )?;
            volume::may_attach(context, &volume)?;
            let mut machine = read.document.0.clone();
            if machine.desired.deleted {
                return Err(CloudError::Conflict(format!(
                    "{} is being removed",
                    called(context, &machine)
                )));
            }
            has_disks_to_change(context, &machine)?;
            let instead =
                "start another machine with the volume, and it goes to a host that has one";
            let needs = Means {
                volumes: true,
                ..Means::default()
            };
            self.require_means(&machine, needs, (WITHOUT_STORAGE, instead))?;
            let taken = volume::taken(&self.0.documents, context, &volume, &machine, now)?;
            // Volumes that are there from the start have slots of their own.
            let attached = machine.volumes.iter().filter(|volume| volume.hot).count();
            let most = self.0.settings.spare_ports;
            if attached >= most {
                return Err(CloudError::Conflict(format!(
                    "no free devices available: {attached} volumes were attached to {} since it was made, and {most} \
                     is the most; detach one",
                    called(context, &machine)
                )));
            }
            machine.volumes.push(AttachedVolume {
                volume: volume.id.clone(),
                initial_location: location.clone(),
                hot: true,
                wanted: true,
                stage: AttachStage::Waiting,
                serial: volume::serial(&volume.id),
                taken: Some(now),
            });
            let goal = JobGoal::VolumeAttached {
                volume: volume.key(),
            };
            let collection = format!("{}/volumes", machine.key());
            let member = format!("{collection}/{local}");
            let job = Job {
                subject: Some(machine.key()),
                ..Job::creation(collection, member, goal, machine.common.acl.clone(), now)
            };
            let event = Event::request(&machine, "attach", context.user().unwrap_or_default(), now);
            let changes = self
                .0
                .documents
                .changes()
                .replace(&read, machine)
                .replace(&volume, taken);
            match changes.create(&job).create(&event).commit().await {
                Ok(_) => {
                    tracing::info!(machine = %read.id, volume = %volume.id, user = context.user(), "attachment wanted");
                    let read = self.find_machine(context, read.id(), Right::View)?;
                    let view = members::volume_view(context, &read, &local)?;
                    return Ok(Created {
                        view,
                        job: Some(job.id.to_string()),
                        existed: false,
                    });
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes a volume from a machine. Done when the guest has let go of it. Who may change the volume may take it from
    /// anybody's machine, and sees the job of that: a public volume must come back to its owner.
    ///
    /// # Errors
    /// [`CloudError::NotFound`] if it isn't there, [`CloudError::Conflict`] if it was there from the start.
    pub async fn detach_volume(&self, context: &OpContext, id: &str, volume: &str) -> Result<Done> {
        loop {
            context.in_time()?;
            let now = Timestamp::now();
            let read = match self.find_machine(context, id, Right::Modify) {
                Ok(read) => read,
                Err(error) => self
                    .machine_with_own_volume(context, id, volume)
                    .ok_or(error)?,
            };
            let mut machine = read.document.0.clone();
            let missing =
                || CloudError::not_found(format!("{}/volumes/{volume}", read.document.id));
            let member = machine
                .volumes
                .iter_mut()
                .find(|v| v.volume.local() == volume)
                .ok_or_else(missing)?;
            // Its host has no way to the volume any more from the moment on in which it isn't the machine's.
            let is_cut_off = lost_hosts::uses_volumes_unseen(&self.0.documents, &read);
            if !member.hot {
                return Err(stays(context, &read, &member.volume));
            }
            has_disks_to_change(context, &read)?;
            let goal = JobGoal::VolumeDetached {
                volume: format!("Volume/{volume}"),
            };
            if !member.wanted
                && !is_cut_off
                && let Some(job) = jobs::under_way(
                    &self.0.documents,
                    &read.document.id.to_string(),
                    "delete",
                    &goal,
                )
            {
                self.show_job(context, &job).await?;
                return Ok(Done {
                    view: None,
                    job: Some(job),
                });
            }
            member.wanted = false;
            let mut changes = self.0.documents.changes();
            if machine.host.is_none() || is_cut_off {
                // No controller looks after it yet, or none that is heard of: what is wanted and what is there are the same.
                machine.volumes.retain(|v| v.volume.local() != volume);
                let held = self.0.documents.volumes.get(volume);
                if let Some(held) = held.filter(|held| {
                    let holder = held.attachment.as_ref();
                    holder.is_some_and(|attachment| attachment.machine == machine.id)
                }) {
                    let mut free = held.document.0.clone();
                    free.attachment = None;
                    changes = changes.replace(&held, free);
                }
            }
            let job = Job::accepted(
                machine.key(),
                "delete",
                goal,
                also_seen_by(context, &machine.common.acl),
                now,
            );
            let event = Event::request(&machine, "detach", context.user().unwrap_or_default(), now);
            let changes = changes.replace(&read, machine).create(&job).create(&event);
            match changes.commit().await {
                Ok(_) => {
                    tracing::info!(machine = %read.id, volume, user = context.user(), "detachment wanted");
                    return Ok(Done {
                        view: None,
                        job: Some(job.id.to_string()),
                    });
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Cloud {
    /// The machine `id` if it has this volume, and the volume is the caller's to change.
    fn machine_with_own_volume(
        &self,
        context: &OpContext,
        id: &str,
        volume: &str,
    ) -> Option<Arc<Cached<Machine>>> {
        let documents = &self.0.documents;
        access::find::<Volume>(documents, context, volume, Right::Modify).ok()?;
        let machine = documents.machines.get(id)?;
        let has = machine.volumes.iter().any(|v| v.volume.local() == volume);
        has.then_some(machine)
    }

    /// Lets the caller see the job `id` that others asked for.
    async fn show_job(&self, context: &OpContext, id: &str) -> Result<()> {
        let documents = &self.0.documents;
        loop {
            context.in_time()?;
            let job = id
                .split_once('/')
                .and_then(|(_, local)| documents.jobs.get(local));
            let Some(read) = job.filter(|job| context.right_on(job.acl()).is_none()) else {
                return Ok(());
            };
            let mut shown = read.document.0.clone();
            shown.common.acl = also_seen_by(context, read.acl());
            match documents.changes().replace(&read, shown).commit().await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// `acl`, by which the caller sees what it is of.
fn also_seen_by(context: &OpContext, acl: &Acl) -> Acl {
    match context.user() {
        Some(user) if context.right_on(acl).is_none() => {
            acl.clone().allowing_user(user, Right::View)
        }
        _ => acl.clone(),
    }
}

/// Why a volume isn't taken from a machine that began with it, and how it comes free.
fn stays(context: &OpContext, machine: &Machine, volume: &VolumeId) -> CloudError {
    let boots = machine.boot_volume().map(|boot| &boot.volume);
    let what = if boots == Some(volume) {
        format!("is what {} boots from", called(context, machine))
    } else {
        format!("was given to {} at its start", called(context, machine))
    };
    let acl = &machine.common.acl;
    let how = if context.right_on(acl) >= Some(Right::Modify) {
        "remove that machine".to_owned()
    } else {
        format!(
            "ask {} or an administrator to remove that machine",
            acl.owner.principal
        )
    };
    CloudError::Conflict(format!(
        "Disk have not been hot-plugged: {volume} {what}; to have it back, {how}"
    ))
}

/// Refuses machines whose memory is on disk: it knows the disks they had.
fn has_disks_to_change(context: &OpContext, machine: &Machine) -> Result<()> {
    use cimi::lifecycle::{MachineState, Rest, Stage};
    let saved = machine.observed.stage == Stage::Suspended
        || machine.desired.rest_as_seen(&machine.observed) == Some(Rest::Suspend);
    if saved && machine.state != MachineState::Deleting {
        return Err(CloudError::Conflict(format!(
            "{} is suspended: its memory knows the disks it had; start it first, or stop it (its memory is given up then)",
            called(context, machine)
        )));
    }
    Ok(())
}

/// Refuses volumes that can't be had.
pub(crate) fn available(volume: &Volume) -> Result<()> {
    match volume.state {
        VolumeState::Available | VolumeState::Creating if !volume.deleted => Ok(()),
        VolumeState::Capturing if !volume.deleted => Err(CloudError::Conflict(format!(
            "an image is being made of {}; try again when it is there",
            volume.id
        ))),
        VolumeState::Error => Err(CloudError::Conflict(format!(
            "{} can't be attached: {}",
            volume.id,
            volume.reason.as_deref().unwrap_or("it is in error")
        ))),
        _ => Err(CloudError::Conflict(format!(
            "{} is being deleted",
            volume.id
        ))),
    }
}
