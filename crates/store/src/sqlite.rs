//! The embedded store: SQLite with a write-ahead log, one writer thread, readers beside it.

mod feed;
mod leases;
mod lock;
mod readers;
mod schema;
mod session;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};

use crate::{
    Entry, Key, LeaseId, Outcome, Page, Prefix, Range, Revision, Store, StoreError, Transaction,
    Watch,
};
use feed::Feed;
use leases::Leases;
use lock::DatabaseLock;
use readers::Readers;
use session::{Answer, Session};
use writer::{Job, Task, Writer};

/// Shortest time to live of a lease: below, the writer would do nothing else.
const MIN_TTL: Duration = Duration::from_millis(10);
/// Longest time to live of a lease.
const MAX_TTL: Duration = Duration::from_secs(365 * 24 * 3600);

/// How a [`SqliteStore`] behaves.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// How many revisions back a watch can always begin. History is discarded when it is longer by an eighth.
    pub history_revisions: u64,
    /// Largest size of the database; writes beyond it fail as on a full disk. `None`: as large as the disk.
    pub max_bytes: Option<u64>,
}

impl Default for SqliteOptions {
    /// 50,000 revisions: minutes of the busiest cloud, some 100 MB of replaced documents.
    fn default() -> Self {
        Self {
            history_revisions: 50_000,
            max_bytes: None,
        }
    }
}

/// A store in a SQLite database, for one process.
///
/// Dropping it finishes what was begun (and blocks for that); [`close`](Store::close) does the same without blocking.
pub struct SqliteStore {
    path: PathBuf,
    jobs: mpsc::Sender<Box<dyn Job>>,
    /// Taken by `close`: the writer ends when it is gone.
    running: Mutex<Option<oneshot::Sender<()>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    readers: Arc<Readers>,
    feed: Arc<Feed>,
    leases: Arc<Leases>,
    trouble: Trouble,
}

/// Why the last write failed, until one succeeds.
type Trouble = Arc<Mutex<Option<StoreError>>>;

impl SqliteStore {
    /// Open the database at `path`, or create it. Blocks: call it before anything is served, or where blocking is allowed.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another process has it, [`StoreError::NewerSchema`] if a newer version wrote it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(path, SqliteOptions::default())
    }

    /// [`open`](Self::open), with options.
    pub fn open_with(path: impl AsRef<Path>, options: SqliteOptions) -> Result<Self, StoreError> {
        let path = path.as_ref().to_owned();
        let failed = |error| failure(&path, "opening the database", error);
        let lock = DatabaseLock::acquire(&path)?;
        let mut connection = Connection::open(&path).map_err(failed)?;
        configure(&connection, &options).map_err(failed)?;
        schema::migrate(&mut connection, &path)?;
        sync_folder(&path)?;
        let writer = Writer::new(connection, path.clone(), options, lock).map_err(failed)?;
        let (feed, leases) = (writer.feed.clone(), writer.leases.clone());
        let trouble = writer.trouble.clone();
        let (jobs, receiver) = mpsc::channel(writer::QUEUE);
        let (running, stop) = oneshot::channel();
        // A runtime of its own: it sleeps until the next job or the next lease, and may block.
        let no_thread = |source: std::io::Error| StoreError::Database {
            path: path.clone(),
            doing: "starting the writer",
            source: Arc::new(source),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(no_thread)?;
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || runtime.block_on(writer.run(receiver, stop)))
            .map_err(no_thread)?;
        let readers = Arc::new(Readers::new(&path));
        Ok(Self {
            path,
            jobs,
            running: Mutex::new(Some(running)),
            writer: Mutex::new(Some(writer)),
            readers,
            feed,
            leases,
            trouble,
        })
    }

    /// Have `work` done in the next durable commit.
    async fn submit<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(&mut Session<'_>) -> Answer<T> + Send + 'static,
    {
        let (task, answer) = Task::new(work);
        self.jobs
            .send(Box::new(task))
            .await
            .map_err(|_gone| StoreError::Closed)?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Let the writer end, and wait for it.
    fn finish(writer: Option<JoinHandle<()>>, readers: &Readers) {
        if writer.is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the store's writer thread panicked");
        }
        readers.close();
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.readers.get(key.clone()).await
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        self.readers.range(range).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        transaction.validate()?;
        let began = Instant::now();
        let outcome = self
            .submit(move |session| session.commit(&transaction))
            .await;
        metrics::histogram!("store_commit_seconds").record(began.elapsed().as_secs_f64());
        outcome
    }

    async fn watch(&self, prefix: Prefix, after: Revision) -> Result<Watch, StoreError> {
        if self.jobs.is_closed() {
            return Err(StoreError::Closed);
        }
        Ok(Watch::new(self.feed.watch(
            self.readers.clone(),
            prefix,
            after,
        )))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let ttl = ttl.clamp(MIN_TTL, MAX_TTL);
        self.submit(move |session| session.grant(ttl)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        if self.jobs.is_closed() {
            return Err(StoreError::Closed);
        }
        self.leases
            .keep_alive(lease)
            .ok_or(StoreError::LeaseNotFound { lease })
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.submit(move |session| session.end_lease(lease)).await
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        self.submit(move |session| session.compact(before)).await
    }

    fn trouble(&self) -> Option<StoreError> {
        if self.jobs.is_closed() {
            return Some(StoreError::Closed);
        }
        self.trouble.lock().clone()
    }

    async fn close(&self) {
        drop(self.running.lock().take());
        let (writer, readers) = (self.writer.lock().take(), self.readers.clone());
        let _ = tokio::task::spawn_blocking(move || Self::finish(writer, &readers)).await;
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        drop(self.running.lock().take());
        Self::finish(self.writer.lock().take(), &self.readers);
    }
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("SqliteStore")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

fn configure(connection: &Connection, options: &SqliteOptions) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(64);
    // Our lock keeps other writers out; this is for the sqlite3 command in an operator's hands.
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -8192)?;
    // Checkpoints write each changed page once: rarer is less work. 16 MiB of log, cut back to that after bursts.
    connection.pragma_update(None, "wal_autocheckpoint", 4000)?;
    connection.pragma_update(None, "journal_size_limit", 16 * 1024 * 1024)?;
    if let Some(max_bytes) = options.max_bytes {
        let page_size: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        let pages = i64::try_from(max_bytes).unwrap_or(i64::MAX) / page_size.max(1);
        connection.pragma_update_and_check(None, "max_page_count", pages, |_row| Ok(()))?;
    }
    Ok(())
}

/// Make the database's directory entry durable: SQLite doesn't for a file it creates in this mode.
fn sync_folder(path: &Path) -> Result<(), StoreError> {
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    std::fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|source| StoreError::Database {
            path: folder.to_owned(),
            doing: "making the folder durable",
            source: Arc::new(source),
        })
}

/// What a failure of SQLite means to the caller.
fn failure(path: &Path, doing: &'static str, error: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full { path },
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => StoreError::Corrupt {
            path,
            reason: error.to_string(),
        },
        _ => StoreError::Database {
            path,
            doing,
            source: Arc::new(error),
        },
    }
}
