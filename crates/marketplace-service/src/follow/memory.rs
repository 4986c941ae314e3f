//! What a follower remembers between passes, while it runs; all of it can be lost.

use std::collections::{HashMap, HashSet, VecDeque};

use marketplace::catalogue::Name;
use ring::digest::{SHA256, digest};

/// Names remembered of each kind. Of more, some are asked for again.
const AT_MOST: usize = 10_000;
/// How often an entry may have no document before it is refused; its first pass asks twice, each other one once.
const TRIES: u8 = 6;

/// Entries that aren't here, and why they needn't be asked for, or need.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Those that can't be taken, by what was answered; `None` if that was no document.
    refused: HashMap<Name, Option<Vec<u8>>>,
    /// Those that could not be fetched, the one to be tried next in front.
    owed: VecDeque<Name>,
    owed_names: HashSet<Name>,
    /// How often there was no document.
    tries: HashMap<Name, u8>,
    /// Whether a pass was cut off, or an owed name didn't find place: what is missing may be anywhere.
    pub(super) has_gaps: bool,
}

impl Memory {
    pub(super) fn is_refused(&self, name: &Name) -> bool {
        self.refused.contains_key(name)
    }

    /// Whether these very bytes were refused under this name.
    pub(super) fn was_refused(&self, name: &Name, document: &[u8]) -> bool {
        let there = self.refused.get(name);
        there.is_some_and(|there| there.as_deref() == Some(&*hash(document)))
    }

    pub(super) fn refuse(&mut self, name: Name, document: Option<&[u8]>) {
        if self.refused.len() >= AT_MOST && !self.refused.contains_key(&name) {
            self.refused.clear();
        }
        self.tries.remove(&name);
        self.refused.insert(name, document.map(hash));
    }

    pub(super) fn forgive(&mut self, name: &Name) {
        self.refused.remove(name);
        self.tries.remove(name);
    }

    /// Whether an entry for which there is no document may still get one; counts.
    pub(super) fn may_come(&mut self, name: &Name) -> bool {
        if self.tries.len() >= AT_MOST && !self.tries.contains_key(name) {
            self.tries.clear();
        }
        let tries = self.tries.entry(name.clone()).or_default();
        *tries += 1;
        *tries < TRIES
    }

    pub(super) fn is_owed(&self, name: &Name) -> bool {
        self.owed_names.contains(name)
    }

    /// Is tried again at the end of each pass.
    pub(super) fn owe(&mut self, name: Name) {
        if self.owed.len() >= AT_MOST {
            self.has_gaps = true;
        } else if self.owed_names.insert(name.clone()) {
            self.owed.push_back(name);
        }
    }

    pub(super) fn owed(&self) -> usize {
        self.owed.len()
    }

    pub(super) fn next_owed(&mut self) -> Option<Name> {
        let name = self.owed.pop_front()?;
        self.owed_names.remove(&name);
        Some(name)
    }
}

fn hash(document: &[u8]) -> Vec<u8> {
    digest(&SHA256, document).as_ref().to_vec()
}
