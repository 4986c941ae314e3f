//! A typed transaction.

use std::sync::Arc;

use cimi::{Timestamp, resources::Resource};
use store::{Key, LeaseId, Outcome, Revision, Transaction};

use crate::{Cached, Doc, Documents, DocumentsError, usage};

/// Changes to documents that happen together or not at all. Every document is guarded: a created one must not exist,
/// a replaced or removed one must be as it was read.
#[must_use = "nothing is written before `commit`"]
pub struct Changes<'a> {
    documents: &'a Documents,
    transaction: Transaction,
    failed: Option<DocumentsError>,
}

impl<'a> Changes<'a> {
    pub(crate) fn new(documents: &'a Documents) -> Self {
        Self {
            documents,
            transaction: Transaction::new(),
            failed: None,
        }
    }

    /// Write a document that must not exist yet.
    pub fn create<R: Resource>(self, document: &R) -> Self {
        self.step(document, |transaction, key, value| {
            transaction.absent(&key).put(key, value)
        })
    }

    /// Write `document` in place of `read`; sets its `updated`. Conflicts if it isn't as it was read.
    pub fn replace<R: Resource>(self, read: &Cached<R>, mut document: R) -> Self {
        let now = Timestamp::now();
        let common = document.common_mut();
        // Strictly rising, so that it can serve as a version to clients.
        common.updated = now.max(next_moment(common.updated));
        // What is used goes by this time, too: however the clock is set, uses of a resource follow one another.
        let now = common.updated;
        let revision = read.revision;
        document.use_anew(&read.document.0, now);
        self.account(&read.document.0, Some(&document), now)
            .step(&document, |transaction, key, value| {
                transaction.revision_is(&key, revision).put(key, value)
            })
    }

    /// Remove a document. Conflicts if it isn't as it was read.
    pub fn remove<R: Resource>(self, read: &Cached<R>) -> Self {
        let now = Timestamp::now().max(next_moment(read.document.0.common().updated));
        let mut accounted = self.account(&read.document.0, None, now);
        accounted.transaction = accounted
            .transaction
            .revision_is(&read.key, read.revision)
            .delete(read.key.clone());
        accounted
    }

    /// Writes the records of uses that end with this step: with it or not at all, so each exactly once.
    pub(crate) fn account<R: Resource>(
        mut self,
        before: &R,
        after: Option<&R>,
        now: Timestamp,
    ) -> Self {
        let ends = before.uses();
        if ends.is_empty() || !self.documents.are_whole() {
            return self;
        }
        let go_on = after.map(R::uses).unwrap_or_default();
        for used in ends {
            if go_on.iter().any(|later| used.goes_on_as(later)) {
                continue;
            }
            match usage::record(used, now) {
                Ok((key, value)) => {
                    self.transaction = self.transaction.absent(&key).put(key, value);
                }
                Err(error) => {
                    self.failed.get_or_insert(error);
                }
            }
        }
        self
    }

    /// Demand that a document is as it was read, without changing it.
    pub fn unchanged<R: Resource>(mut self, read: &Cached<R>) -> Self {
        self.transaction = self.transaction.revision_is(&read.key, read.revision);
        self
    }

    /// Write raw bytes under a key that must be at `revision` ([`Revision::ZERO`]: absent).
    pub fn put_raw(mut self, key: &Key, revision: Revision, value: Vec<u8>) -> Self {
        self.transaction = self
            .transaction
            .revision_is(key, revision)
            .put(key.clone(), value);
        self
    }

    /// Write raw bytes under a key that must be at `revision`, for as long as a lease lives.
    pub fn put_raw_with_lease(
        mut self,
        key: &Key,
        revision: Revision,
        value: Vec<u8>,
        lease: LeaseId,
    ) -> Self {
        self.transaction =
            self.transaction
                .revision_is(key, revision)
                .put_with_lease(key.clone(), value, lease);
        self
    }

    /// Demand that a raw key is at `revision`, without changing it.
    pub fn unchanged_raw(mut self, key: &Key, revision: Revision) -> Self {
        self.transaction = self.transaction.revision_is(key, revision);
        self
    }

    /// Remove a raw key that must be at `revision`.
    pub fn remove_raw(mut self, key: &Key, revision: Revision) -> Self {
        self.transaction = self
            .transaction
            .revision_is(key, revision)
            .delete(key.clone());
        self
    }

    fn step<R: Resource>(
        mut self,
        document: &R,
        add: impl FnOnce(Transaction, Key, Vec<u8>) -> Transaction,
    ) -> Self {
        let encoded = Key::new(R::COLLECTION, document.local_id())
            .map_err(DocumentsError::from)
            .and_then(|key| Ok((key, serde_json::to_vec(document)?)));
        match encoded {
            Ok((key, value)) => self.transaction = add(self.transaction, key, value),
            Err(error) => {
                self.failed.get_or_insert(error);
            }
        }
        self
    }

    /// The documents they are made of.
    pub(crate) const fn documents(&self) -> &'a Documents {
        self.documents
    }

    /// What is to be demanded and done, for a transaction that does more.
    pub(crate) fn into_transaction(self) -> Result<Transaction, DocumentsError> {
        match self.failed {
            Some(error) => Err(error),
            None => Ok(self.transaction),
        }
    }

    /// Make the changes durable, and wait until reads show them.
    ///
    /// # Errors
    /// [`DocumentsError::Conflict`] if a document is not as it was read: then nothing was written.
    pub async fn commit(self) -> Result<Revision, DocumentsError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        match self.documents.store().commit(self.transaction).await? {
            Outcome::Committed(revision) => {
                self.documents.wait_for(revision).await?;
                Ok(revision)
            }
            Outcome::Conflict(conflicts) => {
                // What was read may be older than what the store has: let the next read be as new as the conflict.
                if let Some(newest) = conflicts
                    .iter()
                    .filter_map(|c| c.current.as_ref())
                    .map(|e| e.revision)
                    .max()
                {
                    self.documents.wait_for(newest).await?;
                }
                let key = conflicts
                    .first()
                    .map(|c| c.key.to_string())
                    .unwrap_or_default();
                Err(DocumentsError::Conflict { key })
            }
        }
    }
}

/// The first moment after another that can be told from it.
pub(crate) const fn next_moment(time: Timestamp) -> Timestamp {
    Timestamp::from_millis(time.as_millis() + 1)
}

impl Documents {
    /// Read a document, change it, write it; again if somebody was faster. `edit` returns whether there is anything to
    /// write, or its own error, which ends the matter.
    ///
    /// # Errors
    /// [`DocumentsError::Absent`], those of the store, or `edit`'s.
    pub async fn update<R, E>(
        &self,
        id: &str,
        mut edit: impl FnMut(&mut R) -> Result<bool, E> + Send,
    ) -> Result<Arc<Cached<R>>, E>
    where
        R: crate::OfType,
        E: From<DocumentsError>,
    {
        loop {
            let absent = || DocumentsError::Absent {
                key: format!("{}/{id}", R::COLLECTION),
            };
            let read = self.view::<R>().get(id).ok_or_else(absent)?;
            let mut document = read.document.0.clone();
            if !edit(&mut document)? {
                return Ok(read);
            }
            match self
                .changes()
                .replace(&read, document.clone())
                .commit()
                .await
            {
                Ok(revision) => {
                    let now = self.view::<R>().get(id);
                    // It may be gone by now, which makes what was written no less true.
                    return Ok(now.unwrap_or_else(|| {
                        Arc::new(Cached {
                            key: read.key.clone(),
                            revision,
                            document: Doc(document),
                            ..*read
                        })
                    }));
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
