//! An entry: a complete document whose signature was verified.

use crate::certificate::Certificate;
use crate::error::Error;
use crate::metadata::{Endorsement, Metadata, constraints, schema};
use crate::signature::{self, Method};
use crate::xml::Source;

/// A document that its endorser signed, kept byte for byte as it came.
///
/// What is verified: the document is complete and consistent, the signature is that of the contents by the key of the certificate in it, the endorsement
/// names the certificate's owner, and the certificate was valid when it was endorsed. What is not: whether anybody vouches for the certificate, whether
/// the entry is still valid, deprecated, or welcome. That is for [`Policy`](crate::policy::Policy).
#[derive(Debug, Clone)]
pub struct Entry {
    document: Vec<u8>,
    metadata: Metadata,
    endorsement: Endorsement,
    certificate: Certificate,
    chain: Vec<Vec<u8>>,
    method: Method,
    uses_sha1: bool,
}

impl Entry {
    /// Verifies a document, in this order: size, XML, structure, signature, contents, endorser, time of the certificate.
    ///
    /// # Errors
    /// [`Error`], with the message for the endorser.
    pub fn verify(document: &[u8]) -> Result<Self, Error> {
        let source = Source::read(document)?;
        let tree = source.parse()?;
        let root = tree.root_element();
        // Whoever forgot to sign gets told that, not that the endorsement is empty.
        let form = if root.last_element_child().is_some_and(is_signature) {
            schema::Form::Complete
        } else {
            schema::Form::Any
        };
        let parts = schema::check(root, form)?;
        let verified = signature::verify(root)?;
        let metadata = constraints::check(&parts)?;
        let endorsement = metadata.endorsement.clone().ok_or(Error::NotSigned)?;
        check_endorser(&endorsement, &verified.certificate)?;
        let certificate = verified.certificate;
        if endorsement.created < certificate.not_before()
            || endorsement.created > certificate.not_after()
        {
            return Err(Error::CertificateTime {
                subject: certificate.subject().to_owned(),
                not_before: certificate.not_before(),
                not_after: certificate.not_after(),
                endorsed: endorsement.created,
            });
        }
        Ok(Self {
            document: document.to_vec(),
            metadata,
            endorsement,
            certificate,
            chain: verified.chain,
            method: verified.method,
            uses_sha1: verified.uses_sha1,
        })
    }

    /// The document as it came.
    #[must_use]
    pub fn document(&self) -> &[u8] {
        &self.document
    }

    /// What it says.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Who vouches for it.
    #[must_use]
    pub fn endorsement(&self) -> &Endorsement {
        &self.endorsement
    }

    /// The endorser's certificate.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// DER of the certificates that the document brings along for the endorser's, each having signed the one before.
    #[must_use]
    pub fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }

    /// How it was signed.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    /// Whether the signature stands on SHA-1.
    #[must_use]
    pub fn uses_sha1(&self) -> bool {
        self.uses_sha1
    }

    /// Whether the certificate, and so its issuer, names the e-mail address. Otherwise only a confirmation by mail shows that it is the
    /// endorser's.
    #[must_use]
    pub fn is_email_certified(&self) -> bool {
        self.certificate.email().is_some()
    }

    /// Where a Marketplace keeps it: `<identifier>/<email>/<created>`.
    #[must_use]
    pub fn path(&self) -> String {
        format!(
            "{}/{}/{}",
            self.metadata.identifier, self.endorsement.email, self.endorsement.created
        )
    }
}

fn is_signature(node: roxmltree::Node<'_, '_>) -> bool {
    crate::xml::is(node, crate::namespaces::XMLDSIG, "Signature")
}

/// The endorsement must name the owner of the certificate.
fn check_endorser(endorsement: &Endorsement, certificate: &Certificate) -> Result<(), Error> {
    let issuer = endorsement.issuers.first().map_or("", String::as_str);
    let mut pairs = vec![
        (
            "subject",
            certificate.subject(),
            endorsement.subject.as_str(),
        ),
        ("issuer", certificate.issuer(), issuer),
    ];
    if let Some(email) = certificate.email() {
        pairs.push(("email", email, endorsement.email.as_str()));
    }
    for (field, certified, documented) in pairs {
        if certified != documented {
            return Err(Error::EndorserMismatch {
                field,
                certificate: certified.to_owned(),
                document: schema::shown(documented),
            });
        }
    }
    Ok(())
}
