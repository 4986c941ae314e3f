//! Stores that do what a test wants (feature `testing`).

use std::time::Duration;

use async_trait::async_trait;

pub use crate::gateway::Showing;

use crate::{
    Entry, Key, LeaseId, Outcome, Page, Prefix, Range, Revision, SharedStore, Store, StoreError,
    Transaction, Watch,
};

/// A [`Store`] in front of another: what it doesn't do itself is done by the one behind.
#[async_trait]
pub trait Interposed: Send + Sync + 'static {
    /// The store behind.
    fn behind(&self) -> &SharedStore;

    /// See [`Store::range`].
    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        self.behind().range(range).await
    }

    /// See [`Store::commit`].
    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        self.behind().commit(transaction).await
    }

    /// See [`Store::compact`].
    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        self.behind().compact(before).await
    }

    /// See [`Store::watch`].
    async fn watch(&self, prefix: Prefix, after: Revision) -> Result<Watch, StoreError> {
        self.behind().watch(prefix, after).await
    }

    /// See [`Store::keep_alive`].
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        self.behind().keep_alive(lease).await
    }
}

#[async_trait]
impl<T: Interposed> Store for T {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.behind().get(key).await
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        Interposed::range(self, range).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        Interposed::commit(self, transaction).await
    }

    async fn watch(&self, prefix: Prefix, after: Revision) -> Result<Watch, StoreError> {
        Interposed::watch(self, prefix, after).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.behind().grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        Interposed::keep_alive(self, lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.behind().revoke(lease).await
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        Interposed::compact(self, before).await
    }

    fn trouble(&self) -> Option<StoreError> {
        self.behind().trouble()
    }

    async fn close(&self) {
        self.behind().close().await;
    }
}
