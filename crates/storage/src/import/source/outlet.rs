//! The channel to the blocking half of an import, with the counting and limiting that every source needs.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use crate::error::Error;
use crate::import::pipeline::Piece;
use crate::import::{Limits, Progress};

/// Why pumping ended early.
pub(super) enum Stop {
    Failed(Error),
    /// The blocking half has what it wants, or an error of its own.
    NobodyReads,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// See the module.
pub(super) struct Outlet {
    to: mpsc::Sender<Piece>,
    pub(super) limits: Limits,
    progress: Arc<watch::Sender<Progress>>,
    /// What comes will be compared with a checksum.
    pub(super) is_proven: bool,
    /// How many bytes of the source are here.
    pub(super) received: u64,
    begun: Instant,
}

impl Outlet {
    pub(super) fn new(
        to: mpsc::Sender<Piece>,
        limits: Limits,
        progress: Arc<watch::Sender<Progress>>,
        is_proven: bool,
    ) -> Self {
        Self {
            to,
            limits,
            progress,
            is_proven,
            received: 0,
            begun: Instant::now(),
        }
    }

    /// Tells how it ended.
    pub(super) async fn end(self, pumped: Result<(), Stop>) {
        let last = match pumped {
            Ok(()) => Piece::End,
            Err(Stop::Failed(error)) => Piece::Failed(error),
            Err(Stop::NobodyReads) => return,
        };
        // If nobody listens any more there is nobody to tell.
        let _ = self.to.send(last).await;
    }

    pub(super) fn expect(&self, total: Option<u64>) -> Result<(), Stop> {
        let limit_bytes = self.limits.max_source_bytes;
        if total.is_some_and(|total| total > limit_bytes) {
            return Err(Error::TooLarge {
                what: "image file",
                limit_bytes,
            }
            .into());
        }
        self.progress.send_modify(|progress| progress.total = total);
        Ok(())
    }

    pub(super) async fn give(&mut self, bytes: Bytes) -> Result<(), Stop> {
        self.received = self.received.saturating_add(bytes.len() as u64);
        let limit_bytes = self.limits.max_source_bytes;
        if self.received > limit_bytes {
            return Err(Error::TooLarge {
                what: "image file",
                limit_bytes,
            }
            .into());
        }
        self.to
            .send(Piece::Data(bytes))
            .await
            .map_err(|_| Stop::NobodyReads)?;
        self.progress
            .send_modify(|progress| progress.bytes_read = self.received);
        Ok(())
    }

    /// Makes sure that the source is not too slow as a whole: called for everything that comes, counted or not.
    pub(super) fn keeps_pace(&self) -> Result<(), Stop> {
        let elapsed = self.begun.elapsed();
        let Limits {
            longest,
            grace,
            least_bytes_per_second,
            ..
        } = self.limits;
        if elapsed > longest {
            return Err(Error::TooLong { longest }.into());
        }
        let bytes_per_second =
            u128::from(self.received).saturating_mul(1000) / elapsed.as_millis().max(1);
        if elapsed > grace && bytes_per_second < u128::from(least_bytes_per_second) {
            return Err(Error::TooSlow {
                bytes_per_second: u64::try_from(bytes_per_second).unwrap_or(u64::MAX),
                least_bytes_per_second,
            }
            .into());
        }
        Ok(())
    }

    pub(super) fn stalled(&self) -> Error {
        Error::Stalled {
            waited: self.limits.stall,
        }
    }
}
