//! What is written to whom. Passwords never are.

use cimi::{EmailAddress, resources::Registration};
use documents::Changes;
use mail::Letter;
use store::Revision;

use crate::{CloudError, Result};

use super::RegistrationSettings;

/// The letters of a cloud.
#[derive(Clone, Copy, Debug)]
pub struct Letters<'s>(pub &'s RegistrationSettings);

impl Letters<'_> {
    fn action(&self, secret: &str) -> String {
        format!("{}/register/action/{secret}", self.0.url)
    }

    fn close(&self) -> String {
        format!(
            "\n\nYours,\nthe cloud at {}\n{}\n",
            self.0.url, self.0.administrator
        )
    }

    /// To somebody who wants an account: is this your address?
    pub(super) fn confirm(&self, to: &Registration, secret: &str) -> Result<Letter> {
        let hours = self.0.confirm_within.as_secs() / 3600;
        letter(
            to.email.as_str(),
            "Please confirm your e-mail address",
            format!(
                "Dear {} {},\n\nsomebody, hopefully you, asked for the account \"{}\" and gave this address. Please confirm it:\n\n{}\n\nThe link works once, for {hours} hours. If it wasn't you, follow the link and choose to cancel, or do nothing.{}",
                to.first_name,
                to.last_name,
                to.username,
                self.action(secret),
                self.close()
            ),
        )
    }

    /// To the administrators: who wants an account?
    pub(super) fn decide(&self, about: &Registration, secret: &str) -> Result<Letter> {
        let message = about
            .message
            .as_deref()
            .unwrap_or("User did not provide a message.");
        let dn = about
            .x500dn
            .as_ref()
            .map_or_else(String::new, |dn| format!("\nCertificate: {dn}"));
        letter(
            &self.0.administrator,
            "An account was asked for",
            format!(
                "{} {} asks for an account.\n\nUser name: {}\nE-mail (confirmed): {}{dn}\n\nMessage:\n{message}\n\nTo approve or reject it, open\n\n{}\n\nor use \"stratus registration approve {}\" or \"reject\".{}",
                about.first_name,
                about.last_name,
                about.username,
                about.email,
                self.action(secret),
                about.username,
                self.close()
            ),
        )
    }

    pub(super) fn approved(&self, to: &Registration) -> Result<Letter> {
        letter(
            to.email.as_str(),
            "Your account is ready",
            format!(
                "Dear {} {},\n\nyour account \"{}\" was approved. You may use the cloud now, with the password that you chose:\n\n{}/cimi/login{}",
                to.first_name,
                to.last_name,
                to.username,
                self.0.url,
                self.close()
            ),
        )
    }

    pub(super) fn rejected(&self, to: &Registration) -> Result<Letter> {
        letter(
            to.email.as_str(),
            "Your account was not approved",
            format!(
                "Dear {} {},\n\nthe account \"{}\" that you asked for was not approved. If you think that this is a mistake, write to {}.{}",
                to.first_name,
                to.last_name,
                to.username,
                self.0.administrator,
                self.close()
            ),
        )
    }

    /// To a new address: is it yours?
    pub(super) fn new_address(
        &self,
        to: &EmailAddress,
        username: &str,
        secret: &str,
    ) -> Result<Letter> {
        letter(
            to.as_str(),
            "Please confirm your new e-mail address",
            format!(
                "This address shall become the one of the account \"{username}\". Please confirm it:\n\n{}\n\nUntil then the old address counts. If you know nothing of it, do nothing.{}",
                self.action(secret),
                self.close()
            ),
        )
    }

    /// To the old address: somebody wants another one.
    pub(super) fn address_changes(
        &self,
        to: &EmailAddress,
        username: &str,
        new: &EmailAddress,
    ) -> Result<Letter> {
        letter(
            to.as_str(),
            "Your e-mail address is about to change",
            format!(
                "The address of the account \"{username}\" shall become {new}. It does as soon as that is confirmed there. If this wasn't you, change your password at once: {}/register/reset{}",
                self.0.url,
                self.close()
            ),
        )
    }

    /// To the old address: it is done.
    pub(super) fn address_changed(
        &self,
        to: &EmailAddress,
        username: &str,
        new: &EmailAddress,
    ) -> Result<Letter> {
        letter(
            to.as_str(),
            "Your e-mail address was changed",
            format!(
                "The address of the account \"{username}\" is {new} now. If this wasn't you, write to {}.{}",
                self.0.administrator,
                self.close()
            ),
        )
    }

    pub(super) fn reset(&self, to: &EmailAddress, username: &str, secret: &str) -> Result<Letter> {
        let minutes = self.0.reset_within.as_secs() / 60;
        letter(
            to.as_str(),
            "Choose a new password",
            format!(
                "Somebody, hopefully you, wants to set a new password for the account \"{username}\". Choose it here:\n\n{}\n\nThe link works once, for {minutes} minutes. If it wasn't you, follow the link and choose to cancel, or do nothing: your password stays as it is.{}",
                self.action(secret),
                self.close()
            ),
        )
    }

    pub(super) fn password_changed(&self, to: &EmailAddress, username: &str) -> Result<Letter> {
        letter(
            to.as_str(),
            "Your password was changed",
            format!(
                "The password of the account \"{username}\" was changed; everybody who was logged in with the old one isn't any more. If this wasn't you, set a new one at once: {}/register/reset{}",
                self.0.url,
                self.close()
            ),
        )
    }

    pub(super) fn suspended(
        &self,
        to: &EmailAddress,
        username: &str,
        enabled: bool,
    ) -> Result<Letter> {
        let (subject, what) = if enabled {
            ("Your account can be used again", "can be used again")
        } else {
            ("Your account was disabled", "was disabled")
        };
        letter(
            to.as_str(),
            subject,
            format!(
                "The account \"{username}\" {what}. Questions go to {}.{}",
                self.0.administrator,
                self.close()
            ),
        )
    }
}

fn letter(to: &str, subject: &str, text: String) -> Result<Letter> {
    Letter::new(to, &format!("Stratus registration: {subject}"), text)
        .map_err(|error| CloudError::invalid("mail", error.to_string()))
}

/// `changes` with a letter: it is sent if and only if they happen.
pub(super) fn with_letter<'a>(changes: Changes<'a>, letter: &Letter) -> Result<Changes<'a>> {
    let (key, value) = letter
        .stored()
        .map_err(|error| CloudError::TooLarge(error.to_string()))?;
    Ok(changes.put_raw(&key, Revision::ZERO, value))
}
