//! The distributed store: an etcd v3 cluster, shared by any number of clients.
//!
//! Revisions are etcd's, transactions are etcd's, watches and leases too; what is added is what a client has to know that
//! may lose any member at any time:
//!
//! - every call has a deadline, and goes on with another member (`members`);
//! - a transaction whose answer was lost is looked after, until it is known whether it happened (`slots`);
//! - a watch goes on where it broke off, and knows how far the cluster is (`watching`).
//!
//! Tried with etcd 3.4.23 (Debian 12). Older ones than 3.4.34 or 3.5.16 forget a deletion that is the very revision
//! compacted at (etcd issue 18089); [`compact`](crate::Store::compact) therefore keeps one revision more in that case.

mod commit;
mod compaction;
mod failure;
pub(crate) mod keyspace;
mod leases;
mod members;
mod options;
mod slots;
mod watching;
pub(crate) mod wire;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{RwLock, RwLockReadGuard, watch};
use tokio::task::JoinHandle;

use crate::{
    Entry, Key, LeaseId, Outcome, Page, Prefix, Range, Revision, Store, StoreError, Transaction,
    Watch,
};
use commit::{Done, Undone};
use failure::{Failure, Refusal};
use keyspace::{Keyspace, lease_number, number, revision};
use members::Members;
pub use options::{EtcdLogin, EtcdOptions, EtcdTls};
use slots::{SESSION_SECONDS, Slots};
use watching::EtcdWatch;
use wire::{RangeRequest, RangeResponse, path};

/// How soon after a failed write it is looked whether writes are possible again.
const PROBE_EVERY: Duration = Duration::from_secs(5);

/// A store in an etcd cluster.
///
/// Needs a Tokio runtime that outlives it. [`close`](Store::close) it, or what it left in the cluster (a lease and some
/// small keys) stays there for another minute.
pub struct EtcdStore {
    shared: Arc<Shared>,
    slots: Arc<Slots>,
    /// Read by every call while it runs; `false` once closed.
    open: RwLock<bool>,
    upkeep: Mutex<Option<JoinHandle<()>>>,
}

/// What calls and watches share.
struct Shared {
    members: Members,
    keys: Keyspace,
    /// The newest revision that was told to somebody and that no change of ours has.
    told: watch::Sender<i64>,
    /// The newest revision that a commit of ours has.
    written: watch::Sender<i64>,
    /// Once closed, the last revision that watches have to yield.
    closing: watch::Sender<Option<i64>>,
    /// Why the last write failed, until one succeeds.
    trouble: Mutex<Option<StoreError>>,
}

impl Shared {
    /// What a failure means to the caller of something that changed nothing.
    fn error(&self, doing: &'static str, failure: Failure) -> StoreError {
        let endpoints = self.members.names.to_string();
        match failure {
            Failure::Refused(Refusal::NoSpace) => StoreError::Quota { endpoints },
            Failure::Refused(_) => StoreError::Refused {
                endpoints,
                doing,
                reason: failure.reason(),
            },
            failure => StoreError::Unavailable {
                endpoints,
                doing,
                reason: failure.reason(),
            },
        }
    }

    fn in_doubt(&self, doing: &'static str, failure: &Failure) -> StoreError {
        StoreError::InDoubt {
            endpoints: self.members.names.to_string(),
            doing,
            reason: failure.reason(),
        }
    }

    fn tell(&self, at: i64) {
        raise(&self.told, at);
    }

    async fn read(
        &self,
        (key, range_end): (bytes::Bytes, bytes::Bytes),
        limit: usize,
    ) -> Result<RangeResponse, StoreError> {
        let request = RangeRequest {
            key,
            range_end,
            limit: i64::try_from(limit).unwrap_or(i64::MAX),
            ..RangeRequest::default()
        };
        let answer = self.members.ask(path::RANGE, &request).await;
        answer.map_err(|failure| self.error("reading", failure))
    }
}

fn raise(mark: &watch::Sender<i64>, to: i64) {
    mark.send_if_modified(|at| {
        let higher = to > *at;
        *at = to.max(*at);
        higher
    });
}

impl EtcdStore {
    /// Connect, and log in if asked to.
    ///
    /// # Errors
    /// [`StoreError::Endpoint`] if an endpoint, a certificate or the prefix can't be used, [`StoreError::Unavailable`] if nobody
    /// answers, [`StoreError::Refused`] if we are not let in.
    pub async fn open(options: EtcdOptions) -> Result<Self, StoreError> {
        let shared = Arc::new(Shared {
            members: Members::new(&options)?,
            keys: Keyspace::new(&options.prefix)?,
            told: watch::Sender::new(0),
            written: watch::Sender::new(0),
            closing: watch::Sender::new(None),
            trouble: Mutex::new(None),
        });
        shared.read(shared.keys.everything(), 1).await?;
        let slots = Arc::new(Slots::new(shared.clone()));
        let (probe, upkeep) = (
            probe(shared.clone()),
            upkeep(shared.clone(), slots.clone(), options.history_revisions),
        );
        let upkeep = async {
            tokio::join!(probe, upkeep);
        };
        Ok(Self {
            shared,
            slots,
            open: RwLock::new(true),
            upkeep: Mutex::new(Some(tokio::spawn(upkeep))),
        })
    }

    /// Held by a call: closing waits for it.
    async fn running(&self) -> Result<RwLockReadGuard<'_, bool>, StoreError> {
        let running = self.open.read().await;
        running.then_some(()).ok_or(StoreError::Closed)?;
        Ok(running)
    }
}

/// Keep our lease alive, and history short.
async fn upkeep(shared: Arc<Shared>, slots: Arc<Slots>, history: Option<u64>) {
    let third = Duration::from_secs(SESSION_SECONDS.unsigned_abs() / 3);
    loop {
        tokio::time::sleep(third).await;
        slots.keep_alive().await;
        if let Some(kept) = history
            && let Err(error) = compaction::keep(&shared, kept).await
        {
            tracing::warn!(%error, "the history in etcd was not compacted");
        }
    }
}

/// After a failed write, find out when writes are possible again.
async fn probe(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(PROBE_EVERY).await;
        let troubled = shared.trouble.lock().is_some();
        if troubled && watching::write_sign(&shared).await.is_ok() {
            *shared.trouble.lock() = None;
        }
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let _running = self.running().await?;
        let one = (self.shared.keys.key(key), bytes::Bytes::new());
        let answer = self.shared.read(one, 0).await?;
        let found = answer.kvs.into_iter().next();
        Ok(found.and_then(|found| self.shared.keys.entry(found)))
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        let _running = self.running().await?;
        // No limit is zero for etcd.
        let limit = range.max_entries().map_or(0, |most| most.max(1));
        let answer = self
            .shared
            .read(self.shared.keys.range(&range), limit)
            .await?;
        let at = answer.header.map_or(0, |header| header.revision);
        self.shared.tell(at);
        let none = range.max_entries() == Some(0);
        let (more, mut found) = (answer.more, answer.kvs);
        let cut = none && !found.is_empty();
        found.truncate(if none { 0 } else { found.len() });
        Ok(Page {
            entries: found
                .into_iter()
                .filter_map(|found| self.shared.keys.entry(found))
                .collect(),
            revision: revision(at),
            more: more || cut,
        })
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        transaction.validate()?;
        let _running = self.running().await?;
        let began = Instant::now();
        let (shared, doing) = (&self.shared, "committing");
        let done = commit::commit(&shared.members, &shared.keys, &self.slots, &transaction).await;
        metrics::histogram!("store_commit_seconds").record(began.elapsed().as_secs_f64());
        let failed = |error: StoreError| {
            *shared.trouble.lock() = Some(error.clone());
            Err(error)
        };
        match done {
            Ok(Done::Outcome { outcome, wrote }) => {
                shared.trouble.lock().take();
                if let Outcome::Committed(at) = outcome {
                    let mark = if wrote { &shared.written } else { &shared.told };
                    raise(mark, number(at));
                }
                Ok(outcome)
            }
            Ok(Done::LeaseNotFound(lease)) => Err(StoreError::LeaseNotFound { lease }),
            Err(Undone::Nothing(failure)) => failed(shared.error(doing, failure)),
            Err(Undone::InDoubt(failure)) => failed(shared.in_doubt(doing, &failure)),
        }
    }

    async fn watch(&self, prefix: Prefix, after: Revision) -> Result<Watch, StoreError> {
        let _running = self.running().await?;
        let watch = EtcdWatch::open(self.shared.clone(), &prefix, after).await;
        watch
            .map(Watch::new)
            .map_err(|failure| self.shared.error("watching", failure))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let _running = self.running().await?;
        let granted = leases::grant(&self.shared.members, ttl).await;
        granted.map_err(|failure| self.shared.error("granting a lease", failure))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        let _running = self.running().await?;
        let kept = leases::keep_alive(&self.shared.members, lease_number(lease)).await;
        kept.map_err(|failure| self.shared.error("keeping a lease alive", failure))?
            .ok_or(StoreError::LeaseNotFound { lease })
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let _running = self.running().await?;
        match leases::revoke(&self.shared.members, lease_number(lease)).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(StoreError::LeaseNotFound { lease }),
            Err(failure @ Failure::Unknown(_)) => {
                Err(self.shared.in_doubt("revoking a lease", &failure))
            }
            Err(failure) => Err(self.shared.error("revoking a lease", failure)),
        }
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        let _running = self.running().await?;
        compaction::compact(&self.shared, number(before)).await
    }

    fn trouble(&self) -> Option<StoreError> {
        self.shared.trouble.lock().clone()
    }

    async fn close(&self) {
        // Waits for the calls that run; each has a deadline.
        let mut open = self.open.write().await;
        if !std::mem::replace(&mut *open, false) {
            return;
        }
        let last = *self.shared.written.borrow();
        self.shared.closing.send_replace(Some(last));
        if let Some(upkeep) = self.upkeep.lock().take() {
            upkeep.abort();
        }
        self.slots.end().await;
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.shared.closing.send_replace(Some(0));
        if let Some(upkeep) = self.upkeep.lock().take() {
            upkeep.abort();
        }
    }
}

impl std::fmt::Debug for EtcdStore {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("EtcdStore")
            .field("endpoints", &self.shared.members.names)
            .finish_non_exhaustive()
    }
}
