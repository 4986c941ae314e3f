//! The site's policy, read from the operator's files whenever it is needed: a change counts at once.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use marketplace::policy::Policy;

use super::{AuthoritiesSource, LookupError};

/// Nobody has longer lists.
const MAX_BYTES: u64 = 4 << 20;

/// Where the rules of the site are.
#[derive(Debug, Clone)]
pub struct PolicySource {
    /// StratusLab's policy file; none: everything that is valid.
    pub file: Option<PathBuf>,
    /// The authorities of which one must have issued an endorser's certificate; none: any.
    pub authorities: Option<AuthoritiesSource>,
    /// Whether signatures that stand on SHA-1 count.
    pub accepts_sha1: bool,
    /// Whether an address that only the endorser claims counts on a white list.
    pub accepts_uncertified_email: bool,
}

impl Default for PolicySource {
    fn default() -> Self {
        let policy = Policy::default();
        Self {
            file: None,
            authorities: None,
            accepts_sha1: policy.accepts_sha1,
            accepts_uncertified_email: policy.accepts_uncertified_email,
        }
    }
}

impl PolicySource {
    /// The files and folders that it is read from.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let authorities = self.authorities.as_ref();
        let authorities = authorities.map(|source| source.path().to_owned());
        self.file.clone().into_iter().chain(authorities).collect()
    }

    /// The rules as they are now. Blocks on files.
    ///
    /// # Errors
    /// [`LookupError::Unavailable`]: without its policy a site accepts nothing.
    pub fn read(&self) -> Result<Policy, LookupError> {
        self.read_for_operator().map_err(|why| {
            tracing::error!(why, "the policy of this site can't be read: no new image is accepted");
            // Where it is, is not the users' affair.
            LookupError::Unavailable(
                "the policy of this site can't be read, so no image is accepted now; tell its administrator".to_owned(),
            )
        })
    }

    /// The same, for whoever wrote them. Blocks on files.
    ///
    /// # Errors
    /// Which file can't be used, and why.
    pub fn read_for_operator(&self) -> Result<Policy, String> {
        let mut policy = match &self.file {
            None => Policy::default(),
            Some(path) => {
                Policy::from_file_text(&text(path)?).map_err(|error| unusable(path, &error))?
            }
        };
        if let Some(source) = &self.authorities {
            let read = source.read();
            policy.authorities = read.map_err(|error| unusable(source.path(), &error))?;
        }
        policy.accepts_sha1 = self.accepts_sha1;
        policy.accepts_uncertified_email = self.accepts_uncertified_email;
        Ok(policy)
    }
}

fn text(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text))
        .map_err(|error| unusable(path, &error))?;
    if text.len() as u64 >= MAX_BYTES {
        return Err(unusable(path, &"it is too long"));
    }
    Ok(text)
}

fn unusable(path: &Path, why: &dyn std::fmt::Display) -> String {
    format!("{}: {why}", path.display())
}
