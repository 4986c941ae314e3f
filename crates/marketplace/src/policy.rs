//! Which entries a site accepts.
//!
//! A policy looks at verified entries only, and decides by them and the time alone. Its lists are StratusLab's: endorsers, checksums, identifiers,
//! each a white and a black one, and of our own formats and hosts; an empty white list lets everything through.

mod authorities;
mod content;
mod file;

use serde::{Deserialize, Serialize};

use crate::date::UtcTime;
use crate::entry::Entry;

pub use authorities::{Authorities, Revocation};
pub use content::{Algorithm, check_host};
pub use file::InvalidPolicy;

/// What is let through, and what is not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lists {
    /// Only these; all if empty.
    pub white: Vec<String>,
    /// None of these.
    pub black: Vec<String>,
}

/// The rules of a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Endorsers, by e-mail address, by subject of the certificate, or by its fingerprint as `sha256:` and 64 digits.
    pub endorsers: Lists,
    /// Any checksum of the contents, as hexadecimal digits.
    pub checksums: Lists,
    /// Identifiers of images.
    pub images: Lists,
    /// Checksums that an entry must state.
    pub required_checksums: Vec<Algorithm>,
    /// Formats of images, as entries name them.
    pub formats: Lists,
    /// Hosts that images are fetched from.
    pub hosts: Lists,
    /// An endorser's certificate must come from one of these authorities; from anybody if there is none.
    pub authorities: Authorities,
    /// Whether an address that only the endorser claims counts on a white list.
    pub accepts_uncertified_email: bool,
    /// Whether signatures that stand on SHA-1 are accepted.
    pub accepts_sha1: bool,
}

impl Default for Policy {
    /// Everything that is valid and not deprecated; addresses on white lists must be certified.
    fn default() -> Self {
        Self {
            endorsers: Lists::default(),
            checksums: Lists::default(),
            images: Lists::default(),
            required_checksums: Vec::new(),
            formats: Lists::default(),
            hosts: Lists::default(),
            authorities: Authorities::default(),
            accepts_uncertified_email: false,
            accepts_sha1: true,
        }
    }
}

/// Why an entry is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Past its end, or without one.
    #[error(
        "the entry of {email} for {identifier} is not valid any more (valid until {until}), rejecting entry"
    )]
    Expired {
        /// The image.
        identifier: String,
        /// The endorser.
        email: String,
        /// Its end.
        until: String,
    },
    /// Endorsed in the future.
    #[error(
        "the entry of {email} for {identifier} is endorsed in the future ({created}), rejecting entry"
    )]
    NotYet {
        /// The image.
        identifier: String,
        /// The endorser.
        email: String,
        /// When.
        created: UtcTime,
    },
    /// The endorser says not to use it any more.
    #[error("the image {identifier} is deprecated by {email}: {reason}")]
    Deprecated {
        /// The image.
        identifier: String,
        /// The endorser.
        email: String,
        /// The endorser's reason.
        reason: String,
    },
    /// Not on a white list.
    #[error("{what} {value} is not whitelisted, rejecting entry")]
    NotWhitelisted {
        /// Which list: `email endorser`, `SHA-1 checksum image`, `image identifier`.
        what: &'static str,
        /// What was looked for.
        value: String,
    },
    /// On a black list.
    #[error("{what} {value} is blacklisted, rejecting entry")]
    Blacklisted {
        /// Which list.
        what: &'static str,
        /// What was found on it.
        value: String,
    },
    /// The white list names the address, and nobody but the endorser says that it is the endorser's.
    #[error(
        "email endorser {0} is whitelisted, but the certificate does not name this address, rejecting entry"
    )]
    UncertifiedEmail(String),
    /// From no authority that is accepted.
    #[error(
        "the certificate of {subject} is from no accepted authority ({reason}), rejecting entry"
    )]
    UnknownAuthority {
        /// Whose certificate.
        subject: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Without a checksum that the site wants.
    #[error(
        "the entry for {identifier} states no {algorithm} checksum, which this site requires, rejecting entry"
    )]
    NoChecksum {
        /// The image.
        identifier: String,
        /// What is missing.
        algorithm: &'static str,
    },
    /// Its authority took it back.
    #[error("the certificate of {0} has been revoked by its authority, rejecting entry")]
    Revoked(String),
    /// Signed with SHA-1.
    #[error("the signature of {0} uses SHA-1, rejecting entry")]
    Sha1(String),
}

const ENDORSER: &str = "email endorser";
const CHECKSUM: &str = "SHA-1 checksum image";
const IMAGE: &str = "image identifier";

/// Clocks of endorsers may be ahead by this much.
pub const CLOCK_TOLERANCE_SECONDS: i64 = 300;

impl Policy {
    /// Whether an entry is accepted at `now`.
    ///
    /// # Errors
    /// The first reason against it: time, deprecation, endorsers, checksums, images, content, authorities, algorithms.
    pub fn check(&self, entry: &Entry, now: UtcTime) -> Result<(), Refusal> {
        check_time(entry, now)?;
        self.check_endorser(entry)?;
        self.check_checksums(entry)?;
        let identifier = entry.metadata().identifier.to_string();
        listed(&self.images, IMAGE, &identifier, |item| *item == identifier)?;
        self.check_content(entry)?;
        self.authorities.check(entry, now)?;
        if entry.uses_sha1() && !self.accepts_sha1 {
            return Err(Refusal::Sha1(entry.endorsement().email.clone()));
        }
        Ok(())
    }

    /// The first entry that is accepted, or why each is not.
    ///
    /// # Errors
    /// A reason for each entry, in their order.
    pub fn first_accepted<'e>(
        &self,
        entries: impl IntoIterator<Item = &'e Entry>,
        now: UtcTime,
    ) -> Result<&'e Entry, Vec<Refusal>> {
        let mut refusals = Vec::new();
        for entry in entries {
            match self.check(entry, now) {
                Ok(()) => return Ok(entry),
                Err(refusal) => refusals.push(refusal),
            }
        }
        Err(refusals)
    }

    /// Whether its endorser is one of the white list, by a certificate of the authorities that isn't revoked at `now`; whatever the entry says.
    ///
    /// # Errors
    /// The first reason against it.
    pub fn trusts(&self, entry: &Entry, now: UtcTime) -> Result<(), Refusal> {
        self.check_endorser(entry)?;
        self.authorities.check(entry, now)
    }

    fn check_endorser(&self, entry: &Entry) -> Result<(), Refusal> {
        let email = &entry.endorsement().email;
        let certificate = entry.certificate();
        let fingerprint = format!("sha256:{}", certificate.fingerprint());
        let is_certificate = |item: &String| {
            item == certificate.subject() || item.eq_ignore_ascii_case(&fingerprint)
        };
        listed(&self.endorsers, ENDORSER, email, |item| {
            item.eq_ignore_ascii_case(email) || is_certificate(item)
        })?;
        let is_sure = self.endorsers.white.is_empty()
            || entry.is_email_certified()
            || self.accepts_uncertified_email
            || self.endorsers.white.iter().any(is_certificate);
        if is_sure {
            Ok(())
        } else {
            Err(Refusal::UncertifiedEmail(email.clone()))
        }
    }

    fn check_checksums(&self, entry: &Entry) -> Result<(), Refusal> {
        let checksums = &entry.metadata().checksums;
        let others = [
            ("MD5 checksum image", checksums.md5.map(|it| it.to_string())),
            (
                "SHA-256 checksum image",
                checksums.sha256.map(|it| it.to_string()),
            ),
            (
                "SHA-512 checksum image",
                checksums.sha512.map(|it| it.to_string()),
            ),
        ];
        let sha1 = checksums.sha1.to_string();
        let all = others
            .iter()
            .filter_map(|(what, value)| Some((*what, value.as_deref()?)))
            .chain([(CHECKSUM, sha1.as_str())]);
        let is = |item: &String, value: &str| item.eq_ignore_ascii_case(value);
        // What stands on the black list is named as it is.
        let mut black = self.checksums.black.iter();
        let (what, value) = black
            .find_map(|item| all.clone().find(|(_, value)| is(item, value)))
            .unwrap_or((CHECKSUM, &sha1));
        let is_meant = |item: &String| all.clone().any(|(_, value)| is(item, value));
        listed(&self.checksums, what, value, is_meant)
    }
}

fn check_time(entry: &Entry, now: UtcTime) -> Result<(), Refusal> {
    let metadata = entry.metadata();
    let identifier = metadata.identifier.to_string();
    let endorsement = entry.endorsement();
    let email = endorsement.email.clone();
    if endorsement.created.unix_seconds() > now.unix_seconds() + CLOCK_TOLERANCE_SECONDS {
        return Err(Refusal::NotYet {
            identifier,
            email,
            created: endorsement.created,
        });
    }
    if metadata.is_expired(now) {
        let until = metadata
            .valid
            .map_or("none".to_owned(), |valid| valid.to_string());
        return Err(Refusal::Expired {
            identifier,
            email,
            until,
        });
    }
    if let Some(reason) = &metadata.deprecated {
        let reason = crate::metadata::schema::shown(reason);
        return Err(Refusal::Deprecated {
            identifier,
            email,
            reason,
        });
    }
    Ok(())
}

fn listed(
    lists: &Lists,
    what: &'static str,
    value: &str,
    is_meant: impl Fn(&String) -> bool,
) -> Result<(), Refusal> {
    let value = value.to_owned();
    if !lists.white.is_empty() && !lists.white.iter().any(&is_meant) {
        return Err(Refusal::NotWhitelisted { what, value });
    }
    if lists.black.iter().any(&is_meant) {
        return Err(Refusal::Blacklisted { what, value });
    }
    Ok(())
}
