//! Answering a query.

use std::sync::Arc;

use memchr::memmem::Finder;

use super::columns::{Column, Facts};
use super::query::{CHOICES_AT_MOST, Order, Place, Query, Status, TEXTS_AT_MOST, TooMuch};
use super::record::Record;
use super::{Catalogue, Number, values};
use crate::date::UtcTime;

/// With fewer records left than this part of all, a word is looked for in each of them rather than in the text of all.
const FEW: usize = 32;
/// More records than these are counted along the order of all rather than sorted.
const SORTED_AT_MOST: usize = 256;

/// A page of what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Entries of the status that was asked for, whatever else the query says.
    pub of_status: usize,
    /// Entries for which the query holds.
    pub matching: usize,
    /// Those of the page.
    pub page: Vec<Arc<Record>>,
}

impl Catalogue {
    /// A page of at most `limit` entries, from number `offset` on. Entries without an end are never found.
    ///
    /// # Errors
    /// If the query asks for more at once than is answered: [`TEXTS_AT_MOST`], [`CHOICES_AT_MOST`].
    pub fn search(
        &self,
        query: &Query,
        order: Order,
        offset: usize,
        limit: usize,
        now: UtcTime,
    ) -> Result<Found, TooMuch> {
        let parts = Parts::of(query)?;
        let now = now.unix_seconds();
        let of_status = self
            .facts
            .iter()
            .filter(|facts| facts.is_newest && listed(facts, query.status, now))
            .count();
        let numbers = self.matching(query, &parts, now);
        let matching = numbers.len();
        let page = self.page(&numbers, order, offset, limit);
        Ok(Found {
            of_status,
            matching,
            page,
        })
    }

    fn matching(&self, query: &Query, parts: &Parts, now: i64) -> Vec<Number> {
        let created = query.created.map(UtcTime::unix_seconds);
        let from = query.endorsed.from.map(UtcTime::unix_seconds);
        let to = query.endorsed.to.map(UtcTime::unix_seconds);
        let wanted = |facts: &Facts| {
            (facts.is_newest || created.is_some())
                && listed(facts, query.status, now)
                && created.is_none_or(|created| facts.created == created)
                && from.is_none_or(|from| facts.created >= from)
                && to.is_none_or(|to| facts.created <= to)
                && match query.place {
                    Place::All => true,
                    Place::Web => facts.is_web,
                    Place::Pdisk => facts.is_pdisk,
                }
        };
        let mut numbers = self.candidates(query, wanted);
        if let Some(email) = &query.email {
            self.keep(&mut numbers, |record| *record.email == **email);
        }
        if let Some(identifier) = &query.identifier {
            self.keep(&mut numbers, |record| record.identifier == *identifier);
        }
        if let Some(tag) = &query.tag {
            self.keep(&mut numbers, |record| record.tag.as_ref() == Some(tag));
        }
        // What is decided by few values first, then what is compared, then what is read for.
        self.keep_choices(&mut numbers, &parts.choices);
        for (column, text) in &parts.equal {
            self.keep_equal(&mut numbers, *column, text);
        }
        for (column, text) in &parts.within {
            self.keep_within(&mut numbers, *column, text);
        }
        self.keep_words(&mut numbers, &parts.words);
        numbers
    }

    /// The records to begin with, rising: those of the image or the endorser, else all.
    fn candidates(&self, query: &Query, wanted: impl Fn(&Facts) -> bool) -> Vec<Number> {
        let known = match (&query.identifier, &query.email) {
            (Some(identifier), _) => Some(self.by_identifier.get(identifier)),
            (None, Some(email)) => {
                let endorser = self.endorsers.get(email.as_str());
                Some(endorser.map(|endorser| &endorser.numbers))
            }
            (None, None) => None,
        };
        match known {
            Some(numbers) => numbers
                .into_iter()
                .flatten()
                .copied()
                .filter(|number| self.facts(*number).is_some_and(&wanted))
                .collect(),
            None => (0..)
                .zip(&self.facts)
                .filter(|(_, facts)| wanted(facts))
                .map(|(number, _)| number)
                .collect(),
        }
    }

    fn keep(&self, numbers: &mut Vec<Number>, wanted: impl Fn(&Record) -> bool) {
        numbers.retain(|number| self.record(*number).is_some_and(|record| wanted(record)));
    }

    /// Leaves the records for which all these conditions hold.
    fn keep_choices(&self, numbers: &mut Vec<Number>, choices: &[Choice]) {
        if choices.is_empty() {
            return;
        }
        // Of each column: which of its values are wanted.
        let mut wanted: Vec<(usize, Vec<bool>)> = Vec::new();
        for choice in choices {
            let (Some(few), Some(place)) =
                (self.values.of(choice.column), values::place(choice.column))
            else {
                continue;
            };
            let finder = Finder::new(&choice.text);
            let holds = few.wanted(|value| {
                if choice.is_whole {
                    value == choice.text
                } else {
                    finder.find(value.as_bytes()).is_some()
                }
            });
            match wanted.iter_mut().find(|(other, _)| *other == place) {
                Some((_, before)) => {
                    for (before, holds) in before.iter_mut().zip(holds) {
                        *before &= holds;
                    }
                }
                None => wanted.push((place, holds)),
            }
        }
        numbers.retain(|number| {
            self.facts(*number).is_some_and(|facts| {
                wanted.iter().all(|(place, wanted)| {
                    let value = facts.has.get(*place);
                    value
                        .and_then(|value| wanted.get(usize::try_from(*value).ok()?))
                        .is_some_and(|wanted| *wanted)
                })
            })
        });
    }

    /// Leaves the records whose column, one with many values, is this text; of several locations any.
    fn keep_equal(&self, numbers: &mut Vec<Number>, column: Column, text: &str) {
        let Some(texts) = self.long.of(column) else {
            return;
        };
        let text = text.as_bytes();
        numbers.retain(|number| {
            let whole = texts.text(*number);
            whole == text
                || (column == Column::Location
                    && whole.len() > text.len()
                    && whole.split(|byte| *byte == b'\n').any(|line| line == text))
        });
    }

    /// Leaves the records whose column, one with many values, has this text in it.
    fn keep_within(&self, numbers: &mut Vec<Number>, column: Column, text: &str) {
        let Some(texts) = self.long.of(column) else {
            return;
        };
        if numbers.len() < self.records.len() / FEW {
            let finder = Finder::new(text);
            numbers.retain(|number| finder.find(texts.text(*number)).is_some());
        } else {
            let with = texts.with(text);
            numbers.retain(|number| {
                let place = usize::try_from(*number).unwrap_or(usize::MAX);
                with.get(place).is_some_and(|with| *with)
            });
        }
    }

    /// Leaves the records of which for each word any column has it in it.
    fn keep_words(&self, numbers: &mut Vec<Number>, words: &[String]) {
        let (words, phrases): (Vec<_>, Vec<_>) = words
            .iter()
            .partition(|word| !word.contains(char::is_whitespace));
        let words: Vec<_> = words.into_iter().map(Finder::new).collect();
        let left = self.words.keep(numbers, &words, self.records.len() / FEW);
        for finder in left
            .iter()
            .cloned()
            .chain(phrases.into_iter().map(Finder::new))
        {
            numbers.retain(|number| {
                let mut long = self.long.all();
                let has = self.facts(*number).map(|facts| &facts.has);
                let mut few = self.values.all().zip(has.into_iter().flatten());
                few.any(|(few, value)| {
                    let text = few.text(*value);
                    text.is_some_and(|text| finder.find(text.as_bytes()).is_some())
                }) || long.any(|texts| finder.find(texts.text(*number)).is_some())
            });
        }
    }

    /// `numbers` rise.
    fn page(
        &self,
        numbers: &[Number],
        order: Order,
        offset: usize,
        limit: usize,
    ) -> Vec<Arc<Record>> {
        if offset >= numbers.len() || limit == 0 {
            return Vec::new();
        }
        let page = if numbers.len() < SORTED_AT_MOST {
            let mut numbers: Vec<_> = numbers
                .iter()
                .map(|number| (self.text_of(order.column, *number), *number))
                .collect();
            numbers.sort_unstable();
            let numbers = numbers.into_iter().map(|(_, number)| number);
            cut(numbers, order.descending, offset, limit)
        } else {
            // The order of all is known: those that are wanted are counted along it.
            let mut is_wanted = vec![false; self.records.len()];
            for number in numbers {
                let place = usize::try_from(*number).unwrap_or(usize::MAX);
                if let Some(wanted) = is_wanted.get_mut(place) {
                    *wanted = true;
                }
            }
            let wanted = |number: &Number| {
                let place = usize::try_from(*number).unwrap_or(usize::MAX);
                is_wanted.get(place).is_some_and(|wanted| *wanted)
            };
            let column = order.column;
            if let Some(texts) = self.long.of(column) {
                let all = texts.in_order().filter(wanted);
                cut(all, order.descending, offset, limit)
            } else if let Some(few) = self.values.of(column) {
                let all = few.in_order().filter(wanted);
                cut(all, order.descending, offset, limit)
            } else {
                Vec::new()
            }
        };
        page.into_iter()
            .filter_map(|number| self.record(number).cloned())
            .collect()
    }

    /// What a record is ordered by.
    fn text_of(&self, column: Column, number: Number) -> &[u8] {
        let few = || {
            let has = &self.facts(number)?.has;
            self.values.text(column, has).map(str::as_bytes)
        };
        match self.long.of(column) {
            Some(texts) => texts.text(number),
            None => few().unwrap_or_default(),
        }
    }
}

/// What a query looks for, in lower case.
struct Parts {
    choices: Vec<Choice>,
    /// On columns with many values.
    equal: Vec<(Column, String)>,
    within: Vec<(Column, String)>,
    words: Vec<String>,
}

/// A condition on a column with few values.
struct Choice {
    column: Column,
    text: String,
    /// It is the text, and doesn't only have it in it.
    is_whole: bool,
}

impl Parts {
    fn of(query: &Query) -> Result<Self, TooMuch> {
        let (mut choices, mut equal, mut within) = (Vec::new(), Vec::new(), Vec::new());
        for (given, is_whole) in [(&query.equal, true), (&query.within, false)] {
            for (column, text) in given {
                let (column, text) = (*column, text.to_lowercase());
                if values::place(column).is_some() {
                    choices.push(Choice {
                        column,
                        text,
                        is_whole,
                    });
                } else if is_whole {
                    equal.push((column, text));
                } else {
                    within.push((column, text));
                }
            }
        }
        let words = query.words.iter().filter(|word| !word.is_empty());
        let mut words: Vec<_> = words.map(|word| word.to_lowercase()).collect();
        let texts = equal.len() + within.len() + words.len();
        if texts > TEXTS_AT_MOST {
            return Err(TooMuch::Texts(texts));
        }
        if choices.len() > CHOICES_AT_MOST {
            return Err(TooMuch::Choices(choices.len()));
        }
        // Long ones are the rare ones, and tell what their parts would.
        words.sort_by_key(|word| std::cmp::Reverse(word.len()));
        let mut needed: Vec<String> = Vec::with_capacity(words.len());
        for word in words {
            if !needed.iter().any(|other| other.contains(&word)) {
                needed.push(word);
            }
        }
        Ok(Self {
            choices,
            equal,
            within,
            words: needed,
        })
    }
}

/// A page of what is in order, from either end.
fn cut(
    all: impl DoubleEndedIterator<Item = Number>,
    descending: bool,
    offset: usize,
    limit: usize,
) -> Vec<Number> {
    if descending {
        all.rev().skip(offset).take(limit).collect()
    } else {
        all.skip(offset).take(limit).collect()
    }
}

fn listed(facts: &Facts, status: Status, now: i64) -> bool {
    let Some(valid) = facts.valid.filter(|_| !facts.is_gone) else {
        return false;
    };
    match status {
        Status::Valid => !facts.is_deprecated && valid > now,
        Status::Expired => !facts.is_deprecated && valid <= now,
        Status::Deprecated => facts.is_deprecated,
        Status::Any => true,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::catalogue::Span;
    use crate::digest::Digest;
    use crate::identifier::ImageIdentifier;

    fn at(text: &str) -> UtcTime {
        text.parse().unwrap()
    }

    fn now() -> UtcTime {
        at("2030-06-01T00:00:00Z")
    }

    fn record(image: u8, email: &str, created: &str) -> Record {
        Record {
            identifier: ImageIdentifier::from_sha1(&Digest::from_bytes([image; 20])),
            email: email.into(),
            created: at(created),
            subject: format!("CN={email}"),
            issuer: "CN=ca".to_owned(),
            is_email_certified: true,
            uses_sha1: false,
            received: at(created),
            bytes: 1,
            valid: Some(at("2031-01-01T00:00:00Z")),
            deprecated: None,
            os: Some("Ubuntu".to_owned()),
            os_version: Some("24.04".to_owned()),
            os_arch: Some("x86_64".to_owned()),
            kind: Some("machine".to_owned()),
            version: None,
            format: None,
            title: Some(format!("title {image}")),
            tag: Some("base".to_owned()),
            description: Some(format!("image number {image}")),
            locations: vec![format!("https://images.example.org/{image}.img.gz")],
            details: None,
        }
    }

    fn titles(catalogue: &Catalogue, query: &Query) -> Vec<String> {
        let found = catalogue
            .search(query, Order::default(), 0, 100, now())
            .unwrap();
        found
            .page
            .iter()
            .filter_map(|record| record.title.clone())
            .collect()
    }

    #[test]
    fn the_newest_of_each_image_and_endorser_is_listed_and_a_deprecation_hides_it() {
        let mut catalogue = Catalogue::new();
        catalogue.add(record(1, "a@x", "2030-01-02T00:00:00Z"));
        catalogue.add(Record {
            title: Some("older".to_owned()),
            ..record(1, "a@x", "2030-01-01T00:00:00Z")
        });
        catalogue.add(record(1, "b@x", "2030-01-03T00:00:00Z"));
        catalogue.add(Record {
            valid: Some(at("2030-05-01T00:00:00Z")),
            ..record(2, "a@x", "2030-01-04T00:00:00Z")
        });
        catalogue.add(Record {
            valid: None,
            ..record(3, "a@x", "2030-01-05T00:00:00Z")
        });
        assert_eq!(
            titles(&catalogue, &Query::default()),
            ["title 1", "title 1"]
        );
        let status = |status| Query {
            status,
            ..Query::default()
        };
        assert_eq!(titles(&catalogue, &status(Status::Expired)), ["title 2"]);
        assert_eq!(titles(&catalogue, &status(Status::Any)).len(), 3);
        let history = Query {
            created: Some(at("2030-01-01T00:00:00Z")),
            ..Query::default()
        };
        assert_eq!(titles(&catalogue, &history), ["older"]);

        let gone = Record {
            deprecated: Some(String::new()),
            ..record(1, "a@x", "2030-02-01T00:00:00Z")
        };
        catalogue.add(gone.clone());
        assert_eq!(titles(&catalogue, &Query::default()).len(), 1);
        assert_eq!(titles(&catalogue, &status(Status::Deprecated)), ["title 1"]);
        assert_eq!(
            catalogue.tagged("a@x", "base").unwrap().title.as_deref(),
            Some("title 3")
        );
        // Taken back, the one before is the newest again.
        catalogue.remove(&gone.name());
        assert_eq!(titles(&catalogue, &Query::default()).len(), 2);
        assert_eq!(catalogue.len(), 5);
    }

    #[test]
    fn each_word_is_part_of_some_column_and_none_goes_across() {
        let mut catalogue = Catalogue::new();
        for image in 1..=20 {
            catalogue.add(record(image, "a@x", "2030-01-02T00:00:00Z"));
        }
        let words = |text: &str| Query {
            words: text.split(' ').map(str::to_owned).collect(),
            ..Query::default()
        };
        assert_eq!(
            titles(&catalogue, &words("UBUNTU 24.04 /7.img")),
            ["title 7"]
        );
        assert_eq!(titles(&catalogue, &words("number 13")), ["title 13"]);
        assert!(titles(&catalogue, &words("ubuntu24")).is_empty());
        assert!(titles(&catalogue, &words("ubuntu fedora")).is_empty());
        let within = |column, word: &str| Query {
            within: vec![(column, word.to_owned())],
            ..Query::default()
        };
        assert_eq!(titles(&catalogue, &within(Column::Arch, "X86")).len(), 20);
        assert!(titles(&catalogue, &within(Column::Os, "x86")).is_empty());
        assert_eq!(
            titles(&catalogue, &within(Column::Title, "title 2")),
            ["title 20", "title 2"]
        );
    }

    #[test]
    fn more_than_can_be_looked_for_at_once_is_refused_and_not_left_out() {
        let catalogue = Catalogue::new();
        let asked = |query: &Query| {
            let found = catalogue.search(query, Order::default(), 0, 1, now());
            found
                .map(|found| found.matching)
                .map_err(|error| error.to_string())
        };
        let texts = |words: usize| Query {
            words: (0..words).map(|word| word.to_string()).collect(),
            within: vec![(Column::Title, "a".to_owned())],
            equal: vec![(Column::Location, "b".to_owned())],
            ..Query::default()
        };
        assert_eq!(asked(&texts(6)), Ok(0));
        let refused = asked(&texts(7)).unwrap_err();
        assert!(
            refused.contains("9 words") && refused.contains("at most 8"),
            "{refused}"
        );
        let choices = |many: usize| Query {
            equal: vec![(Column::Os, "debian".to_owned()); many],
            ..Query::default()
        };
        assert_eq!(asked(&choices(8)), Ok(0));
        let refused = asked(&choices(9)).unwrap_err();
        assert!(
            refused.contains("9 conditions") && refused.contains("at most 8"),
            "{refused}"
        );
    }

    proptest! {
        /// Pages of any size in any order are the parts of the whole list, which holds what a plain filter finds.
        #[test]
        fn pages_are_the_parts_of_what_a_plain_filter_finds(
            entries in prop::collection::vec((0..6_u8, 0..3_u8, 1..28_u8, any::<bool>(), 0..3_u8), 0..40),
            column in prop::sample::select(Column::ALL.to_vec()),
            descending: bool,
            limit in 1..7_usize,
            status in 0..4_u8,
            words in prop::collection::vec(prop::sample::select(vec!["", "mar", "1", "b@x", "zzz", "03-1", "2030", "img", "title"]), 0..4),
        ) {
            let mut catalogue = Catalogue::new();
            let mut plain = BTreeMap::new();
            for (image, who, day, is_deprecated, end) in entries {
                let email = ["a@x", "b@x", "c@y"][usize::from(who)];
                let record = Record {
                    deprecated: is_deprecated.then(String::new),
                    valid: [None, Some(at("2030-05-01T00:00:00Z")), Some(at("2031-01-01T00:00:00Z"))][usize::from(end)],
                    os: Some(["Ubuntu", "Debian", "marOS"][usize::from(image % 3)].to_owned()),
                    ..record(image, email, &format!("2030-03-{day:02}T00:00:00Z"))
                };
                plain.insert(record.path(), record.clone());
                catalogue.add(record);
            }
            prop_assert_eq!(catalogue.len(), plain.len());
            let status = [Status::Valid, Status::Expired, Status::Deprecated, Status::Any][usize::from(status)];
            let holds = |record: &Record| {
                let newest = plain.values()
                    .filter(|other| other.identifier == record.identifier && other.email == record.email)
                    .max_by_key(|other| other.created);
                newest == Some(record) && record.valid.is_some() && match status {
                    Status::Valid => record.is_valid(now()),
                    Status::Expired => record.deprecated.is_none() && !record.is_valid(now()),
                    Status::Deprecated => record.deprecated.is_some(),
                    Status::Any => true,
                } && words.iter().all(|word| Column::ALL.iter().any(|column| {
                    column.text(record).unwrap_or_default().to_lowercase().contains(word)
                }))
            };
            let mut expected: Vec<_> = plain.values().filter(|record| holds(record)).map(Record::path).collect();
            expected.sort();
            let query = Query { status, words: words.iter().map(|word| (*word).to_owned()).collect(), endorsed: Span::default(), ..Query::default() };
            let order = Order { column, descending };
            let whole = catalogue.search(&query, order, 0, 1000, now()).unwrap();
            let paths = |page: &[Arc<Record>]| page.iter().map(|record| record.path()).collect::<Vec<_>>();
            let mut sorted = paths(&whole.page);
            sorted.sort();
            prop_assert_eq!(sorted, expected);
            prop_assert_eq!(whole.matching, whole.page.len());
            let keys: Vec<_> = whole.page.iter().map(|record| column.text(record).unwrap_or_default().to_lowercase()).collect();
            prop_assert!(keys.is_sorted_by(|a, b| if descending { a >= b } else { a <= b }), "{keys:?}");
            let mut joined = Vec::new();
            for offset in (0..whole.matching).step_by(limit) {
                joined.extend(paths(&catalogue.search(&query, order, offset, limit, now()).unwrap().page));
            }
            prop_assert_eq!(joined, paths(&whole.page));
        }
    }
}
