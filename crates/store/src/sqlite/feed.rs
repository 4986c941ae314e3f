//! From the writer to the watches: the latest batches in memory, the older ones from the database.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::RwLock;
use tokio::sync::watch;

use super::readers::Readers;
use crate::{Batch, Change, Prefix, Revision, StoreError, WatchError, WatchSource};

/// Most batches kept in memory.
const MAX_BATCHES: usize = 4096;
/// Most bytes of keys and values kept in memory.
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// How far the store is.
#[derive(Debug, Clone, Copy)]
struct State {
    revision: Revision,
    open: bool,
}

/// The newest durable batches and a bell. Watches are cursors: they hold nothing back and cost nothing when slow.
#[derive(Debug)]
pub(super) struct Feed {
    recent: RwLock<Recent>,
    state: watch::Sender<State>,
}

/// The newest batches without a gap: one for every revision.
#[derive(Debug)]
struct Recent {
    batches: VecDeque<Batch>,
    bytes: usize,
    /// The revision of the first batch, or of the next one to come.
    first: Revision,
    /// The oldest revision a new watch may begin with.
    oldest: Revision,
}

/// What memory has for a cursor.
enum Look {
    Found(Batch),
    /// Nothing for this prefix up to here.
    Nothing(Revision),
    /// Memory doesn't reach back that far.
    TooOld,
}

impl Feed {
    pub(super) fn new(revision: Revision, oldest: Revision) -> Self {
        let recent = Recent {
            batches: VecDeque::new(),
            bytes: 0,
            first: revision.next(),
            oldest,
        };
        Self {
            recent: RwLock::new(recent),
            state: watch::Sender::new(State {
                revision,
                open: true,
            }),
        }
    }

    /// Tell of what has become durable.
    pub(super) fn publish(&self, batches: Vec<Batch>) {
        let Some(last) = batches.last().map(|batch| batch.revision) else {
            return;
        };
        {
            let mut recent = self.recent.write();
            for batch in batches {
                recent.bytes += weight(&batch);
                recent.batches.push_back(batch);
            }
            while recent.batches.len() > MAX_BATCHES || recent.bytes > MAX_BYTES {
                let Some(gone) = recent.batches.pop_front() else {
                    break;
                };
                recent.bytes -= weight(&gone);
                recent.first = gone.revision.next();
            }
        }
        self.state.send_modify(|state| state.revision = last);
    }

    /// From now on watches can't begin before `oldest`.
    pub(super) fn compacted(&self, oldest: Revision) {
        self.recent.write().oldest = oldest;
    }

    /// The end: watches yield what is left and then [`StoreError::Closed`].
    pub(super) fn close(&self) {
        self.state.send_modify(|state| state.open = false);
    }

    /// A cursor on what comes after `after`.
    pub(super) fn watch(
        self: &Arc<Self>,
        readers: Arc<Readers>,
        prefix: Prefix,
        after: Revision,
    ) -> SqliteWatch {
        let oldest = self.recent.read().oldest;
        let refused = (after.next() < oldest).then_some(WatchError::Compacted { oldest });
        let state = self.state.subscribe();
        SqliteWatch {
            feed: self.clone(),
            readers,
            prefix,
            position: after,
            older: VecDeque::new(),
            refused,
            state,
        }
    }

    fn look(&self, prefix: &Prefix, position: Revision) -> Look {
        let recent = self.recent.read();
        let Some(skip) = position.next().0.checked_sub(recent.first.0) else {
            return Look::TooOld;
        };
        let mut seen = position;
        for batch in recent
            .batches
            .iter()
            .skip(usize::try_from(skip).unwrap_or(usize::MAX))
        {
            seen = batch.revision;
            if let Some(found) = only(prefix, batch) {
                return Look::Found(found);
            }
        }
        Look::Nothing(seen)
    }
}

/// The part of `batch` that `prefix` asks for, if any.
fn only(prefix: &Prefix, batch: &Batch) -> Option<Batch> {
    let changes: Vec<_> = batch
        .changes
        .iter()
        .filter(|change| prefix.matches(change.key()))
        .cloned()
        .collect();
    (!changes.is_empty()).then_some(Batch {
        revision: batch.revision,
        changes,
    })
}

/// Roughly what a batch costs in memory.
fn weight(batch: &Batch) -> usize {
    let change = |change: &Change| match change {
        Change::Put(entry) => entry.key.as_str().len() + entry.value.len() + size_of::<Change>(),
        Change::Delete { key } => key.as_str().len() + size_of::<Change>(),
    };
    size_of::<Batch>() + batch.changes.iter().map(change).sum::<usize>()
}

/// See [`Feed::watch`].
pub(super) struct SqliteWatch {
    feed: Arc<Feed>,
    readers: Arc<Readers>,
    prefix: Prefix,
    /// Everything up to here was yielded, is in `older`, or was not asked for.
    position: Revision,
    /// Read from the database and not yet yielded.
    older: VecDeque<Batch>,
    refused: Option<WatchError>,
    state: watch::Receiver<State>,
}

#[async_trait]
impl WatchSource for SqliteWatch {
    async fn next(&mut self) -> Result<Batch, WatchError> {
        loop {
            if let Some(error) = &self.refused {
                return Err(error.clone());
            }
            if let Some(batch) = self.older.pop_front() {
                return Ok(batch);
            }
            let state = *self.state.borrow_and_update();
            if state.revision > self.position {
                match self.feed.look(&self.prefix, self.position) {
                    Look::Found(batch) => {
                        self.position = batch.revision;
                        return Ok(batch);
                    }
                    Look::Nothing(seen) => self.position = seen,
                    Look::TooOld => {
                        let history = self
                            .readers
                            .history(self.prefix.clone(), self.position)
                            .await?;
                        if let Some(oldest) = history.compacted {
                            self.refused = Some(WatchError::Compacted { oldest });
                        }
                        self.older.extend(history.batches);
                        self.position = self.position.max(history.seen);
                    }
                }
            } else if !state.open || self.state.changed().await.is_err() {
                return Err(StoreError::Closed.into());
            }
        }
    }
}
