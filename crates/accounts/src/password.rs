//! Passwords: what is allowed, how they are hashed, how new ones are made.

use bcrypt::Version;
use rand::{Rng, TryRngCore, distr::Alphanumeric, rngs::OsRng};

/// Fewest characters of a password that a user chooses.
pub const LENGTH_AT_LEAST: usize = 8;
/// bcrypt reads no further than this many bytes; what is longer is refused rather than cut off.
pub const BYTES_AT_MOST: usize = 72;
/// Characters of a generated password: 95 bits.
const GENERATED_LENGTH: usize = 16;

/// A password that can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Too short.
    #[error("a password needs at least {LENGTH_AT_LEAST} characters")]
    TooShort,
    /// Too long for bcrypt.
    #[error("a password has at most {BYTES_AT_MOST} bytes")]
    TooLong,
    /// bcrypt would stop at it.
    #[error("a password can't contain the character U+0000")]
    Nul,
    /// Can't be typed into a login prompt, or sent by HTTP Basic.
    #[error("a password can't contain control characters")]
    Control,
}

/// Whether a user may choose this password.
///
/// # Errors
/// Why not.
pub fn check_policy(password: &str) -> Result<(), PolicyError> {
    if password.contains('\0') {
        Err(PolicyError::Nul)
    } else if password.chars().any(char::is_control) {
        Err(PolicyError::Control)
    } else if password.len() > BYTES_AT_MOST {
        Err(PolicyError::TooLong)
    } else if password.chars().count() < LENGTH_AT_LEAST {
        Err(PolicyError::TooShort)
    } else {
        Ok(())
    }
}

/// A new password of sixteen letters and digits from the system's generator.
#[must_use]
pub fn generate() -> String {
    OsRng
        .unwrap_err()
        .sample_iter(Alphanumeric)
        .take(GENERATED_LENGTH)
        .map(char::from)
        .collect()
}

/// Hashes a password; takes a quarter of a second by purpose, so call it where blocking is allowed.
///
/// # Errors
/// If it is against the policy.
pub fn hash_blocking(password: &str, cost: u32) -> Result<String, PolicyError> {
    check_policy(password)?;
    // Not the non-truncating functions: those refuse the seventy-second byte, too.
    bcrypt::hash_with_result(password, cost)
        .map(|parts| parts.format_for_version(Version::TwoB))
        .map_err(|_| PolicyError::TooLong)
}

/// Whether a password is the one that was hashed. Blocks as long as hashing.
#[must_use]
pub fn verify_blocking(password: &str, hash: &str) -> bool {
    // An empty password must not pass, whatever a broken hash would say.
    // Nor one of which bcrypt would read only a part.
    !password.is_empty()
        && password.len() <= BYTES_AT_MOST
        && bcrypt::verify(password, hash).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_refuses_what_bcrypt_or_a_guesser_would_make_useless() {
        assert_eq!(check_policy("correct horse"), Ok(()));
        assert_eq!(check_policy(""), Err(PolicyError::TooShort));
        assert_eq!(check_policy("1234567"), Err(PolicyError::TooShort));
        assert_eq!(check_policy("üüüüüüüü"), Ok(()));
        assert_eq!(check_policy("12345678\0"), Err(PolicyError::Nul));
        assert_eq!(check_policy("12345678\n"), Err(PolicyError::Control));
        assert_eq!(check_policy(&"x".repeat(72)), Ok(()));
        assert_eq!(check_policy(&"x".repeat(73)), Err(PolicyError::TooLong));
    }

    #[test]
    fn hashes_of_stratuslab_are_understood() {
        let hash = "$2a$12$zvS7axGrws6/YH2AuIyXpufc174KV5bjBTp.vo400sGZsehP7CpFS";
        assert!(verify_blocking("hello", hash));
        assert!(!verify_blocking("hellO", hash));
    }

    #[test]
    fn a_hash_verifies_and_its_seventy_third_byte_counts() {
        let long = "x".repeat(72);
        let hash = hash_blocking(&long, 4).unwrap();
        assert!(verify_blocking(&long, &hash));
        assert!(!verify_blocking(&format!("{long}y"), &hash));
        assert!(!verify_blocking("", &hash));
        assert!(!verify_blocking("x", "not a hash"));
    }

    #[test]
    fn generated_passwords_differ_and_satisfy_the_policy() {
        let (a, b) = (generate(), generate());
        assert_ne!(a, b);
        assert_eq!(check_policy(&a), Ok(()));
        assert!(a.len() >= 12 && a.bytes().all(|c| c.is_ascii_alphanumeric()));
    }
}
