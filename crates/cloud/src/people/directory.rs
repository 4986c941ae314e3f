//! The seam to a directory that accounts are kept in, if not in the cloud's own database.

use async_trait::async_trait;

/// A person as a directory has one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// The name to log in with.
    pub uid: String,
    /// Given name.
    pub given_name: String,
    /// Family name.
    pub sn: String,
    /// Where to write to.
    pub mail: String,
    /// The name in the person's certificate, as RFC 2253 writes it.
    pub see_also: Option<String>,
}

/// Why a directory didn't do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// Somebody else has the name there.
    #[error("the directory has another person of this name")]
    Taken,
    /// Somebody else has the certificate there.
    #[error("the directory has another person with this certificate")]
    CertificateTaken,
    /// There is no such person.
    #[error("the directory has no such person")]
    Unknown,
    /// The directory can't be reached, is slow, refuses, or answers nonsense. Says what.
    #[error("the directory: {0}")]
    Unavailable(String),
}

/// A directory that entries are written to. Every call ends within seconds, and may be repeated.
#[async_trait]
pub trait Directory: std::fmt::Debug + Send + Sync {
    /// The entry of this name, if there is one.
    async fn find(&self, uid: &str) -> Result<Option<DirectoryEntry>, DirectoryError>;

    /// The names to log in with of those whose certificate has this name.
    async fn with_certificate(&self, name: &str) -> Result<Vec<String>, DirectoryError>;

    /// A password in the form that entries have it.
    fn encode(&self, password: &str) -> String;

    /// Writes an entry with this password and makes it a member of the group `role`. Does what is missing of it, so that
    /// it can be done again after half of it.
    async fn enter(
        &self,
        entry: &DirectoryEntry,
        password: &str,
        role: &str,
    ) -> Result<(), DirectoryError>;

    /// Gives an entry another password, [encoded](Self::encode).
    async fn set_password(&self, uid: &str, password: &str) -> Result<(), DirectoryError>;

    /// Gives an entry other names and another address; what is none stays.
    async fn change(
        &self,
        uid: &str,
        given_name: Option<&str>,
        sn: Option<&str>,
        mail: Option<&str>,
    ) -> Result<(), DirectoryError>;
}
