//! What a site demands of an image beside who vouches for it: checksums that prove it, formats, and hosts it is fetched from.

use std::fmt;
use std::str::FromStr;

use url::Url;

use super::{Lists, Policy, Refusal, listed};
use crate::entry::Entry;
use crate::metadata::Checksums;

/// A checksum that entries state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Algorithm {
    /// Proves nothing against an attacker.
    Md5,
    /// What every entry states.
    Sha1,
    /// 256 bits of SHA-2.
    Sha256,
    /// 512 bits of SHA-2.
    Sha512,
}

impl Algorithm {
    const ALL: [Self; 4] = [Self::Md5, Self::Sha1, Self::Sha256, Self::Sha512];

    /// As entries spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha1 => "SHA-1",
            Self::Sha256 => "SHA-256",
            Self::Sha512 => "SHA-512",
        }
    }

    const fn is_in(self, checksums: &Checksums) -> bool {
        match self {
            Self::Md5 => checksums.md5.is_some(),
            Self::Sha1 => true,
            Self::Sha256 => checksums.sha256.is_some(),
            Self::Sha512 => checksums.sha512.is_some(),
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_meant = |algorithm: &Self| {
            let short = algorithm.name().replace("SHA-", "SHA");
            text.eq_ignore_ascii_case(algorithm.name()) || text.eq_ignore_ascii_case(&short)
        };
        Self::ALL
            .into_iter()
            .find(is_meant)
            .ok_or_else(|| format!("there are MD5, SHA-1, SHA-256 and SHA-512, not '{text}'"))
    }
}

impl Policy {
    pub(super) fn check_content(&self, entry: &Entry) -> Result<(), Refusal> {
        let metadata = entry.metadata();
        for algorithm in &self.required_checksums {
            if !algorithm.is_in(&metadata.checksums) {
                return Err(Refusal::NoChecksum {
                    identifier: metadata.identifier.to_string(),
                    algorithm: algorithm.name(),
                });
            }
        }
        let format = metadata.format.as_deref().unwrap_or("(none)");
        listed(&self.formats, "image format", format, |item| {
            item.eq_ignore_ascii_case(format)
        })?;
        // One good place is enough; the others are passed over.
        let mut refused = Ok(());
        for location in &metadata.locations {
            match check_host(&self.hosts, location) {
                Ok(()) => return Ok(()),
                Err(refusal) => refused = Err(refusal),
            }
        }
        refused
    }
}

/// Whether an image may be fetched from a location, by the lists of hosts: `example.org` is that host, `*.example.org` every one
/// below it.
///
/// # Errors
/// [`Refusal::NotWhitelisted`] or [`Refusal::Blacklisted`].
pub fn check_host(hosts: &Lists, location: &str) -> Result<(), Refusal> {
    if *hosts == Lists::default() {
        return Ok(());
    }
    let host = host_of(location).unwrap_or_default();
    listed(hosts, "host of a location", &host, |item| {
        match item.strip_prefix("*.") {
            Some(above) => host
                .len()
                .checked_sub(above.len())
                .and_then(|start| host.split_at_checked(start))
                .is_some_and(|(below, end)| {
                    end.eq_ignore_ascii_case(above) && below.ends_with('.') && below.len() > 1
                }),
            None => host.eq_ignore_ascii_case(item),
        }
    })
}

/// The host that a program which fetches from there connects to.
fn host_of(location: &str) -> Option<String> {
    let url = Url::parse(location).ok()?;
    if let Some(host) = url.host_str() {
        // A name may end with the root's empty label.
        return Some(host.trim_end_matches('.').to_owned());
    }
    // `pdisk:HOST:PORT:VOLUME`
    let host = url.path().split(':').next()?;
    Some(host.trim_end_matches('.').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(white: &[&str], black: &[&str]) -> Lists {
        let owned = |list: &[&str]| list.iter().map(|item| (*item).to_owned()).collect();
        Lists {
            white: owned(white),
            black: owned(black),
        }
    }

    #[test]
    fn hosts_are_those_that_are_connected_to() {
        let white = lists(&["good.example", "*.mirror.example"], &[]);
        for (location, good) in [
            ("https://good.example/a", true),
            ("https://GOOD.example:8443/a", true),
            ("http://user:word@good.example./a", true),
            ("https://eu.mirror.example/a", true),
            ("https://mirror.example/a", false),
            ("https://evilmirror.example/a", false),
            ("https://good.example@evil.example/", false),
            ("https://evil.example\\@good.example/", false),
            ("https://evil.example/#@good.example/", false),
            ("pdisk:good.example:8445:1", true),
            ("pdisk:evil.example:8445:1", false),
            ("no location at all", false),
        ] {
            assert_eq!(check_host(&white, location).is_ok(), good, "{location}");
        }
        let black = lists(&[], &["evil.example"]);
        for (location, good) in [
            ("https://good.example/", true),
            ("https://EVIL.example/", false),
            ("https://%65vil.example/", false),
            ("https://evil.example./", false),
        ] {
            assert_eq!(check_host(&black, location).is_ok(), good, "{location}");
        }
    }

    #[test]
    fn checksums_are_named_as_entries_do_or_shorter() {
        for (text, algorithm) in [
            ("SHA-1", Algorithm::Sha1),
            ("sha256", Algorithm::Sha256),
            ("Sha-512", Algorithm::Sha512),
            ("md5", Algorithm::Md5),
        ] {
            assert_eq!(text.parse(), Ok(algorithm));
        }
        assert!("SHA-2".parse::<Algorithm>().is_err());
    }
}
