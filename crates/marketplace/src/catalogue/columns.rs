//! The columns of listings, in a form that is compared and searched quickly.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::record::Record;

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

    /// Its place among those with few values.
    fn interned(self) -> Option<usize> {
        INTERNED.iter().position(|column| *column == self)
    }

    fn prefixed(self) -> Option<usize> {
        PREFIXED.iter().position(|column| *column == self)
    }
}

/// Columns in which few values occur often: a search looks at each value once.
const INTERNED: [Column; 5] = [
    Column::Os,
    Column::OsVersion,
    Column::Arch,
    Column::Email,
    Column::Kind,
];

/// Columns in which nearly every value is another: their beginnings are at hand for comparisons.
const PREFIXED: [Column; 4] = [
    Column::Identifier,
    Column::Location,
    Column::Description,
    Column::Title,
];

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
    /// Which value of [`INTERNED`] columns.
    values: [u32; INTERNED.len()],
    /// First bytes of the [`PREFIXED`] ones.
    prefixes: [u64; PREFIXED.len()],
}

impl Facts {
    pub(super) fn of(record: &Record, interned: &mut Interned) -> Self {
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
            values: INTERNED.map(|column| interned.number(column, record)),
            prefixes: PREFIXED.map(|column| prefix(&lower(column, record))),
        }
    }

    /// Which value it has in a column with few.
    pub(super) fn value(&self, column: Column) -> Option<u32> {
        self.values.get(column.interned()?).copied()
    }
}

fn lower(column: Column, record: &Record) -> String {
    column.text(record).unwrap_or_default().to_lowercase()
}

/// The first eight bytes as a number that sorts as they do.
fn prefix(text: &str) -> u64 {
    let mut first = [0; 8];
    for (to, from) in first.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    u64::from_be_bytes(first)
}

/// The values of columns with few.
#[derive(Debug, Default)]
pub(super) struct Interned([Values; INTERNED.len()]);

#[derive(Debug, Default)]
struct Values {
    numbers: HashMap<String, u32>,
    /// In lower case.
    texts: Vec<String>,
}

impl Interned {
    fn number(&mut self, column: Column, record: &Record) -> u32 {
        let text = lower(column, record);
        let Some(values) = column.interned().and_then(|place| self.0.get_mut(place)) else {
            return 0;
        };
        if let Some(number) = values.numbers.get(&text) {
            return *number;
        }
        let number = u32::try_from(values.texts.len()).unwrap_or(u32::MAX);
        values.texts.push(text.clone());
        values.numbers.insert(text, number);
        number
    }

    fn texts(&self, column: Column) -> &[String] {
        column
            .interned()
            .and_then(|place| self.0.get(place))
            .map_or(&[], |values| &values.texts)
    }

    /// Of each value of a column, by its number: whether it is wanted. `None` for columns with many values.
    pub(super) fn wanted(
        &self,
        column: Column,
        wanted: impl Fn(&str) -> bool,
    ) -> Option<Vec<bool>> {
        column.interned()?;
        Some(self.texts(column).iter().map(|text| wanted(text)).collect())
    }

    pub(super) fn values(&self, column: Column, most: usize) -> Vec<String> {
        let mut all: Vec<_> = self
            .texts(column)
            .iter()
            .filter(|text| !text.is_empty())
            .cloned()
            .collect();
        all.sort_unstable();
        all.truncate(most);
        all
    }

    fn ranks(&self, column: Column) -> Vec<u32> {
        let texts = self.texts(column);
        let mut sorted: Vec<_> = (0..texts.len()).collect();
        sorted.sort_unstable_by_key(|number| texts.get(*number));
        let mut ranks = vec![0; texts.len()];
        for (rank, number) in sorted.into_iter().enumerate() {
            if let Some(place) = ranks.get_mut(number) {
                *place = u32::try_from(rank).unwrap_or(u32::MAX);
            }
        }
        ranks
    }
}

/// Compares records by one column.
pub(super) struct Comparison {
    column: Column,
    /// By number of the value, where there are few.
    ranks: Vec<u32>,
}

impl Comparison {
    pub(super) fn by(column: Column, interned: &Interned) -> Self {
        Self {
            column,
            ranks: interned.ranks(column),
        }
    }

    /// Compares; `records` are asked only when that can't be avoided.
    pub(super) fn compare<'r>(
        &self,
        facts: (&Facts, &Facts),
        records: impl Fn() -> (Option<&'r Record>, Option<&'r Record>),
    ) -> Ordering {
        let (a, b) = facts;
        if let Some(place) = self.column.prefixed() {
            return a
                .prefixes
                .get(place)
                .cmp(&b.prefixes.get(place))
                .then_with(|| {
                    let (a, b) = records();
                    let text = |record: Option<&Record>| record.map(|it| lower(self.column, it));
                    text(a).cmp(&text(b))
                });
        }
        if self.column == Column::Created {
            return a.created.cmp(&b.created);
        }
        let rank = |facts: &Facts| {
            let value = facts.value(self.column)?;
            self.ranks.get(usize::try_from(value).ok()?)
        };
        rank(a).cmp(&rank(b))
    }
}
