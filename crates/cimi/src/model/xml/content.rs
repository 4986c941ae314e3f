//! What elements mean by the table: which attribute one holds, and which value a text is.

use serde_json::{Map, Value};

use super::super::{Attribute, COMMON, Creation, Kind, Shape, describe, table::ACTION};

/// As what a text is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The body of a creation: the resource or its `…Create`.
    Creation(Kind),
    /// A resource, or some of its attributes.
    Change(Kind),
    /// An `Action`.
    Action,
    /// A resource as it was shown: gets its `resourceURI`.
    Representation(Kind),
    /// A collection of this type as it was shown.
    Collection(Kind),
}

/// What is known of an element's content.
#[derive(Clone, Copy)]
pub(super) enum Content {
    /// A value of this shape, not an array.
    Value(Shape),
    /// The attributes of a resource.
    Resource(Kind),
    /// What makes a resource.
    Creation(Kind),
    /// What an action takes.
    Action,
    /// A collection's members.
    Collection(Kind),
    /// Nothing.
    Unknown,
}

impl Content {
    /// The attribute that an element within this one holds.
    pub(super) fn attribute(self, element: &str) -> Option<Attribute> {
        // Singulars begin as their plurals do, which most attributes don't.
        let begins =
            |field: &Attribute| field.name.as_bytes().first() == element.as_bytes().first();
        let called = |field: &&Attribute| {
            field.is_called(element) || (begins(field) && field.element() == element)
        };
        let of = |fields: &[Attribute]| fields.iter().find(called).copied();
        let common = || of(COMMON);
        let resource = |kind| common().or_else(|| of(describe(kind).attributes));
        match self {
            Self::Value(Shape::Struct(fields)) => of(fields),
            Self::Value(Shape::Flattened(fields, member)) => of(fields).or_else(|| {
                let inner = fields.iter().find(|field| field.name == member)?;
                match inner.shape {
                    Shape::RefOrValue(kind) => resource(kind),
                    _ => None,
                }
            }),
            Self::Value(Shape::RefOrValue(kind)) | Self::Resource(kind) => resource(kind),
            Self::Creation(kind) => match describe(kind).creation {
                Creation::Never | Creation::Plain { wrapper: None } => resource(kind),
                Creation::Plain {
                    wrapper: Some(member),
                } => {
                    resource(kind).or_else(|| template(member, kind).filter(|field| called(&field)))
                }
                Creation::Either {
                    member,
                    kind: of_template,
                } => resource(kind)
                    .or_else(|| template(member, of_template).filter(|field| called(&field))),
                Creation::Template {
                    member,
                    kind,
                    beside,
                } => common()
                    .or_else(|| of(beside))
                    .or_else(|| template(member, kind).filter(|field| called(&field))),
            },
            Self::Action => of(ACTION).or_else(common),
            Self::Collection(kind) => match element {
                "count" => Some(Attribute::new("count", Shape::Integer)),
                _ => common().filter(|field| matches!(field.name, "id" | "operations")),
            }
            .filter(|_| element != kind.name()),
            Self::Value(_) | Self::Unknown => None,
        }
    }
}

fn template(member: &'static str, kind: Kind) -> Option<Attribute> {
    Some(Attribute::new(member, Shape::RefOrValue(kind)))
}

/// A text as what its shape makes of it; what doesn't fit stays a text, for others to complain of.
pub(super) fn single(shape: &Shape, text: &str) -> Value {
    let value = match shape {
        Shape::Boolean => text.parse().ok().map(Value::Bool),
        Shape::Integer => text.parse::<i64>().ok().map(Value::from),
        Shape::Decimal => match text.parse::<i64>() {
            Ok(whole) => Some(whole.into()),
            Err(_) => text.parse::<f64>().ok().map(Value::from),
        },
        Shape::Struct(_) | Shape::Flattened(..) | Shape::Ref(_) | Shape::RefOrValue(_)
            if text.is_empty() =>
        {
            Some(Value::Object(Map::new()))
        }
        _ => None,
    };
    value
        .filter(|value| !value.is_null())
        .unwrap_or_else(|| Value::String(text.to_owned()))
}
