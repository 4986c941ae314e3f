//! All of a list's query parameters together, and applying them.

use std::cmp::Ordering;

use super::{Attributes, Filter, FilterSyntax, OrderKey, OrderSyntax, Select, select::is_name};

/// What a client asks of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Only members that satisfy this.
    pub filter: Option<Filter>,
    /// Sorted by these; empty: in the collection's own order.
    pub order: Vec<OrderKey>,
    /// First member shown, counted from 1; 0 and 1 are the same.
    pub first: usize,
    /// Last member shown, counted from 1.
    pub last: Option<usize>,
    /// Which attributes of the members are shown. (Left to who renders them.)
    pub select: Select,
    /// Which references and collections of their own are shown with what they refer to in their place; `None`: none.
    /// (Left to who renders them.)
    pub expand: Option<Select>,
}

/// A parameter that is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// `$filter`
    #[error(transparent)]
    Filter(#[from] FilterSyntax),
    /// `$orderby`
    #[error(transparent)]
    Order(#[from] OrderSyntax),
    /// `$expand`
    #[error("$expand has `{0}`; it is `*`, or a list of attributes such as `volumes,machineImage`")]
    Expand(String),
    /// Too many of one parameter.
    #[error("{0} is given more than {FILTERS_AT_MOST} times")]
    TooMany(&'static str),
    /// Each comparison is made with each member of the list.
    #[error("$filter has {0} comparisons, and at most {COMPARISONS_AT_MOST} are made")]
    TooManyComparisons(usize),
}

const FILTERS_AT_MOST: usize = 8;
const COMPARISONS_AT_MOST: usize = 64;
/// Most members that one page shows, whatever is asked for; `count` tells that there are more, and `$first` reaches them.
pub const MEMBERS_AT_MOST: usize = 5_000;

impl Query {
    /// From the decoded query parameters of a URL. Several `$filter` must all hold. A `$first` that
    /// is no number counts as 1, such a `$last` is ignored, and so are unknown parameters.
    ///
    /// # Errors
    /// If a filter, an order or what is to be expanded is not understood.
    pub fn from_parameters<'a>(
        parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, QueryError> {
        let mut query = Self::default();
        let mut filters = Vec::new();
        for (name, value) in parameters {
            match name {
                "$filter" if filters.len() == FILTERS_AT_MOST => {
                    return Err(QueryError::TooMany("$filter"));
                }
                "$filter" => filters.push(Filter::parse(value)?),
                "$orderby" => query.order = OrderKey::parse_list(value)?,
                "$first" => query.first = value.trim().parse().unwrap_or(1),
                "$last" => query.last = value.trim().parse().ok(),
                "$select" => query.select.add(value),
                "$expand" if !value.trim().is_empty() => {
                    let names = value.split(',').map(str::trim);
                    let wrong = |name: &&str| !name.is_empty() && *name != "*" && !is_name(name);
                    if let Some(wrong) = names.clone().find(wrong) {
                        return Err(QueryError::Expand(wrong.chars().take(64).collect()));
                    }
                    query.expand.get_or_insert_default().add(value);
                }
                _ => {}
            }
        }
        if !filters.is_empty() {
            let filter = Filter::all(filters);
            let comparisons = filter.comparisons();
            if comparisons > COMPARISONS_AT_MOST {
                return Err(QueryError::TooManyComparisons(comparisons));
            }
            query.filter = Some(filter);
        }
        Ok(query)
    }

    /// Filters, sorts and cuts: how many match in all, and those of the page in order. Linear in
    /// the number of members; only the page itself is sorted fully. A page has at most [`MEMBERS_AT_MOST`] members.
    pub fn page<D: Attributes>(&self, members: impl IntoIterator<Item = D>) -> (usize, Vec<D>) {
        let mut matching: Vec<D> = match &self.filter {
            None => members.into_iter().collect(),
            Some(filter) => members.into_iter().filter(|m| filter.matches(m)).collect(),
        };
        let count = matching.len();
        let begin = self.first.saturating_sub(1).min(count);
        let end = self.last.unwrap_or(count).clamp(begin, count);
        let end = end.min(begin.saturating_add(MEMBERS_AT_MOST));
        if self.order.is_empty() {
            matching.truncate(end);
            matching.drain(..begin);
            return (count, matching);
        }
        let wanted = self.sorted_positions(&matching, begin, end);
        let mut slots: Vec<Option<D>> = matching.into_iter().map(Some).collect();
        let page = wanted
            .into_iter()
            .filter_map(|position| slots.get_mut(position).and_then(Option::take))
            .collect();
        (count, page)
    }

    /// Positions in `members` of those that are `begin..end` in sorted order.
    fn sorted_positions<D: Attributes>(
        &self,
        members: &[D],
        begin: usize,
        end: usize,
    ) -> Vec<usize> {
        let keys = self.order.len();
        // The values of all members in one piece, `keys` of them for each.
        let mut values = Vec::with_capacity(members.len().saturating_mul(keys));
        for member in members {
            values.extend(self.order.iter().map(|key| key.of(member)));
        }
        let of = |position: usize| values.iter().skip(position.saturating_mul(keys));
        // The position last: the collection's own order decides between equals.
        let compare = |&a: &usize, &b: &usize| {
            for ((key, a), b) in self.order.iter().zip(of(a)).zip(of(b)) {
                let ordering = key.compare(a.as_ref(), b.as_ref());
                if ordering != Ordering::Equal {
                    return ordering;
                }
            }
            a.cmp(&b)
        };
        let mut positions: Vec<usize> = (0..members.len()).collect();
        if end < positions.len() {
            positions.select_nth_unstable_by(end, compare);
            positions.truncate(end);
        }
        if begin > 0 && begin < positions.len() {
            positions.select_nth_unstable_by(begin, compare);
        }
        positions.drain(..begin.min(positions.len()));
        positions.sort_unstable_by(compare);
        positions
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::query::Scalar;

    #[derive(Clone, Debug, PartialEq)]
    struct Numbered(i64, i64);

    impl Attributes for Numbered {
        fn attribute(&self, name: &str) -> Option<Scalar<'_>> {
            match name {
                "a" => Some(self.0.into()),
                "b" => (self.1 != 0).then_some(self.1.into()),
                _ => None,
            }
        }

        fn property(&self, _: &str) -> Option<&str> {
            None
        }
    }

    fn query(text: &str) -> Query {
        let parameters = text.split('&').filter_map(|p| p.split_once('='));
        Query::from_parameters(parameters).unwrap()
    }

    #[test]
    fn pages_are_counted_from_one_and_inclusive() {
        let members: Vec<_> = (1..=5).map(|n| Numbered(n, 0)).collect();
        for (text, expected) in [
            ("", vec![1, 2, 3, 4, 5]),
            ("$first=2&$last=3", vec![2, 3]),
            ("$first=x&$last=y", vec![1, 2, 3, 4, 5]),
            ("$first=0&$last=1", vec![1]),
            ("$first=-3&$last=1", vec![1]),
            ("$first=4&$last=99", vec![4, 5]),
            ("$first=3&$last=2", vec![]),
            ("$first=9", vec![]),
            ("$orderby=a:desc&$last=2", vec![5, 4]),
        ] {
            let (count, page) = query(text).page(members.clone());
            let page: Vec<_> = page.into_iter().map(|n| n.0).collect();
            assert_eq!((count, page), (5, expected), "{text}");
        }
    }

    #[test]
    fn members_without_the_attribute_come_last_and_count_is_after_the_filter() {
        let members = vec![Numbered(1, 0), Numbered(2, 7), Numbered(3, 5)];
        let (count, page) = query("$orderby=b:desc").page(members.clone());
        assert_eq!(count, 3);
        assert_eq!(page, [Numbered(2, 7), Numbered(3, 5), Numbered(1, 0)]);
        let (count, page) = query("$filter=a>1&$filter=a<3&$last=5").page(members);
        assert_eq!((count, page.len()), (1, 1));
    }

    #[test]
    fn pages_and_filters_are_bounded() {
        let members: Vec<_> = (0..6_000).map(|n| Numbered(n, 0)).collect();
        let (count, page) = query("").page(members.clone());
        assert_eq!((count, page.len()), (6_000, MEMBERS_AT_MOST));
        let (_, rest) = query("$first=5001").page(members);
        assert_eq!(rest.len(), 1_000);

        let filter = |comparisons: usize| ["a!=1"; 64].map(|_| "a!=1")[..comparisons].join(" and ");
        let parse = |parts: &[String]| {
            Query::from_parameters(parts.iter().map(|part| ("$filter", part.as_str())))
        };
        assert!(parse(&[filter(64)]).is_ok());
        assert_eq!(
            parse(&[filter(64), filter(1)]),
            Err(QueryError::TooManyComparisons(65))
        );
    }

    proptest! {
        #[test]
        fn a_page_is_the_slice_of_the_sorted_whole(
            values in prop::collection::vec((-3i64..3, -2i64..2), 0..40),
            first in 0usize..45, last in 0usize..45,
        ) {
            let members: Vec<_> = values.into_iter().map(|(a, b)| Numbered(a, b)).collect();
            let mut query = query("$orderby=b:desc,a");
            let (_, whole) = query.page(members.clone());
            query.first = first;
            query.last = Some(last);
            let (count, page) = query.page(members);
            prop_assert_eq!(count, whole.len());
            let begin = first.saturating_sub(1).min(count);
            let end = last.clamp(begin, count.max(begin));
            prop_assert_eq!(page, whole[begin..end.min(count)].to_vec());
        }
    }
}
