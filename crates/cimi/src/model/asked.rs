//! Whether a query asks for what resources of a type have.

use super::{
    Attribute, COMMON, Kind, Shape, Type, Violation, check::one, check::unknown, describe,
};
use crate::query::{Query, Select};

/// Refuses attributes in `$filter`, `$orderby` and `$expand` that resources of this type don't have: their answer would be
/// that of a list in which nothing fits, and hide a wrong name. (`$select` ignores them, as the standard says.) Of
/// [open](Type::is_open) types any name may be an attribute.
///
/// # Errors
/// Each such name, with the parameter that has it.
pub fn check_query(kind: Kind, query: &Query) -> Result<(), Vec<Violation>> {
    let described = describe(kind);
    let mut violations = Vec::new();
    if !described.is_open {
        let mut check = |parameter: &str, name: &str| {
            if named(described, name).is_none() {
                violations.push(not_there(described, parameter, name));
            }
        };
        if let Some(filter) = &query.filter {
            filter.attributes(&mut |name| check("$filter", name));
        }
        for key in &query.order {
            check("$orderby", &key.name);
        }
    }
    if let Some(Select::Only(names)) = &query.expand {
        for name in names {
            match named(described, name).map(|attribute| attribute.shape) {
                None if described.is_open => {}
                None => violations.push(not_there(described, "$expand", name)),
                Some(shape) if refers(&shape) => {}
                Some(_) => violations.push(Violation::new(
                    "$expand",
                    format!("has `{name}`, which of {} refers to nothing", one(kind)),
                )),
            }
        }
    }
    violations.dedup();
    if violations.is_empty() {
        Ok(())
    } else {
        Err(violations)
    }
}

fn named(described: &Type, name: &str) -> Option<&'static Attribute> {
    let mut all = COMMON.iter().chain(described.attributes);
    all.find(|attribute| attribute.name == name)
}

fn not_there(described: &Type, parameter: &str, name: &str) -> Violation {
    let all: Vec<Attribute> = COMMON.iter().chain(described.attributes).copied().collect();
    let shown: String = name.chars().take(64).collect();
    let problem = unknown(&one(described.kind), &all, &shown);
    Violation::new(parameter, format!("has `{shown}`, which {problem}"))
}

/// Whether there is something to be shown in the place of such a value.
fn refers(shape: &Shape) -> bool {
    match shape {
        Shape::Ref(_) | Shape::RefOrValue(_) | Shape::Collection(_) => true,
        Shape::Array(inner) => refers(inner),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(kind: Kind, name: &str, value: &str) -> Vec<String> {
        let query = Query::from_parameters([(name, value)]).unwrap();
        let checked = check_query(kind, &query);
        let violations = checked.err().unwrap_or_default();
        violations.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_of_no_attribute_are_told() {
        assert_eq!(
            problems(
                Kind::Machine,
                "$filter",
                "colour='x' and (cpu>1 or Name='y')"
            ),
            [
                "`$filter` has `colour`, which is not an attribute of a Machine",
                "`$filter` has `Name`, which is not an attribute of a Machine; did you mean `name`?"
            ]
        );
        assert_eq!(
            problems(Kind::Volume, "$orderby", "name,sise:desc"),
            ["`$orderby` has `sise`, which is not an attribute of a Volume"]
        );
        assert_eq!(
            problems(Kind::Machine, "$expand", "cpu,volumes,nothing"),
            [
                "`$expand` has `cpu`, which of a Machine refers to nothing",
                "`$expand` has `nothing`, which is not an attribute of a Machine"
            ]
        );
    }

    #[test]
    fn whatever_may_be_there_may_be_asked_for() {
        for (kind, name, value) in [
            (
                Kind::Machine,
                "$filter",
                "property['colour']='x' and id!='y'",
            ),
            (Kind::Machine, "$select", "nothing"),
            (Kind::Machine, "$expand", "*"),
            (Kind::Job, "$expand", "nestedJobs,targetResource"),
            (Kind::CloudEntryPoint, "$expand", "machines"),
            (Kind::ServiceConfiguration, "$filter", "anything='x'"),
        ] {
            assert!(problems(kind, name, value).is_empty(), "{value}");
        }
    }
}
