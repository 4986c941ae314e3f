//! The patterns of a query: what they bind, one way after the other.
//!
//! Elements of a group are nested loops: each way to bind the first is handed to the next. Nothing is kept but one binding of all
//! variables, and what inner queries answer.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::rc::Rc;

use crate::data::{Node, Owner, Property, Snapshot};
use crate::syntax::{Element, Group, Part, Query, Select, Slot, Triple, Verb};
use crate::term::{Constant, Term};
use crate::{Error, Table};

/// What a query may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Statements looked at, and the like.
    pub steps: u64,
    /// Rows of the answer.
    pub rows: usize,
    /// Values kept on the way, of all rows together.
    pub values: usize,
}

impl Default for Limits {
    /// Some seconds, and some ten MiB.
    fn default() -> Self {
        Self {
            steps: 20_000_000,
            rows: 10_000,
            values: 500_000,
        }
    }
}

/// Steps between two looks at whether to go on.
const LOOK: u64 = 4096;

/// Why going through the ways ends.
pub(crate) enum Stop {
    /// Whoever asked has enough.
    Enough,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What each variable is bound to.
pub(crate) type Binding<'c> = Vec<Option<Term<'c>>>;
/// What to do with each way.
pub(crate) type Then<'t, 'c> = &'t mut dyn FnMut(&mut Binding<'c>) -> Result<(), Stop>;
/// An answer of an inner query.
type Rows<'c> = Rc<Vec<Vec<Option<Term<'c>>>>>;
/// Nodes by the hashes of what they say as a property, in order. Whoever finds one looks at what it says.
type Index = Rc<Vec<(u64, Node)>>;

/// Nodes in the indexes of a query together: 16 MiB. What goes beyond is gone through again each time.
const INDEXED: usize = 1 << 20;

impl Query {
    /// The answer. `goes_on` is asked now and then whether there is still time.
    ///
    /// # Errors
    /// What goes beyond the limits.
    pub fn answer(
        &self,
        data: &Snapshot,
        limits: Limits,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Table, Error> {
        let evaluation = Evaluation {
            data,
            limits,
            goes_on,
            steps: Cell::new(0),
            values: Cell::new(0),
            indexes: RefCell::default(),
            hashes: RandomState::new(),
            inner: RefCell::default(),
            expressions: RefCell::default(),
        };
        let mut binding = vec![None; self.slots];
        let rows = evaluation.select(&self.select, &mut binding, Some(limits.rows))?;
        Ok(Table::of(&self.names, &rows, data))
    }
}

pub(crate) struct Evaluation<'c> {
    pub(crate) data: &'c Snapshot,
    limits: Limits,
    goes_on: &'c dyn Fn() -> bool,
    steps: Cell<u64>,
    values: Cell<usize>,
    indexes: RefCell<HashMap<Property, Index>>,
    hashes: RandomState,
    /// By where they are in the query.
    inner: RefCell<HashMap<*const Select, Rows<'c>>>,
    pub(crate) expressions: RefCell<HashMap<(String, String), Option<regex::Regex>>>,
}

impl<'c> Evaluation<'c> {
    pub(crate) fn step(&self, count: u64) -> Result<(), Error> {
        let (before, now) = (self.steps.get(), self.steps.get().saturating_add(count));
        self.steps.set(now);
        if now > self.limits.steps || (before / LOOK != now / LOOK && !(self.goes_on)()) {
            return Err(Error::TooLong);
        }
        Ok(())
    }

    /// Counts values that are kept.
    pub(crate) fn keep(&self, count: usize) -> Result<(), Error> {
        let now = self.values.get().saturating_add(count.max(1));
        self.values.set(now);
        if now > self.limits.values {
            let text = format!(
                "more than {} values would be kept on the way; ask for less",
                self.limits.values
            );
            return Err(Error::TooLarge(text));
        }
        Ok(())
    }

    /// All ways in which a group holds.
    pub(crate) fn group(
        &self,
        group: &'c Group,
        binding: &mut Binding<'c>,
        then: Then<'_, 'c>,
    ) -> Result<(), Stop> {
        self.elements(&group.elements, binding, &mut |binding| {
            for filter in &group.filters {
                if !self.holds(filter, binding)? {
                    return Ok(());
                }
            }
            then(binding)
        })
    }

    /// Whether there is a way.
    pub(crate) fn exists(&self, group: &'c Group, binding: &Binding<'c>) -> Result<bool, Error> {
        match self.group(group, &mut binding.clone(), &mut |_| Err(Stop::Enough)) {
            Ok(()) => Ok(false),
            Err(Stop::Enough) => Ok(true),
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    fn elements(
        &self,
        all: &'c [Element],
        binding: &mut Binding<'c>,
        then: Then<'_, 'c>,
    ) -> Result<(), Stop> {
        let Some((first, rest)) = all.split_first() else {
            return then(binding);
        };
        let next: Then<'_, 'c> = &mut |binding| self.elements(rest, binding, then);
        match first {
            Element::Triples(triples) => {
                let left = u128::MAX >> (128 - triples.len().min(127));
                self.triples(triples, left, binding, next)
            }
            Element::Group(group) => self.group(group, binding, next),
            Element::Union(groups) => {
                for group in groups {
                    self.group(group, binding, next)?;
                }
                Ok(())
            }
            Element::Optional(group) => {
                let mut is_there = false;
                self.group(group, binding, &mut |binding| {
                    is_there = true;
                    next(binding)
                })?;
                if is_there { Ok(()) } else { next(binding) }
            }
            Element::Select(select, pairs) => self.join(select, pairs, binding, next),
        }
    }

    /// An inner query is answered once, by itself, and each of its rows tried.
    fn join(
        &self,
        select: &'c Select,
        pairs: &[(Slot, Slot)],
        binding: &mut Binding<'c>,
        then: Then<'_, 'c>,
    ) -> Result<(), Stop> {
        let name: *const Select = select;
        let known = self.inner.borrow().get(&name).cloned();
        let rows = match known {
            Some(rows) => rows,
            None => {
                let rows = Rc::new(self.select(select, &mut vec![None; binding.len()], None)?);
                self.inner.borrow_mut().insert(name, Rc::clone(&rows));
                rows
            }
        };
        for row in rows.iter() {
            self.step(1)?;
            let values = select
                .columns
                .iter()
                .zip(row)
                .filter_map(|(column, value)| {
                    let (_, outside) = pairs.iter().find(|(inside, _)| *inside == column.slot)?;
                    Some((*outside, value.clone()?))
                });
            self.bound(&values.collect::<Vec<_>>(), binding, then)?;
        }
        Ok(())
    }

    /// Binds all of these and goes on, if none of them is something else already.
    fn bound(
        &self,
        values: &[(Slot, Term<'c>)],
        binding: &mut Binding<'c>,
        then: Then<'_, 'c>,
    ) -> Result<(), Stop> {
        let mut new = Vec::with_capacity(values.len());
        let mut fits = true;
        for (slot, value) in values {
            match binding.get_mut(*slot) {
                Some(Some(there)) => {
                    fits = there.equals(value, self.data) == Some(true);
                    if !fits {
                        break;
                    }
                }
                Some(free) => {
                    *free = Some(value.clone());
                    new.push(*slot);
                }
                None => {}
            }
        }
        let result = if fits { then(binding) } else { Ok(()) };
        for slot in new {
            if let Some(place) = binding.get_mut(slot) {
                *place = None;
            }
        }
        result
    }

    /// The triples of `left`, one bit each, the one with the fewest ways first.
    fn triples(
        &self,
        all: &'c [Triple],
        left: u128,
        binding: &mut Binding<'c>,
        then: Then<'_, 'c>,
    ) -> Result<(), Stop> {
        let candidates = (0..all.len()).filter(|place| left >> place & 1 == 1);
        let best =
            candidates.min_by_key(|place| all.get(*place).map(|triple| cost(triple, binding)));
        let Some((place, triple)) = best.and_then(|place| Some((place, all.get(place)?))) else {
            return then(binding);
        };
        self.triple(triple, binding, &mut |binding| {
            self.triples(all, left & !(1 << place), binding, then)
        })
    }

    fn triple(
        &self,
        triple: &'c Triple,
        binding: &mut Binding<'c>,
        then: Then<'_, 'c>,
    ) -> Result<(), Stop> {
        let verb = match triple.predicate {
            Verb::Property(property) => return self.said(triple, property, None, binding, then),
            Verb::Variable(slot) => slot,
        };
        for property in Property::all() {
            self.said(triple, property, Some(verb), binding, then)?;
        }
        Ok(())
    }

    /// The ways in which a triple holds with this property, which is bound to `verb`.
    fn said(
        &self,
        triple: &'c Triple,
        property: Property,
        verb: Option<Slot>,
        binding: &mut Binding<'c>,
        then: Then<'_, 'c>,
    ) -> Result<(), Stop> {
        let subject = self.known(&triple.subject, binding);
        let object = self.known(&triple.object, binding);
        match (subject, object) {
            (Some(subject), _) => match self.node(&subject)? {
                Some(node) => self.values(triple, node, property, verb, binding, then),
                None => Ok(()),
            },
            (None, Some(Term::Node(part))) => match self.data.parent(part, property) {
                Some(node) => self.values(triple, node, property, verb, binding, then),
                None => Ok(()),
            },
            (None, Some(Term::Text(text))) => {
                let index = self.index(property)?;
                let hash = self.hashes.hash_one(&text);
                let begin = index.partition_point(|(of, _)| *of < hash);
                let found = index.iter().skip(begin);
                for (_, node) in found.take_while(|(of, _)| *of == hash) {
                    self.values(triple, *node, property, verb, binding, then)?;
                }
                Ok(())
            }
            (None, Some(_)) => Ok(()),
            (None, None) => {
                for entry in self.data.entries() {
                    for node in self.data.owners(entry, property) {
                        self.values(triple, node, property, verb, binding, then)?;
                    }
                }
                Ok(())
            }
        }
    }

    fn values(
        &self,
        triple: &'c Triple,
        node: Node,
        property: Property,
        verb: Option<Slot>,
        binding: &mut Binding<'c>,
        then: Then<'_, 'c>,
    ) -> Result<(), Stop> {
        self.step(1)?;
        for value in self.data.values(node, property) {
            if let Part::Constant(constant) = &triple.object
                && Term::of(constant).equals(&value, self.data) != Some(true)
            {
                continue;
            }
            let mut values = Vec::with_capacity(3);
            if let Part::Variable(slot) = triple.subject {
                values.push((slot, Term::Node(node)));
            }
            if let Some(slot) = verb {
                values.push((slot, Term::Iri(property.iri().into())));
            }
            if let Part::Variable(slot) = triple.object {
                values.push((slot, value));
            }
            self.bound(&values, binding, then)?;
        }
        Ok(())
    }

    /// What a part of a triple is, if that is known already.
    fn known(&self, part: &'c Part, binding: &Binding<'c>) -> Option<Term<'c>> {
        match part {
            Part::Constant(constant) => Some(Term::of(constant)),
            Part::Variable(slot) => binding.get(*slot).cloned().flatten(),
        }
    }

    fn node(&self, term: &Term<'c>) -> Result<Option<Node>, Error> {
        Ok(match term {
            Term::Node(node) => Some(*node),
            Term::Iri(iri) => {
                self.step(u64::from(self.data.entries().end) / 16)?;
                self.data.named(iri)
            }
            _ => None,
        })
    }

    /// Nodes by what they say as this property.
    fn index(&self, property: Property) -> Result<Index, Error> {
        if let Some(index) = self.indexes.borrow().get(&property) {
            return Ok(Rc::clone(index));
        }
        let mut index = Vec::new();
        let entries = self.data.entries();
        for node in entries.flat_map(|entry| self.data.owners(entry, property)) {
            self.step(1)?;
            for value in self.data.values(node, property) {
                if let Term::Text(text) = value {
                    index.push((self.hashes.hash_one(&text), node));
                }
            }
        }
        index.sort_unstable();
        index.dedup();
        let index = Rc::new(index);
        let mut indexes = self.indexes.borrow_mut();
        let held: usize = indexes.values().map(|index| index.len()).sum();
        if held + index.len() <= INDEXED {
            indexes.insert(property, Rc::clone(&index));
        }
        Ok(index)
    }
}

/// How many ways a triple has, roughly: with its subject known few, with its object known some (more where an entry has several such
/// parts), else as many as there are entries.
fn cost(triple: &Triple, binding: &Binding<'_>) -> u8 {
    let is_known = |part: &Part| match part {
        Part::Constant(_) => true,
        Part::Variable(slot) => binding.get(*slot).is_some_and(Option::is_some),
    };
    let is_entry = |part: &Part| match part {
        Part::Constant(constant) => matches!(constant, Constant::Iri(_)),
        Part::Variable(slot) => matches!(binding.get(*slot), Some(Some(Term::Node(_)))),
    };
    let of_verb = match triple.predicate {
        Verb::Property(property) => u8::from(property.owner() != Owner::Entry),
        Verb::Variable(_) => 2,
    };
    of_verb
        + match (is_known(&triple.subject), is_known(&triple.object)) {
            (true, true) => 0,
            (true, false) => 3,
            (false, true) if is_entry(&triple.object) => 6,
            (false, true) => 9,
            (false, false) => 12,
        }
}
