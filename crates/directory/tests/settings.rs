//! How a directory is configured.

use accounts::methods::{Ldap, Methods};
use serde_json::{Value, json};

/// The configuration of a directory at this port, with `more` in it.
pub fn ldap(port: u16, more: Value) -> Ldap {
    let mut ldap = json!({"password-enabled": true, "cert-enabled": true,
        "connection": {"host": {"address": "127.0.0.1", "port": port}, "timeout-ms": 2000}});
    for (name, value) in more.as_object().unwrap() {
        match value.as_object() {
            Some(members) if name == "connection" => {
                for (name, value) in members {
                    ldap["connection"][name.as_str()] = value.clone();
                }
            }
            _ => ldap[name.as_str()] = value.clone(),
        }
    }
    let members =
        json!({"localdb": {"password-enabled": true, "cert-enabled": false}, "ldap": ldap});
    let methods = Methods::read(members.as_object().unwrap(), 1).unwrap();
    methods.ldap.unwrap()
}
