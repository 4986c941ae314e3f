//! The parts of a system, as its collections show them.

use serde_json::{Value, json};

use crate::cloud::{Api, text_of};
use crate::failure::Result;

/// The collections of a system, the attribute by which a member refers to the resource, and the resource's type.
const COLLECTIONS: [(&str, &str, &str); 6] = [
    ("machines", "machine", "Machine"),
    ("volumes", "volume", "Volume"),
    ("addresses", "address", "Address"),
    ("credentials", "credential", "Credential"),
    ("networks", "network", "Network"),
    ("systems", "system", "System"),
];

/// One of them.
#[derive(Debug)]
pub(super) struct Part {
    kind: &'static str,
    /// As commands take it: a number of machines, else what follows the type.
    id: String,
    name: String,
    state: String,
}

impl Part {
    /// Of what is in the place of a reference; of a bare one, if the resource is gone, the id only.
    fn of(kind: &'static str, resource: &Value) -> Self {
        let text = |name: &str| resource.get(name).map(text_of).unwrap_or_default();
        let href = text("href");
        let local = href.rsplit('/').next().unwrap_or_default().to_owned();
        let number = text("vmid");
        Self { kind, id: if number.is_empty() { local } else { number }, name: text("name"), state: text("state") }
    }

    /// For programs.
    pub(super) fn as_json(&self) -> Value {
        json!({ "type": self.kind, "id": self.id, "name": self.name, "state": self.state })
    }

    /// For people.
    pub(super) fn into_row(self) -> Vec<String> {
        vec![self.kind.to_owned(), self.id, self.name, self.state]
    }
}

/// All parts of a system.
///
/// # Errors
/// [`ApiError`](crate::cloud::ApiError).
pub(super) async fn parts_of(api: &Api, system: &str) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    for (collection, attribute, kind) in COLLECTIONS {
        let answer = api.get(&format!("{system}/{collection}?$expand={attribute}")).await?;
        let members = answer.as_object().into_iter().flatten().filter(|(name, _)| *name != "operations").find_map(|(_, value)| value.as_array());
        let resources = members.into_iter().flatten().filter_map(|member| member.get(attribute));
        parts.extend(resources.map(|resource| Part::of(kind, resource)));
    }
    Ok(parts)
}
