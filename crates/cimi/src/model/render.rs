//! The JSON form of what goes out: attributes in the order of the table, empty ones left out.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::{Access, Attribute, COMMON, Kind, Shape, describe, further};
use crate::{query::Select, uri};

/// What a caller may do, with where to send it: `rel` and `href`.
pub type Operations = [(String, String)];

/// A resource about to be written.
#[derive(Debug)]
pub struct Representation<'a> {
    /// Its type.
    pub kind: Kind,
    /// Its id, relative to `baseURI`.
    pub id: &'a str,
    /// Its public attributes by name. What the table doesn't know is left out, and so are
    /// secrets. A resource's own collections are in it only if they stand in the place of their link.
    pub attributes: &'a Map<String, Value>,
    /// Which of them are wanted; `id` and `resourceURI` always are.
    pub select: &'a Select,
    /// What the caller may do with it.
    pub operations: &'a Operations,
}

/// Appends the JSON form of a resource.
pub fn render(representation: &Representation<'_>, out: &mut Vec<u8>) {
    let Representation {
        kind,
        id,
        attributes,
        select,
        operations,
    } = representation;
    let described = describe(*kind);
    out.extend_from_slice(b"{\"resourceURI\":");
    text(&described.uri(), out);
    out.extend_from_slice(b",\"id\":");
    text(id, out);
    for field in shown(*kind, select) {
        match attributes.get(field.name) {
            Some(value) => member(field.name, value, out),
            None if matches!(field.shape, Shape::Collection(_)) => own_collection(field, id, out),
            None => {}
        }
    }
    for (name, value) in further::of(*kind, attributes).filter(|(name, _)| select.wants(name)) {
        member(name, value, out);
    }
    if select.wants("operations") {
        write_operations(operations, out);
    }
    out.push(b'}');
}

/// The attributes that are written of a resource, in their order, beside `resourceURI`, `id` and
/// `operations`.
pub(super) fn shown(kind: Kind, select: &Select) -> impl Iterator<Item = &'static Attribute> {
    let fields = move || COMMON.iter().chain(describe(kind).attributes);
    // `acl` last, as StratusLab's documents have it.
    let ordered = fields()
        .filter(|field| field.name != "acl")
        .chain(fields().filter(|field| field.name == "acl"));
    ordered.filter(|field| {
        !matches!(field.name, "id" | "resourceURI" | "operations")
            && field.access != Access::Secret
            && select.wants(field.name)
    })
}

/// Attributes that [`render`] leaves out because the table doesn't have them: a defect of whoever
/// made them.
pub fn strangers(kind: Kind, attributes: &Map<String, Value>) -> impl Iterator<Item = &str> {
    let described = describe(kind);
    attributes
        .keys()
        .map(String::as_str)
        .filter(move |name| !described.is_open && described.attribute(name).is_none())
}

/// Appends the JSON form of a collection, or a page of it.
pub fn render_collection<'m>(
    kind: Kind,
    id: &str,
    count: usize,
    members: impl IntoIterator<Item = &'m [u8]>,
    can_add: bool,
    out: &mut Vec<u8>,
) {
    let described = describe(kind);
    out.extend_from_slice(b"{\"resourceURI\":");
    text(&format!("{}Collection", described.uri()), out);
    out.extend_from_slice(b",\"id\":");
    text(id, out);
    out.extend_from_slice(b",\"count\":");
    out.extend_from_slice(count.to_string().as_bytes());
    let mut first = true;
    for bytes in members {
        if first {
            out.push(b',');
            text(described.member_key, out);
            out.extend_from_slice(b":[");
        } else {
            out.push(b',');
        }
        first = false;
        out.extend_from_slice(bytes);
    }
    if !first {
        out.push(b']');
    }
    if can_add {
        write_operations(&[("add".to_owned(), id.to_owned())], out);
    }
    out.push(b'}');
}

fn write_operations(operations: &Operations, out: &mut Vec<u8>) {
    if operations.is_empty() {
        return;
    }
    out.extend_from_slice(b",\"operations\":[");
    for (index, (rel, href)) in operations.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"rel\":");
        text(&rel_of(rel), out);
        out.extend_from_slice(b",\"href\":");
        text(href, out);
        out.push(b'}');
    }
    out.push(b']');
}

/// `add`, `edit` and `delete` as they are; actions as their URI.
pub(super) fn rel_of(rel: &str) -> Cow<'_, str> {
    if matches!(rel, "add" | "edit" | "delete") {
        Cow::Borrowed(rel)
    } else {
        Cow::Owned(format!("{}/{rel}", uri::ACTION))
    }
}

fn own_collection(field: &Attribute, id: &str, out: &mut Vec<u8>) {
    out.push(b',');
    text(field.name, out);
    out.extend_from_slice(b":{\"href\":");
    text(&format!("{id}/{}", field.name), out);
    out.push(b'}');
}

/// What is left out.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(members) => members.is_empty(),
        Value::Object(object) => object.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn member(name: &str, value: &Value, out: &mut Vec<u8>) {
    if is_empty(value) {
        return;
    }
    out.push(b',');
    text(name, out);
    out.push(b':');
    json(value, out);
}

fn text(text: &str, out: &mut Vec<u8>) {
    // Writing text to memory can't fail.
    let _ = serde_json::to_writer(out, text);
}

fn json(value: &Value, out: &mut Vec<u8>) {
    // Values have only keys that are texts, and memory takes every byte.
    let _ = serde_json::to_writer(out, value);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rendered(kind: Kind, attributes: &Value, select: &str) -> String {
        let mut selected = Select::All;
        selected.add(select);
        let mut out = Vec::new();
        render(
            &Representation {
                kind,
                id: "X/1",
                attributes: attributes.as_object().unwrap(),
                select: &selected,
                operations: &[
                    ("edit".into(), "X/1".into()),
                    ("start".into(), "X/1/start".into()),
                ],
            },
            &mut out,
        );
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn attributes_come_in_the_order_of_the_table_and_empty_ones_not() {
        let attributes = json!({"cpu": 1, "name": "a\"b", "state": "STARTED", "reason": "",
            "addresses": [], "secret": 1, "acl": {"owner": {}}, "properties": {"k": "v"}});
        assert_eq!(
            rendered(Kind::Machine, &attributes, ""),
            r#"{"resourceURI":"http://schemas.dmtf.org/cimi/1/Machine","id":"X/1","name":"a\"b","properties":{"k":"v"},"state":"STARTED","cpu":1,"disks":{"href":"X/1/disks"},"volumes":{"href":"X/1/volumes"},"networkInterfaces":{"href":"X/1/networkInterfaces"},"meters":{"href":"X/1/meters"},"acl":{"owner":{}},"operations":[{"rel":"edit","href":"X/1"},{"rel":"http://schemas.dmtf.org/cimi/1/action/start","href":"X/1/start"}]}"#
        );
        assert_eq!(
            rendered(Kind::Machine, &attributes, "cpu"),
            r#"{"resourceURI":"http://schemas.dmtf.org/cimi/1/Machine","id":"X/1","cpu":1}"#
        );
    }

    #[test]
    fn what_the_table_lacks_is_named() {
        let attributes = json!({"cpu": 1, "colour": "red", "name": "a"});
        let attributes = attributes.as_object().unwrap();
        let found: Vec<_> = strangers(Kind::Machine, attributes).collect();
        assert_eq!(found, ["colour"]);
    }

    #[test]
    fn secrets_stay_inside() {
        let attributes = json!({"password": "$2b$", "username": "a", "generation": 44});
        let text = rendered(Kind::User, &attributes, "");
        assert!(!text.contains("$2b$") && !text.contains("44"), "{text}");
        assert!(text.starts_with(r#"{"resourceURI":"http://stratuslab.eu/cimi/1/User""#));
    }

    #[test]
    fn a_collection_names_its_members_by_type() {
        let mut out = Vec::new();
        let members: [&[u8]; 2] = [b"{}", b"{}"];
        render_collection(
            Kind::MachineConfiguration,
            "MachineConfiguration",
            7,
            members,
            true,
            &mut out,
        );
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"resourceURI":"http://schemas.dmtf.org/cimi/1/MachineConfigurationCollection","id":"MachineConfiguration","count":7,"machineConfigurations":[{},{}],"operations":[{"rel":"add","href":"MachineConfiguration"}]}"#
        );
        let mut out = Vec::new();
        render_collection(Kind::Job, "Job", 0, [], false, &mut out);
        assert!(out.ends_with(b"\"count\":0}"));
    }
}
