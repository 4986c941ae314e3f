//! What goes out.

use serde_json::{Map, Value};

use super::{
    super::{
        Attribute, FURTHER, Kind, Namespace, Operations, Place, Representation, Shape, describe,
        further,
        render::{is_empty, rel_of, shown},
    },
    escape_attribute, escape_text,
};
use crate::query::Select;

/// Appends the XML form of a resource, as a document of its own.
pub fn render(representation: &Representation<'_>, out: &mut Vec<u8>) {
    let Representation {
        kind,
        id,
        attributes,
        select,
        operations,
    } = representation;
    let described = describe(*kind);
    out.push(b'<');
    out.extend_from_slice(kind.name().as_bytes());
    out.extend_from_slice(NAMESPACE);
    if described.namespace == Namespace::StratusLab {
        tag("resourceURI", &described.uri(), out);
    }
    out.push(b'>');
    leaf("id", id, out);
    for field in shown(*kind, select) {
        match (field.shape, attributes.get(field.name)) {
            (Shape::Collection(_), Some(expanded)) => attribute(field, expanded, out),
            (Shape::Collection(_), None) => {
                open(field.name, out);
                tag("href", &format!("{id}/{}", field.name), out);
                out.extend_from_slice(b"/>");
            }
            (_, Some(value)) if !is_empty(value) => attribute(field, value, out),
            _ => {}
        }
    }
    let further = further::as_map(*kind, attributes, |name| select.wants(name));
    if let Some(field) = described.attribute(FURTHER)
        && !is_empty(&further)
    {
        attribute(field, &further, out);
    }
    if select.wants("operations") {
        write_operations(operations, out);
    }
    close(kind.name(), out);
}

/// ` xmlns="…"`, as it follows the name of every root.
const NAMESPACE: &[u8] = b" xmlns=\"http://schemas.dmtf.org/cimi/1\"";

/// Appends the XML form of a collection, or a page of it. The members are documents as
/// [`render`] makes them.
pub fn render_collection<'m>(
    kind: Kind,
    id: &str,
    count: usize,
    members: impl IntoIterator<Item = &'m [u8]>,
    can_add: bool,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"<Collection");
    out.extend_from_slice(NAMESPACE);
    tag(
        "resourceURI",
        &format!("{}Collection", describe(kind).uri()),
        out,
    );
    out.push(b'>');
    leaf("id", id, out);
    leaf("count", &count.to_string(), out);
    let root = kind.name().len() + 1;
    for member in members {
        // What the collection declares counts for its members.
        let (name, rest) = member.split_at(root.min(member.len()));
        out.extend_from_slice(name);
        out.extend_from_slice(rest.strip_prefix(NAMESPACE).unwrap_or(rest));
    }
    if can_add {
        write_operations(&[("add".to_owned(), id.to_owned())], out);
    }
    close("Collection", out);
}

fn write_operations(operations: &Operations, out: &mut Vec<u8>) {
    for (rel, href) in operations {
        open("operation", out);
        tag("rel", &rel_of(rel), out);
        tag("href", href, out);
        out.extend_from_slice(b"/>");
    }
}

/// An attribute with all its elements.
fn attribute(field: &Attribute, value: &Value, out: &mut Vec<u8>) {
    let name = field.element();
    match (field.shape, value) {
        (Shape::Array(inner), Value::Array(members)) => {
            for member in members {
                element(name, inner, member, out);
            }
        }
        (Shape::Map, Value::Object(entries)) => {
            for (key, value) in entries {
                open(name, out);
                tag("key", key, out);
                out.push(b'>');
                content(value, out);
                close(name, out);
            }
        }
        (shape, value) => element(name, &shape, value, out),
    }
}

/// One element with a value that isn't there several times.
fn element(name: &str, shape: &Shape, value: &Value, out: &mut Vec<u8>) {
    let members = match value {
        Value::Null => return,
        Value::Object(members) => members,
        single => {
            open(name, out);
            out.push(b'>');
            content(single, out);
            return close(name, out);
        }
    };
    open(name, out);
    let fields: &[Attribute] = match shape {
        Shape::Struct(fields) | Shape::Flattened(fields, _) => fields,
        _ => &[],
    };
    let mut in_tag = |name: &str| match members.get(name) {
        Some(Value::String(text)) => tag(name, text, out),
        Some(Value::Bool(value)) => tag(name, if *value { "true" } else { "false" }, out),
        _ => {}
    };
    match shape {
        Shape::Struct(_) => fields
            .iter()
            .filter(|field| field.place == Place::Tag)
            .for_each(|field| in_tag(field.name)),
        _ => ["href", "resourceURI"].into_iter().for_each(in_tag),
    }
    let before = out.len();
    out.push(b'>');
    match shape {
        Shape::Struct(_) | Shape::Flattened(..) => {
            for field in fields.iter().filter(|field| field.place != Place::Tag) {
                match (field.place, members.get(field.name)) {
                    (Place::Content, Some(value)) => content(value, out),
                    (_, Some(value)) => attribute(field, value, out),
                    (_, None) => {}
                }
            }
        }
        Shape::RefOrValue(kind) => resource(*kind, members, out),
        Shape::Collection(kind) => collection(*kind, members, out),
        // A reference with what it refers to in its place.
        _ => match type_of(members) {
            Some((kind, true)) => collection(kind, members, out),
            Some((kind, false)) => resource(kind, members, out),
            None => {}
        },
    }
    if out.len() == before + 1 {
        out.truncate(before);
        out.extend_from_slice(b"/>");
    } else {
        close(name, out);
    }
}

/// The type of what stands in the place of a reference to it, and whether it is a collection of that.
fn type_of(members: &Map<String, Value>) -> Option<(Kind, bool)> {
    let name = members.get("resourceURI")?.as_str()?.rsplit('/').next()?;
    Some(match name.strip_suffix("Collection") {
        Some(name) => (Kind::from_name(name)?, true),
        None => (Kind::from_name(name)?, false),
    })
}

/// The attributes of a resource within another.
fn resource(kind: Kind, members: &Map<String, Value>, out: &mut Vec<u8>) {
    if let Some(Value::String(id)) = members.get("id") {
        leaf("id", id, out);
    }
    for field in shown(kind, &Select::All) {
        if let Some(value) = members.get(field.name) {
            attribute(field, value, out);
        }
    }
    operations_of(members, out);
}

/// The content of a collection in the place of a reference to it.
fn collection(kind: Kind, members: &Map<String, Value>, out: &mut Vec<u8>) {
    if let Some(Value::String(id)) = members.get("id") {
        leaf("id", id, out);
    }
    if let Some(Value::Number(count)) = members.get("count") {
        leaf("count", &count.to_string(), out);
    }
    if let Some(Value::Array(all)) = members.get(describe(kind).member_key) {
        for member in all.iter().filter_map(Value::as_object) {
            open(kind.name(), out);
            out.push(b'>');
            resource(kind, member, out);
            close(kind.name(), out);
        }
    }
    operations_of(members, out);
}

fn operations_of(members: &Map<String, Value>, out: &mut Vec<u8>) {
    let operations = members.get("operations").and_then(Value::as_array);
    for operation in operations.into_iter().flatten() {
        open("operation", out);
        for name in ["rel", "href"] {
            if let Some(text) = operation.get(name).and_then(Value::as_str) {
                tag(name, text, out);
            }
        }
        out.extend_from_slice(b"/>");
    }
}

fn open(name: &str, out: &mut Vec<u8>) {
    out.push(b'<');
    out.extend_from_slice(name.as_bytes());
}

fn close(name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"</");
    out.extend_from_slice(name.as_bytes());
    out.push(b'>');
}

fn tag(name: &str, value: &str, out: &mut Vec<u8>) {
    out.push(b' ');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"=\"");
    escape_attribute(value, out);
    out.push(b'"');
}

fn leaf(name: &str, text: &str, out: &mut Vec<u8>) {
    open(name, out);
    out.push(b'>');
    escape_text(text, out);
    close(name, out);
}

fn content(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::String(text) => escape_text(text, out),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(_) => {
            // Memory takes every byte.
            let _ = serde_json::to_writer(out, value);
        }
        Value::Null | Value::Array(_) | Value::Object(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rendered(kind: Kind, id: &str, attributes: &Value) -> String {
        let mut out = Vec::new();
        render(
            &Representation {
                kind,
                id,
                attributes: attributes.as_object().unwrap(),
                select: &Select::All,
                operations: &[
                    ("edit".into(), id.into()),
                    ("stop".into(), format!("{id}/stop")),
                ],
            },
            &mut out,
        );
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_machine_is_written_as_the_specification_has_it() {
        let attributes = json!({"name": "web-1", "created": "2014-08-01T10:20:30.000Z",
            "properties": {"group": "prod", "a\"b": "<&>"}, "state": "STARTED", "cpu": 2,
            "addresses": ["10.0.0.1", "10.0.0.2"], "reason": "",
            "machineImage": {"href": "MachineImage/x"},
            "acl": {"owner": {"principal": "alice", "type": "USER"},
                "rules": [{"principal": "::USER", "type": "ROLE", "right": "VIEW"}]}});
        assert_eq!(
            rendered(Kind::Machine, "Machine/6f0c", &attributes),
            "<Machine xmlns=\"http://schemas.dmtf.org/cimi/1\"><id>Machine/6f0c</id><name>web-1</name>\
             <created>2014-08-01T10:20:30.000Z</created><property key=\"a&quot;b\">&lt;&amp;&gt;</property>\
             <property key=\"group\">prod</property><state>STARTED</state><cpu>2</cpu>\
             <disks href=\"Machine/6f0c/disks\"/><volumes href=\"Machine/6f0c/volumes\"/>\
             <networkInterfaces href=\"Machine/6f0c/networkInterfaces\"/>\
             <meters href=\"Machine/6f0c/meters\"/>\
             <machineImage href=\"MachineImage/x\"/><address>10.0.0.1</address><address>10.0.0.2</address>\
             <acl><owner><principal>alice</principal><type>USER</type></owner>\
             <rule><principal>::USER</principal><type>ROLE</type><right>VIEW</right></rule></acl>\
             <operation rel=\"edit\" href=\"Machine/6f0c\"/>\
             <operation rel=\"http://schemas.dmtf.org/cimi/1/action/stop\" href=\"Machine/6f0c/stop\"/></Machine>"
        );
    }

    #[test]
    fn a_collection_says_of_what_and_holds_its_members_by_type() {
        let member = rendered(Kind::User, "User/a", &json!({"username": "a"}));
        assert!(member.starts_with(
            "<User xmlns=\"http://schemas.dmtf.org/cimi/1\" resourceURI=\"http://stratuslab.eu/cimi/1/User\">"
        ));
        let mut out = Vec::new();
        render_collection(Kind::User, "User", 7, [member.as_bytes()], true, &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "<Collection xmlns=\"http://schemas.dmtf.org/cimi/1\" \
             resourceURI=\"http://stratuslab.eu/cimi/1/UserCollection\"><id>User</id><count>7</count>\
             <User resourceURI=\"http://stratuslab.eu/cimi/1/User\"><id>User/a</id><username>a</username>\
             <operation rel=\"edit\" href=\"User/a\"/>\
             <operation rel=\"http://schemas.dmtf.org/cimi/1/action/stop\" href=\"User/a/stop\"/></User>\
             <operation rel=\"add\" href=\"User\"/></Collection>"
        );
    }
}
