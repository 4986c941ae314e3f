//! What can be asked of a catalogue.

use super::columns::Column;
use crate::date::UtcTime;
use crate::identifier::ImageIdentifier;

/// Which entries, by what their endorsers say of their end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Status {
    /// Not deprecated, and not past their end.
    #[default]
    Valid,
    /// Not deprecated, past their end.
    Expired,
    /// Deprecated.
    Deprecated,
    /// All.
    Any,
}

impl Status {
    /// As Marketplaces are asked: another word than the three means all.
    #[must_use]
    pub fn of(word: &str) -> Self {
        match word {
            "" | "valid" => Self::Valid,
            "expired" => Self::Expired,
            "deprecated" => Self::Deprecated,
            _ => Self::Any,
        }
    }
}

/// Which entries, by where their images are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Place {
    /// All.
    #[default]
    All,
    /// With a location that anybody can read (`http`, `https`, `ftp`), or none.
    Web,
    /// On a storage service (`pdisk:…`).
    Pdisk,
}

impl Place {
    /// As Marketplaces are asked; `None` if the word means nothing.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        match word {
            "" | "all" => Some(Self::All),
            "web" => Some(Self::Web),
            "pdisk" => Some(Self::Pdisk),
            _ => None,
        }
    }
}

/// From one moment on, up to another; each end belongs to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    /// Not before.
    pub from: Option<UtcTime>,
    /// Not after.
    pub to: Option<UtcTime>,
}

/// Which entries are wanted. All conditions must hold; the default is every valid entry that is the newest of its image and endorser.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Of this image.
    pub identifier: Option<ImageIdentifier>,
    /// By this endorser.
    pub email: Option<String>,
    /// Endorsed at exactly this moment. Then those that are history count, too.
    pub created: Option<UtcTime>,
    /// Endorsed in this time.
    pub endorsed: Span,
    /// With this tag.
    pub tag: Option<String>,
    /// By their end.
    pub status: Status,
    /// By where their images are.
    pub place: Place,
    /// Each of these words is part of some column, whatever its case.
    pub words: Vec<String>,
    /// Each of these words is part of this column, whatever its case.
    pub within: Vec<(Column, String)>,
    /// This column is exactly this text, whatever its case.
    pub equal: Vec<(Column, String)>,
}

/// Texts of a query that are looked for, at most: words, and conditions on columns in which nearly every entry has another text.
pub const TEXTS_AT_MOST: usize = 8;
/// Conditions of a query on columns in which few values occur often, at most.
pub const CHOICES_AT_MOST: usize = 8;

/// A query asks for more at once than is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    /// Too many texts.
    #[error("{0} words are searched for, and at most {TEXTS_AT_MOST} can be; leave some out")]
    Texts(usize),
    /// Too many conditions.
    #[error(
        "there are {0} conditions on operating system, version, architecture, endorser and kind, and at most {CHOICES_AT_MOST} can be; leave some out"
    )]
    Choices(usize),
}

/// How pages are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// By this column.
    pub column: Column,
    /// From the greatest to the least.
    pub descending: bool,
}

impl Default for Order {
    /// What was endorsed last, first.
    fn default() -> Self {
        Self {
            column: Column::Created,
            descending: true,
        }
    }
}
