//! What is in `{ }`.

use super::{Parser, TRIPLES};
use crate::Error;
use crate::data::Property;
use crate::syntax::{Element, Group, Part, Triple, Verb};
use crate::term::Constant;
use crate::token::Token;

const TYPE: &str = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type";
/// Kinds of text whose value is text.
const STRING: &str = "http://www.w3.org/2001/XMLSchema#string";

impl Parser<'_> {
    pub(super) fn group(&mut self) -> Result<Group, Error> {
        self.deeper(|parser| {
            parser.expect("{")?;
            let mut group = Group::default();
            if parser.is_keyword("SELECT") {
                let inner = parser.inner_select()?;
                group.elements.push(inner);
                parser.expect("}")?;
                return Ok(group);
            }
            while !parser.symbol("}") {
                parser.element(&mut group)?;
                let _ = parser.symbol(".");
            }
            Ok(group)
        })
    }

    fn element(&mut self, group: &mut Group) -> Result<(), Error> {
        if self.keyword("FILTER") {
            let filter = self.constraint()?;
            group.filters.push(filter);
        } else if self.keyword("OPTIONAL") {
            let inner = self.group()?;
            group.elements.push(Element::Optional(inner));
        } else if self.is_symbol("{") {
            let mut all = vec![self.group()?];
            while self.keyword("UNION") {
                all.push(self.group()?);
            }
            group.elements.push(match all.pop() {
                Some(one) if all.is_empty() => Element::Group(one),
                Some(last) => {
                    all.push(last);
                    Element::Union(all)
                }
                None => return Ok(()),
            });
        } else if self.is_keyword("GRAPH") {
            return Err(Error::NotAllowed(
                "GRAPH chooses nothing here; leave it out.".to_owned(),
            ));
        } else {
            for other in ["MINUS", "BIND", "VALUES", "SERVICE"] {
                if self.is_keyword(other) {
                    return Err(Error::NotSupported(other.to_owned()));
                }
            }
            let mut triples = Vec::new();
            self.triples(&mut triples)?;
            // Those that follow each other are one pattern, whose parts are tried in the best order.
            match group.elements.last_mut() {
                Some(Element::Triples(before)) => before.append(&mut triples),
                _ => group.elements.push(Element::Triples(triples)),
            }
        }
        Ok(())
    }

    /// A subject with all that is said of it.
    fn triples(&mut self, all: &mut Vec<Triple>) -> Result<(), Error> {
        let is_list = self.is_symbol("[");
        let subject = self.part(all)?;
        if matches!(subject, Part::Constant(ref constant) if !matches!(constant, Constant::Iri(_)))
        {
            return Err(Error::NotSupported(
                "text as the subject of a triple".to_owned(),
            ));
        }
        // `[ … ]` alone says something already.
        if is_list && (self.is_symbol(".") || self.is_symbol("}")) {
            return Ok(());
        }
        self.properties(&subject, all)
    }

    fn properties(&mut self, subject: &Part, all: &mut Vec<Triple>) -> Result<(), Error> {
        loop {
            let predicate = self.verb()?;
            loop {
                let object = self.part(all)?;
                self.triples += 1;
                if self.triples > TRIPLES {
                    return Err(Error::TooLarge(format!(
                        "it has more than {TRIPLES} triples"
                    )));
                }
                all.push(Triple {
                    subject: subject.clone(),
                    predicate: predicate.clone(),
                    object,
                });
                if !self.symbol(",") {
                    break;
                }
            }
            let mut has_more = false;
            while self.symbol(";") {
                has_more = true;
            }
            let is_end = [".", "}", "]"].iter().any(|end| self.is_symbol(end));
            if !has_more || is_end || matches!(self.peek(), Token::End) {
                return Ok(());
            }
            let is_keyword = ["FILTER", "OPTIONAL"]
                .iter()
                .any(|word| self.is_keyword(word));
            if is_keyword || self.is_symbol("{") {
                return Ok(());
            }
        }
    }

    fn verb(&mut self) -> Result<Verb, Error> {
        let verb = match self.peek().clone() {
            Token::Variable(name) => {
                self.at += 1;
                return Ok(Verb::Variable(self.slot(&name)?));
            }
            Token::Iri(iri) => iri,
            Token::Prefixed(prefix, local) => self.resolve(&prefix, &local)?,
            Token::Word(word) if word == "a" => TYPE.to_owned(),
            Token::Symbol(symbol @ ("^" | "!" | "(")) => {
                return Err(Error::NotSupported(format!("a property path (`{symbol}`)")));
            }
            _ => return Err(self.expected("a property")),
        };
        self.at += 1;
        if let Token::Symbol(symbol @ ("/" | "|" | "*" | "+" | "^")) = self.peek() {
            return Err(Error::NotSupported(format!("a property path (`{symbol}`)")));
        }
        Property::named(&verb)
            .map(Verb::Property)
            .ok_or(Error::UnknownProperty(verb))
    }

    /// A subject or an object.
    fn part(&mut self, all: &mut Vec<Triple>) -> Result<Part, Error> {
        match self.peek().clone() {
            Token::Variable(name) => {
                self.at += 1;
                Ok(Part::Variable(self.slot(&name)?))
            }
            Token::Blank(name) => {
                self.at += 1;
                Ok(Part::Variable(self.slot(&format!("_:{name}"))?))
            }
            Token::Symbol("[") => {
                self.at += 1;
                let part = Part::Variable(self.new_slot()?);
                if !self.symbol("]") {
                    self.deeper(|parser| parser.properties(&part, all))?;
                    self.expect("]")?;
                }
                Ok(part)
            }
            Token::Symbol("(") => Err(Error::NotSupported("a list in brackets".to_owned())),
            _ => self.constant().map(Part::Constant),
        }
    }

    /// A value that is written down.
    pub(super) fn constant(&mut self) -> Result<Constant, Error> {
        let constant = match self.peek().clone() {
            Token::Iri(iri) => Constant::Iri(iri),
            Token::Prefixed(prefix, local) => Constant::Iri(self.resolve(&prefix, &local)?),
            Token::Text(text) => {
                self.at += 1;
                if let Token::Language(tag) = self.peek() {
                    return Err(Error::NotSupported(format!("a language (`@{tag}`)")));
                }
                if self.symbol("^^") {
                    let kind = match self.peek().clone() {
                        Token::Iri(iri) => iri,
                        Token::Prefixed(prefix, local) => self.resolve(&prefix, &local)?,
                        _ => return Err(self.expected("a datatype")),
                    };
                    self.at += 1;
                    if kind != STRING {
                        return Err(Error::NotSupported(format!(
                            "the datatype <{kind}>: all is plain text"
                        )));
                    }
                }
                return Ok(Constant::Text(text));
            }
            Token::Integer(number) => Constant::Integer(number),
            Token::Decimal(number) => Constant::Decimal(number),
            Token::Word(word) if word.eq_ignore_ascii_case("true") => Constant::Boolean(true),
            Token::Word(word) if word.eq_ignore_ascii_case("false") => Constant::Boolean(false),
            Token::Symbol(sign @ ("-" | "+")) => {
                self.at += 1;
                let factor = if sign == "-" { -1 } else { 1 };
                match self.peek() {
                    Token::Integer(number) => Constant::Integer(factor * number),
                    Token::Decimal(number) if factor < 0 => Constant::Decimal(-number),
                    Token::Decimal(number) => Constant::Decimal(*number),
                    _ => return Err(self.expected("a number")),
                }
            }
            _ => return Err(self.expected("a variable or a value")),
        };
        self.at += 1;
        Ok(constant)
    }
}
