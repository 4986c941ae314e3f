//! The words of all columns, each once, with the records that have them.
//!
//! What is searched for is a part of words: the words that have it are found by reading all of them, which are a quarter of all text, and
//! records are found by the words. What many records have is among the words of the first ones, so that it is found at once.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;

use memchr::memmem::Finder;

use super::Number;
use super::columns::Column;
use super::long::Pieces;
use super::record::Record;

/// All words, in lower case. A word may be there twice, though it seldom is.
#[derive(Debug, Default)]
pub(super) struct Words {
    words: Pieces,
    hasher: RandomState,
    /// From what stands for a word to its place; another word that the same stands for is not in it.
    places: HashMap<u64, u32>,
    /// The first record of each word.
    first: Vec<Number>,
    /// The others, rising.
    more: HashMap<u32, Vec<Number>>,
}

impl Words {
    /// Takes a record in, whose number is greater than all before.
    pub(super) fn push(&mut self, number: Number, record: &Record) {
        for column in Column::ALL {
            match column {
                // All of them, though listings show one.
                Column::Location => {
                    for location in &record.locations {
                        self.text(number, &location.to_lowercase());
                    }
                }
                _ => self.text(number, &column.lower(record)),
            }
        }
    }

    fn text(&mut self, number: Number, text: &str) {
        for word in text.split_whitespace() {
            let hash = self.hasher.hash_one(word);
            let known = self.places.get(&hash).copied();
            match known.filter(|place| self.words.of(index(*place)) == word.as_bytes()) {
                Some(place) => {
                    if self.first.get(index(place)) != Some(&number) {
                        let more = self.more.entry(place).or_default();
                        if more.last() != Some(&number) {
                            more.push(number);
                        }
                    }
                }
                None => {
                    let Ok(place) = u32::try_from(self.first.len()) else {
                        return;
                    };
                    self.words.push(word);
                    self.first.push(number);
                    self.places.entry(hash).or_insert(place);
                }
            }
        }
    }

    /// Leaves of `numbers`, which rise, those of records with a word that has `part` in it; there is no blank in it.
    pub(super) fn keep(&self, numbers: &mut Vec<Number>, part: &str, records: usize) {
        const UNKNOWN: u8 = 0;
        const CANDIDATE: u8 = 1;
        const FOUND: u8 = 2;
        let mut states = vec![UNKNOWN; records];
        for number in &*numbers {
            if let Some(state) = states.get_mut(index(*number)) {
                *state = CANDIDATE;
            }
        }
        let mut left = numbers.len();
        let mut mark = |number: &Number| {
            if let Some(state) = states.get_mut(index(*number))
                && *state == CANDIDATE
            {
                *state = FOUND;
                left -= 1;
            }
            if left == 0 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        self.words.find(&Finder::new(part), |place| {
            self.first
                .get(place)
                .map_or(ControlFlow::Continue(()), &mut mark)?;
            let more = u32::try_from(place)
                .ok()
                .and_then(|place| self.more.get(&place));
            more.into_iter().flatten().try_for_each(&mut mark)
        });
        numbers.retain(|number| states.get(index(*number)) == Some(&FOUND));
    }
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
