//! A file that is to stand on a medium.

use std::fmt;

/// One file of a medium, before it is written.
#[derive(Clone, PartialEq, Eq)]
pub struct MediumFile {
    /// Its place, folders separated by `/`, no leading one: `openstack/latest/meta_data.json`.
    pub path: String,
    /// What is in it.
    pub content: Vec<u8>,
    /// Whether the guest may run it (mode 0555 instead of 0444).
    pub is_executable: bool,
}

impl MediumFile {
    /// A file to be read.
    #[must_use]
    pub fn new(path: impl Into<String>, content: impl Into<Vec<u8>>) -> Self {
        Self {
            path: path.into(),
            content: content.into(),
            is_executable: false,
        }
    }

    /// A script to be run.
    #[must_use]
    pub fn script(path: impl Into<String>, content: impl Into<Vec<u8>>) -> Self {
        Self {
            is_executable: true,
            ..Self::new(path, content)
        }
    }
}

/// Without the content, which may hold passwords.
impl fmt::Debug for MediumFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.path, self.content.len())
    }
}
