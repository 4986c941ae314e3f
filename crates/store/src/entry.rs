//! What is stored, and what a watch says about it.

use std::fmt;

use bytes::Bytes;

use crate::Key;

/// A point in the history of the whole store. Every transaction that changes something gets the next one.
///
/// `Revision(0)` is before everything: no entry ever has it, and comparing a key with it means "absent".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl Revision {
    /// Before everything that was ever written.
    pub const ZERO: Self = Self(0);

    /// The one after this.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// Names a lease. Never given out twice by the same store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// A stored document as it is now. Cloning shares the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub key: Key,
    /// The document itself; the store doesn't look inside.
    pub value: Bytes,
    /// When it was last written.
    pub revision: Revision,
    /// When it was created; a document deleted and written anew is a new one.
    pub created: Revision,
    /// The lease it vanishes with, if any.
    pub lease: Option<LeaseId>,
}

/// What happened to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was created or replaced and is now this.
    Put(Entry),
    /// It is gone.
    Delete {
        /// Its name.
        key: Key,
    },
}

impl Change {
    /// The key it happened to.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key } => key,
        }
    }
}

/// All changes of one transaction (as far as a watch asked for them), in the order of its operations.
///
/// An implementation may yield a batch without changes; it says that everything up to its revision was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The revision of the transaction.
    pub revision: Revision,
    /// What it did, each key once.
    pub changes: Vec<Change>,
}
