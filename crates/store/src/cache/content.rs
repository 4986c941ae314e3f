//! The documents of one collection, by id and by index term.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

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

struct Slot<D> {
    document: Arc<Versioned<D>>,
    terms: Vec<(&'static str, Box<str>)>,
}

/// One collection in memory. Invariant: an id is in `documents` or in `unreadable` or in neither, and in exactly the
/// indexes that its slot names.
pub(super) struct Content<D> {
    documents: BTreeMap<Arc<str>, Slot<D>>,
    indexes: HashMap<&'static str, HashMap<Box<str>, ById<D>>>,
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
        self.indexes.get(name)?.get(term)
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
        let terms = terms.into_terms();
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
            let ids = self
                .indexes
                .entry(name)
                .or_default()
                .entry(term.clone())
                .or_default();
            ids.insert(id.clone(), document.clone());
        }
        self.documents.insert(id.clone(), Slot { document, terms });
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
            let Some(ids) = index.get_mut(term) else {
                continue;
            };
            ids.remove(&id);
            if ids.is_empty() {
                index.remove(term);
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
