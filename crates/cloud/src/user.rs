//! Users: accounts of the cloud's own database.

use accounts::password;
use cimi::{
    Acl, AclRule, Common, PrincipalType, Right, Timestamp, UserId,
    common::{ADMIN_ROLE, Principal},
    model::{Changes, Kind},
    resources::User,
};
use documents::Documents;
use serde_json::{Map, Value, json};

use crate::{
    Cloud, CloudError, Created, Done, OpContext, Result, access,
    catalogue::{self, Public, differing, object},
};

impl Cloud {
    /// Makes a user. The password comes in clear text and is kept as a hash.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] if the name is taken, [`CloudError::Invalid`].
    pub async fn create_user(
        &self,
        context: &OpContext,
        body: Map<String, Value>,
    ) -> Result<Created> {
        access::require_admin(context, "make users")?;
        let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
        let username =
            text("username").ok_or_else(|| CloudError::invalid("username", "is missing"))?;
        let id = UserId::from_local(&username).map_err(|_| {
            CloudError::invalid(
                "username",
                format!("`{username}` may hold letters, digits and -_.@+=,~: only"),
            )
        })?;
        let mut user = User {
            id,
            common: Common::new(own_acl(&username), Timestamp::now()),
            username,
            first_name: None,
            last_name: None,
            email: None,
            password: None,
            enabled: true,
            roles: Vec::new(),
            altnames: std::collections::BTreeMap::new(),
            generation: 0,
            unknown: Map::new(),
        };
        for (name, value) in &body {
            match name.as_str() {
                "username" => {}
                "password" => {
                    user.password = Some(hash(value, self.0.settings.password_cost).await?);
                }
                "name" | "description" | "properties" => {
                    catalogue::edit_common(&mut user.common, name, Some(value))?;
                }
                _ => user.edit(name, Some(value))?,
            }
        }
        catalogue::check_size(&user)?;
        match self.0.documents.changes().create(&user).commit().await {
            Ok(_) => {}
            Err(error) if error.is_conflict() => {
                return Err(CloudError::Conflict(format!(
                    "there is a user `{}` already",
                    user.username
                )));
            }
            Err(error) => return Err(error.into()),
        }
        tracing::info!(username = user.username, by = context.user(), "user made");
        let read = access::find::<User>(&self.0.documents, context, user.id.local(), Right::View)?;
        Ok(Created {
            view: catalogue::view(&self.0.documents, context, read),
            job: None,
            existed: false,
        })
    }

    /// Changes a user. Users themselves may change their password and e-mail address only.
    ///
    /// # Errors
    /// [`CloudError::Forbidden`], [`CloudError::Invalid`].
    pub async fn edit_user(
        &self,
        context: &OpContext,
        local: &str,
        changes: Changes,
    ) -> Result<Done> {
        let documents = &self.0.documents;
        let read = access::find::<User>(documents, context, local, Right::View)?;
        // Before the password is hashed, which is costly; and again on the very document that is then replaced.
        permit(
            context,
            &read.document.0,
            &differing(documents, &read.document.0, &changes),
        )?;
        let password = match changes.get("password") {
            Some(Some(value)) => Some(hash(value, self.0.settings.password_cost).await?),
            _ => None,
        };
        let edited = documents
            .update(read.id(), |user: &mut User| {
                context.in_time()?;
                access::require(context, user, Right::View)?;
                let differing = differing(documents, user, &changes);
                permit(context, user, &differing)?;
                for (name, value) in &differing {
                    match *name {
                        "password" => user.password.clone_from(&password),
                        "name" | "description" | "properties" => {
                            catalogue::edit_common(&mut user.common, name, *value)?;
                        }
                        _ => user.edit(name, *value)?,
                    }
                }
                if differing
                    .iter()
                    .any(|(name, _)| ENDS_SESSIONS.contains(name))
                {
                    user.generation += 1;
                }
                catalogue::check_size(user)?;
                Ok::<bool, CloudError>(!differing.is_empty())
            })
            .await?;
        self.keep_an_administrator()?;
        tracing::info!(
            username = edited.username,
            by = context.user(),
            "user changed"
        );
        Ok(Done {
            view: Some(catalogue::view(documents, context, edited)),
            job: None,
        })
    }

    /// Removes a user who owns nothing any more.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] while machines or volumes belong to the user.
    pub async fn delete_user(&self, context: &OpContext, local: &str) -> Result<Done> {
        access::require_admin(context, "remove users")?;
        let documents = &self.0.documents;
        let read = access::find::<User>(documents, context, local, Right::Modify)?;
        let term = format!("u:{}", read.username);
        let has = documents.machines.count_by_index("readers", &term)
            + documents.volumes.count_by_index("readers", &term);
        if has > 0 {
            return Err(CloudError::Conflict(format!(
                "{} still has {has} machines or volumes; remove those first, or disable the user",
                read.document.id
            )));
        }
        catalogue::delete::<User>(documents, context, local).await
    }

    /// A cloud without an administrator who can log in can't be mended by anybody: only warned of, since the change
    /// may be the first of two.
    fn keep_an_administrator(&self) -> Result<()> {
        let able = |user: &User| {
            user.enabled && user.password.is_some() && user.roles.iter().any(|r| r == ADMIN_ROLE)
        };
        if !self
            .0
            .documents
            .users
            .all()
            .iter()
            .any(|user| able(&user.document.0))
        {
            tracing::warn!("no administrator can log in any more; enable one before you log out");
        }
        Ok(())
    }
}

/// What ends all sessions of a user when it changes.
const ENDS_SESSIONS: [&str; 4] = ["password", "roles", "enabled", "altnames"];

/// Refuses what users who aren't administrators may not change: everything but their own password and e-mail address.
fn permit(context: &OpContext, user: &User, changes: &[(&str, Option<&Value>)]) -> Result<()> {
    if context.is_admin() {
        return Ok(());
    }
    if context.user() != Some(user.username.as_str()) {
        return Err(CloudError::Forbidden(format!(
            "only administrators may change {}",
            user.id
        )));
    }
    match changes
        .iter()
        .find(|(name, _)| !["password", "email"].contains(name))
    {
        None => Ok(()),
        Some((name, _)) => Err(CloudError::Forbidden(format!(
            "only administrators may change `{name}` of a user"
        ))),
    }
}

/// The user may see the own account; administrators do the rest.
pub(crate) fn own_acl(username: &str) -> Acl {
    let mut acl = Acl::owned_by_admin();
    let who = Principal {
        principal: username.to_owned(),
        kind: PrincipalType::User,
    };
    acl.rules.push(AclRule {
        who,
        right: Right::View,
    });
    acl
}

/// The hash of a password that satisfies the policy. Slow on purpose, so not on a thread that others wait for.
async fn hash(value: &Value, cost: u32) -> Result<String> {
    let clear = value.as_str().unwrap_or_default().to_owned();
    tokio::task::spawn_blocking(move || password::hash_blocking(&clear, cost))
        .await
        .map_err(|error| CloudError::Internal(error.to_string()))?
        .map_err(|error| CloudError::invalid("password", error.to_string()))
}

impl Public for User {
    const KIND: Kind = Kind::User;

    fn own_attributes(&self, _documents: &Documents) -> Map<String, Value> {
        let mut out = object(
            json!({"username": self.username, "enabled": self.enabled, "roles": self.roles}),
        );
        for (name, text) in [
            ("first-name", &self.first_name),
            ("last-name", &self.last_name),
            ("email", &self.email),
        ] {
            if let Some(text) = text {
                out.insert(name.to_owned(), text.as_str().into());
            }
        }
        if !self.altnames.is_empty() {
            out.insert("altnames".to_owned(), json!(self.altnames));
        }
        out
    }

    fn edit(&mut self, name: &str, value: Option<&Value>) -> Result<()> {
        let text = || value.and_then(Value::as_str).map(str::to_owned);
        let wrong = |error: serde_json::Error| CloudError::invalid(name, error.to_string());
        match (name, value) {
            ("enabled", value) => self.enabled = value.and_then(Value::as_bool).unwrap_or(false),
            ("roles", Some(value)) => {
                self.roles = serde_json::from_value(value.clone()).map_err(wrong)?;
            }
            ("roles", None) => self.roles.clear(),
            ("altnames", Some(value)) => {
                self.altnames = serde_json::from_value(value.clone()).map_err(wrong)?;
            }
            ("altnames", None) => self.altnames.clear(),
            ("email", _) => self.email = text(),
            ("first-name", _) => self.first_name = text(),
            ("last-name", _) => self.last_name = text(),
            _ => return Err(CloudError::invalid(name, "of a user can't be changed")),
        }
        Ok(())
    }
}
