//! Inside one SQLite transaction: several of our transactions, one after the other.

use std::collections::HashMap;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};

use super::leases::Leases;
use super::readers::{entry, number, revision};
use super::schema::{MAX_POSITIONS, revision_of, version_id};
use crate::{
    Batch, Change, Conflict, Entry, Key, LeaseId, Operation, Outcome, Revision, StoreError,
    Transaction,
};

/// The answer to one job: `Err` outside if SQLite failed (everything is rolled back), `Err` inside if the job was
/// refused before it wrote anything.
pub(super) type Answer<T> = rusqlite::Result<Result<T, StoreError>>;

/// The state between `BEGIN` and `COMMIT`. What it collects becomes true with the commit, or is dropped.
pub(super) struct Session<'a> {
    connection: &'a Connection,
    leases: &'a Leases,
    /// The newest revision given out.
    pub(super) revision: i64,
    /// The oldest revision a watch may begin with.
    pub(super) compacted: i64,
    /// What happened, for the watches.
    pub(super) batches: Vec<Batch>,
    pub(super) granted: Vec<(LeaseId, Duration)>,
    pub(super) ended: Vec<LeaseId>,
}

/// Where a key stands.
#[derive(Clone, Copy)]
struct Head {
    version: i64,
    created: i64,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        connection: &'a Connection,
        leases: &'a Leases,
        revision: i64,
        compacted: i64,
    ) -> Self {
        let (batches, granted, ended) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            connection,
            leases,
            revision,
            compacted,
            batches,
            granted,
            ended,
        }
    }

    /// One logical transaction.
    pub(super) fn commit(&mut self, transaction: &Transaction) -> Answer<Outcome> {
        let mut heads: HashMap<&Key, Option<Head>> =
            HashMap::with_capacity(transaction.operations().len());
        let mut conflicts: Vec<Conflict> = Vec::new();
        for compare in transaction.compares() {
            let head = self.head(&mut heads, &compare.key)?;
            let holds = compare
                .condition
                .holds(head.map(|head| revision(revision_of(head.version))));
            if !holds && conflicts.iter().all(|conflict| conflict.key != compare.key) {
                let current = entry(self.connection, &compare.key)?;
                conflicts.push(Conflict {
                    key: compare.key.clone(),
                    current,
                });
            }
        }
        if !conflicts.is_empty() {
            return Ok(Ok(Outcome::Conflict(conflicts)));
        }
        for operation in transaction.operations() {
            if let Operation::Put {
                lease: Some(lease), ..
            } = operation
                && !self.lease_exists(*lease)?
            {
                return Ok(Err(StoreError::LeaseNotFound { lease: *lease }));
            }
        }

        let at = self.revision + 1;
        let mut changes = Vec::with_capacity(transaction.operations().len());
        for operation in transaction.operations() {
            let head = self.head(&mut heads, operation.key())?;
            let position = changes.len() as i64;
            match operation {
                Operation::Put { key, value, lease } => {
                    let entry = Entry {
                        key: key.clone(),
                        value: value.clone(),
                        revision: revision(at),
                        created: revision(head.map_or(at, |head| head.created)),
                        lease: *lease,
                    };
                    self.put(version_id(at, position), head, &entry)?;
                    changes.push(Change::Put(entry));
                }
                Operation::Delete { key } => {
                    let Some(head) = head else { continue };
                    self.delete(version_id(at, position), head, key)?;
                    changes.push(Change::Delete { key: key.clone() });
                }
            }
        }
        Ok(Ok(Outcome::Committed(self.happened(changes))))
    }

    /// A new lease.
    pub(super) fn grant(&mut self, ttl: Duration) -> Answer<LeaseId> {
        let ttl_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        self.connection
            .prepare_cached("INSERT INTO leases (ttl_ms) VALUES (?1)")?
            .execute([ttl_ms])?;
        let lease = LeaseId(self.connection.last_insert_rowid().unsigned_abs());
        self.granted.push((lease, ttl));
        Ok(Ok(lease))
    }

    /// The end of a lease, wanted or not: its keys go with it.
    pub(super) fn end_lease(&mut self, lease: LeaseId) -> Answer<()> {
        let known = self
            .connection
            .prepare_cached("DELETE FROM leases WHERE id = ?1")?
            .execute([number(lease.0)])?;
        self.ended.push(lease);
        if known == 0 {
            return Ok(Err(StoreError::LeaseNotFound { lease }));
        }
        let mut statement = self.connection.prepare_cached(
            "SELECT key, version, created FROM entries WHERE lease IS NOT NULL AND lease = ?1 ORDER BY key LIMIT ?2",
        )?;
        let attached = statement
            .query_map([number(lease.0), MAX_POSITIONS], |row| {
                Ok((
                    row.get::<_, String>(0)?,
                    Head {
                        version: row.get(1)?,
                        created: row.get(2)?,
                    },
                ))
            })?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        let at = self.revision + 1;
        let mut changes = Vec::with_capacity(attached.len());
        for (text, head) in attached {
            // Keys were checked on their way in; one that doesn't parse could not be told of.
            let Ok(key) = text.parse::<Key>() else {
                continue;
            };
            self.delete(version_id(at, changes.len() as i64), head, &key)?;
            changes.push(Change::Delete { key });
        }
        self.happened(changes);
        Ok(Ok(()))
    }

    /// Give up the history before `before`. The rows go later, in small pieces.
    pub(super) fn compact(&mut self, before: Revision) -> Answer<()> {
        let asked = number(before.0);
        if asked > self.revision {
            return Ok(Err(StoreError::FutureRevision {
                asked: before,
                current: revision(self.revision),
            }));
        }
        self.compacted = self.compacted.max(asked);
        Ok(Ok(()))
    }

    /// Delete up to `limit` rows that no watch may see any more. Returns whether there may be more.
    pub(super) fn sweep(&mut self, limit: usize) -> rusqlite::Result<bool> {
        let mut statement = self.connection.prepare_cached(
            "SELECT at, version FROM superseded WHERE at < ?1 ORDER BY at, version LIMIT ?2",
        )?;
        let rows = statement
            .query_map((self.compacted, limit as i64), |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
            })?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        let mut version = self
            .connection
            .prepare_cached("DELETE FROM versions WHERE id = ?1")?;
        let mut superseded = self
            .connection
            .prepare_cached("DELETE FROM superseded WHERE at = ?1 AND version = ?2")?;
        for row in &rows {
            version.execute([row.1])?;
            superseded.execute(*row)?;
        }
        Ok(rows.len() == limit)
    }

    /// Take the next revision, if anything changed.
    fn happened(&mut self, changes: Vec<Change>) -> Revision {
        if !changes.is_empty() {
            self.revision += 1;
            self.batches.push(Batch {
                revision: revision(self.revision),
                changes,
            });
        }
        revision(self.revision)
    }

    fn head<'k>(
        &self,
        heads: &mut HashMap<&'k Key, Option<Head>>,
        key: &'k Key,
    ) -> rusqlite::Result<Option<Head>> {
        if let Some(head) = heads.get(key) {
            return Ok(*head);
        }
        let head = self
            .connection
            .prepare_cached("SELECT version, created FROM entries WHERE key = ?1")?
            .query_row([key.as_str()], |row| {
                Ok(Head {
                    version: row.get(0)?,
                    created: row.get(1)?,
                })
            })
            .optional()?;
        heads.insert(key, head);
        Ok(head)
    }

    fn lease_exists(&self, lease: LeaseId) -> rusqlite::Result<bool> {
        // The table knows of leases revoked in this very batch, the clocks of those whose end could not be written yet.
        Ok(self.leases.alive(lease)
            && self
                .connection
                .prepare_cached("SELECT 1 FROM leases WHERE id = ?1")?
                .exists([number(lease.0)])?)
    }

    fn put(&self, id: i64, head: Option<Head>, entry: &Entry) -> rusqlite::Result<()> {
        let (key, created) = (entry.key.as_str(), number(entry.created.0));
        let lease = entry.lease.map(|lease| number(lease.0));
        self.connection
            .prepare_cached(
                "INSERT INTO versions (id, key, value, created, lease) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute((id, key, &*entry.value, created, lease))?;
        match head {
            None => {
                self.connection
                    .prepare_cached("INSERT INTO entries (key, version, created, lease) VALUES (?1, ?2, ?3, ?4)")?
                    .execute((key, id, created, lease))?;
            }
            Some(head) => {
                self.connection
                    .prepare_cached("UPDATE entries SET version = ?2, lease = ?3 WHERE key = ?1")?
                    .execute((key, id, lease))?;
                self.supersede(revision_of(id), head.version)?;
            }
        }
        Ok(())
    }

    fn delete(&self, id: i64, head: Head, key: &Key) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached("INSERT INTO versions (id, key, value, created, lease) VALUES (?1, ?2, NULL, ?3, NULL)")?
            .execute((id, key.as_str(), head.created))?;
        self.connection
            .prepare_cached("DELETE FROM entries WHERE key = ?1")?
            .execute([key.as_str()])?;
        self.supersede(revision_of(id), head.version)?;
        // A deletion is nobody's current state from the beginning.
        self.supersede(revision_of(id), id)
    }

    fn supersede(&self, at: i64, version: i64) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached("INSERT INTO superseded (at, version) VALUES (?1, ?2)")?
            .execute((at, version))?;
        Ok(())
    }
}
