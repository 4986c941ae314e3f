//! Where in etcd our keys are.
//!
//! | key | what it is |
//! |---|---|
//! | `/PREFIX/d/<collection>/<id>` | a document |
//! | `/PREFIX/d/!progress` | written when a watch has to be told how far the cluster is; see `watching` |
//! | `/PREFIX/s/<session>/<n>` | who did a transaction last: tells whether one of unknown outcome happened; see `slots` |

use bytes::Bytes;

use super::wire::KeyValue;
use crate::{Entry, Key, LeaseId, Range, Revision, StoreError};

/// No collection is named so, and all sort after it.
const PROGRESS: &str = "!progress";
/// The lowest character that a document's key can begin with.
const LOWEST: &str = "-";

/// The keys of one cloud.
#[derive(Debug, Clone)]
pub(crate) struct Keyspace {
    documents: String,
    sessions: String,
}

impl Keyspace {
    /// # Errors
    /// If the prefix can't be one.
    pub(crate) fn new(prefix: &str) -> Result<Self, StoreError> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let part = |part: &str| !part.is_empty() && part.bytes().all(fits);
        if !prefix.split('/').all(part) {
            return Err(StoreError::Endpoint {
                endpoint: format!("prefix {prefix:?}"),
                reason: "write letters, digits, '-', '_' and '.', with single '/' between"
                    .to_owned(),
            });
        }
        Ok(Self {
            documents: format!("/{prefix}/d/"),
            sessions: format!("/{prefix}/s/"),
        })
    }

    pub(crate) fn key(&self, key: &Key) -> Bytes {
        format!("{}{key}", self.documents).into()
    }

    pub(crate) fn progress(&self) -> Bytes {
        format!("{}{PROGRESS}", self.documents).into()
    }

    pub(crate) fn slot(&self, session: i64, number: u64) -> Bytes {
        format!("{}{session:016x}/{number}", self.sessions).into()
    }

    /// First key, and the first behind the last.
    pub(crate) fn range(&self, range: &Range) -> (Bytes, Bytes) {
        let from = match range.from() {
            "" => LOWEST,
            from => from,
        };
        (
            format!("{}{from}", self.documents).into(),
            self.end(range.to()),
        )
    }

    /// All that a watch for everything sees: documents, and the sign of progress.
    pub(crate) fn everything(&self) -> (Bytes, Bytes) {
        (self.documents.clone().into(), self.end(None))
    }

    fn end(&self, to: Option<&str>) -> Bytes {
        match to {
            Some(to) => format!("{}{to}", self.documents).into(),
            // '0' follows '/'.
            None => format!("{}0", self.documents.trim_end_matches('/')).into(),
        }
    }

    /// Which document a key names; `None` for the sign of progress and what others may have put there.
    pub(crate) fn document(&self, key: &[u8]) -> Option<Key> {
        let text = std::str::from_utf8(key).ok()?;
        text.strip_prefix(&self.documents)?.parse().ok()
    }

    /// What a range of keys that is asked for means to a store: the lowest text inside, and the lowest no more inside.
    pub(crate) fn bounds(&self, from: &[u8], to: &[u8]) -> Option<(String, Option<String>)> {
        let inside = |text: &[u8]| {
            let text = std::str::from_utf8(text).ok()?;
            text.strip_prefix(&self.documents).map(str::to_owned)
        };
        let to = match to == self.end(None) {
            true => None,
            false => Some(inside(to)?),
        };
        Some((inside(from)?, to))
    }

    /// Whose slot a key is, and which: what [`slot`](Self::slot) made.
    pub(crate) fn session(&self, key: &[u8]) -> Option<(i64, u64)> {
        let text = std::str::from_utf8(key).ok()?;
        let (session, number) = text.strip_prefix(&self.sessions)?.split_once('/')?;
        let session = i64::from_str_radix(session, 16).ok()?;
        let number = number.parse().ok()?;
        (self.slot(session, number) == key).then_some((session, number))
    }

    pub(crate) fn entry(&self, found: KeyValue) -> Option<Entry> {
        Some(Entry {
            key: self.document(&found.key)?,
            value: found.value,
            revision: revision(found.mod_revision),
            created: revision(found.create_revision),
            lease: (found.lease != 0).then_some(LeaseId(found.lease.unsigned_abs())),
        })
    }
}

/// etcd's numbers are never negative.
pub(crate) fn revision(number: i64) -> Revision {
    Revision(number.unsigned_abs())
}

/// Ours, as etcd counts.
pub(crate) fn number(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

/// A lease as etcd knows it. What can't be one becomes one that never is.
pub(crate) fn lease_number(lease: LeaseId) -> i64 {
    match i64::try_from(lease.0) {
        Ok(number) if number > 0 => number,
        _ => -1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Prefix;

    #[test]
    fn keys_are_found_again_below_their_prefix() {
        let keys = Keyspace::new("site/cloud-1").expect("a prefix");
        let key: Key = "Machine/7".parse().expect("a key");
        assert_eq!(&*keys.key(&key), b"/site/cloud-1/d/Machine/7");
        assert_eq!(keys.document(&keys.key(&key)), Some(key));
        assert_eq!(keys.document(&keys.progress()), None);
        let (from, to) = keys.range(&Range::prefix(&Prefix::everything()));
        assert!(keys.progress() < from && from < to);
        let (all, _) = keys.everything();
        assert!(all <= keys.progress());
    }

    #[test]
    fn what_was_made_is_understood() {
        let keys = Keyspace::new("cloud").expect("a prefix");
        for range in [
            Range::prefix(&Prefix::everything()),
            Range::prefix(&Prefix::collection("Machine").expect("a collection")),
        ] {
            let (from, to) = keys.range(&range);
            let (from, to) = keys.bounds(&from, &to).expect("bounds");
            assert_eq!(to.as_deref(), range.to());
            assert!(*from <= *"Machine/" || from == range.from());
        }
        let (from, to) = keys.everything();
        assert_eq!(keys.bounds(&from, &to), Some((String::new(), None)));
        assert_eq!(keys.bounds(b"/", b"0"), None);
        let slot = keys.slot(77, 3);
        assert_eq!(keys.session(&slot), Some((77, 3)));
        for other in [
            "/cloud/s/4d/3",
            "/cloud/s/+00000000000004d/3",
            "/cloud/s/000000000000004d/03",
            "/cloud/d/a/b",
        ] {
            assert_eq!(keys.session(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn what_is_no_prefix_is_refused() {
        for prefix in ["", "/", "a//b", "/a", "a/", "a b", "ä"] {
            assert!(Keyspace::new(prefix).is_err(), "{prefix}");
        }
    }
}
