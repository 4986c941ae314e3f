//! EventLogs: the events about one resource. A log is not stored: it is a view of the events, there as long as its
//! resource (capability `Linked`). Its id is `EventLog/<type>.<id>`.

use std::sync::Arc;

use cimi::{
    Right,
    model::Kind,
    query::Query,
    resources::{Event, EventSeverity, Machine, Resource, System, Volume},
};
use documents::{Cached, Documents, OfType};
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
    format!("{}/{}", Kind::EventLog, local_id_of(resource))
}

/// The id of a resource's log, without the type.
pub(crate) fn local_id_of<R: Resource>(resource: &R) -> String {
    format!("{}.{}", R::COLLECTION, resource.local_id())
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
            .map(|resource| view(documents, context, &resource.document.0))
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
        let documents = &self.0.documents;
        let resource = documents.view::<R>().get(local)?;
        context.right_on(resource.acl())?;
        Some(view(documents, context, &resource.document.0))
    }

    /// The members of a log's `events`.
    ///
    /// # Errors
    /// [`CloudError::NotFound`].
    pub(crate) fn log_members(&self, context: &OpContext, id: &str) -> Result<Vec<View>> {
        self.event_log(context, id)?;
        let about = id.replacen('.', "/", 1);
        let events = events_about(&self.0.documents, context, &about);
        let view = |event| catalogue::view(&self.0.documents, context, event);
        Ok(events.into_iter().map(view).collect())
    }
}

fn events_about(
    documents: &Documents,
    context: &OpContext,
    about: &str,
) -> Vec<Arc<Cached<Event>>> {
    let mut events = documents.events.by_index("about", about);
    events.retain(|event| context.right_on(event.acl()).is_some());
    events
}

/// The log of a resource, with the events of this moment.
pub(crate) fn view<R: Resource>(documents: &Documents, context: &OpContext, resource: &R) -> View {
    let key = resource.key();
    let mut counts = [0_u64; 4];
    for event in events_about(documents, context, &key) {
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
