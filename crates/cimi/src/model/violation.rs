//! What is wrong with a request's body.

use std::fmt;

/// One thing wrong with what a client sent: where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where in the body, e.g. `machineTemplate.machineConfig.cpu`, `disks[2].capacity`; empty for
    /// the body as a whole.
    pub path: String,
    /// What was found and what is expected, e.g. `must be an integer, but is the text "two"`.
    pub problem: String,
}

impl Violation {
    /// A violation at `path`.
    #[must_use]
    pub fn new(path: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            problem: problem.into(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.problem)
        } else {
            write!(f, "`{}` {}", self.path, self.problem)
        }
    }
}
