//! `login-pswd.properties`, StratusLab's file of users: a Java properties file whose entries are
//! `user=credential,role,role…`.
//!
//! Pure: whoever has the file reads it. Credentials are those of [`passwords::Stored::entry`].

use std::collections::BTreeMap;

use passwords::Stored;
use ring::digest;

/// The role without which nobody of the file may use the cloud.
pub const ACCESS_ROLE: &str = "cloud-access";

/// A user as the file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What the password is checked by.
    pub credential: Stored,
    /// The credential as it stands in the file, if it is a hash.
    pub hash: Option<String>,
    /// Roles; never one of the cloud's own (`::ADMIN` …).
    pub roles: Vec<String>,
    /// Whether the user may use the cloud.
    pub has_access: bool,
    /// Names the entry: another one has another digest.
    pub digest: String,
}

/// A file that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// A line that is no entry.
    #[error("line {0}: write USER=CREDENTIAL,ROLE,ROLE…")]
    Line(usize),
    /// What is in quotes and no name of a certificate.
    #[error("line {0}: write \"CN=…,O=…,C=…\" ROLE ROLE…")]
    Name(usize),
    /// A credential that says it is a hash, and is none.
    #[error("line {0}: the hash of this user is damaged, or asks for too much memory or time")]
    Credential(usize),
}

/// Reads the file. Of several entries of one user the last counts.
///
/// # Errors
/// [`FileError`], with the line; never with what stands in it.
pub fn read(content: &[u8]) -> Result<BTreeMap<String, Entry>, FileError> {
    // ISO-8859-1: each byte is the character of that number.
    let text: String = content.iter().copied().map(char::from).collect();
    let mut entries = BTreeMap::new();
    for (number, line) in logical_lines(&text) {
        let (name, value) = split(&line);
        if name.is_empty() {
            return Err(FileError::Line(number));
        }
        let (credential, roles) = value.split_at(credential_length(&value));
        let credential = credential.trim();
        let roles: Vec<String> = roles
            .split(',')
            .map(str::trim)
            .filter(|role| !role.is_empty() && !role.starts_with("::"))
            .map(str::to_owned)
            .collect();
        let stored = Stored::entry(credential).ok_or(FileError::Credential(number))?;
        let entry = Entry {
            hash: Stored::hash(credential).map(|_| credential.to_owned()),
            credential: stored,
            has_access: roles.iter().any(|role| role == ACCESS_ROLE),
            roles,
            digest: digest_of(&value),
        };
        entries.insert(name, entry);
    }
    Ok(entries)
}

/// A credential ends at the first comma; but argon2 has commas among its parameters, which are before the fifth `$`.
fn credential_length(value: &str) -> usize {
    let hash = value.trim_start().trim_start_matches("ARGON2:");
    let from = if hash.starts_with("$argon2") {
        value.match_indices('$').nth(4).map_or(0, |(at, _)| at)
    } else {
        0
    };
    let rest = value.get(from..).unwrap_or_default();
    rest.find(',').map_or(value.len(), |at| from + at)
}

/// SHA-256, cut to what tells entries of one user apart: a guesser has the file itself, or nothing to compare with.
fn digest_of(value: &str) -> String {
    let digest = digest::digest(&digest::SHA256, value.as_bytes());
    let bytes = digest.as_ref().iter().take(8);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

/// Lines without comments and empty ones, continued ones joined, each with the number of its first.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut out = Vec::new();
    let mut lines = text.lines().zip(1..);
    while let Some((line, number)) = lines.next() {
        let line = line.trim_start_matches([' ', '\t', '\x0c']);
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        let mut whole = line.to_owned();
        while ends_in_odd_backslashes(&whole) {
            whole.pop();
            let Some((next, _)) = lines.next() else { break };
            whole.push_str(next.trim_start_matches([' ', '\t', '\x0c']));
        }
        out.push((number, whole));
    }
    out
}

fn ends_in_odd_backslashes(line: &str) -> bool {
    line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

/// Key and value, with their escapes resolved. The first `=`, `:` or white space that isn't escaped ends the key; white
/// space around one `=` or `:` belongs to neither.
fn split(line: &str) -> (String, String) {
    let mut escaped = false;
    let end = line.find(|c: char| {
        let ends = !escaped && (c == '=' || c == ':' || c.is_ascii_whitespace());
        escaped = c == '\\' && !escaped;
        ends
    });
    let (key, rest) = line.split_at(end.unwrap_or(line.len()));
    let rest = rest.trim_ascii_start();
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (unescaped(key), unescaped(rest.trim_ascii_start()))
}

fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match rest.next() {
            Some('t') => out.push('\t'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('f') => out.push('\x0c'),
            Some('u') => {
                let digits: String = rest.clone().take(4).collect();
                let parsed = u32::from_str_radix(&digits, 16)
                    .ok()
                    .and_then(char::from_u32);
                match parsed {
                    Some(c) if digits.len() == 4 => {
                        out.push(c);
                        let _ = rest.nth(3);
                    }
                    _ => out.push('u'),
                }
            }
            Some(c) => out.push(c),
            None => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use passwords::Scheme;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_file_of_stratuslab_is_read() {
        let content = b"# users\n! more of a comment\n\nsluser=slpass,cloud-access\n\
            joe: MD5:6967a5f844587885660a976169adff2b, cloud-access , physics,::ADMIN\n  ann  CRYPT:me/DjMjPzbKG.\n\
            o\\:b\\=f=OBF:1ym71x881uha1ugg1x8m1ym7,\\\n     cloud-access\nsluser=other\\u00e4,cloud-access\nplain";
        let entries = read(content).unwrap();
        let names: Vec<_> = entries.keys().map(String::as_str).collect();
        assert_eq!(names, ["ann", "joe", "o:b=f", "plain", "sluser"]);
        let joe = &entries["joe"];
        assert_eq!(joe.roles, ["cloud-access", "physics"]);
        assert!(joe.has_access && joe.hash.is_some());
        assert!(joe.credential.verify_blocking("slpass"));
        assert!(!entries["ann"].has_access);
        assert!(entries["ann"].credential.verify_blocking("blah"));
        assert!(entries["o:b=f"].has_access);
        assert!(entries["o:b=f"].credential.verify_blocking("slpass"));
        assert!(entries["sluser"].credential.verify_blocking("otherä"));
        assert_eq!(entries["sluser"].credential.scheme(), Scheme::Plain);
        assert_eq!(entries["sluser"].hash, None);
        assert!(!entries["plain"].credential.verify_blocking(""));
        assert_ne!(entries["ann"].digest, entries["joe"].digest);
    }

    #[test]
    fn argon2_keeps_its_commas() {
        let hash = passwords::Cost::NONE.hash_blocking("correct horse");
        for prefix in ["", "ARGON2:"] {
            let line = format!("joe={prefix}{hash} , cloud-access,physics");
            let entries = read(line.as_bytes()).unwrap();
            let joe = &entries["joe"];
            assert_eq!(joe.roles, ["cloud-access", "physics"]);
            assert!(joe.credential.verify_blocking("correct horse"));
        }
        let entries = read(format!("joe={hash}").as_bytes()).unwrap();
        assert!(entries["joe"].roles.is_empty());
        assert_eq!(
            read(b"joe=$argon2id$v=19,cloud-access"),
            Err(FileError::Credential(1))
        );
    }

    #[test]
    fn what_is_wrong_is_told_by_its_line_and_not_by_its_content() {
        assert_eq!(read(b"a=b\n\n=secret\n"), Err(FileError::Line(3)));
        assert_eq!(read(b"#\njoe=MD5:zz\n"), Err(FileError::Credential(2)));
        assert!(read(b"").unwrap().is_empty());
        assert!(read("ä=ö,cloud-access".as_bytes()).is_ok());
    }

    proptest! {
        #[test]
        fn nothing_breaks_it(content in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&content);
        }

        #[test]
        fn plain_names_and_passwords_come_through(name in "[a-z0-9.-]{1,20}", password in "[!-+\\--\\[\\]-~]{1,30}") {
            prop_assume!(!password.starts_with(['=', ':', '$']) && Stored::hash(&password).is_none());
            prop_assume!(!["MD5:", "CRYPT:", "OBF:", "BCRYPT:", "ARGON2:"].iter().any(|p| password.starts_with(p)));
            let entries = read(format!("{name}={password},cloud-access").as_bytes()).unwrap();
            prop_assert!(entries[&name].credential.verify_blocking(&password));
        }
    }
}
