//! Expressions, from what binds least to what binds most.

use super::Parser;
use crate::Error;
use crate::syntax::{Aggregate, Comparison, Expression, Function, Kind};
use crate::token::Token;

/// Where aggregates go; `None` where there may be none.
pub(super) type Aggregates<'a> = Option<&'a mut Vec<Aggregate>>;

/// Name, function, least and most arguments.
const FUNCTIONS: [(&str, Function, usize, usize); 14] = [
    ("REGEX", Function::Regex, 2, 3),
    ("STR", Function::Str, 1, 1),
    ("LCASE", Function::LowerCase, 1, 1),
    ("UCASE", Function::UpperCase, 1, 1),
    ("STRLEN", Function::Length, 1, 1),
    ("CONTAINS", Function::Contains, 2, 2),
    ("STRSTARTS", Function::Starts, 2, 2),
    ("STRENDS", Function::Ends, 2, 2),
    ("ISIRI", Function::IsIri, 1, 1),
    ("ISURI", Function::IsIri, 1, 1),
    ("ISBLANK", Function::IsBlank, 1, 1),
    ("ISLITERAL", Function::IsLiteral, 1, 1),
    ("COALESCE", Function::Coalesce, 1, 16),
    ("IF", Function::If, 3, 3),
];

const INTEGER: &str = "http://www.w3.org/2001/XMLSchema#integer";

const COMPARISONS: [(&str, Comparison); 6] = [
    ("=", Comparison::Equal),
    ("!=", Comparison::Unequal),
    ("<=", Comparison::LessOrEqual),
    (">=", Comparison::GreaterOrEqual),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
];

impl Parser<'_> {
    /// What follows `FILTER`.
    pub(super) fn constraint(&mut self) -> Result<Expression, Error> {
        match self.peek() {
            Token::Symbol("(") | Token::Word(_) | Token::Iri(_) | Token::Prefixed(..) => {
                self.primary(&mut None)
            }
            _ => Err(self.expected("( or a function")),
        }
    }

    pub(super) fn expression(
        &mut self,
        aggregates: &mut Aggregates<'_>,
    ) -> Result<Expression, Error> {
        self.deeper(|parser| {
            let mut all = vec![parser.both(aggregates)?];
            while parser.symbol("||") {
                all.push(parser.both(aggregates)?);
            }
            Ok(one_or(all, Expression::Or))
        })
    }

    fn both(&mut self, aggregates: &mut Aggregates<'_>) -> Result<Expression, Error> {
        let mut all = vec![self.comparison(aggregates)?];
        while self.symbol("&&") {
            all.push(self.comparison(aggregates)?);
        }
        Ok(one_or(all, Expression::And))
    }

    fn comparison(&mut self, aggregates: &mut Aggregates<'_>) -> Result<Expression, Error> {
        let left = self.unary(aggregates)?;
        for (symbol, comparison) in COMPARISONS {
            if self.symbol(symbol) {
                let right = self.unary(aggregates)?;
                return Ok(Expression::Compare(
                    comparison,
                    Box::new(left),
                    Box::new(right),
                ));
            }
        }
        let is_not = self.keyword("NOT");
        if self.keyword("IN") {
            let all = self.arguments(aggregates)?;
            let is_in = Expression::In(Box::new(left), all);
            return Ok(if is_not {
                Expression::Not(Box::new(is_in))
            } else {
                is_in
            });
        }
        if is_not {
            return Err(self.expected("IN"));
        }
        if let Token::Symbol(symbol @ ("+" | "-" | "*" | "/")) = self.peek() {
            return Err(Error::NotSupported(format!("reckoning (`{symbol}`)")));
        }
        Ok(left)
    }

    fn unary(&mut self, aggregates: &mut Aggregates<'_>) -> Result<Expression, Error> {
        if self.symbol("!") {
            let of = self.deeper(|parser| parser.unary(aggregates))?;
            return Ok(Expression::Not(Box::new(of)));
        }
        self.primary(aggregates)
    }

    pub(super) fn primary(&mut self, aggregates: &mut Aggregates<'_>) -> Result<Expression, Error> {
        match self.peek().clone() {
            Token::Variable(name) => {
                self.at += 1;
                Ok(Expression::Variable(self.slot(&name)?))
            }
            Token::Symbol("(") => {
                self.at += 1;
                let inner = self.expression(aggregates)?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Word(word)
                if !["true", "false"]
                    .iter()
                    .any(|it| word.eq_ignore_ascii_case(it)) =>
            {
                self.at += 1;
                self.call(&word, aggregates)
            }
            _ => {
                let constant = self.constant()?;
                if !self.is_symbol("(") {
                    return Ok(Expression::Constant(constant));
                }
                match constant {
                    crate::term::Constant::Iri(iri) if iri == INTEGER => {
                        let all = self.arguments(aggregates)?;
                        counted("xsd:integer", &all, 1, 1)?;
                        Ok(Expression::Call(Function::Integer, all))
                    }
                    crate::term::Constant::Iri(iri) => {
                        Err(Error::NotSupported(format!("the function <{iri}>")))
                    }
                    _ => Err(self.expected("an operator")),
                }
            }
        }
    }

    fn call(&mut self, word: &str, aggregates: &mut Aggregates<'_>) -> Result<Expression, Error> {
        let name = word.to_ascii_uppercase();
        let kind = match name.as_str() {
            "BOUND" => {
                self.expect("(")?;
                let Token::Variable(name) = self.next() else {
                    self.at -= 1;
                    return Err(self.expected("a variable"));
                };
                let slot = self.slot(&name)?;
                self.expect(")")?;
                return Ok(Expression::Bound(slot));
            }
            "EXISTS" => return self.group().map(Expression::Exists),
            "NOT" if self.keyword("EXISTS") => {
                let group = self.group()?;
                return Ok(Expression::Not(Box::new(Expression::Exists(group))));
            }
            "COUNT" => Kind::Count,
            "MIN" => Kind::Min,
            "MAX" => Kind::Max,
            "SAMPLE" => Kind::Sample,
            _ => {
                let found = FUNCTIONS.iter().find(|(known, ..)| *known == name);
                let Some((_, function, least, most)) = found else {
                    if self.is_symbol("(") {
                        return Err(Error::NotSupported(format!("the function {word}")));
                    }
                    self.at -= 1;
                    return Err(self.expected("a value"));
                };
                let all = self.arguments(aggregates)?;
                counted(word, &all, *least, *most)?;
                return Ok(Expression::Call(*function, all));
            }
        };
        let Some(aggregates) = aggregates else {
            return Err(Error::NotSupported(format!(
                "{name} outside of SELECT and ORDER BY"
            )));
        };
        self.expect("(")?;
        let is_distinct = self.keyword("DISTINCT");
        let of = if kind == Kind::Count && self.symbol("*") {
            None
        } else {
            Some(self.expression(&mut None)?)
        };
        self.expect(")")?;
        if is_distinct && of.is_none() {
            return Err(Error::NotSupported("COUNT(DISTINCT *)".to_owned()));
        }
        aggregates.push(Aggregate {
            kind,
            is_distinct,
            of,
        });
        Ok(Expression::Aggregate(aggregates.len() - 1))
    }

    /// `( … , … )`
    fn arguments(&mut self, aggregates: &mut Aggregates<'_>) -> Result<Vec<Expression>, Error> {
        self.expect("(")?;
        let mut all = Vec::new();
        if self.symbol(")") {
            return Ok(all);
        }
        loop {
            all.push(self.expression(aggregates)?);
            if !self.symbol(",") {
                self.expect(")")?;
                return Ok(all);
            }
        }
    }
}

/// The only one, or what several make.
fn one_or(mut all: Vec<Expression>, several: impl Fn(Vec<Expression>) -> Expression) -> Expression {
    match (all.pop(), all.is_empty()) {
        (Some(one), true) => one,
        (Some(last), false) => {
            all.push(last);
            several(all)
        }
        (None, _) => several(all),
    }
}

fn counted(name: &str, all: &[Expression], least: usize, most: usize) -> Result<(), Error> {
    if (least..=most).contains(&all.len()) {
        return Ok(());
    }
    Err(Error::NotSupported(format!(
        "{name} with {} arguments",
        all.len()
    )))
}
