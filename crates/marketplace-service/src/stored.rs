//! The documents of a Marketplace in the store.
//!
//! | key | holds |
//! |---|---|
//! | `MarketplaceEntry/<identifier>/<email>/<created>` | what searches need, and how it came here |
//! | `MarketplaceDocument/<identifier>/<email>/<created>` | the document, byte for byte, as a JSON string (backups are JSON) |
//! | `MarketplaceNewest/<identifier>/<email>` | the time of the newest: all who add an entry of the two compare it |
//! | `MarketplaceReminder/<email>` | when the endorser was reminded last, and whether they want to be |
//! | `MarketplaceSignIn/<sha256 of the name in the link>` | a letter that was asked for, by which an endorser signs in |
//! | `MarketplaceSession/<sha256 of the secret>` | a browser that an endorser is signed in with |
//! | `MarketplaceUpload/<sha256 of the name in the link>` | what waits for its confirmation |

use marketplace::catalogue::{Name, Record};
use marketplace::{ImageIdentifier, UtcTime};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use store::{Key, KeyError};

/// What all keys begin with.
pub(crate) const PREFIX: &str = "Marketplace";
pub(crate) const ENTRY: &str = "MarketplaceEntry";
const DOCUMENT: &str = "MarketplaceDocument";
const NEWEST: &str = "MarketplaceNewest";
const REMINDER: &str = "MarketplaceReminder";
pub(crate) const UPLOAD: &str = "MarketplaceUpload";
pub(crate) const SIGN_IN: &str = "MarketplaceSignIn";
pub(crate) const SESSION: &str = "MarketplaceSession";

/// Why an entry was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Confirmation {
    /// The endorser followed the link in a letter.
    ByLetter,
    /// The endorser is trusted.
    Trusted,
    /// This Marketplace asks nobody.
    NotAsked,
    /// It is from the Marketplace at this address.
    From(String),
    /// It was among the files of another Marketplace.
    Imported,
}

/// An entry as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StoredEntry {
    #[serde(flatten)]
    pub(crate) record: Record,
    pub(crate) confirmation: Confirmation,
    /// SHA-256 of the certificate that signed it.
    #[serde(default)]
    pub(crate) certificate: String,
}

/// Its document.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredDocument {
    pub(crate) document: String,
}

/// The time of the newest entry of an image and an endorser.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredNewest {
    pub(crate) created: UtcTime,
}

/// An upload that waits for its confirmation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// What it describes.
    pub identifier: ImageIdentifier,
    /// In whose name.
    pub email: String,
    /// When it was endorsed.
    pub created: UtcTime,
    /// Whether it deprecates the image.
    pub is_deprecation: bool,
    /// Name of the image, if it has one, as far as it is shown.
    pub title: Option<String>,
    /// SHA-256 of the certificate that signed it.
    #[serde(default)]
    pub certificate: String,
    /// Length of the document that was uploaded.
    #[serde(default)]
    pub bytes: usize,
    /// From which network address it came.
    pub source: String,
    /// When its time is over.
    pub until: UtcTime,
    /// Whether the owner of the address says that it isn't theirs.
    #[serde(default)]
    pub is_reported: bool,
}

/// Most characters of a title that are kept of what waits: it is shown, and all that wait are held in memory.
const TITLE: usize = 100;

/// The beginning of a title.
pub(crate) fn cut(title: &str) -> String {
    title.chars().take(TITLE).collect()
}

/// The same with the document; of what was reported without it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StoredUpload {
    #[serde(flatten)]
    pub(crate) waiting: Waiting,
    pub(crate) document: String,
}

/// A letter that somebody asked for, to sign in by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StoredSignIn {
    /// The address as whoever asks wrote it.
    pub(crate) asked: String,
    /// The endorser to whom the letter went; none: no such address is known here, and there was no letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) email: Option<String>,
    /// From which network address it was asked for.
    pub(crate) source: String,
    /// When its time is over.
    pub(crate) until: UtcTime,
}

/// By what an endorser showed to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Way {
    /// The link in a letter to the address.
    Letter,
    /// A certificate by which the owner of the address confirmed something before.
    Certificate,
}

/// A browser that an endorser is signed in with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// Who, as their entries name them.
    pub email: String,
    /// By what.
    pub way: Way,
    /// From which network address.
    pub source: String,
    /// Since when.
    pub since: UtcTime,
    /// When it ends by itself.
    pub until: UtcTime,
}

fn path(name: &Name) -> String {
    let (identifier, email, created) = name;
    format!("{identifier}/{email}/{created}")
}

pub(crate) fn entry_key(name: &Name) -> Result<Key, KeyError> {
    Key::new(ENTRY, &path(name))
}

pub(crate) fn document_key(name: &Name) -> Result<Key, KeyError> {
    Key::new(DOCUMENT, &path(name))
}

pub(crate) fn newest_key(name: &Name) -> Result<Key, KeyError> {
    Key::new(NEWEST, &format!("{}/{}", name.0, name.1))
}

pub(crate) fn reminder_key(email: &str) -> Result<Key, KeyError> {
    Key::new(REMINDER, email)
}

/// The store knows no link, only what follows from it: who reads the store can't confirm.
pub(crate) fn upload_key(link: &str) -> Result<Key, KeyError> {
    Key::new(UPLOAD, &hashed(link))
}

/// The same of a link to sign in by.
pub(crate) fn sign_in_key(link: &str) -> Result<Key, KeyError> {
    Key::new(SIGN_IN, &hashed(link))
}

/// The same of what a browser is known by.
pub(crate) fn session_key(secret: &str) -> Result<Key, KeyError> {
    Key::new(SESSION, &hashed(secret))
}

fn hashed(secret: &str) -> String {
    digest(&SHA256, secret.as_bytes())
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The entry that a key names.
pub(crate) fn entry_name(key: &Key) -> Option<Name> {
    let mut parts = key.id().splitn(3, '/');
    let (identifier, email, created) = (parts.next()?, parts.next()?, parts.next()?);
    Some((
        identifier.parse().ok()?,
        email.into(),
        created.parse().ok()?,
    ))
}
