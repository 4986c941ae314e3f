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
    "href",
];

/// The attributes of a referenced resource, overridden by those written beside the reference.
/// Where both have an object (a nested template), those are laid over each other likewise, unless
/// the inline one is itself a reference: then it stands alone.
#[must_use]
pub fn overlay(
    referenced: Map<String, Value>,
    mut inline: Map<String, Value>,
) -> Map<String, Value> {
    let mut result = referenced;
    result.retain(|name, _| !NOT_TAKEN.contains(&name.as_str()));
    inline.remove("href");
    lay(inline, &mut result);
    result
}

/// Lays `above` over `below`, which may itself be a reference still to be resolved.
fn lay(above: Map<String, Value>, below: &mut Map<String, Value>) {
    for (name, value) in above {
        match (below.get_mut(&name), value) {
            (Some(Value::Object(below)), Value::Object(above)) if !above.contains_key("href") => {
                lay(above, below);
            }
            (_, value) => {
                below.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn laid(referenced: &Value, inline: &Value) -> Value {
        let members = |value: &Value| value.as_object().cloned().unwrap();
        Value::Object(overlay(members(referenced), members(inline)))
    }

    #[test]
    fn inline_attributes_override_and_common_ones_stay_behind() {
        let referenced = json!({"id": "MachineTemplate/t", "name": "t", "initialState": "STARTED",
            "machineConfig": {"href": "MachineConfiguration/small"}, "keymap": "fr",
            "context": {"name": "kept"}});
        let inline = json!({"href": "MachineTemplate/t", "keymap": "de",
            "machineConfig": {"memory": 2048}, "context": {"other": "x"}});
        let expected = json!({"initialState": "STARTED", "keymap": "de",
            "machineConfig": {"href": "MachineConfiguration/small", "memory": 2048},
            "context": {"name": "kept", "other": "x"}});
        assert_eq!(laid(&referenced, &inline), expected);
    }

    #[test]
    fn an_inline_reference_stands_alone() {
        let referenced = json!({"machineConfig": {"cpu": 1, "memory": 1024}});
        let inline =
            json!({"machineConfig": {"href": "MachineConfiguration/m1.large", "memory": 8}});
        assert_eq!(laid(&referenced, &inline), inline);
    }
}
