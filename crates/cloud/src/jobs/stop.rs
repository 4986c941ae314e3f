//! Stopping a job: what it asked for is taken back, in the same transaction that says so.
//!
//! ```text
//!  QUEUED, RUNNING ──stop──▶ STOPPING ──nothing is left of it──▶ STOPPED
//! ```
//!
//! What can't be taken back (a removal, a power button that was pressed) can't be stopped.

use cimi::{
    Right, Timestamp,
    lifecycle::Power,
    model::Kind,
    resources::{
        Event, Image, ImageState, Job, JobGoal, JobState, Machine, Resource, System, Volume,
        VolumeState,
    },
};
use documents::{Cached, Documents};

use crate::{Cloud, CloudError, Done, OpContext, Result, access, system::can_stop_parts};

/// Whether a job can be stopped: it goes on, and what it does can be taken back.
pub(crate) fn is_stoppable(job: &Job) -> bool {
    if !matches!(job.state, JobState::Queued | JobState::Running) {
        return false;
    }
    match &job.goal {
        JobGoal::MachineRuns { .. }
        | JobGoal::MachinePaused
        | JobGoal::MachineSuspended
        | JobGoal::VolumeAttached { .. } => true,
        // Of a volume, the image is made in an instant.
        JobGoal::Available if job.subject().starts_with("VolumeImage/") => false,
        JobGoal::Available => job.action == "add",
        // What has not begun; the rest by the jobs of the parts.
        JobGoal::Parts => true,
        // It is switched back by the other action.
        JobGoal::PortIs { .. } => false,
        JobGoal::MachineOff | JobGoal::Gone | JobGoal::VolumeDetached { .. } => false,
    }
}

/// Whether it would be stopped if somebody asked for it now, as far as what it is about says: what is offered.
pub(crate) fn can_stop(documents: &Documents, job: &Job) -> bool {
    let (kind, local) = job.subject().split_once('/').unwrap_or_default();
    is_stoppable(job)
        && match kind {
            System::COLLECTION => {
                let system = documents.systems.get(local);
                system.is_some_and(|system| can_stop_parts(documents, &system, job))
            }
            // Both are in use already.
            Volume::COLLECTION => {
                let volume = documents.volumes.get(local);
                volume.is_some_and(|volume| volume.attachment.is_none())
            }
            Image::COLLECTION => documents.machines.count_by_index("image", local) == 0,
            _ => true,
        }
}

impl Cloud {
    /// Stops a job: what it asked for is taken back. A machine or import that is just being made is given up, a start is
    /// followed by a hard stop. The answer's job is the job itself, which is STOPPED when nothing is left to do.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] if it is over, or what it does can't be taken back; [`CloudError::Forbidden`] for a token that
    /// is for jobs, but not for what this one changes.
    pub async fn stop_job(&self, context: &OpContext, id: &str) -> Result<Done> {
        let read = access::find::<Job>(&self.0.documents, context, id, Right::Modify)?;
        // What is changed is that, not only the job.
        if let Some(kind) = read.subject().split('/').next().and_then(Kind::from_name) {
            access::require_type(context, kind)?;
        }
        self.stop_job_or_part(context, id).await
    }

    /// The same for a job that may be a part of a system's, which is for whoever that is for.
    pub(crate) async fn stop_job_or_part(&self, context: &OpContext, id: &str) -> Result<Done> {
        let documents = &self.0.documents;
        loop {
            context.in_time()?;
            let read = access::find::<Job>(documents, context, id, Right::Modify)?;
            let done = Done {
                view: None,
                job: Some(read.document.id.to_string()),
            };
            if read.subject().starts_with("System/") && is_of_parts(&read) {
                match self.stop_parts(context, &read).await {
                    Err(CloudError::Raced(_)) => continue,
                    other => return other,
                }
            }
            if read.state == JobState::Stopping {
                return Ok(done);
            }
            if read.state.is_final() {
                return Err(CloudError::Conflict(format!(
                    "{} is over",
                    read.document.id
                )));
            }
            if !is_stoppable(&read) {
                return Err(CloudError::Conflict(format!(
                    "{} can't be stopped: `{}` can't be taken back",
                    read.document.id, read.action
                )));
            }
            match self.take_back(context, &read).await {
                Ok(()) => {
                    tracing::info!(job = %read.id, user = context.user(), "job is to be stopped");
                    return Ok(done);
                }
                Err(CloudError::Raced(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes that it is being stopped, and what follows for its subject.
    async fn take_back(&self, context: &OpContext, read: &Cached<Job>) -> Result<()> {
        let documents = &self.0.documents;
        let now = Timestamp::now();
        let who = context.user().unwrap_or_default();
        let mut job = read.document.0.clone();
        let changes = documents.changes();
        let (kind, local) = job.subject().split_once('/').unwrap_or_default();
        let changes = match kind {
            Machine::COLLECTION => {
                let machine = self.find_machine(context, local, Right::Modify)?;
                if runs_on(&job) {
                    access::require_unlimited(context)?;
                }
                let mut next = machine.document.0.clone();
                let undone = give_up(&mut next, &job, now);
                next.settle();
                let event = Event::request(&next, "stop of its job", who, now);
                job.stop(undone, who, now);
                changes.replace(&machine, next).create(&event)
            }
            Image::COLLECTION => {
                let image = self.find_image(context, local, Right::Modify)?;
                self.unneeded(context, &image)?;
                let mut next = image.document.0.clone();
                next.desired.deleted = true;
                next.state = ImageState::Deleting;
                let event = Event::request(&next, "stop of its job", who, now);
                job.stop(JobGoal::Gone, who, now);
                changes.replace(&image, next).create(&event)
            }
            Volume::COLLECTION => {
                let volume = access::find::<Volume>(documents, context, local, Right::Modify)?;
                if volume.attachment.is_some() {
                    return Err(CloudError::Conflict(format!(
                        "{} can't be stopped: {} is at a machine already",
                        job.id, volume.document.id
                    )));
                }
                let mut next = volume.document.0.clone();
                next.deleted = true;
                next.state = VolumeState::Deleting;
                let event = Event::request(&next, "stop of its job", who, now);
                job.stop(JobGoal::Gone, who, now);
                changes.replace(&volume, next).create(&event)
            }
            _ => {
                return Err(CloudError::Conflict(format!(
                    "{} can't be stopped: nobody knows how to take back what it does to {}",
                    job.id,
                    job.subject()
                )));
            }
        };
        changes.replace(read, job).commit().await?;
        Ok(())
    }
}

/// Whether it is one of a system's parts that can be stopped, or is being: the creation, or an operation on all of them.
fn is_of_parts(job: &Job) -> bool {
    !job.state.is_final() && job.action != "delete"
}

/// Whether a machine runs on once `job` is taken back.
fn runs_on(job: &Job) -> bool {
    let rests = matches!(job.goal, JobGoal::MachinePaused | JobGoal::MachineSuspended);
    rests && job.action != "add"
}

/// Takes back what a job wants of a machine; returns what is the case when that is done.
fn give_up(machine: &mut Machine, job: &Job, now: Timestamp) -> JobGoal {
    let desired = &mut machine.desired;
    desired.since = now;
    match &job.goal {
        JobGoal::VolumeAttached { volume } => {
            let attached = machine
                .volumes
                .iter_mut()
                .find(|attached| attached.volume.to_string() == *volume);
            if let Some(attached) = attached {
                attached.wanted = false;
            }
            JobGoal::VolumeDetached {
                volume: volume.clone(),
            }
        }
        // A machine that nobody had before is not kept.
        _ if job.action == "add" => {
            desired.deleted = true;
            desired.graceful = false;
            desired.force = true;
            JobGoal::Gone
        }
        // It goes on.
        JobGoal::MachinePaused | JobGoal::MachineSuspended => {
            desired.rest = None;
            desired.run += 1;
            JobGoal::MachineRuns {
                run: desired.run,
                restart: desired.restart,
            }
        }
        _ => {
            desired.power = Power::Off;
            desired.force = true;
            JobGoal::MachineOff
        }
    }
}
