//! What expressions are worth.

use std::cmp::Ordering;

use regex::{Regex, RegexBuilder};

use crate::Error;
use crate::evaluate::{Binding, Evaluation};
use crate::syntax::{Comparison, Expression, Function};
use crate::term::Term;

/// Bytes of a compiled regular expression.
const EXPRESSION_BYTES: usize = 256 << 10;
/// Regular expressions kept, and what compiling one counts.
const EXPRESSIONS: usize = 16;
const COMPILING: u64 = 20_000;

/// No value: a variable is unbound, or an operator can't be used on what it is used on. `Err` ends the query.
type Worth<'c> = Result<Option<Term<'c>>, Error>;

impl<'c> Evaluation<'c> {
    /// Whether a condition holds; without a value it doesn't.
    pub(crate) fn holds(
        &self,
        condition: &'c Expression,
        binding: &Binding<'c>,
    ) -> Result<bool, Error> {
        Ok(self
            .worth(condition, binding, &[])?
            .as_ref()
            .and_then(truth)
            == Some(true))
    }

    /// The value of an expression; `aggregates` are those of its group.
    pub(crate) fn worth(
        &self,
        expression: &'c Expression,
        binding: &Binding<'c>,
        aggregates: &[Option<Term<'c>>],
    ) -> Worth<'c> {
        self.step(1)?;
        let of = |expression: &'c Expression| self.worth(expression, binding, aggregates);
        let boolean = |value: Option<bool>| Ok(value.map(Term::Boolean));
        match expression {
            Expression::Variable(slot) => Ok(binding.get(*slot).cloned().flatten()),
            Expression::Constant(constant) => Ok(Some(Term::of(constant))),
            Expression::Bound(slot) => {
                boolean(Some(binding.get(*slot).is_some_and(Option::is_some)))
            }
            Expression::Aggregate(number) => Ok(aggregates.get(*number).cloned().flatten()),
            Expression::Exists(group) => self
                .exists(group, binding)
                .map(|is| Some(Term::Boolean(is))),
            Expression::Not(inner) => boolean(of(inner)?.as_ref().and_then(truth).map(|is| !is)),
            Expression::And(all) => self.all(all, false, &of),
            Expression::Or(all) => self.all(all, true, &of),
            Expression::Compare(comparison, left, right) => {
                let (Some(left), Some(right)) = (of(left)?, of(right)?) else {
                    return Ok(None);
                };
                boolean(self.compare(*comparison, &left, &right))
            }
            Expression::In(value, all) => {
                let Some(value) = of(value)? else {
                    return Ok(None);
                };
                let mut is_unsure = false;
                for one in all {
                    match of(one)?.and_then(|one| value.equals(&one, self.data)) {
                        Some(true) => return boolean(Some(true)),
                        Some(false) => {}
                        None => is_unsure = true,
                    }
                }
                boolean((!is_unsure).then_some(false))
            }
            Expression::Call(function, arguments) => self.call(*function, arguments, &of),
        }
    }

    /// `||` if one of them decides as `decides`, `&&` likewise; what has no value decides nothing.
    fn all(
        &self,
        all: &'c [Expression],
        decides: bool,
        of: &dyn Fn(&'c Expression) -> Worth<'c>,
    ) -> Worth<'c> {
        let mut is_unsure = false;
        for one in all {
            match of(one)?.as_ref().and_then(truth) {
                Some(is) if is == decides => return Ok(Some(Term::Boolean(decides))),
                Some(_) => {}
                None => is_unsure = true,
            }
        }
        Ok((!is_unsure).then_some(Term::Boolean(!decides)))
    }

    fn compare(&self, comparison: Comparison, left: &Term<'c>, right: &Term<'c>) -> Option<bool> {
        let order = |is: fn(Ordering) -> bool| left.compare(right).map(is);
        match comparison {
            Comparison::Equal => left.equals(right, self.data),
            Comparison::Unequal => left.equals(right, self.data).map(|is| !is),
            Comparison::Less => order(Ordering::is_lt),
            Comparison::LessOrEqual => order(Ordering::is_le),
            Comparison::Greater => order(Ordering::is_gt),
            Comparison::GreaterOrEqual => order(Ordering::is_ge),
        }
    }

    fn call(
        &self,
        function: Function,
        arguments: &'c [Expression],
        of: &dyn Fn(&'c Expression) -> Worth<'c>,
    ) -> Worth<'c> {
        match function {
            Function::Coalesce => {
                for argument in arguments {
                    if let Some(value) = of(argument)? {
                        return Ok(Some(value));
                    }
                }
                return Ok(None);
            }
            Function::If => {
                let [condition, then, otherwise] = arguments else {
                    return Ok(None);
                };
                return match of(condition)?.as_ref().and_then(truth) {
                    Some(true) => of(then),
                    Some(false) => of(otherwise),
                    None => Ok(None),
                };
            }
            _ => {}
        }
        let mut values = Vec::with_capacity(arguments.len());
        for argument in arguments {
            let Some(value) = of(argument)? else {
                return Ok(None);
            };
            values.push(value);
        }
        let Some(first) = values.first() else {
            return Ok(None);
        };
        let text = |place: usize| match values.get(place) {
            Some(Term::Text(text)) => Some(text),
            _ => None,
        };
        let both = || Some((text(0)?, text(1)?));
        Ok(match function {
            Function::IsIri => Some(Term::Boolean(first.is_iri())),
            Function::IsBlank => Some(Term::Boolean(first.is_blank())),
            Function::IsLiteral => Some(Term::Boolean(!first.is_iri() && !first.is_blank())),
            Function::Str => first.shown(self.data).map(Term::Text),
            Function::LowerCase => text(0).map(|text| Term::text(text.to_lowercase())),
            Function::UpperCase => text(0).map(|text| Term::text(text.to_uppercase())),
            Function::Length => text(0)
                .and_then(|text| i64::try_from(text.chars().count()).ok())
                .map(Term::Integer),
            Function::Contains => both().map(|(text, part)| Term::Boolean(text.contains(&**part))),
            Function::Starts => both().map(|(text, part)| Term::Boolean(text.starts_with(&**part))),
            Function::Ends => both().map(|(text, part)| Term::Boolean(text.ends_with(&**part))),
            Function::Integer => match first {
                Term::Text(text) => text.trim().parse().ok().map(Term::Integer),
                Term::Integer(number) => Some(Term::Integer(*number)),
                Term::Boolean(value) => Some(Term::Integer(i64::from(*value))),
                _ => None,
            },
            Function::Regex => {
                let Some((text, expression)) = both() else {
                    return Ok(None);
                };
                let flags = match values.get(2) {
                    None => "",
                    Some(Term::Text(flags)) => flags,
                    Some(_) => return Ok(None),
                };
                self.step(u64::try_from(text.len() / 64).unwrap_or(u64::MAX))?;
                let found = self.regex(expression, flags)?;
                found.map(|regex| Term::Boolean(regex.is_match(text)))
            }
            Function::Coalesce | Function::If => None,
        })
    }

    /// A regular expression, compiled once; none if it is no such.
    fn regex(&self, expression: &str, flags: &str) -> Result<Option<Regex>, Error> {
        let key = (expression.to_owned(), flags.to_owned());
        if let Some(known) = self.expressions.borrow().get(&key) {
            return Ok(known.clone());
        }
        self.step(COMPILING)?;
        let mut builder = RegexBuilder::new(expression);
        builder
            .size_limit(EXPRESSION_BYTES)
            .dfa_size_limit(EXPRESSION_BYTES);
        let mut is_known = true;
        for flag in flags.chars() {
            match flag {
                'i' => drop(builder.case_insensitive(true)),
                's' => drop(builder.dot_matches_new_line(true)),
                'm' => drop(builder.multi_line(true)),
                'x' => drop(builder.ignore_whitespace(true)),
                _ => is_known = false,
            }
        }
        let built = builder.build().ok().filter(|_| is_known);
        let mut all = self.expressions.borrow_mut();
        if all.len() >= EXPRESSIONS {
            all.clear();
        }
        all.insert(key, built.clone());
        Ok(built)
    }
}

/// Whether a value counts as true; `None` for what can't.
fn truth(value: &Term<'_>) -> Option<bool> {
    match value {
        Term::Boolean(value) => Some(*value),
        Term::Text(text) => Some(!text.is_empty()),
        Term::Integer(number) => Some(*number != 0),
        Term::Decimal(number) => Some(*number != 0.0),
        Term::Iri(_) | Term::Node(_) => None,
    }
}
