//! What is told of a type itself: ResourceMetadata (DSP0263 §5.13), made of its row in the table.

use serde_json::{Map, Value, json};

use super::{Access, Attribute, Kind, Limit, Namespace, Shape, describe};
use crate::uri;

/// The attributes of the ResourceMetadata of a type.
#[must_use]
pub fn metadata(kind: Kind) -> Map<String, Value> {
    let described = describe(kind);
    let attributes: Vec<Value> = described
        .attributes
        .iter()
        .filter(|attribute| attribute.access != Access::Secret)
        .map(attribute)
        .collect();
    let capabilities: Vec<Value> = described
        .capabilities
        .iter()
        .map(|capability| {
            json!({"name": capability.name, "uri": capability.uri(kind),
                "description": capability.description, "value": capability.value})
        })
        .collect();
    let actions: Vec<Value> = described
        .actions
        .iter()
        .map(|action| {
            json!({"name": action, "uri": format!("{}/{action}", uri::ACTION), "method": "POST",
                "inputMessage": "Action", "outputMessage": "Job"})
        })
        .collect();
    let mut out = Map::new();
    out.insert("name".to_owned(), kind.name().into());
    out.insert("typeURI".to_owned(), described.uri().into());
    for (name, all) in [
        ("attributes", attributes),
        ("capabilities", capabilities),
        ("actions", actions),
    ] {
        if !all.is_empty() {
            out.insert(name.to_owned(), all.into());
        }
    }
    out
}

fn attribute(attribute: &Attribute) -> Value {
    let mut out = json!({"name": attribute.name, "type": type_name(&attribute.shape),
        "required": attribute.required});
    if attribute.namespace == Namespace::StratusLab {
        out["namespace"] = uri::STRATUSLAB.into();
    }
    let constraints: Vec<String> = match attribute.limit {
        Limit::OneOf(allowed) => allowed.iter().map(|text| (*text).to_owned()).collect(),
        Limit::Range(least, most) => vec![format!("{least}..{most}")],
        Limit::Usual | Limit::Text(_) | Limit::Base64(_) => Vec::new(),
    };
    if !constraints.is_empty() {
        let all: Vec<_> = constraints
            .iter()
            .map(|value| json!({"value": value}))
            .collect();
        out["constraints"] = all.into();
    }
    out
}

/// The type of a value in the words of the standard; `[]` after it says that there may be several.
fn type_name(shape: &Shape) -> String {
    match shape {
        Shape::Boolean => "boolean".to_owned(),
        Shape::Integer => "integer".to_owned(),
        Shape::Decimal => "decimal".to_owned(),
        Shape::String => "string".to_owned(),
        Shape::DateTime => "dateTime".to_owned(),
        Shape::Uri => "URI".to_owned(),
        Shape::Ref(_) => "ref".to_owned(),
        Shape::RefOrValue(kind) => kind.name().to_owned(),
        Shape::Map => "map".to_owned(),
        Shape::Struct(_) | Shape::Flattened(..) => "structure".to_owned(),
        Shape::Array(inner) => format!("{}[]", type_name(inner)),
        Shape::Collection(kind) => format!("{kind}Collection"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_tells_of_itself_what_the_table_has() {
        let machine = Value::Object(metadata(Kind::Machine));
        assert_eq!(machine["typeURI"], "http://schemas.dmtf.org/cimi/1/Machine");
        let attributes = machine["attributes"].as_array().unwrap();
        let called = |name: &str| attributes.iter().find(|a| a["name"] == name).unwrap();
        assert_eq!(
            *called("cpu"),
            json!({"name": "cpu", "type": "integer", "required": false, "constraints": [{"value": "1..4096"}]})
        );
        assert_eq!(called("disks")["type"], "DiskCollection");
        assert_eq!(called("vmid")["namespace"], "http://stratuslab.eu/cimi/1");
        assert_eq!(
            machine["capabilities"][0]["uri"],
            "http://schemas.dmtf.org/cimi/1/capability/Machine/DefaultInitialState"
        );
        assert_eq!(
            machine["actions"][1]["uri"],
            "http://schemas.dmtf.org/cimi/1/action/stop"
        );
        for kind in Kind::ALL {
            assert!(
                !metadata(*kind)["attributes"].as_array().unwrap().is_empty(),
                "{kind}"
            );
        }
        assert!(
            !Value::Object(metadata(Kind::User))
                .to_string()
                .contains("password")
        );
    }
}
