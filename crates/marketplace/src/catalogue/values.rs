//! Columns in which few values occur often: a search looks at each value once.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Number;
use super::columns::Column;
use super::record::Record;

/// The columns with few values.
const COLUMNS: [Column; 5] = [
    Column::Os,
    Column::OsVersion,
    Column::Arch,
    Column::Email,
    Column::Kind,
];

/// Which value a record has in each of these columns.
pub(super) type Has = [u32; COLUMNS.len()];

/// The values of these columns, in lower case, and who has them.
#[derive(Debug, Default)]
pub(super) struct Values([Few; COLUMNS.len()]);

/// Of one column.
#[derive(Debug, Default)]
pub(super) struct Few {
    /// In order.
    numbers: BTreeMap<Arc<str>, u32>,
    texts: Vec<Arc<str>>,
    /// By the number of the value; rising.
    records: Vec<Vec<Number>>,
}

impl Values {
    /// Takes a record in, whose number is greater than all before.
    pub(super) fn push(&mut self, number: Number, record: &Record) -> Has {
        let mut has = Has::default();
        for ((column, few), value) in COLUMNS.iter().zip(&mut self.0).zip(&mut has) {
            *value = few.value(&column.lower(record));
            if let Some(records) = few.at_mut(*value) {
                records.push(number);
            }
        }
        has
    }

    pub(super) fn remove(&mut self, number: Number, has: &Has) {
        for (few, value) in self.0.iter_mut().zip(has) {
            if let Some(records) = few.at_mut(*value)
                && let Ok(place) = records.binary_search(&number)
            {
                records.remove(place);
            }
        }
    }

    /// The values of a column; `None` if it isn't one with few.
    pub(super) fn of(&self, column: Column) -> Option<&Few> {
        self.0.get(place(column)?)
    }

    /// All such columns.
    pub(super) fn all(&self) -> impl Iterator<Item = &Few> {
        self.0.iter()
    }

    /// The text of a record in such a column.
    pub(super) fn text(&self, column: Column, has: &Has) -> Option<&str> {
        let place = place(column)?;
        self.0.get(place)?.text(*has.get(place)?)
    }
}

/// Which of the values of a record belongs to a column.
pub(super) fn place(column: Column) -> Option<usize> {
    COLUMNS.iter().position(|few| *few == column)
}

impl Few {
    fn value(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = u32::try_from(self.texts.len()).unwrap_or(u32::MAX);
        let text: Arc<str> = text.into();
        self.texts.push(Arc::clone(&text));
        self.records.push(Vec::new());
        self.numbers.insert(text, number);
        number
    }

    fn at_mut(&mut self, value: u32) -> Option<&mut Vec<Number>> {
        self.records.get_mut(usize::try_from(value).ok()?)
    }

    pub(super) fn text(&self, value: u32) -> Option<&str> {
        let text = self.texts.get(usize::try_from(value).ok()?)?;
        Some(text)
    }

    /// The records that have the value.
    pub(super) fn records(&self, value: u32) -> &[Number] {
        let records = usize::try_from(value)
            .ok()
            .and_then(|value| self.records.get(value));
        records.map_or(&[], Vec::as_slice)
    }

    /// Of each value, by its number: whether it is wanted.
    pub(super) fn wanted(&self, wanted: impl Fn(&str) -> bool) -> Vec<bool> {
        self.texts.iter().map(|text| wanted(text)).collect()
    }

    /// All records in the order of their values.
    pub(super) fn in_order(&self) -> impl DoubleEndedIterator<Item = Number> {
        let values = self.numbers.values();
        values.flat_map(|value| self.records(*value).iter().copied())
    }

    /// The first values in order that a record has.
    pub(super) fn first(&self, most: usize) -> Vec<String> {
        let used = self
            .numbers
            .iter()
            .filter(|(text, value)| !text.is_empty() && !self.records(**value).is_empty());
        used.take(most)
            .map(|(text, _)| (**text).to_owned())
            .collect()
    }
}
