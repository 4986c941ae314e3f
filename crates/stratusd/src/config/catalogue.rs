//! `[[catalogue]]`: where images are found by name.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Config;

/// What this cloud's own Marketplace is called among them.
pub const OWN_MARKETPLACE: &str = "own";

/// How a catalogue is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CatalogueKind {
    /// A Marketplace: by identifiers.
    Marketplace,
    /// Simplestreams, as Ubuntu and Incus publish.
    Simplestreams,
    /// A folder with `SHA512SUMS` or `SHA256SUMS`, as Debian publishes.
    Checksums,
}

/// One of them. The reference file explains each key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "said once, in the reference file, as for the tables"
)]
pub struct CatalogueEntry {
    pub name: String,
    pub kind: CatalogueKind,
    pub url: String,
    #[serde(default)]
    pub ca: String,
    #[serde(default)]
    pub keyring: String,
    #[serde(default = "architecture")]
    pub architecture: String,
    #[serde(default = "refresh_minutes")]
    pub refresh_minutes: u64,
}

fn architecture() -> String {
    "amd64".to_owned()
}

const fn refresh_minutes() -> u64 {
    60
}

impl Config {
    /// What is wrong with the catalogues and the policy: which key, and what to write.
    pub(super) fn problem_of_catalogues(&self) -> Option<(String, String)> {
        for (key, path) in [
            ("images.policy", &self.images.policy),
            ("images.authorities", &self.images.authorities),
        ] {
            if !path.is_empty() && !Path::new(path).is_absolute() {
                return Some((
                    key.to_owned(),
                    format!("is `{path}`; write an absolute path"),
                ));
            }
        }
        let mut names = std::collections::BTreeSet::new();
        self.catalogue.iter().find_map(|entry| {
            let key = |part: &str| format!("catalogue.{}.{part}", entry.name);
            let is_name = !entry.name.is_empty()
                && entry.name.len() <= 40
                && entry
                    .name
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
            if !is_name {
                let problem = format!("is `{}`; write letters a-z, digits and - only", entry.name);
                return Some(("catalogue.name".to_owned(), problem));
            }
            if entry.name == OWN_MARKETPLACE {
                let problem = format!("is `{OWN_MARKETPLACE}`, the name of this cloud's own Marketplace (`images.own_marketplace`); write another");
                return Some((key("name"), problem));
            }
            if !names.insert(&entry.name) {
                return Some((key("name"), "is that of another catalogue, too; write another".to_owned()));
            }
            let is_https = entry.url.starts_with("https://");
            if !is_https && !entry.url.starts_with("http://") {
                return Some((key("url"), format!("is `{}`; write an http or https URL", entry.url)));
            }
            for (part, path) in [("ca", &entry.ca), ("keyring", &entry.keyring)] {
                if !path.is_empty() && !Path::new(path).is_absolute() {
                    return Some((key(part), format!("is `{path}`; write an absolute path")));
                }
            }
            let is_signed_by_entries = entry.kind == CatalogueKind::Marketplace;
            if is_signed_by_entries && !entry.keyring.is_empty() {
                let problem = "is for the other kinds: entries of a Marketplace are signed by their endorsers, whom `images.policy` names";
                return Some((key("keyring"), problem.to_owned()));
            }
            if !is_signed_by_entries && !is_https && entry.keyring.is_empty() {
                let problem = "is no https URL: without `keyring` nothing shows that the index is genuine";
                return Some((key("url"), problem.to_owned()));
            }
            None
        })
    }
}
