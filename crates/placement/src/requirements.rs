//! What a user demands of the host: OpenNebula's `REQUIREMENTS`.
//!
//! ```text
//! Expression = Term ( "|" Term )*
//! Term       = Factor ( "&" Factor )*
//! Factor     = "!" Factor | "(" Expression ")" | NAME Operator Value
//! Operator   = "=" | "!=" | "<" | ">"          (texts: the first two only)
//! Value      = number | text in quotes, with the shell's wildcards `*` and `?`
//! ```
//!
//! The attributes a host has are those of `host`. Others are refused when the expression is read: a demand that nothing
//! can fulfil is better told at once.

use crate::host::{Attribute, HostLoad, Value};

/// Deepest nesting of brackets and negations.
const DEPTH_AT_MOST: usize = 32;

/// A text that is no expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not understood at character {position}: {problem}")]
pub struct RequirementSyntax {
    /// Counted from 1.
    pub position: usize,
    /// What is wrong there.
    pub problem: String,
}

/// An expression over the attributes of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirements(Expression);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Expression {
    All(Vec<Expression>),
    Any(Vec<Expression>),
    Not(Box<Expression>),
    Number(Attribute, Operator, i64),
    Text(Attribute, bool, Pattern),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    Greater,
}

impl Requirements {
    /// Reads an expression; an empty one is always true.
    ///
    /// # Errors
    /// If it doesn't follow the grammar, or names an attribute that hosts don't have.
    pub fn parse(text: &str) -> Result<Self, RequirementSyntax> {
        let mut parser = Parser { text, at: 0 };
        parser.blanks();
        if parser.rest().is_empty() {
            return Ok(Self(Expression::All(Vec::new())));
        }
        let expression = parser.expression(0)?;
        if parser.rest().is_empty() {
            Ok(Self(expression))
        } else {
            Err(parser.error("expected `&`, `|` or the end"))
        }
    }

    /// What no host fulfils: for an expression that can't be read any more.
    #[must_use]
    pub const fn never() -> Self {
        Self(Expression::Any(Vec::new()))
    }

    /// Whether the host, as it is now, fulfils them.
    #[must_use]
    pub fn met_by(&self, host: &HostLoad) -> bool {
        self.0.holds(host)
    }
}

impl Expression {
    fn holds(&self, host: &HostLoad) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.holds(host)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(host)),
            Self::Not(inner) => !inner.holds(host),
            Self::Number(name, operator, wanted) => {
                let has = match host.value(*name) {
                    Value::Number(has) => i64::try_from(has).unwrap_or(i64::MAX),
                    Value::Text(_) => return false,
                };
                match operator {
                    Operator::Equal => has == *wanted,
                    Operator::NotEqual => has != *wanted,
                    Operator::Less => has < *wanted,
                    Operator::Greater => has > *wanted,
                }
            }
            Self::Text(name, equal, pattern) => match host.value(*name) {
                Value::Text(has) => pattern.fits(has) == *equal,
                Value::Number(has) => pattern.fits(&has.to_string()) == *equal,
            },
        }
    }
}

/// A text with the shell's `*` and `?`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern(String);

impl Pattern {
    /// Whether a text is like it. Allocates nothing: it is asked of every host.
    fn fits(&self, text: &str) -> bool {
        let (mut rest, mut pattern) = (text.chars(), self.0.chars());
        // Where to go on if what follows the last star doesn't fit: the star takes one more.
        let mut retry: Option<(std::str::Chars<'_>, std::str::Chars<'_>)> = None;
        loop {
            let before = (rest.clone(), pattern.clone());
            match (rest.next(), pattern.next()) {
                (_, Some('*')) => {
                    rest = before.0;
                    retry = Some((rest.clone(), pattern.clone()));
                }
                (None, None) => return true,
                (Some(c), Some(wanted)) if wanted == c || wanted == '?' => {}
                _ => {
                    let Some((from, after_star)) = &mut retry else {
                        return false;
                    };
                    if from.next().is_none() {
                        return false;
                    }
                    (rest, pattern) = (from.clone(), after_star.clone());
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

    fn blanks(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn error(&self, problem: impl Into<String>) -> RequirementSyntax {
        let before = self.text.get(..self.at).unwrap_or_default();
        RequirementSyntax {
            position: before.chars().count() + 1,
            problem: problem.into(),
        }
    }

    /// Takes this sign, once or (as programmers write it) twice.
    fn sign(&mut self, sign: &str) -> bool {
        self.blanks();
        let found = self.rest().starts_with(sign);
        for _ in 0..2 {
            if self.rest().starts_with(sign) {
                self.at += sign.len();
            }
        }
        found
    }

    fn expression(&mut self, depth: usize) -> Result<Expression, RequirementSyntax> {
        let mut terms = vec![self.term(depth)?];
        while self.sign("|") {
            terms.push(self.term(depth)?);
        }
        Ok(Expression::Any(terms))
    }

    fn term(&mut self, depth: usize) -> Result<Expression, RequirementSyntax> {
        let mut factors = vec![self.factor(depth)?];
        while self.sign("&") {
            factors.push(self.factor(depth)?);
        }
        Ok(Expression::All(factors))
    }

    fn factor(&mut self, depth: usize) -> Result<Expression, RequirementSyntax> {
        self.blanks();
        if depth >= DEPTH_AT_MOST {
            return Err(self.error(format!("nested deeper than {DEPTH_AT_MOST}")));
        }
        if self.rest().starts_with('!') {
            self.at += 1;
            return Ok(Expression::Not(Box::new(self.factor(depth + 1)?)));
        }
        if self.rest().starts_with('(') {
            self.at += 1;
            let inner = self.expression(depth + 1)?;
            self.blanks();
            if !self.rest().starts_with(')') {
                return Err(self.error("expected `)`"));
            }
            self.at += 1;
            self.blanks();
            return Ok(inner);
        }
        let comparison = self.comparison()?;
        self.blanks();
        Ok(comparison)
    }

    fn comparison(&mut self) -> Result<Expression, RequirementSyntax> {
        let begin = self.at;
        let length = self
            .rest()
            .bytes()
            .take_while(|b| b.is_ascii_alphanumeric() || *b == b'_')
            .count();
        let given = self.rest().get(..length).unwrap_or_default();
        if given.is_empty() {
            return Err(self.error("expected the name of a host's attribute"));
        }
        let Some(name) = Attribute::named(given) else {
            return Err(self.error(format!(
                "hosts have no attribute `{}`; they have {}",
                given
                    .to_ascii_uppercase()
                    .chars()
                    .take(64)
                    .collect::<String>(),
                Attribute::names(|_| true)
            )));
        };
        self.at += length;
        let operator = self.operator()?;
        self.blanks();
        self.at_value(begin, name, operator)
    }

    fn operator(&mut self) -> Result<Operator, RequirementSyntax> {
        self.blanks();
        for (sign, operator) in [
            ("!=", Operator::NotEqual),
            ("<", Operator::Less),
            (">", Operator::Greater),
        ] {
            if self.rest().starts_with(sign) {
                self.at += sign.len();
                return Ok(operator);
            }
        }
        if self.sign("=") {
            return Ok(Operator::Equal);
        }
        Err(self.error("expected `=`, `!=`, `<` or `>`"))
    }

    fn at_value(
        &mut self,
        begin: usize,
        name: Attribute,
        operator: Operator,
    ) -> Result<Expression, RequirementSyntax> {
        // In a template, quotes within quotes have a backslash.
        let rest = self.rest();
        for quote in ["\\\"", "\"", "'"] {
            let Some(inside) = rest.strip_prefix(quote) else {
                continue;
            };
            let Some(length) = inside.find(quote) else {
                return Err(self.error("this text has no end"));
            };
            let equal = match operator {
                Operator::Equal => true,
                Operator::NotEqual => false,
                Operator::Less | Operator::Greater => {
                    self.at = begin;
                    return Err(self.error("texts are compared with `=` and `!=` only"));
                }
            };
            self.at += length + 2 * quote.len();
            let pattern = inside.get(..length).unwrap_or_default().to_owned();
            return Ok(Expression::Text(name, equal, Pattern(pattern)));
        }
        let length = rest
            .bytes()
            .take_while(|b| b.is_ascii_digit() || b"-+".contains(b))
            .count();
        let number = rest.get(..length).unwrap_or_default();
        match number.parse() {
            Ok(number) => {
                self.at += length;
                Ok(Expression::Number(name, operator, number))
            }
            Err(_) => Err(self.error("expected a whole number, or a text in quotes")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Demand, HostFacts, host::example};

    fn host() -> HostLoad {
        let demand = |cpu_percent, memory_kib| Demand {
            cpu_percent,
            memory_kib,
        };
        let mut host = example("h", demand(400, 4096), demand(100, 1024));
        *host.facts = HostFacts {
            name: "node-12.example".into(),
            hypervisor: "kvm".into(),
            cpu_model: "any".into(),
            cpu_flags: " fpu avx2 ".into(),
            machines: 3,
            ..HostFacts::default()
        };
        host
    }

    #[test]
    fn expressions_are_evaluated() {
        for (text, expected) in [
            ("", true),
            ("NAME = \"node-12.example\"", true),
            ("hostname=\\\"node-12.example\\\"", true),
            ("HOSTNAME = 'node-*'", true),
            ("NAME = 'node-?2.*e'", true),
            ("NAME != 'node-*'", false),
            ("NAME = 'node-'", false),
            ("FREECPU > 299 & FREECPU < 301", true),
            ("FREEMEMORY = 3072 && ARCH = 'x86_64'", true),
            ("HYPERVISOR = 'tcg' | RUNNING_VMS = 3", true),
            ("!(HYPERVISOR = 'kvm') | RUNNING_VMS > 3", false),
            ("! HYPERVISOR = 'tcg' & TOTALCPU != 0", true),
            ("TOTALMEMORY > -1", true),
            ("CPUFLAGS = '* avx2 *'", true),
            ("CPUFLAGS = '* avx *'", false),
        ] {
            let met = Requirements::parse(text).map(|requirements| requirements.met_by(&host()));
            assert_eq!(met, Ok(expected), "{text}");
        }
        assert!(!Requirements::never().met_by(&host()));
    }

    #[test]
    fn what_is_no_expression_is_refused_with_its_place() {
        for text in [
            "NAME",
            "NAME =",
            "NAME = node",
            "NAME = 'node",
            "NAME > 'node'",
            "(NAME = 'n'",
            "NAME = 'n')",
            "NAME = 'n' NAME = 'n'",
            "CLUSTER = 'x'",
            "= 3",
            "&",
        ] {
            assert!(Requirements::parse(text).is_err(), "{text}");
        }
        let error = Requirements::parse("ARCH = 'x86_64' & CLUSTER = 'x'").unwrap_err();
        assert!(
            error.to_string().starts_with(
                "is not understood at character 19: hosts have no attribute `CLUSTER`; they have NAME,"
            ),
            "{error}"
        );
        assert!(Requirements::parse(&"(".repeat(4000)).is_err());
        assert!(Requirements::parse(&"!".repeat(4000)).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in r#"[NAME()&|!=<>"'\\ 0-9*é]{0,60}"#) {
            if let Ok(requirements) = Requirements::parse(&text) {
                let _ = requirements.met_by(&host());
            }
        }

        #[test]
        fn every_text_is_like_itself_and_like_a_star(text in "[a-c*?]{0,12}") {
            let like = |pattern: &str| Pattern(pattern.to_owned()).fits(&text);
            prop_assert!(like(&text));
            prop_assert!(like("*"));
            prop_assert!(like(&["*", &text, "*"].concat()));
        }
    }
}
