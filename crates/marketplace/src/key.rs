//! Keys of endorsers: a private key and the certificate that belongs to it.

use std::fmt;

use p12_keystore::Pkcs12Archive;
use p12_keystore::error::Error as Pkcs12Error;
use pkcs8::{EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RsaEncoding, RsaKeyPair,
};

use crate::certificate::{Certificate, KeyType};
use crate::error::Error;
use crate::signature::{Hash, Method, rsa_sha1};

/// What an endorser signs with.
pub struct SigningKey {
    private: PrivateKey,
    certificate: Certificate,
}

enum PrivateKey {
    /// The pair, and its PKCS #1 form for signatures with SHA-1.
    Rsa(Box<RsaKeyPair>, Vec<u8>),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

fn unusable(text: impl fmt::Display) -> Error {
    Error::UnusableKey(text.to_string())
}

impl SigningKey {
    /// Reads a PKCS#12 file. Of several keys the last one is taken, as StratusLab's signer does, with the certificate that has its
    /// public key.
    ///
    /// # Errors
    /// [`Error::WrongPassword`], [`Error::UnusableKey`].
    pub fn from_pkcs12(file: &[u8], password: &str) -> Result<Self, Error> {
        let archive = Pkcs12Archive::from_pkcs12(file, password).map_err(|error| match error {
            Pkcs12Error::MacError(_) | Pkcs12Error::Pkcs5Error(_) | Pkcs12Error::UnpadError => {
                Error::WrongPassword
            }
            other => unusable(format_args!("the file is not PKCS#12: {other}")),
        })?;
        let key = archive
            .keys
            .last()
            .ok_or_else(|| unusable("the file holds no private key"))?;
        let certificates = archive.certs.iter().map(|one| one.cert.as_der());
        Self::of_parts(PrivateKey::from_pkcs8(key.key.as_der())?, certificates)
    }

    /// Reads PEM: a private key (PKCS #8, encrypted or not, or PKCS #1) and its certificate, in this order or another, with others
    /// between them. They may come from two files; join the texts then.
    ///
    /// # Errors
    /// [`Error::WrongPassword`], [`Error::UnusableKey`].
    pub fn from_pem(text: &str, password: Option<&str>) -> Result<Self, Error> {
        let blocks =
            pem::parse_many(text).map_err(|error| unusable(format_args!("no PEM: {error}")))?;
        let key = blocks
            .iter()
            .rev()
            .find(|block| block.tag().ends_with("PRIVATE KEY"))
            .ok_or_else(|| unusable("there is no private key in it"))?;
        let private = match key.tag() {
            "PRIVATE KEY" => PrivateKey::from_pkcs8(key.contents())?,
            "ENCRYPTED PRIVATE KEY" => {
                let encrypted = EncryptedPrivateKeyInfoRef::try_from(key.contents())
                    .map_err(|error| unusable(format_args!("the private key: {error}")))?;
                let plain = encrypted
                    .decrypt(password.unwrap_or_default())
                    .map_err(|_| Error::WrongPassword)?;
                PrivateKey::from_pkcs8(plain.as_bytes())?
            }
            "RSA PRIVATE KEY" if key.headers().iter().next().is_none() => {
                PrivateKey::from_pkcs1(key.contents())?
            }
            other => {
                return Err(unusable(format_args!(
                    "the private key is of the form {other}; convert it with: openssl pkcs8 -topk8 -in KEY"
                )));
            }
        };
        let certificates = blocks
            .iter()
            .filter(|block| block.tag() == "CERTIFICATE")
            .map(pem::Pem::contents);
        Self::of_parts(private, certificates)
    }

    fn of_parts<'a>(
        private: PrivateKey,
        certificates: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Self, Error> {
        for der in certificates {
            // Another's certificate may be of a kind that is not read here.
            if let Ok(certificate) = Certificate::from_der(der)
                && certificate.public_key == private.public_key()
            {
                return Ok(Self {
                    private,
                    certificate,
                });
            }
        }
        Err(unusable("there is no certificate for the private key"))
    }

    /// The certificate.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// How this key signs, and the digest that goes with it. RSA uses the hash that is wanted.
    pub(crate) fn method(&self, wanted: Hash) -> (Method, Hash) {
        match self.certificate.key_type() {
            KeyType::Rsa => (Method::Rsa(wanted), wanted),
            KeyType::P256 => (Method::EcdsaSha256, Hash::Sha256),
            KeyType::P384 => (Method::EcdsaSha384, Hash::Sha384),
            KeyType::Ed25519 => (Method::Ed25519, Hash::Sha256),
        }
    }

    pub(crate) fn sign(&self, method: Method, message: &[u8]) -> Result<Vec<u8>, Error> {
        let failed = |_| unusable("the key can't sign");
        let random = SystemRandom::new();
        match (&self.private, method) {
            (PrivateKey::Rsa(_, pkcs1), Method::Rsa(Hash::Sha1)) => rsa_sha1::sign(pkcs1, message),
            (PrivateKey::Rsa(pair, _), Method::Rsa(hash)) => {
                let encoding: &dyn RsaEncoding = match hash {
                    Hash::Sha384 => &RSA_PKCS1_SHA384,
                    Hash::Sha512 => &RSA_PKCS1_SHA512,
                    Hash::Sha1 | Hash::Sha256 => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(encoding, &random, message, &mut signature)
                    .map_err(failed)?;
                Ok(signature)
            }
            (PrivateKey::P256(pair) | PrivateKey::P384(pair), _) => Ok(pair
                .sign(&random, message)
                .map_err(failed)?
                .as_ref()
                .to_vec()),
            (PrivateKey::Ed25519(pair), _) => Ok(pair.sign(message).as_ref().to_vec()),
            (PrivateKey::Rsa(..), _) => Err(unusable("the key is RSA")),
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

impl PrivateKey {
    fn from_pkcs8(der: &[u8]) -> Result<Self, Error> {
        let info = PrivateKeyInfoRef::try_from(der)
            .map_err(|error| unusable(format_args!("the private key: {error}")))?;
        let rejected = |error| unusable(format_args!("the private key is not accepted: {error}"));
        let random = SystemRandom::new();
        match info.algorithm.oid.to_string().as_str() {
            "1.2.840.113549.1.1.1" => Self::from_pkcs1(info.private_key.as_bytes()),
            "1.2.840.10045.2.1" => {
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random)
                    .map(Self::P256)
                    .or_else(|_| {
                        EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, der, &random)
                            .map(Self::P384)
                    })
                    .map_err(rejected)
            }
            "1.3.101.112" => Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
                .map(Self::Ed25519)
                .map_err(rejected),
            other => Err(unusable(format_args!(
                "the private key is neither RSA, ECDSA nor Ed25519 ({other})"
            ))),
        }
    }

    /// RSA keys must have 2048 to 4096 bits: that is what is signed with here.
    fn from_pkcs1(der: &[u8]) -> Result<Self, Error> {
        RsaKeyPair::from_der(der)
            .map(|pair| Self::Rsa(Box::new(pair), der.to_vec()))
            .map_err(|error| unusable(format_args!("the private RSA key is not accepted: {error}")))
    }

    fn public_key(&self) -> &[u8] {
        match self {
            Self::Rsa(pair, _) => pair.public_key().as_ref(),
            Self::P256(pair) | Self::P384(pair) => pair.public_key().as_ref(),
            Self::Ed25519(pair) => pair.public_key().as_ref(),
        }
    }
}
