//! A part in the cloud that one has at a time, by a key under a lease: what its holder writes is written only as long as the key is
//! what it was when the part was taken, however late the write arrives.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::{
    Entry, Key, LeaseId, Outcome, Page, Prefix, Range, Revision, SharedStore, Store, StoreError,
    Transaction, Watch,
};

/// Whether a part is held here. Cheap to clone; all clones are of the same.
#[derive(Clone, Debug)]
pub struct Tenure {
    key: Key,
    taken: watch::Receiver<Option<Revision>>,
}

impl Tenure {
    /// Of the part that is held by this key; not held yet. By the sender is told at which revision the key was written, and
    /// that the part is not held any more: before anybody else may take it, and when it isn't known whether somebody has.
    #[must_use]
    pub fn of(key: Key) -> (watch::Sender<Option<Revision>>, Self) {
        let (tell, taken) = watch::channel(None);
        (tell, Self { key, taken })
    }

    /// Whether it is held.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.taken.borrow().is_some()
    }

    /// Waits until it isn't held any more as it was when this was called: it may have been another's for a moment.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut taken = self.taken.clone();
        let held = *taken.borrow();
        async move {
            // If nobody is left who could hold it, it isn't held.
            let _ = taken.wait_for(|now| now.is_none() || *now != held).await;
        }
    }

    /// The same store, in which is written only as long as it is held, and [`StoreError::NotHeld`] said otherwise.
    #[must_use]
    pub fn over(&self, store: SharedStore) -> SharedStore {
        let tenure = self.clone();
        Arc::new(Held { store, tenure })
    }
}

struct Held {
    store: SharedStore,
    tenure: Tenure,
}

#[async_trait]
impl Store for Held {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.store.get(key).await
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        self.store.range(range).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        let key = &self.tenure.key;
        let not_held = || StoreError::NotHeld { key: key.clone() };
        let taken = *self.tenure.taken.borrow();
        let transaction = transaction.revision_is(key, taken.ok_or_else(not_held)?);
        match self.store.commit(transaction).await? {
            // What else was otherwise doesn't matter: it is no writer's here to try again.
            Outcome::Conflict(conflicts) if conflicts.iter().any(|one| one.key == *key) => {
                Err(not_held())
            }
            outcome => Ok(outcome),
        }
    }

    async fn watch(&self, prefix: Prefix, after: Revision) -> Result<Watch, StoreError> {
        self.store.watch(prefix, after).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.store.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        self.store.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.revoke(lease).await
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        self.store.compact(before).await
    }

    fn trouble(&self) -> Option<StoreError> {
        self.store.trouble()
    }

    async fn close(&self) {
        self.store.close().await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;
    use crate::SqliteStore;

    #[tokio::test]
    async fn only_who_holds_a_part_writes_and_reads_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let store: SharedStore = Arc::new(SqliteStore::open(folder.path().join("db")).unwrap());
        let part = Key::new("Part", "own").unwrap();
        let document = Key::new("Document", "1").unwrap();
        let (tell, tenure) = Tenure::of(part.clone());
        let held = tenure.over(store.clone());
        let write = || Transaction::new().put(document.clone(), "x");
        let take = || async {
            let put = Transaction::new().put(part.clone(), "somebody");
            store.commit(put).await.unwrap().committed().unwrap()
        };

        let refused = held.commit(write()).await;
        assert!(matches!(refused, Err(StoreError::NotHeld { .. })));
        let taken = take().await;
        tell.send_replace(Some(taken));
        assert!(tenure.is_held());
        held.commit(write()).await.unwrap().committed().unwrap();
        // What its writer has to do anew is told as ever.
        let absent = write().absent(&document);
        assert!(matches!(
            held.commit(absent).await,
            Ok(Outcome::Conflict(_))
        ));

        // Another one has it, which isn't known here: what is written now, nobody reads.
        take().await;
        let before = held.get(&document).await.unwrap().unwrap();
        let late = held.commit(write().absent(&document)).await;
        assert!(matches!(late, Err(StoreError::NotHeld { .. })));
        assert_eq!(held.get(&document).await.unwrap().unwrap(), before);

        // Taken anew: who was at it has missed what came between.
        let ended = tenure.ended();
        tell.send_replace(Some(take().await));
        ended.await;
        let ended = tenure.ended();
        tell.send_replace(None);
        ended.await;
        assert!(!tenure.is_held());
    }
}
