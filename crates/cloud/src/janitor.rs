//! The janitor: forgets events, finished jobs and old records, oldest first.

use std::time::Duration;

use cimi::{Timestamp, resources::Resource};
use documents::{Cached, Documents, OfType};
use std::sync::Arc;

use crate::Cloud;

/// How much is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Most events.
    pub events: usize,
    /// How long finished jobs stay readable.
    pub jobs: Duration,
    /// How long records of removed machines are kept.
    pub records: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            events: 5_000,
            jobs: Duration::from_secs(3600),
            records: Duration::from_secs(90 * 24 * 3600),
        }
    }
}

/// How often the janitor looks. Nothing waits for it.
const ROUND: Duration = Duration::from_secs(30);
/// Most documents removed in one transaction.
const BATCH: usize = 100;

impl Cloud {
    /// Does the cloud's own work until the caches stop: ends jobs, forgets what is old.
    pub async fn run(&self, retention: Retention) {
        tokio::join!(
            crate::jobs::track(self.0.documents.clone()),
            self.tidy(retention)
        );
    }

    async fn tidy(&self, retention: Retention) {
        let documents = &self.0.documents;
        loop {
            tokio::time::sleep(ROUND).await;
            let now = Timestamp::now();
            let surplus = documents.events.len().saturating_sub(retention.events);
            forget(documents, documents.events.all().into_iter().take(surplus)).await;
            let old_jobs = documents.jobs.all().into_iter().filter(|job| {
                job.state.is_final() && now.since(job.time_of_status_change) > retention.jobs
            });
            forget(documents, old_jobs).await;
            let old_records = documents
                .machine_records
                .all()
                .into_iter()
                .filter(|r| now.since(r.ended) > retention.records);
            forget(documents, old_records).await;
        }
    }
}

async fn forget<R: OfType + Resource>(
    documents: &Documents,
    old: impl Iterator<Item = Arc<Cached<R>>>,
) {
    let old: Vec<_> = old.collect();
    for batch in old.chunks(BATCH) {
        let changes = batch.iter().fold(documents.changes(), |changes, document| {
            changes.remove(document)
        });
        if let Err(error) = changes.commit().await {
            tracing::debug!(%error, collection = R::COLLECTION, "old documents stay for another round");
        }
    }
}
