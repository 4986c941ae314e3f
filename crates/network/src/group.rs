//! Security groups as a host carries them out: what may reach a machine, and what it may begin. Pure.
//!
//! A machine without groups is as free as its network. One with groups is reached by what a rule of one of them lets in, and
//! by answers. It may begin what it likes, unless a group of it has rules for that: then only what one of these lets out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::name::NameError;
use crate::name::NicTag;

/// What a group is known by in rules: 1 to 60 of `a-z`, `0-9` and `-`, such as an UUID.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupTag(String);

impl GroupTag {
    /// Longest, in bytes: names of sets and chains have room for more.
    const MAX: usize = 60;
}

impl FromStr for GroupTag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let harmless = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if text.is_empty() || text.len() > Self::MAX || !text.chars().all(harmless) {
            return Err(NameError::of(
                "security group",
                text,
                "1 to 60 of a-z, 0-9 and '-'",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for GroupTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which way a connection is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// To the machine.
    In,
    /// By the machine.
    Out,
}

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Traffic {
    /// Everything.
    Any,
    /// TCP to these ports of who is asked, first and last.
    Tcp(u16, u16),
    /// UDP, likewise.
    Udp(u16, u16),
    /// ICMP of this type and code; none: any.
    Icmp(Option<u8>, Option<u8>),
    /// ICMPv6, likewise.
    Icmpv6(Option<u8>, Option<u8>),
    /// Another protocol by its number.
    Protocol(u8),
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RulePeer {
    /// Anybody.
    Anybody,
    /// Addresses.
    Block(IpNet),
    /// The members of a group.
    Group(GroupTag),
}

/// One thing that is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupRule {
    /// Which way.
    pub direction: Direction,
    /// What.
    pub traffic: Traffic,
    /// From or to whom.
    pub peer: RulePeer,
}

/// A group, as far as a host has to know it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// What it allows.
    pub rules: BTreeSet<GroupRule>,
    /// Who its members are for rules of others that name it, wherever they run.
    pub members: BTreeSet<IpAddr>,
}

impl Group {
    /// Whether it says what its machines may begin.
    pub(crate) fn has_outward(&self) -> bool {
        let mut rules = self.rules.iter();
        rules.any(|rule| rule.direction == Direction::Out)
    }

    /// The groups that its rules name.
    pub(crate) fn named(&self) -> impl Iterator<Item = &GroupTag> {
        self.rules.iter().filter_map(|rule| match &rule.peer {
            RulePeer::Group(group) => Some(group),
            _ => None,
        })
    }
}

/// The groups of a network's machines on this host. One that is named and not among them allows nothing and has no members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Groups {
    /// What they are.
    pub groups: BTreeMap<GroupTag, Group>,
    /// Which of them NICs are in. One that isn't named here keeps those that it has.
    pub of: BTreeMap<NicTag, BTreeSet<GroupTag>>,
}
