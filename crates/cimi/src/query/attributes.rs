//! What a filter or an order can ask a document, without building its JSON.

use std::borrow::Cow;

use crate::Timestamp;

/// One value of a document, as filters compare it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scalar<'a> {
    /// `true` or `false`.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// A text, an enumeration's value, or the `href` of a reference.
    Text(Cow<'a, str>),
    /// A point in time.
    Time(Timestamp),
}

impl Scalar<'_> {
    /// The same, of its own.
    #[must_use]
    pub fn into_owned(self) -> Scalar<'static> {
        match self {
            Self::Boolean(value) => Scalar::Boolean(value),
            Self::Integer(value) => Scalar::Integer(value),
            Self::Text(text) => Scalar::Text(Cow::Owned(text.into_owned())),
            Self::Time(time) => Scalar::Time(time),
        }
    }

    /// The same, without a copy.
    #[must_use]
    pub fn borrowed(&self) -> Scalar<'_> {
        match self {
            Self::Boolean(value) => Scalar::Boolean(*value),
            Self::Integer(value) => Scalar::Integer(*value),
            Self::Text(text) => Scalar::Text(Cow::Borrowed(text)),
            Self::Time(time) => Scalar::Time(*time),
        }
    }
}

impl<'a> From<&'a str> for Scalar<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Scalar<'_> {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl From<bool> for Scalar<'_> {
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}

impl From<i64> for Scalar<'_> {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<u32> for Scalar<'_> {
    fn from(value: u32) -> Self {
        Self::Integer(value.into())
    }
}

impl From<u64> for Scalar<'_> {
    fn from(value: u64) -> Self {
        Self::Integer(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<Timestamp> for Scalar<'_> {
    fn from(time: Timestamp) -> Self {
        Self::Time(time)
    }
}

/// A document as filters and orders see it: by the public names of its attributes.
pub trait Attributes {
    /// The value of a public attribute; `None` if it is absent, unknown, or not a single value.
    fn attribute(&self, name: &str) -> Option<Scalar<'_>>;

    /// The values of a public attribute that has several; empty for all others.
    fn several(&self, name: &str) -> Vec<Scalar<'_>> {
        let _ = name;
        Vec::new()
    }

    /// The value of one of the user's own properties.
    fn property(&self, key: &str) -> Option<&str>;
}
