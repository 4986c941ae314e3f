//! The columns of listings, and what most searches decide by.

use super::record::Record;
use super::values::Has;

/// The columns of listings, in the order of StratusLab's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "they are the fields of a record")]
pub enum Column {
    Os,
    OsVersion,
    Arch,
    Email,
    Kind,
    Created,
    Identifier,
    Location,
    Description,
    Title,
}

impl Column {
    /// All, in the order of StratusLab's tables, where they count from 1.
    pub const ALL: [Self; 10] = [
        Self::Os,
        Self::OsVersion,
        Self::Arch,
        Self::Email,
        Self::Kind,
        Self::Created,
        Self::Identifier,
        Self::Location,
        Self::Description,
        Self::Title,
    ];

    /// By its number in StratusLab's tables.
    #[must_use]
    pub fn numbered(number: usize) -> Option<Self> {
        Self::ALL.get(number.checked_sub(1)?).copied()
    }

    /// Its text in a record; of several locations the first.
    #[must_use]
    pub fn text(self, record: &Record) -> Option<String> {
        match self {
            Self::Created => Some(record.created.to_string()),
            Self::Identifier => Some(record.identifier.to_string()),
            _ => self.borrowed(record).map(str::to_owned),
        }
    }

    fn borrowed(self, record: &Record) -> Option<&str> {
        match self {
            Self::Os => record.os.as_deref(),
            Self::OsVersion => record.os_version.as_deref(),
            Self::Arch => record.os_arch.as_deref(),
            Self::Email => Some(&record.email),
            Self::Kind => record.kind.as_deref(),
            Self::Location => record.locations.first().map(String::as_str),
            Self::Description => record.description.as_deref(),
            Self::Title => record.title.as_deref(),
            Self::Created | Self::Identifier => None,
        }
    }

    /// Its text in lower case; nothing if there is none.
    pub(super) fn lower(self, record: &Record) -> String {
        match self.borrowed(record) {
            Some(text) => text.to_lowercase(),
            None => self.text(record).unwrap_or_default().to_lowercase(),
        }
    }
}

/// What most searches decide by, side by side in memory.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) created: i64,
    /// End of its validity; `None`: it is never listed.
    pub(super) valid: Option<i64>,
    pub(super) is_newest: bool,
    pub(super) is_deprecated: bool,
    pub(super) is_gone: bool,
    pub(super) is_web: bool,
    pub(super) is_pdisk: bool,
    /// Which values it has in columns with few.
    pub(super) has: Has,
}

impl Facts {
    pub(super) fn of(record: &Record, has: Has) -> Self {
        let is_web = |location: &String| {
            ["http:", "https:", "ftp:"]
                .iter()
                .any(|scheme| location.starts_with(scheme))
        };
        Self {
            created: record.created.unix_seconds(),
            valid: record.valid.map(crate::UtcTime::unix_seconds),
            is_newest: false,
            is_deprecated: record.deprecated.is_some(),
            is_gone: false,
            is_web: record.locations.is_empty() || record.locations.iter().any(is_web),
            is_pdisk: record
                .locations
                .iter()
                .any(|location| location.starts_with("pdisk")),
            has,
        }
    }
}
