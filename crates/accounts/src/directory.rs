//! Users of a directory, as logins need them. Who asks the directory is somebody else.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use cimi::{dn::DistinguishedName, resources::User};
use parking_lot::Mutex;
use ring::digest;

use crate::{Accounts, Identity, Method, methods::Ldap, oidc};

/// What users of a directory say of where they are from.
pub const SOURCE: &str = "ldap";
/// While the directory can't be asked, what it said last counts for so long.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// Users of whom it is remembered when the directory was last asked.
const REMEMBERED_AT_MOST: usize = 20_000;

/// A user as the directory has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The login name as the directory spells it.
    pub login: String,
    /// The entry.
    pub dn: String,
    /// Given name.
    pub first_name: Option<String>,
    /// Family name.
    pub last_name: Option<String>,
    /// Where to write to.
    pub email: Option<String>,
    /// Roles, as the configuration maps groups to them.
    pub roles: Vec<String>,
}

/// A directory that couldn't be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the directory of users can't be asked: {0}")]
pub struct DirectoryError(pub String);

/// Who asks the directory. Every question ends in bounded time.
#[async_trait]
pub trait Directory: Send + Sync + 'static {
    /// The user who has this name and this password. Nobody has an empty one.
    async fn by_password(
        &self,
        ldap: &Ldap,
        login: &str,
        password: &str,
    ) -> Result<Option<Found>, DirectoryError>;

    /// The user who has this name.
    async fn by_login(&self, ldap: &Ldap, login: &str) -> Result<Option<Found>, DirectoryError>;

    /// The user whose certificate has this subject.
    async fn by_subject(
        &self,
        ldap: &Ldap,
        subject: &DistinguishedName,
    ) -> Result<Option<Found>, DirectoryError>;
}

/// When the directory last said that there are these users, and that they may use the cloud.
#[derive(Default)]
pub(crate) struct Confirmed(Mutex<HashMap<String, (u64, Instant)>>);

impl Confirmed {
    /// How long ago the directory of this configuration said so.
    fn age(&self, user: &str, revision: u64) -> Option<Duration> {
        let confirmed = self.0.lock();
        let (of, when) = confirmed.get(user)?;
        (*of == revision).then(|| when.elapsed())
    }

    pub(crate) fn now(&self, user: &str, revision: u64) {
        let mut confirmed = self.0.lock();
        if confirmed.len() >= REMEMBERED_AT_MOST {
            confirmed.clear();
        }
        confirmed.insert(user.to_owned(), (revision, Instant::now()));
    }

    fn forget(&self, user: &str) {
        self.0.lock().remove(user);
    }
}

impl Ldap {
    /// Whether a user with these roles may use the cloud.
    #[must_use]
    pub fn admits(&self, roles: &[String]) -> bool {
        self.required_role.is_empty() || roles.contains(&self.required_role)
    }
}

impl Accounts {
    /// The account of this name as it is now, if it can be used: also asks the directory, if the account is of one and the
    /// last answer is old. For whoever logged in a while ago.
    pub async fn current(&self, username: &str) -> Option<Arc<User>> {
        let user = self.usable(username)?;
        self.confirmed(user).await
    }

    /// Whether the directory, if one is configured, has a user of this name. For who would take the name here: directory users
    /// have no account before they log in.
    ///
    /// # Errors
    /// If it can't be asked: then nobody knows.
    pub async fn has_in_directory(&self, login: &str) -> Result<bool, DirectoryError> {
        let methods = self.methods();
        let Some((ldap, directory)) = methods.ldap.as_ref().zip(self.directory.as_ref()) else {
            return Ok(false);
        };
        Ok(directory.by_login(ldap, login).await?.is_some())
    }

    /// Whether the way in which somebody has shown who they are is still one, and the directory, if they are of one, still
    /// has them. For what goes on long after that; what is in documents is seen by whoever follows these.
    pub async fn still_takes(&self, identity: &Identity) -> bool {
        let methods = self.methods();
        let takes = match identity.method {
            Method::Password => methods.localdb.password_enabled || identity.is_admin(),
            Method::Directory => methods.ldap.as_ref().is_some_and(|l| l.password_enabled),
            Method::Certificate | Method::Proxy => methods.take_certificates(),
            Method::Voms => return methods.voms.enabled,
            Method::Token | Method::Session => true,
        };
        takes && (identity.generation.is_none() || self.current(&identity.user).await.is_some())
    }

    /// The user as the directory has it now, if it is one of a directory. Who comes from a provider is nobody as long as
    /// none is asked. Others as they are.
    pub(crate) async fn confirmed(&self, user: Arc<User>) -> Option<Arc<User>> {
        if user.is_of(oidc::SOURCE) {
            return Some(user).filter(|_| self.source.methods().asks_provider());
        }
        if !user.is_of(SOURCE) {
            return Some(user);
        }
        let methods = self.source.methods();
        let ldap = methods.ldap.as_ref()?;
        if !ldap.password_enabled && !ldap.cert_enabled {
            return None;
        }
        let age = self.confirmed.age(&user.username, methods.revision);
        if age.is_some_and(|age| age < ldap.cached_for()) {
            return Some(user);
        }
        let directory = self.directory.as_ref()?;
        match directory.by_login(ldap, &user.username).await {
            Ok(Some(found)) if ldap.admits(&found.roles) => {
                let user = self.source.found_in_directory(&found).await?;
                self.confirmed.now(&user.username, methods.revision);
                Some(user).filter(|user| user.enabled)
            }
            Ok(_) => {
                self.confirmed.forget(&user.username);
                tracing::info!(
                    user = user.username,
                    "the directory has this user no more, or not for this cloud"
                );
                None
            }
            Err(error) => {
                tracing::warn!(user = user.username, %error, "whether this user still is one isn't known");
                age.is_some_and(|age| age < PATIENCE).then_some(user)
            }
        }
    }
}

impl Found {
    /// Names what the directory says: something else has another digest.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut add = |text: &str| {
            context.update(&text.len().to_le_bytes());
            context.update(text.as_bytes());
        };
        for text in [&self.login, &self.dn] {
            add(text);
        }
        for text in [&self.first_name, &self.last_name, &self.email] {
            add(text.as_deref().unwrap_or("\0"));
        }
        self.roles.iter().for_each(|role| add(role));
        let bytes = context.finish();
        let bytes = bytes.as_ref().iter().take(8);
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }
}
