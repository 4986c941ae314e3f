//! What a transaction of the store is to those who watch: what became of documents, and who saw and sees them.

use std::collections::HashMap;

use super::sight::{Changed, Sight};
use super::{Peer, Rules};
use crate::{Batch, Change, Entry, Key};

/// A transaction, and who saw and sees what it changed.
pub(super) struct Told {
    pub(super) revision: u64,
    pub(super) changes: Vec<(News, Changed)>,
    /// Of its documents.
    pub(super) bytes: usize,
}

/// What became of a document.
pub(super) enum News {
    /// It was written or removed.
    Written(Change),
    /// Another one that refers to it was: it came into somebody's sight, as it was read then, or left it.
    Sight { key: Key, now: Option<Entry> },
}

impl News {
    pub(super) fn key(&self) -> &Key {
        match self {
            Self::Written(change) => change.key(),
            Self::Sight { key, .. } => key,
        }
    }

    /// What a peer is told of it: what is there for it now, or that nothing is. None: it is told nothing.
    pub(super) fn told_to(&self, peer: &Peer, who: &Changed) -> Option<Option<&Entry>> {
        let saw = peer.is_in(who.was.as_ref());
        let sees = peer.is_in(who.is.as_ref());
        if !(saw || sees) {
            return None;
        }
        match self {
            Self::Written(change) => Some(put(change).filter(|_| sees)),
            Self::Sight { .. } if saw == sees => None,
            Self::Sight { now: None, .. } if sees => None,
            Self::Sight { now, .. } => Some(now.as_ref().filter(|_| sees)),
        }
    }
}

impl Told {
    /// Takes a batch into what is known of who sees what. `gained` are the documents that it brings into sight.
    pub(super) fn of(
        batch: Batch,
        sight: &mut Sight,
        rules: &dyn Rules,
        mut gained: HashMap<Key, Entry>,
    ) -> Self {
        let mut changed: HashMap<Key, Changed> = HashMap::new();
        let documents = batch.changes.iter().map(|one| (one.key(), put(one)));
        sight.change(rules, documents, |key, who| {
            changed.insert(key.clone(), who);
        });
        let mut told = Self {
            revision: batch.revision.0,
            changes: Vec::with_capacity(changed.len()),
            bytes: 0,
        };
        for change in batch.changes {
            if let Some(who) = changed.remove(change.key()) {
                told.bytes += put(&change).map_or(0, |entry| entry.value.len());
                told.changes.push((News::Written(change), who));
            }
        }
        for (key, who) in changed {
            let now = gained.remove(&key);
            told.bytes += now.as_ref().map_or(0, |entry| entry.value.len());
            told.changes.push((News::Sight { key, now }, who));
        }
        told
    }

    /// Whether there may be something in it to tell a peer.
    pub(super) fn concerns(&self, peer: &Peer) -> bool {
        let is_seen = |who: &Changed| peer.is_in(who.was.as_ref()) || peer.is_in(who.is.as_ref());
        self.changes.iter().any(|(_, who)| is_seen(who))
    }
}

/// What is written, if something is.
pub(super) fn put(change: &Change) -> Option<&Entry> {
    match change {
        Change::Put(entry) => Some(entry),
        Change::Delete { .. } => None,
    }
}
