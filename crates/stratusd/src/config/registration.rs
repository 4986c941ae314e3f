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
    pub ldap: Ldap,
}

/// `[registration.ldap]`: the directory that accounts are written to, if not to the cloud's own database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(
    missing_docs,
    reason = "said once, in the reference file, as for the other tables"
)]
pub struct Ldap {
    pub url: String,
    pub start_tls: bool,
    pub ca: String,
    pub manager_dn: String,
    pub manager_password_file: String,
    pub users: String,
    pub groups: String,
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
            ldap: Ldap::default(),
        }
    }
}

impl Default for Ldap {
    fn default() -> Self {
        Self {
            url: String::new(),
            start_tls: false,
            ca: String::new(),
            manager_dn: "cn=admin,o=cloud".to_owned(),
            manager_password_file: String::new(),
            users: "ou=users,o=cloud".to_owned(),
            groups: "ou=groups,o=cloud".to_owned(),
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
        let ldap = &self.ldap;
        if ldap.url.is_empty() {
            return None;
        }
        if !["ldap://", "ldaps://"]
            .iter()
            .any(|scheme| ldap.url.starts_with(scheme))
        {
            let text = format!("is `{}`; write ldaps://HOST or ldap://HOST:PORT", ldap.url);
            return Some(("registration.ldap.url", text));
        }
        if ldap.manager_password_file.is_empty() {
            let text = "is empty; write a file with the password of `manager_dn`";
            return Some(("registration.ldap.manager_password_file", text.to_owned()));
        }
        None
    }
}
