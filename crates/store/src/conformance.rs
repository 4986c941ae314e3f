//! What every implementation of [`Store`](crate::Store) has to pass.
//!
//! An implementation's tests say how to make a new, empty store and get one test for each promise:
//!
//! ```ignore
//! async fn fixture() -> store::conformance::Fixture {
//!     let folder = tempfile::tempdir().expect("a temporary folder");
//!     let store = store::SqliteStore::open(folder.path().join("db")).expect("a new store");
//!     store::conformance::Fixture::new(store, folder)
//! }
//! store::conformance_tests!(fixture);
//! ```
//!
//! The suite demands nothing that etcd v3 can't do, and allows for what differs: the first revision, how long leases
//! really last, how soon compacted history is gone.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a suite for tests: here a broken promise is a panic"
)]

pub mod caches;
pub mod documents;
pub mod etcd_cluster;
pub mod leases;
pub mod model;
pub mod races;
pub mod watches;

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::{Key, Outcome, Page, Prefix, Range, Revision, SharedStore, Store, Transaction};

/// How long anything in the suite may take: only a broken implementation, never a busy machine, needs longer.
const DEADLINE: Duration = Duration::from_secs(60);

/// A new, empty store and what has to live as long as it.
pub struct Fixture {
    /// The store.
    pub store: SharedStore,
    _keep: Box<dyn Any + Send>,
}

impl Fixture {
    /// A store, and its temporary folder or server process.
    pub fn new(store: impl Store, keep: impl Any + Send) -> Self {
        Self {
            store: Arc::new(store),
            _keep: Box::new(keep),
        }
    }
}

impl fmt::Debug for Fixture {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Fixture")
    }
}

/// One test for each promise of the suite, against stores made by the given `async fn() -> Fixture`, or
/// `-> Option<Fixture>` if it may be impossible here.
#[macro_export]
macro_rules! conformance_tests {
    ($fixture:path) => {
        $crate::conformance_tests! { @each $fixture;
            documents::a_document_has_its_value_and_revisions,
            documents::only_changes_raise_the_revision,
            documents::a_transaction_happens_wholly_or_not_at_all,
            documents::conflicts_show_what_is_there,
            documents::what_no_store_accepts_is_refused,
            documents::ranges_are_ordered_and_paged,
            documents::values_may_be_empty_large_and_binary,
            documents::a_closed_store_refuses,
            watches::a_watch_yields_every_transaction_in_order,
            watches::a_watch_resumes_anywhere,
            watches::a_watch_sees_only_its_prefix,
            watches::a_watch_survives_cancellation,
            watches::watches_agree_under_load,
            watches::compaction_ends_old_watches_and_nothing_else,
            watches::closing_ends_a_watch_after_its_last_batch,
            leases::revoking_deletes_all_keys_at_once,
            leases::a_put_moves_a_key_between_leases,
            leases::a_lease_expires_unless_kept_alive,
            leases::ended_leases_are_refused,
            races::exactly_one_writer_wins_each_round,
            races::no_update_is_lost,
            races::transfers_never_show_half,
            model::random_transactions_agree_with_the_model,
            caches::a_writer_reads_what_it_wrote,
            caches::caches_agree_with_the_store_under_load,
            caches::changes_tell_the_last_state_of_everything,
            caches::caches_change_together,
            caches::indexes_follow_their_documents,
            caches::unreadable_documents_are_left_out,
        }
    };
    (@each $fixture:path; $($module:ident :: $check:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $check() {
                // None: what is tested is not here, and the fixture has said so.
                let Some(fixture) = Option::<$crate::conformance::Fixture>::from($fixture().await) else {
                    return;
                };
                $crate::conformance::within($crate::conformance::$module::$check(fixture.store.clone())).await;
            }
        )+
    };
}

/// What `work` returns; panics if it takes longer than any working store needs.
pub async fn within<T>(work: impl Future<Output = T>) -> T {
    // Boxed: the checks are large, and the caller's stack need not be.
    tokio::time::timeout(DEADLINE, Box::pin(work))
        .await
        .expect("the check hangs")
}

fn key(text: &str) -> Key {
    text.parse().expect("the suite's keys are valid")
}

fn prefix(text: &str) -> Prefix {
    Prefix::new(text).expect("the suite's prefixes are valid")
}

/// Commit what must not conflict.
async fn commit(store: &SharedStore, transaction: Transaction) -> Revision {
    match store.commit(transaction).await.expect("the store works") {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict(conflicts) => panic!("unexpected conflict: {conflicts:?}"),
    }
}

async fn put(store: &SharedStore, name: &str, value: &str) -> Revision {
    commit(store, Transaction::new().put(key(name), value.to_owned())).await
}

async fn all(store: &SharedStore, begin: &str) -> Page {
    store
        .range(Range::prefix(&prefix(begin)))
        .await
        .expect("the store works")
}
