//! What an X.509 certificate says about an endorser.

use std::fmt;

use ring::digest;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION,
    OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;

use crate::date::UtcTime;
use crate::distinguished_name::rfc2253;
use crate::error::Error;

/// A certificate of which everything that endorsements depend on could be read.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    subject: String,
    issuer: String,
    email: Option<String>,
    not_before: UtcTime,
    not_after: UtcTime,
    pub(crate) key_type: KeyType,
    pub(crate) public_key: Vec<u8>,
}

/// Keys that can sign documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    /// RSA.
    Rsa,
    /// The curve P-256.
    P256,
    /// The curve P-384.
    P384,
    /// Ed25519.
    Ed25519,
}

/// Sizes of RSA keys whose signatures are verified.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Bits of a number, most significant byte first.
fn rsa_bits(number: &[u8]) -> usize {
    let mut rest = number.iter().skip_while(|byte| **byte == 0);
    rest.next().map_or(0, |first| {
        8 - usize::try_from(first.leading_zeros()).unwrap_or(0) + 8 * rest.count()
    })
}

impl Certificate {
    /// Reads the DER form. The issuer's signature on it is not looked at, except that a self-signed certificate must be what it says.
    ///
    /// # Errors
    /// [`Error::NoValidationKey`].
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        let unusable = |text: &str| Error::NoValidationKey(text.to_owned());
        let (rest, certificate) = X509Certificate::from_der(der)
            .map_err(|error| Error::NoValidationKey(format!("no X.509 certificate: {error}")))?;
        if !rest.is_empty() {
            return Err(unusable("there is something behind the certificate"));
        }
        // RFC 5280 §4.1.1.2; the outer one is not signed.
        if certificate.signature_algorithm != certificate.tbs_certificate.signature {
            return Err(unusable(
                "the certificate names two algorithms of its signature",
            ));
        }
        let key = certificate.public_key();
        let curve = key
            .algorithm
            .parameters
            .as_ref()
            .and_then(|parameters| parameters.as_oid().ok());
        let key_type = match &key.algorithm.algorithm {
            oid if *oid == OID_PKCS1_RSAENCRYPTION => KeyType::Rsa,
            oid if *oid == OID_SIG_ED25519 => KeyType::Ed25519,
            oid if *oid == OID_KEY_TYPE_EC_PUBLIC_KEY => match curve {
                Some(curve) if curve == OID_EC_P256 => KeyType::P256,
                Some(curve) if curve == OID_NIST_EC_P384 => KeyType::P384,
                _ => {
                    return Err(unusable(
                        "the certificate's key is on another curve than P-256 and P-384",
                    ));
                }
            },
            _ => {
                return Err(unusable(
                    "the certificate's key is neither RSA, ECDSA nor Ed25519",
                ));
            }
        };
        let (subject, issuer) = (
            rfc2253(certificate.subject()),
            rfc2253(certificate.issuer()),
        );
        // By what is shown and compared, not by its encoding: of that the parser accepts more than one.
        let is_self_signed = subject == issuer;
        if let Ok(PublicKey::RSA(rsa)) = key.parsed()
            && !RSA_BITS.contains(&rsa_bits(rsa.modulus))
        {
            return Err(Error::NoValidationKey(format!(
                "the certificate's RSA key has {} bits; {} to {} are accepted",
                rsa_bits(rsa.modulus),
                RSA_BITS.start(),
                RSA_BITS.end()
            )));
        }
        if is_self_signed {
            certificate.verify_signature(None).map_err(|error| {
                Error::NoValidationKey(format!(
                    "the certificate names itself as its issuer and is not seen to be signed with its own key: {error}"
                ))
            })?;
        }
        let email = match certificate.subject_alternative_name() {
            Ok(names) => names.and_then(|names| {
                names
                    .value
                    .general_names
                    .iter()
                    .find_map(|name| match name {
                        GeneralName::RFC822Name(email) => Some((*email).to_owned()),
                        _ => None,
                    })
            }),
            Err(_) => {
                return Err(unusable(
                    "the certificate's alternative names can't be read",
                ));
            }
        };
        let time = |time: ASN1Time| {
            UtcTime::from_unix_seconds(time.timestamp())
                .ok_or_else(|| unusable("the certificate's validity can't be read"))
        };
        Ok(Self {
            der: der.to_vec(),
            subject,
            issuer,
            email,
            not_before: time(certificate.validity().not_before)?,
            not_after: time(certificate.validity().not_after)?,
            key_type,
            public_key: key.subject_public_key.data.to_vec(),
        })
    }

    /// The certificate itself.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Whose it is, in the form of RFC 2253 as Java writes it.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Who issued it, in the same form.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The first e-mail address among its alternative names.
    #[must_use]
    pub fn email(&self) -> Option<&str> {
        self.email.as_deref()
    }

    /// Begin of its validity.
    #[must_use]
    pub fn not_before(&self) -> UtcTime {
        self.not_before
    }

    /// End of its validity.
    #[must_use]
    pub fn not_after(&self) -> UtcTime {
        self.not_after
    }

    /// What its key can do.
    #[must_use]
    pub fn key_type(&self) -> KeyType {
        self.key_type
    }

    /// SHA-256 of the certificate in lower-case hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        digest::digest(&digest::SHA256, &self.der)
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("subject", &self.subject)
            .field("issuer", &self.issuer)
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}
