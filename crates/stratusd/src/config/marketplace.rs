//! `[marketplace]`: the catalogue of signed descriptions of images.

use serde::{Deserialize, Serialize};

/// The table; the reference file explains each key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "said once, in the reference file, as for the other tables"
)]
pub struct Marketplace {
    pub title: String,
    pub url: String,
    pub administrator: String,
    pub confirm: bool,
    pub remind: bool,
    pub trusted_endorsers: String,
    pub trusted_authorities: String,
    pub read_only: bool,
    pub document_kib: usize,
    pub waiting_days: u64,
    pub waiting_per_email: usize,
    pub waiting_per_address: usize,
    pub waiting_mib: usize,
    pub follow: Vec<String>,
    pub follow_ca: String,
    pub follow_minutes: u64,
}

impl Default for Marketplace {
    fn default() -> Self {
        Self {
            title: "Stratus Marketplace".into(),
            url: String::new(),
            administrator: String::new(),
            confirm: true,
            remind: false,
            trusted_endorsers: String::new(),
            trusted_authorities: String::new(),
            read_only: false,
            document_kib: 400,
            waiting_days: 7,
            waiting_per_email: 20,
            waiting_per_address: 100,
            waiting_mib: 256,
            follow: Vec::new(),
            follow_ca: String::new(),
            follow_minutes: 15,
        }
    }
}

impl Marketplace {
    /// Which key can't be as it is, and why.
    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        if !self.url.is_empty() && !is_web(&self.url) {
            let text = format!(
                "is `{}`; write https://images.example.org/marketplace",
                self.url
            );
            return Some(("marketplace.url", text));
        }
        if self.trusted_endorsers.is_empty() != self.trusted_authorities.is_empty() {
            let text = "and `marketplace.trusted_authorities` belong together: write both or none";
            return Some(("marketplace.trusted_endorsers", text.to_owned()));
        }
        if !(1..=400).contains(&self.document_kib) {
            let text = format!("is {}; write 1 to 400", self.document_kib);
            return Some(("marketplace.document_kib", text));
        }
        if !(1..=365).contains(&self.waiting_days) {
            let text = format!("is {}; write 1 to 365", self.waiting_days);
            return Some(("marketplace.waiting_days", text));
        }
        if !(1..=65_536).contains(&self.waiting_mib) {
            let text = format!("is {}; write 1 to 65536", self.waiting_mib);
            return Some(("marketplace.waiting_mib", text));
        }
        if self.follow_minutes == 0 {
            return Some((
                "marketplace.follow_minutes",
                "is 0; write at least 1".to_owned(),
            ));
        }
        let wrong = self.follow.iter().find(|url| !is_web(url))?;
        let text = format!(
            "names `{wrong}`; write addresses such as https://marketplace.example.org/marketplace"
        );
        Some(("marketplace.follow", text))
    }
}

fn is_web(url: &str) -> bool {
    ["https://", "http://"].iter().any(|scheme| {
        url.strip_prefix(scheme)
            .is_some_and(|rest| !rest.is_empty() && !rest.contains(char::is_whitespace))
    })
}
