//! Large collections by attribute, so that a list of a hundred thousand is filtered and sorted in a millisecond or two.
//!
//! A [`Table`] follows one cache. Of every attribute that a list was filtered or sorted by it keeps a [`Column`]: which of
//! the attribute's distinct values each document has, as a small number. A comparison is then made once for each value, not
//! for each document, and a document is only looked at when it is shown. What comes out is what [`Query::page`] does, which
//! remains for attributes that don't follow from their document alone.

mod column;
mod ranks;

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::Arc,
};

use cimi::{
    model::describe,
    query::{Filter, MEMBERS_AT_MOST, OrderKey, Query},
};
use documents::{Cached, Doc, Documents};
use parking_lot::Mutex;
use store::cache::{Changed, Changes};

use self::column::{Column, Of, Order, Value};
use crate::{
    OpContext,
    catalogue::{Candidate, Public, Through},
};

/// Columns kept of one collection, besides that of access: those that were not asked for longest go.
const COLUMNS_AT_MOST: usize = 16;

/// The tables there are, one a type.
#[derive(Default)]
pub(crate) struct Tables(Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>);

impl std::fmt::Debug for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tables")
    }
}

impl Tables {
    /// How many members match that the caller may see, and those of the page; `None` if the query asks for what doesn't
    /// follow from the documents alone.
    pub(crate) fn page<R: Public>(
        &self,
        documents: &Documents,
        context: &OpContext,
        query: &Query,
    ) -> Option<(usize, Vec<Arc<Cached<R>>>)> {
        let is_ordered = query.order.iter().all(|key| is_known::<R>(&key.name));
        if !is_ordered || !query.filter.as_ref().is_none_or(is_answered::<R>) {
            return None;
        }
        let table = {
            let mut tables = self.0.lock();
            let table = tables
                .entry(TypeId::of::<R>())
                .or_insert_with(|| Arc::new(Mutex::new(Table::<R>::new(documents))));
            Arc::clone(table).downcast::<Mutex<Table<R>>>().ok()?
        };
        let mut table = table.lock();
        table.follow(documents);
        Some(table.page(documents, context, query))
    }
}

/// Whether a filter asks only for what columns are kept of.
fn is_answered<R: Public>(filter: &Filter) -> bool {
    match filter {
        Filter::Attribute { name, .. } => is_known::<R>(name),
        Filter::Property { .. } => true,
        Filter::All(parts) | Filter::Any(parts) => parts.iter().all(is_answered::<R>),
    }
}

/// Whether an attribute is in a column, or follows from one.
fn is_known<R: Public>(name: &str) -> bool {
    is_kept::<R>(name) || R::through(name).is_some()
}

/// Whether an attribute follows from its document alone. One that no document has does.
fn is_kept<R: Public>(name: &str) -> bool {
    let common = ["id", "name", "description", "created", "updated", "owner"];
    common.contains(&name) || R::is_own(name) || describe(R::KIND).attribute(name).is_none()
}

/// One collection.
struct Table<R: Public> {
    changes: Changes<Doc<R>>,
    /// By id; a document that is gone leaves its place until the next [`Table::compact`].
    ids: Vec<Arc<str>>,
    rows: Vec<Option<Arc<Cached<R>>>>,
    gone: usize,
    access: Column,
    /// The one that was asked for last comes last.
    columns: Vec<(Of, Column)>,
}

impl<R: Public> Table<R> {
    fn new(documents: &Documents) -> Self {
        Self {
            changes: documents.view::<R>().changes(),
            ids: Vec::new(),
            rows: Vec::new(),
            gone: 0,
            access: Column::default(),
            columns: Vec::new(),
        }
    }

    /// Takes in what changed since the last time.
    fn follow(&mut self, documents: &Documents) {
        while let Some(changed) = self.changes.try_next() {
            match changed {
                Changed::Present(document) => self.put(documents, document),
                Changed::Removed(id) | Changed::Unreadable(id) => self.remove(&id),
            }
        }
        if self.gone > 64 + self.rows.len() / 8 {
            self.compact();
        }
        let len = self.rows.len();
        self.access.tidy(len);
        for (_, column) in &mut self.columns {
            column.tidy(len);
        }
    }

    fn put(&mut self, documents: &Documents, document: Arc<Cached<R>>) {
        let id = document.id();
        // Identifiers rise: nearly always at the end.
        let place = match self.ids.last() {
            Some(last) if **last < *id => Err(self.ids.len()),
            None => Err(0),
            Some(_) => self.ids.binary_search_by(|other| (**other).cmp(id)),
        };
        let access = Value::access(document.acl());
        match place {
            Ok(place) => {
                self.access.set(place, access);
                for (of, column) in &mut self.columns {
                    column.set(place, of.value(documents, &document));
                }
                if let Some(row) = self.rows.get_mut(place) {
                    self.gone -= usize::from(row.is_none());
                    *row = Some(document);
                }
            }
            Err(place) => {
                self.access.insert(place, access);
                for (of, column) in &mut self.columns {
                    column.insert(place, of.value(documents, &document));
                }
                self.ids.insert(place, id.into());
                self.rows.insert(place, Some(document));
            }
        }
    }

    fn remove(&mut self, id: &str) {
        let found = self.ids.binary_search_by(|other| (**other).cmp(id));
        let Ok(place) = found else { return };
        if let Some(row) = self.rows.get_mut(place)
            && row.take().is_some()
        {
            self.gone += 1;
        }
    }

    /// Gives up the places of what is gone.
    fn compact(&mut self) {
        let kept: Vec<bool> = self.rows.iter().map(Option::is_some).collect();
        self.access.keep(&kept);
        for (_, column) in &mut self.columns {
            column.keep(&kept);
        }
        let mut at = kept.iter();
        self.ids.retain(|_| at.next().copied().unwrap_or(false));
        self.rows.retain(Option::is_some);
        self.gone = 0;
    }

    /// The column of something, made if it isn't there; its position.
    fn column(&mut self, documents: &Documents, of: &Of) -> usize {
        if let Some(place) = self.columns.iter().position(|(other, _)| other == of) {
            let found = self.columns.remove(place);
            self.columns.push(found);
        } else {
            if self.columns.len() >= COLUMNS_AT_MOST {
                self.columns.remove(0);
            }
            let mut column = Column::default();
            for (place, row) in self.rows.iter().enumerate() {
                let value = row.as_ref().map(|document| of.value(documents, document));
                column.insert(place, value.unwrap_or_default());
            }
            self.columns.push((of.clone(), column));
        }
        self.columns.len() - 1
    }

    fn page(
        &mut self,
        documents: &Documents,
        context: &OpContext,
        query: &Query,
    ) -> (usize, Vec<Arc<Cached<R>>>) {
        let mut mask: Vec<bool> = self.rows.iter().map(Option::is_some).collect();
        if !context.is_admin() {
            let seen = |value: &Value| value.is_seen_by(context);
            self.access.and(&mut mask, seen);
        }
        if let Some(filter) = &query.filter {
            let held = self.mask(documents, filter);
            for (bit, held) in mask.iter_mut().zip(held) {
                *bit &= held;
            }
        }
        let matching = mask.iter().zip(0_u32..).filter(|(bit, _)| **bit);
        let places: Vec<u32> = matching.map(|(_, place)| place).collect();
        let count = places.len();
        let begin = query.first.saturating_sub(1).min(count);
        let end = query.last.unwrap_or(count).clamp(begin, count);
        let end = end.min(begin.saturating_add(MEMBERS_AT_MOST));
        let sorted;
        let shown = if query.order.is_empty() {
            places.get(begin..end).unwrap_or_default()
        } else {
            sorted = self.sorted(documents, &query.order, &places, begin, end);
            &sorted
        };
        let row = |place: &u32| self.rows.get(*place as usize)?.clone();
        (count, shown.iter().filter_map(row).collect())
    }

    /// For which rows a filter holds.
    fn mask(&mut self, documents: &Documents, filter: &Filter) -> Vec<bool> {
        let mut all = |parts: &[Filter], and: bool| {
            let mut mask = vec![and; self.rows.len()];
            for part in parts {
                for (bit, held) in mask.iter_mut().zip(self.mask(documents, part)) {
                    *bit = if and { *bit & held } else { *bit | held };
                }
            }
            mask
        };
        match filter {
            Filter::All(parts) => all(parts, true),
            Filter::Any(parts) => all(parts, false),
            Filter::Attribute { name, .. } if describe(R::KIND).attribute(name).is_none() => {
                vec![filter.matches(&Value::default()); self.rows.len()]
            }
            Filter::Attribute { name, .. } => match R::through(name) {
                Some(through) => self.holds_through(documents, &through, filter),
                None => self.holds(documents, &Of::Attribute(name.as_str().into()), filter),
            },
            Filter::Property { key, .. } => {
                self.holds(documents, &Of::Property(key.as_str().into()), filter)
            }
        }
    }

    fn holds(&mut self, documents: &Documents, of: &Of, filter: &Filter) -> Vec<bool> {
        let mut mask = vec![true; self.rows.len()];
        let column = self.column(documents, of);
        if let Some((_, column)) = self.columns.get_mut(column) {
            let by_order = match filter {
                Filter::Attribute {
                    comparison, value, ..
                } => column.and_compared(&mut mask, *comparison, value),
                _ => false,
            };
            if !by_order {
                column.and(&mut mask, |value| filter.matches(value));
            }
        }
        mask
    }

    /// What is referred to is looked up for each reference there is, not for each row, and each time: it changes by itself.
    fn holds_through(
        &mut self,
        documents: &Documents,
        through: &Through,
        filter: &Filter,
    ) -> Vec<bool> {
        let mut mask = vec![true; self.rows.len()];
        let column = self.column(documents, &Of::Attribute(through.reference.into()));
        if let Some((_, column)) = self.columns.get(column) {
            column.and(&mut mask, |reference| {
                filter.matches(&through.found(documents, reference))
            });
        }
        mask
    }

    /// Those of `places` that are `begin..end` in the sorted order. Values are counted first, so that only rows with the
    /// values that are shown are sorted.
    fn sorted(
        &mut self,
        documents: &Documents,
        order: &[OrderKey],
        places: &[u32],
        begin: usize,
        end: usize,
    ) -> Vec<u32> {
        // All are made before any is used: at most eight, so that none of them is given up for another.
        let of = |key: &OrderKey| {
            let through = R::through(&key.name);
            let kept = through.map_or(key.name.as_str(), |through| through.reference);
            Of::Attribute(kept.into())
        };
        for key in order {
            let column = self.column(documents, &of(key));
            if let Some((_, column)) = self.columns.get_mut(column) {
                column.rank();
            }
        }
        let orders: Vec<Order<'_>> = order
            .iter()
            .filter_map(|key| {
                let of = of(key);
                let (_, column) = self.columns.iter().find(|(other, _)| *other == of)?;
                Some(match R::through(&key.name) {
                    // Looked up each time, as where it is filtered by.
                    Some(through) => column.order_of(key.descending, |reference| {
                        through.found(documents, reference)
                    }),
                    None => column.order(key.descending),
                })
            })
            .collect();
        let Some((first, rest)) = orders.split_first() else {
            return Vec::new();
        };
        let mut counts = vec![0_usize; first.positions()];
        for place in places {
            let position = first.position(*place);
            if let Some(count) = counts.get_mut(position as usize) {
                *count += 1;
            }
        }
        // The positions that the page is in, and how many rows come before them.
        let (mut from, mut to, mut before, mut sum) = (u32::MAX, 0, 0, 0);
        for (position, count) in (0_u32..).zip(&counts) {
            if *count > 0 && sum < end && sum + count > begin {
                if from == u32::MAX {
                    (from, before) = (position, sum);
                }
                to = position;
            }
            sum += count;
        }
        let near = |place: &u32| {
            let position = first.position(*place);
            (from <= position && position <= to).then_some((position, *place))
        };
        let mut near: Vec<(u32, u32)> = places.iter().filter_map(near).collect();
        // The place last: the collection's own order decides between equals.
        let compare = |a: &(u32, u32), b: &(u32, u32)| {
            let differs = rest
                .iter()
                .map(|order| order.position(a.1).cmp(&order.position(b.1)));
            a.0.cmp(&b.0)
                .then_with(|| {
                    let mut differs = differs.filter(|ordering| ordering.is_ne());
                    differs.next().unwrap_or(std::cmp::Ordering::Equal)
                })
                .then_with(|| a.1.cmp(&b.1))
        };
        let (begin, end) = (begin - before, (end - before).min(near.len()));
        if end < near.len() {
            near.select_nth_unstable_by(end, compare);
        }
        near.truncate(end);
        if begin > 0 && begin < near.len() {
            near.select_nth_unstable_by(begin, compare);
        }
        let mut shown = near.split_off(begin.min(near.len()));
        shown.sort_unstable_by(compare);
        shown.into_iter().map(|(_, place)| place).collect()
    }
}

impl Through {
    /// What a document has whose reference is this.
    fn found(&self, documents: &Documents, reference: &Value) -> Value {
        let local = reference.local_id();
        Value::text(local.and_then(|local| (self.look_up)(documents, local)))
    }
}

impl Of {
    /// What a document has.
    fn value<R: Public>(&self, documents: &Documents, document: &Arc<Cached<R>>) -> Value {
        let candidate = Candidate::of(documents, Arc::clone(document));
        match self {
            Self::Attribute(name) => Value::attribute(&candidate, name),
            Self::Property(key) => Value::property(&candidate, key),
        }
    }
}
