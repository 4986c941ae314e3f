//! Who sees which document: by the rules, or because they see one that refers to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use super::{Audience, Peer, Rules};
use crate::{Entry, Key};

type Name = Arc<str>;

/// See the module. Kept current change by change; nothing in it is looked through for a question.
#[derive(Default)]
pub(super) struct Sight {
    documents: HashMap<Key, Shown>,
    /// How many documents that a peer sees refer to this one, which need not be there.
    referred: HashMap<Key, BTreeMap<Name, usize>>,
    /// What each peer sees that is not for everybody.
    own: HashMap<Name, BTreeSet<Key>>,
    everybodys: BTreeSet<Key>,
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
        let mut before: BTreeMap<Key, Option<Audience>> = BTreeMap::new();
        for (key, now) in changes {
            self.note(&mut before, key);
            if let Some(shown) = self.documents.remove(key) {
                for referred in &shown.refers {
                    self.note(&mut before, referred);
                    self.count(referred, &shown.audience, false);
                }
            }
            if let Some(entry) = now {
                let shown = Shown::of(rules, entry);
                for referred in &shown.refers {
                    self.note(&mut before, referred);
                    self.count(referred, &shown.audience, true);
                }
                self.documents.insert(key.clone(), shown);
            }
        }
        for (key, was) in before {
            let is = self.audience(&key);
            self.enter(&key, was.as_ref(), is.as_ref());
            tell(&key, Changed { was, is });
        }
    }

    fn note(&self, before: &mut BTreeMap<Key, Option<Audience>>, key: &Key) {
        if !before.contains_key(key) {
            before.insert(key.clone(), self.audience(key));
        }
    }

    /// Who sees a document, if it is there.
    fn audience(&self, key: &Key) -> Option<Audience> {
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

    fn count(&mut self, referred: &Key, by: &Audience, more: bool) {
        for name in names(by) {
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

    fn enter(&mut self, key: &Key, was: Option<&Audience>, is: Option<&Audience>) {
        if was == is {
            return;
        }
        if was == Some(&Audience::Everybody) {
            self.everybodys.remove(key);
        }
        for name in was.into_iter().flat_map(names) {
            if let Some(own) = self.own.get_mut(name) {
                own.remove(key);
                if own.is_empty() {
                    self.own.remove(name);
                }
            }
        }
        if is == Some(&Audience::Everybody) {
            self.everybodys.insert(key.clone());
        }
        for name in is.into_iter().flat_map(names) {
            let own = self.own.entry(Arc::clone(name)).or_default();
            own.insert(key.clone());
        }
    }

    /// Whether a peer sees a document because of another one.
    pub(super) fn is_referred(&self, key: &Key, name: &str) -> bool {
        let peers = self.referred.get(key);
        peers.is_some_and(|peers| peers.contains_key(name))
    }

    /// The documents between two texts that a peer sees by name, in order.
    pub(super) fn between(&self, name: &str, from: &str, to: Option<&str>) -> Vec<Key> {
        let lists = [Some(&self.everybodys), self.own.get(name)];
        let inside = |key: &&Key| to.is_none_or(|to| key.as_str() < to);
        let mut keys: Vec<Key> = lists
            .into_iter()
            .flatten()
            .flat_map(|list| {
                list.range::<str, _>((Bound::Included(from), Bound::<&str>::Unbounded))
                    .take_while(inside)
                    .cloned()
            })
            .collect();
        keys.sort_unstable();
        keys
    }
}

fn names(audience: &Audience) -> impl Iterator<Item = &Name> {
    match audience {
        Audience::Peers(names) => &**names,
        Audience::Nobody | Audience::Everybody => &[],
    }
    .iter()
}

impl Peer {
    /// Whether it may be told of what is for `audience` now, or was.
    pub(super) fn is_in(&self, audience: Option<&Audience>) -> bool {
        audience.is_some_and(|audience| self.is_among(audience))
    }
}
