//! Configuration of services: documents of administrators, each read by its service whenever it changes.
//!
//! Secrets are kept and never shown: what stands in a member whose name says that it is one. A member that is sent back
//! without them, as it was shown, keeps them.

use std::sync::Arc;

use accounts::methods::{self, Methods};
use cimi::{
    Acl, Common, Right, ServiceConfigurationId, Timestamp,
    model::{Changes, FURTHER, Kind},
    resources::ServiceConfiguration,
};
use documents::Documents;
use serde_json::{Map, Value};

use crate::{
    Cloud, CloudError, Created, Done, OpContext, Result, access,
    catalogue::{self, Public, differing},
};

/// What the name of a member ends in that holds a secret, if it is a text.
const SECRET: [&str; 5] = ["password", "secret", "passphrase", "token", "private-key"];

/// Refuses to say how people log in to who has not shown a password or certificate: who asks a directory of their own for
/// the roles of users is an administrator, too.
fn require_proof(context: &OpContext, configuration: &ServiceConfiguration) -> Result<()> {
    if configuration.service != "authn" {
        return Ok(());
    }
    access::require_password(context, "say how people log in")
}

impl Cloud {
    /// Makes a configuration.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] if there is one, [`CloudError::Invalid`] if its service couldn't use it.
    pub async fn create_service_configuration(
        &self,
        context: &OpContext,
        body: Map<String, Value>,
    ) -> Result<Created> {
        access::require_admin(context, "configure services")?;
        let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
        let service =
            text("service").ok_or_else(|| CloudError::invalid("service", "is missing"))?;
        let instance = text("instance");
        let id = id_of(&service, instance.as_deref())?;
        let mut configuration = ServiceConfiguration {
            id,
            common: Common::new(Acl::owned_by_admin(), Timestamp::now()),
            service,
            instance,
            further: Map::new(),
        };
        for (name, value) in &body {
            match name.as_str() {
                "service" | "instance" => {}
                "name" | "description" | "properties" => {
                    catalogue::edit_common(&mut configuration.common, name, Some(value))?;
                }
                _ => configuration.edit(name, Some(value))?,
            }
        }
        require_proof(context, &configuration)?;
        check(&configuration)?;
        let documents = &self.0.documents;
        match documents.changes().create(&configuration).commit().await {
            Ok(_) => {}
            Err(error) if error.is_conflict() => {
                let text = format!("there is a {} already: change that", configuration.id);
                return Err(CloudError::Conflict(text));
            }
            Err(error) => return Err(error.into()),
        }
        tracing::info!(configuration = %configuration.id, by = context.user(), "service configured");
        let local = configuration.id.local();
        let read = access::find::<ServiceConfiguration>(documents, context, local, Right::View)?;
        Ok(Created {
            view: catalogue::view(documents, context, read),
            job: None,
            existed: false,
        })
    }

    /// Changes a configuration.
    ///
    /// # Errors
    /// [`CloudError::Invalid`] if its service couldn't use it then.
    pub async fn edit_service_configuration(
        &self,
        context: &OpContext,
        local: &str,
        changes: Changes,
    ) -> Result<Done> {
        let documents = &self.0.documents;
        let edit = |configuration: &mut ServiceConfiguration| {
            context.in_time()?;
            access::require(context, configuration, Right::Modify)?;
            require_proof(context, configuration)?;
            access::keep_owner(context, &configuration.common.acl, &changes)?;
            let mut changed = false;
            if changes.get(FURTHER) == Some(&None) {
                let before = configuration.further.len();
                configuration
                    .further
                    .retain(|name, _| changes.contains_key(name));
                changed = configuration.further.len() != before;
            }
            let differing = differing(documents, configuration, &changes);
            let names = differing.iter().map(|(name, _)| *name);
            access::keep_rights(context, configuration, names)?;
            for (name, value) in differing {
                changed = true;
                match name {
                    "name" | "description" | "properties" | "acl" => {
                        catalogue::edit_common(&mut configuration.common, name, value)?;
                    }
                    _ => configuration.edit(name, value)?,
                }
            }
            check(configuration)?;
            Ok::<bool, CloudError>(changed)
        };
        let edited = documents.update(local, edit).await?;
        tracing::info!(configuration = %edited.document.id, by = context.user(), "service configured");
        Ok(Done {
            view: Some(catalogue::view(documents, context, edited)),
            job: None,
        })
    }

    /// The ways to log in, as they are configured now. One that can't be used counts as none: then there are local
    /// passwords only.
    #[must_use]
    pub fn methods(&self) -> Arc<Methods> {
        let all = &self.0.documents.service_configurations;
        // StratusLab's own code called it by the second name.
        let found = all
            .get(methods::SERVICE)
            .or_else(|| all.get("authn.default"));
        let revision = found.as_ref().map_or(0, |document| document.revision.0);
        let mut known = self.0.methods.lock();
        if known.revision != revision {
            let read = found.map_or_else(
                || Ok(Methods::default()),
                |document| Methods::read(&document.further, revision),
            );
            let read = read.unwrap_or_else(|error| {
                tracing::error!(%error, "ServiceConfiguration/authn can't be used: there are local passwords only");
                Methods {
                    revision,
                    ..Methods::default()
                }
            });
            *known = Arc::new(read);
        }
        Arc::clone(&known)
    }
}

fn id_of(service: &str, instance: Option<&str>) -> Result<ServiceConfigurationId> {
    let local = instance.map_or_else(
        || service.to_owned(),
        |instance| format!("{service}.{instance}"),
    );
    let part = |text: &str| !text.contains('.') && !text.is_empty();
    let parts = part(service) && instance.is_none_or(part);
    let id = ServiceConfigurationId::from_local(&local).ok();
    id.filter(|_| parts).ok_or_else(|| {
        CloudError::invalid(
            "service",
            "and `instance` may hold letters, digits and -_@+=,~: only",
        )
    })
}

/// Refuses what the service couldn't use.
fn check(configuration: &ServiceConfiguration) -> Result<()> {
    catalogue::check_size(configuration)?;
    if configuration.service == methods::SERVICE {
        Methods::read(&configuration.further, 0)
            .map_err(|error| CloudError::invalid(error.member, error.problem))?;
    }
    Ok(())
}

fn is_secret(name: &str, value: &Value) -> bool {
    value.is_string()
        && SECRET
            .iter()
            .any(|end| name.to_ascii_lowercase().ends_with(end))
}

/// A value without the secrets in it.
fn without_secrets(value: &Value) -> Value {
    match value {
        Value::Object(members) => members
            .iter()
            .filter(|(name, value)| !is_secret(name, value))
            .map(|(name, value)| (name.clone(), without_secrets(value)))
            .collect(),
        Value::Array(members) => members.iter().map(without_secrets).collect(),
        other => other.clone(),
    }
}

/// Puts the secrets of what was there into what is there now, where that says nothing of them.
fn keep_secrets(old: &Value, new: &mut Value) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (name, old) in old {
                match new.get_mut(name) {
                    Some(Value::Null) if is_secret(name, old) => drop(new.remove(name)),
                    Some(new) => keep_secrets(old, new),
                    None if is_secret(name, old) => drop(new.insert(name.clone(), old.clone())),
                    None => {}
                }
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (old, new) in old.iter().zip(new) {
                keep_secrets(old, new);
            }
        }
        _ => {}
    }
}

impl Public for ServiceConfiguration {
    const KIND: Kind = Kind::ServiceConfiguration;

    fn own_attributes(&self, _documents: &Documents) -> Map<String, Value> {
        let mut out = Map::new();
        out.insert("service".to_owned(), self.service.as_str().into());
        if let Some(instance) = &self.instance {
            out.insert("instance".to_owned(), instance.as_str().into());
        }
        for (name, value) in &self.further {
            if !is_secret(name, value) {
                out.insert(name.clone(), without_secrets(value));
            }
        }
        out
    }

    fn edit(&mut self, name: &str, value: Option<&Value>) -> Result<()> {
        match (name, value) {
            (FURTHER, _) => {}
            (_, Some(value)) => {
                let mut value = value.clone();
                if let Some(old) = self.further.get(name) {
                    keep_secrets(old, &mut value);
                }
                self.further.insert(name.to_owned(), value);
            }
            (_, None) => drop(self.further.remove(name)),
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_not_shown_and_stay_until_others_come() {
        let old = json!({"bind-dn": "cn=x", "bind-password": "geheim", "password-enabled": true,
            "all": [{"client_secret": "a", "id": 1}]});
        let shown = without_secrets(&old);
        assert_eq!(
            shown,
            json!({"bind-dn": "cn=x", "password-enabled": true, "all": [{"id": 1}]})
        );
        let mut back = shown.clone();
        back["bind-dn"] = "cn=y".into();
        keep_secrets(&old, &mut back);
        assert_eq!(back["bind-password"], "geheim");
        assert_eq!(back["all"][0]["client_secret"], "a");
        let mut other = shown.clone();
        other["bind-password"] = "neu".into();
        keep_secrets(&old, &mut other);
        assert_eq!(other["bind-password"], "neu");
        let mut none = shown;
        none["bind-password"] = Value::Null;
        keep_secrets(&old, &mut none);
        assert_eq!(none.get("bind-password"), None);
    }

    #[test]
    fn ids_follow_from_the_names() {
        assert_eq!(
            id_of("authn", None).unwrap().to_string(),
            "ServiceConfiguration/authn"
        );
        assert_eq!(id_of("pdisk", Some("a")).unwrap().local(), "pdisk.a");
        for (service, instance) in [
            ("", None),
            ("a.b", None),
            ("a b", None),
            ("a", Some("")),
            ("a", Some("b.c")),
        ] {
            assert!(id_of(service, instance).is_err(), "{service} {instance:?}");
        }
    }
}
