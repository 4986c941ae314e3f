//! Reading several keys in order.

use crate::{Entry, Key, Prefix, Revision};

/// Which keys to read, in ascending order.
///
/// ```
/// # use store::{Prefix, Range};
/// # fn example() -> Result<Range, store::KeyError> {
/// Ok(Range::prefix(&Prefix::collection("Machine")?).limit(100))
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    from: String,
    to: Option<String>,
    limit: Option<usize>,
}

/// Sorts after every character that a key can hold, so `prefix + END` ends the keys that begin with `prefix`.
const END: char = '\u{7f}';

impl Range {
    /// All keys that begin with `prefix`.
    #[must_use]
    pub fn prefix(prefix: &Prefix) -> Self {
        let from = prefix.as_str().to_owned();
        let to = (!from.is_empty()).then(|| format!("{from}{END}"));
        Self {
            from,
            to,
            limit: None,
        }
    }

    /// Keys from `from` on, up to but without `to`.
    #[must_use]
    pub fn between(from: &Key, to: &Key) -> Self {
        Self {
            from: from.as_str().to_owned(),
            to: Some(to.as_str().to_owned()),
            limit: None,
        }
    }

    /// The one key.
    pub(crate) fn one(key: &Key) -> Self {
        Self::texts(key.to_string(), Some(format!("{key}\0")))
    }

    /// Keys from one text on, up to but without another.
    pub(crate) fn texts(from: String, to: Option<String>) -> Self {
        Self {
            from,
            to,
            limit: None,
        }
    }

    /// At most `limit` entries; [`Page::more`] says whether there were more.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }

    /// The same, but only what comes after `key`: how the next page is read.
    #[must_use]
    pub fn after(mut self, key: &Key) -> Self {
        // No key lies between a text and the same with the lowest byte behind it.
        let next = format!("{key}\0");
        if next > self.from {
            self.from = next;
        }
        self
    }

    /// The lowest text that is inside.
    #[must_use]
    pub fn from(&self) -> &str {
        &self.from
    }

    /// The lowest text that is not inside any more; `None`: no end.
    #[must_use]
    pub fn to(&self) -> Option<&str> {
        self.to.as_deref()
    }

    /// The most entries wanted.
    #[must_use]
    pub fn max_entries(&self) -> Option<usize> {
        self.limit
    }
}

/// What a range held, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The entries, by key.
    pub entries: Vec<Entry>,
    /// The revision the store was at. A watch after it sees everything that isn't in this page yet.
    pub revision: Revision,
    /// Whether the limit cut something off.
    pub more: bool,
}
