//! What is asked of an entry by queries only, kept in little memory: what many entries say in the same words is there once.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

use super::record::Record;
use crate::digest::Digest;
use crate::metadata::Metadata;

/// What an entry says besides. Texts that the document leaves out are `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// What others say in the same words.
    #[serde(default)]
    pub common: Arc<Common>,
    /// When the image was made, as it stands (`dcterms:created`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<Box<str>>,
    /// Checksums besides SHA-1, which is the identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksums: Option<Box<Sums>>,
    /// What few entries say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub others: Option<Box<Others>>,
}

/// What many entries say in the same words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields of `Metadata` of the same names")]
pub struct Common {
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub image_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creator: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publisher: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hypervisor: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks_buses: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inbound_ports: Vec<u16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outbound_ports: Vec<u16>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub icmp_types: Vec<u16>,
}

/// Checksums besides SHA-1.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the fields of `Checksums` of the same names")]
pub struct Sums {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub md5: Option<Digest<16>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Digest<32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha512: Option<Digest<64>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<(String, String)>,
}

/// What few entries say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields of `Metadata` of the same names")]
pub struct Others {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial_number: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_replaced_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_version_of: Option<String>,
}

static NO_DETAILS: LazyLock<Details> = LazyLock::new(Details::default);
static NO_OTHERS: LazyLock<Others> = LazyLock::new(Others::default);

impl Details {
    /// Of a description.
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        let sums = Sums {
            md5: metadata.checksums.md5,
            sha256: metadata.checksums.sha256,
            sha512: metadata.checksums.sha512,
            others: metadata.checksums.others.clone(),
        };
        let others = Others {
            serial_number: metadata.serial_number,
            replaces: metadata.replaces.clone(),
            is_replaced_by: metadata.is_replaced_by.clone(),
            is_version_of: metadata.is_version_of.clone(),
        };
        let image_type = Some(metadata.image_type.clone()).filter(|text| !text.is_empty());
        Self {
            common: Arc::new(Common {
                image_type,
                compression: metadata.compression.clone(),
                creator: metadata.creator.clone(),
                publisher: metadata.publisher.clone(),
                hypervisor: metadata.hypervisor.clone(),
                disks_buses: metadata.disks_buses.clone(),
                inbound_ports: metadata.inbound_ports.clone(),
                outbound_ports: metadata.outbound_ports.clone(),
                icmp_types: metadata.icmp_types.iter().copied().map(u16::from).collect(),
            }),
            made: metadata.created.as_deref().map(Into::into),
            checksums: (sums != Sums::default()).then(|| Box::new(sums)),
            others: (others != Others::default()).then(|| Box::new(others)),
        }
    }

    /// What few entries say; nothing if this one doesn't.
    #[must_use]
    pub fn others(&self) -> &Others {
        self.others.as_deref().unwrap_or_else(|| &NO_OTHERS)
    }
}

impl Record {
    /// Its details; nothing if they aren't known.
    #[must_use]
    pub fn details(&self) -> &Details {
        self.details.as_ref().unwrap_or_else(|| &NO_DETAILS)
    }

    /// All its checksums, in the order in which documents are written.
    pub fn checksums(&self) -> impl Iterator<Item = Stated<'_>> {
        let sums = self.details().checksums.as_deref();
        let known = [
            sums.and_then(|sums| sums.md5.map(Stated::Md5)),
            Some(Stated::Sha1(self.identifier.sha1())),
            sums.and_then(|sums| sums.sha256.map(Stated::Sha256)),
            sums.and_then(|sums| sums.sha512.map(Stated::Sha512)),
        ];
        let others = sums.into_iter().flat_map(|sums| &sums.others);
        let others = others.map(|(algorithm, value)| Stated::Other(algorithm, value));
        known.into_iter().flatten().chain(others)
    }
}

/// A checksum that an entry states. Its text is written when it is asked for: who looks for one among many would write them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stated<'r> {
    /// MD5.
    Md5(Digest<16>),
    /// SHA-1, which is the identifier.
    Sha1(Digest<20>),
    /// SHA-256.
    Sha256(Digest<32>),
    /// SHA-512.
    Sha512(Digest<64>),
    /// Algorithm and value of another.
    Other(&'r str, &'r str),
}

impl<'r> Stated<'r> {
    /// Its algorithm as documents write it.
    #[must_use]
    pub fn algorithm(self) -> &'r str {
        match self {
            Self::Md5(_) => "MD5",
            Self::Sha1(_) => "SHA-1",
            Self::Sha256(_) => "SHA-256",
            Self::Sha512(_) => "SHA-512",
            Self::Other(algorithm, _) => algorithm,
        }
    }

    /// Its value in hexadecimal digits.
    #[must_use]
    pub fn value(self) -> Cow<'r, str> {
        match self {
            Self::Md5(digest) => digest.to_string().into(),
            Self::Sha1(digest) => digest.to_string().into(),
            Self::Sha256(digest) => digest.to_string().into(),
            Self::Sha512(digest) => digest.to_string().into(),
            Self::Other(_, value) => value.into(),
        }
    }
}
