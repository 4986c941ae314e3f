//! `$filter` as a tree: built by [`Filter::parse`](super::parse), asked by [`Filter::matches`].

use std::{cmp::Ordering, fmt};

use super::{Attributes, Scalar};
use crate::Timestamp;

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `=`
    Equal,
    /// `>=`
    GreaterOrEqual,
    /// `>`
    Greater,
    /// `!=`
    NotEqual,
}

impl Comparison {
    const fn symbol(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Equal => "=",
            Self::GreaterOrEqual => ">=",
            Self::Greater => ">",
            Self::NotEqual => "!=",
        }
    }

    /// The comparison that says the same with the sides exchanged.
    #[must_use]
    pub const fn mirrored(self) -> Self {
        match self {
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::GreaterOrEqual => Self::LessOrEqual,
            Self::Greater => Self::Less,
            same @ (Self::Equal | Self::NotEqual) => same,
        }
    }

    const fn accepts(self, ordering: Ordering) -> bool {
        match self {
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Equal => ordering.is_eq(),
            Self::GreaterOrEqual => ordering.is_ge(),
            Self::Greater => ordering.is_gt(),
            Self::NotEqual => ordering.is_ne(),
        }
    }
}

/// A value written in a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Literal {
    /// `42`
    Integer(i64),
    /// `2012-01-02` (midnight UTC) or `2012-01-02T13:14:25.6-01:15`
    Time(Timestamp),
    /// `true`, `false`
    Boolean(bool),
    /// `'text'`, `"text"`
    Text(String),
}

/// A condition on a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// An attribute compared with a value.
    Attribute {
        /// Its name.
        name: String,
        /// How.
        comparison: Comparison,
        /// With what.
        value: Literal,
    },
    /// One of the user's properties is a text, or is not.
    Property {
        /// Its key.
        key: String,
        /// `=` or, if false, `!=`.
        equal: bool,
        /// The text.
        value: String,
    },
    /// All hold. Made by [`Filter::all`], so no member is itself `All`.
    All(Vec<Filter>),
    /// At least one holds. Made by [`Filter::any`], so no member is itself `Any`.
    Any(Vec<Filter>),
}

impl Filter {
    /// All of `parts` must hold; one part is itself.
    #[must_use]
    pub fn all(parts: Vec<Self>) -> Self {
        let mut flat = Vec::with_capacity(parts.len());
        for part in parts {
            match part {
                Self::All(inner) => flat.extend(inner),
                other => flat.push(other),
            }
        }
        match flat.pop() {
            Some(only) if flat.is_empty() => only,
            last => {
                flat.extend(last);
                Self::All(flat)
            }
        }
    }

    /// One of `parts` must hold; one part is itself.
    #[must_use]
    pub fn any(parts: Vec<Self>) -> Self {
        let mut flat = Vec::with_capacity(parts.len());
        for part in parts {
            match part {
                Self::Any(inner) => flat.extend(inner),
                other => flat.push(other),
            }
        }
        match flat.pop() {
            Some(only) if flat.is_empty() => only,
            last => {
                flat.extend(last);
                Self::Any(flat)
            }
        }
    }

    /// Tells the name of each attribute that it compares, as often as it does.
    pub fn attributes<'f>(&'f self, tell: &mut impl FnMut(&'f str)) {
        match self {
            Self::Attribute { name, .. } => tell(name),
            Self::Property { .. } => {}
            Self::All(parts) | Self::Any(parts) => {
                for part in parts {
                    part.attributes(tell);
                }
            }
        }
    }

    /// How many comparisons it makes at most.
    #[must_use]
    pub fn comparisons(&self) -> usize {
        match self {
            Self::Attribute { .. } | Self::Property { .. } => 1,
            Self::All(parts) | Self::Any(parts) => parts.iter().map(Self::comparisons).sum(),
        }
    }

    /// Whether a document satisfies this. Attribute and literal are compared as what the literal
    /// is; an attribute that is absent, or can't be read so, satisfies only `!=`. Of several values of
    /// one attribute one must satisfy it, and for `!=` all.
    pub fn matches<D: Attributes + ?Sized>(&self, document: &D) -> bool {
        match self {
            Self::Attribute {
                name,
                comparison,
                value,
            } => {
                let satisfies = |scalar: &Scalar<'_>| {
                    compare(scalar, value).map_or(*comparison == Comparison::NotEqual, |ordering| {
                        comparison.accepts(ordering)
                    })
                };
                match document.attribute(name) {
                    Some(scalar) => satisfies(&scalar),
                    None if *comparison == Comparison::NotEqual => {
                        document.several(name).iter().all(satisfies)
                    }
                    None => document.several(name).iter().any(satisfies),
                }
            }
            Self::Property { key, equal, value } => {
                (document.property(key) == Some(value.as_str())) == *equal
            }
            Self::All(parts) => parts.iter().all(|part| part.matches(document)),
            Self::Any(parts) => parts.iter().any(|part| part.matches(document)),
        }
    }
}

/// Compares as what the literal is; `None` if the attribute isn't, and can't be read as, such.
fn compare(scalar: &Scalar<'_>, literal: &Literal) -> Option<Ordering> {
    match (scalar, literal) {
        (Scalar::Integer(a), Literal::Integer(b)) => Some(a.cmp(b)),
        (Scalar::Text(a), Literal::Integer(b)) => a.parse::<i64>().ok().map(|a| a.cmp(b)),
        (Scalar::Boolean(a), Literal::Boolean(b)) => Some(a.cmp(b)),
        (Scalar::Text(a), Literal::Boolean(b)) => a.parse::<bool>().ok().map(|a| a.cmp(b)),
        (Scalar::Time(a), Literal::Time(b)) => Some(a.cmp(b)),
        (Scalar::Text(a), Literal::Time(b)) => a.parse::<Timestamp>().ok().map(|a| a.cmp(b)),
        (Scalar::Text(a), Literal::Text(b)) => Some(a.as_ref().cmp(b.as_str())),
        (Scalar::Integer(a), Literal::Text(b)) => Some(a.to_string().as_str().cmp(b)),
        (Scalar::Boolean(a), Literal::Text(b)) => {
            Some(if *a { "true" } else { "false" }.cmp(b.as_str()))
        }
        (Scalar::Time(a), Literal::Text(b)) => Some(a.to_string().as_str().cmp(b)),
        _ => None,
    }
}

/// In the form that parses back to the same filter.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attribute {
                name,
                comparison,
                value,
            } => write!(f, "{name}{}{value}", comparison.symbol()),
            Self::Property { key, equal, value } => {
                let operator = if *equal { "=" } else { "!=" };
                write!(f, "property[{}]{operator}{}", Quoted(key), Quoted(value))
            }
            Self::All(parts) => joined(f, parts, " and ", |part| matches!(part, Self::Any(_))),
            Self::Any(parts) => joined(f, parts, " or ", |_| false),
        }
    }
}

fn joined(
    f: &mut fmt::Formatter<'_>,
    parts: &[Filter],
    word: &str,
    bracketed: impl Fn(&Filter) -> bool,
) -> fmt::Result {
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            f.write_str(word)?;
        }
        if bracketed(part) {
            write!(f, "({part})")?;
        } else {
            write!(f, "{part}")?;
        }
    }
    Ok(())
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(value) => write!(f, "{value}"),
            Self::Time(time) => write!(f, "{time}"),
            Self::Boolean(value) => write!(f, "{value}"),
            Self::Text(text) => write!(f, "{}", Quoted(text)),
        }
    }
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        f.write_char('\'')?;
        for c in self.0.chars() {
            if c == '\'' || c == '\\' {
                f.write_char('\\')?;
            }
            f.write_char(c)?;
        }
        f.write_char('\'')
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    struct Example(BTreeMap<&'static str, Scalar<'static>>);

    impl Attributes for Example {
        fn attribute(&self, name: &str) -> Option<Scalar<'_>> {
            self.0.get(name).cloned()
        }

        fn several(&self, name: &str) -> Vec<Scalar<'_>> {
            let all: &[&str] = if name == "addresses" {
                &["10.0.0.1", "10.0.0.2"]
            } else {
                &[]
            };
            all.iter().map(|text| Scalar::from(*text)).collect()
        }

        fn property(&self, key: &str) -> Option<&str> {
            (key == "group").then_some("prod")
        }
    }

    #[test]
    fn values_are_compared_as_what_the_literal_is() {
        let time: Timestamp = "2014-08-01T10:20:30Z".parse().unwrap();
        let example = Example(BTreeMap::from([
            ("cpu", Scalar::Integer(9)),
            ("memory", Scalar::from("1024")),
            ("state", Scalar::from("STARTED")),
            ("bootable", Scalar::Boolean(true)),
            ("created", Scalar::Time(time)),
        ]));
        for (text, expected) in [
            ("cpu=9", true),
            ("9=cpu", true),
            ("10>cpu", true),
            ("cpu>10", false),
            ("cpu>'10'", true), // as texts
            ("cpu='9'", true),
            ("memory>=1024", true),
            ("memory='1024'", true),
            ("state='STARTED'", true),
            ("state=3", false),
            ("state!=3", true),
            ("state<'STOPPED'", true),
            ("bootable=true", true),
            ("bootable='true'", true),
            ("bootable!=false", true),
            ("created>2014-07-31", true),
            ("created=2014-08-01T12:20:30+02:00", true),
            ("created<2014-08-01T10:20:30.001Z", true),
            ("addresses='10.0.0.2'", true),
            ("addresses='10.0.0.3'", false),
            ("addresses!='10.0.0.2'", false),
            ("addresses!='10.0.0.3'", true),
            ("nothing=1", false),
            ("nothing!=1", true),
            ("nothing<1", false),
            ("property['group']='prod'", true),
            ("property['group']!='prod'", false),
            ("property['other']!='x'", true),
            ("cpu=1 or cpu=9 and bootable=true", true),
            ("(cpu=1 or cpu=9) and bootable=false", false),
        ] {
            let filter = Filter::parse(text).unwrap();
            assert_eq!(filter.matches(&example), expected, "{text}");
        }
    }
}
