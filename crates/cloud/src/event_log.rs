//! EventLogs: the events about one resource. A log is not stored: it is a view of the events, there as long as its
//! resource (capability `Linked`). Its id is `EventLog/<type>.<id>`.

use std::sync::Arc;

use cimi::{
    Common, Right,
    model::Kind,
    query::{Attributes, Filter, MEMBERS_AT_MOST, Query, Scalar},
    resources::{Event, EventSeverity, Machine, Resource, System, Volume},
};
use documents::{Cached, Documents, OfType};
use serde_json::{Value, json};

use crate::{
    Cloud, CloudError, OpContext, Page, Result, View, access,
    catalogue::{self, Plain, Public, object, text_scalar},
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
    /// The logs of the machines, volumes and systems that the caller may see. Events are looked at for those that are shown.
    pub(crate) fn list_event_logs(&self, context: &OpContext, query: &Query) -> Page {
        if query.order.is_empty()
            && let Some(filter) = query
                .filter
                .as_ref()
                .map_or(Some(None), |filter| of_resources(filter).map(Some))
        {
            return self.logs_by_resource(context, query, filter.as_ref());
        }
        let documents = &self.0.documents;
        let (user, roles) = (context.user(), context.roles());
        let machines = documents.readable::<Machine>(user, roles);
        let volumes = documents.readable::<Volume>(user, roles);
        let systems = documents.readable::<System>(user, roles);
        let logs = machines.into_iter().map(Log::of);
        let logs = logs.chain(volumes.into_iter().map(Log::of));
        let (count, logs) = query.page(logs.chain(systems.into_iter().map(Log::of)));
        Page {
            count,
            members: logs
                .iter()
                .map(|log| log.0.view(documents, context))
                .collect(),
            can_add: false,
        }
    }

    /// The logs whose resources satisfy `filter`: those of one type after those of the other.
    fn logs_by_resource(
        &self,
        context: &OpContext,
        query: &Query,
        filter: Option<&Filter>,
    ) -> Page {
        let begin = query.first.saturating_sub(1);
        let most = begin.saturating_add(MEMBERS_AT_MOST);
        let mut page = LogPage {
            cloud: self,
            context,
            filter,
            begin,
            end: query.last.map_or(most, |last| last.min(most)),
            count: 0,
            members: Vec::new(),
        };
        page.add::<Machine>();
        page.add::<Volume>();
        page.add::<System>();
        Page {
            count: page.count,
            members: page.members,
            can_add: false,
        }
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

/// A page of logs that is being filled, one type of resources after the other.
struct LogPage<'a> {
    cloud: &'a Cloud,
    context: &'a OpContext,
    filter: Option<&'a Filter>,
    /// Which of all matching logs it shows.
    begin: usize,
    end: usize,
    /// How many match of the types so far.
    count: usize,
    members: Vec<View>,
}

impl LogPage<'_> {
    fn add<R: Public>(&mut self) {
        let query = Query {
            filter: self.filter.cloned(),
            first: self.begin.saturating_sub(self.count) + 1,
            last: Some(self.end.saturating_sub(self.count)),
            ..Query::default()
        };
        let (count, resources) = self.cloud.found::<R>(self.context, &query);
        let documents = &self.cloud.0.documents;
        let views = resources
            .iter()
            .map(|resource| view(documents, self.context, &resource.document.0));
        self.members.extend(views);
        self.count += count;
    }
}

/// A filter of logs as one of the resources that they are about, if these tell all that it asks for.
fn of_resources(filter: &Filter) -> Option<Filter> {
    let all = |parts: &[Filter]| parts.iter().map(of_resources).collect::<Option<Vec<_>>>();
    match filter {
        Filter::Attribute {
            name,
            comparison,
            value,
        } => {
            let name = match name.as_str() {
                "name" | "created" | "updated" => name.as_str(),
                "targetResource" => "id",
                _ => return None,
            };
            Some(Filter::Attribute {
                name: name.into(),
                comparison: *comparison,
                value: value.clone(),
            })
        }
        Filter::All(parts) => Some(Filter::All(all(parts)?)),
        Filter::Any(parts) => Some(Filter::Any(all(parts)?)),
        Filter::Property { .. } => None,
    }
}

/// A log that a filter or an order looks at: none of its events is needed for that.
struct Log(Arc<dyn Logged>);

impl Log {
    fn of<R: Resource>(resource: Arc<Cached<R>>) -> Self {
        Self(Arc::new(resource))
    }
}

/// What a log is about.
trait Logged {
    fn key(&self) -> String;
    fn id(&self) -> String;
    fn common(&self) -> &Common;
    fn view(&self, documents: &Documents, context: &OpContext) -> View;
}

impl<R: Resource> Logged for Arc<Cached<R>> {
    fn key(&self) -> String {
        self.document.0.key()
    }

    fn id(&self) -> String {
        id_of(&self.document.0)
    }

    fn common(&self) -> &Common {
        self.document.0.common()
    }

    fn view(&self, documents: &Documents, context: &OpContext) -> View {
        view(documents, context, &self.document.0)
    }
}

impl Attributes for Log {
    fn attribute(&self, name: &str) -> Option<Scalar<'_>> {
        let common = self.0.common();
        match name {
            "id" => Some(self.0.id().into()),
            "name" => common.name.as_deref().map(text_scalar),
            "created" => Some(common.created.into()),
            "updated" => Some(common.updated.into()),
            "targetResource" => Some(self.0.key().into()),
            "events" => Some(format!("{}/events", self.0.id()).into()),
            _ => None,
        }
    }

    fn property(&self, _key: &str) -> Option<&str> {
        None
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
