//! Why a query isn't answered.

/// Why a query isn't answered. All are the asker's to mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It does what nobody may.
    #[error("query not allowed. {0}")]
    NotAllowed(String),
    /// It is no query.
    #[error("{expected} is expected at {at}, where there is {found}")]
    Syntax {
        /// What might be there.
        expected: &'static str,
        /// Line and column.
        at: String,
        /// What is there.
        found: String,
    },
    /// It is SPARQL, but not of the part that is answered here.
    #[error("{0} is not supported here")]
    NotSupported(String),
    /// It names what no entry has, or what the catalogue doesn't know of entries.
    #[error("<{0}> is nothing that the index has of an entry; it has {known}", known = crate::data::known())]
    UnknownProperty(String),
    /// It has or wants more than a query may.
    #[error("the query is too large: {0}")]
    TooLarge(String),
    /// It takes too long.
    #[error("the query takes too long; ask for less, or by an identifier or an address")]
    TooLong,
}
