//! The tracker of jobs: sees what became of the resources, and ends the jobs that told of it.
//!
//! A job's goal is a pure question about documents ([`verdict`]), so it doesn't matter who did the work, in how many
//! steps, or how often the process died meanwhile.

mod progress;
mod stop;

use std::{collections::HashSet, time::Duration};

use cimi::{
    Timestamp,
    lifecycle::{Power, Rest, Stage},
    resources::{
        AttachStage, Image, ImageState, Job, JobGoal, Machine, NetworkPort, PortState, Volume,
        VolumeImage, VolumeState,
    },
};
use documents::{Documents, DocumentsError};
use futures::{StreamExt, stream::FuturesUnordered};
use store::cache::Changed;
use tokio::time::Instant;

pub(crate) use self::{
    progress::{progress, why_waiting},
    stop::{can_stop, is_stoppable},
};

/// What a job's target looks like.
enum Target<'a> {
    Machine(&'a Machine),
    Volume(&'a Volume),
    Image(&'a Image),
    VolumeImage(&'a VolumeImage),
    Port(&'a NetworkPort),
    /// What decides its jobs itself.
    System,
    Gone,
}

/// Whether a goal was reached (`Ok`), can't be reached any more (`Err`, with the reason), or is still open (`None`).
fn verdict(goal: &JobGoal, target: &Target<'_>) -> Option<Result<(), String>> {
    match (goal, target) {
        (JobGoal::Gone | JobGoal::MachineOff | JobGoal::VolumeDetached { .. }, Target::Gone) => {
            Some(Ok(()))
        }
        (_, Target::Gone) => Some(Err("it was removed".to_owned())),
        (JobGoal::MachineRuns { run, restart }, Target::Machine(machine)) => {
            runs(machine, *run, *restart)
        }
        (JobGoal::MachineOff, Target::Machine(machine)) => off(machine),
        (JobGoal::MachinePaused, Target::Machine(machine)) => rests(machine, Rest::Pause),
        (JobGoal::MachineSuspended, Target::Machine(machine)) => rests(machine, Rest::Suspend),
        (JobGoal::VolumeAttached { volume }, Target::Machine(machine)) => attached(machine, volume),
        (JobGoal::VolumeDetached { volume }, Target::Machine(machine)) => {
            let still = machine
                .volumes
                .iter()
                .any(|v| v.volume.to_string() == *volume);
            if !still {
                return Some(Ok(()));
            }
            resting(machine).map(|_| {
                let text = "the machine rests, and its guest can't let go of it; it is taken away when the machine goes on";
                Err(text.to_owned())
            })
        }
        (JobGoal::Available, Target::Volume(volume)) => match volume.state {
            VolumeState::Available => Some(Ok(())),
            VolumeState::Error => Some(Err(volume.reason.clone().unwrap_or_default())),
            VolumeState::Capturing | VolumeState::Creating | VolumeState::Deleting => None,
        },
        (JobGoal::Available, Target::Image(image)) => match image.state {
            ImageState::Available => Some(Ok(())),
            ImageState::Error => Some(Err(image.reason.clone().unwrap_or_default())),
            ImageState::Creating | ImageState::Deleting => None,
        },
        (JobGoal::Available, Target::VolumeImage(image)) => match image.state {
            ImageState::Available => Some(Ok(())),
            ImageState::Error => Some(Err(image.reason.clone().unwrap_or_default())),
            ImageState::Creating | ImageState::Deleting => None,
        },
        (JobGoal::PortIs { up }, Target::Port(port)) => {
            if port.state.is_wanted_up() != *up {
                let other = if *up { "stopped" } else { "started" };
                return Some(Err(format!("it was {other} before")));
            }
            (port.state == PortState::settled(*up)).then_some(Ok(()))
        }
        (JobGoal::Gone, Target::Volume(volume)) if volume.state == VolumeState::Error => {
            Some(Err(volume.reason.clone().unwrap_or_default()))
        }
        _ => None,
    }
}

fn runs(machine: &Machine, run: u64, restart: u64) -> Option<Result<(), String>> {
    let seen = &machine.observed;
    let reason = || {
        machine
            .reason
            .clone()
            .unwrap_or_else(|| "it ended".to_owned())
    };
    match seen.stage {
        Stage::Running if seen.run >= run && seen.restart >= restart => Some(Ok(())),
        // It ran, and was asked to rest at once.
        Stage::Held | Stage::Saving | Stage::Suspended
            if seen.run >= run && machine.desired.rest.is_some() =>
        {
            Some(Ok(()))
        }
        _ if machine.desired.deleted => Some(Err("it was removed before".to_owned())),
        _ if machine.desired.power == Power::Off => Some(Err("it was stopped before".to_owned())),
        // It is begun anew for a restart, of this job or of another one.
        Stage::Ended { .. } | Stage::Failed if machine.desired.restarts(seen) => None,
        Stage::Ended { .. } | Stage::Failed if seen.run >= run => Some(Err(reason())),
        _ => None,
    }
}

fn rests(machine: &Machine, rest: Rest) -> Option<Result<(), String>> {
    let (desired, seen) = (&machine.desired, &machine.observed);
    let reason = |otherwise: &str| {
        let reason = machine.reason.clone();
        Some(Err(reason.unwrap_or_else(|| otherwise.to_owned())))
    };
    if desired.deleted {
        return Some(Err("it was removed before".to_owned()));
    }
    if desired.power == Power::Off {
        return Some(Err("it was stopped before".to_owned()));
    }
    if desired.rest != Some(rest) {
        return Some(Err("something else was asked of it before".to_owned()));
    }
    if seen.refused == Some(desired.since) {
        return reason("it could not be done");
    }
    match seen.stage {
        Stage::Held if rest == Rest::Pause => Some(Ok(())),
        Stage::Suspended if rest == Rest::Suspend => Some(Ok(())),
        Stage::Ended { .. } | Stage::Failed if seen.run >= desired.run => reason("it ended"),
        _ => None,
    }
}

fn off(machine: &Machine) -> Option<Result<(), String>> {
    match machine.observed.stage {
        _ if machine.desired.power == Power::On => {
            Some(Err("it was started again before".to_owned()))
        }
        Stage::Ended { .. } | Stage::Waiting | Stage::Failed => Some(Ok(())),
        _ => None,
    }
}

fn attached(machine: &Machine, volume: &str) -> Option<Result<(), String>> {
    let Some(found) = machine
        .volumes
        .iter()
        .find(|v| v.volume.to_string() == volume)
    else {
        return Some(Err("it was detached before".to_owned()));
    };
    match &found.stage {
        AttachStage::Attached { .. } => Some(Ok(())),
        AttachStage::Failed { reason } => Some(Err(reason.clone())),
        _ if !found.wanted => Some(Err("it was detached before".to_owned())),
        // On no host yet, and not on its way to one: there is nothing to be done before it starts.
        AttachStage::Waiting if machine.host.is_none() && machine.desired.power == Power::Off => {
            Some(Ok(()))
        }
        // Its memory knows the disks it had: this one is plugged in when it goes on.
        AttachStage::Waiting if resting(machine) == Some(Rest::Suspend) => Some(Ok(())),
        AttachStage::Waiting | AttachStage::Detaching { .. } => None,
    }
}

/// How it rests, if it does and is to go on resting.
fn resting(machine: &Machine) -> Option<Rest> {
    let rests = match machine.observed.stage {
        Stage::Held => Rest::Pause,
        Stage::Suspended => Rest::Suspend,
        _ => return None,
    };
    let wanted = machine.desired.rest_as_seen(&machine.observed);
    wanted.filter(|wanted| *wanted == rests)
}

/// The job that is still open for this very wish: whoever asks for the same again is pointed to it.
pub(crate) fn under_way(
    documents: &Documents,
    target: &str,
    action: &str,
    goal: &JobGoal,
) -> Option<String> {
    let open = documents.jobs.by_index("open", target);
    let same = open
        .iter()
        .find(|job| job.action == action && job.goal == *goal)?;
    Some(same.document.id.to_string())
}

/// The image that a job makes, by the part of its id after the slash.
fn image_of(job: &Job) -> Option<&str> {
    let mut affected = job.affected_resources.iter();
    affected.find_map(|resource| resource.href.strip_prefix("MachineImage/"))
}

/// Whether the image that a removed machine was to become is there.
fn saved(documents: &Documents, job: &Job) -> Result<(), String> {
    let Some(local) = image_of(job).filter(|_| !job.subject().starts_with("MachineImage/")) else {
        return Ok(());
    };
    match documents.images.get(local) {
        Some(image) if image.state == ImageState::Available => Ok(()),
        Some(image) => Err(format!(
            "the machine is gone, but it was not saved: {}",
            image.reason.as_deref().unwrap_or("it was killed meanwhile")
        )),
        None => Err("the machine is gone; the image it was saved as was deleted".to_owned()),
    }
}

/// Most ends written at once: the store commits those of a moment together.
const ENDS_AT_ONCE: usize = 64;
/// How long an end rests that could not be written (a full disk, say); doubled each time up to the longest.
const REST: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_secs(10);

/// Ends jobs as their resources change, until the caches stop. An end that can't be written is tried again: what a job
/// speaks of may never change again.
pub(crate) async fn track(documents: Documents) {
    let mut machines = documents.machines.changes();
    let mut volumes = documents.volumes.changes();
    let mut images = documents.images.changes();
    let mut volume_images = documents.volume_images.changes();
    let mut systems = documents.systems.changes();
    let mut ports = documents.network_ports.changes();
    let mut jobs = documents.jobs.changes();
    let mut ends = FuturesUnordered::new();
    let mut failed: HashSet<String> = HashSet::new();
    let mut rest = REST;
    let mut again_at = Instant::now();
    loop {
        let room = ends.len() < ENDS_AT_ONCE;
        let subjects: Vec<String> = tokio::select! {
            Some((subject, ended)) = ends.next(), if !ends.is_empty() => {
                match ended {
                    Ok(()) => rest = REST,
                    Err(error) => {
                        tracing::warn!(subject, %error, "the end of a job could not be written; it will be tried again");
                        if failed.is_empty() {
                            again_at = Instant::now() + rest;
                            rest = LONGEST_REST.min(rest * 2);
                        }
                        failed.insert(subject);
                    }
                }
                continue;
            }
            () = tokio::time::sleep_until(again_at), if !failed.is_empty() && room => failed.drain().collect(),
            changed = machines.next(), if room => vec![format!("Machine/{}", changed.id())],
            changed = volumes.next(), if room => vec![format!("Volume/{}", changed.id())],
            changed = images.next(), if room => vec![format!("MachineImage/{}", changed.id())],
            changed = volume_images.next(), if room => vec![format!("VolumeImage/{}", changed.id())],
            changed = systems.next(), if room => vec![format!("System/{}", changed.id())],
            changed = ports.next(), if room => vec![format!("NetworkPort/{}", changed.id())],
            changed = jobs.next(), if room => match changed {
                Changed::Present(job) if !job.state.is_final() => vec![job.subject().to_owned()],
                _ => continue,
            },
        };
        for subject in subjects {
            if documents.jobs.count_by_index("open", &subject) > 0 {
                ends.push(end_decided(documents.clone(), subject));
            }
        }
    }
}

/// Ends the open jobs about `subject` that are decided.
async fn end_decided(
    documents: Documents,
    subject: String,
) -> (String, Result<(), DocumentsError>) {
    for job in documents.jobs.by_index("open", &subject) {
        if let Err(error) = end_if_decided(&documents, job.id(), &subject).await {
            return (subject, Err(error));
        }
    }
    (subject, Ok(()))
}

async fn end_if_decided(
    documents: &Documents,
    job: &str,
    target: &str,
) -> Result<(), DocumentsError> {
    let local = target.split_once('/').map_or("", |(_, local)| local);
    let ended = documents
        .update(job, |job: &mut Job| {
            if job.state.is_final() {
                return Ok::<bool, DocumentsError>(false);
            }
            let (machine, volume, image) = (
                documents.machines.get(local),
                documents.volumes.get(local),
                documents.images.get(local),
            );
            let volume_image = documents.volume_images.get(local);
            let port = documents.network_ports.get(local);
            let target = match (&machine, &volume, &image, &volume_image) {
                (Some(machine), ..) => Target::Machine(machine),
                (_, Some(volume), ..) => Target::Volume(volume),
                (_, _, Some(image), _) => Target::Image(image),
                (.., Some(image)) => Target::VolumeImage(image),
                _ if let Some(port) = &port => Target::Port(port),
                _ if documents.systems.get(local).is_some() => Target::System,
                _ => Target::Gone,
            };
            match verdict(&job.goal, &target) {
                None => Ok(false),
                Some(outcome) => {
                    let outcome = match job.goal {
                        JobGoal::Gone => outcome.and_then(|()| saved(documents, job)),
                        _ => outcome,
                    };
                    job.finish(outcome, Timestamp::now());
                    Ok(true)
                }
            }
        })
        .await;
    match ended {
        Ok(_) | Err(DocumentsError::Absent { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
