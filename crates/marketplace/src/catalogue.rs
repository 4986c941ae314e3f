//! All entries of a Marketplace in memory, to be searched: by fields, by words, by what is newest, valid, expired or deprecated.
//!
//! A [`Catalogue`] knows of each entry what searches and listings need ([`Record`]); the documents themselves are elsewhere. It is made for
//! 100,000 entries: whatever is asked, a page takes some milliseconds (`benches/searches.rs`).
//!
//! Entries are added in any order and as often as one likes. *Newest* is, of one image and one endorser, what was endorsed last; the rest is
//! history. A deprecation is an entry, too, and so hides what it deprecates.

mod columns;
mod details;
mod long;
mod query;
mod record;
mod search;
mod sorted;
mod values;
mod words;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

pub use columns::Column;
pub use details::{Common, Details, Others, Stated, Sums};
pub use query::{CHOICES_AT_MOST, Order, Place, Query, Span, Status, TEXTS_AT_MOST, TooMuch};
pub use record::Record;
pub use search::Found;

use crate::date::UtcTime;
use crate::identifier::ImageIdentifier;
use columns::Facts;
use long::Long;
use values::Values;
use words::Words;

/// What names an entry: image, endorser, time of the endorsement.
pub type Name = (ImageIdentifier, Arc<str>, UtcTime);

/// Position of a record. Never used again for another one.
type Number = u32;

/// The entries of a Marketplace.
#[derive(Debug, Default)]
pub struct Catalogue {
    records: Vec<Option<Arc<Record>>>,
    facts: Vec<Facts>,
    /// Columns with few values, and with many.
    values: Values,
    long: Long,
    words: Words,
    names: HashMap<Name, Number>,
    by_identifier: HashMap<ImageIdentifier, Vec<Number>>,
    endorsers: BTreeMap<Arc<str>, Endorser>,
    /// What many entries say in the same words.
    common: HashSet<Arc<Common>>,
    /// By when they came, for feeds.
    arrivals: BTreeSet<(UtcTime, Number)>,
}

#[derive(Debug, Default)]
struct Endorser {
    numbers: Vec<Number>,
    /// Subjects with their issuers.
    names: BTreeSet<(String, String)>,
}

impl Catalogue {
    /// One without entries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many entries there are, with all that are history.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Adds an entry. One of the same name takes the place of the one before.
    pub fn add(&mut self, mut record: Record) {
        let name = record.name();
        self.remove(&name);
        // More than four thousand million entries don't fit into memory.
        let Ok(number) = Number::try_from(self.records.len()) else {
            return;
        };
        if let Some(details) = &mut record.details {
            match self.common.get(&details.common) {
                Some(common) => details.common = Arc::clone(common),
                None => {
                    self.common.insert(Arc::clone(&details.common));
                }
            }
        }
        let record = Arc::new(record);
        let has = self.values.push(number, &record);
        self.facts.push(Facts::of(&record, has));
        self.long.push(number, &record);
        self.words.push(number, &record);
        self.records.push(Some(Arc::clone(&record)));
        self.names.insert(name, number);
        self.by_identifier
            .entry(record.identifier)
            .or_default()
            .push(number);
        let endorser = self.endorsers.entry(Arc::clone(&record.email)).or_default();
        endorser.numbers.push(number);
        endorser
            .names
            .insert((record.subject.clone(), record.issuer.clone()));
        self.arrivals.insert((record.received, number));
        self.mark_newest(record.identifier, &record.email);
    }

    /// Takes an entry out.
    pub fn remove(&mut self, name: &Name) {
        let Some(number) = self.names.remove(name) else {
            return;
        };
        let (identifier, email, _) = name;
        let position = usize::try_from(number).unwrap_or(usize::MAX);
        if let Some(facts) = self.facts.get_mut(position) {
            facts.is_gone = true;
            self.values.remove(number, &facts.has);
            self.long.remove(number);
        }
        if let Some(record) = self.records.get_mut(position).and_then(Option::take) {
            self.arrivals.remove(&(record.received, number));
            let common = record.details.as_ref().map(|details| &details.common);
            // The record's, and the one that is kept for others.
            if let Some(common) = common.filter(|common| Arc::strong_count(common) == 2) {
                self.common.remove(common);
            }
        }
        if let Some(numbers) = self.by_identifier.get_mut(identifier) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.by_identifier.remove(identifier);
            }
        }
        if let Some(endorser) = self.endorsers.get_mut(email) {
            endorser.numbers.retain(|other| *other != number);
            if endorser.numbers.is_empty() {
                self.endorsers.remove(email);
            }
        }
        self.mark_newest(*identifier, email);
    }

    fn mark_newest(&mut self, identifier: ImageIdentifier, email: &str) {
        let Some(numbers) = self.by_identifier.get(&identifier) else {
            return;
        };
        let of_endorser: Vec<_> = numbers
            .iter()
            .filter(|number| {
                self.record(**number)
                    .is_some_and(|record| &*record.email == email)
            })
            .copied()
            .collect();
        let newest = of_endorser
            .iter()
            .copied()
            .max_by_key(|number| self.record(*number).map(|record| record.created));
        for number in of_endorser {
            let position = usize::try_from(number).unwrap_or(usize::MAX);
            if let Some(facts) = self.facts.get_mut(position) {
                facts.is_newest = Some(number) == newest;
            }
        }
    }

    fn record(&self, number: Number) -> Option<&Arc<Record>> {
        self.records.get(usize::try_from(number).ok()?)?.as_ref()
    }

    fn facts(&self, number: Number) -> Option<&Facts> {
        self.facts.get(usize::try_from(number).ok()?)
    }

    /// All entries, history included, each with whether it is the newest of its image and endorser.
    pub fn all(&self) -> impl Iterator<Item = (&Arc<Record>, bool)> {
        let all = self.records.iter().zip(&self.facts);
        all.filter_map(|(record, facts)| Some((record.as_ref()?, facts.is_newest)))
    }

    /// The entry of this name.
    #[must_use]
    pub fn named(&self, name: &Name) -> Option<&Arc<Record>> {
        self.record(*self.names.get(name)?)
    }

    /// What an endorser last said of an image.
    #[must_use]
    pub fn newest(&self, identifier: ImageIdentifier, email: &str) -> Option<&Arc<Record>> {
        self.by_identifier
            .get(&identifier)?
            .iter()
            .filter_map(|number| self.record(*number))
            .filter(|record| &*record.email == email)
            .max_by_key(|record| record.created)
    }

    /// All that was ever said of an image, the newest first.
    #[must_use]
    pub fn of_image(&self, identifier: ImageIdentifier) -> Vec<Arc<Record>> {
        let numbers = self.by_identifier.get(&identifier);
        self.newest_first(numbers.into_iter().flatten().copied(), |_| true)
    }

    /// What an endorser said since a moment, the newest first.
    #[must_use]
    pub fn of_endorser(&self, email: &str, since: UtcTime) -> Vec<Arc<Record>> {
        let numbers = self.endorsers.get(email).map(|endorser| &endorser.numbers);
        self.newest_first(numbers.into_iter().flatten().copied(), |record| {
            record.created >= since
        })
    }

    /// The image that an endorser means by a tag: what was endorsed last among the images that have it, without those the endorser has
    /// deprecated.
    #[must_use]
    pub fn tagged(&self, email: &str, tag: &str) -> Option<Arc<Record>> {
        let endorser = self.endorsers.get(email)?;
        let records = || {
            endorser
                .numbers
                .iter()
                .filter_map(|number| self.record(*number))
        };
        let deprecated: BTreeSet<_> = records()
            .filter(|record| record.deprecated.is_some())
            .map(|record| record.identifier)
            .collect();
        records()
            .filter(|record| record.tag.as_deref() == Some(tag))
            .filter(|record| !deprecated.contains(&record.identifier))
            .max_by_key(|record| record.created)
            .cloned()
    }

    /// The tags of an endorser.
    #[must_use]
    pub fn tags(&self, email: &str) -> BTreeSet<String> {
        let numbers = self.endorsers.get(email).map(|endorser| &endorser.numbers);
        numbers
            .into_iter()
            .flatten()
            .filter_map(|number| self.record(*number)?.tag.clone())
            .collect()
    }

    /// All endorsers: address, subject and issuer of the certificate.
    pub fn endorsers(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.endorsers.iter().flat_map(|(email, endorser)| {
            endorser
                .names
                .iter()
                .map(|(subject, issuer)| (&**email, subject.as_str(), issuer.as_str()))
        })
    }

    /// Whether somebody of this address endorsed something.
    #[must_use]
    pub fn knows_endorser(&self, email: &str) -> bool {
        self.endorsers.contains_key(email)
    }

    /// The entries that came last, the last first.
    #[must_use]
    pub fn arrivals(&self, most: usize) -> Vec<Arc<Record>> {
        let last = self.arrivals.iter().rev().take(most);
        last.filter_map(|(_, number)| self.record(*number).cloned())
            .collect()
    }

    /// Values of a column that occur, in order, at most so many: what a reader can choose from. Of columns with few values only.
    #[must_use]
    pub fn values(&self, column: Column, most: usize) -> Vec<String> {
        let few = self.values.of(column);
        few.map(|few| few.first(most)).unwrap_or_default()
    }

    fn newest_first(
        &self,
        numbers: impl Iterator<Item = Number>,
        wanted: impl Fn(&Record) -> bool,
    ) -> Vec<Arc<Record>> {
        let mut all: Vec<_> = numbers
            .filter_map(|number| self.record(number))
            .filter(|record| wanted(record))
            .cloned()
            .collect();
        all.sort_by(|a, b| {
            b.created
                .cmp(&a.created)
                .then_with(|| a.email.cmp(&b.email))
        });
        all
    }
}
