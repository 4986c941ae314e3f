//! One watch for all caches.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Document;
use super::typed::{Cache, Sink, Update};
use crate::{
    Batch, Change, Entry, Key, Page, Prefix, Range, Revision, SharedStore, StoreError, Watch,
    WatchError,
};

/// Entries read at once when everything is read.
const PAGE: usize = 500;
/// First and longest wait after a failure of the store.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// The caches don't follow the store any more: it was closed, or the set was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the cache has stopped following the store")]
pub struct CacheStopped;

/// How well the caches follow the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Following {
    /// They show what anybody has asked for.
    Well,
    /// Somebody has waited for so long for changes that are in the store already.
    Behind(Duration),
    /// They don't, and never will again.
    Stopped,
}

/// Names the caches of a [`CacheSet`].
#[derive(Default)]
pub struct CacheSetBuilder {
    sinks: HashMap<&'static str, Arc<dyn Sink>>,
}

impl CacheSetBuilder {
    /// A cache for documents of type `D`: empty until the set is started. A second one for the same collection takes
    /// the place of the first, which then stays empty.
    pub fn cache<D: Document>(&mut self) -> Cache<D> {
        let cache = Cache::new();
        self.sinks.insert(D::COLLECTION, cache.0.clone());
        cache
    }

    /// Read everything, then follow the store until stopped. Returns when all caches are complete.
    ///
    /// # Errors
    /// Those of the store, while reading everything for the first time.
    pub async fn start(self, store: SharedStore) -> Result<CacheSet, StoreError> {
        let applied = watch::Sender::new(Some(Revision::ZERO));
        let progress = Arc::new(Progress {
            applied,
            asked: AtomicU64::new(0),
            behind_since: Mutex::default(),
        });
        let mut follower = Follower {
            store,
            sinks: self.sinks,
            progress: progress.clone(),
        };
        let watch = follower
            .read_everything()
            .await
            .map_err(|error| match error {
                WatchError::Store(error) => error,
                WatchError::Compacted { .. } => StoreError::Closed,
            })?;
        Ok(CacheSet {
            progress,
            task: Arc::new(Task(tokio::spawn(follower.follow(watch)))),
        })
    }
}

impl std::fmt::Debug for CacheSetBuilder {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("CacheSetBuilder")
            .field("collections", &self.sinks.keys())
            .finish()
    }
}

/// How far the caches are. A cheap handle; when the last one is dropped the caches stop.
#[derive(Clone, Debug)]
pub struct CacheSet {
    progress: Arc<Progress>,
    task: Arc<Task>,
}

/// The task that follows the store; ends with its owner.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Debug)]
struct Progress {
    /// What all caches have applied; `None` when they have stopped.
    applied: watch::Sender<Option<Revision>>,
    /// The newest revision anybody is known to wait for.
    asked: AtomicU64,
    /// Since when somebody has waited for a revision that isn't there yet, and for which.
    behind_since: Mutex<Option<(Revision, Instant)>>,
}

impl CacheSet {
    /// Begin to name caches.
    #[must_use]
    pub fn builder() -> CacheSetBuilder {
        CacheSetBuilder::default()
    }

    /// The revision that all caches show; zero once they have stopped.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.progress.applied.borrow().unwrap_or_default()
    }

    /// How well the caches follow the store.
    #[must_use]
    pub fn following(&self) -> Following {
        // One lock after the other, each for the moment.
        let applied = *self.progress.applied.borrow();
        let behind = *self.progress.behind_since.lock();
        match (applied, behind) {
            (None, _) => Following::Stopped,
            (Some(applied), Some((asked, since))) if applied < asked => {
                Following::Behind(since.elapsed())
            }
            (Some(_), _) => Following::Well,
        }
    }

    /// Wait until all caches show at least `revision`: after a commit, its caller then reads what it wrote.
    ///
    /// # Errors
    /// [`CacheStopped`] if they never will.
    pub async fn wait_for(&self, revision: Revision) -> Result<(), CacheStopped> {
        if self
            .progress
            .applied
            .borrow()
            .is_some_and(|applied| applied >= revision)
        {
            return Ok(());
        }
        self.progress.asked.fetch_max(revision.0, Ordering::Relaxed);
        self.progress
            .behind_since
            .lock()
            .get_or_insert_with(|| (revision, Instant::now()));
        let mut applied = self.progress.applied.subscribe();
        let reached = applied
            .wait_for(|applied| applied.is_none_or(|applied| applied >= revision))
            .await;
        reached
            .map_err(|_ended| CacheStopped)?
            .map(|_applied| ())
            .ok_or(CacheStopped)
    }

    /// Stop following the store. The caches keep what they have.
    pub fn stop(&self) {
        self.task.0.abort();
        self.progress.applied.send_replace(None);
    }
}

impl Progress {
    fn reached(&self, revision: Revision) {
        let lag = self
            .asked
            .load(Ordering::Relaxed)
            .saturating_sub(revision.0);
        metrics::gauge!("store_cache_revision_lag").set(lag as f64);
        self.behind_since
            .lock()
            .take_if(|(asked, _)| *asked <= revision);
        // Never backward, and never alive again once stopped.
        self.applied.send_if_modified(|applied| match applied {
            Some(before) if *before < revision => {
                *before = revision;
                true
            }
            _ => false,
        });
    }
}

/// The one who reads the store for all caches.
struct Follower {
    store: SharedStore,
    sinks: HashMap<&'static str, Arc<dyn Sink>>,
    progress: Arc<Progress>,
}

impl Follower {
    async fn follow(mut self, mut watch: Watch) {
        let mut wait = BACKOFF.0;
        loop {
            let mut error = match watch.next().await {
                Ok(batch) => {
                    wait = BACKOFF.0;
                    self.apply(&batch);
                    continue;
                }
                Err(error) => error,
            };
            watch = loop {
                let again = match &error {
                    WatchError::Store(StoreError::Closed) => {
                        self.progress.applied.send_replace(None);
                        return;
                    }
                    WatchError::Compacted { .. } => self.read_everything().await,
                    WatchError::Store(failed) => {
                        tracing::warn!(error = %failed, retry_in = ?wait, "the cache can't follow the store");
                        tokio::time::sleep(wait).await;
                        wait = (wait * 2).min(BACKOFF.1);
                        self.resume().await
                    }
                };
                match again {
                    Ok(watch) => break watch,
                    Err(failed) => error = failed,
                }
            };
        }
    }

    /// Watch again from where the caches are.
    async fn resume(&self) -> Result<Watch, WatchError> {
        let applied = self.progress.applied.borrow().unwrap_or_default();
        Ok(self.store.watch(Prefix::everything(), applied).await?)
    }

    fn apply(&self, batch: &Batch) {
        let mut updates = Updates::new(&self.sinks);
        for change in &batch.changes {
            match change {
                Change::Put(entry) => updates.put(entry),
                Change::Delete { key } => updates.delete(key),
            }
        }
        updates.apply();
        self.progress.reached(batch.revision);
    }

    /// Whether a cache is for it.
    fn is_held(&self, key: &Key) -> bool {
        self.sinks.contains_key(key.collection())
    }

    /// Bring the caches to a state of the store by reading all of it, and watch from there. What is as it was doesn't
    /// count as changed.
    async fn read_everything(&mut self) -> Result<Watch, WatchError> {
        let began = Instant::now();
        // The pages are of different moments. Replaying what happened meanwhile makes one moment out of them, before
        // anybody sees it.
        let mut entries: BTreeMap<Key, Entry> = BTreeMap::new();
        let mut range = Range::prefix(&Prefix::everything()).limit(PAGE);
        let (mut first, mut last) = (None, Revision::ZERO);
        loop {
            let Page {
                entries: page,
                revision,
                more,
            } = self.store.range(range.clone()).await?;
            first.get_or_insert(revision);
            last = last.max(revision);
            if let Some(entry) = page.last() {
                range = range.after(&entry.key);
            }
            // What no cache holds may be much more than all that they do.
            let held = page.into_iter().filter(|entry| self.is_held(&entry.key));
            entries.extend(held.map(|entry| (entry.key.clone(), entry)));
            if !more {
                break;
            }
        }
        let mut reached = first.unwrap_or_default();
        let mut watch = self.store.watch(Prefix::everything(), reached).await?;
        while reached < last {
            let batch = watch.next().await?;
            for change in batch.changes {
                match change {
                    Change::Put(entry) if self.is_held(&entry.key) => {
                        drop(entries.insert(entry.key.clone(), entry));
                    }
                    Change::Put(_) => {}
                    Change::Delete { key } => drop(entries.remove(&key)),
                }
            }
            reached = batch.revision;
        }
        self.adopt(&entries);
        self.progress.reached(reached);
        metrics::counter!("store_cache_relists_total").increment(1);
        tracing::debug!(documents = entries.len(), revision = %reached, took = ?began.elapsed(), "read the whole store");
        Ok(watch)
    }

    /// Make the caches hold exactly `entries`.
    fn adopt(&self, entries: &BTreeMap<Key, Entry>) {
        let mut updates = Updates::new(&self.sinks);
        for (collection, sink) in &self.sinks {
            for id in sink.ids() {
                if let Ok(key) = Key::new(collection, &id)
                    && !entries.contains_key(&key)
                {
                    updates.delete(&key);
                }
            }
        }
        for entry in entries.values() {
            let known = self.sinks.get(entry.key.collection());
            if known.is_none_or(|sink| sink.revision(entry.key.id()) != Some(entry.revision)) {
                updates.put(entry);
            }
        }
        updates.apply();
    }
}

/// What one moment changes in the caches: a reader who sees a part of it in one cache sees the rest in all others.
struct Updates<'a> {
    sinks: &'a HashMap<&'static str, Arc<dyn Sink>>,
    /// By collection, so that locks are always taken in one order.
    of: BTreeMap<&'static str, Box<dyn Update + 'a>>,
}

impl<'a> Updates<'a> {
    fn new(sinks: &'a HashMap<&'static str, Arc<dyn Sink>>) -> Self {
        Self {
            sinks,
            of: BTreeMap::new(),
        }
    }

    fn of(&mut self, key: &Key) -> Option<&mut (dyn Update + 'a)> {
        let (collection, sink) = self.sinks.get_key_value(key.collection())?;
        let update = self.of.entry(collection).or_insert_with(|| sink.update());
        Some(update.as_mut())
    }

    fn put(&mut self, entry: &Entry) {
        if let Some(update) = self.of(&entry.key) {
            update.put(entry);
        } else {
            metrics::counter!("store_cache_unknown_total").increment(1);
            tracing::debug!(key = %entry.key, "no cache for this collection");
        }
    }

    fn delete(&mut self, key: &Key) {
        if let Some(update) = self.of(key) {
            update.delete(key);
        }
    }

    fn apply(mut self) {
        self.of.values_mut().for_each(|update| update.lock());
        self.of.values_mut().for_each(|update| update.apply());
    }
}
