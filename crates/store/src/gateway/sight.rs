//! Who sees which document: by the rules, or because they see one that refers to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::index::Index;
use super::{Audience, Peer, Rules};
use crate::{Entry, Key};

type Name = Arc<str>;

/// See the module. Kept current change by change; nothing in it is looked through for a question.
#[derive(Default)]
pub(super) struct Sight {
    documents: HashMap<Key, Shown>,
    /// How many documents that a peer sees refer to this one, which need not be there.
    referred: HashMap<Key, BTreeMap<Name, usize>>,
    /// Of the documents that are there, who sees them whyever.
    index: Index,
}

/// What the rules say of a document.
struct Shown {
    audience: Audience,
    /// What whoever is named in `audience` sees with it.
    refers: Vec<Key>,
}

impl Shown {
    fn of(rules: &dyn Rules, entry: &Entry) -> Self {
        let audience = rules.audience(&entry.key, &entry.value);
        let refers = match &audience {
            Audience::Peers(_) => rules.refers(&entry.key, &entry.value),
            Audience::Nobody | Audience::Everybody => Vec::new(),
        };
        Self { audience, refers }
    }
}

/// Who saw a document before, and who sees it now; none: it wasn't there, or isn't.
pub(super) struct Changed {
    pub(super) was: Option<Audience>,
    pub(super) is: Option<Audience>,
}

impl Sight {
    /// That of all documents.
    pub(super) fn of(rules: &dyn Rules, entries: &[Entry]) -> Self {
        let mut sight = Self::default();
        sight.change(
            rules,
            entries.iter().map(|entry| (&entry.key, Some(entry))),
            |_, _| (),
        );
        sight
    }

    /// What these documents, when they are written, bring into somebody's sight beside themselves.
    pub(super) fn gained<'a>(
        &self,
        rules: &dyn Rules,
        written: impl Iterator<Item = &'a Entry>,
    ) -> BTreeSet<Key> {
        let mut gained = BTreeSet::new();
        for entry in written {
            let shown = Shown::of(rules, entry);
            for key in shown.refers {
                let unseen = names(&shown.audience).any(|name| !self.is_referred(&key, name));
                if unseen {
                    gained.insert(key);
                }
            }
        }
        gained
    }

    /// Takes in what these documents are now, and tells of each document whose audience that changes, and of each of these.
    pub(super) fn change<'a>(
        &mut self,
        rules: &dyn Rules,
        changes: impl Iterator<Item = (&'a Key, Option<&'a Entry>)>,
        mut tell: impl FnMut(&Key, Changed),
    ) {
        let mut concerned: BTreeSet<Key> = BTreeSet::new();
        for (key, now) in changes {
            concerned.insert(key.clone());
            let now = now.map(|entry| Shown::of(rules, entry));
            for referred in now.iter().flat_map(|shown| &shown.refers) {
                self.count(referred, now.as_ref(), true);
                concerned.insert(referred.clone());
            }
            let before = match now {
                Some(shown) => self.documents.insert(key.clone(), shown),
                None => self.documents.remove(key),
            };
            for referred in before.iter().flat_map(|shown| &shown.refers) {
                self.count(referred, before.as_ref(), false);
                concerned.insert(referred.clone());
            }
        }
        for key in concerned {
            let is = self.audience(&key);
            let was = self.index.set(&key, is.as_ref());
            tell(&key, Changed { was, is });
        }
    }

    /// Who sees a document, if it is there.
    pub(super) fn audience(&self, key: &Key) -> Option<Audience> {
        let own = &self.documents.get(key)?.audience;
        let Some(referred) = self.referred.get(key) else {
            return Some(own.clone());
        };
        Some(match own {
            Audience::Everybody => Audience::Everybody,
            Audience::Nobody | Audience::Peers(_) => {
                let all: BTreeSet<&Name> = names(own).chain(referred.keys()).collect();
                Audience::Peers(all.into_iter().cloned().collect())
            }
        })
    }

    fn count(&mut self, referred: &Key, by: Option<&Shown>, more: bool) {
        for name in by.into_iter().flat_map(|shown| names(&shown.audience)) {
            if more {
                let peers = self.referred.entry(referred.clone()).or_default();
                *peers.entry(Arc::clone(name)).or_default() += 1;
            } else if let Some(peers) = self.referred.get_mut(referred)
                && let Some(count) = peers.get_mut(name)
            {
                *count -= 1;
                if *count == 0 {
                    peers.remove(name);
                }
                if peers.is_empty() {
                    self.referred.remove(referred);
                }
            }
        }
    }

    /// Whether a peer sees a document because of another one.
    pub(super) fn is_referred(&self, key: &Key, name: &str) -> bool {
        let peers = self.referred.get(key);
        peers.is_some_and(|peers| peers.contains_key(name))
    }

    /// The documents between two texts that a peer sees by name, in order.
    pub(super) fn between(&self, name: &str, from: &str, to: Option<&str>) -> Vec<Key> {
        let inside = |key: &&Key| *from <= *key.as_str() && to.is_none_or(|to| key.as_str() < to);
        let seen = self.index.seen_by(name).into_iter();
        seen.filter(inside).cloned().collect()
    }
}

fn names(audience: &Audience) -> impl Iterator<Item = &Name> {
    match audience {
        Audience::Peers(names) => names.iter(),
        Audience::Nobody | Audience::Everybody => [].iter(),
    }
}

impl Peer {
    /// Whether it may be told of what is for `audience` now, or was.
    pub(super) fn is_in(&self, audience: Option<&Audience>) -> bool {
        audience.is_some_and(|audience| self.is_among(audience))
    }
}
