//! Where a cloud looks images up.

use serde_json::Value;

use super::{Api, text_of};
use crate::failure::{Failure, Result};

/// A Marketplace or a catalogue that a cloud asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// What the cloud calls it.
    pub name: String,
    /// Where it is: its cloud's own Marketplace where the cloud was reached.
    pub url: String,
    /// Whether it is a Marketplace.
    pub is_marketplace: bool,
}

impl Source {
    /// All that a cloud asks, in its order.
    ///
    /// # Errors
    /// Those of the request.
    pub async fn of(api: &Api) -> Result<Vec<Self>> {
        let Value::Array(sources) = api.get("/stratus/catalogue").await? else {
            return Err(Failure::Work(
                "the cloud answered with something else than a list".to_owned(),
            ));
        };
        let own = format!("{}/marketplace", api.endpoint().root_url());
        Ok(sources
            .iter()
            .map(|source| Self::read(source, &own))
            .collect())
    }

    fn read(source: &Value, own: &str) -> Self {
        let text = |name: &str| source.get(name).map(text_of).unwrap_or_default();
        let is_own = source.get("own") == Some(&Value::Bool(true));
        Self {
            name: text("name"),
            url: if is_own { own.to_owned() } else { text("url") },
            is_marketplace: text("kind") == "marketplace",
        }
    }

    /// Whether an address means it: with or without a scheme, `/marketplace` and slashes at the end.
    #[must_use]
    pub fn is_at(&self, address: &str) -> bool {
        let plain = |url: &str| {
            let url = url.trim().to_ascii_lowercase();
            let url = url
                .split_once("://")
                .map_or(url.as_str(), |(_, rest)| rest)
                .trim_end_matches('/');
            url.strip_suffix("/marketplace").unwrap_or(url).to_owned()
        };
        plain(&self.url) == plain(address)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_clouds_own_is_where_the_cloud_is() {
        let own = "https://127.0.0.1:8443/marketplace";
        let read = |value| Source::read(&value, own);
        let central = read(json!({"name": "central", "kind": "marketplace",
            "url": "https://m.example.org/", "own": false}));
        assert_eq!(central.url, "https://m.example.org/");
        let here = read(json!({"name": "own", "kind": "marketplace",
            "url": "https://computer:8443/marketplace/", "own": true}));
        assert_eq!(here.url, own);
        for (source, address, is_it) in [
            (&here, "https://127.0.0.1:8443", true),
            (&here, "127.0.0.1:8443/marketplace/", true),
            (&here, "https://127.0.0.1:8444/marketplace", false),
            (&central, "HTTPS://M.example.org/marketplace", true),
            (&central, "https://example.org", false),
        ] {
            assert_eq!(source.is_at(address), is_it, "{address}");
        }
    }
}
