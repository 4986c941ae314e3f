//! Transactions: compares, then writes, all or nothing.

use std::collections::HashSet;

use bytes::Bytes;
use thiserror::Error;

use crate::{Entry, Key, LeaseId, Revision};

/// Most operations, and most compares, in one transaction (etcd's `--max-txn-ops` default).
pub const MAX_OPERATIONS: usize = 128;
/// Most bytes of keys and values in one transaction (etcd refuses requests over 1.5 MiB).
pub const MAX_TRANSACTION_BYTES: usize = 1024 * 1024;

/// What a compare demands of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It was last modified at exactly this revision. [`Revision::ZERO`] means absent.
    RevisionIs(Revision),
    /// It doesn't exist.
    Absent,
    /// It exists.
    Present,
}

impl Condition {
    /// Whether it holds for a key last modified at `revision` (`None`: the key doesn't exist).
    #[must_use]
    pub fn holds(self, revision: Option<Revision>) -> bool {
        match self {
            Self::RevisionIs(wanted) => revision.unwrap_or(Revision::ZERO) == wanted,
            Self::Absent => revision.is_none(),
            Self::Present => revision.is_some(),
        }
    }
}

/// A condition on a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// The key.
    pub key: Key,
    /// What must hold for it.
    pub condition: Condition,
}

/// A write to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Create or replace. Without a lease the key is detached from one it had.
    Put {
        /// The key.
        key: Key,
        /// The whole new value.
        value: Bytes,
        /// The lease it shall vanish with.
        lease: Option<LeaseId>,
    },
    /// Delete; nothing happens if the key is absent.
    Delete {
        /// The key.
        key: Key,
    },
}

impl Operation {
    /// The key it writes.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// Compares and operations: if every compare holds, all operations happen at one revision; else none.
///
/// ```
/// # use store::{Key, Revision, Transaction};
/// # fn example(machine: Key, job: Key, seen: Revision) -> Transaction {
/// Transaction::new().revision_is(&machine, seen).absent(&job).put(machine, "{…}").put(job, "{…}")
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    compares: Vec<Compare>,
    operations: Vec<Operation>,
}

impl Transaction {
    /// One that demands and does nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Demand that `key` was last modified at `revision`.
    #[must_use]
    pub fn revision_is(self, key: &Key, revision: Revision) -> Self {
        self.compare(key, Condition::RevisionIs(revision))
    }

    /// Demand that `key` doesn't exist.
    #[must_use]
    pub fn absent(self, key: &Key) -> Self {
        self.compare(key, Condition::Absent)
    }

    /// Demand that `key` exists.
    #[must_use]
    pub fn present(self, key: &Key) -> Self {
        self.compare(key, Condition::Present)
    }

    /// Demand `condition` of `key`.
    #[must_use]
    pub fn compare(mut self, key: &Key, condition: Condition) -> Self {
        self.compares.push(Compare {
            key: key.clone(),
            condition,
        });
        self
    }

    /// Demand and do all of `other`, too.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.compares.extend(other.compares);
        self.operations.extend(other.operations);
        self
    }

    /// Create or replace `key`. It is detached from a lease it had.
    #[must_use]
    pub fn put(self, key: Key, value: impl Into<Bytes>) -> Self {
        self.operation(Operation::Put {
            key,
            value: value.into(),
            lease: None,
        })
    }

    /// Create or replace `key`; it vanishes when `lease` ends.
    #[must_use]
    pub fn put_with_lease(self, key: Key, value: impl Into<Bytes>, lease: LeaseId) -> Self {
        self.operation(Operation::Put {
            key,
            value: value.into(),
            lease: Some(lease),
        })
    }

    /// Delete `key`, if it exists.
    #[must_use]
    pub fn delete(self, key: Key) -> Self {
        self.operation(Operation::Delete { key })
    }

    /// Add a write.
    #[must_use]
    pub fn operation(mut self, operation: Operation) -> Self {
        self.operations.push(operation);
        self
    }

    /// What it demands.
    #[must_use]
    pub fn compares(&self) -> &[Compare] {
        &self.compares
    }

    /// What it does.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Whether the transaction is one that every store accepts. Implementations call it first in `commit`.
    pub fn validate(&self) -> Result<(), TransactionError> {
        let most = self.operations.len().max(self.compares.len());
        if most > MAX_OPERATIONS {
            return Err(TransactionError::TooMany(most));
        }
        let mut bytes: usize = self
            .compares
            .iter()
            .map(|compare| compare.key.as_str().len())
            .sum();
        let mut written = HashSet::with_capacity(self.operations.len());
        for operation in &self.operations {
            if !written.insert(operation.key()) {
                return Err(TransactionError::KeyTwice(operation.key().clone()));
            }
            bytes += operation.key().as_str().len();
            if let Operation::Put { value, .. } = operation {
                bytes += value.len();
            }
        }
        if bytes > MAX_TRANSACTION_BYTES {
            return Err(TransactionError::TooLarge(bytes));
        }
        Ok(())
    }
}

/// Why a transaction will never be accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TransactionError {
    /// A key is written more than once.
    #[error("transaction writes {0} more than once: write each key once")]
    KeyTwice(Key),
    /// Too many compares or operations. Holds how many.
    #[error("transaction has {0} operations or compares: at most {MAX_OPERATIONS}, split it")]
    TooMany(usize),
    /// Too much data. Holds how many bytes.
    #[error("transaction of {0} bytes is too large: at most {MAX_TRANSACTION_BYTES}")]
    TooLarge(usize),
}

/// A compare that didn't hold, and what is there instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The key compared.
    pub key: Key,
    /// It as it was at that moment; `None` if it doesn't exist.
    pub current: Option<Entry>,
}

/// How a transaction ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a conflict means that nothing was written"]
pub enum Outcome {
    /// Everything happened, durably, at this revision. If there was nothing to change (no operations, or only
    /// deletes of absent keys), the revision the store was at.
    Committed(Revision),
    /// Nothing happened: these keys (each once) didn't compare.
    Conflict(Vec<Conflict>),
}

impl Outcome {
    /// The revision if committed, the conflicts if not.
    pub fn committed(self) -> Result<Revision, Vec<Conflict>> {
        match self {
            Self::Committed(revision) => Ok(revision),
            Self::Conflict(conflicts) => Err(conflicts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        text.parse().expect("a valid key")
    }

    #[test]
    fn limits_are_those_of_etcd() {
        let many =
            (0..=MAX_OPERATIONS).fold(Transaction::new(), |t, n| t.delete(key(&format!("a/{n}"))));
        assert_eq!(many.validate(), Err(TransactionError::TooMany(129)));
        let twice = Transaction::new().put(key("a/1"), "x").delete(key("a/1"));
        assert_eq!(
            twice.validate(),
            Err(TransactionError::KeyTwice(key("a/1")))
        );
        let large = Transaction::new().put(key("a/1"), vec![0; MAX_TRANSACTION_BYTES]);
        assert_eq!(
            large.validate(),
            Err(TransactionError::TooLarge(MAX_TRANSACTION_BYTES + 3))
        );
        assert_eq!(
            Transaction::new()
                .absent(&key("a/1"))
                .absent(&key("a/1"))
                .validate(),
            Ok(())
        );
    }
}
