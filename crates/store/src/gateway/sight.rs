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
            // Before those that end: what it refers to as before is nobody's news.
            for referred in now.iter().flat_map(|shown| &shown.refers) {
                if self.refer(referred, now.as_ref()) {
                    concerned.insert(referred.clone());
                }
            }
            let before = match now {
                Some(shown) => self.documents.insert(key.clone(), shown),
                None => self.documents.remove(key),
            };
            for referred in before.iter().flat_map(|shown| &shown.refers) {
                if self.refer_no_more(referred, before.as_ref()) {
                    concerned.insert(referred.clone());
                }
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

    /// One more document refers to this one; whether that brings it into somebody's sight.
    fn refer(&mut self, referred: &Key, by: Option<&Shown>) -> bool {
        let mut is_new = false;
        for name in by.into_iter().flat_map(|shown| names(&shown.audience)) {
            let peers = self.referred.entry(referred.clone()).or_default();
            let count = peers.entry(Arc::clone(name)).or_default();
            *count += 1;
            is_new |= *count == 1;
        }
        is_new
    }

    /// One less does; whether somebody may have lost sight of it by that.
    fn refer_no_more(&mut self, referred: &Key, by: Option<&Shown>) -> bool {
        let mut is_over = false;
        let Some(peers) = self.referred.get_mut(referred) else {
            return false;
        };
        for name in by.into_iter().flat_map(|shown| names(&shown.audience)) {
            if let Some(count) = peers.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    peers.remove(name);
                    is_over = true;
                }
            }
        }
        if peers.is_empty() {
            self.referred.remove(referred);
        }
        is_over
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::Revision;

    /// A document is its owner's, and refers to all that its text names after that.
    struct Words;

    impl Rules for Words {
        fn audience(&self, _key: &Key, value: &[u8]) -> Audience {
            words(value)
                .first()
                .map_or(Audience::Nobody, |owner| Audience::peer(owner))
        }

        fn refers(&self, _key: &Key, value: &[u8]) -> Vec<Key> {
            words(value)
                .iter()
                .skip(1)
                .flat_map(|key| key.parse())
                .collect()
        }

        fn may_write(
            &self,
            _: &str,
            _: &Key,
            _: Option<&Bytes>,
            _: Option<&Bytes>,
        ) -> Result<crate::Permit, String> {
            Ok(crate::Permit::AsSaid)
        }
    }

    fn words(value: &[u8]) -> Vec<String> {
        let text = String::from_utf8_lossy(value);
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_change_concerns_what_is_referred_to_only_if_somebody_gains_or_loses_sight_of_it() {
        let mut sight = Sight::default();
        let mut concerned = |key: &str, text: &str| {
            let key: Key = key.parse().expect("a key");
            let entry = Entry {
                key: key.clone(),
                value: Bytes::copy_from_slice(text.as_bytes()),
                revision: Revision(1),
                created: Revision(1),
                lease: None,
            };
            let mut told = Vec::new();
            sight.change(&Words, [(&key, Some(&entry))].into_iter(), |key, _| {
                told.push(key.to_string());
            });
            told
        };
        assert_eq!(concerned("n/1", ""), ["n/1"]);
        assert_eq!(concerned("m/1", "one n/1"), ["m/1", "n/1"]);
        assert_eq!(concerned("m/1", "one n/1"), ["m/1"], "as before");
        assert_eq!(concerned("m/2", "one n/1"), ["m/2"], "seen already");
        assert_eq!(concerned("m/3", "two n/1"), ["m/3", "n/1"]);
        assert_eq!(concerned("m/1", "one"), ["m/1"], "seen still");
        assert_eq!(concerned("m/2", "one"), ["m/2", "n/1"]);
        assert_eq!(concerned("m/3", "one n/1"), ["m/3", "n/1"]);
    }
}
