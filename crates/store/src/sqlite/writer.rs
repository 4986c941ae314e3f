//! The one thread that writes: it makes everything durable that has come in while it was making durable the last.
//!
//! ```text
//! callers ── bounded channel ──► BEGIN, job, job, job, …, COMMIT ──► feed (watches) ──► answers
//! ```
//!
//! Nobody is answered before the commit. If it fails because the disk is full, each job is tried alone, so that a
//! large one does not take small ones with it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::feed::Feed;
use super::leases::Leases;
use super::lock::DatabaseLock;
use super::readers::revision;
use super::schema::{meta, set_meta};
use super::session::{Answer, Session};
use super::{SqliteOptions, Trouble, failure};
use crate::{LeaseId, StoreError};

/// Jobs that may wait before callers have to.
pub(super) const QUEUE: usize = 1024;
/// Most jobs in one SQLite transaction: bounds how long the first of them waits.
const MAX_BATCH: usize = 256;
/// Superseded rows deleted with one commit.
const SWEEP_ROWS: usize = 512;
/// How long cleaning up rests after a failure (full disk), and how often it is tried then whether writes are possible.
const RETRY: Duration = Duration::from_secs(5);

/// Something to do in the next SQLite transaction.
pub(super) trait Job: Send {
    /// Do it. May be called again if the transaction failed.
    fn attempt(&mut self, session: &mut Session<'_>) -> rusqlite::Result<()>;
    /// Answer the caller: what came out if it is durable, else why not.
    fn settle(self: Box<Self>, durable: Result<(), StoreError>);
}

/// A [`Job`] out of a function, with somebody waiting for what it returns.
pub(super) struct Task<T, F> {
    work: F,
    answer: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Task<T, F> {
    pub(super) fn new(work: F) -> (Self, oneshot::Receiver<Result<T, StoreError>>) {
        let (reply, receiver) = oneshot::channel();
        (
            Self {
                work,
                answer: None,
                reply,
            },
            receiver,
        )
    }
}

impl<T: Send, F: Fn(&mut Session<'_>) -> Answer<T> + Send> Job for Task<T, F> {
    fn attempt(&mut self, session: &mut Session<'_>) -> rusqlite::Result<()> {
        self.answer = Some((self.work)(session)?);
        Ok(())
    }

    fn settle(self: Box<Self>, durable: Result<(), StoreError>) {
        let Self { answer, reply, .. } = *self;
        // Whoever doesn't wait any more doesn't want to know.
        let _ = reply.send(durable.and_then(|()| answer.unwrap_or(Err(StoreError::Closed))));
    }
}

/// The end of a lease by time.
struct Expiry(LeaseId);

impl Job for Expiry {
    fn attempt(&mut self, session: &mut Session<'_>) -> rusqlite::Result<()> {
        // Already revoked is as good.
        session.end_lease(self.0).map(|_ended| ())
    }

    fn settle(self: Box<Self>, durable: Result<(), StoreError>) {
        match durable {
            Ok(()) => tracing::debug!(lease = %self.0, "lease expired"),
            Err(error) => {
                tracing::warn!(lease = %self.0, %error, "lease expired, but its keys are still there; trying again");
            }
        }
    }
}

/// The state of the writing thread.
pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
    pub(super) options: SqliteOptions,
    pub(super) feed: Arc<Feed>,
    pub(super) leases: Arc<Leases>,
    revision: i64,
    compacted: i64,
    /// There are rows that nobody may see any more.
    unswept: bool,
    sweep_after: Option<Instant>,
    /// Why the last write failed, for those who ask how well the store is.
    pub(super) trouble: Trouble,
    /// When to look whether it still would.
    probe_at: Option<Instant>,
    /// Held as long as anything can write.
    _lock: DatabaseLock,
}

impl Writer {
    /// A writer that goes on where the database ends.
    pub(super) fn new(
        connection: Connection,
        path: PathBuf,
        options: SqliteOptions,
        lock: DatabaseLock,
    ) -> rusqlite::Result<Self> {
        let leases = Arc::new(Leases::default());
        {
            let mut statement = connection.prepare("SELECT id, ttl_ms FROM leases")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let ttl = Duration::from_millis(row.get::<_, i64>(1)?.unsigned_abs());
                leases.start(LeaseId(row.get::<_, i64>(0)?.unsigned_abs()), ttl);
            }
        }
        let (newest, compacted) = (
            meta(&connection, "revision")?,
            meta(&connection, "compacted")?,
        );
        let feed = Arc::new(Feed::new(revision(newest), revision(compacted)));
        let (unswept, sweep_after) = (true, None);
        Ok(Self {
            connection,
            path,
            options,
            feed,
            leases,
            revision: newest,
            compacted,
            unswept,
            sweep_after,
            trouble: Trouble::default(),
            probe_at: None,
            _lock: lock,
        })
    }

    /// Work until the other end of `stop` is gone and everything that was sent before is done.
    pub(super) async fn run(
        mut self,
        mut jobs: mpsc::Receiver<Box<dyn Job>>,
        mut stop: oneshot::Receiver<()>,
    ) {
        let mut batch: Vec<Box<dyn Job>> = Vec::with_capacity(MAX_BATCH);
        let mut stopping = false;
        loop {
            let turn = self.next_turn();
            // What the branch without a turn would wait for is never waited for.
            let turn_at = tokio::time::Instant::from_std(turn.unwrap_or_else(Instant::now));
            tokio::select! {
                biased;
                _ = &mut stop, if !stopping => {
                    // From here on senders are refused, also those that wait for room in the queue.
                    jobs.close();
                    stopping = true;
                    continue;
                }
                received = jobs.recv_many(&mut batch, MAX_BATCH) => {
                    if received == 0 {
                        break;
                    }
                }
                // A turn without jobs is for leases and cleaning up.
                () = tokio::time::sleep_until(turn_at), if turn.is_some() => {}
            }
            let ended = self.leases.take_due();
            batch.extend(
                ended
                    .into_iter()
                    .map(|lease| Box::new(Expiry(lease)) as Box<dyn Job>),
            );
            self.perform(std::mem::take(&mut batch));
            if self.probe_at.is_some_and(|at| at <= Instant::now()) {
                self.probe();
            }
        }
        self.feed.close();
        // Leaves one file behind instead of three. If it fails, the next start reads the write-ahead log.
        if let Err(error) = self
            .connection
            .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
        {
            tracing::warn!(path = %self.path.display(), %error, "could not fold the write-ahead log into the database");
        }
    }

    /// When there is something to do even if nobody asks.
    fn next_turn(&self) -> Option<Instant> {
        let sweep = self
            .unswept
            .then(|| self.sweep_after.unwrap_or_else(Instant::now));
        [self.leases.next_due(), sweep, self.probe_at]
            .into_iter()
            .flatten()
            .min()
    }

    fn perform(&mut self, mut jobs: Vec<Box<dyn Job>>) {
        if !jobs.is_empty() {
            metrics::histogram!("store_batch_transactions").record(jobs.len() as f64);
        }
        match self.make_durable(&mut jobs) {
            Ok(()) => jobs.into_iter().for_each(|job| job.settle(Ok(()))),
            Err(StoreError::Full { .. }) if jobs.len() > 1 => {
                for job in jobs {
                    let mut alone = [job];
                    let durable = self.make_durable(&mut alone);
                    let [job] = alone;
                    job.settle(durable);
                }
            }
            Err(error) => {
                if !matches!(error, StoreError::Full { .. }) {
                    tracing::error!(path = %self.path.display(), %error, "the store could not write");
                }
                jobs.into_iter()
                    .for_each(|job| job.settle(Err(error.clone())));
            }
        }
    }

    /// Remembers that a write failed. One that is smaller may succeed after it, so that alone says nothing.
    fn failed(&mut self, error: &StoreError) {
        *self.trouble.lock() = Some(error.clone());
        self.probe_at = Some(Instant::now() + RETRY);
    }

    /// After a failure: writes something of some size, to see whether that is possible again, and takes it back.
    fn probe(&mut self) {
        let tried = self
            .connection
            .execute(
                "INSERT OR REPLACE INTO meta VALUES ('probe', zeroblob(65536))",
                [],
            )
            .and_then(|_| {
                self.connection
                    .execute("DELETE FROM meta WHERE name = 'probe'", [])
            });
        match tried {
            Ok(_) => {
                self.probe_at = None;
                if self.trouble.lock().take().is_some() {
                    tracing::info!(path = %self.path.display(), "the store can write again");
                }
            }
            Err(error) => self.failed(&failure(&self.path, "probing", error)),
        }
    }

    /// One SQLite transaction. Afterwards either all jobs are durable and the watches know, or nothing happened.
    fn make_durable(&mut self, jobs: &mut [Box<dyn Job>]) -> Result<(), StoreError> {
        let began = Instant::now();
        let result = self.attempt(jobs);
        if let Err(error) = result {
            // A full disk has rolled back by itself already.
            if !self.connection.is_autocommit()
                && let Err(error) = self.connection.execute_batch("ROLLBACK")
            {
                tracing::error!(path = %self.path.display(), %error, "could not roll back");
            }
            self.sweep_after = Some(Instant::now() + RETRY);
            let error = failure(&self.path, "writing", error);
            self.failed(&error);
            return Err(error);
        }
        metrics::histogram!("store_sync_seconds").record(began.elapsed().as_secs_f64());
        Ok(())
    }

    fn attempt(&mut self, jobs: &mut [Box<dyn Job>]) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached("BEGIN IMMEDIATE")?
            .execute([])?;
        let mut session = Session::new(
            &self.connection,
            &self.leases,
            self.revision,
            self.compacted,
        );
        for job in jobs {
            job.attempt(&mut session)?;
        }
        let kept = i64::try_from(self.options.history_revisions).unwrap_or(i64::MAX);
        let surplus = session
            .revision
            .saturating_sub(session.compacted)
            .saturating_sub(kept);
        // With some slack, so that the mark doesn't move with every commit.
        if surplus > kept / 8 {
            session.compacted = session.revision - kept;
        }
        let moved = session.compacted != self.compacted;
        let rested = self.sweep_after.is_none_or(|after| after <= Instant::now());
        let mut unswept = self.unswept || moved;
        if unswept && rested {
            unswept = session.sweep(SWEEP_ROWS)?;
        }
        if session.revision != self.revision {
            set_meta(&self.connection, "revision", session.revision)?;
        }
        if moved {
            set_meta(&self.connection, "compacted", session.compacted)?;
        }
        self.connection.prepare_cached("COMMIT")?.execute([])?;

        let Session {
            revision: newest,
            compacted,
            batches,
            granted,
            ended,
            ..
        } = session;
        self.revision = newest;
        self.compacted = compacted;
        self.unswept = unswept;
        if rested {
            self.sweep_after = None;
        }
        granted
            .into_iter()
            .for_each(|(lease, ttl)| self.leases.start(lease, ttl));
        ended.into_iter().for_each(|lease| self.leases.stop(lease));
        if moved {
            self.feed.compacted(revision(compacted));
        }
        self.feed.publish(batches);
        Ok(())
    }
}
