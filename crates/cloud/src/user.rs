//! Users: accounts of the cloud's own database.
//!
//! Two things can't be mended by anybody once they happened, so they are refused: that what somebody owned falls to the
//! next user of the same name, and that no administrator can log in any more.

use std::{net::IpAddr, sync::Arc};

use accounts::{
    HashError, Methods, UserSource,
    directory::Found,
    password::{PolicyError, is_hash},
};
use async_trait::async_trait;
use cimi::{
    Acl, AclRule, Common, EmailAddress, PrincipalType, Right, Timestamp, UserId,
    common::{ADMIN_ROLE, Principal},
    dn::DistinguishedName,
    model::{Changes, Kind},
    resources::{
        Credential, Image, Machine, MachineConfiguration, MachineTemplate, Session, Token, User,
        Volume, VolumeConfiguration, VolumeTemplate,
    },
};
use documents::{Cached, Documents, OfType};
use serde_json::{Map, Value, json};

use crate::{
    Cloud, CloudError, Created, Done, OpContext, Result, access,
    catalogue::{self, Public, differing, object},
    people,
    quota::used_by,
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
            quota: cimi::resources::Quota::default(),
            generation: 0,
            origin: None,
            unknown: Map::new(),
        };
        for (name, value) in &body {
            match name.as_str() {
                "username" => {}
                "password" => {
                    user.password = Some(self.hash(context, value).await?);
                }
                "name" | "description" | "properties" => {
                    catalogue::edit_common(&mut user.common, name, Some(value))?;
                }
                _ => user.edit(name, Some(value))?,
            }
        }
        if is_administrator(&user) {
            access::require_password(context, "make administrators")?;
        }
        catalogue::check_size(&user)?;
        loop {
            context.in_time()?;
            let seen = self.names_seen().await?;
            if self.0.documents.users.get(user.id.local()).is_some() {
                return Err(CloudError::Conflict(format!(
                    "there is a user `{}` already",
                    user.username
                )));
            }
            self.check_names(&user, None)?;
            let made = seen.guard(self.0.documents.changes()).create(&user);
            match made.commit().await {
                Ok(_) => break,
                // Of this name, which is said then; or somebody was given another name just now.
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        tracing::info!(username = user.username, by = context.user(), "user made");
        let read = access::find::<User>(&self.0.documents, context, user.id.local(), Right::View)?;
        Ok(Created {
            view: catalogue::view(&self.0.documents, context, read),
            job: None,
            existed: false,
        })
    }

    /// Changes a user. Users themselves may change their password, names and e-mail address only; where letters are sent,
    /// the new address counts once it is confirmed there. With another password, all sessions and tokens end.
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
        if let Some(origin) = &read.origin
            && changes.get("password").is_some_and(Option::is_some)
        {
            return Err(people::elsewhere(&read.username, origin));
        }
        let asks = !context.is_admin() && self.registration().is_some();
        if !context.is_admin() && read.is_of(accounts::directory::SOURCE) && !changes.is_empty() {
            return Err(CloudError::Conflict(format!(
                "{} comes from a directory: change it there, or by the page of your account",
                read.document.id
            )));
        }
        let given = changes
            .get("email")
            .and_then(|value| value.as_ref()?.as_str());
        if let Some(address) =
            given.filter(|address| asks && Some(*address) != read.email.as_deref())
        {
            // Before anything is changed: it must not be done by half.
            people::email_address("email", address)?;
            self.may_ask_new_address(&read.username)?;
        }
        let password = match changes.get("password") {
            Some(Some(value)) => Some(self.hash(context, value).await?),
            _ => None,
        };
        // Somebody's own new address, which is asked first.
        let mut asked = None;
        let edited = loop {
            context.in_time()?;
            let read = access::find::<User>(documents, context, local, Right::View)?;
            // Users may change some of what is theirs without the right to modify it all: nothing above looked.
            access::check_unchanged(context, &read.document.0)?;
            let mut user = read.document.0.clone();
            let mut differing = differing(documents, &read.document.0, &changes);
            permit(context, &user, &differing)?;
            if context.user() == Some(user.username.as_str()) {
                access::require_current(context.generation(), &user)?;
            }
            if asks {
                let is_address = |(name, value): &(&str, Option<&Value>)| {
                    *name == "email" && value.is_some_and(Value::is_string)
                };
                let address = differing.iter().position(is_address);
                let address = address.and_then(|at| differing.swap_remove(at).1?.as_str());
                asked = match address {
                    Some(address) => Some(people::email_address("email", address)?),
                    None => None,
                };
            }
            if differing.is_empty() {
                break read;
            }
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
            catalogue::check_size(&user)?;
            let mut transaction = documents.changes();
            if user.altnames != read.altnames {
                let seen = self.names_seen().await?;
                self.check_names(&user, Some(&read))?;
                transaction = seen.guard(transaction);
            }
            if can_administrate(&read) && !can_administrate(&user) {
                let other = self.another_administrator(
                    &read,
                    "has to stay enabled, with a password and the role ::ADMIN",
                )?;
                transaction = transaction.unchanged(&*other);
            }
            if user.enabled != read.enabled {
                transaction = self.with_notice(transaction, &user)?;
            }
            if user.password != read.password {
                self.end_surplus_tokens(&user.username).await?;
                transaction = self.without_logins(transaction, &user.username);
                let mail = people::address_of(&read);
                transaction =
                    self.with_password_notice(transaction, &user.username, mail.as_ref())?;
            }
            match transaction.replace(&read, user).commit().await {
                Ok(_) => break access::find::<User>(documents, context, local, Right::View)?,
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        };
        if let Some(address) = asked {
            let old = people::address_of(&edited);
            let generation = Some(edited.generation);
            self.ask_new_address(&edited.username, old.as_ref(), &address, generation)
                .await?;
        }
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

    /// Removes a user who owns nothing any more. Their events and jobs go, too; the records of their machines become
    /// the administrators'.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] while anything belongs to the user, or if no other administrator can log in.
    pub async fn delete_user(&self, context: &OpContext, local: &str) -> Result<Done> {
        access::require_admin(context, "remove users")?;
        let documents = &self.0.documents;
        loop {
            context.in_time()?;
            let read = access::find::<User>(documents, context, local, Right::Modify)?;
            // First: who reads of what is left, and that the user can be disabled, would do that for nothing.
            let other = can_administrate(&read)
                .then(|| self.another_administrator(&read, "can't be removed"))
                .transpose()?;
            // From here on nothing can be made for the user.
            let leaving = self.leaving(&read.username).await?;
            let owned = self.owned_by(&read.username);
            if !owned.is_empty() {
                return Err(CloudError::Conflict(format!(
                    "{} still has {}; remove those first, or disable the user",
                    read.document.id,
                    owned.join(", ")
                )));
            }
            let mut transaction = leaving.guard(documents.changes());
            if let Some(other) = &other {
                transaction = transaction.unchanged(&**other);
            }
            self.forget_user(&read.username).await?;
            let removed = transaction.remove(&read).commit().await;
            leaving.ended().await;
            match removed {
                Ok(_) => {
                    tracing::info!(
                        username = read.username,
                        by = context.user(),
                        "user removed"
                    );
                    self.forget_left().await;
                    return Ok(Done::default());
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What belongs to a user, in words: `2 of Machine`.
    pub(crate) fn owned_by(&self, user: &str) -> Vec<String> {
        fn count<R: OfType>(documents: &Documents, user: &str) -> (&'static str, usize) {
            (R::COLLECTION, documents.count_owned::<R>(user))
        }
        let documents = &self.0.documents;
        [
            count::<Machine>(documents, user),
            count::<Volume>(documents, user),
            count::<Image>(documents, user),
            count::<Credential>(documents, user),
            count::<MachineTemplate>(documents, user),
            count::<MachineConfiguration>(documents, user),
            count::<VolumeTemplate>(documents, user),
            count::<VolumeConfiguration>(documents, user),
            count::<cimi::resources::System>(documents, user),
            count::<cimi::resources::SystemTemplate>(documents, user),
            count::<cimi::resources::CredentialTemplate>(documents, user),
            count::<cimi::resources::VolumeImage>(documents, user),
            count::<cimi::resources::Address>(documents, user),
            count::<cimi::resources::AddressTemplate>(documents, user),
            count::<cimi::resources::NetworkPort>(documents, user),
            count::<cimi::resources::SecurityGroup>(documents, user),
            count::<cimi::resources::ForwardingGroupTemplate>(documents, user),
            count::<cimi::resources::NetworkPortTemplate>(documents, user),
            count::<cimi::resources::NetworkPortConfiguration>(documents, user),
        ]
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(collection, count)| format!("{count} of {collection}"))
        .collect()
    }

    /// An administrator beside this one who can log in.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] if there is none, with what follows of it for this one.
    fn another_administrator(
        &self,
        than: &Cached<User>,
        refusal: &str,
    ) -> Result<Arc<Cached<User>>> {
        let all = self.0.documents.users.all();
        let other = all
            .into_iter()
            .find(|user| user.id() != than.id() && can_administrate(user));
        other.ok_or_else(|| {
            CloudError::Conflict(format!(
                "{} {refusal}: it is the last administrator who can log in with a password; make another one first, \
                 or enable one",
                than.document.id
            ))
        })
    }

    /// The hash of a password that satisfies the policy.
    async fn hash(&self, context: &OpContext, value: &Value) -> Result<String> {
        let given = value.as_str().unwrap_or_default().to_owned();
        let invalid = |error: PolicyError| CloudError::invalid("password", error.to_string());
        // Accounts of another cloud come with theirs. Users don't choose what checking their password costs.
        if context.is_admin() && is_hash(&given).map_err(invalid)? {
            return Ok(given);
        }
        let hashed = self.0.settings.passwords.hash(given, context.peer).await;
        hashed.map_err(|error| match error {
            HashError::Policy(error) => invalid(error),
            HashError::Busy => CloudError::Unavailable(error.to_string()),
        })
    }
}

#[async_trait]
impl UserSource for Cloud {
    fn find_by_name(&self, name: &DistinguishedName) -> Vec<Arc<User>> {
        let found = self.0.documents.users.by_index("dn", &name.canonical());
        let found = found.into_iter();
        found
            .map(|user| Arc::new(user.document.0.clone()))
            .collect()
    }

    async fn found_in_directory(&self, found: &Found) -> Option<Arc<User>> {
        let user = self.directory_user(found).await;
        user.unwrap_or_else(|error| {
            tracing::warn!(login = found.login, %error, "a user of the directory can't be kept");
            None
        })
    }

    fn methods(&self) -> Arc<Methods> {
        Self::methods(self)
    }

    fn find(&self, login: &str) -> Option<Arc<User>> {
        let found = self.0.documents.users.by_index("login", login);
        // A user's own name counts more than another's other name.
        let own = found.iter().find(|user| user.username == login);
        own.or(found.first())
            .map(|user| Arc::new(user.document.0.clone()))
    }

    fn find_token(&self, digest: &str) -> Option<Arc<Token>> {
        let found = self.0.documents.tokens.by_index("digest", digest);
        found
            .first()
            .map(|token| Arc::new(token.document.0.clone()))
    }

    async fn token_used(&self, token: &Token, now: Timestamp, address: Option<IpAddr>) {
        self.note_token(token, now, address).await;
    }

    fn find_session(&self, digest: &str) -> Option<Arc<Session>> {
        let found = self.0.documents.sessions.by_index("digest", digest);
        found
            .first()
            .map(|session| Arc::new(session.document.0.clone()))
    }

    async fn session_used(&self, session: &Session, now: Timestamp, address: Option<IpAddr>) {
        self.note_session(session, now, address).await;
    }

    async fn rehashed(&self, read: &User, hash: String) {
        let kept = self
            .0
            .documents
            .update(read.id.local(), |user: &mut User| {
                let is_same = user.password == read.password;
                if is_same {
                    user.password = Some(hash.clone());
                }
                Ok::<bool, CloudError>(is_same)
            })
            .await;
        match kept {
            Ok(_) => tracing::info!(
                username = read.username,
                "the password is kept as a stronger hash"
            ),
            Err(error) => {
                tracing::warn!(username = read.username, %error, "the password stays as it was hashed");
            }
        }
    }
}

/// Whether this is an administrator who can log in.
fn can_administrate(user: &User) -> bool {
    user.enabled && user.password.is_some() && user.roles.iter().any(|role| role == ADMIN_ROLE)
}

/// What ends all sessions of a user when it changes.
const ENDS_SESSIONS: [&str; 4] = ["password", "roles", "enabled", "altnames"];

/// What users may change of themselves.
const OWN: [&str; 4] = ["password", "email", "first-name", "last-name"];

/// What opens an account, or has it opened by a letter.
const OPENS: [&str; 3] = ["password", "altnames", "email"];

/// Whether this is an administrator, whatever they log in by.
pub(crate) fn is_administrator(user: &User) -> bool {
    user.roles.iter().any(|role| role == ADMIN_ROLE)
}

/// Refuses to make administrators, and to change what opens an administrator's account or the caller's own, to who has not
/// shown a password or certificate: whoever finds a token of an administrator could otherwise keep what its revocation ends.
fn require_proof(
    context: &OpContext,
    user: &User,
    changes: &[(&str, Option<&Value>)],
) -> Result<()> {
    let is_own = context.user() == Some(user.username.as_str());
    let opens = |(name, _): &(&str, _)| OPENS.contains(name);
    if (is_own || is_administrator(user)) && changes.iter().any(opens) {
        access::require_password(context, "change what opens an administrator's account")?;
    }
    let makes = |(name, value): &(&str, Option<&Value>)| match *name {
        "roles" => {
            let roles = value.and_then(Value::as_array).into_iter().flatten();
            !is_administrator(user) && roles.into_iter().any(|role| role == ADMIN_ROLE)
        }
        "enabled" => is_administrator(user) && value.and_then(Value::as_bool) == Some(true),
        _ => false,
    };
    if changes.iter().any(makes) {
        access::require_password(context, "make administrators")?;
    }
    Ok(())
}

/// Refuses what users who aren't administrators may not change: everything but their own password, names and address.
fn permit(context: &OpContext, user: &User, changes: &[(&str, Option<&Value>)]) -> Result<()> {
    if context.is_admin() {
        return require_proof(context, user, changes);
    }
    if context.user() != Some(user.username.as_str()) {
        return Err(CloudError::Forbidden(format!(
            "only administrators may change {}",
            user.id
        )));
    }
    if !changes.is_empty() {
        // Who has the address of somebody's mail has the account, too.
        access::require_password(context, "change accounts")?;
    }
    match changes.iter().find(|(name, _)| !OWN.contains(name)) {
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

impl Public for User {
    const KIND: Kind = Kind::User;

    /// What it uses is in others.
    fn stamp(&self, _revision: u64, _documents: &Documents) -> Option<u64> {
        None
    }

    fn own_attributes(&self, documents: &Documents) -> Map<String, Value> {
        let mut out = object(
            json!({"username": self.username, "enabled": self.enabled, "roles": self.roles}),
        );
        if !self.quota.is_empty() {
            out.insert("quota".to_owned(), json!(self.quota));
        }
        let used = used_by(documents, std::iter::once(self.username.as_str()));
        out.insert("used".to_owned(), used.into());
        for (name, text) in [
            ("first-name", &self.first_name),
            ("last-name", &self.last_name),
            ("email", &self.email),
        ] {
            if let Some(text) = text {
                out.insert(name.to_owned(), text.as_str().into());
            }
        }
        if let Some(origin) = &self.origin {
            out.insert("origin".to_owned(), origin.source.as_str().into());
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
            ("quota", value) => self.quota = crate::group::quota(value)?,
            ("email", Some(Value::String(text))) => {
                let address = EmailAddress::parse(text);
                let address =
                    address.map_err(|error| CloudError::invalid(name, error.to_string()))?;
                self.email = Some(address.to_string());
            }
            ("email", _) => self.email = None,
            ("first-name", _) => self.first_name = text(),
            ("last-name", _) => self.last_name = text(),
            _ => return Err(CloudError::invalid(name, "of a user can't be changed")),
        }
        Ok(())
    }
}
