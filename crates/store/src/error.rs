//! What can go wrong.

use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

use crate::{Key, LeaseId, Revision, TransactionError};

/// Why the store didn't do what it was asked. A conflict is not an error but an [`Outcome`](crate::Outcome).
#[derive(Debug, Clone, Error)]
pub enum StoreError {
    /// The transaction itself is wrong and will never be accepted.
    #[error("{0}")]
    Transaction(#[from] TransactionError),
    /// The lease was never granted, was revoked or has expired. Grant a new one.
    #[error("lease {lease} does not exist or has expired: grant a new one")]
    LeaseNotFound {
        /// The lease asked for.
        lease: LeaseId,
    },
    /// Compaction was asked for a revision that is not there yet.
    #[error("cannot compact before revision {asked}: the store is at revision {current}")]
    FutureRevision {
        /// The revision asked for.
        asked: Revision,
        /// The newest there is.
        current: Revision,
    },
    /// No space for the write, which did not happen. Reads go on; writes do when there is space again.
    #[error(
        "no space left to write to {path}: nothing was changed; free space on its file system and try again"
    )]
    Full {
        /// The database.
        path: PathBuf,
    },
    /// Another process has the database open.
    #[error("{path} is in use by {holder}: stop it first, two programs must not share a database")]
    Locked {
        /// The database.
        path: PathBuf,
        /// Who has it, as far as known.
        holder: String,
    },
    /// The database was written by a newer version of this program.
    #[error(
        "{path} has schema version {found}, this program knows up to {known}: start a newer version of it"
    )]
    NewerSchema {
        /// The database.
        path: PathBuf,
        /// The version found in it.
        found: i64,
        /// The newest version this program knows.
        known: i64,
    },
    /// The file is there but isn't a database of ours, or damaged.
    #[error("{path} is not a usable store: {reason}; restore it from a backup or move it away")]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The database failed otherwise. Whether a write happened is unknown: read before trying again.
    #[error("{path}: {doing} failed: {source}")]
    Database {
        /// The database.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What it says.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// An endpoint of etcd, or what goes with it, can't be used.
    #[error("etcd: {endpoint}: {reason}")]
    Endpoint {
        /// Which, as given.
        endpoint: String,
        /// What is wrong with it, and what to write.
        reason: String,
    },
    /// No member of etcd did it in time. Nothing was changed.
    #[error(
        "{doing} failed, nothing was changed: {reason}; try again, and see that most members of etcd run ({endpoints})"
    )]
    Unavailable {
        /// All members.
        endpoints: String,
        /// What was being done.
        doing: &'static str,
        /// What the last one asked said.
        reason: String,
    },
    /// The connection to etcd was lost in the midst of a write: it may have happened, or happen yet.
    #[error(
        "whether {doing} happened is unknown: {reason}; read before trying again, and see that most members of etcd run ({endpoints})"
    )]
    InDoubt {
        /// All members.
        endpoints: String,
        /// What was being done.
        doing: &'static str,
        /// What is known.
        reason: String,
    },
    /// etcd doesn't let us. Nothing was changed.
    #[error("etcd ({endpoints}) refuses {doing}: {reason}")]
    Refused {
        /// All members.
        endpoints: String,
        /// What was being done.
        doing: &'static str,
        /// What it says.
        reason: String,
    },
    /// The database of etcd is as large as it may be. Nothing was changed. Reads go on.
    #[error(
        "the database of etcd ({endpoints}) has reached its quota: nothing was changed; compact and defragment it or raise the quota, then `etcdctl alarm disarm`"
    )]
    Quota {
        /// All members.
        endpoints: String,
    },
    /// Only who holds a part of the cloud may write this, and it is not held here any more, or not yet. Nothing was changed.
    #[error(
        "nothing was changed: {key} is not held here now, and only who holds it may write this"
    )]
    NotHeld {
        /// By what it is held.
        key: Key,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}
