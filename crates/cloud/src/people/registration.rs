//! From the form to the account.
//!
//! ```text
//!   form ─▶ EMAIL_PENDING ─confirm─▶ APPROVAL_PENDING ─approve─▶ an account (User, or an entry of the directory by way of APPROVED)
//!              │ cancel, 3 days              └──────reject─────▶ REJECTED ─30 days─▶ forgotten; the name is free at once
//!              └▶ forgotten
//! ```
//!
//! Each arrow is one transaction, with the letter that tells of it. Only APPROVED is a wish that something else carries
//! out: the directory may be down.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use accounts::HashError;
use cimi::{
    Acl, Common, EmailAddress, RegistrationId, Right, Timestamp, UserId,
    model::Kind,
    resources::{MailLink, Purpose, PurposeKind, Registration, RegistrationState, User},
};
use documents::{Cached, Changes, Documents};
use serde_json::{Map, Value, json};

use crate::{
    Cloud, CloudError, Done, OpContext, Rel, Result, access,
    catalogue::{self, Public, object},
    user::own_acl,
};

use super::{
    Application, Directory, DirectoryEntry, DirectoryError, Letters, RegistrationSettings, fields,
    letters::with_letter,
};

/// Forms of one address that are taken within an hour.
const FORMS_PER_ADDRESS: u32 = 20;
/// How long an administrator has to decide by the link of the letter; by page and command for ever.
const DECISION_LINK: Duration = Duration::from_secs(30 * 86_400);
/// Registrations that wait at once, so that nobody fills the database with forms.
const WAITING_AT_MOST: usize = 5_000;

impl Cloud {
    /// How accounts are asked for, if that is possible.
    #[must_use]
    pub fn registration(&self) -> Option<&RegistrationSettings> {
        self.0.settings.people.registration.as_ref()
    }

    /// The same.
    ///
    /// # Errors
    /// [`CloudError::NotFound`] if it isn't.
    pub(super) fn registers(&self) -> Result<&RegistrationSettings> {
        self.registration().ok_or_else(|| {
            CloudError::not_found("registration here: ask the administrators for an account")
        })
    }

    /// What is wrong with a form, and that its user name is taken, if it is: all is told at once. Nobody finds out many names
    /// by wrong forms: after some, only the rest is told.
    #[must_use]
    pub fn with_taken_name(
        &self,
        context: &OpContext,
        form: &[(String, String)],
        wrong: CloudError,
    ) -> CloudError {
        let CloudError::Invalid { mut violations } = wrong else {
            return wrong;
        };
        if let Some(name) = fields::username_of(form)
            && self.ask_at_pace(context, "name", FORMS_PER_ADDRESS).is_ok()
            && self.is_taken(&name)
            && let CloudError::Invalid { violations: taken } = taken(&name)
        {
            violations.splice(0..0, taken);
        }
        CloudError::Invalid { violations }
    }

    /// Takes a form. The account comes later: the address has to be confirmed first.
    ///
    /// # Errors
    /// [`CloudError::Invalid`] if the name is taken or can't be, [`CloudError::Exhausted`] for who sends too many.
    pub async fn sign_up(&self, context: &OpContext, form: Application) -> Result<()> {
        let settings = self.registers()?;
        self.ask_at_pace(context, "form", FORMS_PER_ADDRESS)?;
        let taken = || taken(&form.username);
        if self.is_taken(&form.username) {
            return Err(taken());
        }
        let somebodys = |name: &str| {
            CloudError::invalid(
                "seeAlso",
                format!(
                    "the certificate of `{name}` is somebody's already: if it is yours, log in with it, or ask the administrators"
                ),
            )
        };
        let x500dn = form.x500dn.as_deref();
        if let Some(name) = x500dn.filter(|name| self.is_somebodys(name, &form.username)) {
            return Err(somebodys(name));
        }
        let password = match &settings.directory {
            Some(directory) => {
                match directory.find(&form.username).await {
                    Ok(None) => {}
                    Ok(Some(_)) => return Err(taken()),
                    Err(error) => return Err(unreachable(&error)),
                }
                if let Some(name) = x500dn {
                    match only_of(directory.as_ref(), name, &form.username).await {
                        Ok(()) => {}
                        Err(DirectoryError::CertificateTaken) => return Err(somebodys(name)),
                        Err(error) => return Err(unreachable(&error)),
                    }
                }
                directory.encode(&form.password)
            }
            None => self.hash_chosen(context, form.password.clone()).await?,
        };
        if self.0.documents.registrations.len() >= WAITING_AT_MOST {
            return Err(CloudError::Exhausted(
                "too many registrations wait at the moment; try again in some days".to_owned(),
            ));
        }
        let now = Timestamp::now();
        let id = RegistrationId::from_local(&form.username)
            .map_err(|_| CloudError::invalid("uid", "invalid username"))?;
        let registration = Registration {
            id,
            common: Common::new(Acl::owned_by_admin(), now),
            username: form.username.clone(),
            first_name: form.first_name.clone(),
            last_name: form.last_name.clone(),
            email: form.email.clone(),
            x500dn: form.x500dn.clone(),
            message: form.message.clone(),
            password,
            state: RegistrationState::EmailPending,
            expires: Some(now.after(settings.confirm_within)),
            decided_by: None,
            reason: None,
            unknown: Map::new(),
        };
        let documents = &self.0.documents;
        loop {
            context.in_time()?;
            let seen = match x500dn {
                Some(_) => Some(self.names_seen().await?),
                None => None,
            };
            if let Some(name) = x500dn.filter(|name| self.is_somebodys(name, &form.username)) {
                return Err(somebodys(name));
            }
            let changes = match documents.registrations.get(&form.username) {
                None => documents.changes().create(&registration),
                Some(old) if is_over(&old, Timestamp::now()) => {
                    documents.changes().replace(&old, registration.clone())
                }
                Some(_) => return Err(taken()),
            };
            if self.is_a_users(&form.username) {
                return Err(taken());
            }
            let changes = match &seen {
                Some(seen) => seen.guard(changes),
                None => changes,
            };
            let purpose = Purpose::Confirm {
                username: form.username.clone(),
            };
            let (changes, secret) = self.with_link(changes, purpose, settings.confirm_within);
            let letter = Letters(settings).confirm(&registration, &secret)?;
            match with_letter(changes, &letter)?.commit().await {
                Ok(_) => break,
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        tracing::info!(username = form.username, "an account was asked for");
        Ok(())
    }

    /// Whether somebody has this name already, or waits for an account of it.
    fn is_taken(&self, username: &str) -> bool {
        let waits = self.0.documents.registrations.get(username);
        self.is_a_users(username)
            || waits.is_some_and(|waiting| !is_over(&waiting, Timestamp::now()))
    }

    /// Whether this is a user's name, or other name.
    fn is_a_users(&self, username: &str) -> bool {
        let users = &self.0.documents.users;
        users.get(username).is_some() || users.count_by_index("login", username) > 0
    }

    /// Counts what somebody at the caller's address asks for.
    ///
    /// # Errors
    /// [`CloudError::Exhausted`] if it was too much within the last hour.
    pub(super) fn ask_at_pace(&self, context: &OpContext, what: &str, most: u32) -> Result<()> {
        let address = context.peer.map(accounts::network_of);
        let key = format!("{what} {address:?}");
        self.0.pace.ask(&key, most, Instant::now()).map_err(|wait| {
            let minutes = wait.as_secs().div_ceil(60);
            CloudError::Exhausted(format!(
                "too many of these came from your address; try again in {minutes} min"
            ))
        })
    }

    /// The hash of a password that somebody chose.
    pub(super) async fn hash_chosen(
        &self,
        context: &OpContext,
        password: String,
    ) -> Result<String> {
        let hashed = self.0.settings.passwords.hash(password, context.peer).await;
        hashed.map_err(|error| match error {
            HashError::Policy(error) => CloudError::invalid("newUserPassword", error.to_string()),
            HashError::Busy => CloudError::Unavailable(error.to_string()),
        })
    }

    /// Follows the link of a letter that asks whether an address is right; or cancels the registration by it.
    ///
    /// # Errors
    /// [`CloudError::NotFound`] if the link works no more.
    pub async fn confirm_registration(&self, secret: &str, confirms: bool) -> Result<()> {
        let settings = self.registers()?;
        loop {
            let (link, username) = self.link_for(secret, |purpose| match purpose {
                Purpose::Confirm { username } => Some(username.clone()),
                _ => None,
            })?;
            let changes = self.0.documents.changes().remove::<MailLink>(&link);
            let Some(read) = self.pending(&username, RegistrationState::EmailPending) else {
                changes.commit().await.ok();
                return Err(CloudError::not_found("such registration any more"));
            };
            let changes = if confirms {
                let mut next = read.document.0.clone();
                next.state = RegistrationState::ApprovalPending;
                next.expires = None;
                let purpose = Purpose::Decide {
                    username: username.clone(),
                };
                let (changes, secret) =
                    self.with_link(changes.replace(&read, next.clone()), purpose, DECISION_LINK);
                with_letter(changes, &Letters(settings).decide(&next, &secret)?)?
            } else {
                changes.remove(&read)
            };
            match changes.commit().await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Decides by the link of the letter to the administrators.
    ///
    /// # Errors
    /// [`CloudError::NotFound`] if the link works no more.
    pub async fn decide_by_link(&self, secret: &str, approves: bool) -> Result<()> {
        let (_, username) = self.link_for(secret, |purpose| match purpose {
            Purpose::Decide { username } => Some(username.clone()),
            _ => None,
        })?;
        self.decide(&username, approves, "the link of the letter", None)
            .await
    }

    /// Decides as an administrator: the actions `approve` and `reject` of a Registration.
    pub(crate) async fn act_on_registration(
        &self,
        context: &OpContext,
        id: &str,
        action: &str,
    ) -> Result<Done> {
        let documents = &self.0.documents;
        let read = access::find::<Registration>(documents, context, id, Right::Modify)?;
        let approves = match action {
            "approve" => true,
            "reject" => false,
            _ => {
                let text = format!("`{action}` is not something a Registration does");
                return Err(CloudError::invalid("action", text));
            }
        };
        let by = context.user().unwrap_or_default().to_owned();
        self.decide(&read.username, approves, &by, Some(context))
            .await?;
        let left = documents.registrations.get(id);
        Ok(Done {
            view: left.map(|left| catalogue::view(documents, context, left)),
            job: None,
        })
    }

    async fn decide(
        &self,
        username: &str,
        approves: bool,
        by: &str,
        context: Option<&OpContext>,
    ) -> Result<()> {
        let settings = self.registers()?;
        let documents = &self.0.documents;
        loop {
            let read = documents
                .registrations
                .get(username)
                .ok_or_else(|| CloudError::not_found(format!("Registration/{username}")))?;
            if let Some(context) = context {
                context.in_time()?;
                access::require(context, &read.document.0, Right::Modify)?;
            }
            let undecided = match read.state {
                RegistrationState::ApprovalPending => true,
                // Approved by mistake, or the directory won't have it.
                RegistrationState::Approved => !approves,
                RegistrationState::EmailPending | RegistrationState::Rejected => false,
            };
            if !undecided {
                return Err(CloudError::Conflict(format!(
                    "{} is {}: there is nothing to decide",
                    read.document.id,
                    read.state.name()
                )));
            }
            let mut changes = documents.changes();
            if let Some(name) = read.x500dn.as_deref().filter(|_| approves) {
                let seen = self.names_seen().await?;
                if self.is_somebodys(name, username) {
                    return Err(CloudError::Conflict(format!(
                        "the certificate of `{name}` is somebody else's already; reject this registration"
                    )));
                }
                changes = seen.guard(changes);
            }
            for link in self.links_about(PurposeKind::Decide, username) {
                changes = changes.remove(&link);
            }
            let mut next = read.document.0.clone();
            next.decided_by = Some(by.to_owned());
            next.reason = None;
            let changes = if !approves {
                next.state = RegistrationState::Rejected;
                next.expires = Some(Timestamp::now().after(settings.rejected_kept));
                let letter = Letters(settings).rejected(&next)?;
                with_letter(changes.replace(&read, next), &letter)?
            } else if settings.directory.is_some() {
                next.state = RegistrationState::Approved;
                changes.replace(&read, next)
            } else {
                if self.is_a_users(username) {
                    return Err(CloudError::Conflict(format!(
                        "there is a user `{username}` already; reject this registration"
                    )));
                }
                let changes = changes.create(&account(&next, settings)?);
                with_letter(changes.remove(&read), &Letters(settings).approved(&next)?)?
            };
            match changes.commit().await {
                Ok(_) => {
                    tracing::info!(username, by, approves, "a registration was decided");
                    return Ok(());
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The link with this secret and what `of` wants of it.
    ///
    /// # Errors
    /// [`CloudError::NotFound`].
    pub(super) fn link_for<T>(
        &self,
        secret: &str,
        of: impl Fn(&Purpose) -> Option<T>,
    ) -> Result<(Arc<Cached<MailLink>>, T)> {
        let link = self.find_link(secret)?;
        let wanted = of(&link.purpose);
        let wanted = wanted.ok_or_else(|| CloudError::not_found("such link"))?;
        Ok((link, wanted))
    }

    fn pending(
        &self,
        username: &str,
        state: RegistrationState,
    ) -> Option<Arc<Cached<Registration>>> {
        let found = self.0.documents.registrations.get(username);
        found.filter(|registration| registration.state == state)
    }

    /// Brings into the directory who was approved, until the caches stop. Ends by itself only where there is no directory.
    pub async fn enter_approved(&self) {
        let Some(settings) = self
            .registration()
            .filter(|settings| settings.directory.is_some())
        else {
            return std::future::pending().await;
        };
        let mut changed = self.0.documents.registrations.changes();
        loop {
            let waiting = self
                .0
                .documents
                .registrations
                .by_index("state", RegistrationState::Approved.name());
            let mut left = false;
            for registration in waiting {
                if let Err(error) = self.enter(settings, &registration).await {
                    tracing::warn!(username = registration.username, %error, "an approved account is not in the directory yet");
                    left = true;
                }
            }
            if left {
                tokio::time::sleep(settings.directory_again).await;
            } else {
                changed.next().await;
            }
        }
    }

    async fn enter(
        &self,
        settings: &RegistrationSettings,
        read: &Arc<Cached<Registration>>,
    ) -> Result<()> {
        let Some(directory) = &settings.directory else {
            return Ok(());
        };
        let entry = DirectoryEntry {
            uid: read.username.clone(),
            given_name: read.first_name.clone(),
            sn: read.last_name.clone(),
            mail: read.email.to_string(),
            see_also: read.x500dn.clone(),
        };
        let free = match &entry.see_also {
            Some(name) => only_of(directory.as_ref(), name, &entry.uid).await,
            None => Ok(()),
        };
        let entered = match free {
            Ok(()) => {
                directory
                    .enter(&entry, &read.password, &settings.role)
                    .await
            }
            Err(error) => Err(error),
        };
        let documents = &self.0.documents;
        let changes: Changes<'_> = match &entered {
            Ok(()) => {
                let changes = documents.changes().remove(read);
                with_letter(changes, &Letters(settings).approved(read)?)?
            }
            Err(error) => {
                let reason = Some(error.to_string());
                if read.reason == reason {
                    return Err(unreachable(error));
                }
                let mut next = read.document.0.clone();
                next.reason = reason;
                documents.changes().replace(read, next)
            }
        };
        match changes.commit().await {
            // Somebody rejected it meanwhile: then the entry stays, without any right but what the group gives.
            Err(error) if !error.is_conflict() => Err(error.into()),
            _ => entered.map_err(|error| unreachable(&error)),
        }
    }

    /// `changes`, and with them a letter to a user who is disabled or enabled, where users get letters.
    pub(crate) fn with_notice<'a>(&self, changes: Changes<'a>, user: &User) -> Result<Changes<'a>> {
        let letter = self
            .registration()
            .zip(address_of(user))
            .and_then(|(settings, email)| {
                Letters(settings)
                    .suspended(&email, &user.username, user.enabled)
                    .ok()
            });
        match letter {
            Some(letter) => with_letter(changes, &letter),
            None => Ok(changes),
        }
    }

    /// The registrations that nothing happened to for too long.
    pub(crate) fn ended_registrations(&self, now: Timestamp) -> Vec<Arc<Cached<Registration>>> {
        let all = self.0.documents.registrations.all();
        all.into_iter()
            .filter(|registration| registration.expires.is_some_and(|expires| now >= expires))
            .collect()
    }

    /// The links that work no more.
    pub(crate) fn ended_links(&self, now: Timestamp) -> Vec<Arc<Cached<MailLink>>> {
        let all = self.0.documents.mail_links.all();
        all.into_iter().filter(|link| now >= link.expires).collect()
    }
}

/// Where letters to a user go, if there is such a place: what came from elsewhere may be any text.
pub(crate) fn address_of(user: &User) -> Option<EmailAddress> {
    EmailAddress::parse(user.email.as_deref()?).ok()
}

/// Refuses a name in a certificate that a directory has for another person.
async fn only_of(
    directory: &dyn Directory,
    name: &str,
    uid: &str,
) -> std::result::Result<(), DirectoryError> {
    let found = directory.with_certificate(name).await?;
    if found.iter().all(|other| other.eq_ignore_ascii_case(uid)) {
        Ok(())
    } else {
        Err(DirectoryError::CertificateTaken)
    }
}

/// Whether somebody else may ask for the name.
pub(crate) fn is_over(registration: &Registration, now: Timestamp) -> bool {
    registration.state == RegistrationState::Rejected
        || registration.expires.is_some_and(|expires| now >= expires)
}

fn taken(username: &str) -> CloudError {
    CloudError::invalid("uid", format!("username ({username}) already exists"))
}

/// The account of somebody who was approved.
fn account(of: &Registration, settings: &RegistrationSettings) -> Result<User> {
    let id = UserId::from_local(&of.username)
        .map_err(|_| CloudError::invalid("uid", "invalid username"))?;
    let mut altnames = BTreeMap::new();
    if let Some(dn) = &of.x500dn {
        altnames.insert("x500dn".to_owned(), dn.clone());
    }
    Ok(User {
        id,
        common: Common::new(own_acl(&of.username), Timestamp::now()),
        username: of.username.clone(),
        first_name: Some(of.first_name.clone()),
        last_name: Some(of.last_name.clone()),
        email: Some(of.email.to_string()),
        password: Some(of.password.clone()),
        enabled: true,
        roles: vec![settings.role.clone()],
        altnames,
        quota: cimi::resources::Quota::default(),
        generation: 0,
        origin: None,
        unknown: Map::new(),
    })
}

/// StratusLab's words, with what is the matter for the log.
pub(super) fn unreachable(error: &DirectoryError) -> CloudError {
    tracing::warn!(%error, "the directory did not answer as it should");
    CloudError::Unavailable(format!(
        "error contacting database: {error}; try again later"
    ))
}

impl Public for Registration {
    const KIND: Kind = Kind::Registration;

    fn own_attributes(&self, _documents: &Documents) -> Map<String, Value> {
        let mut out = object(json!({
            "username": self.username,
            "first-name": self.first_name,
            "last-name": self.last_name,
            "email": self.email,
            "state": self.state,
        }));
        for (name, text) in [
            ("x500dn", &self.x500dn),
            ("message", &self.message),
            ("decided-by", &self.decided_by),
            ("reason", &self.reason),
        ] {
            if let Some(text) = text {
                out.insert(name.to_owned(), text.as_str().into());
            }
        }
        if let Some(time) = self.expires {
            out.insert("expires".to_owned(), json!(time));
        }
        out
    }

    fn operations(&self, _documents: &Documents) -> Vec<Rel> {
        match self.state {
            RegistrationState::ApprovalPending => {
                vec![Rel::Delete, Rel::Action("approve"), Rel::Action("reject")]
            }
            RegistrationState::Approved => vec![Rel::Delete, Rel::Action("reject")],
            RegistrationState::EmailPending | RegistrationState::Rejected => vec![Rel::Delete],
        }
    }
}
