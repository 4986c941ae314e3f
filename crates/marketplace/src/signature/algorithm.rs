//! Algorithms of signatures and digests, by their names in documents.

use ring::digest;
use ring::signature::{self, VerificationAlgorithm};

use crate::certificate::KeyType;

/// A digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    /// SHA-1: for what was signed long ago, and for old servers.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// How a document was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// RSA, PKCS #1 v1.5.
    Rsa(Hash),
    /// ECDSA on P-256 with SHA-256.
    EcdsaSha256,
    /// ECDSA on P-384 with SHA-384.
    EcdsaSha384,
    /// Ed25519.
    Ed25519,
}

const HASHES: [(Hash, &str); 4] = [
    (Hash::Sha1, "http://www.w3.org/2000/09/xmldsig#sha1"),
    (Hash::Sha256, "http://www.w3.org/2001/04/xmlenc#sha256"),
    (
        Hash::Sha384,
        "http://www.w3.org/2001/04/xmldsig-more#sha384",
    ),
    (Hash::Sha512, "http://www.w3.org/2001/04/xmlenc#sha512"),
];

const METHODS: [(Method, &str); 7] = [
    (
        Method::Rsa(Hash::Sha1),
        "http://www.w3.org/2000/09/xmldsig#rsa-sha1",
    ),
    (
        Method::Rsa(Hash::Sha256),
        "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256",
    ),
    (
        Method::Rsa(Hash::Sha384),
        "http://www.w3.org/2001/04/xmldsig-more#rsa-sha384",
    ),
    (
        Method::Rsa(Hash::Sha512),
        "http://www.w3.org/2001/04/xmldsig-more#rsa-sha512",
    ),
    (
        Method::EcdsaSha256,
        "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256",
    ),
    (
        Method::EcdsaSha384,
        "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384",
    ),
    (
        Method::Ed25519,
        "http://www.w3.org/2021/04/xmldsig-more#eddsa-ed25519",
    ),
];

impl Hash {
    /// The algorithm with this name.
    pub(super) fn of_uri(uri: &str) -> Option<Self> {
        HASHES
            .iter()
            .find(|(_, name)| *name == uri)
            .map(|(hash, _)| *hash)
    }

    /// Its name in documents.
    pub(super) fn uri(self) -> &'static str {
        HASHES
            .iter()
            .find(|(hash, _)| *hash == self)
            .map_or("", |(_, name)| name)
    }

    pub(super) fn digest(self, bytes: &[u8]) -> digest::Digest {
        let algorithm = match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        };
        digest::digest(algorithm, bytes)
    }
}

impl Method {
    /// The algorithm with this name.
    pub(super) fn of_uri(uri: &str) -> Option<Self> {
        METHODS
            .iter()
            .find(|(_, name)| *name == uri)
            .map(|(method, _)| *method)
    }

    /// Its name in documents.
    #[must_use]
    pub fn uri(self) -> &'static str {
        METHODS
            .iter()
            .find(|(method, _)| *method == self)
            .map_or("", |(_, name)| name)
    }

    /// The keys that sign so.
    pub(super) fn key_type(self) -> KeyType {
        match self {
            Self::Rsa(_) => KeyType::Rsa,
            Self::EcdsaSha256 => KeyType::P256,
            Self::EcdsaSha384 => KeyType::P384,
            Self::Ed25519 => KeyType::Ed25519,
        }
    }

    /// RSA keys must have at least 2048 bits.
    pub(super) fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::Rsa(Hash::Sha1) => &signature::RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Rsa(Hash::Sha256) => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Rsa(Hash::Sha384) => &signature::RSA_PKCS1_2048_8192_SHA384,
            Self::Rsa(Hash::Sha512) => &signature::RSA_PKCS1_2048_8192_SHA512,
            Self::EcdsaSha256 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::EcdsaSha384 => &signature::ECDSA_P384_SHA384_FIXED,
            Self::Ed25519 => &signature::ED25519,
        }
    }
}
