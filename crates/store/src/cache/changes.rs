//! What a controller follows: which documents changed, each told once with its last state.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::content::Known;
use super::{Cache, Document, Versioned};

/// A document that changed, as it is now.
#[derive(Debug)]
pub enum Changed<D> {
    /// It is this.
    Present(Arc<Versioned<D>>),
    /// It is gone. Holds its id.
    Removed(Arc<str>),
    /// It is there, but can't be decoded (perhaps a newer version wrote it). Holds its id. Not the same as gone: what
    /// belongs to it must not be cleaned away.
    Unreadable(Arc<str>),
}

impl<D> Changed<D> {
    /// The id of the document.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Present(document) => document.id(),
            Self::Removed(id) | Self::Unreadable(id) => id,
        }
    }

    /// The document, if it is there and readable.
    #[must_use]
    pub fn present(self) -> Option<Arc<Versioned<D>>> {
        match self {
            Self::Present(document) => Some(document),
            Self::Removed(_) | Self::Unreadable(_) => None,
        }
    }
}

/// The ids that one follower has yet to look at.
///
/// Bounded by content: an id is dirty only if it exists now or the follower was told that it exists. A document that
/// came and went while nobody looked is not mentioned.
#[derive(Default)]
pub(super) struct Subscriber {
    dirty: Mutex<Dirty>,
    bell: Notify,
}

#[derive(Default)]
struct Dirty {
    /// In the order they first changed, so that a busy document doesn't hold up the others.
    queue: BTreeMap<u64, Arc<str>>,
    places: HashMap<Arc<str>, u64>,
    next_place: u64,
    /// The ids that the follower believes exist.
    told: HashSet<Arc<str>>,
}

impl Subscriber {
    /// Note that a document changed. Called under the content's lock, in the order of the changes.
    pub(super) fn mark(&self, id: Arc<str>, exists: bool) {
        let mut dirty = self.dirty.lock();
        if !exists && !dirty.told.contains(&id) {
            if let Some(place) = dirty.places.remove(&id) {
                dirty.queue.remove(&place);
            }
            return;
        }
        if !dirty.places.contains_key(&id) {
            let place = dirty.next_place;
            dirty.next_place += 1;
            dirty.queue.insert(place, id.clone());
            dirty.places.insert(id, place);
        }
        drop(dirty);
        self.bell.notify_one();
    }
}

/// See [`Cache::changes`].
pub struct Changes<D> {
    cache: Cache<D>,
    subscriber: Arc<Subscriber>,
}

impl<D: Document> Changes<D> {
    pub(super) fn new(cache: Cache<D>, subscriber: Arc<Subscriber>) -> Self {
        Self { cache, subscriber }
    }

    /// The next document that changed, with its state of now. Waits until there is one. Safe to cancel.
    ///
    /// States in between may be skipped, the last one never is; the same state may be told twice.
    pub async fn next(&mut self) -> Changed<D> {
        loop {
            if let Some(changed) = self.try_next() {
                return changed;
            }
            // A ring between the look and this is kept by the bell.
            self.subscriber.bell.notified().await;
        }
    }

    /// The next document that changed, if there is one.
    pub fn try_next(&mut self) -> Option<Changed<D>> {
        // The content's lock is always taken first.
        let content = self.cache.0.content.read();
        let mut dirty = self.subscriber.dirty.lock();
        let (_place, id) = dirty.queue.pop_first()?;
        dirty.places.remove(&id);
        Some(match content.known(&id) {
            Known::Document(document) => {
                dirty.told.insert(id);
                Changed::Present(document.clone())
            }
            Known::Unreadable => {
                dirty.told.insert(id.clone());
                Changed::Unreadable(id)
            }
            Known::Nothing => {
                dirty.told.remove(&id);
                Changed::Removed(id)
            }
        })
    }

    /// How many documents wait to be looked at.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.subscriber.dirty.lock().queue.len()
    }
}

impl<D> fmt::Debug for Changes<D> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Changes")
    }
}
