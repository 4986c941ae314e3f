//! Names that leave this process: into the kernel, into nftables text, into DNS. Checked here once; everything that
//! takes one of these types may paste it into a rule or a file without thinking.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What the names of all interfaces of all clouds begin with.
pub(crate) const PREFIX: &str = "st";
/// What the names of bridges end with.
pub(crate) const BRIDGE_SUFFIX: &str = "-br0";
/// What the names of tunnels to other hosts end with.
const TUNNEL_SUFFIX: &str = "-vx0";
/// What the names of cables to the site end with, and what the name of their other end begins with, in place of [`PREFIX`].
const UPLINK_SUFFIX: &str = "-up0";
const UPLINK_END_PREFIX: &str = "sp";

/// Longest interface name Linux takes (`IFNAMSIZ` − 1).
pub const INTERFACE_NAME_MAX: usize = 15;
const INSTANCE_TAG_MAX: usize = 4;
const NIC_TAG_MAX: usize = INTERFACE_NAME_MAX - "st-".len() - INSTANCE_TAG_MAX;

/// A name that is refused, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not usable: {rule}")]
pub struct NameError {
    what: &'static str,
    value: String,
    rule: &'static str,
}

impl NameError {
    pub(crate) fn of(what: &'static str, value: &str, rule: &'static str) -> Self {
        // A hostile value may be megabytes long: show the beginning only.
        Self {
            what,
            value: value.chars().take(80).collect(),
            rule,
        }
    }
}

fn refuse(what: &'static str, value: &str, rule: &'static str) -> NameError {
    NameError::of(what, value, rule)
}

macro_rules! checked_text {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
    };
}

fn lower_or_digit(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

/// The tag that keeps several clouds on one host apart: one to four of `a-z0-9`. All interfaces of a cloud are named
/// `st<tag>-…` and its nftables tables `stratus_<tag>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceTag(String);
checked_text!(InstanceTag);

impl FromStr for InstanceTag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > INSTANCE_TAG_MAX || !text.chars().all(lower_or_digit) {
            return Err(refuse("instance tag", text, "one to four of a-z and 0-9"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl InstanceTag {
    /// What every interface name of this cloud begins with.
    #[must_use]
    pub fn interface_prefix(&self) -> String {
        format!("{PREFIX}{}-", self.0)
    }

    /// The bridge of this cloud.
    #[must_use]
    pub fn bridge(&self) -> InterfaceName {
        InterfaceName(format!("{PREFIX}{}{BRIDGE_SUFFIX}", self.0))
    }

    /// The tunnel of this cloud to other hosts, a port of the bridge.
    #[must_use]
    pub fn tunnel(&self) -> InterfaceName {
        InterfaceName(format!("{PREFIX}{}{TUNNEL_SUFFIX}", self.0))
    }

    /// Our end of the cable to the site, a port of the bridge.
    #[must_use]
    pub fn uplink(&self) -> InterfaceName {
        InterfaceName(format!("{PREFIX}{}{UPLINK_SUFFIX}", self.0))
    }

    /// Its other end, a port of the operator's bridge: none of this cloud's interfaces by its name.
    #[must_use]
    pub fn uplink_end(&self) -> InterfaceName {
        InterfaceName(format!("{UPLINK_END_PREFIX}{}{UPLINK_SUFFIX}", self.0))
    }

    /// The interface of a machine's NIC.
    #[must_use]
    pub fn tap(&self, nic: &NicTag) -> InterfaceName {
        InterfaceName(format!("{PREFIX}{}-{}", self.0, nic.0))
    }

    /// Whether an interface name is one of this cloud's.
    #[must_use]
    pub fn owns(&self, interface: &str) -> bool {
        interface
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.strip_prefix(self.0.as_str()))
            .is_some_and(|rest| rest.starts_with('-'))
    }
}

/// What tells the NICs of one cloud apart, e.g. `4711` or `4711.1`: one to eight of `a-z0-9.`, not beginning with `br`,
/// `vx` or `up`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NicTag(String);
checked_text!(NicTag);

impl FromStr for NicTag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty()
            || text.len() > NIC_TAG_MAX
            || !text.chars().all(|c| lower_or_digit(c) || c == '.')
        {
            return Err(refuse("NIC tag", text, "one to eight of a-z, 0-9 and '.'"));
        }
        if ["br", "vx", "up"]
            .iter()
            .any(|taken| text.starts_with(taken))
        {
            return Err(refuse(
                "NIC tag",
                text,
                "names beginning with br, vx and up are for bridges, tunnels and cables",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// An interface name that is safe in netlink messages, in `/proc` paths and in nftables text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InterfaceName(String);
checked_text!(InterfaceName);

impl FromStr for InterfaceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let fits = !text.is_empty() && text.len() <= INTERFACE_NAME_MAX;
        let safe = text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
        if !fits || !safe || text == "." || text == ".." {
            return Err(refuse(
                "interface name",
                text,
                "one to fifteen of letters, digits, '.', '-' and '_'",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

fn is_dns_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.chars().all(|c| lower_or_digit(c) || c == '-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// The name of an address of a network in DNS and DHCP, within the network's domain: `vm-10-77-0-5`. It follows from the
/// address, so that every host of a network knows the names of all machines without being told of any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hostname(Ipv4Addr);

impl Hostname {
    /// What the names of all machines begin with.
    pub(crate) const PREFIX: &str = "vm-";
}

impl From<Ipv4Addr> for Hostname {
    fn from(address: Ipv4Addr) -> Self {
        Self(address)
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d] = self.0.octets();
        write!(f, "{}{a}-{b}-{c}-{d}", Self::PREFIX)
    }
}

/// The DNS domain of a network, e.g. `cloud.example.org`, without a dot at the end, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain(String);
checked_text!(Domain);

impl FromStr for Domain {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let lower = text.trim_end_matches('.').to_ascii_lowercase();
        if lower.len() > 190 || !lower.split('.').all(is_dns_label) {
            return Err(refuse(
                "domain",
                text,
                "labels of 1 to 63 letters, digits and hyphens, at most 190 characters",
            ));
        }
        Ok(Self(lower))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_of_one_cloud_are_not_those_of_another() {
        let a: InstanceTag = "a".parse().unwrap();
        let ab: InstanceTag = "ab".parse().unwrap();
        let nic: NicTag = "4711.1".parse().unwrap();
        assert_eq!(ab.tap(&nic).as_str(), "stab-4711.1");
        assert!(ab.owns("stab-4711.1") && !a.owns("stab-4711.1"));
        for taken in ["br0", "vx0", "up0"] {
            assert!(taken.parse::<NicTag>().is_err());
        }
        assert_eq!(ab.tunnel().as_str(), "stab-vx0");
        let longest: InstanceTag = "abcd".parse().unwrap();
        assert!(longest.tunnel().as_str().parse::<InterfaceName>().is_ok());
        assert_eq!(ab.uplink().as_str(), "stab-up0");
        assert!(ab.owns(ab.uplink().as_str()) && !ab.owns(ab.uplink_end().as_str()));
    }

    #[test]
    fn the_name_of_a_machine_is_its_address() {
        let name = Hostname::from(Ipv4Addr::new(10, 77, 0, 5));
        assert_eq!(name.to_string(), "vm-10-77-0-5");
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_harmless(text in "\\PC{0,80}") {
            let harmless = |s: &str| s.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
            if let Ok(x) = text.parse::<InterfaceName>() { prop_assert!(harmless(x.as_str()) && x.as_str().len() <= 15); }
            if let Ok(x) = text.parse::<Domain>() { prop_assert!(harmless(x.as_str())); }
            if let Ok(x) = text.parse::<NicTag>() { prop_assert!(harmless(x.as_str())); }
        }

        #[test]
        fn every_tap_name_fits(tag in "[a-z0-9]{1,4}", nic in "[ac-tw-z0-9][a-z0-9.]{0,7}") {
            let tag: InstanceTag = tag.parse().unwrap();
            let name = tag.tap(&nic.parse().unwrap());
            prop_assert!(name.as_str().parse::<InterfaceName>().is_ok());
            prop_assert!(tag.owns(name.as_str()));
        }
    }
}
