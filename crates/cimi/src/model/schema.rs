//! The types as JSON Schemas, as an OpenAPI 3.1 document has them under `components/schemas`.
//!
//! What is read is described strictly: that numbers are also read from texts and the like is for clients
//! that can't do better, and not told here.

use serde_json::{Map, Value, json};

use super::{
    Access, Attribute, COMMON, Creation, Kind, Limit, Shape, describe, scalar::LINE_AT_MOST,
};

/// Where the schema of that name is.
#[must_use]
pub fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// All schemas by name: of every type what is shown (`Machine`) and a list of it (`MachineCollection`),
/// what makes it (`MachineCreate`, if requests make it), what changes it (`MachineEdit`), and what
/// stands for it within others (`MachineTemplateValue`); then `Action` and `Reference`.
#[must_use]
pub fn schemas() -> Map<String, Value> {
    let mut all = Map::new();
    let mut put = |name: String, schema: Value| {
        all.insert(name, schema);
    };
    for kind in Kind::ALL.iter().copied() {
        let described = describe(kind);
        let own = || COMMON.iter().chain(described.attributes);
        let shown = own().filter(|field| field.access != Access::Secret);
        let mut resource = object(shown, &|_| true);
        resource["required"] = json!(["resourceURI", "id"]);
        put(kind.name().to_owned(), resource);
        let mut collection = json!({"type": "object", "required": ["resourceURI", "id", "count"],
            "properties": {
                "resourceURI": {"type": "string", "const": format!("{}Collection", described.uri())},
                "id": {"type": "string"},
                "count": {"type": "integer", "minimum": 0},
                "operations": {"type": "array"}}});
        collection["properties"][described.member_key] =
            json!({"type": "array", "items": reference(kind.name())});
        put(format!("{kind}Collection"), collection);

        let creatable = |field: &Attribute| field.access != Access::ReadOnly;
        match described.creation {
            Creation::Never => {}
            Creation::Plain { .. } => {
                let schema = object(own(), &creatable);
                let schema = if described.is_open {
                    schema
                } else {
                    strict(schema)
                };
                put(format!("{kind}Create"), schema);
            }
            Creation::Either {
                member,
                kind: template,
            } => {
                let mut schema = object(own(), &creatable);
                schema["properties"][member] = reference(&format!("{template}Value"));
                // One of the two ways to say it.
                if let Some(members) = schema.as_object_mut() {
                    members.remove("required");
                }
                put(format!("{kind}Create"), strict(schema));
            }
            Creation::Template {
                member,
                kind: template,
                beside,
            } => {
                let mut schema = object(COMMON.iter().chain(beside), &creatable);
                schema["properties"][member] = reference(&format!("{template}Value"));
                schema["required"] = json!([member]);
                put(format!("{kind}Create"), strict(schema));
            }
        }
        let mut value = object(own(), &creatable);
        value["properties"]["href"] = json!({"type": "string", "maxLength": LINE_AT_MOST});
        if let Some(members) = value.as_object_mut() {
            // What is missing may be what is referred to.
            members.remove("required");
        }
        put(format!("{kind}Value"), strict(value));
        let changeable = |field: &Attribute| matches!(field.access, Access::Write | Access::Secret);
        let mut edit = object(own(), &changeable);
        if let Some(members) = edit.as_object_mut() {
            members.remove("required");
        }
        put(format!("{kind}Edit"), edit);
    }
    put(
        "Action".to_owned(),
        strict(object(super::table::ACTION.iter(), &|_| true)),
    );
    put(
        "Reference".to_owned(),
        json!({"type": "object", "required": ["href"], "properties": {"href": {"type": "string"}}}),
    );
    all
}

/// An object that has only what is told of it.
fn strict(mut schema: Value) -> Value {
    schema["additionalProperties"] = false.into();
    schema
}

/// An object with those of these attributes that are meant.
fn object<'f>(
    fields: impl Iterator<Item = &'f Attribute>,
    meant: &dyn Fn(&Attribute) -> bool,
) -> Value {
    let mut properties = Map::new();
    let mut required: Vec<&str> = Vec::new();
    for field in fields.filter(|field| meant(field)) {
        let mut schema = value(field, &field.shape);
        if field.access == Access::ReadOnly {
            schema["readOnly"] = true.into();
        }
        if field.access == Access::Secret {
            schema["writeOnly"] = true.into();
        }
        properties.insert(field.name.to_owned(), schema);
        if field.required {
            required.push(field.name);
        }
    }
    let mut schema = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn value(field: &Attribute, shape: &Shape) -> Value {
    match shape {
        Shape::Boolean => json!({"type": "boolean"}),
        Shape::Integer => {
            let (least, most) = match field.limit {
                Limit::Range(least, most) => (least, most),
                _ => (0, 9_007_199_254_740_991),
            };
            json!({"type": "integer", "minimum": least, "maximum": most})
        }
        Shape::Decimal => json!({"type": "number", "minimum": 0}),
        Shape::DateTime => json!({"type": "string", "format": "date-time"}),
        Shape::String | Shape::Uri => text(field.limit),
        Shape::Ref(_) | Shape::Collection(_) => reference("Reference"),
        Shape::RefOrValue(kind) => reference(&format!("{kind}Value")),
        Shape::Map => json!({"type": "object", "maxProperties": 256,
            "additionalProperties": text(field.limit)}),
        Shape::Struct(fields) | Shape::Flattened(fields, _) => object(fields.iter(), &|_| true),
        Shape::Array(inner) => {
            json!({"type": "array", "maxItems": 256, "items": value(field, inner)})
        }
    }
}

fn text(limit: Limit) -> Value {
    match limit {
        Limit::Usual | Limit::Range(..) => {
            json!({"type": "string", "maxLength": LINE_AT_MOST, "pattern": "^[^\\x00-\\x1f\\x7f-\\x9f]*$"})
        }
        Limit::OneOf(allowed) => json!({"type": "string", "enum": allowed}),
        Limit::Text(most) => json!({"type": "string", "maxLength": most}),
        Limit::Base64(most) => {
            json!({"type": "string", "maxLength": most, "contentEncoding": "base64"})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every `$ref` within.
    fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::Array(all) => all.iter().for_each(|member| references(member, found)),
            Value::Object(all) => {
                found.extend(all.get("$ref").and_then(Value::as_str));
                all.values().for_each(|member| references(member, found));
            }
            _ => {}
        }
    }

    #[test]
    fn what_is_referred_to_is_there_and_secrets_are_only_written() {
        let all = schemas();
        for (name, schema) in &all {
            let mut found = Vec::new();
            references(schema, &mut found);
            for reference in found {
                let target = reference.strip_prefix("#/components/schemas/").unwrap();
                assert!(all.contains_key(target), "{name} refers to {target}");
            }
        }
        assert_eq!(all["User"]["properties"].get("password"), None);
        assert_eq!(
            all["UserCreate"]["properties"]["password"]["writeOnly"],
            true
        );
        assert_eq!(all["MachineCreate"]["required"], json!(["machineTemplate"]));
        assert!(!all.contains_key("JobCreate"));
        let cpu = &all["MachineConfigurationCreate"]["properties"]["cpu"];
        assert_eq!(
            *cpu,
            json!({"type": "integer", "minimum": 1, "maximum": 4096})
        );
    }
}
