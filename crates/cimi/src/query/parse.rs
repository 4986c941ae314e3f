//! The grammar of `$filter` (DSP0263 §4.1.6.1):
//!
//! ```text
//! Filter    = AndExpr ( "or" Filter )?
//! AndExpr   = Comp ( "and" AndExpr )?
//! Comp      = Attribute Op Value | Value Op Attribute | PropExpr | "(" Filter ")"
//! PropExpr  = "property[" String "]" ( "=" | "!=" ) String
//! ```
//!
//! Blanks are free between tokens. Bare words are attributes, never values.

use jiff::{civil, tz::Offset};

use super::{Comparison, Filter, Literal};
use crate::Timestamp;

/// Longest filter read, in bytes.
pub const LENGTH_AT_MOST: usize = 4096;
/// Deepest nesting of brackets read.
const DEPTH_AT_MOST: u32 = 32;

/// A text that is not a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("$filter is not understood at character {position}: {problem}")]
pub struct FilterSyntax {
    /// Counted from 1.
    pub position: usize,
    /// What is wrong there.
    pub problem: String,
}

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// If the text doesn't follow the grammar, is longer than 4096 bytes or nested deeper than 32.
    pub fn parse(text: &str) -> Result<Self, FilterSyntax> {
        let mut parser = Parser { text, at: 0 };
        if text.len() > LENGTH_AT_MOST {
            return Err(parser.error(format!(
                "it has {} bytes, at most {LENGTH_AT_MOST} are read",
                text.len()
            )));
        }
        let filter = parser.filter(0)?;
        parser.blanks();
        if parser.at < text.len() {
            return Err(parser.unexpected("`and`, `or` or the end"));
        }
        Ok(filter)
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

/// One side of a comparison.
enum Side<'a> {
    Attribute(&'a str),
    Value(Literal),
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn error(&self, problem: String) -> FilterSyntax {
        let before = self.text.get(..self.at).unwrap_or_default();
        FilterSyntax {
            position: before.chars().count() + 1,
            problem,
        }
    }

    fn unexpected(&self, expected: &str) -> FilterSyntax {
        let found = match self.rest().chars().next() {
            Some(c) => format!("`{c}`"),
            None => "the end".to_owned(),
        };
        self.error(format!("expected {expected}, found {found}"))
    }

    fn filter(&mut self, depth: u32) -> Result<Filter, FilterSyntax> {
        let mut alternatives = vec![self.conjunction(depth)?];
        while self.word("or") {
            alternatives.push(self.conjunction(depth)?);
        }
        Ok(Filter::any(alternatives))
    }

    fn conjunction(&mut self, depth: u32) -> Result<Filter, FilterSyntax> {
        let mut parts = vec![self.comparison(depth)?];
        while self.word("and") {
            parts.push(self.comparison(depth)?);
        }
        Ok(Filter::all(parts))
    }

    /// Takes this word if it comes next, as a whole word.
    fn word(&mut self, word: &str) -> bool {
        self.blanks();
        let name = leading_name(self.rest());
        let found = name == word;
        if found {
            self.at += word.len();
        }
        found
    }

    fn comparison(&mut self, depth: u32) -> Result<Filter, FilterSyntax> {
        self.blanks();
        if self.peek() == Some(b'(') {
            if depth >= DEPTH_AT_MOST {
                return Err(self.error(format!("nested deeper than {DEPTH_AT_MOST}")));
            }
            self.at += 1;
            let inner = self.filter(depth + 1)?;
            self.blanks();
            if !self.eat(")") {
                return Err(self.unexpected("`)`"));
            }
            return Ok(inner);
        }
        if let Some(filter) = self.property()? {
            return Ok(filter);
        }
        let left = self.side()?;
        self.blanks();
        let comparison = self.operator()?;
        self.blanks();
        let begin = self.at;
        let (name, comparison, value) = match (left, self.side()?) {
            (Side::Attribute(name), Side::Value(value)) => (name, comparison, value),
            (Side::Value(value), Side::Attribute(name)) => (name, comparison.mirrored(), value),
            (Side::Attribute(_), Side::Attribute(name)) => {
                self.at = begin;
                return Err(self.error(format!(
                    "`{name}` is a second attribute; texts are written in quotes: '{name}'"
                )));
            }
            (Side::Value(_), Side::Value(_)) => {
                self.at = begin;
                return Err(self.error("a value is compared with an attribute".to_owned()));
            }
        };
        Ok(Filter::Attribute {
            name: name.to_owned(),
            comparison,
            value,
        })
    }

    /// `property['key']='value'`; `None` if it is not one (an attribute may be called `property`).
    fn property(&mut self) -> Result<Option<Filter>, FilterSyntax> {
        let begin = self.at;
        if leading_name(self.rest()) != "property" {
            return Ok(None);
        }
        self.at += "property".len();
        self.blanks();
        if !self.eat("[") {
            self.at = begin;
            return Ok(None);
        }
        self.blanks();
        let key = self.text_literal()?;
        self.blanks();
        if !self.eat("]") {
            return Err(self.unexpected("`]`"));
        }
        self.blanks();
        let equal = match self.operator()? {
            Comparison::Equal => true,
            Comparison::NotEqual => false,
            _ => {
                return Err(self.error("properties are compared with `=` and `!=` only".to_owned()));
            }
        };
        self.blanks();
        let value = self.text_literal()?;
        Ok(Some(Filter::Property { key, equal, value }))
    }

    fn operator(&mut self) -> Result<Comparison, FilterSyntax> {
        // Longer ones first.
        for (symbol, comparison) in [
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("!=", Comparison::NotEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
            ("=", Comparison::Equal),
        ] {
            if self.eat(symbol) {
                return Ok(comparison);
            }
        }
        Err(self.unexpected("one of `<` `<=` `=` `>=` `>` `!=`"))
    }

    fn side(&mut self) -> Result<Side<'a>, FilterSyntax> {
        match self.peek() {
            Some(b'\'' | b'"') => self.text_literal().map(|t| Side::Value(Literal::Text(t))),
            Some(b'0'..=b'9') => self.number_or_date().map(Side::Value),
            Some(b'a'..=b'z' | b'A'..=b'Z' | b'_') => {
                let name = leading_name(self.rest());
                self.at += name.len();
                Ok(match name {
                    "true" => Side::Value(Literal::Boolean(true)),
                    "false" => Side::Value(Literal::Boolean(false)),
                    name => Side::Attribute(name),
                })
            }
            _ => Err(self.unexpected("an attribute or a value")),
        }
    }

    fn text_literal(&mut self) -> Result<String, FilterSyntax> {
        let Some(quote @ (b'\'' | b'"')) = self.peek() else {
            return Err(self.unexpected("a text in quotes"));
        };
        let begin = self.at;
        self.at += 1;
        let mut text = String::new();
        let mut characters = self.rest().char_indices();
        while let Some((offset, c)) = characters.next() {
            match c {
                '\\' => match characters.next() {
                    Some((_, escaped)) => text.push(escaped),
                    None => break,
                },
                c if c == char::from(quote) => {
                    self.at += offset + 1;
                    return Ok(text);
                }
                c => text.push(c),
            }
        }
        self.at = begin;
        Err(self.error("this text has no closing quote".to_owned()))
    }

    fn digits(&mut self) -> Result<&'a str, FilterSyntax> {
        let rest = self.rest();
        let length = rest.bytes().take_while(u8::is_ascii_digit).count();
        if length == 0 {
            return Err(self.unexpected("a digit"));
        }
        self.at += length;
        Ok(rest.get(..length).unwrap_or_default())
    }

    fn number_or_date(&mut self) -> Result<Literal, FilterSyntax> {
        let begin = self.at;
        let number = self.digits()?;
        if self.peek() == Some(b'-') {
            let time = self.date(number)?;
            return match time {
                Some(time) => Ok(Literal::Time(time)),
                None => {
                    let text = self.text.get(begin..self.at).unwrap_or_default().to_owned();
                    self.at = begin;
                    Err(self.error(format!("there is no such time as {text}")))
                }
            };
        }
        number.parse().map(Literal::Integer).map_err(|_| {
            self.at = begin;
            self.error(format!("the number {number} is too large"))
        })
    }

    /// The rest of a date whose year has been read; `None` if there is no such time.
    fn date(&mut self, year: &str) -> Result<Option<Timestamp>, FilterSyntax> {
        self.expect("-")?;
        let month = self.digits()?;
        self.expect("-")?;
        let day = self.digits()?;
        let (mut hour, mut minute, mut second, mut nanosecond) = ("0", "0", "0", 0);
        let mut offset_seconds = Some(0);
        if self.eat("T") {
            hour = self.digits()?;
            self.expect(":")?;
            minute = self.digits()?;
            self.expect(":")?;
            second = self.digits()?;
            if self.eat(".") {
                nanosecond = fraction(self.digits()?);
            }
            if !self.eat("Z") {
                let sign = match self.peek() {
                    Some(b'+') => 1,
                    Some(b'-') => -1,
                    _ => return Err(self.unexpected("`Z` or a zone such as `+01:00`")),
                };
                self.at += 1;
                let hours = self.digits()?;
                self.expect(":")?;
                let minutes = self.digits()?;
                offset_seconds = zone(sign, hours, minutes);
            }
        }
        let date = || {
            let local = civil::DateTime::new(
                year.parse().ok()?,
                month.parse().ok()?,
                day.parse().ok()?,
                hour.parse().ok()?,
                minute.parse().ok()?,
                second.parse().ok()?,
                nanosecond,
            )
            .ok()?;
            let offset = Offset::from_seconds(offset_seconds?).ok()?;
            let time = offset.to_timestamp(local).ok()?;
            Some(Timestamp::from_millis(time.as_millisecond()))
        };
        Ok(date())
    }

    fn expect(&mut self, token: &str) -> Result<(), FilterSyntax> {
        if self.eat(token) {
            Ok(())
        } else {
            Err(self.unexpected(&format!("`{token}`")))
        }
    }
}

fn zone(sign: i32, hours: &str, minutes: &str) -> Option<i32> {
    let hours: i32 = hours.parse().ok().filter(|h| *h <= 23)?;
    let minutes: i32 = minutes.parse().ok().filter(|m| *m <= 59)?;
    Some(sign * (hours * 3600 + minutes * 60))
}

/// Nanoseconds of a decimal fraction; further digits are cut off.
fn fraction(digits: &str) -> i32 {
    let mut value = 0;
    let mut unit = 100_000_000;
    for digit in digits.bytes().take(9) {
        value += i32::from(digit - b'0') * unit;
        unit /= 10;
    }
    value
}

fn leading_name(text: &str) -> &str {
    let mut bytes = text.bytes();
    if !bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
    {
        return "";
    }
    let length = 1 + bytes
        .take_while(|b| b.is_ascii_alphanumeric() || *b == b'_')
        .count();
    text.get(..length).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_the_grammar_has_is_accepted() {
        for text in [
            "alpha=3",
            "3=alpha",
            "alpha='3'",
            r#"alpha="a\"b""#,
            "alpha=3 and beta=4 or gamma=5",
            "alpha=3 and (beta=4 or gamma=5) and delta=6",
            "property['beta']='4'",
            r#"property["beta"]!="4""#,
            "alpha=2012-01-02",
            "alpha=2012-01-02T13:14:25.6-01:15",
            "alpha=2012-1-2T1:2:3Z",
            " ( ( alpha < 3 ) ) ",
            "alpha<=3and beta>=true",
            "and=1 and or=2 or property=3",
            "_x!='ü\\\\'",
            "property [ 'a' ] = 'b'",
        ] {
            assert!(
                Filter::parse(text).is_ok(),
                "{text}: {:?}",
                Filter::parse(text)
            );
        }
    }

    #[test]
    fn what_it_has_not_is_refused() {
        for text in [
            "",
            "()",
            " ",
            "alpha",
            "alpha=",
            "alpha=beta",
            "3=3",
            "alpha=3.2",
            "alpha&&4",
            "alpha==4",
            "alpha=3 beta=4",
            "alpha=3 AND beta=4",
            "alpha=3 andbeta=4",
            "(alpha=3",
            "alpha=3)",
            "property[beta]='4'",
            "property['beta']=4",
            "property['beta']<'4'",
            "4=property['beta']",
            "'4'=property['beta']",
            "alpha=2012-01",
            "alpha=2012-13-01",
            "alpha=2012-01-02T13:14",
            "alpha=2012-01-02T13:14:25",
            "alpha=2012-01-02T25:14:25Z",
            "alpha=2012-01-02T13:14:25+99:00",
            "alpha=99999999999999999999",
            "alpha='3",
            "alpha='3\\",
            "alpha=-3",
            "al-pha=3",
            "ä=3",
            "3alpha=3",
        ] {
            assert!(Filter::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_error_says_where_and_what() {
        let error = Filter::parse("name='ä' and state=STARTED").unwrap_err();
        assert_eq!(
            error.to_string(),
            "$filter is not understood at character 20: `STARTED` is a second attribute; texts are \
             written in quotes: 'STARTED'"
        );
    }

    #[test]
    fn depth_and_length_are_bounded() {
        let deep = format!("{}a=1{}", "(".repeat(31), ")".repeat(31));
        assert!(Filter::parse(&deep).is_ok());
        let too_deep = format!("{}a=1{}", "(".repeat(33), ")".repeat(33));
        assert!(Filter::parse(&too_deep).is_err());
        let long = format!("a='{}'", "x".repeat(LENGTH_AT_MOST));
        assert!(Filter::parse(&long).is_err());
        assert!(Filter::parse(&"(".repeat(4000)).is_err());
    }

    fn literal() -> impl Strategy<Value = Literal> {
        prop_oneof![
            (0..i64::MAX).prop_map(Literal::Integer),
            any::<bool>().prop_map(Literal::Boolean),
            ".{0,12}".prop_map(Literal::Text),
            // The years 1970 to 9999.
            (0..253_402_207_200_000i64).prop_map(|ms| Literal::Time(Timestamp::from_millis(ms))),
        ]
    }

    fn filters() -> impl Strategy<Value = Filter> {
        let comparison = prop_oneof![
            Just(Comparison::Less),
            Just(Comparison::LessOrEqual),
            Just(Comparison::Equal),
            Just(Comparison::GreaterOrEqual),
            Just(Comparison::Greater),
            Just(Comparison::NotEqual),
        ];
        let name = "[a-zA-Z_][a-zA-Z0-9_]{0,8}"
            .prop_filter("a value", |name| name != "true" && name != "false");
        let leaf =
            prop_oneof![
                (name, comparison, literal()).prop_map(|(name, comparison, value)| {
                    Filter::Attribute {
                        name,
                        comparison,
                        value,
                    }
                }),
                (".{0,8}", any::<bool>(), ".{0,8}")
                    .prop_map(|(key, equal, value)| Filter::Property { key, equal, value }),
            ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 1..4).prop_map(Filter::all),
                prop::collection::vec(inner, 1..4).prop_map(Filter::any),
            ]
        })
    }

    /// Texts by the grammar itself: blanks anywhere, both kinds of quotes, values on either side.
    fn texts() -> impl Strategy<Value = String> {
        let blank = || "[ \t]{0,2}";
        let quoted = || {
            ("[a-z '\"\\\\é]{0,6}", any::<bool>()).prop_map(|(text, double)| {
                let quote = if double { '"' } else { '\'' };
                let mut out = String::from(quote);
                for c in text.chars() {
                    if c == quote || c == '\\' {
                        out.push('\\');
                    }
                    out.push(c);
                }
                out.push(quote);
                out
            })
        };
        let value = prop_oneof![
            "[0-9]{1,9}",
            Just("true".to_owned()),
            Just("false".to_owned()),
            quoted(),
            (1970..2200, 1..=12, 1..=28).prop_map(|(y, m, d)| format!("{y}-{m:02}-{d:02}")),
            (0..24, 0..60, 0..60, "[0-9]{1,4}", "Z|[+-]0[0-9]:[0-5][0-9]").prop_map(
                |(h, m, s, part, zone)| format!("2014-08-01T{h:02}:{m:02}:{s:02}.{part}{zone}")
            ),
        ];
        let name = "[b-eg-su-z_][a-zA-Z0-9_]{0,6}".prop_filter("no word", |name: &String| {
            !["property", "or", "and"].contains(&name.as_str())
        });
        let operator = "<|<=|=|>=|>|!=";
        let comparison = (name, blank(), operator, blank(), value, any::<bool>()).prop_map(
            |(name, before, operator, after, value, mirrored)| {
                if mirrored {
                    format!("{value}{before}{operator}{after}{name}")
                } else {
                    format!("{name}{before}{operator}{after}{value}")
                }
            },
        );
        let property = (quoted(), blank(), "=|!=", blank(), quoted()).prop_map(
            |(key, before, operator, after, value)| {
                format!("property[{before}{key}{after}]{after}{operator}{before}{value}")
            },
        );
        prop_oneof![comparison, property].prop_recursive(4, 24, 3, move |inner| {
            prop_oneof![
                (inner.clone(), "and|or", inner.clone())
                    .prop_map(|(a, word, b)| format!("{a} {word} {b}")),
                (blank(), inner).prop_map(|(blank, inner)| format!("({blank}{inner}{blank})")),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_the_grammar_allows_is_read_and_prints_as_what_reads_the_same(text in texts()) {
            let filter = Filter::parse(&text);
            prop_assert!(filter.is_ok(), "{}: {:?}", text, filter);
            let printed = filter.clone().unwrap().to_string();
            prop_assert_eq!(Filter::parse(&printed), filter, "{} printed as {}", text, printed);
        }

        #[test]
        fn printed_filters_parse_back(filter in filters()) {
            let text = filter.to_string();
            if text.len() <= LENGTH_AT_MOST {
                prop_assert_eq!(Filter::parse(&text), Ok(filter), "{}", text);
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in r#"[-a-z0-9'"\\()\[\]=<>!:. T+Zäproety]{0,60}"#) {
            let _ = Filter::parse(&text);
        }
    }
}
