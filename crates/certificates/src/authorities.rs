//! Whom to believe: authorities, their revocation lists, and the servers of virtual organisations, as the files of a site
//! say it.

use rustls_pki_types::{
    CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime, pem::PemObject,
};
use webpki::{
    CertRevocationList, EndEntityCert, Error, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy,
};
use x509_parser::{
    certificate::X509Certificate, prelude::FromDer as _, revocation_list::CertificateRevocationList,
};

use crate::{
    Holder, Refusal,
    chain::{self, Chain},
    name::{name_of, shown, who},
    policy::Policies,
    voms::{self, Servers},
};

/// Files that are read, whatever is in a folder.
const ANCHORS_AT_MOST: usize = 2_000;

/// What to make of authorities whose revocation list isn't there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Revocation {
    /// Who is signed by one is refused.
    #[default]
    Required,
    /// A list counts if there is one.
    IfPresent,
}

/// A file that couldn't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {problem}")]
pub struct FileProblem {
    /// Its name.
    pub name: String,
    /// What is wrong with it.
    pub problem: String,
}

/// Whom to believe.
#[derive(Default)]
pub struct Authorities {
    anchors: Vec<TrustAnchor<'static>>,
    /// The names of the authorities, as clients are told: DER.
    names: Vec<Vec<u8>>,
    /// The certificates of the authorities themselves.
    own: Vec<Vec<u8>>,
    lists: Vec<CertRevocationList<'static>>,
    /// Of each list: whose it is, and until when it counts, in seconds.
    terms: Vec<(Vec<u8>, Option<i64>)>,
    revocation: Revocation,
    policies: Policies,
    servers: Servers,
}

impl std::fmt::Debug for Authorities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authorities")
            .field("anchors", &self.anchors.len())
            .field("lists", &self.lists.len())
            .field("revocation", &self.revocation)
            .finish_non_exhaustive()
    }
}

impl Authorities {
    /// Of the files of a folder like `/etc/grid-security/certificates`: certificates (`<hash>.0`, `*.pem`, `*.crt`, `*.cer`)
    /// and revocation lists (`<hash>.r0`, `*.crl`), each PEM or DER, and what authorities may sign
    /// (`<hash>.signing_policy`); others are passed over. What can't be used is told.
    pub fn read<'f>(
        files: impl IntoIterator<Item = (&'f str, &'f [u8])>,
        revocation: Revocation,
        servers: Servers,
    ) -> (Self, Vec<FileProblem>) {
        let mut all = Self {
            revocation,
            servers,
            ..Self::default()
        };
        let mut problems = Vec::new();
        let mut lists: Vec<Listed> = Vec::new();
        for (name, content) in files {
            let problem = match kind_of(name) {
                None => Ok(()),
                Some(FileKind::Authority) => all.add_anchors(content),
                Some(FileKind::List) => add_list(content, &mut lists),
                Some(FileKind::Policy) => all.policies.add(&String::from_utf8_lossy(content)),
            };
            if let Err(problem) = problem {
                problems.push(FileProblem {
                    name: name.to_owned(),
                    problem,
                });
            }
        }
        for listed in lists {
            all.lists.push(listed.list);
            all.terms.push((listed.issuer, listed.until));
        }
        (all, problems)
    }

    /// How many authorities there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.anchors.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.anchors.is_empty()
    }

    /// The names of the authorities, DER, for clients to choose a certificate by.
    #[must_use]
    pub fn names(&self) -> &[Vec<u8>] {
        &self.names
    }

    /// Whom a chain stands for that somebody has shown who has the key of its first certificate.
    ///
    /// # Errors
    /// Why it isn't believed.
    pub fn verify(&self, sent: &[CertificateDer<'_>], now: UnixTime) -> Result<Holder, Refusal> {
        let chain = chain::unwind(sent, now)?;
        self.verify_end_entity(&chain, now)?;
        let (attributes, disbelieved) = voms::attributes(&chain, self, &self.servers, now);
        Ok(Holder {
            subject: chain.subject,
            proxies: chain.proxies.len(),
            is_limited: chain.is_limited,
            good_until: chain.good_until,
            attributes,
            disbelieved,
        })
    }

    /// Whether somebody signed something at the time `at` by a certificate that leads to an authority; `others` came along with it. A
    /// certificate that is itself an authority's is its own. Who is revoked now is not believed about earlier either: whoever has a stolen
    /// key can sign as of any time.
    ///
    /// # Errors
    /// Why it isn't believed.
    pub fn verify_signer(
        &self,
        der: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        at: UnixTime,
        now: UnixTime,
    ) -> Result<(), Refusal> {
        if others.len() > chain::CERTIFICATES_AT_MOST {
            return Err(Refusal::Length);
        }
        let Ok(([], certificate)) = X509Certificate::from_der(der) else {
            return Err(Refusal::Unreadable("it is no X.509 certificate"));
        };
        chain::in_time(&certificate, at)?;
        if self.own.iter().any(|own| own == der.as_ref()) {
            return Ok(());
        }
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let is_over = |issuer: &[u8]| {
            let mut terms = self.terms.iter();
            terms.any(|(of, until)| of == issuer && until.is_some_and(|until| until <= seconds))
        };
        let path = |usage: &'static [u8]| {
            let usage = KeyUsage::required_if_present(usage);
            self.path(der, &certificate, others, at, usage)
        };
        path(EMAIL_PROTECTION).or_else(|refusal| match refusal {
            Refusal::Purpose(..) => path(CLIENT_AUTHENTICATION),
            other => Err(other),
        })?;
        // The path was that of an earlier time; lists count by the present.
        if is_over(certificate.issuer().as_raw()) {
            return Err(refusal(&Error::UnknownRevocationStatus, &certificate));
        }
        Ok(())
    }

    fn verify_end_entity(&self, chain: &Chain<'_>, now: UnixTime) -> Result<(), Refusal> {
        let (der, certificate) = &chain.end_entity;
        self.path(
            der,
            certificate,
            &chain.others,
            now,
            KeyUsage::client_auth(),
        )
    }

    /// Whether a certificate leads to an authority.
    pub(crate) fn path(
        &self,
        der: &CertificateDer<'_>,
        certificate: &X509Certificate<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Refusal> {
        let refused = |error: Error| refusal(&error, certificate);
        let lists: Vec<&CertRevocationList<'_>> = self.lists.iter().collect();
        let status = match self.revocation {
            Revocation::Required => UnknownStatusPolicy::Deny,
            Revocation::IfPresent => UnknownStatusPolicy::Allow,
        };
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(status)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        let has_none = revocation.is_none();
        let end_entity = EndEntityCert::try_from(der).map_err(refused)?;
        let path = end_entity
            .verify_for_usage(
                ALGORITHMS,
                &self.anchors,
                others,
                now,
                usage,
                revocation,
                None,
            )
            .map_err(refused)?;
        if has_none && self.revocation == Revocation::Required {
            return Err(refusal(&Error::UnknownRevocationStatus, certificate));
        }
        let above: Vec<CertificateDer<'_>> = path
            .intermediate_certificates()
            .map(webpki::Cert::der)
            .collect();
        self.check_names(certificate, &above)
    }

    /// Whether each certificate of a path, the end entity's and those of the authorities between it and the trusted one, has
    /// a name that its issuer may sign. Those between were sent along: whoever can make one must not get round the rules.
    fn check_names(
        &self,
        end_entity: &X509Certificate<'_>,
        above: &[CertificateDer<'_>],
    ) -> Result<(), Refusal> {
        let unreadable = |_| Refusal::Unreadable("the certificate of an authority is damaged");
        let mut path = vec![end_entity.clone()];
        for der in above {
            path.push(X509Certificate::from_der(der).map_err(unreadable)?.1);
        }
        let issuers: Option<Vec<_>> = path.iter().map(|one| name_of(one.issuer())).collect();
        let issuers = issuers.unwrap_or_default();
        for (at, one) in path.iter().enumerate() {
            let allowed =
                issuers
                    .get(at..)
                    .zip(name_of(one.subject()))
                    .is_some_and(|(issuers, subject)| {
                        !issuers.is_empty() && self.policies.allow(issuers, &subject)
                    });
            if !allowed {
                return Err(Refusal::Namespace {
                    subject: who(one),
                    issuer: shown(one.issuer()),
                });
            }
        }
        Ok(())
    }

    fn add_anchors(&mut self, content: &[u8]) -> Result<(), String> {
        for der in certificates(content)? {
            if self.own.iter().any(|known| known == der.as_ref()) {
                continue;
            }
            if self.anchors.len() >= ANCHORS_AT_MOST {
                return Err(format!(
                    "more than {ANCHORS_AT_MOST} authorities are not read"
                ));
            }
            let Ok((_, certificate)) = X509Certificate::from_der(&der) else {
                return Err("it is no X.509 certificate".to_owned());
            };
            let anchor = webpki::anchor_from_trusted_cert(&der)
                .map_err(|error| format!("it can't be used as an authority: {error}"))?;
            self.anchors.push(anchor.to_owned());
            self.names.push(certificate.subject().as_raw().to_vec());
            self.own.push(der.to_vec());
        }
        Ok(())
    }
}

/// What personal certificates are for (RFC 5280 §4.2.1.12), one of the two; those without a list are for everything.
const EMAIL_PROTECTION: &[u8] = &[43, 6, 1, 5, 5, 7, 3, 4];
const CLIENT_AUTHENTICATION: &[u8] = &[43, 6, 1, 5, 5, 7, 3, 2];

/// The newest list of an issuer.
struct Listed {
    issuer: Vec<u8>,
    updated: i64,
    until: Option<i64>,
    list: CertRevocationList<'static>,
}

/// What signatures on certificates may be made with: nothing with SHA-1, no RSA keys of less than 2048 bits.
static ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    webpki::ring::ECDSA_P256_SHA256,
    webpki::ring::ECDSA_P256_SHA384,
    webpki::ring::ECDSA_P384_SHA256,
    webpki::ring::ECDSA_P384_SHA384,
    webpki::ring::ED25519,
    webpki::ring::RSA_PKCS1_2048_8192_SHA256,
    webpki::ring::RSA_PKCS1_2048_8192_SHA384,
    webpki::ring::RSA_PKCS1_2048_8192_SHA512,
    webpki::ring::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    webpki::ring::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    webpki::ring::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
];

enum FileKind {
    Authority,
    List,
    Policy,
}

fn kind_of(name: &str) -> Option<FileKind> {
    let (stem, end) = name.rsplit_once('.')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match end {
        _ if digits(end) => Some(FileKind::Authority),
        _ if end.strip_prefix('r').is_some_and(digits) => Some(FileKind::List),
        "crl" => Some(FileKind::List),
        "signing_policy" => Some(FileKind::Policy),
        "pem" if stem.ends_with("crl") => Some(FileKind::List),
        "pem" | "crt" | "cer" => Some(FileKind::Authority),
        _ => None,
    }
}

/// All certificates in a file, PEM or DER.
pub(crate) fn certificates(content: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    if content.first() == Some(&crate::der::SEQUENCE) {
        return Ok(vec![CertificateDer::from(content.to_vec())]);
    }
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(content).collect();
    match read {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err("there is no certificate in it".to_owned()),
        Err(error) => Err(format!("it is not PEM: {error}")),
    }
}

/// All lists in a file, PEM or DER.
fn add_list(content: &[u8], lists: &mut Vec<Listed>) -> Result<(), String> {
    if content.first() == Some(&crate::der::SEQUENCE) {
        return add_one(content, lists);
    }
    let mut is_empty = true;
    for read in rustls_pki_types::CertificateRevocationListDer::pem_slice_iter(content) {
        let der = read.map_err(|error| format!("it is no revocation list: {error}"))?;
        add_one(&der, lists)?;
        is_empty = false;
    }
    if is_empty {
        return Err("there is no revocation list in it".to_owned());
    }
    Ok(())
}

fn add_one(der: &[u8], lists: &mut Vec<Listed>) -> Result<(), String> {
    let Ok((_, parsed)) = CertificateRevocationList::from_der(der) else {
        return Err("it is no revocation list".to_owned());
    };
    let list = OwnedCertRevocationList::from_der(der)
        .map_err(|error| format!("the revocation list can't be used: {error}"))?;
    let listed = Listed {
        issuer: parsed.issuer().as_raw().to_vec(),
        updated: parsed.last_update().timestamp(),
        until: parsed.next_update().map(|time| time.timestamp()),
        list: CertRevocationList::from(list),
    };
    match lists.iter_mut().find(|known| known.issuer == listed.issuer) {
        Some(known) if known.updated < listed.updated => *known = listed,
        Some(_) => {}
        None => lists.push(listed),
    }
    Ok(())
}

fn refusal(error: &Error, certificate: &X509Certificate<'_>) -> Refusal {
    let subject = who(certificate);
    let issuer = || shown(certificate.issuer());
    match error {
        Error::CertExpired { .. } => Refusal::Expired(subject),
        Error::CertNotValidYet { .. } => Refusal::NotYetValid(subject),
        Error::CertRevoked => Refusal::Revoked(subject),
        Error::UnknownRevocationStatus | Error::CrlExpired { .. } => Refusal::NoRevocationList {
            issuer: issuer(),
            subject,
        },
        Error::UnknownIssuer if certificate.subject() == certificate.issuer() => {
            Refusal::SelfSigned(subject)
        }
        Error::CaUsedAsEndEntity if certificate.subject() == certificate.issuer() => {
            Refusal::SelfSigned(subject)
        }
        Error::UnknownIssuer => Refusal::UnknownIssuer {
            issuer: issuer(),
            subject,
        },
        Error::InvalidSignatureForPublicKey
        | Error::InvalidCrlSignatureForPublicKey
        | Error::UnsupportedSignatureAlgorithmContext(_)
        | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => Refusal::Signature(subject),
        Error::BadDer | Error::TrailingData(_) => Refusal::Unreadable("it is damaged"),
        Error::UnsupportedCertVersion => {
            let text = "it, or one above it, is of an old version of X.509 (`openssl x509 -req` makes such without `-extfile`)";
            Refusal::Purpose(subject, text.to_owned())
        }
        other => Refusal::Purpose(subject, format!("{other:?}").chars().take(200).collect()),
    }
}
