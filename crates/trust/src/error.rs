//! What can be wrong.

/// Something that can't be trusted, read or made.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A text that is no token.
    #[error(
        "that is no token of `stratus host token`: those are one word, `{}` and 86 letters and digits; see that all of it was copied",
        crate::token::PREFIX
    )]
    Token,
    /// A request for a certificate that nobody may sign.
    #[error("the request for a certificate can't be used: {0}")]
    Request(&'static str),
    /// What a host may not be given by another.
    #[error("the ticket {0}")]
    Ticket(&'static str),
    /// Something kept that can't be read.
    #[error("the {0} that is kept can't be read")]
    Kept(&'static str),
    /// A certificate can't be made.
    #[error("a certificate can't be made: {0}")]
    Made(#[from] rcgen::Error),
    /// The key doesn't fit TLS.
    #[error("the certificate can't be used: {0}")]
    Unusable(#[from] rustls::Error),
}
