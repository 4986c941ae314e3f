//! Which entries a site accepts.
//!
//! A policy looks at verified entries only, and decides by them and the time alone. Its lists are StratusLab's: endorsers, checksums, identifiers,
//! each a white and a black one, and of our own formats and hosts; an empty white list lets everything through.

mod content;
mod file;

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use serde::{Deserialize, Serialize};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::date::UtcTime;
use crate::entry::Entry;
use crate::error::Error;

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
    /// An endorser's certificate must come from one of these authorities; from anybody if empty.
    pub authorities: Vec<Authority>,
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
            authorities: Vec::new(),
            accepts_uncertified_email: false,
            accepts_sha1: true,
        }
    }
}

/// A certificate authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    anchor: TrustAnchor<'static>,
    /// Its certificate.
    der: Vec<u8>,
}

impl Authority {
    /// The authority with this certificate.
    ///
    /// # Errors
    /// [`Error::UnusableKey`].
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        let der = CertificateDer::from(der);
        anchor_from_trusted_cert(&der)
            .map(|anchor| Self {
                anchor: anchor.to_owned(),
                der: der.to_vec(),
            })
            .map_err(|error| Error::UnusableKey(format!("no certificate of an authority: {error}")))
    }

    /// The authorities in a PEM text.
    ///
    /// # Errors
    /// As [`from_der`](Self::from_der); also if there is none.
    pub fn from_pem(text: &str) -> Result<Vec<Self>, Error> {
        let blocks = pem::parse_many(text)
            .map_err(|error| Error::UnusableKey(format!("no PEM: {error}")))?;
        let all: Vec<_> = blocks
            .iter()
            .filter(|block| block.tag() == "CERTIFICATE")
            .map(|block| Self::from_der(block.contents()))
            .collect::<Result<_, _>>()?;
        if all.is_empty() {
            return Err(Error::UnusableKey(
                "there is no certificate in it".to_owned(),
            ));
        }
        Ok(all)
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
    /// Signed with SHA-1.
    #[error("the signature of {0} uses SHA-1, rejecting entry")]
    Sha1(String),
}

const ENDORSER: &str = "email endorser";
const CHECKSUM: &str = "SHA-1 checksum image";
const IMAGE: &str = "image identifier";

/// What personal certificates are for (RFC 5280 §4.2.1.12), one of the two; those without a list are for everything.
const EMAIL_PROTECTION: &[u8] = &[43, 6, 1, 5, 5, 7, 3, 4];
const CLIENT_AUTHENTICATION: &[u8] = &[43, 6, 1, 5, 5, 7, 3, 2];

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
        self.check_authority(entry)?;
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

    /// Whether its endorser is one of the white list, by a certificate of the authorities; whatever the entry says.
    ///
    /// # Errors
    /// The first reason against it.
    pub fn trusts(&self, entry: &Entry) -> Result<(), Refusal> {
        self.check_endorser(entry)?;
        self.check_authority(entry)
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
        let mut all = vec![checksums.sha1.to_string()];
        all.extend(checksums.md5.map(|digest| digest.to_string()));
        all.extend(checksums.sha256.map(|digest| digest.to_string()));
        all.extend(checksums.sha512.map(|digest| digest.to_string()));
        listed(
            &self.checksums,
            CHECKSUM,
            &checksums.sha1.to_string(),
            |item| all.iter().any(|one| item.eq_ignore_ascii_case(one)),
        )
    }

    /// The path to an authority, as it was at the time of the endorsement; a certificate that is itself one of them is its own.
    fn check_authority(&self, entry: &Entry) -> Result<(), Refusal> {
        if self.authorities.is_empty() {
            return Ok(());
        }
        let refused = |error: webpki::Error| Refusal::UnknownAuthority {
            subject: entry.certificate().subject().to_owned(),
            reason: error.to_string(),
        };
        let (certificate, time) = (entry.certificate(), entry.endorsement().created);
        let is_in_time = certificate.not_before() <= time && time <= certificate.not_after();
        let mut authorities = self.authorities.iter();
        if is_in_time && authorities.any(|one| one.der == certificate.der()) {
            return Ok(());
        }
        let anchors: Vec<_> = self
            .authorities
            .iter()
            .map(|authority| authority.anchor.clone())
            .collect();
        let intermediates: Vec<_> = entry
            .chain()
            .iter()
            .map(|der| CertificateDer::from(der.as_slice()))
            .collect();
        let seconds = u64::try_from(entry.endorsement().created.unix_seconds()).unwrap_or(0);
        let leaf = CertificateDer::from(entry.certificate().der());
        let leaf = EndEntityCert::try_from(&leaf).map_err(refused)?;
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let verified = |usage: &'static [u8]| {
            leaf.verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &anchors,
                &intermediates,
                time,
                KeyUsage::required_if_present(usage),
                None,
                None,
            )
            .map(drop)
        };
        verified(EMAIL_PROTECTION)
            .or_else(|_| verified(CLIENT_AUTHENTICATION))
            .map_err(refused)
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
