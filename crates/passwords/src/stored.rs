//! A hash as it is kept, in one of many formats.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use md5::{Digest as _, Md5};
use sha_crypt::{PasswordHashRef, PasswordVerifier as _, ShaCrypt};
use sha1::Sha1;
use sha2::Sha512;
use subtle::ConstantTimeEq as _;

use crate::{Cost, argon::Argon2id, des::des_crypt, obfuscated};

/// bcrypt reads no further than this many bytes of a password.
pub const BCRYPT_READS_BYTES: usize = 72;
/// The most that a stored bcrypt hash may cost: 2 to this power rounds, about four seconds.
const BCRYPT_COST_AT_MOST: u32 = 16;
/// The most rounds that a stored SHA-crypt hash may ask for: about a second.
const SHA_ROUNDS_AT_MOST: u32 = 1_000_000;

/// How a password is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `$argon2id$…`
    Argon2id,
    /// `$2a$…`, `$2b$…`, `$2y$…`
    Bcrypt,
    /// `$5$…` and `$6$…` of Unix
    ShaCrypt,
    /// Thirteen characters of the old Unix
    Des,
    /// 32 hexadecimal digits
    Md5,
    /// SHA-1 or SHA-512 of directories, with or without salt
    Digest,
    /// Readable, or as good as
    Plain,
}

impl Scheme {
    /// Whether who reads the hash has the password soon.
    #[must_use]
    pub const fn is_weak(self) -> bool {
        matches!(self, Self::Des | Self::Md5 | Self::Digest | Self::Plain)
    }
}

/// What is known of a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored(Form);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    Argon2id(Argon2id),
    Bcrypt(String),
    ShaCrypt(String),
    Des(String),
    Md5(Vec<u8>),
    Sha1 { digest: Vec<u8>, salt: Vec<u8> },
    Sha512 { digest: Vec<u8>, salt: Vec<u8> },
    Plain(Vec<u8>),
}

impl Stored {
    /// A hash, by what it looks like: `$…` of Unix and argon2, `{SSHA}` and the like of directories, `MD5:`, `CRYPT:`,
    /// `BCRYPT:` and `ARGON2:` of `login-pswd.properties`. `None` for what is none of these, or would take too much
    /// memory or time.
    #[must_use]
    pub fn hash(text: &str) -> Option<Self> {
        let form = if let Some(rest) = text.strip_prefix("MD5:") {
            Form::Md5(hex(rest)?)
        } else if let Some(rest) = text.strip_prefix("CRYPT:") {
            of_unix(rest)?
        } else if let Some(rest) = text.strip_prefix("BCRYPT:") {
            bcrypt(rest)?
        } else if let Some(rest) = text.strip_prefix("ARGON2:") {
            Form::Argon2id(Argon2id::parse(rest)?)
        } else if let Some(rest) = text.strip_prefix('{') {
            let (scheme, rest) = rest.split_once('}')?;
            of_directory(&scheme.to_ascii_uppercase(), rest)?
        } else if text.starts_with('$') {
            of_unix(text)?
        } else {
            return None;
        };
        Some(Self(form))
    }

    /// The credential of an entry of `login-pswd.properties`: a hash, `OBF:…`, or else the password itself. `None` for
    /// what says that it is a hash and is none.
    #[must_use]
    pub fn entry(text: &str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix("OBF:") {
            return obfuscated::reveal(rest).map(|password| Self(Form::Plain(password)));
        }
        let hash = Self::hash(text);
        let said = ["MD5:", "CRYPT:", "BCRYPT:", "ARGON2:", "$2", "$argon2"];
        if hash.is_some() || said.iter().any(|prefix| text.starts_with(prefix)) {
            return hash;
        }
        Some(Self(Form::Plain(text.as_bytes().to_owned())))
    }

    /// The password itself, where it can be read.
    #[must_use]
    pub const fn plain(&self) -> Option<&[u8]> {
        match &self.0 {
            Form::Plain(password) => Some(password.as_slice()),
            _ => None,
        }
    }

    /// How it is kept.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        match &self.0 {
            Form::Argon2id(_) => Scheme::Argon2id,
            Form::Bcrypt(_) => Scheme::Bcrypt,
            Form::ShaCrypt(_) => Scheme::ShaCrypt,
            Form::Des(_) => Scheme::Des,
            Form::Md5(_) => Scheme::Md5,
            Form::Sha1 { .. } | Form::Sha512 { .. } => Scheme::Digest,
            Form::Plain(_) => Scheme::Plain,
        }
    }

    /// Whether a new hash of `cost` would be harder to guess from.
    #[must_use]
    pub const fn is_outdated(&self, cost: Cost) -> bool {
        match &self.0 {
            Form::Argon2id(hash) => {
                hash.cost.memory_kib < cost.memory_kib || hash.cost.passes < cost.passes
            }
            _ => true,
        }
    }

    /// Whether this is the password. Never for an empty one. Blocks as long as the hash is meant to take.
    #[must_use]
    pub fn verify_blocking(&self, password: &str) -> bool {
        if password.is_empty() {
            return false;
        }
        let bytes = password.as_bytes();
        match &self.0 {
            Form::Argon2id(hash) => hash.verify_blocking(password),
            // Nor one of which bcrypt would read only a part.
            Form::Bcrypt(hash) => {
                bytes.len() <= BCRYPT_READS_BYTES && bcrypt::verify(password, hash).unwrap_or(false)
            }
            Form::ShaCrypt(hash) => PasswordHashRef::new(hash)
                .is_ok_and(|hash| ShaCrypt::default().verify_password(bytes, hash).is_ok()),
            Form::Des(hash) => match *hash.as_bytes() {
                [a, b, ..] => des_crypt(bytes, [a, b])
                    .as_bytes()
                    .ct_eq(hash.as_bytes())
                    .into(),
                _ => false,
            },
            Form::Md5(digest) => Md5::digest(bytes).as_slice().ct_eq(digest).into(),
            Form::Sha1 { digest, salt } => Sha1::new_with_prefix(bytes)
                .chain_update(salt)
                .finalize()
                .as_slice()
                .ct_eq(digest)
                .into(),
            Form::Sha512 { digest, salt } => Sha512::new_with_prefix(bytes)
                .chain_update(salt)
                .finalize()
                .as_slice()
                .ct_eq(digest)
                .into(),
            // Digests are of one length, whatever the passwords are.
            Form::Plain(known) => Sha512::digest(bytes)
                .as_slice()
                .ct_eq(Sha512::digest(known).as_slice())
                .into(),
        }
    }
}

/// The formats of `crypt(3)`, and argon2.
fn of_unix(text: &str) -> Option<Form> {
    if text.starts_with("$argon2") {
        return Argon2id::parse(text).map(Form::Argon2id);
    }
    if text.starts_with("$2") {
        return bcrypt(text);
    }
    if let Some(rest) = text
        .strip_prefix("$5$")
        .or_else(|| text.strip_prefix("$6$"))
    {
        let rounds = match rest.strip_prefix("rounds=") {
            Some(rest) => rest.split_once('$')?.0.parse().ok()?,
            None => 5000,
        };
        let bearable = rounds <= SHA_ROUNDS_AT_MOST && PasswordHashRef::new(text).is_ok();
        return bearable.then(|| Form::ShaCrypt(text.to_owned()));
    }
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"./".contains(&byte);
    (text.len() == 13 && text.bytes().all(letter)).then(|| Form::Des(text.to_owned()))
}

/// `$2b$12$` and 53 characters.
fn bcrypt(text: &str) -> Option<Form> {
    let rest = ["$2a$", "$2b$", "$2y$", "$2x$"]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix))?;
    let (cost, rest) = rest.split_once('$')?;
    let cost: u32 = cost.parse().ok()?;
    let bearable = (4..=BCRYPT_COST_AT_MOST).contains(&cost) && rest.len() == 53;
    bearable.then(|| Form::Bcrypt(text.to_owned()))
}

/// What directories write after the name of a scheme (RFC 3112, and OpenLDAP).
fn of_directory(scheme: &str, rest: &str) -> Option<Form> {
    let decode = || BASE64_STANDARD.decode(rest).ok();
    match scheme {
        "MD5" => {
            let digest = decode()?;
            (digest.len() == 16).then_some(Form::Md5(digest))
        }
        "SHA" | "SSHA" => {
            let mut digest = decode()?;
            let salt = (digest.len() >= 20).then(|| digest.split_off(20))?;
            Some(Form::Sha1 { digest, salt })
        }
        "SHA512" | "SSHA512" => {
            let mut digest = decode()?;
            let salt = (digest.len() >= 64).then(|| digest.split_off(64))?;
            Some(Form::Sha512 { digest, salt })
        }
        "CRYPT" => of_unix(rest),
        "ARGON2" => Argon2id::parse(rest).map(Form::Argon2id),
        _ => None,
    }
}

/// Sixteen bytes in hexadecimal.
fn hex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    (0..32)
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes of others: StratusLab's documents, `openssl passwd`, `slappasswd`, `mkpasswd`.
    #[test]
    fn hashes_of_others_are_understood() {
        for (hash, password, scheme) in [
            (
                "$2a$12$zvS7axGrws6/YH2AuIyXpufc174KV5bjBTp.vo400sGZsehP7CpFS",
                "hello",
                Scheme::Bcrypt,
            ),
            (
                "MD5:6967a5f844587885660a976169adff2b",
                "slpass",
                Scheme::Md5,
            ),
            ("CRYPT:sljcMvWtoE1/A", "slpass", Scheme::Des),
            ("CRYPT:me/DjMjPzbKG.", "blah", Scheme::Des),
            ("{CRYPT}me/DjMjPzbKG.", "blah", Scheme::Des),
            // openssl passwd -5 -salt saltstring 'Hello world!', and -6
            (
                "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5",
                "Hello world!",
                Scheme::ShaCrypt,
            ),
            (
                "CRYPT:$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
                "Hello world!",
                Scheme::ShaCrypt,
            ),
            // The password of OpenLDAP's examples, by its own tools and with eight bytes of salt.
            (
                "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
                "secret",
                Scheme::Digest,
            ),
            ("{MD5}Xr4ilOzQ4PCOq3aQ0qbuaQ==", "secret", Scheme::Md5),
        ] {
            let stored = Stored::hash(hash).unwrap();
            assert!(stored.verify_blocking(password), "{hash}");
            assert!(!stored.verify_blocking("another"), "{hash}");
            assert!(!stored.verify_blocking(""), "{hash}");
            assert_eq!(stored.scheme(), scheme, "{hash}");
            assert!(stored.is_outdated(Cost::NONE), "{hash}");
        }
    }

    #[test]
    fn salted_digests_take_a_salt_of_any_length() {
        for salt in ["salt", "eight by", ""] {
            let digest = Sha1::digest(format!("secret{salt}").as_bytes());
            let encoded = BASE64_STANDARD.encode([digest.as_slice(), salt.as_bytes()].concat());
            let stored = Stored::hash(&format!("{{ssha}}{encoded}")).unwrap();
            assert!(stored.verify_blocking("secret"));
            let digest = Sha512::digest(format!("secret{salt}").as_bytes());
            let encoded = BASE64_STANDARD.encode([digest.as_slice(), salt.as_bytes()].concat());
            let stored = Stored::hash(&format!("{{SSHA512}}{encoded}")).unwrap();
            assert!(stored.verify_blocking("secret"));
            assert!(!stored.verify_blocking("secret "));
        }
    }

    #[test]
    fn entries_of_files_may_be_readable() {
        for entry in ["slpass", "OBF:1ym71x881uha1ugg1x8m1ym7"] {
            let stored = Stored::entry(entry).unwrap();
            assert!(stored.verify_blocking("slpass"));
            assert!(!stored.verify_blocking("slpasS"));
            assert!(stored.scheme().is_weak());
        }
        for entry in [
            "MD5:zz",
            "CRYPT:short",
            "OBF:!",
            "$2b$99$x",
            "$argon2id$v=19$m=1",
        ] {
            assert_eq!(Stored::entry(entry), None, "{entry}");
        }
        assert!(!Stored::entry("").unwrap().verify_blocking(""));
    }

    #[test]
    fn hashes_that_ask_for_too_much_are_none() {
        let tail = "zvS7axGrws6/YH2AuIyXpufc174KV5bjBTp.vo400sGZsehP7CpFS";
        assert!(Stored::hash(&format!("$2b$16${tail}")).is_some());
        for hash in [
            &format!("$2b$17${tail}"),
            &format!("$2b$03${tail}"),
            "$6$rounds=999999999$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68OTLiBFdcbYEdFCoEOfaS35inz1",
            "$1$salt$x",
            "hello",
            "",
        ] {
            assert_eq!(Stored::hash(hash), None, "{hash}");
        }
    }

    #[test]
    fn what_bcrypt_would_cut_off_is_refused() {
        let long = "x".repeat(BCRYPT_READS_BYTES);
        let hash = bcrypt::hash(&long, 4).unwrap();
        let stored = Stored::hash(&hash).unwrap();
        assert!(stored.verify_blocking(&long));
        assert!(!stored.verify_blocking(&format!("{long}y")));
    }

    #[test]
    fn what_is_as_strong_as_new_ones_stays() {
        let cost = Cost {
            memory_kib: 16,
            passes: 2,
        };
        let stored = Stored::hash(&cost.hash_blocking("correct horse")).unwrap();
        assert!(!stored.is_outdated(cost));
        assert!(!stored.is_outdated(Cost::NONE));
        assert!(stored.is_outdated(Cost::default()));
    }
}
