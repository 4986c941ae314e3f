//! Passwords as entries have them: `{SSHA}` (RFC 2307 with a salt), which every server of the last twenty years checks. It is
//! weak against who has read the tree: servers keep `userPassword` from everybody but themselves.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rand::{TryRngCore as _, rngs::OsRng};
use sha1::{Digest as _, Sha1};

/// Bytes of salt: StratusLab's verifier takes 8 and no other number.
const SALT: usize = 8;

/// `{SSHA}` and Base64 of SHA-1(password, salt), salt.
pub(crate) fn encode(password: &str) -> String {
    let mut salt = [0; SALT];
    // Without random numbers nothing of the system works.
    let _ = OsRng.try_fill_bytes(&mut salt);
    with_salt(password, salt)
}

fn with_salt(password: &str, salt: [u8; SALT]) -> String {
    let mut digest = Sha1::new();
    digest.update(password.as_bytes());
    digest.update(salt);
    let mut bytes = digest.finalize().to_vec();
    bytes.extend_from_slice(&salt);
    format!("{{SSHA}}{}", BASE64_STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_that_of_ldap_servers() {
        // By Python: b64encode(sha1(b'secret' + b'12345678').digest() + b'12345678')
        assert_eq!(
            with_salt("secret", *b"12345678"),
            "{SSHA}tCNGqyJLk/uvKpCa4vga5GB2gWoxMjM0NTY3OA=="
        );
        assert_ne!(encode("secret"), encode("secret"));
    }
}
