//! Names and addresses that end up in a guest's configuration files.

use std::fmt;
use std::str::FromStr;

use crate::error::{ContextError, excerpt};

/// A host or domain name by RFC 1123: it can stand unquoted anywhere.
///
/// ```
/// let name: context::HostName = "one-4710.cloud.example.org".parse()?;
/// assert_eq!(name.as_str(), "one-4710.cloud.example.org");
/// # Ok::<(), context::ContextError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(String);

impl HostName {
    /// The name as given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = ContextError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if name.len() <= 253 && name.split('.').all(is_label) {
            Ok(Self(name.to_owned()))
        } else {
            Err(ContextError::InvalidHostName {
                name: excerpt(name),
            })
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The hardware address of a network card; shown in lower case with colons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddress(pub [u8; 6]);

impl FromStr for MacAddress {
    type Err = ContextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || ContextError::InvalidMacAddress {
            text: excerpt(text),
        };
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(invalid)?;
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(invalid());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
        }
        if parts.next().is_some() {
            Err(invalid())
        } else {
            Ok(Self(bytes))
        }
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn host_names_follow_rfc_1123() {
        for good in ["a", "one-4710", "3com.example.org", "A.B"] {
            assert!(good.parse::<HostName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "a.",
            "-a",
            "a-",
            "a b",
            "a\nb",
            "a_b",
            "é",
            "$(id)",
            &"a".repeat(64),
            &"a.".repeat(127),
        ] {
            assert!(bad.parse::<HostName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_mac_address_is_six_bytes() {
        assert_eq!(
            "02:00:AC:10:00:05"
                .parse::<MacAddress>()
                .unwrap()
                .to_string(),
            "02:00:ac:10:00:05"
        );
        for bad in [
            "",
            "02:00",
            "02:00:ac:10:00:05:06",
            "2:0:ac:10:0:5",
            "02-00-ac-10-00-05",
            "+2:00:ac:10:00:05",
        ] {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_parses_or_is_refused(text in any::<String>()) {
            if let Ok(name) = text.parse::<HostName>() {
                prop_assert!(name.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.'));
            }
            let _ = text.parse::<MacAddress>();
        }

        #[test]
        fn a_shown_mac_address_reads_back(bytes: [u8; 6]) {
            let shown = MacAddress(bytes).to_string();
            prop_assert_eq!(shown.parse::<MacAddress>().unwrap(), MacAddress(bytes));
        }
    }
}
