//! The answer, and how it is written: W3C "SPARQL Query Results XML Format" and "… JSON Format".

use std::collections::HashMap;

use serde_json::{Map, json};

use crate::data::Snapshot;
use crate::select::Row;
use crate::term::Term;

/// A value of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A name.
    Iri(String),
    /// What has no name; the same in the same answer.
    Blank(String),
    /// Text.
    Literal(String),
    /// A number or a truth, with its datatype.
    Typed(String, &'static str),
}

impl Value {
    /// Its text.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Iri(text) | Self::Blank(text) | Self::Literal(text) | Self::Typed(text, _) => {
                text
            }
        }
    }
}

/// An answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Names of the columns.
    pub variables: Vec<String>,
    /// Of each row a value, or none, for each column.
    pub rows: Vec<Vec<Option<Value>>>,
}

const SCHEMA: &str = "http://www.w3.org/2001/XMLSchema#";

impl Table {
    pub(crate) fn of<'c>(names: &[String], rows: &[Row<'c>], data: &'c Snapshot) -> Self {
        let mut blanks = HashMap::new();
        let mut value = |term: &Term<'c>| match term {
            Term::Node(node) if !node.is_named() => {
                let next = blanks.len();
                Value::Blank(format!("b{}", blanks.entry(*node).or_insert(next)))
            }
            Term::Integer(number) => Value::Typed(number.to_string(), "integer"),
            Term::Decimal(number) => Value::Typed(number.to_string(), "decimal"),
            Term::Boolean(is) => Value::Typed(is.to_string(), "boolean"),
            Term::Text(text) => Value::Literal(text.clone().into_owned()),
            Term::Iri(_) | Term::Node(_) => {
                Value::Iri(term.shown(data).unwrap_or_default().into_owned())
            }
        };
        let rows = rows.iter().map(|row| {
            row.iter()
                .map(|term| term.as_ref().map(&mut value))
                .collect()
        });
        Self {
            variables: names.to_vec(),
            rows: rows.collect(),
        }
    }

    /// As `application/sparql-results+xml`.
    #[must_use]
    pub fn to_xml(&self) -> String {
        let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
            <sparql xmlns=\"http://www.w3.org/2005/sparql-results#\">\n<head>\n"
            .to_owned();
        for variable in &self.variables {
            text.push_str(&format!("<variable name=\"{}\"/>\n", escaped(variable)));
        }
        text.push_str("</head>\n<results>\n");
        for row in &self.rows {
            text.push_str("<result>\n");
            for (variable, value) in self.variables.iter().zip(row) {
                let Some(value) = value else { continue };
                let inner = escaped(value.text());
                let value = match value {
                    Value::Iri(_) => format!("<uri>{inner}</uri>"),
                    Value::Blank(_) => format!("<bnode>{inner}</bnode>"),
                    Value::Literal(_) => format!("<literal>{inner}</literal>"),
                    Value::Typed(_, kind) => {
                        format!("<literal datatype=\"{SCHEMA}{kind}\">{inner}</literal>")
                    }
                };
                let variable = escaped(variable);
                text.push_str(&format!("<binding name=\"{variable}\">{value}</binding>\n"));
            }
            text.push_str("</result>\n");
        }
        text.push_str("</results>\n</sparql>\n");
        text
    }

    /// As `application/sparql-results+json`.
    #[must_use]
    pub fn to_json(&self) -> String {
        let bindings: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                let values = self.variables.iter().zip(row).filter_map(|(variable, value)| {
                    let value = value.as_ref()?;
                    let text = value.text();
                    let value = match value {
                        Value::Iri(_) => json!({"type": "uri", "value": text}),
                        Value::Blank(_) => json!({"type": "bnode", "value": text}),
                        Value::Literal(_) => json!({"type": "literal", "value": text}),
                        Value::Typed(_, kind) => {
                            json!({"type": "literal", "value": text, "datatype": format!("{SCHEMA}{kind}")})
                        }
                    };
                    Some((variable.clone(), value))
                });
                values.collect::<Map<_, _>>()
            })
            .collect();
        json!({"head": {"vars": self.variables}, "results": {"bindings": bindings}}).to_string()
    }
}

/// Text as it may stand in elements and attributes of XML; what XML can't hold at all becomes a blank.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(character),
            '\u{fffe}' | '\u{ffff}' => out.push(' '),
            control if control.is_control() => out.push(' '),
            other => out.push(other),
        }
    }
    out
}
