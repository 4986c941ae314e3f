//! From whom the certificates of endorsers must be, and which of them were taken back: as for people who log in (crate `certificates`).

use std::sync::Arc;
use std::time::Duration;

pub use certificates::Revocation;
use certificates::{CertificateDer, FileProblem, UnixTime, voms};

use super::Refusal;
use crate::date::UtcTime;
use crate::entry::Entry;
use crate::error::Error;

/// Authorities and their revocation lists. Cheap to clone; without any, everybody's certificate will do.
#[derive(Debug, Clone, Default)]
pub struct Authorities(Option<Arc<certificates::Authorities>>);

/// The same ones, not equal ones.
impl PartialEq for Authorities {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl Eq for Authorities {}

impl Authorities {
    /// Those of a PEM text, with the revocation lists in it, which count where there is one.
    ///
    /// # Errors
    /// [`Error::UnusableKey`] if there is no certificate in it, or something can't be used.
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        let mut files = vec![("authorities.pem", text.as_bytes())];
        if text.contains("-----BEGIN X509 CRL-----") {
            files.push(("authorities.crl", text.as_bytes()));
        }
        let (all, problems) = Self::from_files(files, Revocation::IfPresent)?;
        match problems.into_iter().next() {
            Some(problem) => Err(Error::UnusableKey(problem.problem)),
            None => Ok(all),
        }
    }

    /// Those of the files of a folder, as [`certificates::Authorities::read`] takes them, and what can't be used.
    ///
    /// # Errors
    /// [`Error::UnusableKey`] if there is no authority among them: no list of none would let everybody through.
    pub fn from_files<'f>(
        files: impl IntoIterator<Item = (&'f str, &'f [u8])>,
        revocation: Revocation,
    ) -> Result<(Self, Vec<FileProblem>), Error> {
        let (all, problems) =
            certificates::Authorities::read(files, revocation, voms::Servers::default());
        if all.is_empty() {
            let problem = problems.first().map_or_else(
                || "there is no certificate of an authority in it".to_owned(),
                |problem| problem.problem.clone(),
            );
            return Err(Error::UnusableKey(problem));
        }
        Ok((Self(Some(Arc::new(all))), problems))
    }

    /// The path to an authority as it was at the time of the endorsement; revoked is who is so at `now`.
    pub(super) fn check(&self, entry: &Entry, now: UtcTime) -> Result<(), Refusal> {
        let Some(all) = &self.0 else { return Ok(()) };
        let time = |time: UtcTime| {
            let seconds = u64::try_from(time.unix_seconds()).unwrap_or(0);
            UnixTime::since_unix_epoch(Duration::from_secs(seconds))
        };
        let others: Vec<_> = entry
            .chain()
            .iter()
            .map(|der| CertificateDer::from(der.as_slice()))
            .collect();
        let certificate = CertificateDer::from(entry.certificate().der());
        let at = time(entry.endorsement().created);
        all.verify_signer(&certificate, &others, at, time(now))
            .map_err(|refusal| {
                let subject = entry.certificate().subject().to_owned();
                match refusal {
                    certificates::Refusal::Revoked(_) => Refusal::Revoked(subject),
                    certificates::Refusal::Purpose(_, reason) => {
                        Refusal::UnknownAuthority { subject, reason }
                    }
                    other => Refusal::UnknownAuthority {
                        subject,
                        reason: other.to_string(),
                    },
                }
            })
    }
}
