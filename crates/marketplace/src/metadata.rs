//! The description of an image: what a document says, as types.
//!
//! [`Metadata::parse`] reads drafts (no endorsement, no signature yet) and complete entries alike, and says nothing about signatures:
//! whoever believes what it says must have it from [`Entry::verify`](crate::Entry::verify).
//!
//! Size and checksums describe the image after decompression but in its own format: for qcow2 the qcow2 file.

pub(crate) mod constraints;
pub(crate) mod schema;
pub(crate) mod write;

use serde::{Deserialize, Serialize};

use crate::date::UtcTime;
use crate::digest::Digest;
use crate::error::Error;
use crate::identifier::ImageIdentifier;
use crate::xml::Source;

/// The description of an image. Texts that a document leaves out or leaves empty are `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The name of the contents; follows from the SHA-1.
    pub identifier: ImageIdentifier,
    /// Size in bytes.
    pub bytes: u64,
    /// Digests of the contents.
    pub checksums: Checksums,
    /// Who vouches for it; `None` in a draft.
    pub endorsement: Option<Endorsement>,
    /// Flavour: `base`, `grid`; older documents `machine`, `disk`.
    pub image_type: String,
    /// `machine` or `disk`.
    pub kind: Option<String>,
    /// Operating system, such as `ubuntu`; `none` for data.
    pub os: Option<String>,
    /// Its version.
    pub os_version: Option<String>,
    /// Its architecture, such as `x86_64`.
    pub os_arch: Option<String>,
    /// Version of the image.
    pub version: Option<String>,
    /// Number of the image in a series.
    pub serial_number: Option<u64>,
    /// How the file at the locations is compressed (`gz`, `bz2`, …); `None`: it is not.
    pub compression: Option<String>,
    /// Where the file is: `http`, `https`, `ftp`, or `pdisk:<host>:<port>:<uuid>`; to be tried in this order.
    pub locations: Vec<String>,
    /// Disk format: `raw`, `qcow2`, ….
    pub format: Option<String>,
    /// Author.
    pub creator: Option<String>,
    /// Publisher.
    pub publisher: Option<String>,
    /// Creation of the image, as it stands; not the time of the endorsement.
    pub created: Option<String>,
    /// End of its validity.
    pub valid: Option<UtcTime>,
    /// Short name.
    pub title: Option<String>,
    /// Tag (`dcterms:alternative`), unique for one endorser only.
    pub tag: Option<String>,
    /// What it is.
    pub description: Option<String>,
    /// Hypervisor it is made for, such as `kvm`.
    pub hypervisor: Option<String>,
    /// Bus for its disks: `ide`, `scsi`, `virtio`.
    pub disks_buses: Vec<String>,
    /// TCP ports that others must reach; 0: all.
    pub inbound_ports: Vec<u16>,
    /// TCP ports that it must reach; 0: all.
    pub outbound_ports: Vec<u16>,
    /// ICMP types that it needs.
    pub icmp_types: Vec<u8>,
    /// Why it should not be used any more; deprecated without a reason is the empty text.
    pub deprecated: Option<String>,
    /// The image that this one replaces.
    pub replaces: Option<String>,
    /// The image that replaces this one.
    pub is_replaced_by: Option<String>,
    /// The image that this one is a version of.
    pub is_version_of: Option<String>,
    /// Elements that have no field here, in their order.
    pub extensions: Vec<Extension>,
}

/// Digests of the contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksums {
    /// MD5; proves nothing against an attacker.
    pub md5: Option<Digest<16>>,
    /// SHA-1, from which the identifier follows.
    pub sha1: Digest<20>,
    /// SHA-256.
    pub sha256: Option<Digest<32>>,
    /// SHA-512.
    pub sha512: Option<Digest<64>>,
    /// By algorithms that are not known here: name and lower-case hexadecimal digits.
    pub others: Vec<(String, String)>,
}

/// Who vouches for a document, and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endorsement {
    /// When it was signed.
    pub created: UtcTime,
    /// Address of the endorser.
    pub email: String,
    /// Subject of the endorser's certificate, in the form of RFC 2253.
    pub subject: String,
    /// Issuer of the endorser's certificate first; documents may name more.
    pub issuers: Vec<String>,
}

/// An element that has no field of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension {
    /// Its namespace.
    pub namespace: String,
    /// Its local name.
    pub name: String,
    /// The element with everything in it, in canonical form, with the namespaces that it uses.
    pub xml: String,
}

impl Metadata {
    /// A description with nothing but what every document must have.
    #[must_use]
    pub fn new(checksums: Checksums, bytes: u64, image_type: impl Into<String>) -> Self {
        Self {
            identifier: ImageIdentifier::from_sha1(&checksums.sha1),
            bytes,
            checksums,
            endorsement: None,
            image_type: image_type.into(),
            kind: None,
            os: None,
            os_version: None,
            os_arch: None,
            version: None,
            serial_number: None,
            compression: None,
            locations: Vec::new(),
            format: None,
            creator: None,
            publisher: None,
            created: None,
            valid: None,
            title: None,
            tag: None,
            description: None,
            hypervisor: None,
            disks_buses: Vec::new(),
            inbound_ports: Vec::new(),
            outbound_ports: Vec::new(),
            icmp_types: Vec::new(),
            deprecated: None,
            replaces: None,
            is_replaced_by: None,
            is_version_of: None,
            extensions: Vec::new(),
        }
    }

    /// Reads a draft or an entry: size, XML, structure, contents. Signatures are not looked at.
    ///
    /// # Errors
    /// [`Error::TooLong`], [`Error::NotXml`], [`Error::Schema`], [`Error::Constraint`], [`Error::Rdf`].
    pub fn parse(document: &[u8]) -> Result<Self, Error> {
        let source = Source::read(document)?;
        let tree = source.parse()?;
        let parts = schema::check(tree.root_element(), schema::Form::Any)?;
        constraints::check(&parts)
    }

    /// Whether it is past its end at `now`, or has none. (Marketplaces never list what has no end.)
    #[must_use]
    pub fn is_expired(&self, now: UtcTime) -> bool {
        self.valid.is_none_or(|valid| valid <= now)
    }
}

/// The longest e-mail address.
const EMAIL_MAX_BYTES: usize = 254;

/// Whether a text is an e-mail address as endorsements have it (`[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+`). None has a `/`
/// or `..` in it: addresses become parts of paths.
#[must_use]
pub fn is_email(text: &str) -> bool {
    let part = |text: &str, others: &str| {
        !text.is_empty()
            && text
                .chars()
                .all(|character| character.is_ascii_alphanumeric() || others.contains(character))
    };
    text.len() <= EMAIL_MAX_BYTES
        && !text.contains("..")
        && text
            .split_once('@')
            .is_some_and(|(local, domain)| part(local, "._%+-") && part(domain, ".-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_safe_in_paths() {
        for text in ["a@b", "jane.tester+x%y_z-1@example.org", "A9@x-1.y"] {
            assert!(is_email(text), "{text}");
        }
        for text in [
            "", "a", "@", "a@", "@b", "a@b@c", "a/b@c", "a@b/c", "..@b", "a@..", "a b@c", "a@b ",
            "é@b", "a@b\n",
        ] {
            assert!(!is_email(text), "{text}");
        }
        assert!(!is_email(&format!("{}@b", "a".repeat(253))));
    }
}
