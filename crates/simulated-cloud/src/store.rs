//! A store in memory, in the time of its schedule, which all daemons of a cloud share by their wires.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use store::{
    Batch, Change, Conflict, Entry, Key, LeaseId, Operation, Outcome, Page, Prefix, Range,
    Revision, Store, StoreError, Transaction, Watch, WatchError, WatchSource,
};
use tokio::sync::watch;

/// All documents, and all that ever happened to them since the last compaction. Clones are one.
#[derive(Clone)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
    /// How far it is, and whether it is open.
    news: Arc<watch::Sender<(Revision, bool)>>,
}

struct Inner {
    entries: BTreeMap<String, Entry>,
    history: VecDeque<Batch>,
    revision: Revision,
    /// Watches begin with the changes of this one at the earliest.
    oldest: Revision,
    leases: BTreeMap<LeaseId, Lease>,
    leases_given: u64,
    is_open: bool,
}

struct Lease {
    life: Duration,
    ends: Duration,
}

impl Default for MemoryStore {
    fn default() -> Self {
        let inner = Inner {
            entries: BTreeMap::new(),
            history: VecDeque::new(),
            revision: Revision::ZERO,
            oldest: Revision::ZERO,
            leases: BTreeMap::new(),
            leases_given: 0,
            is_open: true,
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            news: Arc::new(watch::Sender::new((Revision::ZERO, true))),
        }
    }
}

impl Inner {
    fn open(&self) -> Result<(), StoreError> {
        if self.is_open {
            Ok(())
        } else {
            Err(StoreError::Closed)
        }
    }

    /// Writes, and remembers what it was.
    fn apply(&mut self, operations: &[Operation]) {
        let at = self.revision.next();
        let mut changes = Vec::new();
        for operation in operations {
            let text = operation.key().as_str();
            match operation {
                Operation::Put { key, value, lease } => {
                    let created = self.entries.get(text).map_or(at, |entry| entry.created);
                    let entry = Entry {
                        key: key.clone(),
                        value: value.clone(),
                        revision: at,
                        created,
                        lease: *lease,
                    };
                    self.entries.insert(text.to_owned(), entry.clone());
                    changes.push(Change::Put(entry));
                }
                Operation::Delete { key } => {
                    if self.entries.remove(text).is_some() {
                        changes.push(Change::Delete { key: key.clone() });
                    }
                }
            }
        }
        if !changes.is_empty() {
            self.revision = at;
            self.history.push_back(Batch {
                revision: at,
                changes,
            });
        }
    }

    fn end_lease(&mut self, lease: LeaseId) -> bool {
        let was_there = self.leases.remove(&lease).is_some();
        let attached = self.entries.values();
        let attached = attached.filter(|entry| entry.lease == Some(lease));
        let gone: Vec<_> = attached
            .map(|entry| Operation::Delete {
                key: entry.key.clone(),
            })
            .collect();
        self.apply(&gone);
        was_there
    }

    /// The first batch after a revision that says something of a prefix, and how far was looked.
    fn after(
        &self,
        position: Revision,
        prefix: &Prefix,
    ) -> Result<(Option<Batch>, Revision), WatchError> {
        if position.next() < self.oldest && position < self.revision {
            return Err(WatchError::Compacted {
                oldest: self.oldest,
            });
        }
        let first = self.history.front().map_or(0, |batch| batch.revision.0);
        let skipped = usize::try_from((position.0 + 1).saturating_sub(first)).unwrap_or(usize::MAX);
        for batch in self.history.iter().skip(skipped) {
            let changes = batch.changes.iter();
            let changes = changes.filter(|change| prefix.matches(change.key()));
            let changes: Vec<_> = changes.cloned().collect();
            if !changes.is_empty() {
                let revision = batch.revision;
                return Ok((Some(Batch { revision, changes }), revision));
            }
        }
        Ok((None, self.revision))
    }
}

impl MemoryStore {
    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.inner.lock();
        let done = work(&mut inner);
        let news = (inner.revision, inner.is_open);
        drop(inner);
        self.news.send_if_modified(|known| {
            let is_new = *known != news;
            *known = news;
            is_new
        });
        done
    }

    /// The document at `key`.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub fn read(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.with(|inner| {
            inner.open()?;
            Ok(inner.entries.get(key.as_str()).cloned())
        })
    }

    /// See [`Store::range`].
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub fn page(&self, range: &Range) -> Result<Page, StoreError> {
        self.page_of(range, |_| true)
    }

    /// The same, as if there were only those documents that are shown.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub fn page_of(
        &self,
        range: &Range,
        is_shown: impl Fn(&Entry) -> bool,
    ) -> Result<Page, StoreError> {
        self.with(|inner| {
            inner.open()?;
            let from = inner.entries.range(range.from().to_owned()..);
            let mut inside = from
                .map(|(_, entry)| entry)
                .take_while(|entry| range.to().is_none_or(|to| entry.key.as_str() < to))
                .filter(|entry| is_shown(entry));
            let most = range.max_entries().unwrap_or(usize::MAX);
            let entries: Vec<_> = inside.by_ref().take(most).cloned().collect();
            Ok(Page {
                entries,
                revision: inner.revision,
                more: inside.next().is_some(),
            })
        })
    }

    /// See [`Store::commit`].
    ///
    /// # Errors
    /// Those of it.
    pub fn write(&self, transaction: &Transaction) -> Result<Outcome, StoreError> {
        transaction.validate()?;
        self.with(|inner| {
            inner.open()?;
            let mut conflicts: Vec<Conflict> = Vec::new();
            for compare in transaction.compares() {
                let current = inner.entries.get(compare.key.as_str());
                let holds = compare.condition.holds(current.map(|entry| entry.revision));
                if !holds && !conflicts.iter().any(|known| known.key == compare.key) {
                    conflicts.push(Conflict {
                        key: compare.key.clone(),
                        current: current.cloned(),
                    });
                }
            }
            if !conflicts.is_empty() {
                return Ok(Outcome::Conflict(conflicts));
            }
            for operation in transaction.operations() {
                if let Operation::Put {
                    lease: Some(lease), ..
                } = operation
                    && !inner.leases.contains_key(lease)
                {
                    return Err(StoreError::LeaseNotFound { lease: *lease });
                }
            }
            inner.apply(transaction.operations());
            Ok(Outcome::Committed(inner.revision))
        })
    }

    /// A lease that ends `life` after `now`.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub fn lend(&self, life: Duration, now: Duration) -> Result<LeaseId, StoreError> {
        self.with(|inner| {
            inner.open()?;
            inner.leases_given += 1;
            let lease = LeaseId(inner.leases_given);
            let ends = now + life;
            inner.leases.insert(lease, Lease { life, ends });
            Ok(lease)
        })
    }

    /// See [`Store::keep_alive`].
    ///
    /// # Errors
    /// Those of it.
    pub fn prolong(&self, lease: LeaseId, now: Duration) -> Result<Duration, StoreError> {
        self.with(|inner| {
            inner.open()?;
            let known = inner.leases.get_mut(&lease);
            let known = known.ok_or(StoreError::LeaseNotFound { lease })?;
            known.ends = now + known.life;
            Ok(known.life)
        })
    }

    /// See [`Store::revoke`].
    ///
    /// # Errors
    /// Those of it.
    pub fn end_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.with(|inner| {
            inner.open()?;
            if inner.end_lease(lease) {
                Ok(())
            } else {
                Err(StoreError::LeaseNotFound { lease })
            }
        })
    }

    /// Ends the leases whose time is over.
    pub fn expire(&self, now: Duration) {
        self.with(|inner| {
            let over = inner.leases.iter().filter(|(_, lease)| lease.ends <= now);
            let over: Vec<_> = over.map(|(lease, _)| *lease).collect();
            for lease in over {
                inner.end_lease(lease);
            }
        });
    }

    /// See [`Store::compact`].
    ///
    /// # Errors
    /// Those of it.
    pub fn forget(&self, before: Revision) -> Result<(), StoreError> {
        self.with(|inner| {
            inner.open()?;
            let current = inner.revision;
            if before > current {
                return Err(StoreError::FutureRevision {
                    asked: before,
                    current,
                });
            }
            inner.oldest = inner.oldest.max(before);
            let oldest = inner.oldest;
            let gone = |batch: &Batch| batch.revision < oldest;
            while inner.history.front().is_some_and(gone) {
                inner.history.pop_front();
            }
            Ok(())
        })
    }

    /// How far it is.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.inner.lock().revision
    }

    /// Told of each change, and of the end.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<(Revision, bool)> {
        self.news.subscribe()
    }

    /// See [`Store::watch`].
    #[must_use]
    pub fn follow(&self, prefix: Prefix, after: Revision) -> Follower {
        Follower {
            store: self.clone(),
            prefix,
            position: after,
            news: self.news(),
        }
    }
}

/// A cursor on what happens.
pub struct Follower {
    store: MemoryStore,
    prefix: Prefix,
    position: Revision,
    news: watch::Receiver<(Revision, bool)>,
}

#[async_trait]
impl WatchSource for Follower {
    async fn next(&mut self) -> Result<Batch, WatchError> {
        loop {
            let (revision, is_open) = *self.news.borrow_and_update();
            let looked = self.store.inner.lock().after(self.position, &self.prefix)?;
            self.position = self.position.max(looked.1);
            if let Some(batch) = looked.0 {
                return Ok(batch);
            }
            if revision <= self.position && (!is_open || self.news.changed().await.is_err()) {
                return Err(StoreError::Closed.into());
            }
        }
    }
}

/// By itself, in real time: for the suite that every store has to pass.
#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.read(key)
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        self.page(&range)
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        self.write(&transaction)
    }

    async fn watch(&self, prefix: Prefix, after: Revision) -> Result<Watch, StoreError> {
        self.with(|inner| inner.open())?;
        Ok(Watch::new(self.follow(prefix, after)))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let lease = self.lend(ttl, now())?;
        let store = self.clone();
        tokio::spawn(async move {
            while let Some(ends) = store.with(|inner| Some(inner.leases.get(&lease)?.ends)) {
                tokio::time::sleep(ends.saturating_sub(now())).await;
                store.expire(now());
            }
        });
        Ok(lease)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        self.prolong(lease, now())
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.end_lease(lease)
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        self.forget(before)
    }

    fn trouble(&self) -> Option<StoreError> {
        None
    }

    async fn close(&self) {
        self.with(|inner| inner.is_open = false);
    }
}

/// Since some moment.
fn now() -> Duration {
    static BEGAN: std::sync::LazyLock<std::time::Instant> =
        std::sync::LazyLock::new(std::time::Instant::now);
    BEGAN.elapsed()
}
