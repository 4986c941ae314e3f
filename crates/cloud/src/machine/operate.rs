//! What may be asked of a machine that exists: start, stop, restart, pause, suspend, edit, removal.

use cimi::{
    Ref, Right, Timestamp,
    lifecycle::{self, Desired, MachineState, Power, Rest},
    model::Changes,
    resources::{Event, Job, JobGoal, Machine, Resource},
    uri,
};

use super::{called, save::image_amounts};
use crate::{Cloud, CloudError, Done, OpContext, Result, access, catalogue, jobs, security_group};

/// An operation on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Start,
    Stop {
        force: bool,
    },
    Restart {
        force: bool,
    },
    /// It stops executing; its memory stays in RAM, or goes to disk.
    Rest(Rest),
    /// Everything is released at once (`stratus-kill-instance`, DELETE).
    Kill,
    /// The guest is asked to shut down first (`stratus-shutdown-instance`).
    Shutdown,
}

impl Operation {
    fn parse(action: &str, force: bool) -> Option<Self> {
        match action {
            "start" => Some(Self::Start),
            "stop" => Some(Self::Stop { force }),
            "restart" => Some(Self::Restart { force }),
            "pause" => Some(Self::Rest(Rest::Pause)),
            "suspend" => Some(Self::Rest(Rest::Suspend)),
            "kill" => Some(Self::Kill),
            "shutdown" => Some(Self::Shutdown),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop { .. } => "stop",
            Self::Restart { .. } => "restart",
            Self::Rest(Rest::Pause) => "pause",
            Self::Rest(Rest::Suspend) => "suspend",
            Self::Kill => "delete",
            Self::Shutdown => "shutdown",
        }
    }

    /// The action as jobs name it.
    fn rel(self) -> String {
        match self {
            Self::Kill => "delete".to_owned(),
            other => format!("{}/{}", uri::ACTION, other.name()),
        }
    }

    /// What a job for this waits for, if just this is wanted of the machine already.
    const fn goal_already(self, desired: &Desired) -> Option<JobGoal> {
        let on = matches!(desired.power, Power::On);
        match (self, desired.deleted) {
            (Self::Start | Self::Restart { .. }, false) if on && desired.rest.is_none() => {
                Some(JobGoal::MachineRuns {
                    run: desired.run,
                    restart: desired.restart,
                })
            }
            (Self::Stop { .. }, false) if !on => Some(JobGoal::MachineOff),
            (Self::Rest(rest), false) if on => match (rest, desired.rest) {
                (Rest::Pause, Some(Rest::Pause)) => Some(JobGoal::MachinePaused),
                (Rest::Suspend, Some(Rest::Suspend)) => Some(JobGoal::MachineSuspended),
                _ => None,
            },
            (Self::Kill, true) if !desired.graceful => Some(JobGoal::Gone),
            (Self::Shutdown, true) if desired.graceful => Some(JobGoal::Gone),
            _ => None,
        }
    }

    /// Whether this doesn't wait for the guest.
    const fn forces(self) -> bool {
        matches!(
            self,
            Self::Stop { force: true } | Self::Restart { force: true }
        )
    }

    /// Changes what is wanted; says what the job waits for.
    fn apply(self, context: &OpContext, machine: &mut Machine, now: Timestamp) -> Result<JobGoal> {
        let name = self.name();
        // A host of which nothing is heard does it when it is back.
        let (state, _) = machine.as_seen();
        let allowed = match self {
            Self::Kill => true,
            Self::Shutdown => !machine.desired.deleted,
            _ => lifecycle::actions(state).contains(&name),
        };
        if !allowed {
            return Err(CloudError::Conflict(format!(
                "{} is {}; `{name}` is not possible now{}",
                called(context, machine),
                serde_json::to_string(&state)
                    .unwrap_or_default()
                    .trim_matches('"'),
                match lifecycle::actions(state) {
                    [] => String::new(),
                    possible => format!(", but {}", possible.join(", ")),
                }
            )));
        }
        let desired = &mut machine.desired;
        desired.since = now;
        let goal = match self {
            Self::Start => {
                // On its way already: there is nothing to be begun twice.
                if state != MachineState::Starting {
                    desired.run += 1;
                }
                desired.power = Power::On;
                desired.rest = None;
                desired.afresh = false;
                desired.force = false;
                JobGoal::MachineRuns {
                    run: desired.run,
                    restart: desired.restart,
                }
            }
            Self::Stop { force } => {
                desired.power = Power::Off;
                desired.force = force;
                JobGoal::MachineOff
            }
            Self::Restart { force } => {
                use MachineState as S;
                desired.force = force;
                let has_process = matches!(
                    state,
                    S::Started | S::Starting | S::Pausing | S::Paused | S::Suspending
                );
                if has_process && desired.power == Power::On {
                    desired.restart += 1;
                } else {
                    desired.power = Power::On;
                    desired.run += 1;
                    desired.afresh = true;
                }
                desired.rest = None;
                JobGoal::MachineRuns {
                    run: desired.run,
                    restart: desired.restart,
                }
            }
            Self::Rest(rest) => {
                desired.rest = Some(rest);
                desired.afresh = false;
                match rest {
                    Rest::Pause => JobGoal::MachinePaused,
                    Rest::Suspend => JobGoal::MachineSuspended,
                }
            }
            Self::Kill => {
                desired.deleted = true;
                desired.graceful = false;
                desired.force = true;
                JobGoal::Gone
            }
            Self::Shutdown => {
                desired.deleted = true;
                desired.graceful = true;
                JobGoal::Gone
            }
        };
        Ok(goal)
    }
}

impl Cloud {
    /// Does an action by its name in lower case.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] if the machine's state doesn't allow it, [`CloudError::Invalid`] for an unknown one.
    pub async fn act_on_machine(
        &self,
        context: &OpContext,
        id: &str,
        action: &str,
        force: bool,
    ) -> Result<Done> {
        if ["start", "restart"].contains(&action) {
            access::require_unlimited(context)?;
        }
        let operation = Operation::parse(action, force).ok_or_else(|| {
            CloudError::invalid(
                "action",
                format!(
                    "`{action}` is unknown; a machine knows start, stop, restart, pause, suspend, kill, shutdown"
                ),
            )
        })?;
        self.operate(context, id, operation).await
    }

    /// Removes a machine with everything that lives and dies with it.
    ///
    /// # Errors
    /// Those of lookup and store.
    pub async fn delete_machine(&self, context: &OpContext, id: &str) -> Result<Done> {
        self.operate(context, id, Operation::Kill).await
    }

    async fn operate(&self, context: &OpContext, id: &str, operation: Operation) -> Result<Done> {
        loop {
            context.in_time()?;
            let now = Timestamp::now();
            let read = self.find_machine(context, id, Right::Modify)?;
            let mut machine = read.document.0.clone();
            let rel = operation.rel();
            let open = operation
                .goal_already(&machine.desired)
                .and_then(|goal| jobs::under_way(&self.0.documents, &machine.key(), &rel, &goal));
            let mut new_job = None;
            let mut saved = None;
            let job = match open {
                Some(job) if machine.desired.force || !operation.forces() => {
                    return Ok(Done {
                        view: None,
                        job: Some(job),
                    });
                }
                // The same, but without patience.
                Some(job) => {
                    machine.desired.force = true;
                    job
                }
                None => {
                    if matches!(operation, Operation::Start | Operation::Restart { .. }) {
                        self.not_being_saved(&machine)?;
                    }
                    let goal = operation.apply(context, &mut machine, now)?;
                    let acl = machine.common.acl.clone();
                    let mut job = Job::accepted(machine.key(), &rel, goal, acl.clone(), now)
                        .within(context.parent_job.as_ref());
                    if operation == Operation::Shutdown
                        && machine.first_started.is_some()
                        && let Some(save) = machine.save.clone()
                    {
                        self.not_being_saved(&machine)?;
                        let amounts = image_amounts(&machine);
                        // It will be its owner's, whoever may shut the machine down.
                        let owner = machine.common.acl.owner.clone();
                        let place = self.place_of(context, &owner, &amounts).await?;
                        let image = self.image_of(&mut machine, acl, Some(save), now)?;
                        job.affected_resources.push(Ref::to(image.key()));
                        saved = Some((image, place));
                    }
                    new_job.insert(job).id.to_string()
                }
            };
            machine.settle();
            let event = Event::request(
                &machine,
                operation.name(),
                context.user().unwrap_or_default(),
                now,
            );
            let mut changes = self.0.documents.changes();
            if let Some((_, Some(place))) = &saved {
                changes = place.guard(changes);
            }
            let mut changes = changes.replace(&read, machine);
            if let Some(new_job) = &new_job {
                changes = changes.create(new_job);
            }
            if let Some((image, _)) = &saved {
                changes = changes.create(image);
            }
            let changes = changes.create(&event);
            match changes.commit().await {
                Ok(_) => {
                    let (name, user) = (operation.name(), context.user());
                    tracing::info!(machine = %read.id, vmid = %read.vmid, user, "machine: {name} wanted");
                    return Ok(Done {
                        view: None,
                        job: Some(job),
                    });
                }
                Err(error) if error.is_conflict() => {
                    if let Some((_, Some(place))) = saved {
                        place.is_lost(&error).await;
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Changes what a consumer may write of a machine: name, description, properties, and the restart policy.
    ///
    /// # Errors
    /// [`CloudError::Invalid`] for an attribute that can't be changed.
    pub async fn edit_machine(
        &self,
        context: &OpContext,
        id: &str,
        changes: Changes,
    ) -> Result<Done> {
        let read = self.find_machine(context, id, Right::Modify)?;
        if changes.contains_key(security_group::OF_MACHINE) {
            return self.regroup_machine(context, read.id(), changes).await;
        }
        catalogue::edit::<Machine>(&self.0.documents, context, read.id(), changes).await
    }
}
