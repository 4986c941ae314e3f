//! What is wrong with a text, and where.

use std::fmt;

/// Why a text is not what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XmlError {
    /// Bytes before the place.
    pub position: u64,
    /// What is wrong there.
    pub problem: String,
}

impl fmt::Display for XmlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (before byte {})", self.problem, self.position)
    }
}

impl std::error::Error for XmlError {}
