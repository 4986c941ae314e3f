//! From ways to rows: groups, order, pages.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use crate::Error;
use crate::evaluate::{Binding, Evaluation, Stop};
use crate::syntax::{Aggregate, Kind, Select};
use crate::term::Term;

/// The values of the columns.
pub(crate) type Row<'c> = Vec<Option<Term<'c>>>;

/// A row, and what it is ordered by.
struct Ranked<'c> {
    ranks: Row<'c>,
    row: Row<'c>,
}

impl<'c> Evaluation<'c> {
    /// The rows of a query; more than `most` are too many.
    pub(crate) fn select(
        &self,
        select: &'c Select,
        binding: &mut Binding<'c>,
        most: Option<usize>,
    ) -> Result<Vec<Row<'c>>, Error> {
        let mut all: Vec<Ranked<'c>> = Vec::new();
        let mut seen = HashSet::new();
        // Without an order, what comes first is the answer; one more than may be shows that there are too many.
        let shown = select
            .limit
            .unwrap_or(usize::MAX)
            .min(most.map_or(usize::MAX, |most| most + 1));
        let enough = if select.order.is_empty() {
            shown.saturating_add(select.offset)
        } else {
            usize::MAX
        };
        if enough == 0 {
            return Ok(Vec::new());
        }
        let mut take =
            |binding: &mut Binding<'c>, aggregates: &[Option<Term<'c>>]| -> Result<(), Stop> {
                let ranked = self.row(select, binding, aggregates)?;
                if select.is_distinct {
                    let key: Vec<_> = ranked
                        .row
                        .iter()
                        .map(|value| value.as_ref().map(|it| it.key(self.data)))
                        .collect();
                    if !seen.insert(key) {
                        return Ok(());
                    }
                }
                self.keep(ranked.row.len() + ranked.ranks.len())?;
                all.push(ranked);
                if all.len() >= enough {
                    Err(Stop::Enough)
                } else {
                    Ok(())
                }
            };
        let ended = if let Some(by) = &select.grouped_by {
            let groups = self.groups(select, by, binding)?;
            groups.into_iter().try_for_each(|group| {
                let aggregates: Vec<_> = group.sums.iter().map(Sum::value).collect();
                take(&mut group.first.clone(), &aggregates)
            })
        } else {
            self.group(&select.group, binding, &mut |binding| take(binding, &[]))
        };
        match ended {
            Ok(()) | Err(Stop::Enough) => {}
            Err(Stop::Failed(error)) => return Err(error),
        }
        self.step(u64::try_from(all.len()).unwrap_or(u64::MAX))?;
        all.sort_by(|a, b| self.order(select, a, b));
        let rows = all
            .into_iter()
            .skip(select.offset)
            .take(select.limit.unwrap_or(usize::MAX));
        let rows: Vec<_> = rows.map(|ranked| ranked.row).collect();
        match most {
            Some(most) if rows.len() > most => Err(Error::TooLarge(format!(
                "it has more than {most} rows; add LIMIT {most}"
            ))),
            _ => Ok(rows),
        }
    }

    /// The columns, and what they are ordered by, which may be values of columns.
    fn row(
        &self,
        select: &'c Select,
        binding: &mut Binding<'c>,
        aggregates: &[Option<Term<'c>>],
    ) -> Result<Ranked<'c>, Error> {
        let mut row = Vec::with_capacity(select.columns.len());
        let mut made = Vec::new();
        for column in &select.columns {
            let value = match &column.value {
                None => binding.get(column.slot).cloned().flatten(),
                Some(expression) => {
                    let value = self.worth(expression, binding, aggregates)?;
                    if let Some(place) = binding.get_mut(column.slot) {
                        made.push((column.slot, place.clone()));
                        place.clone_from(&value);
                    }
                    value
                }
            };
            row.push(value);
        }
        let ranks = select
            .order
            .iter()
            .map(|order| self.worth(&order.by, binding, aggregates));
        let ranks = ranks.collect::<Result<_, _>>();
        for (slot, before) in made {
            if let Some(place) = binding.get_mut(slot) {
                *place = before;
            }
        }
        Ok(Ranked { ranks: ranks?, row })
    }

    fn order(&self, select: &Select, a: &Ranked<'c>, b: &Ranked<'c>) -> Ordering {
        for ((order, a), b) in select.order.iter().zip(&a.ranks).zip(&b.ranks) {
            let ordering = match (a, b) {
                (Some(a), Some(b)) => a.order(b, self.data),
                _ => a.is_some().cmp(&b.is_some()),
            };
            let ordering = if order.descending {
                ordering.reverse()
            } else {
                ordering
            };
            if ordering.is_ne() {
                return ordering;
            }
        }
        Ordering::Equal
    }

    /// The groups in the order in which they come; without `GROUP BY` one, also of nothing.
    fn groups(
        &self,
        select: &'c Select,
        by: &'c [crate::syntax::Expression],
        binding: &mut Binding<'c>,
    ) -> Result<Vec<Gathered<'c>>, Error> {
        let mut places = HashMap::new();
        let mut all: Vec<Gathered<'c>> = Vec::new();
        if by.is_empty() {
            all.push(Gathered::new(binding.clone(), select));
            places.insert(Vec::new(), 0);
        }
        let ended = self.group(&select.group, binding, &mut |binding| {
            let mut key = Vec::with_capacity(by.len());
            for expression in by {
                key.push(
                    self.worth(expression, binding, &[])?
                        .map(|value| value.key(self.data)),
                );
            }
            let place = *places.entry(key).or_insert(all.len());
            if place == all.len() {
                self.keep(binding.len() + select.aggregates.len())?;
                all.push(Gathered::new(binding.clone(), select));
            }
            let Some(group) = all.get_mut(place) else {
                return Ok(());
            };
            for (sum, aggregate) in group.sums.iter_mut().zip(&select.aggregates) {
                self.add(sum, aggregate, binding)?;
            }
            Ok(())
        });
        match ended {
            Ok(()) | Err(Stop::Enough) => Ok(all),
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    fn add(
        &self,
        sum: &mut Sum<'c>,
        aggregate: &'c Aggregate,
        binding: &Binding<'c>,
    ) -> Result<(), Error> {
        let value = match &aggregate.of {
            None => None,
            Some(expression) => match self.worth(expression, binding, &[])? {
                None => return Ok(()),
                Some(value) => Some(value),
            },
        };
        if let (true, Some(value)) = (aggregate.is_distinct, &value) {
            if !sum.seen.insert(value.key(self.data)) {
                return Ok(());
            }
            self.keep(1)?;
        }
        sum.count += 1;
        let Some(value) = value else { return Ok(()) };
        let is_better = match (&sum.best, aggregate.kind) {
            (None, _) => true,
            (Some(best), Kind::Min) => value.order(best, self.data).is_lt(),
            (Some(best), Kind::Max) => value.order(best, self.data).is_gt(),
            (Some(_), Kind::Count | Kind::Sample) => false,
        };
        if is_better {
            sum.best = Some(value);
        }
        Ok(())
    }
}

/// A group.
struct Gathered<'c> {
    /// One of its ways.
    first: Binding<'c>,
    sums: Vec<Sum<'c>>,
}

impl<'c> Gathered<'c> {
    fn new(first: Binding<'c>, select: &Select) -> Self {
        let sum = |aggregate: &Aggregate| Sum {
            kind: aggregate.kind,
            count: 0,
            best: None,
            seen: HashSet::new(),
        };
        Self {
            first,
            sums: select.aggregates.iter().map(sum).collect(),
        }
    }
}

/// What an aggregate has come to.
struct Sum<'c> {
    kind: Kind,
    count: i64,
    best: Option<Term<'c>>,
    /// For `DISTINCT`.
    seen: HashSet<(u8, String)>,
}

impl<'c> Sum<'c> {
    fn value(&self) -> Option<Term<'c>> {
        match self.kind {
            Kind::Count => Some(Term::Integer(self.count)),
            Kind::Min | Kind::Max | Kind::Sample => self.best.clone(),
        }
    }
}
