//! That this host is there, as the cloud knows it: `HostPulse/<own>`, under a lease that is kept alive.
//!
//! What counts is that the document is under the lease that is kept alive. So it is written only if it is as it was read: one that is
//! still on its way, of this daemon or of the one before, comes to nothing, instead of putting it under a lease that ends. The cloud
//! would take this host as lost then, and its machines to another one, while this one takes itself as heard.

use std::time::Duration;

use cimi::{
    Acl, Common, HostId, Timestamp,
    ids::HostPulseId,
    resources::{HostPulse, Resource as _},
};
use parking_lot::Mutex;
use store::{Key, LeaseId, Outcome, Revision, SharedStore, StoreError, Transaction};

/// How long a host that says nothing is taken to be there.
const LIFE: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Pulse {
    key: Key,
    text: Vec<u8>,
    lease: Mutex<Option<LeaseId>>,
}

impl Pulse {
    pub(super) fn of(host: &HostId) -> anyhow::Result<Self> {
        Ok(Self {
            key: Key::new(HostPulse::COLLECTION, host.local())?,
            text: serde_json::to_vec(&of(host)?)?,
            lease: Mutex::default(),
        })
    }

    /// Says so once.
    pub(super) async fn beat(&self, store: &SharedStore) -> Result<(), StoreError> {
        let lease = *self.lease.lock();
        if let Some(lease) = lease {
            match store.keep_alive(lease).await {
                Err(StoreError::LeaseNotFound { .. }) => *self.lease.lock() = None,
                heard => return heard.map(drop),
            }
        }
        loop {
            let there = store.get(&self.key).await?;
            let there = there.map_or(Revision::ZERO, |there| there.revision);
            let lease = store.grant(LIFE).await?;
            let put = Transaction::new()
                .revision_is(&self.key, there)
                .put_with_lease(self.key.clone(), self.text.clone(), lease);
            if let Outcome::Committed(_) = store.commit(put).await? {
                *self.lease.lock() = Some(lease);
                return Ok(());
            }
            // One that was late came in between.
            store.revoke(lease).await?;
        }
    }

    /// Whoever is stopped in order isn't waited for.
    pub(super) async fn end(&self, store: &SharedStore) {
        let lease = self.lease.lock().take();
        if let Some(lease) = lease
            && let Err(error) = store.revoke(lease).await
        {
            tracing::debug!(%error, "the pulse ends with its lease");
        }
    }
}

/// What it says.
pub(super) fn of(host: &HostId) -> anyhow::Result<HostPulse> {
    Ok(HostPulse {
        id: HostPulseId::from_local(host.local())?,
        common: Common::new(Acl::owned_by_admin(), Timestamp::now()),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test that panics has failed
mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;
    use store::{SqliteStore, testing::Interposed};

    use super::*;

    /// A store of which writes arrive when nobody waits for them any more.
    struct Late {
        behind: SharedStore,
        is_slow: Mutex<bool>,
        on_its_way: Mutex<Vec<Transaction>>,
    }

    #[async_trait]
    impl Interposed for Late {
        fn behind(&self) -> &SharedStore {
            &self.behind
        }

        async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
            if !*self.is_slow.lock() {
                return self.behind.commit(transaction).await;
            }
            self.on_its_way.lock().push(transaction);
            Err(StoreError::InDoubt {
                endpoints: "the wire".to_owned(),
                doing: "a transaction",
                reason: "nobody answers".to_owned(),
            })
        }
    }

    #[tokio::test]
    async fn one_that_arrives_late_puts_it_under_no_lease_that_ends() {
        let folder = tempfile::tempdir().unwrap();
        let late = Arc::new(Late {
            behind: Arc::new(SqliteStore::open(folder.path().join("db")).unwrap()),
            is_slow: Mutex::new(true),
            on_its_way: Mutex::default(),
        });
        let store: SharedStore = late.clone();
        let pulse = Pulse::of(&HostId::generate()).unwrap();
        pulse.beat(&store).await.unwrap_err();
        *late.is_slow.lock() = false;
        pulse.beat(&store).await.unwrap();
        let on_its_way = std::mem::take(&mut *late.on_its_way.lock());
        for transaction in on_its_way {
            let done = late.behind.commit(transaction).await.unwrap();
            assert!(matches!(done, Outcome::Conflict(_)));
        }
        let kept = *pulse.lease.lock();
        let there = store.get(&pulse.key).await.unwrap().unwrap();
        assert!(kept.is_some() && there.lease == kept);
        pulse.beat(&store).await.unwrap();
        // The next daemon of this host has begun before the end of this one arrives.
        let next = Pulse {
            key: pulse.key.clone(),
            text: pulse.text.clone(),
            lease: Mutex::default(),
        };
        next.beat(&store).await.unwrap();
        pulse.end(&store).await;
        assert_eq!(
            store.get(&pulse.key).await.unwrap().unwrap().lease,
            *next.lease.lock()
        );
        next.end(&store).await;
        assert!(store.get(&pulse.key).await.unwrap().is_none());
    }
}
