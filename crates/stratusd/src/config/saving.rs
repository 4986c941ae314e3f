//! `[saving]`: what others learn of images that were saved from machines.

use serde::{Deserialize, Serialize};

/// The table; the reference file explains each key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "said once, in the reference file, as for the other tables"
)]
pub struct Saving {
    pub base_url: String,
    pub marketplace: String,
    pub ca: String,
    pub key: String,
    pub endorser: String,
    pub valid_days: u32,
    pub patience_minutes: u64,
}

impl Default for Saving {
    fn default() -> Self {
        Self {
            base_url: String::new(),
            marketplace: String::new(),
            ca: String::new(),
            key: String::new(),
            endorser: String::new(),
            valid_days: 2,
            patience_minutes: 10,
        }
    }
}

impl Saving {
    /// What stands for no Marketplace at all.
    pub const NO_MARKETPLACE: &str = "none";

    /// Which key can't be as it is, and why.
    pub(super) fn problem(&self) -> Option<(&'static str, String)> {
        for (key, url) in [
            ("saving.base_url", &self.base_url),
            ("saving.marketplace", &self.marketplace),
        ] {
            let is_none = key == "saving.marketplace" && url == Self::NO_MARKETPLACE;
            if !is_none
                && !url.is_empty()
                && !url.starts_with("https://")
                && !url.starts_with("http://")
            {
                return Some((key, format!("is `{url}`; write an http or https URL")));
            }
        }
        if !self.endorser.is_empty() && !marketplace::metadata::is_email(&self.endorser) {
            return Some((
                "saving.endorser",
                format!("is `{}`, which is no e-mail address", self.endorser),
            ));
        }
        if self.valid_days == 0 || self.valid_days > 3650 {
            return Some((
                "saving.valid_days",
                format!("is {}; write 1 to 3650", self.valid_days),
            ));
        }
        None
    }
}
