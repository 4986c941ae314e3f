//! Passwords: what is allowed, how they are hashed, how new ones are made.

use passwords::{Cost, Scheme, Stored};
use rand::{Rng, TryRngCore, distr::Alphanumeric, rngs::OsRng};

/// Fewest characters of a password that a user chooses.
pub const LENGTH_AT_LEAST: usize = 8;
/// Most characters of one: what is longer only costs time to check.
pub const LENGTH_AT_MOST: usize = 128;
/// Passwords that guessers try first, of those that are long enough; compared without regard to case.
const KNOWN: &str = include_str!("known_passwords.txt");
/// Characters of a generated password: 95 bits.
const GENERATED_LENGTH: usize = 16;

/// A password that can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Too short.
    #[error("a password needs at least {LENGTH_AT_LEAST} characters")]
    TooShort,
    /// Too long.
    #[error("a password has at most {LENGTH_AT_MOST} characters")]
    TooLong,
    /// Among the first that are tried.
    #[error("this password is among the first that anybody would try")]
    Known,
    /// Says that it is a hash, and isn't one that can be used.
    #[error("this hash can't be used: it is damaged, or asks for too much memory or time")]
    Hash,
    /// Can't be typed into a login prompt, or sent by HTTP Basic.
    #[error("a password can't contain control characters")]
    Control,
}

/// Whether a user may choose this password.
///
/// # Errors
/// Why not.
pub fn check_policy(password: &str) -> Result<(), PolicyError> {
    let length = password.chars().count();
    if password.chars().any(char::is_control) {
        Err(PolicyError::Control)
    } else if length > LENGTH_AT_MOST {
        Err(PolicyError::TooLong)
    } else if length < LENGTH_AT_LEAST {
        Err(PolicyError::TooShort)
    } else if KNOWN
        .lines()
        .any(|known| known.eq_ignore_ascii_case(password))
    {
        Err(PolicyError::Known)
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

/// Hashes a password that somebody chose; takes memory and tens of milliseconds by purpose, so call it where blocking is
/// allowed.
///
/// # Errors
/// If it is against the policy.
pub fn hash_blocking(password: &str, cost: Cost) -> Result<String, PolicyError> {
    check_policy(password)?;
    Ok(cost.hash_blocking(password))
}

/// Whether what an administrator gives as a password is its hash already (`$2a$…`, `$2b$…`, `$2y$…`, `$argon2id$…`), to
/// be kept as it is.
///
/// # Errors
/// If it looks like one and can't be used.
pub fn is_hash(given: &str) -> Result<bool, PolicyError> {
    let looks = ["$2a$", "$2b$", "$2y$", "$argon2id$"];
    if !looks.iter().any(|prefix| given.starts_with(prefix)) {
        return Ok(false);
    }
    match Stored::hash(given).map(|stored| stored.scheme()) {
        Some(Scheme::Bcrypt | Scheme::Argon2id) => Ok(true),
        _ => Err(PolicyError::Hash),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_refuses_what_a_guesser_would_find_and_nobody_could_type() {
        assert_eq!(check_policy("correct horse"), Ok(()));
        assert_eq!(check_policy(""), Err(PolicyError::TooShort));
        assert_eq!(check_policy("1234567"), Err(PolicyError::TooShort));
        assert_eq!(check_policy("üüüüüüüü"), Ok(()));
        assert_eq!(check_policy("12345678\0"), Err(PolicyError::Control));
        assert_eq!(check_policy("12345678\n"), Err(PolicyError::Control));
        assert_eq!(check_policy(&"x".repeat(128)), Ok(()));
        assert_eq!(check_policy(&"x".repeat(129)), Err(PolicyError::TooLong));
        assert_eq!(check_policy("12345678"), Err(PolicyError::Known));
        assert_eq!(check_policy("PassWord"), Err(PolicyError::Known));
        assert_eq!(check_policy("PassWord and more"), Ok(()));
    }

    #[test]
    fn hashes_are_known_from_passwords() {
        let bcrypt = "$2a$12$zvS7axGrws6/YH2AuIyXpufc174KV5bjBTp.vo400sGZsehP7CpFS";
        assert_eq!(is_hash(bcrypt), Ok(true));
        assert_eq!(is_hash(&Cost::NONE.hash_blocking("x")), Ok(true));
        assert_eq!(is_hash("correct horse"), Ok(false));
        assert_eq!(is_hash("MD5:6967a5f844587885660a976169adff2b"), Ok(false));
        assert_eq!(is_hash("$2a$99$x"), Err(PolicyError::Hash));
    }

    #[test]
    fn generated_passwords_differ_and_satisfy_the_policy() {
        let (a, b) = (generate(), generate());
        assert_ne!(a, b);
        assert_eq!(check_policy(&a), Ok(()));
        assert!(a.len() >= 12 && a.bytes().all(|c| c.is_ascii_alphanumeric()));
    }
}
