//! Names of documents: `<collection>/<id>`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// Longest key, in bytes. etcd takes any length; a bound keeps rows and messages sane.
const MAX_KEY_BYTES: usize = 512;
/// Longest collection name, in bytes.
const MAX_COLLECTION_BYTES: usize = 64;

/// The name of a document: `<collection>/<id>`, such as `Machine/0198c2…`.
///
/// The collection is letters, digits, `-`, `_` and `.`; the id is printable ASCII without spaces and may hold
/// `/` itself, but no empty part. Keys sort by bytes, so that ids of one collection are neighbours and UUIDv7
/// ids sort by time. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    text: Arc<str>,
    /// Where the first slash is: always inside `text` and at most [`MAX_COLLECTION_BYTES`].
    slash: usize,
}

/// Why a text is no [`Key`] or [`Prefix`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// There is no `/` after the collection.
    #[error("key {0:?} has no collection: write <collection>/<id>")]
    NoCollection(String),
    /// The collection is empty, too long or holds other characters than letters, digits, `-`, `_`, `.`.
    #[error("collection of key {0:?} is not 1 to 64 letters, digits, '-', '_' or '.'")]
    Collection(String),
    /// The id is empty or holds an empty part or a character that is not printable ASCII.
    #[error(
        "id of key {0:?} must be printable ASCII without spaces and without empty parts between '/'"
    )]
    Id(String),
    /// The key is too long. Holds its length in bytes.
    #[error("key of {0} bytes is too long: at most 512")]
    TooLong(usize),
}

impl Key {
    /// The key of document `id` in `collection`.
    pub fn new(collection: &str, id: &str) -> Result<Self, KeyError> {
        Self::parse(Arc::from(format!("{collection}/{id}")), collection.len())
    }

    /// Parse checks everything; `slash` is where the collection ends.
    fn parse(text: Arc<str>, slash: usize) -> Result<Self, KeyError> {
        if text.len() > MAX_KEY_BYTES {
            return Err(KeyError::TooLong(text.len()));
        }
        let (collection, rest) = text.split_at(slash);
        let Some(id) = rest.strip_prefix('/') else {
            return Err(KeyError::NoCollection(text.to_string()));
        };
        let named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if collection.is_empty()
            || collection.len() > MAX_COLLECTION_BYTES
            || !collection.bytes().all(named)
        {
            return Err(KeyError::Collection(text.to_string()));
        }
        if !id.bytes().all(|byte| byte.is_ascii_graphic()) || id.split('/').any(str::is_empty) {
            return Err(KeyError::Id(text.to_string()));
        }
        Ok(Self { text, slash })
    }

    /// The part before the first `/`.
    #[must_use]
    pub fn collection(&self) -> &str {
        self.text.get(..self.slash).unwrap_or_default()
    }

    /// The part after the first `/`.
    #[must_use]
    pub fn id(&self) -> &str {
        self.text.get(self.slash + 1..).unwrap_or_default()
    }

    /// The whole key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        if text.len() > MAX_KEY_BYTES {
            return Err(KeyError::TooLong(text.len()));
        }
        let slash = text
            .find('/')
            .ok_or_else(|| KeyError::NoCollection(text.to_owned()))?;
        Self::parse(Arc::from(text), slash)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}", self.as_str())
    }
}

/// The beginning of keys: everything, a collection, or part of one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Prefix(Arc<str>);

impl Prefix {
    /// Every key there is.
    #[must_use]
    pub fn everything() -> Self {
        Self(Arc::from(""))
    }

    /// All documents of one collection.
    pub fn collection(collection: &str) -> Result<Self, KeyError> {
        // A key with a stand-in id: the collection is valid if the key is.
        Key::new(collection, "x").map(|key| Self(Arc::from(format!("{}/", key.collection()))))
    }

    /// Keys that begin with `text`, taken literally (`Machine/0198` or `Mach`).
    pub fn new(text: &str) -> Result<Self, KeyError> {
        if text.len() > MAX_KEY_BYTES {
            return Err(KeyError::TooLong(text.len()));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(KeyError::Id(text.to_owned()));
        }
        Ok(Self(Arc::from(text)))
    }

    /// Whether `key` begins with this.
    #[must_use]
    pub fn matches(&self, key: &Key) -> bool {
        key.as_str().starts_with(&*self.0)
    }

    /// The text itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}…", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_split_at_its_first_slash() {
        let key: Key = "user-token/alice/1".parse().expect("a valid key");
        assert_eq!(
            (key.collection(), key.id(), key.as_str()),
            ("user-token", "alice/1", "user-token/alice/1")
        );
        assert_eq!(Key::new("user-token", "alice/1"), Ok(key));
    }

    #[test]
    fn what_is_no_key_is_refused_with_the_reason() {
        let refused = |text: &str| text.parse::<Key>().expect_err("not a key");
        assert!(matches!(refused(""), KeyError::NoCollection(_)));
        assert!(matches!(refused("Machine"), KeyError::NoCollection(_)));
        assert!(matches!(refused("/x"), KeyError::Collection(_)));
        assert!(matches!(refused("Ma chine/x"), KeyError::Collection(_)));
        assert!(matches!(refused("Machine/"), KeyError::Id(_)));
        assert!(matches!(refused("Machine//x"), KeyError::Id(_)));
        assert!(matches!(refused("Machine/x/"), KeyError::Id(_)));
        assert!(matches!(refused("Machine/ä"), KeyError::Id(_)));
        assert!(matches!(refused("Machine/a\nb"), KeyError::Id(_)));
        assert!(matches!(
            refused(&format!("Machine/{}", "x".repeat(600))),
            KeyError::TooLong(608)
        ));
        assert!(matches!(Key::new("a/b", "c"), Err(KeyError::Collection(_))));
        assert!(matches!(
            Prefix::collection("a/b"),
            Err(KeyError::Collection(_))
        ));
        assert!(matches!(Prefix::new("a b"), Err(KeyError::Id(_))));
    }
}
