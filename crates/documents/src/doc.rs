//! A resource as a document of the store.

use std::ops::{Deref, DerefMut};

use bytes::Bytes;
use cimi::{PrincipalType, common::Principal, resources::Resource};
use store::cache::{Document, DocumentError, IndexTerms};

/// The index of everybody who may at least read a document.
pub(crate) const READERS: &str = "readers";

/// The index of whom a document belongs to.
pub(crate) const OWNER: &str = "owner";

/// The index of for whom something counts that is theirs no more.
pub(crate) const KEPT: &str = "kept";

/// The index of what was made as a component of a system.
pub const PART: &str = "part";

/// A resource in its stored form: JSON under `<collection>/<id>`. Dereferences to the resource.
#[derive(Clone, Debug)]
pub struct Doc<R>(pub R);

impl<R> Deref for Doc<R> {
    type Target = R;

    fn deref(&self) -> &R {
        &self.0
    }
}

impl<R> DerefMut for Doc<R> {
    fn deref_mut(&mut self) -> &mut R {
        &mut self.0
    }
}

/// The term a principal's documents are found by.
pub(crate) fn term_of(kind: PrincipalType, name: &str) -> String {
    match kind {
        PrincipalType::User => format!("u:{name}"),
        PrincipalType::Role => format!("r:{name}"),
    }
}

impl<R: Resource> Document for Doc<R> {
    const COLLECTION: &'static str = R::COLLECTION;

    fn decode(value: &[u8]) -> Result<Self, DocumentError> {
        Ok(Self(serde_json::from_slice(value)?))
    }

    fn encode(&self) -> Result<Bytes, DocumentError> {
        Ok(serde_json::to_vec(&self.0)?.into())
    }

    fn index(&self, terms: &mut IndexTerms) {
        let acl = self.0.acl();
        let mut reader = |who: &Principal| terms.add(READERS, term_of(who.kind, &who.principal));
        reader(&acl.owner);
        for rule in &acl.rules {
            reader(&rule.who);
        }
        terms.add(OWNER, term_of(acl.owner.kind, &acl.owner.principal));
        if let Some(part) = &self.0.common().part_of {
            terms.add(PART, part);
        }
        self.0.terms(&mut |name, term| terms.add(name, term));
        self.0
            .weights(&mut |measure, amount| terms.weigh(OWNER, measure, amount));
        for index in R::SUMMED_BY {
            self.0
                .weights(&mut |measure, amount| terms.weigh(index, measure, amount));
        }
        if let Some(user) = self.0.kept_for() {
            terms.add(KEPT, term_of(PrincipalType::User, user));
            self.0
                .weights(&mut |measure, amount| terms.weigh(KEPT, measure, amount));
        }
    }
}
