//! `[registration]`: how people ask for accounts.

use serde::{Deserialize, Serialize};

/// The table; the reference file explains each key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "said once, in the reference file, as for the other tables"
)]
pub struct Registration {
    pub administrator: String,
    pub url: String,
    pub role: String,
    pub confirm_hours: u64,
    pub reset_minutes: u64,
    pub rejected_days: u64,
}

impl Default for Registration {
    fn default() -> Self {
        Self {
            administrator: String::new(),
            url: String::new(),
            role: "cloud-access".to_owned(),
            confirm_hours: 72,
            reset_minutes: 60,
            rejected_days: 30,
        }
    }
}

impl Registration {
    /// Whether people can ask for accounts.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.administrator.is_empty()
    }

    /// Which key can't be as it is, and why.
    pub(super) fn problem(&self, letters: bool) -> Option<(&'static str, String)> {
        if !self.is_on() {
            return None;
        }
        if !letters {
            let text =
                "is set, but no letters can be sent: write `mail.server` and `mail.from`, too";
            return Some(("registration.administrator", text.to_owned()));
        }
        if !self.administrator.contains('@') {
            let text = format!(
                "is `{}`; write the e-mail address of who decides",
                self.administrator
            );
            return Some(("registration.administrator", text));
        }
        let has_scheme = ["https://", "http://"]
            .iter()
            .any(|scheme| self.url.starts_with(scheme));
        if !self.url.is_empty() && !has_scheme {
            let text = format!("is `{}`; write https://HOST:PORT", self.url);
            return Some(("registration.url", text));
        }
        if self.role.is_empty() || self.role.starts_with(':') {
            let text = format!(
                "is `{}`; write a name that doesn't begin with a colon",
                self.role
            );
            return Some(("registration.role", text));
        }
        None
    }
}
