//! How far a job is, in per cent: read off the documents it speaks of, so that nobody has to write it.

use cimi::{
    lifecycle::Stage,
    resources::{Image, ImageState, Job, Machine, Resource, System},
};
use documents::Documents;

use crate::{lost_hosts, system::progress_of_parts};

/// A part of a job has parts of its own at most so deep.
const DEPTH: u8 = 4;

/// Progress in per cent; 100 only of a job that is over.
pub(crate) fn progress(documents: &Documents, job: &Job) -> u8 {
    of(documents, job, DEPTH)
}

/// Why an open job doesn't get on, if it waits for a host of which nothing is heard, or an image that doesn't come.
pub(crate) fn why_waiting(documents: &Documents, job: &Job) -> Option<String> {
    if job.state.is_final() {
        return None;
    }
    let (kind, local) = job.subject().split_once('/').unwrap_or_default();
    let image = match kind {
        Image::COLLECTION => documents.images.get(local),
        Machine::COLLECTION => {
            let machine = documents.machines.get(local)?;
            if let Some(why) = lost_hosts::why_unseen(documents, &machine) {
                return Some(format!("waits for its machine's host to be back: {why}"));
            }
            documents.images.get(machine.image.as_ref()?.href.local())
        }
        _ => None,
    };
    let image = image.filter(|image| image.state == ImageState::Creating)?;
    image.reason.clone()
}

fn of(documents: &Documents, job: &Job, depth: u8) -> u8 {
    if job.state.is_final() {
        return 100;
    }
    let (kind, local) = job.subject().split_once('/').unwrap_or_default();
    if kind == System::COLLECTION
        && depth > 0
        && let Some(system) = documents.systems.get(local)
        && let Some(seen) = of_system(documents, job, &system, depth)
    {
        return seen.min(99);
    }
    let seen = if job.nested_jobs.is_empty() || depth == 0 {
        match kind {
            Image::COLLECTION => documents.images.get(local).and_then(|image| image.progress),
            Machine::COLLECTION => documents.machines.get(local).and_then(|machine| {
                if machine.desired.deleted {
                    of_saving(documents, &machine)
                } else {
                    of_start(documents, &machine)
                }
            }),
            _ => None,
        }
    } else {
        let sum: usize = job
            .nested_jobs
            .iter()
            .map(|part| {
                documents
                    .jobs
                    .get(part.href.rsplit('/').next().unwrap_or_default())
            })
            // A part that is forgotten is over.
            .map(|part| part.map_or(100, |part| usize::from(of(documents, &part, depth - 1))))
            .sum();
        u8::try_from(sum / job.nested_jobs.len()).ok()
    };
    seen.unwrap_or(job.progress).min(99)
}

/// How far all parts of a system are: by their jobs that are nested in this one, and what has none is done.
fn of_system(documents: &Documents, job: &Job, system: &System, depth: u8) -> Option<u8> {
    let id = job.id.to_string();
    let is_part = |part: &Job| part.parent_job.as_ref().is_some_and(|of| of.href == id);
    let of_part = |href: &str| {
        let open = documents.jobs.by_index("open", href);
        let open = open.iter().find(|part| is_part(part));
        open.map_or(100, |part| usize::from(of(documents, part, depth - 1)))
    };
    let of_job = |href: &str| {
        let part = documents
            .jobs
            .get(href.rsplit('/').next().unwrap_or_default());
        // A part that is forgotten is over.
        part.map_or(100, |part| usize::from(of(documents, &part, depth - 1)))
    };
    progress_of_parts(system, job, of_part, of_job)
}

/// How far the disk of a machine that is removed is saved, if it is.
fn of_saving(documents: &Documents, machine: &Machine) -> Option<u8> {
    let image = &machine.saved_as.as_ref()?.href;
    documents.images.get(image.local())?.progress
}

/// How far the start of a machine is; most of it may be the fetch of its image.
fn of_start(documents: &Documents, machine: &Machine) -> Option<u8> {
    if machine.observed.run >= machine.desired.run
        && matches!(machine.observed.stage, Stage::Running | Stage::Paused)
    {
        return None;
    }
    Some(match machine.observed.stage {
        Stage::Booting => 90,
        Stage::Preparing => 80,
        _ if machine.host.is_none() => 0,
        _ => {
            let mut least = 100;
            machine.images(&mut |id| {
                if let Some(image) = documents.images.get(id.local())
                    && image.state == ImageState::Creating
                {
                    least = least.min(image.progress.unwrap_or(0));
                }
            });
            10 + u8::try_from(u32::from(least) * 70 / 100).unwrap_or(0)
        }
    })
}
