//! The public keys that may log in to a machine.

use std::fmt;

use crate::error::{ContextError, Result};
use crate::limits;

/// The lines of an `authorized_keys` file: no blank lines, no `Comment:` lines, no control characters, no key twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthorizedKeys(Vec<String>);

impl AuthorizedKeys {
    /// No key: nobody logs in by key.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads key files or `authorized_keys` text; several keys are several lines.
    ///
    /// # Errors
    /// [`ContextError::PrivateKey`], [`ContextError::InvalidKeys`] for control characters or more than
    /// [`limits::AUTHORIZED_KEYS_MAX_BYTES`].
    pub fn parse(text: &str) -> Result<Self> {
        let mut keys = Self::none();
        keys.add(text)?;
        Ok(keys)
    }

    /// Adds the keys of `text` that are not there yet.
    ///
    /// # Errors
    /// As [`AuthorizedKeys::parse`].
    pub fn add(&mut self, text: &str) -> Result<()> {
        let invalid = |problem: String| Err(ContextError::InvalidKeys { problem });
        refuse_private_key(text, "public_key")?;
        for line in key_lines(text).filter(|line| !line.is_empty()) {
            if line.contains(|c: char| c.is_control() && c != '\t') {
                return invalid(
                    "a line has control characters; give the text of the .pub file".to_owned(),
                );
            }
            if !self.0.iter().any(|known| known == line) {
                self.0.push(line.to_owned());
            }
        }
        let bytes: usize = self.0.iter().map(|line| line.len() + 1).sum();
        if bytes > limits::AUTHORIZED_KEYS_MAX_BYTES {
            return invalid(format!(
                "{bytes} bytes, at most {} are allowed",
                limits::AUTHORIZED_KEYS_MAX_BYTES
            ));
        }
        Ok(())
    }

    /// One key a line, as they were given.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The keys joined by newlines, without a final one.
impl fmt::Display for AuthorizedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// The lines of a key file without blanks around them and without `Comment:` lines (which some key tools write).
pub(crate) fn key_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with("Comment:"))
}

/// Sending a private key by mistake would publish it to the cloud and to everybody in the guest.
pub(crate) fn refuse_private_key(text: &str, file: &str) -> Result<()> {
    let is_private = text
        .lines()
        .any(|line| line.trim_start().starts_with("-----BEGIN ") && line.contains("PRIVATE KEY"))
        || text.trim_start().starts_with("PuTTY-User-Key-File");
    if is_private {
        Err(ContextError::PrivateKey {
            file: file.to_owned(),
        })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn comments_blank_lines_and_repeated_keys_are_dropped() {
        let keys = AuthorizedKeys::parse(
            "Comment: \"x\"\n ssh-rsa AAA a@b \n\nssh-rsa AAA a@b\r\nssh-ed25519 BBB c\n",
        )
        .unwrap();
        assert_eq!(keys.to_string(), "ssh-rsa AAA a@b\nssh-ed25519 BBB c");
    }

    #[test]
    fn private_keys_and_control_characters_are_refused() {
        let private =
            "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n";
        assert!(matches!(
            AuthorizedKeys::parse(private),
            Err(ContextError::PrivateKey { .. })
        ));
        assert!(AuthorizedKeys::parse("ssh-rsa A\u{1b}[2J").is_err());
        assert!(AuthorizedKeys::parse("ssh-rsa A\0").is_err());
        assert!(AuthorizedKeys::parse(&"x".repeat(limits::AUTHORIZED_KEYS_MAX_BYTES)).is_err());
    }

    proptest! {
        #[test]
        fn any_text_gives_clean_lines_or_an_error(text in any::<String>()) {
            if let Ok(keys) = AuthorizedKeys::parse(&text) {
                let again = AuthorizedKeys::parse(&keys.to_string()).unwrap();
                prop_assert_eq!(keys, again);
            }
        }
    }
}
