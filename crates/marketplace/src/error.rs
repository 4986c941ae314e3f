//! Why a document, a key or a signature is not accepted. Where StratusLab's Marketplace has a message for it, the text is that one.

use crate::date::UtcTime;

/// Why a document, a key or a signature is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Longer than is read.
    #[error("unable to parse metadata: it has {bytes} bytes, {limit} are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The longest that is read.
        limit: usize,
    },
    /// No well-formed XML, or XML with constructs that no metadata needs (document types, other encodings).
    #[error("unable to parse metadata: {0}")]
    NotXml(String),
    /// Not the structure of a metadata document.
    #[error("XML schema validation exception: {0}")]
    Schema(String),
    /// The structure is right and the contents contradict each other or a rule.
    #[error("{0}")]
    Constraint(String),
    /// Not RDF.
    #[error("invalid RDF/XML: {0}")]
    Rdf(String),
    /// It is a draft: nobody signed it.
    #[error("no signature")]
    NotSigned,
    /// The signature is not of the only shape that is accepted.
    #[error("invalid signature element: {0}")]
    SignatureShape(String),
    /// The signature holds no certificate that could be used, or asks for an algorithm that is not accepted.
    #[error("cannot find validation key: {0}")]
    NoValidationKey(String),
    /// The signature is not that of the contents (`content` is false) or not that of the certificate (`signature` is false).
    #[error("signature validation: {signature}content (ref='') validity: {content}")]
    SignatureMismatch {
        /// Whether the certificate's key made the signature.
        signature: bool,
        /// Whether the document is the one that was signed.
        content: bool,
    },
    /// The endorsement names somebody else than the certificate.
    #[error("endorser inconsistency ({field}): {certificate} != {document}")]
    EndorserMismatch {
        /// `subject`, `issuer` or `email`.
        field: &'static str,
        /// What the certificate says.
        certificate: String,
        /// What the document says.
        document: String,
    },
    /// The certificate was not valid when the document was endorsed.
    #[error(
        "the certificate of {subject} is valid from {not_before} to {not_after}, the endorsement is of {endorsed}"
    )]
    CertificateTime {
        /// Whose certificate.
        subject: String,
        /// Begin of its validity.
        not_before: UtcTime,
        /// End of its validity.
        not_after: UtcTime,
        /// Time of the endorsement.
        endorsed: UtcTime,
    },
    /// A text that can't be written into XML.
    #[error("{element} holds the character {character:?}, which XML can't hold")]
    Unwritable {
        /// Where.
        element: &'static str,
        /// Which.
        character: char,
    },
    /// Neither the certificate nor the caller names an e-mail address.
    #[error("cannot generate slreq:endorsement; email address not in cert or not provided")]
    NoEmail,
    /// Not an e-mail address.
    #[error("invalid email address: {0}")]
    InvalidEmail(String),
    /// The key file can't be opened with this password.
    #[error("error loading certificate (wrong password?)")]
    WrongPassword,
    /// The key file holds nothing to sign with.
    #[error("error loading certificate: {0}")]
    UnusableKey(String),
}

impl Error {
    pub(crate) fn schema(text: impl Into<String>) -> Self {
        Self::Schema(text.into())
    }

    pub(crate) fn constraint(text: impl Into<String>) -> Self {
        Self::Constraint(text.into())
    }

    pub(crate) fn shape(text: impl Into<String>) -> Self {
        Self::SignatureShape(text.into())
    }
}
