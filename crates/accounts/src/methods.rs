//! Which ways to log in there are: `ServiceConfiguration/authn`, as StratusLab has it and what was added to it.
//!
//! Pure: whoever keeps the document reads it again whenever that changed.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value};

use crate::oidc::OidcSettings;

/// The service that is configured by this.
pub const SERVICE: &str = "authn";

/// The ways to log in.
#[derive(Clone, Debug, PartialEq)]
pub struct Methods {
    /// Accounts of the cloud's own database.
    pub localdb: LocalDb,
    /// Those of a directory.
    pub ldap: Option<Ldap>,
    /// Attribute certificates of virtual organisations.
    pub voms: Voms,
    /// A provider of identities, by OpenID Connect.
    pub oidc: Option<OidcSettings>,
    /// Names this configuration: another one has another number.
    pub revision: u64,
}

/// What counts for accounts of the cloud's own database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LocalDb {
    /// Passwords. Administrators can log in by theirs even if this is off: nobody locks themselves out.
    #[serde(deserialize_with = "flag")]
    pub password_enabled: bool,
    /// Client certificates.
    #[serde(deserialize_with = "flag")]
    pub cert_enabled: bool,
}

/// Attribute certificates of virtual organisations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Voms {
    /// Whether they count.
    #[serde(deserialize_with = "flag")]
    pub enabled: bool,
}

/// A directory.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Ldap {
    /// Whether passwords are checked there.
    #[serde(default, deserialize_with = "flag")]
    pub password_enabled: bool,
    /// Whether subjects of client certificates are looked up there.
    #[serde(default, deserialize_with = "flag")]
    pub cert_enabled: bool,
    /// Where it is.
    pub connection: Connection,
    /// Who searches; none: anonymous.
    #[serde(default)]
    pub bind_dn: Option<String>,
    /// The password of who searches.
    #[serde(default)]
    pub bind_password: Option<String>,
    /// A file on the cloud's entry host that holds that password.
    #[serde(default)]
    pub bind_password_file: Option<String>,
    /// Class of users' entries.
    #[serde(default = "user_object_class")]
    pub user_object_class: String,
    /// Where users are.
    #[serde(default = "user_base_dn")]
    pub user_base_dn: String,
    /// The attribute that is the login name.
    #[serde(default = "user_id_attr")]
    pub user_id_attr: String,
    /// The attribute that is the subject of the user's certificate.
    #[serde(default = "user_cert_attr")]
    pub user_cert_attr: String,
    /// Class of groups' entries.
    #[serde(default = "role_object_class")]
    pub role_object_class: String,
    /// Where groups are.
    #[serde(default = "role_base_dn")]
    pub role_base_dn: String,
    /// The attribute of a group that names a member by DN.
    #[serde(default = "role_member_attr")]
    pub role_member_attr: String,
    /// The attribute of a group that is the role.
    #[serde(default = "role_name_attr")]
    pub role_name_attr: String,
    /// StratusLab's way to accept any password: read, and never done.
    #[serde(
        default,
        rename = "skip-bind?",
        alias = "skip-bind",
        deserialize_with = "flag"
    )]
    pub skip_bind: bool,
    /// The role without which nobody of the directory may use the cloud; empty: all may.
    #[serde(default = "required_role")]
    pub required_role: String,
    /// Groups of the directory by the role that they confer here in place of their own name. The only way to one of the
    /// cloud's own (`::ADMIN`).
    #[serde(default)]
    pub role_map: BTreeMap<String, String>,
    /// For how many seconds what the directory said counts.
    #[serde(default = "cache_seconds")]
    pub cache_seconds: u64,
}

/// Where a directory is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Connection {
    /// The server.
    pub host: Host,
    /// Others that have the same, asked in this order when it can't be reached.
    #[serde(default)]
    pub others: Vec<Host>,
    /// TLS from the beginning.
    #[serde(default, rename = "ssl?", alias = "ssl", deserialize_with = "flag")]
    pub ssl: bool,
    /// TLS from the first request on.
    #[serde(default, deserialize_with = "flag")]
    pub start_tls: bool,
    /// Who signs the server's certificate, PEM; none: whom the system trusts.
    #[serde(default)]
    pub ca: Option<String>,
    /// Most searches at once.
    #[serde(default = "num_connections")]
    pub num_connections: usize,
    /// How long connecting, and each answer, may take.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Name or address.
    pub address: String,
    /// TCP port.
    pub port: u16,
}

impl std::fmt::Debug for Ldap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ldap")
            .field("password_enabled", &self.password_enabled)
            .field("cert_enabled", &self.cert_enabled)
            .field("connection", &self.connection)
            .field("bind_dn", &self.bind_dn)
            .finish_non_exhaustive()
    }
}

fn user_object_class() -> String {
    "inetOrgPerson".to_owned()
}
fn user_base_dn() -> String {
    "ou=users,o=cloud".to_owned()
}
fn user_id_attr() -> String {
    "uid".to_owned()
}
fn user_cert_attr() -> String {
    "seeAlso".to_owned()
}
fn role_object_class() -> String {
    "groupOfUniqueNames".to_owned()
}
fn role_base_dn() -> String {
    "ou=groups,o=cloud".to_owned()
}
fn role_member_attr() -> String {
    "uniqueMember".to_owned()
}
fn role_name_attr() -> String {
    "cn".to_owned()
}
fn required_role() -> String {
    crate::files::ACCESS_ROLE.to_owned()
}
const fn cache_seconds() -> u64 {
    60
}
const fn num_connections() -> usize {
    4
}
const fn timeout_ms() -> u64 {
    2_000
}

/// A truth value; StratusLab's own code wrote some as texts.
fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Bool(value) => Ok(value),
        Value::String(text) if text == "true" => Ok(true),
        Value::String(text) if text == "false" => Ok(false),
        other => Err(de::Error::custom(format!(
            "true or false is expected, not {other}"
        ))),
    }
}

/// A configuration that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{member}`: {problem}")]
pub struct MethodsError {
    /// The member that is wrong, such as `voms.enabled`.
    pub member: String,
    /// Why.
    pub problem: String,
}

impl Default for Methods {
    /// Local passwords and nothing else.
    fn default() -> Self {
        Self {
            localdb: LocalDb {
                password_enabled: true,
                cert_enabled: false,
            },
            ldap: None,
            voms: Voms::default(),
            oidc: None,
            revision: 0,
        }
    }
}

impl Methods {
    /// The names of those that are on, as everybody may know them.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        let ldap = self.ldap.as_ref();
        let on = [
            ("password", self.localdb.password_enabled),
            ("ldap", ldap.is_some_and(|ldap| ldap.password_enabled)),
            ("certificate", self.take_certificates()),
            ("voms", self.voms.enabled),
            ("oidc", self.oidc.as_ref().is_some_and(|oidc| oidc.enabled)),
            ("token", true),
        ];
        let on = on.into_iter().filter(|(_, is_on)| *is_on);
        on.map(|(name, _)| name).collect()
    }

    /// Reads the members of the document.
    ///
    /// # Errors
    /// [`MethodsError`]; never with a secret in it.
    pub fn read(members: &Map<String, Value>, revision: u64) -> Result<Self, MethodsError> {
        let missing = || MethodsError {
            member: "localdb".to_owned(),
            problem: "is missing: {\"password-enabled\": true, \"cert-enabled\": false}".to_owned(),
        };
        let methods = Self {
            localdb: member(members, "localdb")?.ok_or_else(missing)?,
            ldap: member(members, "ldap")?,
            voms: member(members, "voms")?.unwrap_or_default(),
            oidc: member(members, "oidc")?,
            revision,
        };
        if let Some(ldap) = &methods.ldap {
            ldap.check().map_err(|problem| MethodsError {
                member: "ldap".to_owned(),
                problem,
            })?;
        }
        if let Some(oidc) = &methods.oidc {
            oidc.check().map_err(|error| MethodsError {
                member: "oidc".to_owned(),
                problem: error.to_string(),
            })?;
        }
        Ok(methods)
    }
}

fn member<T: de::DeserializeOwned>(
    members: &Map<String, Value>,
    name: &'static str,
) -> Result<Option<T>, MethodsError> {
    let Some(value) = members.get(name) else {
        return Ok(None);
    };
    let read = serde_path_to_error::deserialize(value);
    read.map(Some).map_err(|error| {
        let path = error.path().to_string();
        let is_all = path == "." || path == "?";
        MethodsError {
            member: if is_all {
                name.to_owned()
            } else {
                format!("{name}.{path}")
            },
            problem: error.into_inner().to_string(),
        }
    })
}

impl Ldap {
    /// For how long what the directory said counts.
    #[must_use]
    pub fn cached_for(&self) -> Duration {
        Duration::from_secs(self.cache_seconds)
    }

    fn check(&self) -> Result<(), String> {
        let connection = &self.connection;
        let hosts = std::iter::once(&connection.host).chain(&connection.others);
        let attribute = |name: &str| {
            !name.is_empty()
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-.;".contains(&b))
        };
        let attributes = [
            ("user-id-attr", &self.user_id_attr),
            ("user-cert-attr", &self.user_cert_attr),
            ("role-member-attr", &self.role_member_attr),
            ("role-name-attr", &self.role_name_attr),
        ];
        if let Some((name, value)) = attributes.into_iter().find(|(_, value)| !attribute(value)) {
            return Err(format!(
                "{name} is `{value}`, which is no attribute of a directory"
            ));
        }
        if hosts.clone().count() > 8
            || hosts
                .clone()
                .any(|host| host.address.trim().is_empty() || host.port == 0)
        {
            return Err(
                "connection.host needs an address and a port, and at most seven `others` are asked"
                    .to_owned(),
            );
        }
        if connection.ssl && connection.start_tls {
            return Err("connection has both `ssl?` and `start-tls`: choose one".to_owned());
        }
        if !(100..=30_000).contains(&connection.timeout_ms) {
            return Err("connection.timeout-ms is from 100 to 30000".to_owned());
        }
        if !(1..=64).contains(&connection.num_connections) {
            return Err("connection.num-connections is from 1 to 64".to_owned());
        }
        if self.cache_seconds > 3_600 {
            return Err("cache-seconds is at most 3600: whoever leaves the directory could go on for so long".to_owned());
        }
        if self.bind_password.is_some() && self.bind_password_file.is_some() {
            return Err("give `bind-password` or `bind-password-file`, not both".to_owned());
        }
        if self.bind_dn.is_none()
            && (self.bind_password.is_some() || self.bind_password_file.is_some())
        {
            return Err("there is a password for searches, but no `bind-dn`".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<Methods, String> {
        let Value::Object(members) = value else {
            unreachable!("tests give objects")
        };
        Methods::read(&members, 7).map_err(|error| error.to_string())
    }

    #[test]
    fn the_document_of_stratuslab_is_read() {
        let methods = read(json!({
            "localdb": {"password-enabled": true, "cert-enabled": "true"},
            "ldap": {
                "password-enabled": "true", "cert-enabled": "false",
                "connection": {"host": {"address": "ldap.example.org", "port": 389}, "ssl?": false, "num-connections": 4},
                "user-object-class": "inetOrgPerson", "user-base-dn": "ou=users,o=cloud", "user-id-attr": "uid",
                "role-object-class": "groupOfUniqueNames", "role-base-dn": "ou=groups,o=cloud",
                "role-member-attr": "uniqueMember", "role-name-attr": "cn", "skip-bind?": false},
            "voms": {"enabled": false},
            "something": ["else"],
        }))
        .unwrap();
        assert!(methods.localdb.cert_enabled && !methods.voms.enabled);
        let ldap = methods.ldap.unwrap();
        assert!(ldap.password_enabled && !ldap.cert_enabled);
        assert_eq!(ldap.required_role, "cloud-access");
        assert_eq!(methods.revision, 7);
    }

    #[test]
    fn what_is_wrong_is_told_and_secrets_are_not() {
        let localdb = json!({"password-enabled": true, "cert-enabled": false});
        let host = json!({"address": "a", "port": 1});
        for (value, part) in [
            (json!({}), "`localdb`: is missing"),
            (
                json!({"localdb": {"password-enabled": true}}),
                "cert-enabled",
            ),
            (
                json!({"localdb": {"password-enabled": 1, "cert-enabled": false}}),
                "true or false",
            ),
            (json!({"localdb": localdb, "ldap": {}}), "connection"),
            (
                json!({"localdb": localdb, "voms": {"enabled": "maybe"}}),
                "`voms.enabled`",
            ),
            (
                json!({"localdb": localdb, "ldap": {"connection": {"host": {"address": "a", "port": "b"}}}}),
                "`ldap.connection.host.port`",
            ),
            (
                json!({"localdb": localdb, "ldap": {"connection": {"host": host}, "userbase": "x"}}),
                "userbase",
            ),
            (
                json!({"localdb": localdb, "ldap": {"connection": {"host": host}, "bind-password": "geheim"}}),
                "no `bind-dn`",
            ),
            (
                json!({"localdb": localdb, "ldap": {"connection": {"host": host, "ssl?": true, "start-tls": true}}}),
                "choose one",
            ),
            (
                json!({"localdb": localdb, "ldap": {"connection": {"host": host}, "user-id-attr": "uid)(x=*"}}),
                "no attribute",
            ),
        ] {
            let error = read(value.clone()).unwrap_err();
            assert!(error.contains(part), "{value}: {error}");
            assert!(!error.contains("geheim"));
        }
    }
}
