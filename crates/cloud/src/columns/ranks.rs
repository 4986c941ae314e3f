//! The order of a column's values. Kept while values come, since sorting a hundred thousand of them takes longer than a list may.

use std::cmp::Ordering;

use cimi::query::{Comparison, Literal, OrderKey, Scalar};

use super::column::Value;

/// New values are put in their places one by one if they are at most so many.
const FEW: usize = 16;

/// Which rank each value has, by its number.
#[derive(Debug, Default)]
pub(super) struct Ranks {
    /// Numbers of the values that have an order, in it.
    sorted: Vec<u32>,
    /// By number.
    ranks: Vec<u32>,
    /// So many values have been looked at.
    followed: usize,
    /// Which sorts of scalars there are, and whether some values have several.
    sorts: Sorts,
}

#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
enum Sorts {
    #[default]
    None,
    Integers,
    Times,
    Texts,
    /// Their order is not that of comparisons.
    Others,
}

/// Ranks of values that compare so.
#[derive(Debug, Clone, Copy)]
pub(super) struct Compared {
    from: u32,
    to: u32,
    /// All but those.
    others: bool,
}

impl Compared {
    /// Whether a value of this rank does.
    pub(super) fn hold(self, rank: u32) -> bool {
        (self.from <= rank && rank < self.to) != self.others
    }
}

impl Ranks {
    /// How many values have an order.
    pub(super) fn len(&self) -> usize {
        self.sorted.len()
    }

    /// The rank of a value by its number; beyond all others for one without an order.
    pub(super) fn of(&self, number: u32) -> u32 {
        self.ranks.get(number as usize).copied().unwrap_or(u32::MAX)
    }

    /// Takes in values that are new. Their numbers rise.
    pub(super) fn follow(&mut self, values: &[Value]) {
        let news = values.len().saturating_sub(self.followed);
        if news == 0 {
            return;
        }
        let numbered = values.iter().zip(0_u32..).skip(self.followed);
        for (value, number) in numbered {
            if value.has_several() {
                self.sorts = Sorts::Others;
            }
            let Some(one) = value.one() else { continue };
            self.sorts = self.sorts.and(one);
            if news <= FEW {
                let place = self
                    .sorted
                    .partition_point(|other| compare(values, *other, number).is_lt());
                self.sorted.insert(place, number);
            } else {
                self.sorted.push(number);
            }
        }
        if news > FEW {
            // Those of before are one run in it already.
            self.sorted.sort_by(|a, b| compare(values, *a, *b));
        }
        self.followed = values.len();
        self.ranks.clear();
        self.ranks.resize(values.len(), u32::MAX);
        for (number, rank) in self.sorted.iter().zip(0_u32..) {
            if let Some(place) = self.ranks.get_mut(*number as usize) {
                *place = rank;
            }
        }
    }

    /// The values that compare so with a literal; `None` if their order doesn't tell.
    pub(super) fn that_compare(
        &self,
        values: &[Value],
        comparison: Comparison,
        literal: &Literal,
    ) -> Option<Compared> {
        let against = |number: u32| -> Option<Ordering> {
            match (values.get(number as usize)?.one()?, literal) {
                (Scalar::Integer(value), Literal::Integer(literal)) => Some(value.cmp(literal)),
                (Scalar::Time(value), Literal::Time(literal)) => Some(value.cmp(literal)),
                (Scalar::Text(value), Literal::Text(literal)) => {
                    Some(value.as_ref().cmp(literal.as_str()))
                }
                _ => None,
            }
        };
        match (self.sorts, literal) {
            (Sorts::Integers, Literal::Integer(_))
            | (Sorts::Times, Literal::Time(_))
            | (Sorts::Texts, Literal::Text(_)) => {}
            _ => return None,
        }
        let place = |before: fn(Ordering) -> bool| {
            let found = self
                .sorted
                .partition_point(|number| against(*number).is_some_and(before));
            u32::try_from(found).unwrap_or(u32::MAX)
        };
        let (low, high) = (place(Ordering::is_lt), place(Ordering::is_le));
        let end = u32::try_from(self.sorted.len()).unwrap_or(u32::MAX);
        let (from, to) = match comparison {
            Comparison::Less => (0, low),
            Comparison::LessOrEqual => (0, high),
            Comparison::Equal | Comparison::NotEqual => (low, high),
            Comparison::GreaterOrEqual => (low, end),
            Comparison::Greater => (high, end),
        };
        Some(Compared {
            from,
            to,
            others: comparison == Comparison::NotEqual,
        })
    }
}

impl Sorts {
    fn and(self, scalar: &Scalar<'_>) -> Self {
        let sort = match scalar {
            Scalar::Integer(_) => Self::Integers,
            Scalar::Time(_) => Self::Times,
            Scalar::Text(_) => Self::Texts,
            Scalar::Boolean(_) => Self::Others,
        };
        if self == Self::None || self == sort {
            sort
        } else {
            Self::Others
        }
    }
}

/// By what they are sorted by: different values of one column are never equal in it, but for those without any.
fn compare(values: &[Value], a: u32, b: u32) -> Ordering {
    const ASCENDING: OrderKey = OrderKey {
        name: String::new(),
        descending: false,
    };
    let of = |number: u32| values.get(number as usize).and_then(Value::one);
    ASCENDING.compare(of(a), of(b))
}
