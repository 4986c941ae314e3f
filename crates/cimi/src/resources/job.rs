//! Job and Event: what was asked for, and what happened.

use serde::{Deserialize, Serialize};

use serde_json::{Map, Value, json};

use super::{Resource, Unknown, resource};
use crate::{Acl, Common, EventId, JobId, Ref, Timestamp};

/// States of a Job (DSP0263 §5.33).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum JobState {
    /// Not begun.
    Queued,
    /// Going on.
    Running,
    /// Ended without reaching its goal.
    Failed,
    /// Reached its goal.
    Success,
    /// Being stopped.
    Stopping,
    /// Stopped on request.
    Stopped,
}

impl JobState {
    /// Whether it will not change any more.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Failed | Self::Success | Self::Stopped)
    }
}

/// What must be seen at the target for a job to have succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum JobGoal {
    /// The machine reached this run (and this restart within it) and runs.
    MachineRuns {
        /// Desired run.
        run: u64,
        /// Desired restart.
        restart: u64,
    },
    /// The machine is off.
    MachineOff,
    /// The machine does not execute; its memory is in RAM.
    MachinePaused,
    /// The machine does not execute; its memory is on disk.
    MachineSuspended,
    /// The target is available.
    Available,
    /// The target is gone.
    Gone,
    /// The volume is attached to the target machine.
    VolumeAttached {
        /// `Volume/…`
        volume: String,
    },
    /// The volume is no more at the target machine.
    VolumeDetached {
        /// `Volume/…`
        volume: String,
    },
    /// The port carries frames, or none.
    PortIs {
        /// Whether it is to.
        up: bool,
    },
    /// All parts of the system were made, or did what was asked.
    Parts,
}

/// A user's request that outlasts its HTTP exchange. A record, never what drives the work.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// Times and access.
    #[serde(flatten)]
    pub common: Common,
    /// Its state.
    pub state: JobState,
    /// The resource operated on.
    pub target_resource: Ref<String>,
    /// Resources changed or made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub affected_resources: Vec<Ref<String>>,
    /// `add`, `delete`, or an action URI.
    pub action: String,
    /// 0 on success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub return_code: Option<i32>,
    /// 0 to 100.
    pub progress: u8,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_message: Option<String>,
    /// When the state last changed.
    pub time_of_status_change: Timestamp,
    /// `<collection>/<id>` of the resource that the goal speaks of, where that isn't the target: what a creation makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// When it has succeeded. (Not flattened: `unknown` would keep a second copy of a flattened enum's members.)
    pub goal: JobGoal,
    /// The job that this is a part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_job: Option<Ref<String>>,
    /// Its parts, in the order they were begun.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nested_jobs: Vec<Ref<String>>,
    /// Who asked for it to be stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_by: Option<String>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(Job, "Job", |job, add| {
    if job.state.is_final() {
        add("finished", "yes");
    } else {
        add("open", job.subject());
    }
    if let Some(parent) = &job.parent_job {
        add("parent", &parent.href);
    }
});

impl Job {
    /// A request on the resource `target` that has just been accepted.
    #[must_use]
    pub fn accepted(target: String, action: &str, goal: JobGoal, acl: Acl, now: Timestamp) -> Self {
        Self {
            id: JobId::generate(),
            common: Common::new(acl, now),
            state: JobState::Running,
            affected_resources: vec![Ref::to(target.clone())],
            target_resource: Ref::to(target),
            action: action.to_owned(),
            return_code: None,
            progress: 0,
            status_message: None,
            time_of_status_change: now,
            subject: None,
            goal,
            parent_job: None,
            nested_jobs: Vec::new(),
            stopped_by: None,
            unknown: Unknown::new(),
        }
    }

    /// A request to add `member` to `collection` that has just been accepted. The collection is what is operated on
    /// (DSP0263 §5.33), the member what is affected.
    #[must_use]
    pub fn creation(
        collection: String,
        member: String,
        goal: JobGoal,
        acl: Acl,
        now: Timestamp,
    ) -> Self {
        Self {
            affected_resources: vec![Ref::to(member.clone())],
            subject: Some(member),
            ..Self::accepted(collection, "add", goal, acl, now)
        }
    }

    /// The same, as a part of another job.
    #[must_use]
    pub fn within(mut self, parent: Option<&JobId>) -> Self {
        self.parent_job = parent.map(|parent| Ref::to(parent.to_string()));
        self
    }

    /// `<collection>/<id>` of the resource that the goal speaks of.
    #[must_use]
    pub fn subject(&self) -> &str {
        self.subject
            .as_deref()
            .unwrap_or(&self.target_resource.href)
    }

    /// Has it stopped: from now on it waits for `undone`, which is what is left when it never was.
    pub fn stop(&mut self, undone: JobGoal, who: &str, now: Timestamp) {
        self.state = JobState::Stopping;
        self.goal = undone;
        self.stopped_by = Some(who.to_owned());
        self.time_of_status_change = now;
    }

    /// Ends it. `Err` holds why the goal can't be reached any more. A job that is being stopped has stopped, however what
    /// undoes it went.
    pub fn finish(&mut self, outcome: Result<(), String>, now: Timestamp) {
        let who = self.stopped_by.as_deref().unwrap_or("the cloud");
        (self.state, self.return_code, self.status_message) = match outcome {
            Ok(()) if self.state == JobState::Stopping => (
                JobState::Stopped,
                Some(1),
                Some(format!("stopped by {who}")),
            ),
            Err(reason) if self.state == JobState::Stopping => (
                JobState::Stopped,
                Some(1),
                Some(format!("stopped by {who}: {reason}")),
            ),
            Ok(()) => (JobState::Success, Some(0), Some("OK".to_owned())),
            Err(reason) => (JobState::Failed, Some(1), Some(reason)),
        };
        self.progress = 100;
        self.time_of_status_change = now;
    }
}

/// How an event turned out (DSP0263 §5.36).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EventOutcome {
    /// Not decided yet.
    Pending,
    /// Can't be told.
    Unknown,
    /// Information only.
    Status,
    /// As wanted.
    Success,
    /// Worth a look.
    Warning,
    /// Not as wanted.
    Failure,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventSeverity {
    /// Somebody must act at once.
    Critical,
    /// Somebody should act.
    High,
    /// Somebody should know.
    Medium,
    /// Routine.
    Low,
}

/// Something that happened to a resource.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Its id.
    pub id: EventId,
    /// Times and access.
    #[serde(flatten)]
    pub common: Common,
    /// When it happened.
    pub timestamp: Timestamp,
    /// `state`, `alarm`, `model`, `access`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What happened: `resource`, `resName`, `resType`, `state`, `previous`, `detail`, `initiator`.
    pub content: serde_json::Map<String, serde_json::Value>,
    /// How it turned out.
    pub outcome: EventOutcome,
    /// How bad it is.
    pub severity: EventSeverity,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(Event, "Event", |event, add| {
    if let Some(about) = event.subject() {
        add("about", about);
    }
});

impl Event {
    /// The id of the resource it happened to: `Machine/<uuid>`.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.content.get("resource").and_then(Value::as_str)
    }

    /// Somebody asked for something (type `access`).
    #[must_use]
    pub fn request<R: Resource>(
        resource: &R,
        operation: &str,
        initiator: &str,
        now: Timestamp,
    ) -> Self {
        let content = json!({"operation": operation, "initiator": initiator});
        Self::about(
            resource,
            "access",
            content,
            EventOutcome::Success,
            EventSeverity::Low,
            now,
        )
    }

    /// A resource changed its state (type `state`).
    #[must_use]
    pub fn state_change<R: Resource>(
        resource: &R,
        previous: &str,
        state: &str,
        detail: Option<&str>,
        outcome: EventOutcome,
        now: Timestamp,
    ) -> Self {
        let mut content = json!({"state": state, "previous": previous});
        if let (Some(detail), Value::Object(members)) = (detail, &mut content) {
            members.insert("detail".to_owned(), detail.into());
        }
        let severity = if outcome == EventOutcome::Failure {
            EventSeverity::High
        } else {
            EventSeverity::Low
        };
        Self::about(resource, "state", content, outcome, severity, now)
    }

    fn about<R: Resource>(
        resource: &R,
        kind: &str,
        content: Value,
        outcome: EventOutcome,
        severity: EventSeverity,
        now: Timestamp,
    ) -> Self {
        let mut members = Map::new();
        members.insert("resource".to_owned(), resource.key().into());
        members.insert("resType".to_owned(), R::COLLECTION.into());
        members.insert(
            "resName".to_owned(),
            resource
                .common()
                .name
                .clone()
                .unwrap_or_else(|| resource.key())
                .into(),
        );
        if let Value::Object(more) = content {
            members.extend(more);
        }
        Self {
            id: EventId::generate(),
            common: Common::new(resource.acl().clone(), now),
            timestamp: now,
            kind: kind.to_owned(),
            content: members,
            outcome,
            severity,
            unknown: Unknown::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_was_stored_and_read_is_stored_the_same_again() {
        let goal = JobGoal::MachineRuns { run: 1, restart: 0 };
        let now = Timestamp::from_millis(0);
        let job = Job::creation(
            "Machine".to_owned(),
            "Machine/a".to_owned(),
            goal,
            Acl::owned_by_user("u"),
            now,
        );
        let stored = serde_json::to_string(&job).unwrap();
        let read: Job = serde_json::from_str(&stored).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), stored);
        assert!(read.unknown.is_empty(), "{:?}", read.unknown);
    }
}
