//! What is sent by PUT of attributes that no PUT changes.
//!
//! In a whole representation they are ignored, as the standard says: it tells how things were when it was read, and a machine
//! that has stopped since is no reason to refuse another name. Who sends a part, or selects, names what is to be changed: what
//! differs there from how things are would be a wish that is lost without a word, so it is refused.

use cimi::{
    model::{Access, Attribute, Kind, Shape, Violation, describe},
    query::Select,
};
use serde_json::{Map, Value};

/// Of what a body names, that which only the cloud writes, or the client at the creation only.
pub(super) fn named<'b>(
    kind: Kind,
    body: &'b Value,
    select: &Select,
) -> Vec<(&'static Attribute, &'b Value)> {
    let Value::Object(body) = body else {
        return Vec::new();
    };
    let is_whole = body.contains_key("id") || body.contains_key("resourceURI");
    if is_whole && *select == Select::All {
        return Vec::new();
    }
    let named = body.iter().filter_map(|(name, value)| {
        let attribute = describe(kind).attribute(name)?;
        let is_fixed = matches!(attribute.access, Access::ReadOnly | Access::Create)
            && !matches!(attribute.shape, Shape::Collection(_))
            && attribute.name != "operations";
        (is_fixed && select.wants(attribute.name)).then_some((attribute, value))
    });
    named.collect()
}

/// What would have to change, of what is shown.
pub(super) fn differing(
    kind: Kind,
    named: &[(&'static Attribute, &Value)],
    shown: &Map<String, Value>,
) -> Vec<Violation> {
    let differing = named.iter().filter(|(attribute, value)| {
        let shown = shown.get(attribute.name).unwrap_or(&Value::Null);
        !is_same(value, shown)
    });
    let said = |attribute: &Attribute| match attribute.access {
        Access::Create => "is chosen at the creation and stays".to_owned(),
        _ if attribute.name == "state" && !describe(kind).actions.is_empty() => {
            let actions = describe(kind).actions.join(", ");
            format!("is told by the cloud, and changed by actions: {actions}")
        }
        _ => "is told by the cloud; no request changes it".to_owned(),
    };
    differing
        .map(|(attribute, _)| Violation::new(attribute.name, said(attribute)))
        .collect()
}

/// Whether what was sent is what is shown: numbers and truths may be texts, references absolute or nothing but a text.
fn is_same(sent: &Value, shown: &Value) -> bool {
    match (sent, shown) {
        (Value::String(sent), Value::Object(shown)) => shown
            .get("href")
            .and_then(Value::as_str)
            .is_some_and(|shown| is_same_place(sent, shown)),
        (Value::Object(sent), Value::Object(shown)) => sent
            .iter()
            .all(|(name, value)| is_same(value, shown.get(name).unwrap_or(&Value::Null))),
        (Value::Array(sent), Value::Array(shown)) => {
            sent.len() == shown.len() && sent.iter().zip(shown).all(|(a, b)| is_same(a, b))
        }
        (Value::String(sent), Value::String(shown)) => is_same_place(sent, shown),
        (Value::String(sent), Value::Number(shown)) => shown
            .as_i64()
            .is_some_and(|shown| sent.parse() == Ok(shown)),
        (Value::String(sent), Value::Bool(shown)) => sent.parse() == Ok(*shown),
        (Value::String(sent), Value::Null) => sent.is_empty(),
        _ => sent == shown,
    }
}

fn is_same_place(sent: &str, shown: &str) -> bool {
    let before = sent.strip_suffix(shown);
    before.is_some_and(|before| before.is_empty() || before.ends_with("/cimi/"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(body: &Value, select: &str) -> Vec<String> {
        let shown = json!({"state": "STARTED", "vmid": 7, "cpu": 1,
            "host": {"href": "Host/a"}, "updated": "2026-01-31T00:00:00Z"});
        let mut selected = Select::All;
        selected.add(select);
        let named = named(Kind::Machine, body, &selected);
        let differing = differing(Kind::Machine, &named, shown.as_object().unwrap());
        differing.into_iter().map(|it| it.path).collect()
    }

    #[test]
    fn a_part_that_differs_is_refused_and_a_whole_is_as_it_was_read() {
        let nothing: [&str; 0] = [];
        assert_eq!(
            refused(&json!({"state": "STOPPED", "name": "x"}), ""),
            ["state"]
        );
        assert_eq!(refused(&json!({"state": "STOPPED"}), "name"), nothing);
        let mut whole = json!({"id": "Machine/1", "state": "STOPPED", "name": "x"});
        assert_eq!(refused(&whole, ""), nothing);
        assert_eq!(refused(&whole, "state"), ["state"]);
        whole["id"] = Value::Null;
        assert_eq!(refused(&whole, ""), nothing);
        for same in [
            json!({"state": "STARTED", "vmid": "7", "updated": "2026-01-31T00:00:00Z"}),
            json!({"host": "Host/a"}),
            json!({"host": {"href": "https://cloud.example/cimi/Host/a"}}),
            json!({"volumes": {"href": "Machine/1/volumes"}, "operations": []}),
            json!({"created": null, "cpu": 4}),
        ] {
            assert_eq!(refused(&same, ""), nothing, "{same}");
        }
        assert_eq!(refused(&json!({"host": "Host/b"}), ""), ["host"]);
        assert_eq!(refused(&json!({"host": {"href": "Host/ba"}}), ""), ["host"]);
    }
}
