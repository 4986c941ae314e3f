//! The jobs of a system's parts, nested in the job of the system: told of, counted, and stopped with it.
//!
//! ```text
//!  stop of a creation ──▶ no more is made, what was made goes with the system ──▶ STOPPED
//!  stop of an operation ──▶ no more parts are asked, those under way that can be taken back are ──▶ STOPPED
//! ```

use cimi::{
    JobId, Ref, Right, Timestamp,
    resources::{Asked, Event, Job, JobGoal, JobState, System},
};
use documents::{Cached, Documents};

use super::state::has_operations;
use crate::{
    Cloud, CloudError, Done, OpContext, Result, access,
    jobs::{is_stoppable, progress},
};

impl Cloud {
    /// Notes in the job of a system which jobs of its parts there are, and how far they are together.
    pub(super) async fn note_parts(&self, job: Option<&JobId>) -> Result<()> {
        let documents = &self.0.documents;
        let Some(id) = job else {
            return Ok(());
        };
        let parts = documents.jobs.by_index("parent", &id.to_string());
        self.update_job(job, |whole| {
            let before = (whole.nested_jobs.len(), whole.progress);
            for part in &parts {
                let href = part.document.id.to_string();
                if !whole.nested_jobs.iter().any(|known| known.href == href) {
                    whole.nested_jobs.push(Ref::to(href));
                }
            }
            whole.progress = progress(documents, whole);
            (whole.nested_jobs.len(), whole.progress) != before
        })
        .await
    }

    /// Stops the job of a system: what has not begun never does, and of what has, that is taken back that can be.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] if nothing is left that could be stopped; [`CloudError::Raced`] if it changed meanwhile.
    pub(crate) async fn stop_parts(&self, context: &OpContext, read: &Cached<Job>) -> Result<Done> {
        let documents = &self.0.documents;
        let id = read.document.id.to_string();
        // First, so that no more are begun.
        if read.state != JobState::Stopping {
            self.begin_no_more(context, read).await?;
            tracing::info!(job = %id, user = context.user(), "job of a system is to be stopped");
        }
        for part in documents.jobs.by_index("parent", &id) {
            if !is_stoppable(&part) {
                continue;
            }
            match Box::pin(self.stop_job_or_part(context, part.id())).await {
                Ok(_) => {}
                // It ended meanwhile, can't be taken back, or isn't the caller's to stop: it comes to its end.
                Err(
                    CloudError::Conflict(_)
                    | CloudError::NotFound { .. }
                    | CloudError::Forbidden(_),
                ) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Done {
            view: None,
            job: Some(id),
        })
    }

    async fn begin_no_more(&self, context: &OpContext, read: &Cached<Job>) -> Result<()> {
        let documents = &self.0.documents;
        let now = Timestamp::now();
        let who = context.user().unwrap_or_default();
        let (_, local) = read.subject().split_once('/').unwrap_or_default();
        let system = access::find::<System>(documents, context, local, Right::Modify)?;
        let mut next = system.document.0.clone();
        let mut job = read.document.0.clone();
        if next.creation.as_ref() == Some(&job.id) {
            // What nobody had before is not kept.
            next.deleted = true;
            job.stop(JobGoal::Gone, who, now);
        } else {
            let can_stop = can_stop_parts(documents, &next, &job);
            let operation = next.operation.as_mut().filter(|o| o.job == job.id);
            let Some(operation) = operation else {
                return Err(CloudError::Raced(format!("{} is about to end", job.id)));
            };
            if !can_stop {
                return Err(CloudError::Conflict(format!(
                    "{} can't be stopped: all parts were asked to {}, and that can't be taken back",
                    job.id, operation.action
                )));
            }
            operation.stopped = true;
            job.stop(JobGoal::Parts, who, now);
        }
        let event = Event::request(&next, "stop of its job", who, now);
        let changes = documents.changes().replace(&system, next);
        let changes = changes.replace(read, job).create(&event);
        changes.commit().await?;
        Ok(())
    }
}

/// Whether anything of a system's job can be stopped: what was not begun, or what can be taken back.
pub(crate) fn can_stop_parts(documents: &Documents, system: &System, job: &Job) -> bool {
    if system.creation.as_ref() == Some(&job.id) {
        return true;
    }
    let Some(operation) = system.operation.as_ref().filter(|o| o.job == job.id) else {
        return false;
    };
    let members = system.members.iter();
    let mut to_ask = members.filter(|part| has_operations(&part.href));
    let parts = documents.jobs.by_index("parent", &job.id.to_string());
    to_ask.any(|part| !operation.asked.contains_key(&part.href))
        || parts.iter().any(|part| is_stoppable(part))
}

/// How far a job of a system is, by the parts it is about: those that are to come, too.
pub(crate) fn progress_of_parts(
    system: &System,
    job: &Job,
    of_part: impl Fn(&str) -> usize,
    of_job: impl Fn(&str) -> usize,
) -> Option<u8> {
    use cimi::resources::Made;
    let parts: Vec<usize> = if system.creation.as_ref() == Some(&job.id) {
        let components = system.components.iter();
        let far = components.map(|component| match &component.made {
            Made::NotYet => 0,
            Made::Failed { .. } => 100,
            Made::As { href } => of_part(href),
        });
        far.collect()
    } else {
        let operation = system.operation.as_ref().filter(|o| o.job == job.id)?;
        let members = system.members.iter();
        let asked = members.filter(|member| has_operations(&member.href));
        let far = asked.map(|member| match operation.asked.get(&member.href) {
            None => 0,
            Some(Asked::Done | Asked::Refused { .. }) => 100,
            Some(Asked::Job { href }) => of_job(href),
        });
        far.collect()
    };
    let sum: usize = parts.iter().sum();
    u8::try_from(sum.checked_div(parts.len())?).ok()
}
