//! Following what happens.

use std::fmt;

use async_trait::async_trait;
use thiserror::Error;

use crate::{Batch, Revision, StoreError};

/// Why a watch ended.
#[derive(Debug, Clone, Error)]
pub enum WatchError {
    /// History that the watch would have to yield is gone. Read everything anew and watch from there.
    #[error("history before revision {oldest} is gone: read everything again and watch from there")]
    Compacted {
        /// The oldest revision whose changes are still there.
        oldest: Revision,
    },
    /// The store failed. Watch again after the last revision seen.
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// What an implementation provides for a [`Watch`].
#[async_trait]
pub trait WatchSource: Send {
    /// The next batch. Must not lose one when the returned future is dropped.
    async fn next(&mut self) -> Result<Batch, WatchError>;
}

/// Everything that happens to some keys after some revision, in order, each transaction as one [`Batch`].
///
/// A slow reader holds up nobody and costs no memory: it reads on from where it is, until compaction overtakes it.
pub struct Watch(Box<dyn WatchSource>);

impl Watch {
    /// For implementations.
    pub fn new(source: impl WatchSource + 'static) -> Self {
        Self(Box::new(source))
    }

    /// Wait for the next batch. Safe to cancel. After an error the watch yields nothing but errors.
    ///
    /// # Errors
    /// [`WatchError::Compacted`] if the history was discarded, [`StoreError::Closed`] when the store was closed
    /// and everything committed before was yielded.
    pub async fn next(&mut self) -> Result<Batch, WatchError> {
        self.0.next().await
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Watch")
    }
}
