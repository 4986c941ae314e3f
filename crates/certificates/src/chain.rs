//! A chain, from the certificate that was shown back to the end entity.

use cimi::dn::DistinguishedName;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use crate::{
    Refusal,
    name::{name_of, who as who_is},
    proxy::{self, Proxy},
};

/// Certificates that are looked at.
pub(crate) const CERTIFICATES_AT_MOST: usize = 20;

/// A chain whose proxies are right.
pub(crate) struct Chain<'a> {
    /// The first certificate that is no proxy, as it came and as it was read.
    pub(crate) end_entity: (&'a CertificateDer<'a>, X509Certificate<'a>),
    pub(crate) subject: DistinguishedName,
    /// The proxies, the one that was shown first.
    pub(crate) proxies: Vec<X509Certificate<'a>>,
    pub(crate) is_limited: bool,
    /// What else was sent.
    pub(crate) others: Vec<CertificateDer<'a>>,
    pub(crate) good_until: u64,
}

/// Goes through the proxies of a chain, of which the first certificate is the one that was shown and the order of the
/// others is free.
///
/// # Errors
/// What is wrong with one of them.
pub(crate) fn unwind<'a>(
    sent: &'a [CertificateDer<'a>],
    now: UnixTime,
) -> Result<Chain<'a>, Refusal> {
    if sent.is_empty() || sent.len() > CERTIFICATES_AT_MOST {
        return Err(Refusal::Length);
    }
    let mut rest = Vec::with_capacity(sent.len());
    for der in sent {
        match X509Certificate::from_der(der) {
            Ok(([], certificate)) => rest.push((der, certificate)),
            _ => return Err(Refusal::Unreadable("it is no X.509 certificate")),
        }
    }
    let mut current = rest.remove(0);
    let (mut proxies, mut said): (Vec<X509Certificate<'a>>, Vec<Proxy>) = (Vec::new(), Vec::new());
    let mut good_until = u64::MAX;
    loop {
        good_until = good_until.min(in_time(&current.1, now)?);
        let Some(proxy) = proxy::read(&current.1)? else {
            break;
        };
        let who = who_is(&current.1);
        if said
            .iter()
            .any(|other| other.generation != proxy.generation)
        {
            return Err(Refusal::Proxy(
                who,
                "proxies of different kinds follow each other",
            ));
        }
        // How many follow this one in the direction of the certificate that was shown.
        let following = u32::try_from(said.len()).unwrap_or(u32::MAX);
        if proxy.path_length.is_some_and(|most| following > most) {
            return Err(Refusal::Proxy(who, "more proxies follow it than it allows"));
        }
        let issuer = rest
            .iter()
            .position(|(_, other)| other.subject() == current.1.issuer())
            .ok_or_else(|| Refusal::IncompleteChain(who))?;
        let issuer = rest.remove(issuer);
        proxy::check(&current.1, &proxy, &issuer.1)?;
        said.push(proxy);
        proxies.push(std::mem::replace(&mut current, issuer).1);
    }
    let subject = name_of(current.1.subject()).ok_or(Refusal::Unreadable("it has no name"))?;
    Ok(Chain {
        end_entity: current,
        subject,
        proxies,
        is_limited: said.iter().any(Proxy::is_limited),
        others: rest.into_iter().map(|(der, _)| der.clone()).collect(),
        good_until,
    })
}

/// When a certificate ends, if this is its time.
pub(crate) fn in_time(certificate: &X509Certificate<'_>, now: UnixTime) -> Result<u64, Refusal> {
    let validity = certificate.validity();
    let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
    let (from, until) = (
        seconds(validity.not_before.timestamp()),
        seconds(validity.not_after.timestamp()),
    );
    let who = || who_is(certificate);
    if now.as_secs() < from {
        Err(Refusal::NotYetValid(who()))
    } else if now.as_secs() > until {
        Err(Refusal::Expired(who()))
    } else {
        Ok(until)
    }
}
