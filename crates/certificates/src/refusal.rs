//! Why a chain is not believed.

/// Why a chain is not believed: words for whoever sent it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No certificate, or too many.
    #[error("a chain has 1 to {} certificates", crate::chain::CERTIFICATES_AT_MOST)]
    Length,
    /// What can't be read.
    #[error("the certificate can't be read: {0}")]
    Unreadable(&'static str),
    /// After its time.
    #[error("the certificate of {0} has expired")]
    Expired(String),
    /// Before its time.
    #[error("the certificate of {0} is not valid yet (is this computer's clock right?)")]
    NotYetValid(String),
    /// Its authority took it back.
    #[error("the certificate of {0} has been revoked by its authority")]
    Revoked(String),
    /// Nobody trusted signed it.
    #[error(
        "the certificate of {subject} is signed by {issuer}, which is no authority that this cloud trusts"
    )]
    UnknownIssuer {
        /// Whose it is.
        subject: String,
        /// Who signed it.
        issuer: String,
    },
    /// It signed itself.
    #[error("the certificate of {0} is signed by itself, not by an authority")]
    SelfSigned(String),
    /// No list says whether it was taken back.
    #[error(
        "whether the certificate of {subject} has been revoked isn't known: there is no current revocation list of {issuer}; the cloud's administrator must fetch it"
    )]
    NoRevocationList {
        /// Whose it is.
        subject: String,
        /// Whose list is missing.
        issuer: String,
    },
    /// A signature that isn't the issuer's, or of a kind that can be forged.
    #[error(
        "the signature on the certificate of {0} is wrong, or of a kind that is no longer safe (MD5, SHA-1, keys of less than 2048 bits)"
    )]
    Signature(String),
    /// Signed by an authority that may not sign such names.
    #[error(
        "the certificate of {subject} is signed by {issuer}, which may not sign that name (by its signing_policy)"
    )]
    Namespace {
        /// Whose it is.
        subject: String,
        /// Who signed it.
        issuer: String,
    },
    /// It isn't one for clients.
    #[error("the certificate of {0} is not for logging in: {1}")]
    Purpose(String, String),
    /// A proxy without whom it stands for.
    #[error(
        "the proxy certificate of {0} came without the certificate of who signed it: send the whole chain"
    )]
    IncompleteChain(String),
    /// A proxy against the rules.
    #[error("the proxy certificate of {0} is against the rules of RFC 3820: {1}")]
    Proxy(String, &'static str),
    /// A proxy that doesn't confer the rights of whom it stands for.
    #[error("the proxy certificate of {0} {1}")]
    Powerless(String, &'static str),
}
