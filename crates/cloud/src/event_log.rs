//! EventLogs: the events about one resource. A log is not stored: it is a view of the events, there as long as its
//! resource (capability `Linked`). Its id is `EventLog/<type>.<id>`.

use std::sync::Arc;

use cimi::{
    Right,
    model::Kind,
    query::Query,
    resources::{Event, EventSeverity, Machine, Resource, System, Volume},
};
use documents::{Cached, OfType};
use serde_json::{Value, json};

use crate::{
    Cloud, CloudError, OpContext, Page, Result, View, access,
    catalogue::{self, Plain, object},
};

/// What a resource refers to its log by.
pub(crate) fn link<R: Resource>(resource: &R) -> Value {
    json!({"href": id_of(resource)})
}

fn id_of<R: Resource>(resource: &R) -> String {
    format!(
        "{}/{}.{}",
        Kind::EventLog,
        R::COLLECTION,
        resource.local_id()
    )
}

impl Cloud {
    /// The logs of the machines, volumes and systems that the caller may see.
    pub(crate) fn list_event_logs(&self, context: &OpContext, query: &Query) -> Page {
        let logs = self
            .logs_of::<Machine>(context)
            .into_iter()
            .chain(self.logs_of::<Volume>(context))
            .chain(self.logs_of::<System>(context));
        let (count, members) = query.page(logs);
        Page {
            count,
            members,
            can_add: false,
        }
    }

    fn logs_of<R: OfType>(&self, context: &OpContext) -> Vec<View> {
        let documents = &self.0.documents;
        let readable = documents.readable::<R>(context.user(), context.roles());
        readable
            .iter()
            .map(|resource| self.log_view(context, &resource.document.0))
            .collect()
    }

    /// One log.
    ///
    /// # Errors
    /// [`CloudError::NotFound`] if there is no such resource, or the caller may not see it.
    pub(crate) fn event_log(&self, context: &OpContext, id: &str) -> Result<View> {
        let missing = || CloudError::not_found(format!("{}/{id}", Kind::EventLog));
        access::require_user(context)?;
        let (kind, local) = id.split_once('.').ok_or_else(missing)?;
        let found = match kind {
            Machine::COLLECTION => self.log_of::<Machine>(context, local),
            Volume::COLLECTION => self.log_of::<Volume>(context, local),
            System::COLLECTION => self.log_of::<System>(context, local),
            _ => None,
        };
        found.ok_or_else(missing)
    }

    fn log_of<R: OfType>(&self, context: &OpContext, local: &str) -> Option<View> {
        let resource = self.0.documents.view::<R>().get(local)?;
        context.right_on(resource.acl())?;
        Some(self.log_view(context, &resource.document.0))
    }

    /// The members of a log's `events`.
    ///
    /// # Errors
    /// [`CloudError::NotFound`].
    pub fn log_members(
        &self,
        context: &OpContext,
        id: &str,
        collection: &str,
    ) -> Result<Vec<View>> {
        let log = self.event_log(context, id)?;
        if collection != "events" {
            return Err(CloudError::not_found(format!("{}/{collection}", log.id)));
        }
        let about = id.replacen('.', "/", 1);
        let events = self.events_about(context, &about);
        let view = |event| catalogue::view(&self.0.documents, context, event);
        Ok(events.into_iter().map(view).collect())
    }

    fn events_about(&self, context: &OpContext, about: &str) -> Vec<Arc<Cached<Event>>> {
        let mut events = self.0.documents.events.by_index("about", about);
        events.retain(|event| context.right_on(event.acl()).is_some());
        events
    }

    fn log_view<R: Resource>(&self, context: &OpContext, resource: &R) -> View {
        let key = resource.key();
        let mut counts = [0_u64; 4];
        for event in self.events_about(context, &key) {
            let [low, medium, high, critical] = &mut counts;
            *match event.severity {
                EventSeverity::Low => low,
                EventSeverity::Medium => medium,
                EventSeverity::High => high,
                EventSeverity::Critical => critical,
            } += 1;
        }
        let [low, medium, high, critical] = counts;
        let id = id_of(resource);
        let common = resource.common();
        let attributes = object(json!({
            "name": common.name,
            "created": common.created,
            "updated": common.updated,
            "targetResource": {"href": key},
            "events": {"href": format!("{id}/events")},
            "summary": {"low": low, "medium": medium, "high": high, "critical": critical},
        }));
        View {
            kind: Kind::EventLog,
            id: id.into(),
            // Events come without the resource being changed.
            stamp: None,
            right: context.right_on(resource.acl()).unwrap_or(Right::View),
            document: Arc::new(Plain {
                attributes,
                operations: Vec::new(),
            }),
        }
    }
}
