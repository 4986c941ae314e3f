//! The layout of the database and how older ones become it.
//!
//! - `versions`: every value ever written and every deletion (`value` NULL), until compaction. Its id is the revision
//!   and the position of the operation in its transaction, so that rows are only ever added at the end and history
//!   needs no index.
//! - `entries`: key → its current version.
//! - `superseded`: versions nobody sees as current any more, by the revision that ended them: what compaction deletes.
//! - `leases`: lease → its time to live.
//! - `meta`: numbers: `schema_version`, `revision` (the newest), `compacted` (the oldest a watch may begin with); for a
//!   moment after a failure `probe`, which means nothing.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use super::failure;
use crate::StoreError;

/// Migration `n` (from 1) makes schema version `n` out of `n - 1`. Released ones never change.
const MIGRATIONS: &[&str] = &[
    // 1: the first layout. A new store is at revision 1, as in etcd.
    "CREATE TABLE versions (
         id      INTEGER PRIMARY KEY,
         key     TEXT NOT NULL,
         value   BLOB,
         created INTEGER NOT NULL,
         lease   INTEGER
     );
     CREATE TABLE entries (
         key     TEXT PRIMARY KEY,
         version INTEGER NOT NULL,
         created INTEGER NOT NULL,
         lease   INTEGER
     ) WITHOUT ROWID;
     CREATE TABLE superseded (
         at      INTEGER NOT NULL,
         version INTEGER NOT NULL,
         PRIMARY KEY (at, version)
     ) WITHOUT ROWID;
     CREATE TABLE leases (
         id      INTEGER PRIMARY KEY AUTOINCREMENT,
         ttl_ms  INTEGER NOT NULL
     );
     INSERT INTO meta VALUES ('revision', 1), ('compacted', 0);",
    // 2: the keys of a lease without reading all entries.
    "CREATE INDEX entries_by_lease ON entries (lease) WHERE lease IS NOT NULL;",
];

/// The schema version this program writes.
pub(super) const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// Bits of a version id below its revision: a transaction changes fewer than 2²⁰ keys.
const POSITION_BITS: u32 = 20;
/// Most changes at one revision. Only the end of a lease can have more than [`crate::MAX_OPERATIONS`].
pub(super) const MAX_POSITIONS: i64 = 1 << POSITION_BITS;

/// The version id of operation `position` of the transaction at `revision`.
pub(super) fn version_id(revision: i64, position: i64) -> i64 {
    (revision << POSITION_BITS) | position
}

/// The revision a version id was written at.
pub(super) fn revision_of(version_id: i64) -> i64 {
    version_id >> POSITION_BITS
}

/// A number of `meta`.
pub(super) fn meta(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection
        .prepare_cached("SELECT value FROM meta WHERE name = ?1")?
        .query_one([name], |row| row.get(0))
}

/// Set a number of `meta`.
pub(super) fn set_meta(connection: &Connection, name: &str, value: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE meta SET value = ?2 WHERE name = ?1")?
        .execute((name, value))?;
    Ok(())
}

/// Create the schema or bring it up to date; all steps in one transaction.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |error| failure(path, "preparing the database", error);
    let found = version(connection).map_err(failed)?;
    let Some(found) = found else {
        let reason = "it is a SQLite database of something else".to_owned();
        return Err(StoreError::Corrupt {
            path: path.to_owned(),
            reason,
        });
    };
    if found > SCHEMA_VERSION {
        return Err(StoreError::NewerSchema {
            path: path.to_owned(),
            found,
            known: SCHEMA_VERSION,
        });
    }
    let missing = MIGRATIONS
        .get(usize::try_from(found).unwrap_or_default()..)
        .unwrap_or_default();
    if missing.is_empty() {
        return Ok(());
    }
    let transaction = connection.transaction().map_err(failed)?;
    let upgrade = || -> rusqlite::Result<()> {
        if found == 0 {
            transaction.execute_batch(
                "CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
                 INSERT INTO meta VALUES ('schema_version', 0);",
            )?;
        }
        for migration in missing {
            transaction.execute_batch(migration)?;
        }
        set_meta(&transaction, "schema_version", SCHEMA_VERSION)
    };
    upgrade().map_err(failed)?;
    transaction.commit().map_err(failed)?;
    if found > 0 {
        tracing::info!(path = %path.display(), from = found, to = SCHEMA_VERSION, "upgraded the store's schema");
    }
    Ok(())
}

/// The schema version of the database: 0 if it is empty, `None` if it holds something that isn't ours.
fn version(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    let tables: i64 =
        connection.query_one("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        return Ok(Some(0));
    }
    let meta = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'meta'";
    if connection.query_one(meta, [], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(None);
    }
    connection
        .query_row(
            "SELECT value FROM meta WHERE name = 'schema_version'",
            [],
            |row| row.get(0),
        )
        .optional()
}
