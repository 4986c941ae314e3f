//! `login-cert.properties`, StratusLab's file of owners of certificates: lines of a distinguished name in quotes and roles.
//!
//! Pure: whoever has the file reads it. It is no properties file, whatever its name says: lines without a name in quotes
//! say nothing.

use std::collections::BTreeMap;

use cimi::dn::DistinguishedName;
use ring::digest;

use crate::files::{ACCESS_ROLE, FileError};

/// The owner of a certificate as the file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The subject of the certificate.
    pub name: DistinguishedName,
    /// Roles; never one of the cloud's own (`::ADMIN` …).
    pub roles: Vec<String>,
    /// Whether the owner may use the cloud.
    pub has_access: bool,
    /// Names the entry: another one has another digest.
    pub digest: String,
}

/// Reads the file; the keys are what accounts of the owners are called. Of several entries of one name the last counts.
///
/// # Errors
/// [`FileError::Name`], with the line, for what is in quotes and no name.
pub fn read(content: &[u8]) -> Result<BTreeMap<String, Entry>, FileError> {
    let text = match std::str::from_utf8(content) {
        Ok(text) => text.to_owned(),
        Err(_) => content.iter().copied().map(char::from).collect(),
    };
    let mut entries = BTreeMap::new();
    for (line, number) in text.lines().zip(1..) {
        let Some(rest) = line.trim_start().strip_prefix('"') else {
            continue;
        };
        let (name, roles) = quoted(rest).ok_or(FileError::Name(number))?;
        let name = DistinguishedName::parse(&name).ok_or(FileError::Name(number))?;
        let roles: Vec<String> = roles
            .split(|c: char| c == ',' || c.is_whitespace())
            .filter(|role| !role.is_empty() && !role.starts_with("::"))
            .map(str::to_owned)
            .collect();
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(name.canonical().as_bytes());
        context.update(roles.join(",").as_bytes());
        let bytes = context.finish();
        let bytes = bytes.as_ref().iter().take(8);
        let entry = Entry {
            has_access: roles.iter().any(|role| role == ACCESS_ROLE),
            digest: bytes.map(|byte| format!("{byte:02x}")).collect(),
            roles,
            name,
        };
        entries.insert(crate::certified::username_of(&entry.name), entry);
    }
    Ok(entries)
}

/// What is in the quotes, and what follows. A quote after a backslash is part of it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut escaped = false;
    let end = text.find(|c: char| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    })?;
    let (name, rest) = text.split_at_checked(end)?;
    Some((name.to_owned(), rest.get(1..)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_file_of_stratuslab_is_read() {
        let content = "# owners\n\"CN=Alice Endorser,OU=Images,O=Example Org,C=EU\" cloud-access\n\nsomething else\n  \
            \"/C=EU/O=Example Org/CN=Bob\"  cloud-access, physics\t::ADMIN\n\"CN=Carol\\\"s,C=EU\"\n";
        let entries = read(content.as_bytes()).unwrap();
        let all: Vec<_> = entries.values().collect();
        assert_eq!(entries.len(), 3);
        let alice = all
            .iter()
            .find(|entry| entry.name.common_name() == Some("Alice Endorser"))
            .unwrap();
        assert!(alice.has_access);
        let bob = all
            .iter()
            .find(|entry| entry.name.common_name() == Some("Bob"))
            .unwrap();
        assert_eq!(bob.roles, ["cloud-access", "physics"]);
        assert_eq!(bob.name.to_string(), "CN=Bob,O=Example Org,C=EU");
        let carol = all
            .iter()
            .find(|entry| entry.name.common_name() == Some("Carol\"s"))
            .unwrap();
        assert!(!carol.has_access && carol.roles.is_empty());
        assert!(
            entries
                .keys()
                .any(|name| name.starts_with("alice-endorser-")),
            "{:?}",
            entries.keys()
        );
        // The same name in another spelling is the same account.
        let again = read(b"\"/C=EU/O=Example  Org/OU=Images/CN=Alice Endorser\" x").unwrap();
        assert!(entries.contains_key(again.keys().next().unwrap()));
        assert_eq!(read(b"#\n\"alice\" cloud-access"), Err(FileError::Name(2)));
        assert_eq!(read(b"\"CN=a"), Err(FileError::Name(1)));
    }

    proptest! {
        #[test]
        fn nothing_breaks_it(content in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&content);
            let mut quoted = b"\"CN=".to_vec();
            quoted.extend(content);
            let _ = read(&quoted);
        }
    }
}
