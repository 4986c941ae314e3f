//! Reading: connections beside the writer's, which see what is durable and never wait for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row};
use tokio::sync::Semaphore;

use super::failure;
use super::schema::{meta, revision_of, version_id};
use crate::{Batch, Change, Entry, Key, LeaseId, Page, Prefix, Range, Revision, StoreError};

/// Most reads at once. Nearly all reads come from the watch cache and never get here.
const MAX_READERS: usize = 4;
/// History is read in pieces of about so many rows …
const HISTORY_ROWS: usize = 2000;
/// … and about so many bytes.
const HISTORY_BYTES: usize = 4 * 1024 * 1024;

/// The connections for reading, opened when first needed.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

/// A piece of history.
pub(super) struct History {
    /// What happened, as far as asked for.
    pub(super) batches: Vec<Batch>,
    /// Everything up to here is in `batches`.
    pub(super) seen: Revision,
    /// Set if history doesn't reach back that far: the oldest revision it has.
    pub(super) compacted: Option<Revision>,
}

impl Readers {
    pub(super) fn new(path: &Path) -> Self {
        let permits = Arc::new(Semaphore::new(MAX_READERS));
        Self {
            path: path.to_owned(),
            idle: Mutex::new(Vec::new()),
            permits,
        }
    }

    pub(super) async fn get(self: &Arc<Self>, key: Key) -> Result<Option<Entry>, StoreError> {
        self.read("reading a document", move |connection| {
            entry(connection, &key)
        })
        .await
    }

    pub(super) async fn range(self: &Arc<Self>, range: Range) -> Result<Page, StoreError> {
        self.read("reading a range", move |connection| {
            page(connection, &range)
        })
        .await
    }

    /// What happened after `after` to keys with `prefix`: at least one revision, if there is one.
    pub(super) async fn history(
        self: &Arc<Self>,
        prefix: Prefix,
        after: Revision,
    ) -> Result<History, StoreError> {
        self.read("reading history", move |connection| {
            history(connection, &prefix, after)
        })
        .await
    }

    /// Run `work` on a connection, in one read transaction, where blocking is allowed.
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        doing: &'static str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = self
            .permits
            .clone()
            .acquire_owned()
            .await
            .map_err(|_closed| StoreError::Closed)?;
        let readers = self.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let run = || -> rusqlite::Result<T> {
                let idle = readers.idle.lock().pop();
                let connection = match idle {
                    Some(connection) => connection,
                    None => open(&readers.path)?,
                };
                let transaction = connection.unchecked_transaction()?;
                let value = work(&transaction)?;
                transaction.finish()?;
                readers.idle.lock().push(connection);
                Ok(value)
            };
            run().map_err(|error| failure(&readers.path, doing, error))
        });
        // Only a runtime that is shutting down ends a blocking task early.
        reading.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Refuse reads from now on and close the connections.
    pub(super) fn close(&self) {
        self.permits.close();
        self.idle.lock().clear();
    }
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    // The first reader after a crash may find the write-ahead log locked for recovery for a moment.
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "query_only", true)?;
    connection.pragma_update(None, "cache_size", -1024)?;
    Ok(connection)
}

/// Columns of an entry, as [`read_entry`] wants them.
const ENTRY: &str = "SELECT e.key, v.value, e.version, e.created, e.lease
                     FROM entries e JOIN versions v ON v.id = e.version";

/// The document at `key`.
pub(super) fn entry(connection: &Connection, key: &Key) -> rusqlite::Result<Option<Entry>> {
    connection
        .prepare_cached(&format!("{ENTRY} WHERE e.key = ?1"))?
        .query_row([key.as_str()], read_entry)
        .optional()
}

fn page(connection: &Connection, range: &Range) -> rusqlite::Result<Page> {
    let limit = range
        .max_entries()
        .and_then(|limit| i64::try_from(limit).ok())
        .unwrap_or(i64::MAX - 1);
    let to = range.to();
    let end = if to.is_some() {
        "AND e.key < ?3"
    } else {
        "AND ?3 IS NULL"
    };
    let sql = format!("{ENTRY} WHERE e.key >= ?1 {end} ORDER BY e.key LIMIT ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    // One more than asked for tells whether there are more.
    let mut entries: Vec<Entry> = statement
        .query_map((range.from(), limit + 1, to), read_entry)?
        .collect::<rusqlite::Result<_>>()?;
    let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = entries.len() > wanted;
    entries.truncate(wanted);
    Ok(Page {
        entries,
        revision: revision(meta(connection, "revision")?),
        more,
    })
}

fn history(connection: &Connection, prefix: &Prefix, after: Revision) -> rusqlite::Result<History> {
    let oldest = revision(meta(connection, "compacted")?);
    if after.next() < oldest {
        return Ok(History {
            batches: Vec::new(),
            seen: after,
            compacted: Some(oldest),
        });
    }
    let mut seen = after;
    let mut batches: Vec<Batch> = Vec::new();
    let first = version_id(number(after.next().0), 0);
    let mut statement = connection.prepare_cached(
        "SELECT key, value, id, created, lease FROM versions WHERE id >= ?1 ORDER BY id",
    )?;
    let mut rows = statement.query([first])?;
    let (mut count, mut bytes) = (0, 0);
    while let Some(row) = rows.next()? {
        let at = revision(revision_of(row.get(2)?));
        if at != seen {
            if count >= HISTORY_ROWS || bytes >= HISTORY_BYTES {
                return Ok(History {
                    batches,
                    seen,
                    compacted: None,
                });
            }
            seen = at;
        }
        count += 1;
        let change = match row.get_ref(1)? {
            rusqlite::types::ValueRef::Null => Change::Delete {
                key: read_key(row)?,
            },
            _ => Change::Put(read_entry(row)?),
        };
        if !prefix.matches(change.key()) {
            continue;
        }
        if let Change::Put(entry) = &change {
            bytes += entry.value.len();
        }
        match batches.last_mut().filter(|batch| batch.revision == at) {
            Some(batch) => batch.changes.push(change),
            None => batches.push(Batch {
                revision: at,
                changes: vec![change],
            }),
        }
    }
    drop(rows);
    // To the end: the revisions of a store only lack rows where compaction took superseded ones.
    Ok(History {
        batches,
        seen: seen.max(revision(meta(connection, "revision")?)),
        compacted: None,
    })
}

/// An entry out of key, value, version id, created, lease.
fn read_entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        key: read_key(row)?,
        value: Bytes::from(row.get::<_, Vec<u8>>(1)?),
        revision: revision(revision_of(row.get(2)?)),
        created: revision(row.get(3)?),
        lease: row
            .get::<_, Option<i64>>(4)?
            .map(|lease| LeaseId(lease.unsigned_abs())),
    })
}

fn read_key(row: &Row<'_>) -> rusqlite::Result<Key> {
    let text = row.get_ref(0)?.as_str()?;
    let unusable = |error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
    };
    text.parse().map_err(unusable)
}

/// A revision as SQLite gives it. Ours are never negative.
pub(super) fn revision(number: i64) -> Revision {
    Revision(number.unsigned_abs())
}

/// A number as SQLite takes it. Revisions of ours always fit.
pub(super) fn number(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX >> 21)
}
