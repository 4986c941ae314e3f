//! Attributes of [open](super::Type::is_open) types that the table doesn't know: any name, any value, within bounds.
//!
//! In JSON they stand among the others. XML can't have elements of any name, nor say what is a number and what a text,
//! so there they are entries of a map, each value as JSON: `<further key="ldap">{"port": 389}</further>`.

use serde_json::{Map, Value};

use super::{
    Kind,
    check::{Checker, join},
    describe,
    scalar::is_character,
};

/// The attribute that holds them where they can't stand by themselves.
pub const FURTHER: &str = "further";

/// Bytes of a name.
const NAME_AT_MOST: usize = 64;
/// Objects and arrays within each other.
const DEPTH_AT_MOST: usize = 12;
/// Values within one, however nested.
const VALUES_AT_MOST: usize = 2_000;

/// Those of a resource's attributes that the table doesn't know, if its type is open.
pub(super) fn of(
    kind: Kind,
    attributes: &Map<String, Value>,
) -> impl Iterator<Item = (&String, &Value)> {
    let described = describe(kind);
    attributes
        .iter()
        .filter(move |(name, _)| described.is_open && described.attribute(name).is_none())
}

/// The same as XML has them.
pub(super) fn as_map(
    kind: Kind,
    attributes: &Map<String, Value>,
    wanted: impl Fn(&str) -> bool,
) -> Value {
    let entries = of(kind, attributes)
        .filter(|(name, _)| wanted(name))
        .map(|(name, value)| (name.clone(), Value::String(value.to_string())));
    Value::Object(entries.collect())
}

/// A body with what stands in [`FURTHER`] among the others, if its type is open.
pub(super) fn unfolded(kind: Kind, object: &Map<String, Value>) -> Option<Map<String, Value>> {
    if !describe(kind).is_open {
        return None;
    }
    let entries = object.get(FURTHER)?.as_object()?;
    let mut all = object.clone();
    all.remove(FURTHER);
    for (name, value) in entries {
        let read = value
            .as_str()
            .and_then(|text| serde_json::from_str(text).ok());
        // Somebody who wrote just a text meant that.
        all.insert(name.clone(), read.unwrap_or_else(|| value.clone()));
    }
    Some(all)
}

/// Whether an attribute can be kept; what is wrong is complained of.
pub(super) fn is_kept(checker: &mut Checker, name: &str, value: &Value) -> bool {
    let at = join("", name);
    if name.is_empty()
        || name.len() > NAME_AT_MOST
        || !name.chars().all(is_character)
        || name.contains('\n')
    {
        checker.complain(
            &at,
            format!("is no name for an attribute: it needs 1 to {NAME_AT_MOST} bytes"),
        );
        return false;
    }
    let mut left = VALUES_AT_MOST;
    if fits(value, 0, &mut left) {
        return true;
    }
    let problem = format!(
        "is nested deeper than {DEPTH_AT_MOST}, has more than {VALUES_AT_MOST} values, or control characters in its texts"
    );
    checker.complain(&at, problem);
    false
}

fn fits(value: &Value, depth: usize, left: &mut usize) -> bool {
    *left = left.saturating_sub(1);
    let text = |text: &str| text.chars().all(|c| is_character(c) || c == '\n');
    *left > 0
        && depth <= DEPTH_AT_MOST
        && match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => true,
            Value::String(value) => text(value),
            Value::Array(all) => all.iter().all(|value| fits(value, depth + 1, left)),
            Value::Object(all) => all
                .iter()
                .all(|(name, value)| text(name) && fits(value, depth + 1, left)),
        }
}
