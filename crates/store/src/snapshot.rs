//! All documents of a store in a file, or carried into another store: backup, restore and migration.
//!
//! A backup is text, one line a document, in the order of the keys:
//!
//! ```text
//! {"stratus":"documents","format":1}
//! {"key":"Machine/0198…","document":{…}}
//! {"documents":1,"sha256":"…"}
//! ```
//!
//! The last line tells how many there are, and the digest of all lines between. A document is JSON, written as it is in
//! the store. Keys that vanish with a lease say who is alive at the moment, and are left out.
//!
//! Filling a store takes many transactions. From the first to the last one the store holds a mark, [`is_unfinished`], with
//! which nobody may use it; filling it again begins anew. Nobody else may write to either store meanwhile: that is for the
//! caller to see to, and found out at the end.

use std::io::{self, BufRead, Read as _, Write};

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::{Entry, Key, Outcome, Prefix, Range, Store, StoreError, Transaction};

/// Says that a store is being filled.
const MARK: &str = "Snapshot/unfinished";
const FORMAT: u32 = 1;
/// Documents read at once.
const PAGE: usize = 500;
/// Documents written at once, and the bytes from which on no more are added: below the limits of a transaction with the
/// largest document there is.
const BATCH: usize = 100;
const BATCH_BYTES: usize = 256 * 1024;
/// Longest line of a backup. A transaction, and so a document, is shorter.
const LINE_MAX_BYTES: u64 = 2 * 1024 * 1024;

/// Why documents could not be carried.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// A store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file could not be read or written.
    #[error("{0}")]
    File(#[from] io::Error),
    /// What was to be filled holds documents.
    #[error("the store to fill is not empty: it holds {0}; give an empty one, nothing was changed")]
    NotEmpty(Key),
    /// A store to be read is one that was filled in part only.
    #[error(
        "the store to read was itself filled in part only: run that restore or migration again, to its end"
    )]
    Unfinished,
    /// The file is no backup, or damaged.
    #[error("line {line} is not of a backup: {reason}")]
    Line {
        /// Which, counted from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A document that is no JSON.
    #[error("the document at {0} is not JSON")]
    NotJson(Key),
    /// The file has no last line: it was cut off.
    #[error("the backup is not whole: it ends after {0} documents without its last line")]
    Truncated(u64),
    /// What is in the file is not what was written into it.
    #[error("the backup is damaged: it holds {found}, and says {told}")]
    Damaged {
        /// What was read.
        found: Summary,
        /// What the last line says.
        told: Summary,
    },
    /// After all of it, the two are not the same.
    #[error(
        "what was written ({written}) is not what was read ({read}): somebody writes to one of the stores; stop all daemons that use it, and begin again"
    )]
    Differs {
        /// What was read.
        read: Summary,
        /// What is there now.
        written: Summary,
    },
}

/// How many documents, and the digest of all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// How many.
    pub documents: u64,
    /// SHA-256 of the lines of a backup with them, in lowercase hexadecimal digits.
    pub sha256: String,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} documents, SHA-256 {}", self.documents, self.sha256)
    }
}

#[derive(Serialize, Deserialize)]
struct Head {
    stratus: String,
    format: u32,
}

/// Whether the store is being filled, or was left half filled: not to be used.
///
/// # Errors
/// If it can't be read.
pub async fn is_unfinished(store: &dyn Store) -> Result<bool, StoreError> {
    Ok(match mark() {
        Some(mark) => store.get(&mark).await?.is_some(),
        None => false,
    })
}

/// Writes all documents to `file`. The file is complete, and to be trusted, once this has returned.
///
/// # Errors
/// If the store can't be read or changes meanwhile, or the file can't be written.
pub async fn write(from: &dyn Store, file: &mut impl Write) -> Result<Summary, SnapshotError> {
    if is_unfinished(from).await? {
        return Err(SnapshotError::Unfinished);
    }
    let head = Head {
        stratus: "documents".to_owned(),
        format: FORMAT,
    };
    writeln!(file, "{}", json(&head)?)?;
    let mut tally = Tally::default();
    let mut pages = Pages::of(from);
    while let Some(entries) = pages.next().await? {
        for entry in entries {
            let line = line(&entry.key, &entry.value)?;
            tally.add(&line);
            file.write_all(&line)?;
        }
    }
    let summary = tally.summary();
    same(&summary, summarize(from).await?)?;
    writeln!(file, "{}", json(&summary)?)?;
    file.flush()?;
    Ok(summary)
}

/// Fills the empty store `to` with the documents of a backup.
///
/// # Errors
/// If `file` is no whole backup, `to` is not empty or can't be written. It then stays unfinished.
pub async fn read(file: &mut impl BufRead, to: &dyn Store) -> Result<Summary, SnapshotError> {
    let mut lines = Lines { file, number: 0 };
    let wrong = |line, reason: &str| SnapshotError::Line {
        line,
        reason: reason.to_owned(),
    };
    let head = lines.next()?.unwrap_or_default();
    match serde_json::from_slice::<Head>(&head) {
        Ok(head) if head.stratus == "documents" && head.format == FORMAT => {}
        Ok(head) if head.stratus == "documents" => {
            return Err(wrong(1, "it is of a newer version of Stratus"));
        }
        _ => return Err(wrong(1, "the file does not begin as one")),
    }
    let mut filling = Filling::begin(to).await?;
    let mut tally = Tally::default();
    while let Some(line) = lines.next()? {
        let Some((key, document)) = parse(&line) else {
            let told: Summary = serde_json::from_slice(&line)
                .map_err(|_| wrong(lines.number, "neither a document nor the end"))?;
            let found = tally.summary();
            if found != told {
                return Err(SnapshotError::Damaged { found, told });
            }
            if lines.next()?.is_some() {
                return Err(wrong(lines.number, "something follows the end"));
            }
            filling.finish(&found).await?;
            return Ok(found);
        };
        tally.add(&line);
        filling.put(key, document).await?;
    }
    Err(SnapshotError::Truncated(tally.documents))
}

/// Fills the empty store `to` with all documents of `from`, which stays as it is.
///
/// # Errors
/// If one can't be read or the other written, `to` is not empty, or a document changes meanwhile. `to` then stays unfinished.
pub async fn copy(from: &dyn Store, to: &dyn Store) -> Result<Summary, SnapshotError> {
    if is_unfinished(from).await? {
        return Err(SnapshotError::Unfinished);
    }
    let mut filling = Filling::begin(to).await?;
    let mut tally = Tally::default();
    let mut pages = Pages::of(from);
    while let Some(entries) = pages.next().await? {
        for entry in entries {
            tally.add(&line(&entry.key, &entry.value)?);
            filling.put(entry.key, entry.value).await?;
        }
    }
    let summary = tally.summary();
    same(&summary, summarize(from).await?)?;
    filling.finish(&summary).await?;
    Ok(summary)
}

async fn summarize(store: &dyn Store) -> Result<Summary, SnapshotError> {
    let mut tally = Tally::default();
    let mut pages = Pages::of(store);
    while let Some(entries) = pages.next().await? {
        for entry in entries {
            tally.add(&line(&entry.key, &entry.value)?);
        }
    }
    Ok(tally.summary())
}

fn same(read: &Summary, written: Summary) -> Result<(), SnapshotError> {
    if *read == written {
        return Ok(());
    }
    let read = read.clone();
    Err(SnapshotError::Differs { read, written })
}

fn mark() -> Option<Key> {
    MARK.parse().ok()
}

fn json(value: &impl Serialize) -> Result<String, io::Error> {
    Ok(serde_json::to_string(value)?)
}

/// A document's line, with its end.
fn line(key: &Key, document: &Bytes) -> Result<Vec<u8>, SnapshotError> {
    if serde_json::from_slice::<IgnoredAny>(document).is_err() {
        return Err(SnapshotError::NotJson(key.clone()));
    }
    let mut line = format!("{{\"key\":{},\"document\":", json(&key.as_str())?).into_bytes();
    // Between the parts of a JSON text a line's end is as good as a blank, and it is nowhere else.
    let flat = |byte: &u8| if *byte == b'\n' { b' ' } else { *byte };
    line.extend(document.iter().map(flat));
    line.extend_from_slice(b"}\n");
    Ok(line)
}

/// A line of a document, as [`line`] writes it.
fn parse(line: &[u8]) -> Option<(Key, Bytes)> {
    #[derive(Deserialize)]
    struct Key_ {
        key: String,
        #[serde(rename = "document")]
        _document: IgnoredAny,
    }
    let key = serde_json::from_slice::<Key_>(line).ok()?.key;
    let begin = format!("{{\"key\":{},\"document\":", json(&key).ok()?);
    let document = line
        .strip_prefix(begin.as_bytes())?
        .strip_suffix(b"}\n")?
        .to_vec();
    Some((key.parse().ok()?, document.into()))
}

#[derive(Default)]
struct Tally {
    documents: u64,
    digest: Sha256,
}

impl Tally {
    fn add(&mut self, line: &[u8]) {
        self.documents = self.documents.saturating_add(1);
        self.digest.update(line);
    }

    fn summary(self) -> Summary {
        let digest = self.digest.finalize();
        Summary {
            documents: self.documents,
            sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}

/// The documents of a store, some at a time, by their keys.
struct Pages<'a> {
    store: &'a dyn Store,
    next: Option<Range>,
}

impl<'a> Pages<'a> {
    fn of(store: &'a dyn Store) -> Self {
        Self {
            store,
            next: Some(Range::prefix(&Prefix::everything()).limit(PAGE)),
        }
    }

    async fn next(&mut self) -> Result<Option<Vec<Entry>>, StoreError> {
        let Some(range) = self.next.take() else {
            return Ok(None);
        };
        let page = self.store.range(range.clone()).await?;
        self.next = page
            .entries
            .last()
            .filter(|_| page.more)
            .map(|last| range.after(&last.key));
        let lasting = |entry: &Entry| entry.lease.is_none() && entry.key.as_str() != MARK;
        Ok(Some(page.entries.into_iter().filter(lasting).collect()))
    }
}

/// A store that is being filled.
struct Filling<'a> {
    store: &'a dyn Store,
    batch: Transaction,
    bytes: usize,
}

impl<'a> Filling<'a> {
    async fn begin(store: &'a dyn Store) -> Result<Self, SnapshotError> {
        let mut filling = Self {
            store,
            batch: Transaction::new(),
            bytes: 0,
        };
        if is_unfinished(store).await? {
            filling.empty().await?;
            return Ok(filling);
        }
        let mut pages = Pages::of(store);
        while let Some(entries) = pages.next().await? {
            if let Some(entry) = entries.into_iter().next() {
                return Err(SnapshotError::NotEmpty(entry.key));
            }
        }
        if let Some(mark) = mark() {
            filling.batch = Transaction::new().absent(&mark).put(mark, "{}");
        }
        filling.flush().await?;
        Ok(filling)
    }

    /// Removes what an earlier attempt left.
    async fn empty(&mut self) -> Result<(), SnapshotError> {
        let mut pages = Pages::of(self.store);
        while let Some(entries) = pages.next().await? {
            for entry in entries {
                self.batch = std::mem::take(&mut self.batch).delete(entry.key);
                if self.batch.operations().len() >= BATCH {
                    self.flush().await?;
                }
            }
        }
        self.flush().await
    }

    async fn put(&mut self, key: Key, document: Bytes) -> Result<(), SnapshotError> {
        let bytes = key.as_str().len().saturating_add(document.len());
        let full = self.bytes.saturating_add(bytes) > BATCH_BYTES;
        if full || self.batch.operations().len() >= BATCH {
            self.flush().await?;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        let batch = std::mem::take(&mut self.batch);
        self.batch = batch.absent(&key).put(key, document);
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), SnapshotError> {
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if batch.operations().is_empty() {
            return Ok(());
        }
        match self.store.commit(batch).await? {
            Outcome::Committed(_) => Ok(()),
            Outcome::Conflict(conflicts) => Err(match conflicts.into_iter().next() {
                Some(conflict) => SnapshotError::NotEmpty(conflict.key),
                None => SnapshotError::Unfinished,
            }),
        }
    }

    /// Writes the rest, looks whether all is there, and takes the mark away.
    async fn finish(mut self, read: &Summary) -> Result<(), SnapshotError> {
        self.flush().await?;
        same(read, summarize(self.store).await?)?;
        if let Some(mark) = mark() {
            self.batch = Transaction::new().delete(mark);
        }
        self.flush().await
    }
}

/// A file's lines with their ends, none too long.
struct Lines<'a, F> {
    file: &'a mut F,
    number: u64,
}

impl<F: BufRead> Lines<'_, F> {
    fn next(&mut self) -> Result<Option<Vec<u8>>, SnapshotError> {
        let mut line = Vec::new();
        let read = self
            .file
            .take(LINE_MAX_BYTES)
            .read_until(b'\n', &mut line)?;
        self.number = self.number.saturating_add(1);
        if read == 0 {
            return Ok(None);
        }
        if u64::try_from(read).unwrap_or(u64::MAX) == LINE_MAX_BYTES {
            return Err(SnapshotError::Line {
                line: self.number,
                reason: format!("it is longer than {LINE_MAX_BYTES} bytes"),
            });
        }
        Ok(Some(line))
    }
}
