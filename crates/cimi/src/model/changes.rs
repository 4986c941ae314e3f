//! What an edit changes.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    Access, Attribute, COMMON, Kind, Violation,
    check::{Checker, join, one, unknown},
    describe, further,
    render::is_empty,
    scalar::found,
};
use crate::query::Select;

/// Attribute names with their new value; `None` removes the attribute. Only attributes that a
/// consumer may write later, with checked values. What is not named stays.
pub type Changes = BTreeMap<String, Option<Value>>;

/// Checks the body of a PUT and says what it changes:
///
/// - with `$select`, the attributes selected: those absent from the body are removed, if they can be;
/// - a whole representation (it has `id` or `resourceURI`) replaces everything a consumer may write;
/// - otherwise what is in the body is changed and the rest stays.
///
/// Of an [open](super::Type::is_open) type, the removal of [`FURTHER`](super::FURTHER) is that of all attributes that the
/// table doesn't know and the body doesn't name.
///
/// What only the provider writes, or the consumer only at creation, is ignored; what must be there
/// or is never shown isn't removed by being absent.
///
/// # Errors
/// Everything that is wrong with it, at most twenty things.
pub fn check_changes(kind: Kind, body: &Value, select: &Select) -> Result<Changes, Vec<Violation>> {
    let described = describe(kind);
    let mut checker = Checker::default();
    let mut changes = Changes::new();
    let Value::Object(object) = body else {
        checker.complain("", format!("must be an object, but is {}", found(body)));
        return checker.finish(changes);
    };
    let fields = || COMMON.iter().chain(described.attributes);
    let unfolded = further::unfolded(kind, object);
    let object = unfolded.as_ref().unwrap_or(object);
    for (name, value) in further::of(kind, object).filter(|(name, _)| select.wants(name)) {
        if further::is_kept(&mut checker, name, value) {
            changes.insert(
                name.clone(),
                Some(value.clone()).filter(|value| !is_empty(value)),
            );
        }
    }
    for (name, value) in object {
        if described.is_open && described.attribute(name).is_none() {
            continue;
        }
        let Some(field) = fields().find(|field| field.is_called(name)) else {
            let known: Vec<Attribute> = fields().copied().collect();
            checker.complain(&join("", name), unknown(&one(kind), &known, name));
            continue;
        };
        if !is_changeable(field) || !select.wants(field.name) {
            continue;
        }
        let before = checker.count();
        let value = checker.value(field, &field.shape, value, field.name);
        if value.is_none() && is_needed(field) && checker.count() == before {
            checker.complain(field.name, format!("can't be removed from {}", one(kind)));
        }
        changes.insert(field.name.to_owned(), value);
    }
    let removes_absent = match select {
        Select::Only(_) => true,
        Select::All => object.contains_key("id") || object.contains_key("resourceURI"),
    };
    if let Select::Only(names) = select {
        // Whoever names it wants something done with it, and nothing can be.
        let missing = fields().filter(|field| {
            is_changeable(field)
                && is_needed(field)
                && names.iter().any(|name| name == field.name)
                && !object.keys().any(|name| field.is_called(name))
        });
        for field in missing {
            checker.complain(
                field.name,
                format!(
                    "is selected but not sent, and can't be removed from {}: send it, or select others",
                    one(kind)
                ),
            );
        }
    }
    if removes_absent {
        for field in fields() {
            if is_changeable(field)
                && !is_needed(field)
                && select.wants(field.name)
                && !changes.contains_key(field.name)
            {
                changes.insert(field.name.to_owned(), None);
            }
        }
    }
    checker.finish(changes)
}

fn is_changeable(field: &Attribute) -> bool {
    matches!(field.access, Access::Write | Access::Secret)
}

/// Whether absence can't mean removal: it is required, never shown, or says who may do what.
fn is_needed(field: &Attribute) -> bool {
    field.required
        || field.access == Access::Secret
        || matches!(
            field.name,
            "acl"
                | "cpu"
                | "memory"
                | "capacity"
                | "visibility"
                | "enabled"
                | "restartPolicy"
                | "bootable"
        )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn select(names: &str) -> Select {
        let mut select = Select::All;
        select.add(names);
        select
    }

    fn changes(body: &Value, names: &str) -> Value {
        let changes = check_changes(Kind::Volume, body, &select(names)).unwrap();
        serde_json::to_value(changes).unwrap()
    }

    #[test]
    fn a_part_merges_a_whole_replaces_a_selection_touches_only_itself() {
        let part = json!({"name": "x", "capacity": "10", "state": "ERROR", "type": "t"});
        assert_eq!(changes(&part, ""), json!({"name": "x", "capacity": 10}));

        let mut whole = part.clone();
        whole["id"] = "Volume/v".into();
        assert_eq!(
            changes(&whole, ""),
            json!({"name": "x", "capacity": 10, "description": null, "properties": null})
        );

        assert_eq!(
            changes(&part, "name,description,state"),
            json!({"name": "x", "description": null})
        );
        assert_eq!(
            changes(&json!({"description": ""}), ""),
            json!({"description": null})
        );
    }

    #[test]
    fn what_is_wrong_or_needed_is_said() {
        let problems = |kind, body: &Value| {
            check_changes(kind, body, &Select::All).unwrap_err()[0].to_string()
        };
        assert_eq!(
            problems(Kind::Volume, &json!({"size": 5, "tag": "x"})),
            "`tag` is not an attribute of a Volume"
        );
        assert_eq!(
            problems(Kind::Volume, &json!({"capacity": null})),
            "`capacity` can't be removed from a Volume"
        );
        let selected = check_changes(Kind::Volume, &json!({}), &select("name,acl")).unwrap_err();
        assert_eq!(
            selected[0].to_string(),
            "`acl` is selected but not sent, and can't be removed from a Volume: send it, or select others"
        );
        assert_eq!(
            problems(Kind::Volume, &Value::Null),
            "must be an object, but is null"
        );
    }
}
