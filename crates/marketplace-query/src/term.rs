//! What variables are bound to.

use std::borrow::Cow;
use std::cmp::Ordering;

use crate::data::{Node, Snapshot};

/// A value written in a query.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Constant {
    Iri(String),
    Text(String),
    Integer(i64),
    Decimal(f64),
    Boolean(bool),
}

/// A value; `'c` is the life of what is asked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Term<'c> {
    Iri(Cow<'c, str>),
    /// An entry, whose name is an IRI, or a part of it, which has none.
    Node(Node),
    Text(Cow<'c, str>),
    Integer(i64),
    Decimal(f64),
    Boolean(bool),
}

impl<'c> Term<'c> {
    pub(crate) fn of(constant: &'c Constant) -> Self {
        match constant {
            Constant::Iri(iri) => Self::Iri(iri.into()),
            Constant::Text(text) => Self::Text(text.into()),
            Constant::Integer(number) => Self::Integer(*number),
            Constant::Decimal(number) => Self::Decimal(*number),
            Constant::Boolean(value) => Self::Boolean(*value),
        }
    }

    pub(crate) fn text(text: impl Into<Cow<'c, str>>) -> Self {
        Self::Text(text.into())
    }

    pub(crate) fn is_iri(&self) -> bool {
        matches!(self, Self::Iri(_)) || matches!(self, Self::Node(node) if node.is_named())
    }

    pub(crate) fn is_blank(&self) -> bool {
        matches!(self, Self::Node(node) if !node.is_named())
    }

    fn number(&self) -> Option<f64> {
        match self {
            #[allow(
                clippy::cast_precision_loss,
                reason = "sizes and counts are below 2^53"
            )]
            Self::Integer(number) => Some(*number as f64),
            Self::Decimal(number) => Some(*number),
            _ => None,
        }
    }

    /// As `str()` says it; nothing for what has no name.
    pub(crate) fn shown(&self, data: &'c Snapshot) -> Option<Cow<'c, str>> {
        Some(match self {
            Self::Iri(text) | Self::Text(text) => text.clone(),
            Self::Node(node) => Cow::Owned(data.iri(*node)?),
            Self::Integer(number) => Cow::Owned(number.to_string()),
            Self::Decimal(number) => Cow::Owned(number.to_string()),
            Self::Boolean(value) => Cow::Borrowed(if *value { "true" } else { "false" }),
        })
    }

    /// Whether they are one; `None` if that can't be said of literals of two kinds.
    pub(crate) fn equals(&self, other: &Self, data: &'c Snapshot) -> Option<bool> {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) | (Self::Iri(a), Self::Iri(b)) => Some(a == b),
            (Self::Node(a), Self::Node(b)) => Some(a == b),
            (Self::Node(node), Self::Iri(iri)) | (Self::Iri(iri), Self::Node(node)) => {
                Some(data.iri(*node).is_some_and(|name| name == *iri))
            }
            (Self::Iri(_) | Self::Node(_), _) | (_, Self::Iri(_) | Self::Node(_)) => Some(false),
            _ => self.compare(other).map(Ordering::is_eq),
        }
    }

    /// Which is less; `None` if that can't be said.
    pub(crate) fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => Some(a.cmp(b)),
            (Self::Boolean(a), Self::Boolean(b)) => Some(a.cmp(b)),
            (Self::Integer(a), Self::Integer(b)) => Some(a.cmp(b)),
            _ => self.number()?.partial_cmp(&other.number()?),
        }
    }

    /// An order of all values, for `ORDER BY`: what has no name, names, numbers, truth, text.
    pub(crate) fn order(&self, other: &Self, data: &'c Snapshot) -> Ordering {
        let rank = |term: &Self| match term {
            Self::Node(node) if !node.is_named() => 0,
            Self::Iri(_) | Self::Node(_) => 1,
            Self::Integer(_) | Self::Decimal(_) => 2,
            Self::Boolean(_) => 3,
            Self::Text(_) => 4,
        };
        rank(self)
            .cmp(&rank(other))
            .then_with(|| match (self, other) {
                (Self::Text(a), Self::Text(b)) => a.cmp(b),
                (Self::Node(a), Self::Node(b)) if rank(self) == 0 => a.cmp(b),
                _ => self
                    .compare(other)
                    .unwrap_or_else(|| self.shown(data).cmp(&other.shown(data))),
            })
    }

    /// The same for the same values only.
    pub(crate) fn key(&self, data: &'c Snapshot) -> (u8, String) {
        match self {
            Self::Node(node) if !node.is_named() => (0, format!("{node:?}")),
            Self::Iri(_) | Self::Node(_) => (1, self.shown(data).unwrap_or_default().into_owned()),
            Self::Integer(_) | Self::Decimal(_) => {
                (2, self.shown(data).unwrap_or_default().into_owned())
            }
            Self::Boolean(_) => (3, self.shown(data).unwrap_or_default().into_owned()),
            Self::Text(text) => (4, text.clone().into_owned()),
        }
    }
}
