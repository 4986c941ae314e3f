//! The cache of one type of documents.

use std::fmt;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock, RwLockWriteGuard};

use super::changes::{Changes, Subscriber};
use super::content::{Content, Documents, Known};
use super::{Document, Versioned};
use crate::{Entry, Key, Revision};

/// From which id to which.
pub(super) type Bounds<'a> = (Bound<&'a str>, Bound<&'a str>);

/// Which way to walk through ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Ascending: with UUIDv7 ids, oldest first.
    Forward,
    /// Descending: newest first.
    Backward,
}

/// All documents of one type, as of the revision that its [`CacheSet`](super::CacheSet) has applied.
///
/// A cheap handle. Reads take a lock for the moment and never wait for the store.
pub struct Cache<D>(pub(super) Arc<Shared<D>>);

/// What all handles of a cache, and the set that feeds it, hold together.
pub(super) struct Shared<D> {
    pub(super) content: RwLock<Content<D>>,
    pub(super) subscribers: Mutex<Vec<std::sync::Weak<Subscriber>>>,
}

impl<D> Clone for Cache<D> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<D: Document> Cache<D> {
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared {
            content: RwLock::default(),
            subscribers: Mutex::default(),
        }))
    }

    /// The document with this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<Versioned<D>>> {
        match self.0.content.read().known(id) {
            Known::Document(document) => Some(document.clone()),
            Known::Unreadable | Known::Nothing => None,
        }
    }

    /// How many documents there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.content.read().len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many documents of the collection can't be decoded, and are therefore not to be seen here.
    #[must_use]
    pub fn unreadable(&self) -> usize {
        self.0.content.read().unreadable()
    }

    /// All documents, by id.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Versioned<D>>> {
        self.page(Bound::Unbounded, Direction::Forward, usize::MAX)
    }

    /// Up to `limit` documents, by id, beginning at `start` and walking in `direction`.
    #[must_use]
    pub fn page(
        &self,
        start: Bound<&str>,
        direction: Direction,
        limit: usize,
    ) -> Vec<Arc<Versioned<D>>> {
        collect(limit, |visit| self.scan(start, direction, visit))
    }

    /// Show documents to `visit`, by id, beginning at `start`, until it breaks. `visit` runs under the cache's lock: it
    /// should be short and must not use a cache of the same set.
    pub fn scan(
        &self,
        start: Bound<&str>,
        direction: Direction,
        visit: impl FnMut(&Arc<Versioned<D>>) -> ControlFlow<()>,
    ) {
        walk(self.0.content.read().documents(), start, direction, visit);
    }

    /// All documents under `term` in the index `name`, by id.
    #[must_use]
    pub fn by_index(&self, name: &str, term: &str) -> Vec<Arc<Versioned<D>>> {
        self.page_by_index(name, term, Bound::Unbounded, Direction::Forward, usize::MAX)
    }

    /// As [`page`](Self::page), of the documents under `term` in the index `name`.
    #[must_use]
    pub fn page_by_index(
        &self,
        name: &str,
        term: &str,
        start: Bound<&str>,
        direction: Direction,
        limit: usize,
    ) -> Vec<Arc<Versioned<D>>> {
        collect(limit, |visit| {
            self.scan_index(name, term, start, direction, visit);
        })
    }

    /// As [`scan`](Self::scan), of the documents under `term` in the index `name`.
    pub fn scan_index(
        &self,
        name: &str,
        term: &str,
        start: Bound<&str>,
        direction: Direction,
        visit: impl FnMut(&Arc<Versioned<D>>) -> ControlFlow<()>,
    ) {
        if let Some(documents) = self.0.content.read().indexed(name, term) {
            walk(documents, start, direction, visit);
        }
    }

    /// How many documents are under `term` in the index `name`.
    #[must_use]
    pub fn count_by_index(&self, name: &str, term: &str) -> usize {
        self.0
            .content
            .read()
            .indexed(name, term)
            .map_or(0, |documents| documents.len())
    }

    /// What the documents under `term` in the index `name` add up to in `measure`; see [`IndexTerms::weigh`]. Kept with
    /// every change, so that asking costs the same however many documents there are.
    ///
    /// [`IndexTerms::weigh`]: super::IndexTerms::weigh
    #[must_use]
    pub fn sum_by_index(&self, name: &str, term: &str, measure: &str) -> u64 {
        self.0.content.read().sum(name, term, measure)
    }

    /// What changes from now on; everything that is there already counts as changed.
    #[must_use]
    pub fn changes(&self) -> Changes<D> {
        let subscriber = Arc::new(Subscriber::default());
        // Under the content's lock, so that no change falls between the first look and the subscription.
        let content = self.0.content.read();
        content
            .ids()
            .into_iter()
            .for_each(|id| subscriber.mark(id, true));
        let mut subscribers = self.0.subscribers.lock();
        subscribers.retain(|other| other.strong_count() > 0);
        subscribers.push(Arc::downgrade(&subscriber));
        Changes::new(self.clone(), subscriber)
    }
}

/// Show what is between `start` and the end of `direction`.
fn walk<'a, D: 'a>(
    documents: impl Documents<'a, D>,
    start: Bound<&str>,
    direction: Direction,
    visit: impl FnMut(&Arc<Versioned<D>>) -> ControlFlow<()>,
) {
    let _ = match direction {
        Direction::Forward => documents
            .between((start, Bound::Unbounded))
            .try_for_each(visit),
        Direction::Backward => documents
            .between((Bound::Unbounded, start))
            .rev()
            .try_for_each(visit),
    };
}

/// The first `limit` documents that `scan` shows.
fn collect<D>(
    limit: usize,
    scan: impl FnOnce(&mut dyn FnMut(&Arc<Versioned<D>>) -> ControlFlow<()>),
) -> Vec<Arc<Versioned<D>>> {
    let mut found = Vec::new();
    if limit > 0 {
        scan(&mut |document| {
            found.push(document.clone());
            if found.len() < limit {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
    }
    found
}

/// How a [`CacheSet`](super::CacheSet) feeds a cache without knowing its type.
pub(super) trait Sink: Send + Sync {
    /// Begin to bring the cache up to date.
    fn update(&self) -> Box<dyn Update + '_>;
    /// The ids of everything there is.
    fn ids(&self) -> Vec<Arc<str>>;
    /// The revision of what is there.
    fn revision(&self, id: &str) -> Option<Revision>;
}

/// Changes for one cache, which readers see all at once. Several of them become one change for the readers of several
/// caches when all are locked before the first is applied.
pub(super) trait Update {
    /// A document is now this. Decodes it; nobody sees it yet.
    fn put(&mut self, entry: &Entry);
    /// A document is gone.
    fn delete(&mut self, key: &Key);
    /// Let nobody read until this is dropped.
    fn lock(&mut self);
    /// Show it.
    fn apply(&mut self);
}

/// A change that was decoded and is not yet seen.
enum Decoded<D> {
    /// `None` if it can't be decoded.
    Put(Entry, Option<D>),
    Delete(Key),
}

struct Staged<'a, D> {
    cache: &'a Shared<D>,
    changes: Vec<Decoded<D>>,
    content: Option<RwLockWriteGuard<'a, Content<D>>>,
}

impl<D: Document> Sink for Shared<D> {
    fn update(&self) -> Box<dyn Update + '_> {
        Box::new(Staged {
            cache: self,
            changes: Vec::new(),
            content: None,
        })
    }

    fn ids(&self) -> Vec<Arc<str>> {
        self.content.read().ids().into_iter().collect()
    }

    fn revision(&self, id: &str) -> Option<Revision> {
        self.content.read().revision(id)
    }
}

impl<D: Document> Update for Staged<'_, D> {
    fn put(&mut self, entry: &Entry) {
        let decoded = match D::decode(&entry.value) {
            Ok(document) => Some(document),
            Err(error) => {
                tracing::warn!(key = %entry.key, revision = %entry.revision, %error, "document can't be read: left out");
                None
            }
        };
        self.changes.push(Decoded::Put(entry.clone(), decoded));
    }

    fn delete(&mut self, key: &Key) {
        self.changes.push(Decoded::Delete(key.clone()));
    }

    fn lock(&mut self) {
        self.content = Some(self.cache.content.write());
    }

    fn apply(&mut self) {
        let cache = self.cache;
        let content = self.content.get_or_insert_with(|| cache.content.write());
        for change in self.changes.drain(..) {
            let (id, exists) = match change {
                Decoded::Put(entry, decoded) => (Some(content.put(&entry, decoded)), true),
                Decoded::Delete(key) => (content.remove(key.id()), false),
            };
            if let Some(id) = id {
                cache.tell(content, &id, exists);
            }
        }
    }
}

impl<D: Document> Shared<D> {
    fn tell(&self, content: &Content<D>, id: &Arc<str>, exists: bool) {
        metrics::gauge!("store_cache_unreadable", "collection" => D::COLLECTION)
            .set(content.unreadable() as f64);
        for subscriber in self.subscribers.lock().iter() {
            if let Some(subscriber) = subscriber.upgrade() {
                subscriber.mark(id.clone(), exists);
            }
        }
    }
}

impl<D> fmt::Debug for Cache<D> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Cache")
    }
}
