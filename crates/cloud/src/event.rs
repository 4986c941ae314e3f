//! Jobs and events as the outside sees them.

use cimi::{
    model::Kind,
    resources::{Event, Job},
};
use documents::Documents;
use serde_json::{Map, Value, json};

use crate::{
    Rel,
    catalogue::{Public, object},
};

impl Public for Event {
    const KIND: Kind = Kind::Event;

    fn own_attributes(&self, _documents: &Documents) -> Map<String, Value> {
        object(json!({
            "timestamp": self.timestamp,
            "type": self.kind,
            "content": self.content,
            "outcome": self.outcome,
            "severity": self.severity,
        }))
    }

    fn operations(&self, _documents: &Documents) -> Vec<Rel> {
        Vec::new()
    }
}

impl Public for Job {
    const KIND: Kind = Kind::Job;

    /// As long as it isn't over, its progress is that of an image.
    fn stamp(&self, revision: u64, _documents: &Documents) -> Option<u64> {
        self.state.is_final().then_some(revision)
    }

    fn own_attributes(&self, documents: &Documents) -> Map<String, Value> {
        let mut out = object(json!({
            "state": self.state,
            "targetResource": self.target_resource,
            "action": self.action,
            "progress": crate::jobs::progress(documents, self),
            "timeOfStatusChange": self.time_of_status_change,
        }));
        if !self.affected_resources.is_empty() {
            out.insert(
                "affectedResources".to_owned(),
                json!(self.affected_resources),
            );
        }
        if let Some(code) = self.return_code {
            out.insert("returnCode".to_owned(), code.into());
        }
        let waits = || crate::jobs::why_waiting(documents, self);
        if let Some(text) = self.status_message.clone().or_else(waits) {
            out.insert("statusMessage".to_owned(), text.as_str().into());
        }
        if let Some(parent) = &self.parent_job {
            out.insert("parentJob".to_owned(), json!(parent));
        }
        if !self.nested_jobs.is_empty() {
            out.insert("nestedJobs".to_owned(), json!(self.nested_jobs));
        }
        out
    }

    fn operations(&self, documents: &Documents) -> Vec<Rel> {
        if self.state.is_final() {
            vec![Rel::Delete]
        } else if crate::jobs::can_stop(documents, self) {
            vec![Rel::Action("stop")]
        } else {
            Vec::new()
        }
    }
}
