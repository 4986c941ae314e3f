//! How far a job is, in per cent: read off the documents it speaks of, so that nobody has to write it.

use cimi::{
    lifecycle::Stage,
    resources::{Image, ImageState, Job, Machine, Resource},
};
use documents::Documents;

/// A part of a job has parts of its own at most so deep.
const DEPTH: u8 = 4;

/// Progress in per cent; 100 only of a job that is over.
pub(crate) fn progress(documents: &Documents, job: &Job) -> u8 {
    of(documents, job, DEPTH)
}

fn of(documents: &Documents, job: &Job, depth: u8) -> u8 {
    if job.state.is_final() {
        return 100;
    }
    let seen = if job.nested_jobs.is_empty() || depth == 0 {
        let (kind, local) = job.subject().split_once('/').unwrap_or_default();
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
