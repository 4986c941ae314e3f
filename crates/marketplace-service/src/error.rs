//! Why something isn't done.

use store::StoreError;

/// Why a Marketplace doesn't do what it was asked. The texts are StratusLab's where it has one.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Longer than this Marketplace takes.
    #[error("invalid metadata: it is longer than the {0} bytes that are taken")]
    TooLong(usize),
    /// The document, its signature or its age.
    #[error("invalid metadata: {0}")]
    Invalid(String),
    /// There is another document of the same image, endorser and time.
    #[error(
        "there is another entry {0} already, which nobody can change; sign the description again, so that it has another time"
    )]
    Taken(String),
    /// Nothing can be uploaded here.
    #[error("read-only repository")]
    ReadOnly,
    /// The endorser has to confirm, and letters can't be sent.
    #[error("error sending confirmation email: {0}")]
    NoMail(String),
    /// The endorser has to confirm, and there is no mail server for that.
    #[error(
        "this Marketplace has no mail server to ask {0} for a confirmation, so only trusted endorsers can upload; its administrator can configure `[mail]`, or name you in `marketplace.trusted_endorsers`"
    )]
    NobodyToAsk(String),
    /// Too many uploads of somebody wait for their confirmation.
    #[error(
        "too many uploads {0} wait for their confirmation; follow the links in the letters, or try again in some days"
    )]
    TooMany(String),
    /// Nothing waits under this name: it never did, it was confirmed or withdrawn, or its time is over.
    #[error("there is no such upload: it was confirmed or withdrawn already, or its time is over")]
    NotWaiting,
    /// A link that signs nobody in: it never did, it was used, or its time is over.
    #[error(
        "this link signs nobody in: it was used already, or its hour is over; ask for another letter"
    )]
    NoSignIn,
    /// Too many letters to sign in by were asked for.
    #[error(
        "too many letters to sign in by were asked for {0}; use one that came, or try again in an hour"
    )]
    TooManyLetters(String),
    /// Nobody can be asked by letter.
    #[error(
        "this Marketplace has no mail server, so nobody can sign in by a letter; its administrator can configure `[mail]`"
    )]
    NoLetters,
    /// A certificate by which nothing of this address was confirmed.
    #[error("the owner of {0} confirmed nothing by this certificate here; sign in by a letter")]
    NotTheirs(String),
    /// Signed in by what isn't enough.
    #[error(
        "who signed in by a certificate confirms nothing: that takes the letter, or signing in by one"
    )]
    ByLetterOnly,
    /// It was reported, and an administrator looks at it.
    #[error(
        "this upload was reported as abuse and can't be confirmed; write to the administrator of this Marketplace"
    )]
    Reported,
    /// A search for more at once than is answered.
    #[error(transparent)]
    TooMuch(#[from] marketplace::catalogue::TooMuch),
    /// A query that isn't answered.
    #[error(transparent)]
    Query(#[from] marketplace_query::Error),
    /// Others are being answered.
    #[error("too many queries are being answered; try again in some seconds")]
    Busy,
    /// The store.
    #[error("the Marketplace can't write at the moment; try again: {0}")]
    Store(#[from] StoreError),
    /// A defect.
    #[error("{0}")]
    Internal(String),
}
