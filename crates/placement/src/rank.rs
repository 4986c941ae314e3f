//! Which hosts a user likes best: OpenNebula's `RANK`.
//!
//! ```text
//! Sum     = Product ( ("+" | "-") Product )*
//! Product = Value ( ("*" | "/") Value )*
//! Value   = "-" Value | "(" Sum ")" | NAME | number
//! ```
//!
//! The names are those of attributes that are numbers. The host with the highest value is taken; what can't be computed (a
//! division by zero) is the lowest.

use crate::host::{Attribute, HostLoad, Value};

/// Deepest nesting of brackets and signs.
const DEPTH_AT_MOST: usize = 32;
/// Longest expression in bytes; it bounds how deep its terms can be, too.
const BYTES_AT_MOST: usize = 1024;
/// A text that is no rank.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not understood at character {position}: {problem}")]
pub struct RankSyntax {
    /// Counted from 1.
    pub position: usize,
    /// What is wrong there.
    pub problem: String,
}

/// An expression whose value is the higher, the better a host is liked.
#[derive(Clone, Debug, PartialEq)]
pub struct Rank(Term);

#[derive(Clone, Debug, PartialEq)]
enum Term {
    Number(f64),
    Attribute(Attribute),
    Negative(Box<Term>),
    Both(Box<Term>, Operator, Box<Term>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Plus,
    Minus,
    Times,
    Over,
}

impl Rank {
    /// Reads a rank; an empty one likes all hosts the same.
    ///
    /// # Errors
    /// If it doesn't follow the grammar, or names an attribute that hosts don't have, or that is no number.
    pub fn parse(text: &str) -> Result<Self, RankSyntax> {
        let mut parser = Parser { text, at: 0 };
        if text.len() > BYTES_AT_MOST {
            return Err(parser.error(format!("longer than {BYTES_AT_MOST} bytes")));
        }
        if parser.next().is_none() {
            return Ok(Self(Term::Number(0.0)));
        }
        let term = parser.sum(0)?;
        match parser.next() {
            None => Ok(Self(term)),
            Some(_) => Err(parser.error("expected `+`, `-`, `*`, `/` or the end")),
        }
    }

    /// How well the host is liked as it is now.
    #[must_use]
    pub fn of(&self, host: &HostLoad) -> f64 {
        let value = self.0.of(host);
        if value.is_finite() {
            value
        } else {
            f64::NEG_INFINITY
        }
    }
}

impl Term {
    #[allow(
        clippy::cast_precision_loss,
        reason = "amounts of a host are far below 2^53"
    )]
    fn of(&self, host: &HostLoad) -> f64 {
        match self {
            Self::Number(number) => *number,
            Self::Attribute(name) => match host.value(*name) {
                Value::Number(number) => number as f64,
                Value::Text(_) => f64::NAN,
            },
            Self::Negative(term) => -term.of(host),
            Self::Both(left, operator, right) => {
                let (left, right) = (left.of(host), right.of(host));
                match operator {
                    Operator::Plus => left + right,
                    Operator::Minus => left - right,
                    Operator::Times => left * right,
                    Operator::Over => left / right,
                }
            }
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// The next character that is no blank, which stays.
    fn next(&mut self) -> Option<char> {
        self.at += self.rest().len() - self.rest().trim_start().len();
        self.rest().chars().next()
    }

    /// Takes the next character if it is one of these.
    fn sign(&mut self, signs: &[(char, Operator)]) -> Option<Operator> {
        let next = self.next()?;
        let (_, operator) = signs.iter().find(|(sign, _)| *sign == next)?;
        self.at += 1;
        Some(*operator)
    }

    fn error(&self, problem: impl Into<String>) -> RankSyntax {
        let before = self.text.get(..self.at).unwrap_or_default();
        RankSyntax {
            position: before.chars().count() + 1,
            problem: problem.into(),
        }
    }

    fn sum(&mut self, depth: usize) -> Result<Term, RankSyntax> {
        let mut sum = self.product(depth)?;
        while let Some(operator) = self.sign(&[('+', Operator::Plus), ('-', Operator::Minus)]) {
            sum = Term::Both(Box::new(sum), operator, Box::new(self.product(depth)?));
        }
        Ok(sum)
    }

    fn product(&mut self, depth: usize) -> Result<Term, RankSyntax> {
        let mut product = self.value(depth)?;
        while let Some(operator) = self.sign(&[('*', Operator::Times), ('/', Operator::Over)]) {
            product = Term::Both(Box::new(product), operator, Box::new(self.value(depth)?));
        }
        Ok(product)
    }

    fn value(&mut self, depth: usize) -> Result<Term, RankSyntax> {
        if depth >= DEPTH_AT_MOST {
            return Err(self.error(format!("nested deeper than {DEPTH_AT_MOST}")));
        }
        match self.next() {
            Some('-') => {
                self.at += 1;
                Ok(Term::Negative(Box::new(self.value(depth + 1)?)))
            }
            Some('(') => {
                self.at += 1;
                let inner = self.sum(depth + 1)?;
                if self.next() != Some(')') {
                    return Err(self.error("expected `)`"));
                }
                self.at += 1;
                Ok(inner)
            }
            Some(c) if c.is_ascii_digit() => self.number(),
            Some(c) if c.is_ascii_alphabetic() => self.attribute(),
            _ => Err(self.error("expected a number, an attribute of hosts, `-` or `(`")),
        }
    }

    /// As many bytes as hold.
    fn take(&self, is_part: impl Fn(u8) -> bool) -> &'a str {
        let length = self.rest().bytes().take_while(|b| is_part(*b)).count();
        self.rest().get(..length).unwrap_or_default()
    }

    fn number(&mut self) -> Result<Term, RankSyntax> {
        let digits = self.take(|b| b.is_ascii_digit() || b == b'.');
        let number: f64 = digits
            .parse()
            .map_err(|_| self.error(format!("`{digits}` is no number")))?;
        self.at += digits.len();
        Ok(Term::Number(number))
    }

    fn attribute(&mut self) -> Result<Term, RankSyntax> {
        let given = self.take(|b| b.is_ascii_alphanumeric() || b == b'_');
        let Some(name) = Attribute::named(given).filter(|name| name.is_number()) else {
            return Err(self.error(format!(
                "hosts have no number `{}`; they have {}",
                given.chars().take(64).collect::<String>(),
                Attribute::names(Attribute::is_number)
            )));
        };
        self.at += given.len();
        Ok(Term::Attribute(name))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Demand, host::example};

    fn host() -> HostLoad {
        let demand = |cpu_percent, memory_kib| Demand {
            cpu_percent,
            memory_kib,
        };
        let mut host = example("h", demand(400, 4096), demand(100, 1024));
        host.facts.machines = 3;
        host
    }

    #[test]
    fn ranks_are_computed() {
        for (text, expected) in [
            ("", 0.0),
            ("- RUNNING_VMS", -3.0),
            ("-RUNNING_VMS", -3.0),
            ("freecpu", 300.0),
            ("FREECPU + 2 * RUNNING_VMS", 306.0),
            ("(FREECPU + 2) * RUNNING_VMS", 906.0),
            ("10 - 4 - 3", 3.0),
            ("FREEMEMORY / TOTALMEMORY", 0.75),
            ("2 * -RUNNING_VMS + .5", f64::NAN),
            ("2 * -RUNNING_VMS + 0.5", -5.5),
            ("1 / (RUNNING_VMS - 3)", f64::NEG_INFINITY),
        ] {
            let value = Rank::parse(text).map(|rank| rank.of(&host()));
            if expected.is_nan() {
                assert!(value.is_err(), "{text}");
            } else {
                assert_eq!(value, Ok(expected), "{text}");
            }
        }
    }

    #[test]
    fn what_is_no_rank_is_refused_with_its_place() {
        for text in ["NAME", "FREE", "1 +", "(1", "1)", "1 2", "1.2.3", "*", "é"] {
            assert!(Rank::parse(text).is_err(), "{text}");
        }
        let error = Rank::parse("1 + LOAD").unwrap_err();
        assert!(
            error.to_string().starts_with(
                "is not understood at character 5: hosts have no number `LOAD`; they have TOTALCPU,"
            ),
            "{error}"
        );
        assert!(Rank::parse(&"(".repeat(4000)).is_err());
        assert!(Rank::parse(&"-".repeat(400)).is_err());
        assert!(Rank::parse(&"1+".repeat(4000)).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in r"[FREMOYUNIG_VS()+*/\-. 0-9é]{0,60}") {
            if let Ok(rank) = Rank::parse(&text) {
                prop_assert!(!rank.of(&host()).is_nan());
            }
        }
    }
}
