//! What users change of themselves: names, address, password; and a password that was forgotten.

use std::sync::Arc;

use cimi::{
    EmailAddress,
    resources::{MailLink, Origin, Purpose, PurposeKind, Token, User},
};
use documents::{Cached, Changes};

use crate::{Cloud, CloudError, OpContext, Result, access};

use super::{
    Directory, DirectoryEntry, Letters, ProfileChange, letters::with_letter,
    registration::unreachable,
};

/// Requests for new passwords of one address, and for one user, within an hour.
const RESETS_PER_ADDRESS: u32 = 10;
const RESETS_PER_USER: u32 = 3;
/// Changes of address of one user within an hour: each is a letter to somebody.
const ADDRESSES_PER_USER: u32 = 5;

/// What came of a change of a profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProfileOutcome {
    /// A letter went to the new address, which counts once it is confirmed there.
    pub confirms_address: bool,
    /// The password is another one; all sessions and tokens ended.
    pub new_password: bool,
}

impl Cloud {
    /// The caller's own names and address, from wherever the account is kept.
    ///
    /// # Errors
    /// [`CloudError::Unauthenticated`]; [`CloudError::Forbidden`] for who has no account here, nor where people are registered.
    pub async fn profile(&self, context: &OpContext) -> Result<DirectoryEntry> {
        let username = access::require_user(context)?;
        self.person(username).await.map_err(|error| match error {
            CloudError::NotFound { .. } => CloudError::Forbidden(format!(
                "the account of `{username}` is not kept here: names and address are seen and changed where it is"
            )),
            other => other,
        })
    }

    async fn person(&self, username: &str) -> Result<DirectoryEntry> {
        let user = self.0.documents.users.get(username);
        if let Some(user) = user.filter(|user| !is_of_directory(user)) {
            return Ok(DirectoryEntry {
                uid: user.username.clone(),
                given_name: user.first_name.clone().unwrap_or_default(),
                sn: user.last_name.clone().unwrap_or_default(),
                mail: user.email.clone().unwrap_or_default(),
                see_also: user.altnames.get("x500dn").cloned(),
            });
        }
        let none = || CloudError::not_found(format!("User/{username}"));
        let Some(directory) = self.registration().and_then(|s| s.directory.as_ref()) else {
            return Err(none());
        };
        directory
            .find(username)
            .await
            .map_err(|error| unreachable(&error))?
            .ok_or_else(none)
    }

    /// Changes the caller's own names, password, and, once it is confirmed there, address. The caller has just shown the
    /// current password: see to it before.
    ///
    /// # Errors
    /// [`CloudError::Unauthenticated`], [`CloudError::Forbidden`] for who is here by a token, [`CloudError::Invalid`].
    pub async fn change_profile(
        &self,
        context: &OpContext,
        change: ProfileChange,
    ) -> Result<ProfileOutcome> {
        let username = access::require_user(context)?.to_owned();
        access::require_password(context, "change accounts")?;
        if change.password.is_some() {
            // Before anything is changed: it must not be done by half.
            self.may_have_password(&username)?;
        }
        let before = self.person(&username).await?;
        let differs = |new: Option<String>, old: &str| new.filter(|new| new != old);
        let first_name = differs(change.first_name, &before.given_name);
        let last_name = differs(change.last_name, &before.sn);
        let email = change.email.filter(|new| new.as_str() != before.mail);
        let old = EmailAddress::parse(&before.mail).ok();
        if email.is_some() {
            // Before anything is changed: it must not be done by half.
            self.may_ask_new_address(&username)?;
        }
        let mut outcome = ProfileOutcome::default();
        if first_name.is_some() || last_name.is_some() {
            self.rename(&username, first_name, last_name).await?;
        }
        if let Some(password) = change.password {
            self.set_password(context, &username, old.as_ref(), password, None)
                .await?;
            outcome.new_password = true;
        }
        // After the password, which drops what was asked for with the old one.
        if let Some(email) = email {
            let shown = context
                .generation()
                .map(|shown| shown + u64::from(outcome.new_password));
            self.ask_new_address(&username, old.as_ref(), &email, shown)
                .await?;
            outcome.confirms_address = true;
        }
        Ok(outcome)
    }

    async fn rename(
        &self,
        username: &str,
        first_name: Option<String>,
        last_name: Option<String>,
    ) -> Result<()> {
        if let Some(user) = self.own_user(username) {
            let renamed = self.0.documents.update(user.id(), |user: &mut User| {
                user.first_name = first_name.clone().or(user.first_name.take());
                user.last_name = last_name.clone().or(user.last_name.take());
                Ok::<bool, CloudError>(true)
            });
            return renamed.await.map(drop);
        }
        self.directory()?
            .change(username, first_name.as_deref(), last_name.as_deref(), None)
            .await
            .map_err(|error| unreachable(&error))
    }

    /// Refuses who asks too often.
    pub(crate) fn may_ask_new_address(&self, username: &str) -> Result<()> {
        self.registers()?;
        self.user_at_pace("address", username, ADDRESSES_PER_USER)
    }

    /// Asks at a new address whether it is right, and tells the old one; for who has shown what opened the account in this
    /// generation.
    pub(crate) async fn ask_new_address(
        &self,
        username: &str,
        old: Option<&EmailAddress>,
        email: &EmailAddress,
        generation: Option<u64>,
    ) -> Result<()> {
        let settings = self.registers()?;
        loop {
            let mut changes = self.0.documents.changes();
            if let Some(user) = self.own_user(username) {
                access::require_current(generation, &user)?;
                changes = changes.unchanged::<User>(&user);
            }
            let purpose = Purpose::Address {
                username: username.to_owned(),
                email: email.clone(),
            };
            let lasts = settings.confirm_within;
            let (changes, secret) = self.with_link(changes, purpose, lasts);
            let letters = Letters(settings);
            let mut changes =
                with_letter(changes, &letters.new_address(email, username, &secret)?)?;
            if let Some(old) = old {
                let notice = letters.address_changes(old, username, email)?;
                changes = with_letter(changes, &notice)?;
            }
            match changes.commit().await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Follows the link that was sent to a new address; or drops the change.
    ///
    /// # Errors
    /// [`CloudError::NotFound`] if the link works no more.
    pub async fn confirm_address(&self, secret: &str, confirms: bool) -> Result<()> {
        let settings = self.registers()?;
        loop {
            let (link, (username, email)) = self.link_for(secret, |purpose| match purpose {
                Purpose::Address { username, email } => Some((username.clone(), email.clone())),
                _ => None,
            })?;
            let mut changes = self.0.documents.changes().remove::<MailLink>(&link);
            if confirms {
                let old = EmailAddress::parse(&self.person(&username).await?.mail).ok();
                if let Some(user) = self.own_user(&username) {
                    let mut next = user.document.0.clone();
                    next.email = Some(email.to_string());
                    changes = changes.replace(&user, next);
                } else {
                    // Can be done again, so it comes before the link is used up.
                    self.directory()?
                        .change(&username, None, None, Some(email.as_str()))
                        .await
                        .map_err(|error| unreachable(&error))?;
                }
                if let Some(old) = old {
                    let notice = Letters(settings).address_changed(&old, &username, &email)?;
                    changes = with_letter(changes, &notice)?;
                }
            }
            match changes.commit().await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends a link by which a user can choose a new password, if there is such a user with an address. The caller isn't
    /// told, nor by the time it takes: do it where nobody waits.
    ///
    /// # Errors
    /// [`CloudError::Exhausted`] for who asks too often; others are for the log.
    pub async fn request_reset(&self, context: &OpContext, username: &str) -> Result<()> {
        let settings = self.registers()?;
        self.ask_at_pace(context, "reset", RESETS_PER_ADDRESS)?;
        let (cloud, username) = (self.clone(), username.to_owned());
        let settings = settings.clone();
        self.0.background.spawn(async move {
            if let Err(error) = cloud.send_reset(&settings, &username).await {
                tracing::info!(%error, "no link for a new password was sent");
            }
        });
        Ok(())
    }

    async fn send_reset(
        &self,
        settings: &super::RegistrationSettings,
        username: &str,
    ) -> Result<()> {
        let person = self.person(username).await?;
        let mail = EmailAddress::parse(&person.mail)
            .map_err(|error| CloudError::invalid("mail", error.to_string()))?;
        self.may_have_password(username)?;
        let can = self.0.documents.users.get(username);
        if can.is_some_and(|user| !user.enabled) {
            return Err(CloudError::Forbidden(format!(
                "User/{username} is disabled"
            )));
        }
        self.user_at_pace("reset", username, RESETS_PER_USER)?;
        loop {
            let purpose = Purpose::Reset {
                username: person.uid.clone(),
            };
            let lasts = settings.reset_within;
            let (changes, secret) = self.with_link(self.0.documents.changes(), purpose, lasts);
            let letter = Letters(settings).reset(&mail, &person.uid, &secret)?;
            match with_letter(changes, &letter)?.commit().await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sets the new password of who follows the link of a letter. All sessions and tokens of the user end.
    ///
    /// # Errors
    /// [`CloudError::NotFound`] if the link works no more, [`CloudError::Invalid`].
    pub async fn reset_password(
        &self,
        context: &OpContext,
        secret: &str,
        password: String,
    ) -> Result<()> {
        let (_, username) = self.link_for(secret, reset_of)?;
        let mail = EmailAddress::parse(&self.person(&username).await?.mail).ok();
        self.set_password(context, &username, mail.as_ref(), password, Some(secret))
            .await
    }

    /// Uses up the link of a letter without setting a password.
    ///
    /// # Errors
    /// [`CloudError::NotFound`].
    pub async fn cancel_reset(&self, secret: &str) -> Result<()> {
        let (link, _) = self.link_for(secret, reset_of)?;
        self.0
            .documents
            .changes()
            .remove::<MailLink>(&link)
            .commit()
            .await?;
        Ok(())
    }

    /// Sets a password in one transaction with all that follows from it; `by` is the link that allows it, if one does.
    async fn set_password(
        &self,
        context: &OpContext,
        username: &str,
        mail: Option<&EmailAddress>,
        password: String,
        by: Option<&str>,
    ) -> Result<()> {
        self.may_have_password(username)?;
        accounts::password::check_policy(&password)
            .map_err(|error| CloudError::invalid("newUserPassword", error.to_string()))?;
        let is_ours = self.own_user(username).is_some();
        let hash = if is_ours {
            self.hash_chosen(context, password).await?
        } else {
            let directory = self.directory()?;
            // A link works once, whatever comes of it: of two who follow it at once, one goes on from here.
            if let Some(secret) = by {
                self.use_up(context, username, secret).await?;
            }
            let encoded = directory.encode(&password);
            directory
                .set_password(username, &encoded)
                .await
                .map_err(|error| unreachable(&error))?;
            String::new()
        };
        let documents = &self.0.documents;
        loop {
            context.in_time()?;
            self.end_surplus_tokens(username).await?;
            let changes = documents.changes();
            let mut changes = match by.filter(|_| is_ours) {
                // Read again: of two who follow it at once, one sets the password.
                Some(secret) => {
                    let link = self.link_for(secret, reset_of)?.0;
                    self.without_logins_but(changes, username, Some(&link))
                        .remove::<MailLink>(&link)
                }
                None => self.without_logins(changes, username),
            };
            if let Some(user) = documents.users.get(username) {
                let mut next = user.document.0.clone();
                if is_ours {
                    next.password = Some(hash.clone());
                }
                // Ends all sessions.
                next.generation += 1;
                changes = changes.replace(&user, next);
            }
            changes = self.with_password_notice(changes, username, mail)?;
            match changes.commit().await {
                Ok(_) => break,
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        tracing::info!(username, "the password was changed");
        Ok(())
    }

    /// Uses up the link of a letter to a password that is kept elsewhere, and ends all that the old one has opened: nothing of
    /// that may be left when the new one is there.
    async fn use_up(&self, context: &OpContext, username: &str, secret: &str) -> Result<()> {
        let documents = &self.0.documents;
        loop {
            context.in_time()?;
            self.end_surplus_tokens(username).await?;
            let link = self.link_for(secret, reset_of)?.0;
            let changes = documents.changes();
            let mut changes = self
                .without_logins_but(changes, username, Some(&link))
                .remove::<MailLink>(&link);
            if let Some(user) = documents.users.get(username) {
                let mut next = user.document.0.clone();
                next.generation += 1;
                changes = changes.replace(&user, next);
            }
            match changes.commit().await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// `changes`, and with them the end of whatever else an old password has opened, or would undo the new one: tokens, codes
    /// by which commands log in, links of letters to a new address or to a new password. Sessions end by `generation`.
    pub(crate) fn without_logins<'a>(
        &'a self,
        changes: Changes<'a>,
        username: &str,
    ) -> Changes<'a> {
        self.without_logins_but(changes, username, None)
    }

    /// Ends the tokens that are too many for the transaction of a new password, where users may have that many. It comes
    /// before that transaction: whatever happens between, no old token is left once the password is another one.
    pub(crate) async fn end_surplus_tokens(&self, username: &str) -> Result<()> {
        loop {
            let tokens = self.0.documents.owned::<Token>(username);
            if tokens.len() <= TOKENS_AT_ONCE {
                return Ok(());
            }
            match without(self.0.documents.changes(), &tokens).commit().await {
                Ok(_) => {}
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn without_logins_but<'a>(
        &'a self,
        mut changes: Changes<'a>,
        username: &str,
        but: Option<&Cached<MailLink>>,
    ) -> Changes<'a> {
        use PurposeKind::{Address, Command, Reset};
        for link in [Reset, Command, Address]
            .iter()
            .flat_map(|kind| self.links_about(*kind, username))
        {
            if but.is_none_or(|but| but.id() != link.id()) {
                changes = changes.remove(&link);
            }
        }
        without(changes, &self.0.documents.owned::<Token>(username))
    }

    /// `changes`, and with them a letter that the password is another one, where users get letters.
    pub(crate) fn with_password_notice<'a>(
        &self,
        changes: Changes<'a>,
        username: &str,
        mail: Option<&EmailAddress>,
    ) -> Result<Changes<'a>> {
        match self.registration().zip(mail) {
            Some((to, mail)) => {
                with_letter(changes, &Letters(to).password_changed(mail, username)?)
            }
            None => Ok(changes),
        }
    }

    /// Refuses a password for who logs in by that of a file or by a provider: it would go on when they are thrown out there.
    fn may_have_password(&self, username: &str) -> Result<()> {
        let user = self.own_user(username);
        match user.as_ref().and_then(|user| user.origin.as_ref()) {
            Some(origin) => Err(elsewhere(username, origin)),
            None => Ok(()),
        }
    }

    /// The user, if the cloud's own database has the names and the address.
    fn own_user(&self, username: &str) -> Option<Arc<Cached<User>>> {
        let user = self.0.documents.users.get(username);
        user.filter(|user| !is_of_directory(user))
    }

    /// Where accounts are that aren't in the cloud's own database.
    fn directory(&self) -> Result<Arc<dyn Directory>> {
        let directory = self.registration().and_then(|s| s.directory.clone());
        directory.ok_or_else(|| {
            CloudError::Conflict(
                "this account is kept elsewhere, and the cloud may not write there: change it there"
                    .to_owned(),
            )
        })
    }

    fn user_at_pace(&self, what: &str, username: &str, most: u32) -> Result<()> {
        let key = format!("{what} of {username}");
        let asked = self.0.pace.ask(&key, most, std::time::Instant::now());
        asked.map_err(|_| {
            CloudError::Exhausted(
                "too many letters went to this account; try again later".to_owned(),
            )
        })
    }
}

/// Tokens that one transaction ends beside the rest of what it does.
const TOKENS_AT_ONCE: usize = 100;

fn without<'a>(mut changes: Changes<'a>, tokens: &[Arc<Cached<Token>>]) -> Changes<'a> {
    for token in tokens.iter().take(TOKENS_AT_ONCE) {
        changes = changes.remove(token);
    }
    changes
}

fn reset_of(purpose: &Purpose) -> Option<String> {
    match purpose {
        Purpose::Reset { username } => Some(username.clone()),
        _ => None,
    }
}

/// What is said to who would give an account from elsewhere a password here.
pub(crate) fn elsewhere(username: &str, origin: &Origin) -> CloudError {
    CloudError::Conflict(format!(
        "the password of User/{username} comes from {}: it is changed there",
        origin.source
    ))
}

/// Whether the account is kept in a directory.
fn is_of_directory(user: &User) -> bool {
    user.is_of("ldap")
}
