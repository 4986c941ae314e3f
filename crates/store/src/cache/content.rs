//! The documents of one collection, by id and by index term.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::document::Weight;
use super::{Document, IndexTerms, Versioned};
use crate::{Entry, Revision};

/// What is known of one id.
pub(super) enum Known<'a, D> {
    Document(&'a Arc<Versioned<D>>),
    Unreadable,
    Nothing,
}

/// The documents under one term of an index.
type ById<D> = BTreeMap<Arc<str>, Arc<Versioned<D>>>;

/// What is kept of one term of an index.
struct Under<D> {
    documents: ById<D>,
    /// What the documents add up to, by measure: few of them, so that a list is searched fastest.
    sums: Vec<(&'static str, u128)>,
}

impl<D> Default for Under<D> {
    fn default() -> Self {
        Self {
            documents: ById::new(),
            sums: Vec::new(),
        }
    }
}

impl<D> Under<D> {
    fn sum(&mut self, measure: &'static str) -> &mut u128 {
        let known = self.sums.iter().position(|(name, _)| *name == measure);
        let place = known.unwrap_or_else(|| {
            self.sums.push((measure, 0));
            self.sums.len() - 1
        });
        &mut self.sums[place].1
    }
}

struct Slot<D> {
    document: Arc<Versioned<D>>,
    terms: Vec<(&'static str, Box<str>)>,
    weights: Box<[Weight]>,
}

/// One collection in memory. Invariant: an id is in `documents` or in `unreadable` or in neither, and in exactly the
/// indexes that its slot names.
pub(super) struct Content<D> {
    documents: BTreeMap<Arc<str>, Slot<D>>,
    indexes: HashMap<&'static str, HashMap<Box<str>, Under<D>>>,
    unreadable: BTreeMap<Arc<str>, Revision>,
}

impl<D> Default for Content<D> {
    fn default() -> Self {
        Self {
            documents: BTreeMap::new(),
            indexes: HashMap::new(),
            unreadable: BTreeMap::new(),
        }
    }
}

impl<D: Document> Content<D> {
    pub(super) fn known(&self, id: &str) -> Known<'_, D> {
        match self.documents.get(id) {
            Some(slot) => Known::Document(&slot.document),
            None if self.unreadable.contains_key(id) => Known::Unreadable,
            None => Known::Nothing,
        }
    }

    /// The revision an id was last written at, readable or not.
    pub(super) fn revision(&self, id: &str) -> Option<Revision> {
        self.documents
            .get(id)
            .map(|slot| slot.document.revision)
            .or_else(|| self.unreadable.get(id).copied())
    }

    /// All ids, readable or not.
    pub(super) fn ids(&self) -> BTreeSet<Arc<str>> {
        self.documents
            .keys()
            .chain(self.unreadable.keys())
            .cloned()
            .collect()
    }

    pub(super) fn len(&self) -> usize {
        self.documents.len()
    }

    pub(super) fn unreadable(&self) -> usize {
        self.unreadable.len()
    }

    pub(super) fn documents(&self) -> impl Documents<'_, D> + use<'_, D> {
        Primary(&self.documents)
    }

    pub(super) fn indexed(&self, name: &str, term: &str) -> Option<&ById<D>> {
        Some(&self.indexes.get(name)?.get(term)?.documents)
    }

    /// What the documents under a term add up to. Sums of more than a `u64` holds are shown as the most it holds.
    pub(super) fn sum(&self, name: &str, term: &str, measure: &str) -> u64 {
        let under = self.indexes.get(name).and_then(|index| index.get(term));
        let sum = under.and_then(|under| under.sums.iter().find(|(name, _)| *name == measure));
        sum.map_or(0, |(_, sum)| u64::try_from(*sum).unwrap_or(u64::MAX))
    }

    /// Take in the newest state of a document that was decoded before (outside the lock). Returns its id.
    pub(super) fn put(&mut self, entry: &Entry, decoded: Option<D>) -> Arc<str> {
        let id = self
            .remove(entry.key.id())
            .unwrap_or_else(|| Arc::from(entry.key.id()));
        let Some(document) = decoded else {
            self.unreadable.insert(id.clone(), entry.revision);
            return id;
        };
        let mut terms = IndexTerms::default();
        document.index(&mut terms);
        let (terms, weights) = terms.into_parts();
        let (key, revision, created, lease) = (
            entry.key.clone(),
            entry.revision,
            entry.created,
            entry.lease,
        );
        let document = Arc::new(Versioned {
            key,
            revision,
            created,
            lease,
            document,
        });
        for (name, term) in &terms {
            let under = self
                .indexes
                .entry(name)
                .or_default()
                .entry(term.clone())
                .or_default();
            under.documents.insert(id.clone(), document.clone());
            for weight in weights.iter().filter(|weight| weight.index == *name) {
                *under.sum(weight.measure) += u128::from(weight.amount);
            }
        }
        let slot = Slot {
            document,
            terms,
            weights,
        };
        self.documents.insert(id.clone(), slot);
        id
    }

    /// Forget a document. Returns its id if it was there.
    pub(super) fn remove(&mut self, id: &str) -> Option<Arc<str>> {
        let Some((id, slot)) = self.documents.remove_entry(id) else {
            return self.unreadable.remove_entry(id).map(|(id, _revision)| id);
        };
        for (name, term) in &slot.terms {
            let Some(index) = self.indexes.get_mut(name) else {
                continue;
            };
            let Some(under) = index.get_mut(term) else {
                continue;
            };
            under.documents.remove(&id);
            if under.documents.is_empty() {
                index.remove(term);
                continue;
            }
            for weight in slot.weights.iter().filter(|weight| weight.index == *name) {
                let sum = under.sum(weight.measure);
                *sum = sum.saturating_sub(u128::from(weight.amount));
            }
        }
        Some(id)
    }
}

/// Documents in order of their ids.
pub(super) trait Documents<'a, D: 'a> {
    /// Those with ids inside the bounds, ascending, usable from both ends.
    fn between(
        self,
        bounds: super::typed::Bounds<'_>,
    ) -> impl DoubleEndedIterator<Item = &'a Arc<Versioned<D>>>;
}

struct Primary<'a, D>(&'a BTreeMap<Arc<str>, Slot<D>>);

impl<'a, D> Documents<'a, D> for Primary<'a, D> {
    fn between(
        self,
        bounds: super::typed::Bounds<'_>,
    ) -> impl DoubleEndedIterator<Item = &'a Arc<Versioned<D>>> {
        self.0
            .range::<str, _>(bounds)
            .map(|(_id, slot)| &slot.document)
    }
}

impl<'a, D> Documents<'a, D> for &'a ById<D> {
    fn between(
        self,
        bounds: super::typed::Bounds<'_>,
    ) -> impl DoubleEndedIterator<Item = &'a Arc<Versioned<D>>> {
        self.range::<str, _>(bounds).map(|(_id, document)| document)
    }
}
