//! The tracker of jobs, over a store that refuses writes for a while.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test that panics has failed

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::support::{World, alice, settings, split, until};
use async_trait::async_trait;
use cimi::{
    model::Kind,
    resources::{JobState, Volume, VolumeState},
};
use cloud::{CloudError, Retention};
use store::{Outcome, SharedStore, StoreError, Transaction, testing::Interposed};

/// Refuses as many commits as it was told to, as a full disk does.
struct Full {
    store: SharedStore,
    refusals: Arc<AtomicUsize>,
}

#[async_trait]
impl Interposed for Full {
    fn behind(&self) -> &SharedStore {
        &self.store
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        let less = |left: usize| left.checked_sub(1);
        let refuse = self
            .refusals
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
        if refuse.is_ok() {
            return Err(StoreError::Full { path: "db".into() });
        }
        self.store.commit(transaction).await
    }
}

#[tokio::test]
async fn a_job_whose_end_could_not_be_written_ends_later() {
    let refusals = Arc::new(AtomicUsize::new(0));
    let shared = refusals.clone();
    let world = World::with(settings(), |store| {
        Arc::new(Full {
            store,
            refusals: shared,
        })
    })
    .await;
    let body = serde_json::json!({"volumeTemplate": {"volumeConfig": {"capacity": 1000}}});
    let mut jobs = Vec::new();
    for _ in 0..3 {
        let created = world
            .create(&alice(), Kind::Volume, body.clone())
            .await
            .unwrap();
        let (_, local) = split(&created.view.id);
        let made = |volume: &mut Volume| {
            volume.state = VolumeState::Available;
            Ok::<_, CloudError>(true)
        };
        // The last change there is: after it, nothing but the tracker itself comes back to the job.
        world.documents.update(local, made).await.unwrap();
        jobs.push(created.job.unwrap());
    }
    refusals.store(5, Ordering::SeqCst);
    let cloud = world.cloud.clone();
    let tracking = tokio::spawn(async move { cloud.run(Retention::default()).await });
    until("all jobs have ended", || async {
        jobs.iter().all(|job| {
            let (_, local) = split(job);
            let job = world.documents.jobs.get(local).unwrap();
            job.state == JobState::Success
        })
    })
    .await;
    assert_eq!(refusals.load(Ordering::SeqCst), 0);
    tracking.abort();
}
