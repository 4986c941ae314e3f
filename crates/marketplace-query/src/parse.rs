//! From text to a query.

mod expression;
mod group;
mod select;

use std::collections::HashMap;

use crate::Error;
use crate::syntax::{Query, Slot};
use crate::token::{Placed, Token, place, tokens};

/// Bytes of a query.
const LONGEST: usize = 16 << 10;
/// How deep groups, expressions and queries are in each other.
const DEEPEST: usize = 24;
/// Variables, those without names included.
const VARIABLES: usize = 64;
/// Triples of a query.
const TRIPLES: usize = 64;

/// Prefixes that needn't be declared.
const PREFIXES: [(&str, &str); 5] = [
    ("rdf", "http://www.w3.org/1999/02/22-rdf-syntax-ns#"),
    ("dcterms", "http://purl.org/dc/terms/"),
    ("slreq", "http://mp.stratuslab.eu/slreq#"),
    ("slterms", "http://mp.stratuslab.eu/slterms#"),
    ("xsd", "http://www.w3.org/2001/XMLSchema#"),
];

impl std::str::FromStr for Query {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.len() > LONGEST {
            return Err(Error::TooLarge(format!(
                "it is longer than {LONGEST} bytes"
            )));
        }
        let mut parser = Parser {
            text,
            tokens: tokens(text)?,
            at: 0,
            depth: 0,
            prefixes: PREFIXES
                .iter()
                .map(|(name, iri)| ((*name).to_owned(), (*iri).to_owned()))
                .collect(),
            scopes: vec![Scope::default()],
            slots: 0,
            triples: 0,
        };
        parser.query()
    }
}

/// The variables of a query, or of one inside it.
#[derive(Debug, Default)]
struct Scope {
    slots: HashMap<String, Slot>,
    /// In the order in which they occur.
    names: Vec<(String, Slot)>,
}

struct Parser<'q> {
    text: &'q str,
    tokens: Vec<Placed>,
    at: usize,
    depth: usize,
    prefixes: HashMap<String, String>,
    /// The innermost last.
    scopes: Vec<Scope>,
    slots: usize,
    triples: usize,
}

impl Parser<'_> {
    fn query(&mut self) -> Result<Query, Error> {
        loop {
            if self.keyword("PREFIX") {
                let Token::Prefixed(name, local) = self.next() else {
                    return Err(self.expected("a prefix such as `dcterms:`"));
                };
                let Token::Iri(iri) = self.next() else {
                    return Err(self.expected("the IRI of a prefix"));
                };
                if !local.is_empty() {
                    return Err(self.expected("a prefix such as `dcterms:`"));
                }
                self.prefixes.insert(name, iri);
            } else if self.is_keyword("BASE") {
                return Err(Error::NotSupported("BASE".to_owned()));
            } else {
                break;
            }
        }
        for other in ["ASK", "CONSTRUCT", "DESCRIBE"] {
            if self.is_keyword(other) {
                return Err(Error::NotAllowed(format!(
                    "Write SELECT instead of {other}."
                )));
            }
        }
        for change in [
            "INSERT", "DELETE", "LOAD", "CLEAR", "CREATE", "DROP", "COPY", "MOVE", "ADD", "WITH",
        ] {
            if self.is_keyword(change) {
                return Err(Error::NotAllowed(format!(
                    "{change} would change something; only SELECT may be asked."
                )));
            }
        }
        let select = self.select()?;
        if !matches!(self.peek(), Token::End) {
            return Err(self.expected("the end"));
        }
        let names = self.scopes.first().map(|scope| &scope.names);
        let name = |slot: Slot| {
            let mut names = names.into_iter().flatten();
            let found = names.find(|(_, other)| *other == slot);
            found.map(|(name, _)| name.clone()).unwrap_or_default()
        };
        Ok(Query {
            names: select
                .columns
                .iter()
                .map(|column| name(column.slot))
                .collect(),
            select,
            slots: self.slots,
        })
    }

    fn peek(&self) -> &Token {
        self.tokens
            .get(self.at)
            .map_or(&Token::End, |(token, _)| token)
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn is_symbol(&self, symbol: &str) -> bool {
        matches!(self.peek(), Token::Symbol(here) if *here == symbol)
    }

    fn symbol(&mut self, symbol: &str) -> bool {
        let is = self.is_symbol(symbol);
        self.at += usize::from(is);
        is
    }

    fn expect(&mut self, symbol: &'static str) -> Result<(), Error> {
        if self.symbol(symbol) {
            Ok(())
        } else {
            Err(self.expected(symbol))
        }
    }

    fn is_keyword(&self, word: &str) -> bool {
        matches!(self.peek(), Token::Word(here) if here.eq_ignore_ascii_case(word))
    }

    fn keyword(&mut self, word: &str) -> bool {
        let is = self.is_keyword(word);
        self.at += usize::from(is);
        is
    }

    fn expected(&self, expected: &'static str) -> Error {
        let at = self
            .tokens
            .get(self.at)
            .map_or(self.text.len(), |(_, at)| *at);
        let found: String = self.peek().to_string().chars().take(60).collect();
        Error::Syntax {
            expected,
            at: place(self.text, at),
            found: format!("`{}`", found.escape_debug()),
        }
    }

    /// Runs `inner` one level deeper.
    fn deeper<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        if self.depth >= DEEPEST {
            return Err(Error::TooLarge(format!(
                "it is more than {DEEPEST} levels deep"
            )));
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    fn new_slot(&mut self) -> Result<Slot, Error> {
        if self.slots >= VARIABLES {
            return Err(Error::TooLarge(format!(
                "it has more than {VARIABLES} variables"
            )));
        }
        self.slots += 1;
        Ok(self.slots - 1)
    }

    /// The variable of this name in the innermost query.
    fn slot(&mut self, name: &str) -> Result<Slot, Error> {
        if let Some(slot) = self.scopes.last().and_then(|scope| scope.slots.get(name)) {
            return Ok(*slot);
        }
        let slot = self.new_slot()?;
        if let Some(scope) = self.scopes.last_mut() {
            scope.slots.insert(name.to_owned(), slot);
            if !name.starts_with("_:") {
                scope.names.push((name.to_owned(), slot));
            }
        }
        Ok(slot)
    }

    fn resolve(&self, prefix: &str, local: &str) -> Result<String, Error> {
        match self.prefixes.get(prefix) {
            Some(iri) => Ok(format!("{iri}{local}")),
            None => Err(self.expected("a prefix that is declared (PREFIX name: <iri>)")),
        }
    }
}
