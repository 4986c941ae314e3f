//! EventLogs as they go on. None is stored: one changes with its resource, and with each event about that.

use std::{collections::HashMap, sync::Arc};

use cimi::{
    Acl,
    resources::{Event, Machine, Resource, System, Volume},
};
use documents::{Cached, Doc, Documents, OfType};
use store::cache::{Changed, Changes};

use super::hub::{Change, Follower, Hub, Snapshot};
use crate::{OpContext, View, event_log};

/// Follows the logs of all resources that have one. Ends when dropped.
pub(super) fn hub(documents: Documents) -> Hub {
    let logs = Logs::begin(&documents);
    Hub::start(documents, logs, readable)
}

/// The log of a resource as it was.
struct Log<R: OfType>(Arc<Cached<R>>);

impl<R: OfType> Snapshot for Log<R> {
    fn local(&self) -> Arc<str> {
        event_log::local_id_of(&self.0.document.0).into()
    }

    fn acl(&self) -> &Acl {
        self.0.acl()
    }

    fn view(&self, documents: &Documents, context: &OpContext) -> View {
        event_log::view(documents, context, &self.0.document.0)
    }

    /// It counts the events of now.
    fn is_of_its_moment(&self) -> bool {
        false
    }
}

struct Logs {
    machines: Changes<Doc<Machine>>,
    volumes: Changes<Doc<Volume>>,
    systems: Changes<Doc<System>>,
    events: Changes<Doc<Event>>,
    /// By what it is about, `Machine/…`: the log that was told of last.
    known: HashMap<Arc<str>, Arc<dyn Snapshot>>,
    /// By the id of an event: what it is about, if that has a log. Of what was gone at the beginning, nobody is told.
    about: HashMap<Arc<str>, Arc<str>>,
    /// Whether all of the beginning is known. From then on an event may be told before what it is about.
    has_begun: bool,
}

impl Logs {
    fn begin(documents: &Documents) -> Self {
        let mut logs = Self {
            machines: documents.machines.changes(),
            volumes: documents.volumes.changes(),
            systems: documents.systems.changes(),
            events: documents.events.changes(),
            known: HashMap::new(),
            about: HashMap::new(),
            has_begun: false,
        };
        // Resources come before events.
        while logs.try_next().is_some() {}
        logs.has_begun = true;
        logs
    }

    fn resource<R: OfType>(&mut self, changed: Changed<Doc<R>>) -> Option<Change> {
        let key: Arc<str> = format!("{}/{}", R::COLLECTION, changed.id()).into();
        let now = changed
            .present()
            .map(|resource| Arc::new(Log(resource)) as Arc<dyn Snapshot>);
        let before = match &now {
            Some(log) => self.known.insert(key, Arc::clone(log)),
            None => Some(self.known.remove(&key)?),
        };
        Some(Change { before, now })
    }

    fn event(&mut self, changed: Changed<Doc<Event>>) -> Option<Change> {
        let about = match changed {
            Changed::Present(event) => {
                let about = event.subject()?;
                if !HAVE_ONE.iter().any(|kind| is_of(about, kind)) {
                    return None;
                }
                let about = match self.known.get_key_value(about) {
                    Some((about, _)) => Arc::clone(about),
                    None if self.has_begun => about.into(),
                    None => return None,
                };
                self.about.insert(event.id().into(), Arc::clone(&about));
                about
            }
            Changed::Removed(id) | Changed::Unreadable(id) => self.about.remove(&id)?,
        };
        let log = self.known.get(&about)?;
        Some(Change {
            before: Some(Arc::clone(log)),
            now: Some(Arc::clone(log)),
        })
    }
}

/// Types whose resources have logs, in the order of the logs' ids.
const HAVE_ONE: [&str; 3] = [Machine::COLLECTION, System::COLLECTION, Volume::COLLECTION];

fn is_of(key: &str, collection: &str) -> bool {
    key.split_once('/').is_some_and(|(of, _)| of == collection)
}

impl Follower for Logs {
    async fn next(&mut self) -> Option<Change> {
        tokio::select! {
            changed = self.machines.next() => self.resource(changed),
            changed = self.volumes.next() => self.resource(changed),
            changed = self.systems.next() => self.resource(changed),
            changed = self.events.next() => self.event(changed),
        }
    }

    fn try_next(&mut self) -> Option<Option<Change>> {
        if let Some(changed) = self.machines.try_next() {
            return Some(self.resource(changed));
        }
        if let Some(changed) = self.volumes.try_next() {
            return Some(self.resource(changed));
        }
        if let Some(changed) = self.systems.try_next() {
            return Some(self.resource(changed));
        }
        let changed = self.events.try_next()?;
        Some(self.event(changed))
    }
}

fn readable(
    documents: &Documents,
    context: &OpContext,
    after: Option<&str>,
    limit: usize,
) -> Vec<Arc<dyn Snapshot>> {
    let mut page = Page {
        documents,
        context,
        after: after.and_then(|id| id.split_once('.')),
        limit,
        logs: Vec::new(),
    };
    // In the order of HAVE_ONE.
    page.add::<Machine>();
    page.add::<System>();
    page.add::<Volume>();
    page.logs
}

/// Logs by their ids, types one after the other.
struct Page<'a> {
    documents: &'a Documents,
    context: &'a OpContext,
    /// The type and id that the last one is about.
    after: Option<(&'a str, &'a str)>,
    limit: usize,
    logs: Vec<Arc<dyn Snapshot>>,
}

impl Page<'_> {
    fn add<R: OfType>(&mut self) {
        let after = match self.after {
            Some((of, _)) if of > R::COLLECTION => return,
            Some((of, local)) if of == R::COLLECTION => Some(local),
            _ => None,
        };
        let (user, roles) = (self.context.user(), self.context.roles());
        let room = self.limit - self.logs.len();
        let page = self.documents.readable_after::<R>(user, roles, after, room);
        let logs = page.into_iter();
        self.logs
            .extend(logs.map(|resource| Arc::new(Log(resource)) as Arc<dyn Snapshot>));
    }
}
