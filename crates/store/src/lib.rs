//! The centre of Stratus: versioned documents, transactions with compare, watches and leases.
//!
//! The crate promises, whatever is behind [`Store`]:
//!
//! - one global [`Revision`], raised by one for every transaction that changes something;
//! - a [`Transaction`] happens wholly or not at all, and is on disk before it is acknowledged;
//! - a [`Watch`] yields every transaction after a revision, in order, none split and none missing, or says
//!   that the history it needs is [gone](WatchError::Compacted);
//! - keys attached to a lease vanish when nobody keeps it alive.
//!
//! | module | holds |
//! |---|---|
//! | [`key`](Key), [`entry`](Entry), [`transaction`](Transaction), [`range`](Range), [`watch`](Watch) | the words of the trait |
//! | `contract` | the trait [`Store`] itself |
//! | `sqlite` | [`SqliteStore`], the embedded implementation |
//! | `etcd` | [`EtcdStore`], the distributed one |
//! | [`gateway`](Gateway) | a part of the store for a host that is not trusted with all of it: [`EtcdStore`] on its side |
//! | [`cache`] | typed documents in memory, fed by one watch: what all reads are served from |
//! | [`update`](mod@update) | read, modify, compare and write, again if somebody was faster |
//! | [`tenure`](Tenure) | a part that one has at a time, and a store in which is written only as long as it is held |
//! | [`snapshot`] | all documents in a file, or carried into another store |
//! | [`conformance`] | the suite that every implementation has to pass (feature `conformance`) |
//! | `testing` | stores that do what a test wants (feature `testing`) |
//!
//! Nothing here may use what etcd v3 can't do, and nothing here knows a resource type.
//!
//! Metrics: `store_commit_seconds` (a caller's wait), `store_batch_transactions` (transactions made durable
//! together), `store_sync_seconds` (one durable commit of SQLite), `store_cache_revision_lag`,
//! `store_cache_unreadable`, `store_cache_unknown_total`, `store_cache_relists_total`.

#![forbid(unsafe_code)]

pub mod cache;
#[cfg(feature = "conformance")]
pub mod conformance;
mod contract;
mod entry;
mod error;
mod etcd;
mod gateway;
mod key;
mod range;
pub mod snapshot;
mod sqlite;
mod tenure;
#[cfg(feature = "testing")]
pub mod testing;
mod transaction;
pub mod update;
mod watch;

pub use contract::{SharedStore, Store};
pub use entry::{Batch, Change, Entry, LeaseId, Revision};
pub use error::StoreError;
pub use etcd::{EtcdLogin, EtcdOptions, EtcdStore, EtcdTls};
pub use gateway::{Audience, Gateway, Peer, Permit, Refusal, Rules, Write};
pub use key::{Key, KeyError, Prefix};
pub use range::{Page, Range};
pub use sqlite::{SqliteOptions, SqliteStore};
pub use tenure::Tenure;
pub use transaction::{
    Compare, Condition, Conflict, MAX_OPERATIONS, MAX_TRANSACTION_BYTES, Operation, Outcome,
    Transaction, TransactionError,
};
pub use update::{Edit, UpdateError, Updated, update};
pub use watch::{Watch, WatchError, WatchSource};
