//! The documents of a Marketplace in the store.
//!
//! | key | holds |
//! |---|---|
//! | `MarketplaceEntry/<identifier>/<email>/<created>` | what searches need, and how it came here |
//! | `MarketplaceDocument/<identifier>/<email>/<created>` | the document, byte for byte, as a JSON string (backups are JSON) |
//! | `MarketplaceNewest/<identifier>/<email>` | the time of the newest: all who add an entry of the two compare it |
//! | `MarketplaceReminder/<email>` | when the endorser was reminded last |
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
    let hash: String = digest(&SHA256, link.as_bytes())
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Key::new(UPLOAD, &hash)
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
