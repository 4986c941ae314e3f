//! What all watches of one type share: one look at each change, and the last of them.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use cimi::{Acl, resources::Resource};
use documents::{Cached, Doc, Documents};
use parking_lot::Mutex;
use store::cache::{Changed, Changes};
use tokio::{
    sync::broadcast::{Receiver, Sender, channel},
    task::JoinHandle,
};

use crate::{
    OpContext, View,
    catalogue::{self, Public},
};

/// Changes that are remembered for those who come back.
const REMEMBERED: usize = 4_096;
/// Batches that a watcher may be behind before it has to look them up.
const BEHIND: usize = 64;

/// A document as it was at some moment.
pub(super) trait Snapshot: Send + Sync {
    /// The part of its id after the slash.
    fn local(&self) -> Arc<str>;
    /// Who may see it.
    fn acl(&self) -> &Acl;
    /// As the caller sees it.
    fn view(&self, documents: &Documents, context: &OpContext) -> View;
    /// Whether that shows what it was, and nothing of what other documents are now.
    fn is_of_its_moment(&self) -> bool {
        true
    }
}

impl<R: Public> Snapshot for Arc<Cached<R>> {
    fn local(&self) -> Arc<str> {
        Cached::id(self).into()
    }

    fn acl(&self) -> &Acl {
        Resource::acl(&self.document.0)
    }

    fn view(&self, documents: &Documents, context: &OpContext) -> View {
        catalogue::view(documents, context, Arc::clone(self))
    }
}

/// What became of one document.
pub(super) struct Change {
    /// What it was when it was last told of; `None`: it is new.
    pub(super) before: Option<Arc<dyn Snapshot>>,
    /// What it is; `None`: it is gone, or can't be read.
    pub(super) now: Option<Arc<dyn Snapshot>>,
}

/// All that changed up to a revision.
pub(super) struct Batch {
    pub(super) revision: u64,
    pub(super) changes: Vec<Change>,
}

/// Where those who watch are.
pub(super) struct Place {
    /// All changes up to this one have been told.
    pub(super) revision: u64,
}

#[derive(Default)]
struct History {
    told: u64,
    batches: VecDeque<Arc<Batch>>,
    changes: usize,
    /// All changes after this revision are remembered.
    complete_after: u64,
}

impl History {
    fn remember(&mut self, batch: &Arc<Batch>) {
        self.told = batch.revision;
        self.changes += batch.changes.len();
        self.batches.push_back(Arc::clone(batch));
        while self.changes > REMEMBERED
            && let Some(forgotten) = self.batches.pop_front()
        {
            self.changes -= forgotten.changes.len();
            self.complete_after = forgotten.revision;
        }
    }
}

/// Tells what changes of a type; what was there at the beginning is no change.
pub(super) trait Follower: Send + 'static {
    /// Waits for a change; none if it makes no difference to what is shown.
    fn next(&mut self) -> impl Future<Output = Option<Change>> + Send;
    /// The same, without waiting.
    fn try_next(&mut self) -> Option<Option<Change>>;
}

/// At most so many of what the caller may see now, by id, those after one.
pub(super) type Readable =
    fn(&Documents, &OpContext, Option<&str>, usize) -> Vec<Arc<dyn Snapshot>>;

/// Follows one type for all who watch it.
pub(super) struct Hub {
    shared: Arc<Shared>,
    readable: Readable,
    follower: JoinHandle<()>,
}

struct Shared {
    history: Mutex<History>,
    sender: Sender<Arc<Batch>>,
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl Hub {
    /// Follows what is stored of a type. Ends when dropped.
    pub(super) fn of<R: Public>(documents: Documents) -> Self {
        let follower = Stored::<R>::begin(&documents);
        Self::start(documents, follower, readable::<R>)
    }

    /// Follows what somebody tells of. Ends when dropped.
    pub(super) fn start(
        documents: Documents,
        mut changes: impl Follower,
        readable: Readable,
    ) -> Self {
        let revision = documents.revision().0;
        let shared = Arc::new(Shared {
            history: Mutex::new(History {
                told: revision,
                // What is applied just now may have been there at the beginning already.
                complete_after: revision + 1,
                ..History::default()
            }),
            sender: channel(BEHIND).0,
        });
        let follower = {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                loop {
                    let first = changes.next().await;
                    // All changes up to this revision have been noted as such, and come out below.
                    let revision = documents.revision().0;
                    let mut batch = Vec::new();
                    batch.extend(first);
                    while let Some(next) = changes.try_next() {
                        batch.extend(next);
                    }
                    shared.publish(revision, batch);
                }
            })
        };
        Self {
            shared,
            readable,
            follower,
        }
    }

    /// Listens to what changes after a place.
    pub(super) fn join(&self) -> (Place, Receiver<Arc<Batch>>) {
        let history = self.shared.history.lock();
        let place = Place {
            revision: history.told,
        };
        (place, self.shared.sender.subscribe())
    }

    /// What changed after a revision; `None` if that isn't known any more, or not yet.
    pub(super) fn after(&self, revision: u64) -> Option<Vec<Arc<Batch>>> {
        let history = self.shared.history.lock();
        if revision < history.complete_after || revision > history.told {
            return None;
        }
        let missed = history.batches.iter();
        Some(
            missed
                .filter(|batch| batch.revision > revision)
                .cloned()
                .collect(),
        )
    }

    /// At most `limit` of what the caller may see now, by id, those after `after`.
    pub(super) fn readable(
        &self,
        documents: &Documents,
        context: &OpContext,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<Arc<dyn Snapshot>> {
        (self.readable)(documents, context, after, limit)
    }
}

impl Shared {
    fn publish(&self, revision: u64, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let mut history = self.history.lock();
        // The first of a batch may have been applied before its revision counted as reached.
        let revision = revision.max(history.told + 1);
        let batch = Arc::new(Batch { revision, changes });
        history.remember(&batch);
        // Nobody may be listening; who comes later looks it up.
        let _ = self.sender.send(batch);
    }
}

/// What is stored of a type.
struct Stored<R: Public> {
    changes: Changes<Doc<R>>,
    /// What was told of last.
    known: HashMap<Arc<str>, Arc<Cached<R>>>,
}

impl<R: Public> Stored<R> {
    fn begin(documents: &Documents) -> Self {
        let changes = documents.view::<R>().changes();
        let known = HashMap::new();
        let mut stored = Self { changes, known };
        while stored.try_next().is_some() {}
        stored
    }

    /// What a change is to those who know what was before.
    fn note(&mut self, changed: Changed<Doc<R>>) -> Option<Change> {
        let erased = |document: Arc<Cached<R>>| Arc::new(document) as Arc<dyn Snapshot>;
        match changed {
            Changed::Present(document) => {
                let id = document.id().into();
                let before = self.known.insert(id, Arc::clone(&document));
                if before
                    .as_ref()
                    .is_some_and(|before| before.revision == document.revision)
                {
                    return None;
                }
                Some(Change {
                    before: before.map(erased),
                    now: Some(erased(document)),
                })
            }
            Changed::Removed(id) | Changed::Unreadable(id) => Some(Change {
                before: Some(erased(self.known.remove(&id)?)),
                now: None,
            }),
        }
    }
}

impl<R: Public> Follower for Stored<R> {
    async fn next(&mut self) -> Option<Change> {
        let changed = self.changes.next().await;
        self.note(changed)
    }

    fn try_next(&mut self) -> Option<Option<Change>> {
        let changed = self.changes.try_next()?;
        Some(self.note(changed))
    }
}

fn readable<R: Public>(
    documents: &Documents,
    context: &OpContext,
    after: Option<&str>,
    limit: usize,
) -> Vec<Arc<dyn Snapshot>> {
    let page = documents.readable_after::<R>(context.user(), context.roles(), after, limit);
    page.into_iter()
        .map(|document| Arc::new(document) as Arc<dyn Snapshot>)
        .collect()
}
