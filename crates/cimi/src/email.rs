//! Addresses of people.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Longest address (RFC 5321 §4.5.3.1.3), part before the `@`, and part of a host's name.
const ADDRESS_AT_MOST: usize = 254;
const USER_AT_MOST: usize = 64;
const LABEL_AT_MOST: usize = 63;

/// An address that letters can be sent to, such as `ann@example.org`: of plain ASCII, without a name, quotes or comments
/// (the dot-atom form of RFC 5322 §3.4.1). Names with other letters are written as DNS has them, `xn--…`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct EmailAddress(String);

/// A text that is no address.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is no e-mail address; write one like ann@example.org")]
pub struct NoEmailAddress(String);

impl EmailAddress {
    /// Reads an address; blanks around it don't count.
    ///
    /// # Errors
    /// [`NoEmailAddress`].
    pub fn parse(text: &str) -> Result<Self, NoEmailAddress> {
        let text = text.trim();
        if is_address(text) {
            return Ok(Self(text.to_owned()));
        }
        let shown = text.chars().filter(|c| !c.is_control()).take(100);
        Err(NoEmailAddress(shown.collect()))
    }

    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_address(text: &str) -> bool {
    let Some((user, host)) = text.split_once('@') else {
        return false;
    };
    let atom = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte))
    };
    let label = |part: &str| {
        (1..=LABEL_AT_MOST).contains(&part.len())
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    text.len() <= ADDRESS_AT_MOST
        && user.len() <= USER_AT_MOST
        && user.split('.').all(atom)
        && host.split('.').all(label)
}

impl fmt::Display for EmailAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl Serialize for EmailAddress {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for EmailAddress {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_other_texts() {
        for text in [
            "ann@example.org",
            "a@b",
            "o'neil+cloud@sub.example-site.org",
            " ann@xn--mnchen-3ya.de ",
        ] {
            let read = EmailAddress::parse(text).unwrap();
            assert_eq!(read.as_str(), text.trim());
        }
        for text in [
            "",
            "notmail",
            "@b",
            "a@",
            "a@b@c",
            "a b@c",
            "a@b c",
            "Ann <ann@example.org>",
            "a@b\nBcc: c@d",
            ".a@b",
            "a..b@c",
            "a@-b",
            "a@b-.c",
            "a@b..c",
            "a@b.",
            "\"a b\"@c",
            "a@[192.0.2.1]",
            "ä@b",
            &format!("{}@b", "x".repeat(65)),
            &format!("a@{}", "x.".repeat(130)),
        ] {
            assert!(EmailAddress::parse(text).is_err(), "{text}");
        }
        let told = EmailAddress::parse("not\u{1b}mail").unwrap_err();
        assert_eq!(
            told.to_string(),
            "`notmail` is no e-mail address; write one like ann@example.org"
        );
    }
}
