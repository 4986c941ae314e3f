//! One attribute of all documents of a collection.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
};

use cimi::{
    Acl,
    query::{Attributes, Comparison, Literal, Scalar},
};

use super::ranks::Ranks;

use crate::OpContext;

/// What a column holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// An attribute, by its name.
    Attribute(Box<str>),
    /// A property of the user's own, by its key.
    Property(Box<str>),
}

/// What one document has of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Value {
    one: Option<Scalar<'static>>,
    several: Box<[Scalar<'static>]>,
    property: Option<Box<str>>,
    access: Option<Box<Acl>>,
}

impl Value {
    pub(super) fn attribute(document: &impl Attributes, name: &str) -> Self {
        let one = document.attribute(name).map(Scalar::into_owned);
        let several = match &one {
            Some(_) => Vec::new(),
            None => document.several(name),
        };
        Self {
            one,
            several: several.into_iter().map(Scalar::into_owned).collect(),
            ..Self::default()
        }
    }

    pub(super) fn text(text: Option<String>) -> Self {
        Self {
            one: text.map(Scalar::from),
            ..Self::default()
        }
    }

    pub(super) fn property(document: &impl Attributes, key: &str) -> Self {
        Self {
            property: document.property(key).map(Box::from),
            ..Self::default()
        }
    }

    pub(super) fn access(acl: &Acl) -> Self {
        Self {
            access: Some(Box::new(acl.clone())),
            ..Self::default()
        }
    }

    pub(super) fn is_seen_by(&self, context: &OpContext) -> bool {
        let acl = self.access.as_ref();
        acl.is_some_and(|acl| context.right_on(acl).is_some())
    }

    /// The part of a reference that names a document of its collection.
    pub(super) fn local_id(&self) -> Option<&str> {
        match &self.one {
            Some(Scalar::Text(text)) => text.split_once('/').map(|(_, local)| local),
            _ => None,
        }
    }

    /// What it is sorted by.
    pub(super) fn one(&self) -> Option<&Scalar<'static>> {
        self.one.as_ref()
    }

    /// Whether a filter looks at more than [`one`](Self::one).
    pub(super) fn has_several(&self) -> bool {
        !self.several.is_empty()
    }
}

/// As a filter for this one attribute sees it.
impl Attributes for Value {
    fn attribute(&self, _name: &str) -> Option<Scalar<'_>> {
        self.one.as_ref().map(Scalar::borrowed)
    }

    fn several(&self, _name: &str) -> Vec<Scalar<'_>> {
        self.several.iter().map(Scalar::borrowed).collect()
    }

    fn property(&self, _key: &str) -> Option<&str> {
        self.property.as_deref()
    }
}

/// For each row the number of its value.
#[derive(Debug, Default)]
pub(super) struct Column {
    codes: Vec<u32>,
    values: Vec<Value>,
    ranks: Ranks,
    /// Numbers of values by their hash; several values may share one.
    numbers: HashMap<u64, Vec<u32>>,
    hasher: RandomState,
}

impl Column {
    /// The number of a value.
    fn number(&mut self, value: Value) -> u32 {
        let hash = self.hasher.hash_one(&value);
        let known = self.numbers.entry(hash).or_default();
        let same = |number: &&u32| self.values.get(**number as usize) == Some(&value);
        if let Some(number) = known.iter().find(same) {
            return *number;
        }
        // Fewer than documents fit into memory.
        let number = u32::try_from(self.values.len()).unwrap_or(u32::MAX);
        known.push(number);
        self.values.push(value);
        number
    }

    pub(super) fn insert(&mut self, place: usize, value: Value) {
        let number = self.number(value);
        self.codes.insert(place.min(self.codes.len()), number);
    }

    pub(super) fn set(&mut self, place: usize, value: Value) {
        let number = self.number(value);
        if let Some(code) = self.codes.get_mut(place) {
            *code = number;
        }
    }

    pub(super) fn keep(&mut self, kept: &[bool]) {
        let mut at = kept.iter();
        self.codes.retain(|_| at.next().copied().unwrap_or(false));
    }

    /// Forgets values that no row has any more, once they are many.
    pub(super) fn tidy(&mut self, rows: usize) {
        if self.values.len() <= 2 * rows + 256 {
            return;
        }
        let former = std::mem::take(self);
        for code in former.codes {
            let value = former.values.get(code as usize).cloned();
            let number = self.number(value.unwrap_or_default());
            self.codes.push(number);
        }
    }

    /// Clears the bits of rows whose value doesn't do.
    pub(super) fn and(&self, mask: &mut [bool], does: impl Fn(&Value) -> bool) {
        let verdicts: Vec<bool> = self.values.iter().map(does).collect();
        for (bit, code) in mask.iter_mut().zip(&self.codes) {
            *bit &= verdicts.get(*code as usize).copied().unwrap_or(false);
        }
    }

    /// Clears the bits of rows whose value doesn't compare so, without looking at each value; `false` if that can't be told
    /// from their order.
    pub(super) fn and_compared(
        &mut self,
        mask: &mut [bool],
        comparison: Comparison,
        literal: &Literal,
    ) -> bool {
        self.rank();
        let Some(ranks) = self.ranks.that_compare(&self.values, comparison, literal) else {
            return false;
        };
        for (bit, code) in mask.iter_mut().zip(&self.codes) {
            *bit &= ranks.hold(self.ranks.of(*code));
        }
        true
    }

    /// Brings the order of the values up to date, for [`order`](Self::order).
    pub(super) fn rank(&mut self) {
        self.ranks.follow(&self.values);
    }

    /// The order of the rows by their values, which are [ranked](Self::rank).
    pub(super) fn order(&self, descending: bool) -> Order<'_> {
        Order {
            codes: &self.codes,
            ranks: Ranking::Kept(&self.ranks),
            last: count(&self.ranks),
            descending,
        }
    }

    /// The order of the rows by what is found for their values.
    pub(super) fn order_of(&self, descending: bool, found: impl Fn(&Value) -> Value) -> Order<'_> {
        let mut all = Self::default();
        for (place, value) in self.values.iter().enumerate() {
            all.insert(place, found(value));
        }
        all.rank();
        let ranks = all.codes.iter().map(|code| all.ranks.of(*code)).collect();
        Order {
            codes: &self.codes,
            ranks: Ranking::Found(ranks),
            last: count(&all.ranks),
            descending,
        }
    }
}

fn count(ranks: &Ranks) -> u32 {
    u32::try_from(ranks.len()).unwrap_or(u32::MAX)
}

/// Where the rows of a column come.
pub(super) struct Order<'c> {
    codes: &'c [u32],
    ranks: Ranking<'c>,
    /// Where those come that have no value: behind all others.
    last: u32,
    descending: bool,
}

/// Ranks of values by their numbers.
enum Ranking<'c> {
    Kept(&'c Ranks),
    /// Of what was found for them, which may be the same for several.
    Found(Vec<u32>),
}

impl Order<'_> {
    /// How many positions there are.
    pub(super) const fn positions(&self) -> usize {
        self.last as usize + 1
    }

    /// Where a row comes among all; rows without a value come last.
    pub(super) fn position(&self, place: u32) -> u32 {
        let code = self.codes.get(place as usize).copied();
        let rank = code.map_or(u32::MAX, |code| match &self.ranks {
            Ranking::Kept(ranks) => ranks.of(code),
            Ranking::Found(ranks) => ranks.get(code as usize).copied().unwrap_or(u32::MAX),
        });
        if rank >= self.last {
            self.last
        } else if self.descending {
            self.last - 1 - rank
        } else {
            rank
        }
    }
}
