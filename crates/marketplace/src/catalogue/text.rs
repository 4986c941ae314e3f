//! All columns of all records as one text, in which words are found at the speed of memory.

use memchr::memmem::Finder;

use super::columns::Column;
use super::record::Record;

/// The columns of records in lower case, one after the other.
#[derive(Debug, Default)]
pub(super) struct Text {
    all: Vec<u8>,
    /// Where each record ends.
    ends: Vec<usize>,
}

impl Text {
    pub(super) fn push(&mut self, record: &Record) {
        for column in Column::ALL {
            match column {
                // All of them, though listings show one.
                Column::Location => {
                    for location in &record.locations {
                        self.field(location);
                    }
                }
                _ => self.field(&column.text(record).unwrap_or_default()),
            }
        }
        self.ends.push(self.all.len());
    }

    fn field(&mut self, text: &str) {
        self.all.extend_from_slice(text.to_lowercase().as_bytes());
        // No word has it, so that none is found across fields.
        self.all.push(b'\n');
    }

    /// The text of one record.
    pub(super) fn of(&self, position: usize) -> &[u8] {
        let end = self.ends.get(position).copied().unwrap_or_default();
        let start = position
            .checked_sub(1)
            .and_then(|before| self.ends.get(before).copied())
            .unwrap_or_default();
        self.all.get(start..end).unwrap_or_default()
    }

    /// Calls `hit` for each record that has the word, in order.
    pub(super) fn find(&self, word: &Finder<'_>, mut hit: impl FnMut(usize)) {
        let (mut from, mut position) = (0, 0);
        while let Some(found) = self.all.get(from..).and_then(|rest| word.find(rest)) {
            let at = from + found;
            while self.ends.get(position).is_some_and(|end| *end <= at) {
                position += 1;
            }
            let Some(end) = self.ends.get(position) else {
                return;
            };
            hit(position);
            from = *end;
        }
    }
}
