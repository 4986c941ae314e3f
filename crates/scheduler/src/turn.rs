//! Whose turn it is to place machines: of several schedulers one decides, and the others keep their accounts meanwhile.
//!
//! ```text
//!  SchedulerTurn/placing, under a lease ──▶ taken at revision R ──▶ caches show R: the account is whole ──▶ decisions, each of which
//!        ▲                                                            is written only if the key is still that of R
//!        └── let go, or its lease has ended: the next one takes it
//! ```
//!
//! So no two book the same room, however late a write arrives: what was decided in an earlier turn comes to nothing. A scheduler
//! that doesn't know whether it has written something takes its turn anew, for the same reason.

use std::{sync::Arc, time::Duration};

use documents::Documents;
use futures::FutureExt as _;
use store::{Change, Entry, Key, LeaseId, Outcome, Prefix, Revision, StoreError, Transaction};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

/// How long a turn lasts of which nothing is heard any more: so long nothing is placed if its scheduler was killed.
const LIFE: Duration = Duration::from_secs(6);
/// How often it says that it is there.
const EVERY: Duration = Duration::from_secs(2);
/// Rest after the store did not do it.
const REST: Duration = Duration::from_secs(1);
const COLLECTION: &str = "SchedulerTurn";

/// The turn, as a scheduler has it or waits for it. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    documents: Documents,
    /// Of the scheduler: the same after a restart, and no other's.
    name: Arc<str>,
    key: Key,
    /// When it was taken; none: it is another's.
    taken: Arc<watch::Sender<Option<Revision>>>,
    /// Rung when it is to be taken anew.
    anew: Arc<Notify>,
    /// Rung when it is found to be another's.
    lost: Arc<Notify>,
}

impl Turn {
    pub(crate) fn new(documents: Documents, name: &str) -> Self {
        #[allow(clippy::expect_used, reason = "a literal, that tests use")]
        let key = Key::new(COLLECTION, "placing").expect("a valid key");
        Self {
            documents,
            name: name.into(),
            key,
            taken: Arc::new(watch::Sender::new(None)),
            anew: Arc::default(),
            lost: Arc::default(),
        }
    }

    /// What decisions are compared with.
    pub(crate) const fn key(&self) -> &Key {
        &self.key
    }

    /// What decisions are written under; none: they are another's. Once there is one, caches show all that was decided before.
    pub(crate) fn changes(&self) -> watch::Receiver<Option<Revision>> {
        self.taken.subscribe()
    }

    /// Whatever was written in this turn and isn't seen yet shall never be.
    pub(crate) fn take_anew(&self) {
        self.taken.send_replace(None);
        self.anew.notify_one();
    }

    /// The store says that it is another's by now.
    pub(crate) fn lost(&self, taken: Revision) {
        self.taken.send_if_modified(|now| {
            let is_it = *now == Some(taken);
            if is_it {
                *now = None;
                // Before another turn can begin, which it says nothing of.
                self.lost.notify_one();
            }
            is_it
        });
    }

    /// Whether the store says that this is still the turn.
    pub(crate) async fn is_still(&self, taken: Revision) -> Result<bool, StoreError> {
        let read = self.documents.store().get(&self.key).await?;
        Ok(read.map_or(Revision::ZERO, |entry| entry.revision) == taken)
    }

    /// Takes it whenever it is free, and keeps it, until told to stop; then lets it go.
    pub(crate) async fn hold(self, stop: CancellationToken) {
        // One that a former self has left is taken at once: that is no more.
        let mut own = Own::Name;
        loop {
            let held = stop.run_until_cancelled(self.one(&mut own)).await;
            self.taken.send_replace(None);
            match held {
                None => break,
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    tracing::warn!(%error, "whose turn it is to place machines can't be told; trying on");
                    if stop.run_until_cancelled(sleep(REST)).await.is_none() {
                        break;
                    }
                }
            }
        }
        if let Own::Lease(lease) = own {
            // If this fails it ends by itself.
            let _ = self.documents.store().revoke(lease).await;
        }
    }

    /// From taking it to losing it.
    async fn one(&self, own: &mut Own) -> Result<(), StoreError> {
        let store = self.documents.store();
        let there = loop {
            match store.get(&self.key).await? {
                None => break Revision::ZERO,
                Some(entry) if own.is(&entry, &self.name) => break entry.revision,
                Some(entry) => self.until_free(entry.revision).await?,
            }
        };
        let mut heard = Instant::now();
        let lease = store.grant(LIFE).await?;
        *own = Own::Lease(lease);
        let Some(mut taken) = self.put(there, lease).await? else {
            return store.revoke(lease).await;
        };
        loop {
            if self.documents.wait_for(taken).await.is_err() {
                // The daemon is going down.
                return std::future::pending().await;
            }
            // Said of a turn before, which had ended already in another way.
            let _ = self.lost.notified().now_or_never();
            self.taken.send_replace(Some(taken));
            tracing::debug!(%taken, "it is this scheduler's turn");
            loop {
                tokio::select! {
                    () = self.anew.notified() => break,
                    () = self.lost.notified() => {
                        tracing::warn!("another scheduler of this name places machines: two daemons have the same computer's name and state directory, or one was copied");
                        let _ = store.revoke(lease).await;
                        return Ok(());
                    }
                    () = sleep(EVERY) => {}
                }
                let asked = Instant::now();
                match store.keep_alive(lease).await {
                    Ok(_) => heard = asked,
                    Err(StoreError::LeaseNotFound { .. }) => return Ok(()),
                    Err(error) if heard.elapsed() > LIFE => return Err(error),
                    Err(_) => {}
                }
            }
            match self.put(taken, lease).await? {
                Some(again) => taken = again,
                None => return Ok(()),
            }
        }
    }

    /// When it was taken, if it was as it was seen.
    async fn put(&self, seen: Revision, lease: LeaseId) -> Result<Option<Revision>, StoreError> {
        let name = self.name.as_bytes().to_vec();
        let put = Transaction::new()
            .revision_is(&self.key, seen)
            .put_with_lease(self.key.clone(), name, lease);
        match self.documents.store().commit(put).await {
            Ok(Outcome::Committed(revision)) => Ok(Some(revision)),
            Ok(Outcome::Conflict(_)) | Err(StoreError::LeaseNotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits until somebody lets it go.
    async fn until_free(&self, seen: Revision) -> Result<(), StoreError> {
        let prefix = Prefix::collection(COLLECTION).map_err(|_| StoreError::Closed)?;
        let mut watch = self.documents.store().watch(prefix, seen).await?;
        loop {
            match watch.next().await {
                Ok(batch) => {
                    let is_end = |change: &Change| matches!(change, Change::Delete { .. });
                    if batch.changes.iter().any(is_end) {
                        return Ok(());
                    }
                }
                // Much has happened: look again.
                Err(store::WatchError::Compacted { .. }) => return Ok(()),
                Err(store::WatchError::Store(error)) => return Err(error),
            }
        }
    }
}

/// By what a scheduler knows a turn as its own that it doesn't know to have.
enum Own {
    /// By its name: its former self had it.
    Name,
    /// By its lease: it was not told whether it has taken it.
    Lease(LeaseId),
}

impl Own {
    fn is(&self, entry: &Entry, name: &str) -> bool {
        match self {
            Self::Name => entry.value == name.as_bytes(),
            Self::Lease(lease) => entry.lease == Some(*lease),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test that panics has failed
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use async_trait::async_trait;
    use parking_lot::Mutex;
    use store::{SharedStore, SqliteStore, testing::Interposed};
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A store in front of which leases are ended when they are to be kept.
    struct Ends {
        behind: SharedStore,
        turn: Mutex<Option<Turn>>,
        kept: AtomicU64,
        again: Notify,
    }

    #[async_trait]
    impl Interposed for Ends {
        fn behind(&self) -> &SharedStore {
            &self.behind
        }

        async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
            // The first time: a decision is refused because the turn is over, in the same moment.
            if self.kept.fetch_add(1, Ordering::SeqCst) == 0 {
                let turn = self.turn.lock().clone().unwrap();
                let taken = turn.changes().borrow().unwrap();
                self.behind.revoke(lease).await?;
                turn.lost(taken);
            } else {
                self.again.notify_one();
            }
            self.behind.keep_alive(lease).await
        }
    }

    #[tokio::test]
    async fn what_is_said_of_a_turn_that_is_over_ends_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Ends {
            behind: Arc::new(SqliteStore::open(folder.path().join("db")).unwrap()),
            turn: Mutex::default(),
            kept: AtomicU64::new(0),
            again: Notify::new(),
        });
        let documents = Documents::open(store.clone()).await.unwrap();
        let turn = Turn::new(documents, "one");
        *store.turn.lock() = Some(turn.clone());
        let mut taken = turn.changes();
        let stop = CancellationToken::new();
        let holding = tokio::spawn(turn.hold(stop.clone()));
        let is_taken = |taken: &Option<Revision>| taken.is_some();
        let first = *timeout(PATIENCE, taken.wait_for(is_taken))
            .await
            .unwrap()
            .unwrap();
        let is_next = |taken: &Option<Revision>| taken.is_some() && *taken != first;
        let second = *timeout(PATIENCE, taken.wait_for(is_next))
            .await
            .unwrap()
            .unwrap();
        // It is kept, and not given back.
        timeout(PATIENCE, store.again.notified()).await.unwrap();
        assert_eq!(*taken.borrow(), second);
        stop.cancel();
        holding.await.unwrap();
    }
}
