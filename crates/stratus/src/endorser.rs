//! The key of the endorser, from where the user has it.

use std::io::{ErrorKind, IsTerminal as _};
use std::path::{Path, PathBuf};

use marketplace::signature::Hash;
use marketplace::{Entry, Error, Metadata, SigningKey, UtcTime, draft};

use crate::config::home;
use crate::failure::{Failure, Result};
use crate::options::Signing;
use crate::session::Session;

/// Where the key is when nothing is said, below the home folder.
const DEFAULT_P12: &str = ".globus/usercert.p12";

/// How far ahead the clock of an earlier endorsement may have been.
const NEAR_SECONDS: i64 = 240;

/// Who signs, and how.
#[derive(Debug)]
pub struct Endorser {
    key: SigningKey,
    hash: Hash,
}

/// What is wrong with a key; the endorser's other troubles are with documents.
fn unusable(error: &Error) -> Failure {
    Failure::Work(error.to_string())
}

impl Endorser {
    /// Reads the key, asking for its password on a terminal.
    ///
    /// # Errors
    /// [`Failure::Work`]: no such file, wrong password, no key in it.
    pub fn load(session: &Session, signing: &Signing) -> Result<Self> {
        let hash = if session
            .settings
            .switch(signing.sha1_signature, "sha1_signature")
        {
            Hash::Sha1
        } else {
            Hash::Sha256
        };
        let key = match &signing.pem_certificate {
            Some(certificate) => pem_key(session, signing, certificate)?,
            None => pkcs12_key(session, signing)?,
        };
        Ok(Self { key, hash })
    }

    /// The address that the certificate names.
    #[must_use]
    pub fn certified_email(&self) -> Option<&str> {
        self.key.certificate().email()
    }

    /// Whether a document is signed by this key.
    #[must_use]
    pub fn has_signed(&self, document: &[u8]) -> bool {
        let own = self.key.certificate().der();
        Entry::verify(document).is_ok_and(|entry| entry.certificate().der() == own)
    }

    /// Endorses and signs a document now, and after the endorsement that it has.
    ///
    /// # Errors
    /// As [`draft::endorsed`].
    pub fn endorse(&self, document: &[u8], email: Option<&str>) -> Result<String, Error> {
        let before = Metadata::parse(document).ok().and_then(|it| it.endorsement);
        self.endorse_after(before.map(|before| before.created), document, email)
    }

    /// The same after this time. Endorsements of one image are told apart by the second: two of the same one get two.
    ///
    /// # Errors
    /// As [`draft::endorsed`].
    pub fn endorse_after(
        &self,
        before: Option<UtcTime>,
        document: &[u8],
        email: Option<&str>,
    ) -> Result<String, Error> {
        let now = UtcTime::from_timestamp(jiff::Timestamp::now());
        let next = before
            // What was said in the future says nothing about now.
            .filter(|before| before.unix_seconds() - now.unix_seconds() < NEAR_SECONDS)
            .and_then(|before| UtcTime::from_unix_seconds(before.unix_seconds() + 1));
        let created = next.map_or(now, |next| next.max(now));
        draft::endorsed(document, &self.key, self.hash, email, created)
    }
}

fn pkcs12_key(session: &Session, signing: &Signing) -> Result<SigningKey> {
    let given = signing
        .p12_certificate
        .as_ref()
        .and_then(|path| path.to_str());
    let path = session
        .settings
        .text(given, "p12_certificate")
        .map_or_else(|| home().join(DEFAULT_P12), PathBuf::from);
    let file = read(&path)?;
    let given = password_of(session, signing);
    let is_missing = given.is_none() && !std::io::stdin().is_terminal();
    let password = match given {
        Some(password) => password,
        // Files without a password are opened with the empty one.
        None if is_missing => String::new(),
        None => crate::session::ask_password(&format!(
            "PKCS12 (P12) cert '{}' password: ",
            path.display()
        ))?,
    };
    SigningKey::from_pkcs12(&file, &password).map_err(|error| match error {
        Error::WrongPassword if is_missing => no_password(&path),
        error => unusable(&error),
    })
}

/// Nobody was there to be asked for the password that a file needs.
fn no_password(file: &Path) -> Failure {
    Failure::Work(format!(
        "error loading certificate: {} has a password, and none was given (--p12-password, STRATUSLAB_P12_PASSWORD, or p12_password in the \
         configuration file)",
        file.display()
    ))
}

fn pem_key(session: &Session, signing: &Signing, certificate: &Path) -> Result<SigningKey> {
    let mut text = read(certificate)?;
    if let Some(key) = &signing.pem_key {
        text.push(b'\n');
        text.extend(read(key)?);
    }
    let text = String::from_utf8_lossy(&text);
    let password = password_of(session, signing);
    let file = signing.pem_key.as_deref().unwrap_or(certificate);
    match SigningKey::from_pem(&text, password.as_deref()) {
        Err(Error::WrongPassword) if password.is_none() => {
            if !std::io::stdin().is_terminal() {
                return Err(no_password(file));
            }
            let password =
                crate::session::ask_password(&format!("PEM key '{}' password: ", file.display()))?;
            SigningKey::from_pem(&text, Some(&password))
        }
        result => result,
    }
    .map_err(|error| unusable(&error))
}

fn password_of(session: &Session, signing: &Signing) -> Option<String> {
    session
        .settings
        .text(signing.p12_password.as_deref(), "p12_password")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            Failure::Work(format!("certificate file not found: {}", path.display()))
        }
        _ => Failure::file(path, &error),
    })
}
