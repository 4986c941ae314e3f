//! The janitor: forgets events, finished jobs and old records, oldest first.
//!
//! Where there are too many, those go who have most: nobody can push what others did out of the records by being busy.

use std::{collections::HashMap, sync::Arc, time::Duration};

use accounts::certified::ORGANISATION;
use cimi::{
    PrincipalType, Timestamp,
    resources::{Job, Resource, VolumeImage},
};
use documents::{Cached, Documents, DocumentsError, OfType};
use store::cache::Changes;

use crate::Cloud;

/// How much is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Most events.
    pub events: usize,
    /// How long finished jobs stay readable.
    pub jobs: Duration,
    /// Most finished jobs.
    pub jobs_at_most: usize,
    /// How long records of removed machines are kept.
    pub records: Duration,
    /// How long it is known what was used; none: for ever.
    pub usage: Option<Duration>,
    /// How long images stay that came by their names.
    pub images: crate::Eviction,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            events: 5_000,
            jobs: Duration::from_secs(3600),
            jobs_at_most: 10_000,
            records: Duration::from_secs(90 * 24 * 3600),
            usage: Some(Duration::from_secs(1830 * 24 * 3600)),
            images: crate::Eviction::default(),
        }
    }
}

/// How often the janitor looks for what is too old. What is too much doesn't wait for it.
const ROUND: Duration = Duration::from_secs(30);
/// Pages of records of what was used that are looked at in one round: so a round takes about as long whatever there is.
const USAGE_READS: usize = 16;
/// How long such records rest once all were looked at.
const USAGE_REST: Duration = Duration::from_secs(3600);
/// How long tokens that have expired are still listed.
const EXPIRED_TOKENS_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long it is known of tokens for hosts that they have expired or were used.
const EXPIRED_HOST_TOKENS_KEPT: Duration = Duration::from_secs(24 * 3600);
/// Most documents removed in one transaction.
const BATCH: usize = 100;

impl Cloud {
    /// Does the cloud's own work until the caches stop: ends jobs, knows what is unseen, forgets what is old.
    pub async fn run(&self, retention: Retention) {
        tokio::join!(
            crate::jobs::track(self.0.documents.clone()),
            crate::lost_hosts::follow(self.0.documents.clone()),
            Box::pin(crate::fencing::follow(self.clone())),
            Box::pin(crate::moving::follow(self.0.documents.clone())),
            crate::network_hosts::follow(self.clone()),
            Box::pin(crate::security_group::reached::follow(
                self.0.documents.clone()
            )),
            crate::system::tend(self.clone()),
            self.tidy(retention),
            self.forget_usage(retention.usage),
            self.enter_approved()
        );
    }

    async fn tidy(&self, retention: Retention) {
        let documents = &self.0.documents;
        let (mut events, mut jobs) = (documents.events.changes(), documents.jobs.changes());
        let is_over = || {
            let finished = documents.jobs.count_by_index("finished", "yes");
            documents.events.len() > with_slack(retention.events)
                || finished > with_slack(retention.jobs_at_most)
        };
        loop {
            let was_over = is_over();
            let forgotten = self.forget_old(retention).await;
            self.evict(retention.images).await;
            // If the database takes no changes: rounds only. What came meanwhile was not tried yet.
            let is_stuck = was_over && forgotten == 0 && is_over();
            let surplus = until(&mut events, &mut jobs, || !is_stuck && is_over());
            // By itself once in a while, or as soon as there is too much.
            let _ = tokio::time::timeout(ROUND, surplus).await;
        }
    }

    /// Forgets what was used long ago, a few pages a round, over and over.
    async fn forget_usage(&self, kept: Option<Duration>) {
        let Some(kept) = kept else { return };
        let kept = i64::try_from(kept.as_millis()).unwrap_or(i64::MAX);
        let mut after = None::<String>;
        loop {
            let now = Timestamp::now().as_millis();
            let until = Timestamp::from_millis(now.saturating_sub(kept));
            let step = self
                .0
                .documents
                .forget_usage(until, after.as_deref(), USAGE_READS);
            let rest = match step.await {
                Ok(step) => {
                    if step.records > 0 {
                        tracing::info!(records = step.records, %until, "forgot what was used before");
                    }
                    after = step.next;
                    if after.is_some() { ROUND } else { USAGE_REST }
                }
                Err(error) => {
                    tracing::debug!(%error, "old records of use stay for another round");
                    ROUND
                }
            };
            tokio::time::sleep(rest).await;
        }
    }

    /// One round; how much is forgotten.
    async fn forget_old(&self, retention: Retention) -> usize {
        let documents = &self.0.documents;
        let now = Timestamp::now();
        let mut forgotten =
            forget(documents, surplus(documents.events.all(), retention.events)).await;
        let finished = documents.jobs.by_index("finished", "yes");
        let (old, recent): (Vec<_>, Vec<_>) =
            finished.into_iter().partition(|job: &Arc<Cached<Job>>| {
                now.since(job.time_of_status_change) > retention.jobs
            });
        forgotten += forget(documents, old).await;
        forgotten += forget(documents, surplus(recent, retention.jobs_at_most)).await;
        let expired = documents.tokens.all().into_iter();
        let expired = expired.filter(|token| now.since(token.expires) > EXPIRED_TOKENS_KEPT);
        forgotten += forget(documents, expired.collect()).await;
        let expired = documents.host_tokens.all().into_iter();
        let expired = expired.filter(|token| now.since(token.expires) > EXPIRED_HOST_TOKENS_KEPT);
        forgotten += forget(documents, expired.collect()).await;
        forgotten += forget(documents, self.ended_sessions(now)).await;
        forgotten += forget(documents, self.ended_registrations(now)).await;
        forgotten += forget(documents, self.ended_links(now)).await;
        forgotten += self.forget_left().await;
        let old_records = documents
            .machine_records
            .all()
            .into_iter()
            .filter(|r| now.since(r.ended) > retention.records);
        forgotten + forget(documents, old_records.collect()).await
    }

    /// Forgets what a user who is gone did, and leaves the records of their machines to the administrators.
    pub(crate) async fn forget_user(&self, user: &str) -> crate::Result<()> {
        let documents = &self.0.documents;
        forget(documents, documents.owned::<cimi::resources::Event>(user)).await;
        forget(documents, documents.owned::<Job>(user)).await;
        // What stays here is refused all the same: a token is older than who has the name later.
        forget(documents, documents.owned::<cimi::resources::Token>(user)).await;
        forget(documents, documents.owned::<cimi::resources::Session>(user)).await;
        for record in documents.owned::<cimi::resources::MachineRecord>(user) {
            documents
                .update(
                    record.id(),
                    |record: &mut cimi::resources::MachineRecord| {
                        record.common.acl = cimi::Acl::owned_by_admin();
                        Ok::<bool, crate::CloudError>(true)
                    },
                )
                .await?;
        }
        Ok(())
    }
}

impl Cloud {
    /// What is left of those who are gone doesn't count for who has the name later: the janitor finds it again whatever kept
    /// somebody from forgetting it with the user. How much is forgotten.
    pub(crate) async fn forget_left(&self) -> usize {
        let documents = &self.0.documents;
        let mut forgotten = 0;
        let kept = documents.volume_images.all().into_iter();
        for image in kept.filter(|image| self.is_kept_for_nobody(image)) {
            let forget = |image: &mut VolumeImage| {
                let counts_for_nobody = self.is_kept_for_nobody(image);
                if counts_for_nobody {
                    image.kept_for = None;
                }
                Ok::<bool, DocumentsError>(counts_for_nobody)
            };
            match documents.update(image.id(), forget).await {
                Ok(_) => forgotten += 1,
                Err(error) => {
                    tracing::debug!(image = image.id(), %error, "goes on counting for a user who is gone for another round");
                }
            }
        }
        let members = documents.organisation_members.all().into_iter();
        let left = members.filter(|member| {
            let account = format!("{ORGANISATION}{}", member.organisation);
            documents.users.get(&account).is_none()
        });
        forgotten + forget(documents, left.collect()).await
    }

    /// Whether an image counts for somebody who is gone. Members of organisations have no account: they are here as long as
    /// the organisation is, and after that as long as anything is theirs.
    fn is_kept_for_nobody(&self, image: &VolumeImage) -> bool {
        let documents = &self.0.documents;
        let Some(name) = image.kept_for.as_deref() else {
            return false;
        };
        match documents.users.get(name) {
            // Somebody else, who has the name now.
            Some(user) => user.common.created > image.common.updated,
            None => {
                let members = &documents.organisation_members;
                members.count_by_index("member", name) == 0 && self.owned_by(name).is_empty()
            }
        }
    }
}

/// A bound, and what may be above it before somebody acts: not with each document.
const fn with_slack(most: usize) -> usize {
    most.saturating_add(most / 8).saturating_add(16)
}

/// Waits until changes make something true.
async fn until<A: store::cache::Document, B: store::cache::Document>(
    a: &mut Changes<A>,
    b: &mut Changes<B>,
    holds: impl Fn() -> bool,
) {
    while !holds() {
        tokio::select! {
            _ = a.next() => {}
            _ = b.next() => {}
        }
    }
}

/// What has to go of `all` (oldest first) so that `most` stay: of everybody's the same number stays, as long as they
/// have so many.
fn surplus<R: OfType>(all: Vec<Arc<Cached<R>>>, most: usize) -> Vec<Arc<Cached<R>>> {
    if all.len() <= most {
        return Vec::new();
    }
    let owner = |document: &Cached<R>| {
        let owner = &document.acl().owner;
        (owner.kind == PrincipalType::User, owner.principal.clone())
    };
    let mut counts: HashMap<(bool, String), usize> = HashMap::new();
    for document in &all {
        *counts.entry(owner(document)).or_default() += 1;
    }
    let share = fair_share(counts.values().copied().collect(), most);
    for count in counts.values_mut() {
        *count = count.saturating_sub(share);
    }
    all.into_iter()
        .filter(|document| {
            let left = counts.entry(owner(document)).or_default();
            let goes = *left > 0;
            *left = left.saturating_sub(1);
            goes
        })
        .collect()
}

/// The largest number that everybody can keep, where nobody keeps more than they have and all together at most `most`.
fn fair_share(mut counts: Vec<usize>, most: usize) -> usize {
    counts.sort_unstable();
    let (mut left, mut share) = (most, 0);
    for (index, count) in counts.iter().enumerate() {
        let sharing = counts.len() - index;
        share = left / sharing;
        if *count >= share {
            return share;
        }
        left -= count;
    }
    share
}

/// Removes documents; how many.
async fn forget<R: OfType + Resource>(documents: &Documents, old: Vec<Arc<Cached<R>>>) -> usize {
    let mut forgotten = 0;
    for batch in old.chunks(BATCH) {
        let changes = batch.iter().fold(documents.changes(), |changes, document| {
            changes.remove(document)
        });
        match changes.commit().await {
            Ok(_) => forgotten += batch.len(),
            Err(error) => {
                tracing::debug!(%error, collection = R::COLLECTION, "old documents stay for another round");
            }
        }
    }
    forgotten
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_most_loses_first() {
        assert_eq!(fair_share(vec![1000, 10, 5], 100), 85);
        assert_eq!(fair_share(vec![50, 50], 60), 30);
        assert_eq!(fair_share(vec![1, 1, 1], 2), 0);
        assert_eq!(fair_share(vec![7], 0), 0);
    }
}
