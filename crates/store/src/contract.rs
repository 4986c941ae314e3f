//! The trait all of Stratus stands on.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::{
    Entry, Key, LeaseId, Outcome, Page, Prefix, Range, Revision, StoreError, Transaction, Watch,
};

/// Some store, shared.
pub type SharedStore = Arc<dyn Store>;

/// Versioned documents with transactions, watches and leases.
///
/// Reads and writes are linearizable: what was acknowledged is seen by every later call. An acknowledged write is
/// durable. A caller that drops the future of a write doesn't know whether it happened.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The document at `key`, if there is one.
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError>;

    /// The documents in `range`, all as they were at one moment.
    async fn range(&self, range: Range) -> Result<Page, StoreError>;

    /// Do the whole transaction if all its compares hold, else nothing. See [`Outcome`].
    ///
    /// # Errors
    /// [`StoreError::Transaction`] if it can't be accepted by any store, [`StoreError::LeaseNotFound`] if a key shall
    /// be attached to a lease that has ended (a conflict comes first), [`StoreError::Full`] if there is no space.
    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError>;

    /// Follow all changes to keys with `prefix` that have a revision above `after`, past and future.
    ///
    /// If the history after `after` is incomplete by compaction, the watch's first yield says so.
    async fn watch(&self, prefix: Prefix, after: Revision) -> Result<Watch, StoreError>;

    /// A new lease that ends `ttl` after the last [`keep_alive`](Self::keep_alive). The store may make it longer (etcd:
    /// whole seconds, at least about two; all: at least what they can time) and at most a year. It never ends early,
    /// and starts anew when the store itself is restarted.
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Let the lease live on for its full time from now. Returns that time.
    ///
    /// # Errors
    /// [`StoreError::LeaseNotFound`] if it has ended.
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError>;

    /// End the lease now and delete all keys attached to it, at one revision.
    ///
    /// # Errors
    /// [`StoreError::LeaseNotFound`] if it has ended already.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Allow the store to forget what happened before `before`: watches may begin with the changes of `before` at the
    /// earliest. Documents as they are now are not affected. Compacting less than was compacted does nothing.
    ///
    /// # Errors
    /// [`StoreError::FutureRevision`] if the store has not come to that revision.
    async fn compact(&self, before: Revision) -> Result<(), StoreError>;

    /// Why writes are not possible, as far as is known: the last one failed for no fault of its own, and nothing has shown
    /// since that it would go better now. The store finds that out by itself. Answers from memory.
    fn trouble(&self) -> Option<StoreError>;

    /// Finish what was begun, refuse everything else, end all watches and let go of the resources.
    async fn close(&self);
}
