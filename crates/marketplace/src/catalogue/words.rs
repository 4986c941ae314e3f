//! The words of all columns, with the records that have them.
//!
//! What is searched for is a part of words. Most of what records say they say in the same words: these are kept once, with the records that
//! have them, and are few. The others are kept as the own text of the record they came with, which is read from one record to the next as
//! soon as the part was found in it. So a part that all records have costs no more than one that none has.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;

use memchr::memmem::Finder;

use super::Number;
use super::columns::Column;
use super::long::Pieces;
use super::record::Record;

/// With fewer records left than this part of all, their own texts are read one by one rather than all of them.
const READ: usize = 3;

/// All words, in lower case.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// Of each record, by its number: its words that no record before it has, with blanks between them.
    own: Pieces,
    /// Of each record: which letters of ASCII are in its words, one bit each.
    letters: Vec<u128>,
    hasher: RandomState,
    /// From what stands for a word to the word; another word that the same stands for is not in it, and own to each record that has it.
    known: HashMap<u64, Word>,
    /// Words of several records.
    shared: Pieces,
    /// The records of each of them, rising.
    records: Vec<Vec<Number>>,
}

#[derive(Debug, Clone, Copy)]
struct Word {
    /// The record it came with.
    first: Number,
    /// Where it begins in the own text of that record.
    at: u32,
    /// Its place among those of several records.
    shared: Option<u32>,
}

impl Words {
    /// Takes a record in, whose number is that of all before.
    pub(super) fn push(&mut self, number: Number, record: &Record) {
        let mut own = String::new();
        self.letters.push(0);
        for column in Column::ALL {
            match column {
                // All of them, though listings show one.
                Column::Location => {
                    for location in &record.locations {
                        self.text(number, &location.to_lowercase(), &mut own);
                    }
                }
                _ => self.text(number, &column.lower(record), &mut own),
            }
        }
        self.own.push(&own);
    }

    fn text(&mut self, number: Number, text: &str, own: &mut String) {
        for word in text.split_whitespace() {
            if let Some(letters) = self.letters.last_mut() {
                let ascii = word.bytes().filter(u8::is_ascii);
                *letters = ascii.fold(*letters, |letters, byte| letters | (1 << byte));
            }
            let hash = self.hasher.hash_one(word);
            let Some(known) = self.known.get_mut(&hash) else {
                if let Ok(at) = u32::try_from(own.len()) {
                    let shared = None;
                    let first = number;
                    self.known.insert(hash, Word { first, at, shared });
                }
                add(own, word);
                continue;
            };
            let text = if known.first == number {
                own.as_bytes()
            } else {
                self.own.of(index(known.first))
            };
            let is_it = text
                .get(index(known.at)..)
                .and_then(|rest| rest.strip_prefix(word.as_bytes()))
                .is_some_and(|rest| rest.first().is_none_or(|next| *next == b' '));
            if !is_it {
                add(own, word);
            } else if let Some(records) = known
                .shared
                .and_then(|place| self.records.get_mut(index(place)))
            {
                if records.last() != Some(&number) {
                    records.push(number);
                }
            } else if known.first != number {
                known.shared = u32::try_from(self.records.len()).ok();
                self.shared.push(word);
                self.records.push(vec![known.first, number]);
            }
        }
    }

    /// Leaves of `numbers`, which rise, those of records that have for each of these parts a word with it; no part has a blank in it.
    ///
    /// As soon as fewer than `few` are left the parts that weren't looked for yet are returned: with few records it is quicker to read these.
    pub(super) fn keep<'p>(
        &self,
        numbers: &mut Vec<Number>,
        parts: &'p [Finder<'p>],
        few: usize,
    ) -> &'p [Finder<'p>] {
        if parts.is_empty() {
            return parts;
        }
        // Of each record: how many of the parts it has, as long as it had all before, and one more; 0: it isn't wanted.
        let mut states = vec![0_u8; self.letters.len()];
        for number in &*numbers {
            if let Some(state) = states.get_mut(index(*number)) {
                *state = 1;
            }
        }
        let mut left = numbers.len();
        let mut turn = 1;
        let mut rest = parts;
        while let Some((part, others)) = rest.split_first()
            && left >= few
        {
            left = self.look(part, turn, left, &mut states);
            turn += 1;
            rest = others;
        }
        numbers.retain(|number| states.get(index(*number)) == Some(&turn));
        rest
    }

    /// Raises the state of each record that has the part from `turn`, which `wanted` of them have; returns of how many.
    fn look(&self, part: &Finder<'_>, turn: u8, wanted: usize, states: &mut [u8]) -> usize {
        if let [letter] = part.needle()
            && letter.is_ascii()
        {
            let letters = states.iter_mut().zip(&self.letters);
            return letters
                .filter(|(state, letters)| **state == turn && (**letters >> letter) & 1 == 1)
                .map(|(state, _)| *state += 1)
                .count();
        }
        let mut left = wanted;
        let mut mark = |state: Option<&mut u8>| {
            if let Some(state) = state
                && *state == turn
            {
                *state += 1;
                left -= 1;
            }
            if left == 0 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let shared = self.shared.find(part, |place| {
            let mut records = self.records.get(place).into_iter().flatten();
            records.try_for_each(|number| mark(states.get_mut(index(*number))))
        });
        if shared.is_continue() {
            if left < states.len() / READ {
                for (place, state) in states.iter_mut().enumerate() {
                    if *state == turn && part.find(self.own.of(place)).is_some() {
                        *state += 1;
                        left -= 1;
                    }
                }
            } else {
                // What ends it early is that nothing is left to be found.
                let _ = self.own.find(part, |place| {
                    let state = states.get_mut(place);
                    if let Some(state) = state
                        && *state == turn
                    {
                        *state += 1;
                        left -= 1;
                    }
                    ControlFlow::Continue(())
                });
            }
        }
        wanted - left
    }
}

fn add(own: &mut String, word: &str) {
    own.push_str(word);
    own.push(' ');
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
