//! What may be asked of a system that exists: it is written down here, and done by [`super::tend`].

use cimi::{
    Right, Timestamp,
    resources::{Asker, Event, Job, JobGoal, Resource, System, SystemOperation},
    uri,
};

use crate::{Cloud, CloudError, Done, OpContext, Result, access, jobs};

impl Cloud {
    /// Starts, stops, restarts, pauses or suspends all parts that have a state, and that the caller may change: who
    /// asks is written down, and each part is asked in that name.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] while it is being made, removed, or does something else.
    pub async fn act_on_system(
        &self,
        context: &OpContext,
        local: &str,
        action: &str,
        force: bool,
    ) -> Result<Done> {
        let documents = &self.0.documents;
        if ["start", "restart"].contains(&action) {
            access::require_unlimited(context)?;
        }
        let asker = context.user().map(|user| Asker {
            user: user.to_owned(),
            roles: context.roles().to_vec(),
        });
        loop {
            context.in_time()?;
            let now = Timestamp::now();
            let read = access::find::<System>(documents, context, local, Right::Modify)?;
            if let Some(going_on) = &read.operation
                && going_on.action == action
                && going_on.force == force
                && !going_on.stopped
                && going_on.asker.as_ref() == asker.as_ref()
            {
                return Ok(Done {
                    view: None,
                    job: Some(going_on.job.to_string()),
                });
            }
            let busy = match (&read.operation, &read.creation) {
                _ if read.deleted => Some("is being removed".to_owned()),
                (_, Some(_)) => Some("is being made".to_owned()),
                (Some(ending), None) if ending.stopped => Some(format!(
                    "is busy: what was begun by `{}` is being taken back",
                    ending.action
                )),
                (Some(other), None) => {
                    Some(format!("is busy: its parts are asked to {}", other.action))
                }
                (None, None) => None,
            };
            if let Some(busy) = busy {
                let problem = format!(
                    "{} {busy}; `{action}` is not possible now",
                    read.document.id
                );
                return Err(CloudError::Conflict(problem));
            }
            let mut system = read.document.0.clone();
            let acl = system.common.acl.clone();
            let rel = format!("{}/{action}", uri::ACTION);
            let job = Job::accepted(system.key(), &rel, JobGoal::Parts, acl, now)
                .within(context.parent_job.as_ref());
            system.operation = Some(SystemOperation {
                action: action.to_owned(),
                force,
                job: job.id.clone(),
                asker: asker.clone(),
                stopped: false,
                asked: Default::default(),
            });
            let event = Event::request(&system, action, context.user().unwrap_or_default(), now);
            let changes = documents.changes().replace(&read, system).create(&job);
            match changes.create(&event).commit().await {
                Ok(_) => {
                    tracing::info!(system = %read.id, user = context.user(), "system: {action} wanted");
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

    /// Removes a system with what was made for it. What users added to it stays.
    ///
    /// # Errors
    /// Those of lookup and store.
    pub async fn delete_system(&self, context: &OpContext, local: &str) -> Result<Done> {
        let documents = &self.0.documents;
        loop {
            context.in_time()?;
            let now = Timestamp::now();
            let read = access::find::<System>(documents, context, local, Right::Modify)?;
            if read.deleted
                && let Some(job) = jobs::under_way(documents, &read.key(), "delete", &JobGoal::Gone)
            {
                return Ok(Done {
                    view: None,
                    job: Some(job),
                });
            }
            let mut system = read.document.0.clone();
            system.deleted = true;
            let acl = system.common.acl.clone();
            let job = Job::accepted(system.key(), "delete", JobGoal::Gone, acl, now)
                .within(context.parent_job.as_ref());
            let event = Event::request(&system, "delete", context.user().unwrap_or_default(), now);
            let changes = documents.changes().replace(&read, system).create(&job);
            match changes.create(&event).commit().await {
                Ok(_) => {
                    tracing::info!(system = %read.id, user = context.user(), "system is to be removed");
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
