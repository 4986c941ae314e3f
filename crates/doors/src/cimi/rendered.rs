//! Rendered representations of documents that have not changed since.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use cimi::Right;
use cloud::View;
use parking_lot::Mutex;

use super::negotiation::Format;

/// Representation by id, right and form, as of a stamp.
type Entries = HashMap<Key, (u64, Bytes)>;
type Key = (Arc<str>, u8, Format);

#[derive(Default)]
struct Generations {
    young: Entries,
    young_bytes: usize,
    old: Entries,
}

/// Bounded by two generations: once the young one is full it becomes the old one, and what nobody
/// asked for since then is dropped with the next change.
pub(super) struct Rendered {
    generations: Mutex<Generations>,
    generation_bytes: usize,
}

fn key(view: &View, format: Format) -> Key {
    let right = match view.right {
        Right::View => 0,
        Right::Modify => 1,
        Right::All => 2,
    };
    (Arc::clone(&view.id), right, format)
}

impl Rendered {
    /// Keeps at most about `bytes`.
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            generations: Mutex::default(),
            generation_bytes: bytes / 2,
        }
    }

    /// The representation of this very content, if it is at hand.
    pub(super) fn get(&self, view: &View, format: Format) -> Option<Bytes> {
        let stamp = view.stamp?;
        let key = key(view, format);
        let mut generations = self.generations.lock();
        if let Some((found, bytes)) = generations.young.get(&key) {
            return (*found == stamp).then(|| bytes.clone());
        }
        let (found, bytes) = generations.old.remove(&key)?;
        if found != stamp {
            return None;
        }
        self.put(&mut generations, key, stamp, bytes.clone());
        Some(bytes)
    }

    /// Keeps a representation, if its view says what it is of.
    pub(super) fn insert(&self, view: &View, format: Format, bytes: &Bytes) {
        if let Some(stamp) = view.stamp {
            let mut generations = self.generations.lock();
            self.put(&mut generations, key(view, format), stamp, bytes.clone());
        }
    }

    fn put(&self, generations: &mut Generations, key: Key, stamp: u64, bytes: Bytes) {
        // What the entry itself takes beside the bytes, roughly.
        let size = |bytes: &Bytes| bytes.len() + 200;
        generations.young_bytes += size(&bytes);
        if let Some((_, replaced)) = generations.young.insert(key, (stamp, bytes)) {
            generations.young_bytes -= size(&replaced);
        }
        if generations.young_bytes > self.generation_bytes {
            generations.old = std::mem::take(&mut generations.young);
            generations.young_bytes = 0;
        }
    }
}
