//! The user's SSH keys: the public one for machines, the private one beside it for logging in.

use std::path::{Path, PathBuf};

use crate::config::{Settings, home};
use crate::failure::{Failure, Result};

/// Where the key that a machine gets comes from.
pub const KEY_HINT: &str = "ssh-keygen makes a pair of keys; -k FILE, STRATUSLAB_KEY or user_public_key_file in the configuration file names the public one.";

/// Names that `ssh-keygen` gives; the first is StratusLab's default.
const USUAL_NAMES: [&str; 4] = [
    "id_rsa.pub",
    "id_ed25519.pub",
    "id_ecdsa.pub",
    "id_ed25519_sk.pub",
];

/// The public key file: as given, as configured, or the user's usual one. It may not exist.
#[must_use]
pub fn public_key_file(settings: &Settings, given: Option<&Path>) -> PathBuf {
    if let Some(given) = given {
        return expanded(&given.to_string_lossy());
    }
    if let Some(configured) = settings.text(None, "user_public_key_file") {
        return expanded(&configured);
    }
    let folder = home().join(".ssh");
    let existing = USUAL_NAMES
        .iter()
        .map(|name| folder.join(name))
        .find(|file| file.exists());
    existing.unwrap_or_else(|| folder.join("id_rsa.pub"))
}

/// The text of a public key file.
///
/// # Errors
/// [`Failure::Work`], with how to make a key where there is none.
pub fn public_key_text(file: &Path) -> Result<String> {
    match std::fs::read(file) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => Err(Failure::file(file, &error).with_hint(KEY_HINT)),
    }
}

/// The private key file: as given, as configured, or the public one's name without `.pub`.
#[must_use]
pub fn private_key_file(settings: &Settings, given: Option<&Path>) -> PathBuf {
    if let Some(given) = given {
        return expanded(&given.to_string_lossy());
    }
    if let Some(configured) = settings.text(None, "user_private_key_file") {
        return expanded(&configured);
    }
    without_pub(&public_key_file(settings, None))
}

fn without_pub(public: &Path) -> PathBuf {
    let text = public.to_string_lossy();
    PathBuf::from(text.strip_suffix(".pub").unwrap_or(&text))
}

/// `~/x` as a path below the home folder: values from files and variables have seen no shell.
fn expanded(text: &str) -> PathBuf {
    text.strip_prefix("~/")
        .map_or_else(|| PathBuf::from(text), |rest| home().join(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_suffix_is_cut() {
        assert_eq!(
            without_pub(Path::new("/k/pub.bub.pub")),
            Path::new("/k/pub.bub")
        );
        assert_eq!(without_pub(Path::new("/k/key")), Path::new("/k/key"));
    }
}
