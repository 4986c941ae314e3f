//! Columns in which nearly every value is another: their text side by side, and the order of the records by it.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use memchr::memmem::Finder;

use super::Number;
use super::columns::Column;
use super::record::Record;
use super::sorted::Sorted;

/// The columns with many values.
const COLUMNS: [Column; 5] = [
    Column::Created,
    Column::Identifier,
    Column::Location,
    Column::Description,
    Column::Title,
];

/// The texts of these columns.
#[derive(Debug, Default)]
pub(super) struct Long([Texts; COLUMNS.len()]);

/// Of one column.
#[derive(Debug, Default)]
pub(super) struct Texts {
    texts: Pieces,
    order: Sorted,
}

impl Long {
    /// Takes a record in, whose number is that of all before.
    pub(super) fn push(&mut self, number: Number, record: &Record) {
        for (column, texts) in COLUMNS.iter().zip(&mut self.0) {
            texts.texts.push(&match column {
                // All of them, though listings show one.
                Column::Location => record.locations.join("\n").to_lowercase(),
                _ => column.lower(record),
            });
            let Texts { texts, order } = texts;
            order.insert(number, |other| texts.compare(other, number));
        }
    }

    /// Takes it out of the order; its text stays.
    pub(super) fn remove(&mut self, number: Number) {
        for Texts { texts, order } in &mut self.0 {
            order.remove(number, |other| texts.compare(other, number));
        }
    }

    /// The texts of a column; `None` if it isn't one with many.
    pub(super) fn of(&self, column: Column) -> Option<&Texts> {
        let place = COLUMNS.iter().position(|long| *long == column)?;
        self.0.get(place)
    }

    /// All such columns.
    pub(super) fn all(&self) -> impl Iterator<Item = &Texts> {
        self.0.iter()
    }
}

impl Texts {
    /// In lower case.
    pub(super) fn text(&self, number: Number) -> &[u8] {
        self.texts.of(usize::try_from(number).unwrap_or(usize::MAX))
    }

    /// Of each record, by its number: whether its text has the word.
    pub(super) fn with(&self, word: &str) -> Vec<bool> {
        let mut with = vec![false; self.texts.ends.len()];
        // It reads to the end.
        let _ = self.texts.find(&Finder::new(word), |found| {
            if let Some(place) = with.get_mut(found) {
                *place = true;
            }
            ControlFlow::Continue(())
        });
        with
    }

    pub(super) fn in_order(&self) -> impl DoubleEndedIterator<Item = Number> {
        self.order.iter()
    }
}

/// Texts one after the other, searched at the speed of memory.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    all: Vec<u8>,
    /// Where each ends, with the byte that parts it from the next.
    ends: Vec<usize>,
}

impl Pieces {
    pub(super) fn push(&mut self, text: &str) {
        self.all.extend_from_slice(text.as_bytes());
        // No word has it, so that none is found across texts.
        self.all.push(b'\n');
        self.ends.push(self.all.len());
    }

    pub(super) fn of(&self, place: usize) -> &[u8] {
        let end = self.ends.get(place).copied().unwrap_or_default();
        let start = place
            .checked_sub(1)
            .and_then(|before| self.ends.get(before).copied())
            .unwrap_or_default();
        self.all
            .get(start..end.saturating_sub(1))
            .unwrap_or_default()
    }

    fn compare(&self, a: Number, b: Number) -> Ordering {
        let of = |number| self.of(usize::try_from(number).unwrap_or(usize::MAX));
        of(a).cmp(of(b)).then(a.cmp(&b))
    }

    /// Calls `hit` for each text that has the word, in order, until it has enough.
    pub(super) fn find(
        &self,
        word: &Finder<'_>,
        mut hit: impl FnMut(usize) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let (mut from, mut place) = (0, 0);
        while let Some(found) = self.all.get(from..).and_then(|rest| word.find(rest)) {
            let at = from + found;
            while self.ends.get(place).is_some_and(|end| *end <= at) {
                place += 1;
            }
            let Some(end) = self.ends.get(place) else {
                break;
            };
            hit(place)?;
            from = *end;
        }
        ControlFlow::Continue(())
    }
}
