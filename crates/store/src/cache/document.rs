//! What a type has to know about itself to be cached.

use std::ops::Deref;

use bytes::Bytes;

use crate::{Key, LeaseId, Revision};

/// Why a document can't be read or written.
pub type DocumentError = Box<dyn std::error::Error + Send + Sync>;

/// A type of documents, all in one collection.
pub trait Document: Sized + Send + Sync + 'static {
    /// The part of their keys before the first `/`.
    const COLLECTION: &'static str;

    /// Read a stored value.
    fn decode(value: &[u8]) -> Result<Self, DocumentError>;

    /// The value to store.
    fn encode(&self) -> Result<Bytes, DocumentError>;

    /// Say under which terms this document shall be found by [`Cache::by_index`](super::Cache::by_index).
    fn index(&self, terms: &mut IndexTerms) {
        let _ = terms;
    }
}

/// The terms a document is found by: pairs of an index's name and a term in it, such as `owner` and `alice`; and what it
/// adds to the sums that are kept of an index.
#[derive(Debug, Default)]
pub struct IndexTerms {
    terms: Vec<(&'static str, Box<str>)>,
    weights: Vec<Weight>,
}

/// What one document adds to a sum over all documents under the same term of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Weight {
    pub(super) index: &'static str,
    pub(super) measure: &'static str,
    pub(super) amount: u64,
}

impl IndexTerms {
    /// Find the document under `term` in the index `name`. Several terms in one index are fine.
    pub fn add(&mut self, name: &'static str, term: impl AsRef<str>) {
        self.terms.push((name, term.as_ref().into()));
    }

    /// Count `amount` in the sum `measure` under every term that the document has in the index `name`; see
    /// [`Cache::sum_by_index`](super::Cache::sum_by_index). Several of one measure add up.
    pub fn weigh(&mut self, name: &'static str, measure: &'static str, amount: u64) {
        if amount > 0 {
            self.weights.push(Weight {
                index: name,
                measure,
                amount,
            });
        }
    }

    /// All terms, each once, and what is added to sums.
    pub(super) fn into_parts(mut self) -> (Vec<(&'static str, Box<str>)>, Box<[Weight]>) {
        self.terms.sort_unstable();
        self.terms.dedup();
        (self.terms, self.weights.into_boxed_slice())
    }
}

/// A document and what the store knows about it. Dereferences to the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<D> {
    /// Its name.
    pub key: Key,
    /// When it was last written: what the next write compares with.
    pub revision: Revision,
    /// When it was created.
    pub created: Revision,
    /// The lease it vanishes with, if any.
    pub lease: Option<LeaseId>,
    /// The document itself.
    pub document: D,
}

impl<D> Versioned<D> {
    /// The part of its key after the collection.
    #[must_use]
    pub fn id(&self) -> &str {
        self.key.id()
    }
}

impl<D> Deref for Versioned<D> {
    type Target = D;

    fn deref(&self) -> &D {
        &self.document
    }
}
