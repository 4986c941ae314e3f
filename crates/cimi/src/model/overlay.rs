//! Creation by reference and value at once (DSP0263 §4.2.1.1).

use serde_json::{Map, Value};

/// What the reference brings along and the new resource must not take over.
const NOT_TAKEN: &[&str] = &[
    "id",
    "resourceURI",
    "name",
    "description",
    "created",
    "updated",
    "properties",
    "operations",
    "acl",
    "parent",
    "href",
];

/// The attributes of a referenced resource, overridden by those written beside the reference.
/// Where both have an object (a nested template), those are laid over each other likewise, unless
/// the inline one is itself a reference: then it stands alone.
#[must_use]
pub fn overlay(referenced: &Map<String, Value>, inline: &Map<String, Value>) -> Map<String, Value> {
    let mut result: Map<String, Value> = referenced
        .iter()
        .filter(|(name, _)| !NOT_TAKEN.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    for (name, value) in inline {
        if name == "href" {
            continue;
        }
        let laid = match (result.get(name), value) {
            (Some(Value::Object(below)), Value::Object(above)) if !above.contains_key("href") => {
                let mut laid = overlay(below, above);
                // What is below may be a reference still to be resolved.
                if let Some(href) = below.get("href") {
                    laid.insert("href".to_owned(), href.clone());
                }
                Value::Object(laid)
            }
            _ => value.clone(),
        };
        result.insert(name.clone(), laid);
    }
    result
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn inline_attributes_override_and_common_ones_stay_behind() {
        let referenced = json!({"id": "MachineTemplate/t", "name": "t", "initialState": "STARTED",
            "machineConfig": {"href": "MachineConfiguration/small"}, "keymap": "fr"});
        let inline = json!({"href": "MachineTemplate/t", "keymap": "de",
            "machineConfig": {"memory": 2048}});
        let expected = json!({"initialState": "STARTED", "keymap": "de",
            "machineConfig": {"href": "MachineConfiguration/small", "memory": 2048}});
        let result = overlay(referenced.as_object().unwrap(), inline.as_object().unwrap());
        assert_eq!(Value::Object(result), expected);
    }
}
