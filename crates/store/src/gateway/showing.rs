//! What a gateway shows peers by name, for simulations (feature `testing`): by what it goes itself, without its language, and at once.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::sight::Sight;
use super::told::Told;
use super::{Peer, Rules};
use crate::{Batch, Change, Entry, Key, Page, Prefix, Revision, WatchError};

/// See the module.
pub struct Showing {
    rules: Arc<dyn Rules>,
    sight: Sight,
    told: VecDeque<Told>,
    /// Watches begin with what happened then at the earliest.
    oldest: Revision,
    at: Revision,
}

impl Showing {
    /// Of all documents, as they are now.
    #[must_use]
    pub fn of(rules: Arc<dyn Rules>, all: &Page) -> Self {
        Self {
            sight: Sight::of(&*rules, &all.entries),
            rules,
            told: VecDeque::new(),
            oldest: all.revision.next(),
            at: all.revision,
        }
    }

    /// Up to when it knows what happened.
    #[must_use]
    pub const fn at(&self) -> Revision {
        self.at
    }

    /// Takes in what happened next, with what that brings into somebody's sight, which is read.
    ///
    /// # Errors
    /// Of reading.
    pub fn take<E>(
        &mut self,
        batch: Batch,
        read: impl Fn(&Key) -> Result<Option<Entry>, E>,
    ) -> Result<(), E> {
        let written = batch.changes.iter().filter_map(super::told::put);
        let mut gained = HashMap::new();
        for key in self.sight.gained(&*self.rules, written) {
            if let Some(entry) = read(&key)? {
                gained.insert(key, entry);
            }
        }
        self.at = batch.revision;
        let told = Told::of(batch, &mut self.sight, &*self.rules, gained);
        self.told.push_back(told);
        Ok(())
    }

    /// Forgets what happened before.
    pub fn forget(&mut self, before: Revision) {
        self.oldest = self.oldest.max(before);
        while self
            .told
            .front()
            .is_some_and(|told| told.revision < before.0)
        {
            self.told.pop_front();
        }
    }

    /// Whether a peer by name sees what is there.
    #[must_use]
    pub fn sees(&self, name: &str, entry: &Entry) -> bool {
        Peer::named(name).is_among(&self.rules.audience(&entry.key, &entry.value))
            || self.sight.is_referred(&entry.key, name)
    }

    /// The first of what happened after a revision of which a peer by name is told something, and how far was looked.
    ///
    /// # Errors
    /// [`WatchError::Compacted`]
    pub fn after(
        &self,
        position: Revision,
        name: &str,
        prefix: &Prefix,
    ) -> Result<(Option<Batch>, Revision), WatchError> {
        if position.next() < self.oldest && position < self.at {
            return Err(WatchError::Compacted {
                oldest: self.oldest,
            });
        }
        let peer = Peer::named(name);
        let begin = self
            .told
            .partition_point(|told| told.revision <= position.0);
        for told in self.told.range(begin..) {
            let revision = Revision(told.revision);
            let changes = told.changes.iter().filter_map(|(news, who)| {
                let now = news.told_to(&peer, who)?;
                let key = news.key();
                prefix.matches(key).then(|| match now {
                    Some(entry) => Change::Put(Entry {
                        revision,
                        ..entry.clone()
                    }),
                    None => Change::Delete { key: key.clone() },
                })
            });
            let mut changes: Vec<_> = changes.collect();
            if !changes.is_empty() {
                // What comes into sight, or leaves it, is in no order of its own.
                changes.sort_by(|one, other| one.key().cmp(other.key()));
                return Ok((Some(Batch { revision, changes }), revision));
            }
        }
        Ok((None, self.at))
    }
}
