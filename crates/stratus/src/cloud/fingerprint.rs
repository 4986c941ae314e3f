//! The fingerprint of a certificate, by which people compare it.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// SHA-256 of a certificate in DER. Shown as `SHA256:AB:CD:…`, as `openssl x509 -fingerprint -sha256` groups it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// That of a certificate.
    #[must_use]
    pub fn of(certificate_der: &[u8]) -> Self {
        Self(Sha256::digest(certificate_der).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SHA256")?;
        self.0.iter().try_for_each(|byte| write!(f, ":{byte:02X}"))
    }
}

/// The text is not a fingerprint.
#[derive(Debug, thiserror::Error)]
#[error(
    "'{0}' is not a fingerprint: write SHA256: and 64 hexadecimal digits, with or without colons"
)]
pub struct InvalidFingerprint(String);

impl FromStr for Fingerprint {
    type Err = InvalidFingerprint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidFingerprint(text.chars().take(120).collect());
        let trimmed = text.trim();
        let digits = match trimmed.get(..7) {
            Some(prefix)
                if prefix.eq_ignore_ascii_case("sha256:")
                    || prefix.eq_ignore_ascii_case("sha256=") =>
            {
                trimmed.get(7..).unwrap_or_default()
            }
            _ => trimmed,
        };
        let digits: Vec<u8> = digits
            .chars()
            .filter(|character| *character != ':')
            .map(|digit| {
                digit
                    .to_digit(16)
                    .and_then(|value| u8::try_from(value).ok())
            })
            .collect::<Option<_>>()
            .ok_or_else(invalid)?;
        let (pairs, rest) = digits.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(invalid());
        }
        let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
        Ok(Self(bytes.try_into().map_err(|_| invalid())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_and_read_back() {
        let fingerprint = Fingerprint::of(b"");
        let text = fingerprint.to_string();
        assert!(text.starts_with("SHA256:E3:B0:C4:42:"), "{text}");
        for form in [
            text.clone(),
            text.to_lowercase(),
            text.replace("SHA256:", ""),
            text.replace("SHA256:", "").replace(':', ""),
        ] {
            assert_eq!(form.parse::<Fingerprint>().unwrap(), fingerprint);
        }
        for wrong in [
            "",
            "SHA256:",
            "SHA256:ab",
            "xyz",
            &format!("{text}:00"),
            "é",
        ] {
            assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong}");
        }
    }
}
