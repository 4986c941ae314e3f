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
        if let Err(error) = cimi::EmailAddress::parse(&self.administrator) {
            let text = format!("must be the e-mail address of who decides: {error}");
            return Some(("registration.administrator", text));
        }
        if !self.url.is_empty() && !is_site(&self.url) {
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
        if let Err(problem) = directory::check_url(&ldap.url) {
            return Some(("registration.ldap.url", format!("can't be: {problem}")));
        }
        if ldap.manager_password_file.is_empty() {
            let text = "is empty; write a file with the password of `manager_dn`";
            return Some(("registration.ldap.manager_password_file", text.to_owned()));
        }
        None
    }
}

/// Whether links can begin with this address: a scheme of the web, a host, perhaps a port and a path, and nothing else.
fn is_site(url: &str) -> bool {
    let Ok(read) = reqwest::Url::parse(url) else {
        return false;
    };
    let plain = read.username().is_empty() && read.password().is_none();
    let ends = read.query().is_none() && read.fragment().is_none();
    ["http", "https"].contains(&read.scheme())
        && read.has_host()
        && plain
        && ends
        && !url.contains(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(change: impl FnOnce(&mut Registration)) -> Option<&'static str> {
        let mut table = Registration {
            administrator: "root@example.org".to_owned(),
            ..Registration::default()
        };
        change(&mut table);
        table.problem(true).map(|(key, _)| key)
    }

    #[test]
    fn addresses_and_urls_are_read_as_they_will_be_used() {
        assert_eq!(problem(|_| ()), None);
        for url in ["https://cloud.example.org:8443", "http://10.0.0.1/cloud/"] {
            assert_eq!(problem(|table| table.url = url.to_owned()), None, "{url}");
        }
        for url in [
            "https://",
            "https://a b",
            "https://u:p@a",
            "https://a/?x",
            "ftp://a",
            "a",
        ] {
            let found = problem(|table| table.url = url.to_owned());
            assert_eq!(found, Some("registration.url"), "{url}");
        }
        for administrator in ["root", "a@b@c", "Root <root@example.org>"] {
            let found = problem(|table| table.administrator = administrator.to_owned());
            assert_eq!(found, Some("registration.administrator"), "{administrator}");
        }
        let with_ldap = |url: &str| {
            problem(|table| {
                table.ldap.url = url.to_owned();
                table.ldap.manager_password_file = "/secret".to_owned();
            })
        };
        assert_eq!(with_ldap("ldaps://ldap.example.org"), None);
        for url in ["ldap://", "ldap://a:b", "ldaps://u@a", "http://a"] {
            assert_eq!(with_ldap(url), Some("registration.ldap.url"), "{url}");
        }
    }
}
