//! The components that a template describes: checked, told apart by name, and put into an order in which they can be made.

use std::collections::{BTreeMap, BTreeSet};

use cimi::{
    model::Kind,
    resources::{Component, Made},
};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{CloudError, Result, machine::typed};

/// Most components of one system.
const MOST: usize = 256;

/// What components can be, with the member that holds what they are made from.
pub(super) const TYPES: [(Kind, &str); 5] = [
    (Kind::Machine, "machineTemplate"),
    (Kind::System, "systemTemplate"),
    (Kind::Credential, "credentialTemplate"),
    (Kind::Volume, "volumeTemplate"),
    (Kind::Address, "addressTemplate"),
];

/// A component descriptor, as checked against the table.
#[derive(Debug, Deserialize)]
struct Descriptor {
    name: Option<String>,
    description: Option<Value>,
    properties: Option<Value>,
    #[serde(rename = "type")]
    kind: String,
    quantity: Option<u64>,
    #[serde(flatten)]
    templates: Map<String, Value>,
}

impl Descriptor {
    /// Its type, and what creates it but for the name.
    fn body(&self, path: &str) -> Result<(Kind, Map<String, Value>)> {
        let named = self.kind.trim().rsplit('/').next().unwrap_or_default();
        let found = TYPES.iter().find(|(kind, _)| kind.name() == named);
        let Some((kind, member)) = found else {
            let names: Vec<_> = TYPES.iter().map(|(kind, _)| kind.name()).collect();
            let problem = format!(
                "is `{}`; a component is one of {}",
                self.kind,
                names.join(", ")
            );
            return Err(CloudError::invalid(format!("{path}.type"), problem));
        };
        let mut body = Map::new();
        for (name, value) in &self.templates {
            if name != member {
                let problem = format!("doesn't belong to a {kind}, which is made from `{member}`");
                return Err(CloudError::invalid(format!("{path}.{name}"), problem));
            }
            body.insert(name.clone(), value.clone());
        }
        if body.is_empty() {
            let problem = format!("is missing; a {kind} is made from it");
            return Err(CloudError::invalid(format!("{path}.{member}"), problem));
        }
        for (name, value) in [
            ("description", &self.description),
            ("properties", &self.properties),
        ] {
            if let Some(value) = value {
                body.insert(name.to_owned(), value.clone());
            }
        }
        Ok((*kind, body))
    }
}

/// The components that `componentDescriptors` describe, in an order in which they can be made: what others refer to by
/// `#name` comes before them. Of a quantity of several, the names have numbers: `web1`, `web2`.
///
/// # Errors
/// [`CloudError::Invalid`] for types and templates that don't go together, names that are not unique, references to
/// nothing and in a circle.
pub(crate) fn check_components(descriptors: &Value, path: &str) -> Result<Vec<Component>> {
    let mut all = Vec::new();
    let mut names = BTreeSet::new();
    for (index, descriptor) in descriptors.as_array().into_iter().flatten().enumerate() {
        let path = format!("{path}[{index}]");
        let Value::Object(descriptor) = descriptor else {
            return Err(CloudError::invalid(path, "must be an object"));
        };
        let descriptor: Descriptor = typed(descriptor.clone(), &path)?;
        let (kind, body) = descriptor.body(&path)?;
        let base = descriptor
            .name
            .clone()
            .unwrap_or_else(|| format!("{}{}", kind.name().to_ascii_lowercase(), index + 1));
        let quantity = descriptor.quantity.unwrap_or(1);
        for number in 1..=quantity {
            let name = if quantity > 1 {
                format!("{base}{number}")
            } else {
                base.clone()
            };
            if !names.insert(name.clone()) {
                let problem = format!("`{name}` is the name of another component, too");
                return Err(CloudError::invalid(format!("{path}.name"), problem));
            }
            if all.len() >= MOST {
                let problem = format!("are too many: a system has at most {MOST}");
                return Err(CloudError::invalid("componentDescriptors", problem));
            }
            let mut body = body.clone();
            body.insert("name".to_owned(), name.clone().into());
            all.push(Component {
                name,
                kind: kind.name().to_owned(),
                body,
                made: Made::NotYet,
            });
        }
    }
    if all.is_empty() {
        return Err(CloudError::invalid(
            path,
            "must have at least one component",
        ));
    }
    in_order(all, path)
}

/// Those first that others refer to; otherwise as they were.
fn in_order(mut left: Vec<Component>, path: &str) -> Result<Vec<Component>> {
    let names: BTreeSet<String> = left
        .iter()
        .map(|component| component.name.clone())
        .collect();
    let mut needs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for component in &left {
        let mut needed = BTreeSet::new();
        references(&Value::Object(component.body.clone()), &mut needed);
        if let Some(unknown) = needed.iter().find(|name| !names.contains(*name)) {
            let problem = format!(
                "`{}` refers to `#{unknown}`, and no component is called so",
                component.name
            );
            return Err(CloudError::invalid(path, problem));
        }
        needs.insert(component.name.clone(), needed);
    }
    let mut done: BTreeSet<String> = BTreeSet::new();
    let mut ordered = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let ready = |component: &Component| {
            needs
                .get(&component.name)
                .is_none_or(|needed| needed.is_subset(&done))
        };
        let (now, later): (Vec<_>, Vec<_>) = left.into_iter().partition(ready);
        if now.is_empty() {
            let names: Vec<_> = later
                .iter()
                .map(|component| component.name.as_str())
                .collect();
            let problem = format!("{} refer to each other in a circle", names.join(", "));
            return Err(CloudError::invalid(path, problem));
        }
        done.extend(now.iter().map(|component| component.name.clone()));
        ordered.extend(now);
        left = later;
    }
    Ok(ordered)
}

/// The names in all references of the form `{"href": "#name"}`.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Array(all) => all.iter().for_each(|member| references(member, found)),
        Value::Object(all) => {
            for (name, member) in all {
                match member.as_str().and_then(|text| text.strip_prefix('#')) {
                    Some(referred) if name == "href" => {
                        found.insert(referred.to_owned());
                    }
                    _ => references(member, found),
                }
            }
        }
        _ => {}
    }
}

/// `body` with what was made in the place of references to components.
pub(super) fn with_references(body: &Value, made: &BTreeMap<&str, &str>) -> Value {
    match body {
        Value::Array(all) => all
            .iter()
            .map(|member| with_references(member, made))
            .collect(),
        Value::Object(all) => {
            let member = |(name, member): (&String, &Value)| {
                let referred = member
                    .as_str()
                    .and_then(|text| text.strip_prefix('#'))
                    .filter(|_| name == "href")
                    .and_then(|referred| made.get(referred));
                let value = match referred {
                    Some(href) => Value::from(*href),
                    None => with_references(member, made),
                };
                (name.clone(), value)
            };
            Value::Object(all.iter().map(member).collect())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use serde_json::json;

    use super::*;

    fn names(descriptors: &Value) -> Result<Vec<String>> {
        let all = check_components(descriptors, "c")?;
        Ok(all.into_iter().map(|component| component.name).collect())
    }

    #[test]
    fn what_is_referred_to_is_made_first_and_several_have_numbers() {
        let machine = json!({"name": "web", "type": "http://schemas.dmtf.org/cimi/1/Machine", "quantity": 2,
            "machineTemplate": {"volumes": [{"volume": {"href": "#net"}}]}});
        let network = json!({"name": "net", "type": "Volume",
            "volumeTemplate": {"volumeConfig": {"capacity": 1000}}});
        let found = names(&json!([machine, network])).unwrap();
        assert_eq!(found, ["net", "web1", "web2"]);
        let made = BTreeMap::from([("net", "Network/private-3")]);
        let body = with_references(&json!({"network": {"href": "#net"}, "name": "#net"}), &made);
        assert_eq!(
            body,
            json!({"network": {"href": "Network/private-3"}, "name": "#net"})
        );
    }

    #[test]
    fn what_cannot_be_made_is_refused_by_name() {
        let port = |name: &str, network: &str| json!({"name": name, "type": "Address", "addressTemplate": {"network": {"href": network}}});
        for (descriptors, problem) in [
            (json!([]), "at least one component"),
            (json!([port("a", "#b")]), "no component is called so"),
            (json!([port("a", "#b"), port("b", "#a")]), "in a circle"),
            (
                json!([port("a", "Network/x"), port("a", "Network/x")]),
                "another component",
            ),
            (
                json!([{"type": "Job", "name": "a"}]),
                "a component is one of",
            ),
            (
                json!([{"type": "Volume", "name": "a"}]),
                "a Volume is made from it",
            ),
            (
                json!([{"type": "Volume", "machineTemplate": {"href": "MachineTemplate/a"}}]),
                "doesn't belong to a Volume",
            ),
        ] {
            let text = names(&descriptors).unwrap_err().to_string();
            assert!(text.contains(problem), "{descriptors}: {text}");
        }
    }
}
