//! SecurityGroup: what may reach the machines that are in it, and what they may begin. Stratus's own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use super::{Unknown, resource};
use crate::{Common, Ref, ids::SecurityGroupId};

/// Which way a connection is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleDirection {
    /// To the machines of the group.
    In,
    /// By them.
    Out,
}

/// One thing that a group allows. Checked by `cloud`: what goes together is said there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecurityRule {
    /// Its name within the group, never used again.
    pub id: String,
    /// Which way.
    pub direction: RuleDirection,
    /// `any`, `tcp`, `udp`, `icmp`, `icmpv6`, or another's number.
    pub protocol: String,
    /// Of TCP and UDP: the ports of who is asked. None: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_port: Option<u16>,
    /// The last of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_port: Option<u16>,
    /// Of ICMP and ICMPv6. None: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// With a type only. None: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    /// Who is at the other end, in CIDR notation. With neither this nor a group: anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<String>,
    /// Who is at the other end: machines of a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Ref<SecurityGroupId>>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

impl SecurityRule {
    /// Whether two allow the same.
    #[must_use]
    pub fn allows_as(&self, other: &Self) -> bool {
        let bare = |rule: &Self| Self {
            id: String::new(),
            description: None,
            ..rule.clone()
        };
        bare(self) == bare(other)
    }
}

/// A group. Which machines are in it stands in these ([`Machine::security_groups`](super::Machine)).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecurityGroup {
    /// Its id.
    pub id: SecurityGroupId,
    /// Name, times, access.
    #[serde(flatten)]
    pub common: Common,
    /// What it allows, in the order in which that was said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<SecurityRule>,
    /// The addresses of the machines of the groups that rules name, by the local part of the groups' ids: hosts see no other
    /// groups than those of their machines. Kept by `cloud`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reached: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Why nobody is let in by a group that rules name. Kept by `cloud`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// It is being removed, and nothing may begin to use it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub unknown: Unknown,
}
resource!(SecurityGroup, "SecurityGroup", |group, add| {
    for named in group.named() {
        add("names", named.local());
    }
});

impl SecurityGroup {
    /// The groups that its rules name. One may come several times.
    pub fn named(&self) -> impl Iterator<Item = &SecurityGroupId> {
        let groups = self.rules.iter().filter_map(|rule| rule.group.as_ref());
        groups.map(|group| &group.href)
    }
}
