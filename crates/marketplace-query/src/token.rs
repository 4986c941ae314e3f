//! The words of a query.

use crate::Error;

/// A word.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Token {
    /// `<…>`
    Iri(String),
    /// `prefix:local`
    Prefixed(String, String),
    /// `?name`, `$name`
    Variable(String),
    /// `_:name`
    Blank(String),
    Text(String),
    Integer(i64),
    Decimal(f64),
    /// `@en`
    Language(String),
    /// Keywords and names of functions.
    Word(String),
    Symbol(&'static str),
    End,
}

impl std::fmt::Display for Token {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Iri(iri) => write!(out, "<{iri}>"),
            Self::Prefixed(prefix, local) => write!(out, "{prefix}:{local}"),
            Self::Variable(name) => write!(out, "?{name}"),
            Self::Blank(name) => write!(out, "_:{name}"),
            Self::Text(text) => write!(out, "\"{text}\""),
            Self::Integer(number) => write!(out, "{number}"),
            Self::Decimal(number) => write!(out, "{number}"),
            Self::Language(tag) => write!(out, "@{tag}"),
            Self::Word(word) => out.write_str(word),
            Self::Symbol(symbol) => out.write_str(symbol),
            Self::End => out.write_str("the end"),
        }
    }
}

/// A word, and where it begins, in bytes.
pub(crate) type Placed = (Token, usize);

/// Longer ones first.
const SYMBOLS: [&str; 25] = [
    "&&", "||", "!=", "<=", ">=", "^^", "{", "}", "(", ")", "[", "]", ".", ";", ",", "=", "<", ">",
    "!", "*", "/", "+", "-", "^", "|",
];

/// Line and column of a place, from 1.
pub(crate) fn place(text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|it| *it != '\n').count() + 1;
    format!("line {line}, column {column}")
}

/// All words of a text, with one for its end.
pub(crate) fn tokens(text: &str) -> Result<Vec<Placed>, Error> {
    let mut all = Vec::new();
    let mut at = 0;
    loop {
        let rest = text.get(at..).unwrap_or_default();
        let Some(first) = rest.chars().next() else {
            all.push((Token::End, at));
            return Ok(all);
        };
        if first.is_whitespace() {
            at += first.len_utf8();
        } else if first == '#' {
            at += rest.find('\n').unwrap_or(rest.len());
        } else {
            let (token, length) = token(rest, first).map_err(|expected| Error::Syntax {
                expected,
                at: place(text, at),
                found: shown(rest),
            })?;
            all.push((token, at));
            at += length;
        }
    }
}

fn shown(text: &str) -> String {
    format!(
        "`{}`",
        text.chars().take(20).collect::<String>().escape_debug()
    )
}

fn is_name(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// The bytes at the beginning of `text` whose characters are so.
fn while_is(text: &str, is: impl Fn(char) -> bool) -> &str {
    let end = text.find(|character| !is(character)).unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

/// The first word and its length; else what was expected.
fn token(rest: &str, first: char) -> Result<(Token, usize), &'static str> {
    match first {
        '<' => {
            let no = |character: char| {
                character.is_whitespace()
                    || character.is_control()
                    || "<\"{}|^`\\".contains(character)
            };
            let inside = while_is(rest.get(1..).unwrap_or_default(), |it| it != '>' && !no(it));
            if rest
                .get(1 + inside.len()..)
                .is_some_and(|after| after.starts_with('>'))
            {
                return Ok((Token::Iri(inside.to_owned()), inside.len() + 2));
            }
        }
        '?' | '$' => {
            let name = while_is(rest.get(1..).unwrap_or_default(), is_name);
            if name.is_empty() {
                return Err("a name of a variable");
            }
            return Ok((Token::Variable(name.to_owned()), name.len() + 1));
        }
        '"' | '\'' => return quoted(rest, first),
        '@' => {
            let tag = while_is(rest.get(1..).unwrap_or_default(), |it| {
                it.is_ascii_alphanumeric() || it == '-'
            });
            return Ok((Token::Language(tag.to_owned()), tag.len() + 1));
        }
        '0'..='9' => return number(rest),
        '_' if rest.starts_with("_:") => {
            let name = while_is(rest.get(2..).unwrap_or_default(), is_name);
            return Ok((Token::Blank(name.to_owned()), name.len() + 2));
        }
        _ if is_name(first) || first == ':' => return Ok(name(rest)),
        _ => {}
    }
    let symbol = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol));
    symbol
        .map(|symbol| (Token::Symbol(symbol), symbol.len()))
        .ok_or("a word of SPARQL")
}

fn name(rest: &str) -> (Token, usize) {
    let prefix = while_is(rest, |it| is_name(it) || it == '-');
    let Some(after) = rest
        .get(prefix.len()..)
        .and_then(|after| after.strip_prefix(':'))
    else {
        let word = while_is(rest, is_name);
        return (Token::Word(word.to_owned()), word.len());
    };
    let local = while_is(after, |it| is_name(it) || "-.".contains(it)).trim_end_matches('.');
    let length = prefix.len() + 1 + local.len();
    (Token::Prefixed(prefix.to_owned(), local.to_owned()), length)
}

fn number(rest: &str) -> Result<(Token, usize), &'static str> {
    let digits = while_is(rest, |it| it.is_ascii_digit());
    let after = rest.get(digits.len()..).unwrap_or_default();
    let fraction = after
        .strip_prefix('.')
        .map(|it| while_is(it, |it| it.is_ascii_digit()));
    match fraction.filter(|fraction| !fraction.is_empty()) {
        Some(fraction) => {
            let length = digits.len() + 1 + fraction.len();
            let number = rest.get(..length).and_then(|text| text.parse().ok());
            Ok((Token::Decimal(number.ok_or("a number")?), length))
        }
        None => {
            let number = digits
                .parse()
                .map_err(|_| "a number that is not so large")?;
            Ok((Token::Integer(number), digits.len()))
        }
    }
}

fn quoted(rest: &str, quote: char) -> Result<(Token, usize), &'static str> {
    let thrice: String = [quote; 3].iter().collect();
    let end = if rest.starts_with(&thrice) {
        thrice
    } else {
        quote.to_string()
    };
    let is_long = end.len() == 3;
    let mut text = String::new();
    let mut at = end.len();
    loop {
        let here = rest.get(at..).unwrap_or_default();
        if here.starts_with(&end) {
            return Ok((Token::Text(text), at + end.len()));
        }
        let mut characters = here.chars();
        match characters.next() {
            None => return Err("a text that ends"),
            Some('\n' | '\r') if !is_long => return Err("a text that ends in its line"),
            Some('\\') => {
                let (character, length) = escape(characters.as_str())?;
                text.push(character);
                at += 1 + length;
            }
            Some(character) => {
                text.push(character);
                at += character.len_utf8();
            }
        }
    }
}

/// What stands for itself behind `\`, and the bytes that say it.
fn escape(text: &str) -> Result<(char, usize), &'static str> {
    let digits = match text.chars().next() {
        Some('t') => return Ok(('\t', 1)),
        Some('n') => return Ok(('\n', 1)),
        Some('r') => return Ok(('\r', 1)),
        Some('b') => return Ok(('\u{8}', 1)),
        Some('f') => return Ok(('\u{c}', 1)),
        Some(itself @ ('\\' | '"' | '\'')) => return Ok((itself, 1)),
        Some('u') => 4,
        Some('U') => 8,
        _ => return Err("one of \\t \\n \\r \\b \\f \\\\ \\\" \\' \\u \\U"),
    };
    text.get(1..=digits)
        .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .and_then(char::from_u32)
        .map(|character| (character, digits + 1))
        .ok_or("a character behind \\u")
}
