//! What people write into forms, checked: StratusLab's fields, rules and messages.
//!
//! Fields that are unknown or blank count as not there.

use accounts::password;
use cimi::{EmailAddress, model::Violation};

use crate::{CloudError, Result};

/// Longest name, address or certificate name.
const TEXT_AT_MOST: usize = 200;
/// Longest message to the administrators, in characters.
const MESSAGE_AT_MOST: usize = 2_000;

/// What somebody writes who wants an account.
#[derive(Clone, PartialEq, Eq)]
pub struct Application {
    /// `uid`
    pub username: String,
    /// `mail`
    pub email: EmailAddress,
    /// `givenName`
    pub first_name: String,
    /// `sn`
    pub last_name: String,
    /// `seeAlso`
    pub x500dn: Option<String>,
    /// `message`
    pub message: Option<String>,
    /// `newUserPassword`
    pub password: String,
}

/// What a user changes of the own account.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ProfileChange {
    /// `mail`
    pub email: Option<EmailAddress>,
    /// `givenName`
    pub first_name: Option<String>,
    /// `sn`
    pub last_name: Option<String>,
    /// `newUserPassword`
    pub password: Option<String>,
}

// Neither shows a password in a log.
impl std::fmt::Debug for Application {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Application({})", self.username)
    }
}

impl std::fmt::Debug for ProfileChange {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("ProfileChange")
    }
}

/// A form as it was sent.
#[derive(Clone, Copy)]
struct Form<'f>(&'f [(String, String)]);

impl<'f> Form<'f> {
    /// A field that isn't blank, without blanks around.
    fn get(self, name: &str) -> Option<&'f str> {
        let text = self.0.iter().find(|(field, _)| field == name)?.1.trim();
        (!text.is_empty()).then_some(text)
    }

    /// The same as it is: blanks belong to a password.
    fn password(self, name: &str) -> Option<&'f str> {
        let text = self.0.iter().find(|(field, _)| field == name)?.1.as_str();
        (!text.trim().is_empty()).then_some(text)
    }

    fn new_password(self) -> Result<Option<String>> {
        let (first, second) = (
            self.password("newUserPassword"),
            self.password("newUserPasswordCheck"),
        );
        match (first, second) {
            (None, None) => Ok(None),
            (Some(first), Some(second)) if first == second => {
                password::check_policy(first).map_err(|error| {
                    refused("newUserPassword", &format!("invalid new password: {error}"))
                })?;
                Ok(Some(first.to_owned()))
            }
            (Some(_), Some(_)) => Err(refused("newUserPasswordCheck", "mismatched passwords")),
            _ => Err(refused(
                "newUserPasswordCheck",
                "Your new password must be provided twice.",
            )),
        }
    }
}

/// What was read, or `None` with what is wrong put to the rest of it: all is told at once.
fn noted<T>(read: Result<T>, wrong: &mut Vec<Violation>) -> Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(CloudError::Invalid { violations }) => {
            wrong.extend(violations);
            Ok(None)
        }
        Err(other) => Err(other),
    }
}

/// The refusal of a field. The text is the whole message.
fn refused(field: &str, text: &str) -> CloudError {
    CloudError::invalid(field, text)
}

impl Application {
    /// Reads the form of those who want an account.
    ///
    /// # Errors
    /// [`CloudError::Invalid`] with all fields that are wrong, and StratusLab's messages.
    pub fn read(form: &[(String, String)]) -> Result<Self> {
        let form = Form(form);
        let mut wrong = Vec::new();
        let needed =
            |name: &str, missing: &str| form.get(name).ok_or_else(|| refused(name, missing));
        let uid = needed("uid", "A username must be provided.").and_then(username);
        let mail = needed("mail", "Your email address must be provided.")
            .and_then(|text| email_address("mail", text));
        let given = needed("givenName", "Your given name(s) must be provided.")
            .and_then(|text| name("givenName", text));
        let family =
            needed("sn", "Your family name must be provided.").and_then(|text| name("sn", text));
        let (username, email) = (noted(uid, &mut wrong)?, noted(mail, &mut wrong)?);
        let (first_name, last_name) = (noted(given, &mut wrong)?, noted(family, &mut wrong)?);
        let x500dn = form.get("seeAlso").map(distinguished_name).transpose();
        let x500dn = noted(x500dn, &mut wrong)?.flatten();
        let missing = || {
            let text = "A new password must be provided for your account.";
            refused("newUserPassword", text)
        };
        let password = match form.password("newUserPassword") {
            None => Err(missing()),
            Some(_) => form.new_password().and_then(|it| it.ok_or_else(missing)),
        };
        let password = noted(password, &mut wrong)?;
        if form.get("agreement").is_none() {
            let text = "You must agree to the terms, conditions, and policies to register.";
            noted::<()>(Err(refused("agreement", text)), &mut wrong)?;
        }
        let message = form.get("message").map(str::to_owned);
        if message
            .as_ref()
            .is_some_and(|text| text.chars().count() > MESSAGE_AT_MOST)
        {
            let text = format!("the message has at most {MESSAGE_AT_MOST} characters");
            noted::<()>(Err(refused("message", &text)), &mut wrong)?;
        }
        let (Some(username), Some(email), Some(first_name), Some(last_name), Some(password), true) = (
            username,
            email,
            first_name,
            last_name,
            password,
            wrong.is_empty(),
        ) else {
            return Err(CloudError::Invalid { violations: wrong });
        };
        Ok(Self {
            username,
            email,
            first_name,
            last_name,
            x500dn,
            message,
            password,
        })
    }
}

impl ProfileChange {
    /// Reads the form of a profile. What is left blank stays as it is.
    ///
    /// # Errors
    /// [`CloudError::Invalid`].
    pub fn read(form: &[(String, String)]) -> Result<Self> {
        let form = Form(form);
        let name = |field: &str| form.get(field).map(|text| name(field, text)).transpose();
        Ok(Self {
            email: form
                .get("mail")
                .map(|text| email_address("mail", text))
                .transpose()?,
            first_name: name("givenName")?,
            last_name: name("sn")?,
            password: form.new_password()?,
        })
    }
}

/// The new password of the form by which one is set anew.
///
/// # Errors
/// [`CloudError::Invalid`].
pub fn new_password(form: &[(String, String)]) -> Result<String> {
    let missing = || {
        refused(
            "newUserPassword",
            "A new password must be provided for your account.",
        )
    };
    Form(form).new_password()?.ok_or_else(missing)
}

/// The user name of a form of those who want an account, whatever else is wrong with it.
pub(super) fn username_of(form: &[(String, String)]) -> Option<String> {
    username(Form(form).get("uid")?).ok()
}

fn username(text: &str) -> Result<String> {
    let fits = (3..=20).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if fits {
        return Ok(text.to_owned());
    }
    Err(refused(
        "uid",
        "invalid username: 3 to 20 letters, digits and underscores",
    ))
}

/// An address that letters can be sent to; `field` names it in the refusal.
pub(crate) fn email_address(field: &str, text: &str) -> Result<EmailAddress> {
    EmailAddress::parse(text).map_err(|_| refused(field, "invalid email address"))
}

fn name(field: &str, text: &str) -> Result<String> {
    if text.len() <= TEXT_AT_MOST && !text.chars().any(char::is_control) {
        return Ok(text.to_owned());
    }
    let what = if field == "sn" {
        "family name"
    } else {
        "given name"
    };
    Err(refused(field, &format!("invalid {what}")))
}

/// A name of a certificate in the form of RFC 2253: `CN=Alice,O=Example`, most specific part first. The form with slashes
/// is refused. Written without blanks around the parts, with the types in upper case.
fn distinguished_name(text: &str) -> Result<String> {
    let invalid = || {
        refused(
            "seeAlso",
            "invalid X500 DN: write CN=Alice Endorser,O=Example Org,C=EU",
        )
    };
    if text.len() > 2 * TEXT_AT_MOST || text.starts_with('/') || text.chars().any(char::is_control)
    {
        return Err(invalid());
    }
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for character in text.chars() {
        match character {
            ',' | ';' if !escaped => parts.push(String::new()),
            '"' if !escaped => return Err(invalid()),
            _ => {
                if let Some(part) = parts.last_mut() {
                    part.push(character);
                }
            }
        }
        escaped = character == '\\' && !escaped;
    }
    if escaped {
        return Err(invalid());
    }
    let parts: Option<Vec<String>> = parts
        .iter()
        .map(|part| {
            let (kind, value) = part.split_once('=')?;
            let (kind, value) = (kind.trim(), value.trim());
            let is_type = !kind.is_empty()
                && kind
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
            (is_type && !value.is_empty()).then(|| format!("{}={value}", kind.to_ascii_uppercase()))
        })
        .collect();
    parts.map(|parts| parts.join(",")).ok_or_else(invalid)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    fn form(changes: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut form: Vec<(String, String)> = [
            ("uid", "alice"),
            ("mail", "alice@example.org"),
            ("givenName", " Alice "),
            ("sn", "Endorser"),
            ("newUserPassword", "correct horse"),
            ("newUserPasswordCheck", "correct horse"),
            ("agreement", "on"),
            ("unheard-of", "x"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        for (name, value) in changes {
            form.retain(|(field, _)| field != name);
            form.push(((*name).to_owned(), (*value).to_owned()));
        }
        form
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let one = [("uid".to_owned(), "alice".to_owned())];
        let Err(CloudError::Invalid { violations }) = Application::read(&one) else {
            unreachable!("most is missing");
        };
        let fields: Vec<_> = violations.iter().map(|it| it.path.as_str()).collect();
        assert_eq!(
            fields,
            ["mail", "givenName", "sn", "newUserPassword", "agreement"]
        );
    }

    #[test]
    fn a_form_is_read_and_every_field_has_its_rule() {
        let read =
            Application::read(&form(&[("seeAlso", "cn=Alice Endorser, o=Example")])).unwrap();
        assert_eq!(read.first_name, "Alice");
        assert_eq!(read.x500dn.as_deref(), Some("CN=Alice Endorser,O=Example"));
        assert!(!format!("{read:?}").contains("horse"));
        for (field, value, message) in [
            ("uid", " ", "A username must be provided."),
            ("uid", "al", "invalid username"),
            ("uid", "älice", "invalid username"),
            ("uid", "a.lice", "invalid username"),
            ("mail", "", "Your email address must be provided."),
            ("mail", "alice", "invalid email address"),
            ("mail", "a@b@c", "invalid email address"),
            ("mail", "a@b\nBcc: c@d", "invalid email address"),
            ("givenName", "", "Your given name(s) must be provided."),
            ("sn", "", "Your family name must be provided."),
            ("sn", "a\nb", "invalid family name"),
            ("seeAlso", "/C=EU/CN=Alice", "invalid X500 DN"),
            ("seeAlso", "Alice", "invalid X500 DN"),
            ("newUserPassword", "", "A new password must be provided"),
            ("newUserPassword", "correct hors", "mismatched passwords"),
            ("newUserPasswordCheck", "", "must be provided twice"),
            ("agreement", "", "You must agree to the terms"),
        ] {
            let refused = Application::read(&form(&[(field, value)]))
                .unwrap_err()
                .to_string();
            assert!(refused.contains(message), "{field} {value:?}: {refused}");
        }
        let known = form(&[
            ("newUserPassword", "password"),
            ("newUserPasswordCheck", "password"),
        ]);
        assert!(
            Application::read(&known)
                .unwrap_err()
                .to_string()
                .contains("invalid new password")
        );
    }

    #[test]
    fn a_profile_keeps_what_is_left_blank() {
        let change = ProfileChange::read(&[("mail".to_owned(), String::new())]).unwrap();
        assert_eq!(change, ProfileChange::default());
        let change = ProfileChange::read(&form(&[])).unwrap();
        assert_eq!(change.last_name.as_deref(), Some("Endorser"));
        assert_eq!(change.password.as_deref(), Some("correct horse"));
    }
}
