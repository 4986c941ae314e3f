//! What can go wrong with documents.

use store::{KeyError, StoreError, cache::CacheStopped};

/// Why a document could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DocumentsError {
    /// Somebody else changed one of the documents meanwhile. Read again and decide again.
    #[error("{key} was changed by somebody else meanwhile: try again")]
    Conflict {
        /// The first of the documents that are not as they were.
        key: String,
    },
    /// The document is not there (any more).
    #[error("{key} does not exist")]
    Absent {
        /// Its key.
        key: String,
    },
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The id can't be a key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The document could not be written as JSON.
    #[error("document can't be encoded: {0}")]
    Encode(#[from] serde_json::Error),
    /// The caches have stopped: the daemon is going down.
    #[error(transparent)]
    Stopped(#[from] CacheStopped),
}

impl DocumentsError {
    /// Whether trying again from a fresh read can help.
    #[must_use]
    pub const fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }

    /// Whether what was to be written may have been, or may be yet.
    #[must_use]
    pub const fn is_in_doubt(&self) -> bool {
        matches!(
            self,
            Self::Store(StoreError::InDoubt { .. } | StoreError::Database { .. })
        )
    }
}
