//! StratusLab's policy file: sections `[endorsers]`, `[checksums]` and `[images]`, each with a white and a black list, one item a line;
//! and of our own `[formats]`, `[hosts]`, and in `[checksums]` those that are required.
//!
//! ```text
//! [endorsers]
//! whitelistendorsers = alice@example.org
//!     bob@example.org
//! blacklistendorsers =
//! [checksums]
//! requiredchecksums = SHA-256
//! [hosts]
//! whitelisthosts = *.example.org
//! ```

use super::{Algorithm, Lists, Policy};
use crate::metadata::is_email;

/// A line that can't be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the policy is not understood: {problem}")]
pub struct InvalidPolicy {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: String,
}

impl Policy {
    /// Reads a policy file. What it does not speak of is as in the default policy. Unknown sections and keys are refused: a black
    /// list with a slip in its name would let everything through.
    ///
    /// # Errors
    /// [`InvalidPolicy`].
    pub fn from_file_text(text: &str) -> Result<Self, InvalidPolicy> {
        let mut policy = Self::default();
        let mut section = String::new();
        let mut key: Option<String> = None;
        for (index, line) in text.lines().enumerate() {
            let invalid = |problem: String| InvalidPolicy {
                line: index + 1,
                problem,
            };
            let content = line.trim();
            if content.is_empty() || content.starts_with(['#', ';']) {
                continue;
            }
            if line.starts_with([' ', '\t']) {
                // One more item of the list above.
                let key = key
                    .as_deref()
                    .ok_or_else(|| invalid("an indented line without a key above it".to_owned()))?;
                policy.add(&section, key, content).map_err(invalid)?;
                continue;
            }
            if let Some(name) = content
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'))
            {
                name.clone_into(&mut section);
                key = None;
                continue;
            }
            let (name, value) = content
                .split_once(['=', ':'])
                .ok_or_else(|| invalid(format!("'{content}' is no key and value")))?;
            let name = name.trim().to_ascii_lowercase();
            policy.add(&section, &name, value.trim()).map_err(invalid)?;
            key = Some(name);
        }
        Ok(policy)
    }

    /// Adds an item, which may be empty, to what a key of a section means.
    fn add(&mut self, section: &str, key: &str, item: &str) -> Result<(), String> {
        if (section, key) == ("checksums", "requiredchecksums") {
            if !item.is_empty() {
                self.required_checksums.push(item.parse::<Algorithm>()?);
            }
            return Ok(());
        }
        let list = self.list(section, key)?;
        // Subjects of certificates have commas; nothing else that is listed has.
        let mut parts = item.split(',').map(str::trim);
        if item.contains(',') && (section != "endorsers" || parts.all(is_email)) {
            return Err(format!(
                "'{item}' is several items: write one a line, the further ones indented"
            ));
        }
        if !item.is_empty() {
            list.push(item.to_owned());
        }
        Ok(())
    }

    /// The list that a key of a section means.
    fn list(&mut self, section: &str, key: &str) -> Result<&mut Vec<String>, String> {
        let lists: &mut Lists = match section {
            "endorsers" => &mut self.endorsers,
            "checksums" => &mut self.checksums,
            "images" => &mut self.images,
            "formats" => &mut self.formats,
            "hosts" => &mut self.hosts,
            other => return Err(format!("there is no section [{other}]")),
        };
        match key.strip_suffix(section) {
            Some("whitelist") => Ok(&mut lists.white),
            Some("blacklist") => Ok(&mut lists.black),
            _ => Err(format!(
                "[{section}] has whitelist{section} and blacklist{section}{}, not {key}",
                if section == "checksums" {
                    " and requiredchecksums"
                } else {
                    ""
                }
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_one_item_a_line() {
        let policy = Policy::from_file_text(
            "# site\n[endorsers]\nwhitelistendorsers = a@b\n    c@d\n\n  ; not f@g\n  e@f\nblacklistendorsers=\n[checksums]\nBlackListChecksums: 00ff\n[images]\nwhitelistimages =\n  Dtx9D_zD0sVtc2F3Z6V68foTrWj\n",
        )
        .unwrap();
        assert_eq!(policy.endorsers.white, ["a@b", "c@d", "e@f"]);
        assert!(policy.endorsers.black.is_empty());
        assert_eq!(policy.checksums.black, ["00ff"]);
        assert_eq!(policy.images.white, ["Dtx9D_zD0sVtc2F3Z6V68foTrWj"]);
        let ours = "[checksums]\nrequiredchecksums = SHA-256\n  sha512\n[formats]\nwhitelistformats = qcow2\n[hosts]\nblacklisthosts = a.example\n";
        let policy = Policy::from_file_text(ours).unwrap();
        assert_eq!(
            policy.required_checksums,
            [Algorithm::Sha256, Algorithm::Sha512]
        );
        assert_eq!(policy.formats.white, ["qcow2"]);
        assert_eq!(policy.hosts.black, ["a.example"]);
        assert_eq!(Policy::from_file_text("").unwrap(), Policy::default());
    }

    #[test]
    fn slips_are_refused() {
        for (text, line) in [
            ("[endorsers]\nblacklistendorsers = a@b.c, d@e.f\n", 2),
            ("[checksums]\nwhitelistchecksums =\n  00,11\n", 3),
            ("[endorser]\nwhitelistendorsers = a\n", 2),
            ("[endorsers]\nwhitelistendorser = a\n", 2),
            ("[endorsers]\nwhitelistimages = a\n", 2),
            ("[endorsers]\n\n  a@b\n", 3),
            ("whitelistendorsers = a\n", 1),
            ("[checksums]\nrequiredchecksums = SHA-1\n  SHA-3\n", 3),
            ("[images]\nrequiredchecksums = SHA-1\n", 2),
            ("[images]\nnonsense\n", 2),
        ] {
            assert_eq!(
                Policy::from_file_text(text).unwrap_err().line,
                line,
                "{text}"
            );
        }
    }
}
