//! Which provider, and what its claims mean here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A provider of identities: the member `oidc` of `ServiceConfiguration/authn`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct OidcSettings {
    /// Whether it is used.
    pub enabled: bool,
    /// What the login page calls it.
    pub label: String,
    /// Its address: discovery is at `/.well-known/openid-configuration` below it.
    pub issuer: String,
    /// Who we are there.
    pub client_id: String,
    /// How we show it; empty: a public client.
    pub client_secret: String,
    /// Where browsers come back to: `https://cloud.example.org:8443/cimi/oidc/callback`.
    pub redirect_url: String,
    /// What is asked for beside `openid`.
    pub scopes: Vec<String>,
    /// The claim that a new user's name is taken of.
    pub username_claim: String,
    /// The claim that lists groups.
    pub groups_claim: String,
    /// Which role who is in which group gets.
    pub roles: BTreeMap<String, String>,
    /// The roles of everybody who comes from there.
    pub default_roles: Vec<String>,
    /// Groups of which somebody has to be in one; none: everybody may come.
    pub required_groups: Vec<String>,
    /// Whether who comes for the first time gets an account; else an administrator links it beforehand by the other name
    /// `oidc` of a user: `ISSUER SUB`.
    pub create_users: bool,
    /// Certificate of the authority that the provider's certificate is of, PEM; empty: those of the system.
    pub ca: String,
}

impl Default for OidcSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            label: "single sign-on".to_owned(),
            issuer: String::new(),
            client_id: String::new(),
            client_secret: String::new(),
            redirect_url: String::new(),
            scopes: vec!["profile".to_owned(), "email".to_owned()],
            username_claim: "preferred_username".to_owned(),
            groups_claim: "groups".to_owned(),
            roles: BTreeMap::new(),
            default_roles: Vec::new(),
            required_groups: Vec::new(),
            create_users: true,
            ca: String::new(),
        }
    }
}

// The secret is in no log.
impl std::fmt::Debug for OidcSettings {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "OidcSettings({} at {})", self.client_id, self.issuer)
    }
}

/// What can't be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` {problem}")]
pub struct SettingsError {
    /// Which member.
    pub key: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl OidcSettings {
    /// Refuses what can't work.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn check(&self) -> Result<(), SettingsError> {
        let wrong = |key, problem: &str| {
            Err(SettingsError {
                key,
                problem: problem.to_owned(),
            })
        };
        if self.client_id.is_empty() {
            return wrong(
                "client-id",
                "is missing: what the provider knows this cloud by",
            );
        }
        for (key, url) in [
            ("issuer", &self.issuer),
            ("redirect-url", &self.redirect_url),
        ] {
            if !is_safe(url) {
                return wrong(
                    key,
                    "has to be an https:// address (http:// only on this computer)",
                );
            }
        }
        if !self.redirect_url.ends_with("/cimi/oidc/callback") {
            return wrong("redirect-url", "ends with /cimi/oidc/callback");
        }
        if self
            .roles
            .values()
            .chain(&self.default_roles)
            .any(|role| role.trim().is_empty())
        {
            return wrong("roles", "holds an empty role");
        }
        Ok(())
    }
}

/// Whether what is sent there can't be read on the way.
pub(super) fn is_safe(url: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(url) else {
        return false;
    };
    match url.scheme() {
        "https" => url.host_str().is_some(),
        "http" => url.host_str().is_some_and(|host| {
            host == "localhost"
                || host
                    .trim_matches(['[', ']'])
                    .parse::<std::net::IpAddr>()
                    .is_ok_and(|address| address.is_loopback())
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_with_its_key() {
        let good = OidcSettings {
            issuer: "https://id.example.org/realm".to_owned(),
            client_id: "stratus".to_owned(),
            redirect_url: "https://cloud.example.org:8443/cimi/oidc/callback".to_owned(),
            client_secret: "open sesame".to_owned(),
            ..OidcSettings::default()
        };
        assert_eq!(good.check(), Ok(()));
        assert!(!format!("{good:?}").contains("sesame"));
        for (key, bad) in [
            (
                "client-id",
                OidcSettings {
                    client_id: String::new(),
                    ..good.clone()
                },
            ),
            (
                "issuer",
                OidcSettings {
                    issuer: "http://id.example.org".to_owned(),
                    ..good.clone()
                },
            ),
            (
                "issuer",
                OidcSettings {
                    issuer: "id".to_owned(),
                    ..good.clone()
                },
            ),
            (
                "redirect-url",
                OidcSettings {
                    redirect_url: "https://x/".to_owned(),
                    ..good.clone()
                },
            ),
        ] {
            assert_eq!(bad.check().unwrap_err().key, key);
        }
        let local = OidcSettings {
            issuer: "http://127.0.0.1:9/".to_owned(),
            ..good
        };
        assert_eq!(local.check(), Ok(()));
        let read: OidcSettings =
            serde_json::from_str(r#"{"issuer": "https://a", "client-id": "b"}"#).unwrap();
        assert!(read.enabled && read.create_users);
    }
}
