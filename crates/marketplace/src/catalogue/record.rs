//! What searches and listings need to know of an entry.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Name;
use super::details::Details;
use crate::date::UtcTime;
use crate::entry::Entry;
use crate::identifier::ImageIdentifier;

/// An entry without its document. Texts that the document leaves out are `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields of `Metadata` of the same names")]
pub struct Record {
    pub identifier: ImageIdentifier,
    /// Address of the endorser.
    pub email: Arc<str>,
    /// When it was endorsed.
    pub created: UtcTime,
    /// Of the endorser's certificate.
    pub subject: String,
    /// Who issued it.
    pub issuer: String,
    /// Whether the certificate names the address.
    pub is_email_certified: bool,
    /// Whether the signature stands on SHA-1.
    pub uses_sha1: bool,
    /// When the Marketplace took it.
    pub received: UtcTime,
    pub bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid: Option<UtcTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deprecated: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os_arch: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locations: Vec<String>,
    /// What only queries ask for; `None`: it was taken before that was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
}

impl Record {
    /// Of an entry that came at `received`.
    #[must_use]
    pub fn of(entry: &Entry, received: UtcTime) -> Self {
        let (metadata, endorsement) = (entry.metadata(), entry.endorsement());
        Self {
            identifier: metadata.identifier,
            email: endorsement.email.as_str().into(),
            created: endorsement.created,
            subject: endorsement.subject.clone(),
            issuer: endorsement.issuers.first().cloned().unwrap_or_default(),
            is_email_certified: entry.is_email_certified(),
            uses_sha1: entry.uses_sha1(),
            received,
            bytes: metadata.bytes,
            valid: metadata.valid,
            deprecated: metadata.deprecated.clone(),
            os: metadata.os.clone(),
            os_version: metadata.os_version.clone(),
            os_arch: metadata.os_arch.clone(),
            kind: metadata.kind.clone(),
            version: metadata.version.clone(),
            format: metadata.format.clone(),
            title: metadata.title.clone(),
            tag: metadata.tag.clone(),
            description: metadata.description.clone(),
            locations: metadata.locations.clone(),
            details: Some(Details::of(metadata)),
        }
    }

    /// What names it.
    #[must_use]
    pub fn name(&self) -> Name {
        (self.identifier, Arc::clone(&self.email), self.created)
    }

    /// `<identifier>/<email>/<created>`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}/{}/{}", self.identifier, self.email, self.created)
    }

    /// Whether it can be started at `now`: neither deprecated nor past its end, as far as its endorser says.
    #[must_use]
    pub fn is_valid(&self, now: UtcTime) -> bool {
        self.deprecated.is_none() && self.valid.is_some_and(|valid| valid > now)
    }
}
