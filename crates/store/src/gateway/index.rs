//! Who sees which documents, looked up both ways.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::Audience;
use crate::Key;

/// See the module. Of the documents it has the keys alone.
#[derive(Default)]
pub(super) struct Index {
    audiences: HashMap<Key, Audience>,
    named: HashMap<Arc<str>, BTreeSet<Key>>,
    everybody: BTreeSet<Key>,
}

impl Index {
    /// From now on `key` is for `audience`, or is gone. Whose it was.
    pub(super) fn set(&mut self, key: &Key, audience: Option<&Audience>) -> Option<Audience> {
        let was = match audience {
            Some(audience) => self.audiences.insert(key.clone(), audience.clone()),
            None => self.audiences.remove(key),
        };
        if was.as_ref() == audience {
            return was;
        }
        match &was {
            Some(Audience::Everybody) => {
                self.everybody.remove(key);
            }
            Some(Audience::Peers(names)) => names.iter().for_each(|name| self.hide(name, key)),
            Some(Audience::Nobody) | None => {}
        }
        match audience {
            Some(Audience::Everybody) => {
                self.everybody.insert(key.clone());
            }
            Some(Audience::Peers(names)) => {
                for name in &**names {
                    let seen = self.named.entry(Arc::clone(name)).or_default();
                    seen.insert(key.clone());
                }
            }
            Some(Audience::Nobody) | None => {}
        }
        was
    }

    fn hide(&mut self, name: &Arc<str>, key: &Key) {
        if let Some(seen) = self.named.get_mut(name) {
            seen.remove(key);
            if seen.is_empty() {
                self.named.remove(name);
            }
        }
    }

    /// What a peer by name sees, in order.
    pub(super) fn seen_by(&self, name: &str) -> BTreeSet<&Key> {
        let own = self.named.get(name).into_iter().flatten();
        own.chain(&self.everybody).collect()
    }

    /// How many documents are for a peer by name, beside those for everybody.
    pub(super) fn count_of(&self, name: &str) -> usize {
        self.named.get(name).map_or(0, BTreeSet::len)
    }
}
