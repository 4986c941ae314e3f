//! Groups and taps as text for nftables: a change of them touches what it is about, and nothing else.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Guard, Plan};
use crate::group::{Direction, GroupRule, GroupTag, RulePeer, Traffic};
use crate::name::InterfaceName;

/// The text that is being made.
pub(super) struct Text<'a> {
    pub(super) text: String,
    pub(super) table: &'a str,
}

impl<'a> Text<'a> {
    pub(super) fn of(table: &'a str) -> Self {
        let text = String::new();
        Self { text, table }
    }

    pub(super) fn line(&mut self, verb: &str, name: &str, rest: &str) {
        let _ = writeln!(self.text, "{verb} bridge {} {name} {rest}", self.table);
    }

    pub(super) fn rule(&mut self, chain: &str, rule: &str) {
        self.line("add rule", chain, rule);
    }

    pub(super) fn change(mut self, before: &Plan, wanted: &Plan) -> String {
        // What is named has to be there first.
        for tag in wanted.groups.keys() {
            if !before.groups.contains_key(tag) {
                self.line("add set", &members(tag, 4), "{ type ipv4_addr; }");
                self.line("add set", &members(tag, 6), "{ type ipv6_addr; }");
                for direction in [Direction::In, Direction::Out] {
                    self.line("add chain", &group_chain(tag, direction), "");
                }
            }
        }
        for (tag, group) in &wanted.groups {
            let old = before.groups.get(tag);
            if old.is_none() {
                // It may be left of an earlier process.
                self.line("flush set", &members(tag, 4), "");
                self.line("flush set", &members(tag, 6), "");
            }
            let none = BTreeSet::new();
            let had = old.map_or(&none, |old| &old.members);
            self.elements("delete", tag, had.difference(&group.members));
            self.elements("add", tag, group.members.difference(had));
            if old.is_none_or(|old| old.rules != group.rules) {
                for direction in [Direction::In, Direction::Out] {
                    let chain = group_chain(tag, direction);
                    self.line("flush chain", &chain, "");
                    let rules = group.rules.iter();
                    for rule in rules.filter(|rule| rule.direction == direction) {
                        for text in rule_texts(rule) {
                            self.rule(&chain, &text);
                        }
                    }
                }
            }
        }
        for (tap, guard) in &wanted.taps {
            if before.taps.get(tap) != Some(guard) {
                self.tap(tap, guard);
            }
        }
        for tap in before.taps.keys() {
            if !wanted.taps.contains_key(tap) {
                self.remove_tap(tap);
            }
        }
        let gone = before.groups.keys();
        let gone: Vec<&GroupTag> = gone
            .filter(|tag| !wanted.groups.contains_key(tag))
            .collect();
        // Their rules name the sets of each other.
        for verb in ["flush chain", "delete chain"] {
            for tag in &gone {
                for direction in [Direction::In, Direction::Out] {
                    self.line(verb, &group_chain(tag, direction), "");
                }
            }
        }
        for tag in &gone {
            for family in [4, 6] {
                self.line("delete set", &members(tag, family), "");
            }
        }
        self.text
    }

    fn elements<'m>(
        &mut self,
        verb: &str,
        tag: &GroupTag,
        addresses: impl Iterator<Item = &'m IpAddr>,
    ) {
        let (v4, v6): (Vec<&IpAddr>, Vec<&IpAddr>) =
            addresses.partition(|address| address.is_ipv4());
        for (family, list) in [(4, v4), (6, v6)] {
            if !list.is_empty() {
                let list: Vec<String> = list.into_iter().map(IpAddr::to_string).collect();
                let set = format!("{} {{ {} }}", members(tag, family), list.join(", "));
                self.line(&format!("{verb} element"), &set, "");
            }
        }
    }

    /// The chains of a tap, written anew, and the way to them.
    fn tap(&mut self, tap: &InterfaceName, guard: &Guard) {
        let [inward, outward] = tap_chains(tap);
        for chain in [&inward, &outward] {
            self.line("add chain", chain, "");
            self.line("flush chain", chain, "");
        }
        self.rule(&inward, "jump arrive");
        self.rule(&outward, "jump leave");
        for tag in &guard.groups {
            let jump = |direction| format!("jump {}", group_chain(tag, direction));
            self.rule(&inward, &jump(Direction::In));
            if guard.outward {
                self.rule(&outward, &jump(Direction::Out));
            }
        }
        self.rule(&inward, "counter name refused_by_groups drop");
        match guard.outward {
            true => {
                self.rule(&outward, "jump answer");
                self.rule(&outward, "counter name refused_outward drop");
            }
            false => self.rule(&outward, "goto begin"),
        }
        self.tap_elements("add", tap);
    }

    pub(super) fn remove_tap(&mut self, tap: &InterfaceName) {
        self.tap_elements("delete", tap);
        for chain in tap_chains(tap) {
            self.line("flush chain", &chain, "");
            self.line("delete chain", &chain, "");
        }
    }

    pub(super) fn tap_elements(&mut self, verb: &str, tap: &InterfaceName) {
        for (map, chain) in ["inward", "outward"].iter().zip(tap_chains(tap)) {
            let element = format!("{map} {{ \"{tap}\" : goto {chain} }}");
            self.line(&format!("{verb} element"), &element, "");
        }
    }
}

fn members(tag: &GroupTag, family: u8) -> String {
    format!("m{family}_{tag}")
}

fn group_chain(tag: &GroupTag, direction: Direction) -> String {
    match direction {
        Direction::In => format!("in_{tag}"),
        Direction::Out => format!("out_{tag}"),
    }
}

pub(super) fn tap_chains(tap: &InterfaceName) -> [String; 2] {
    [format!("ti_{tap}"), format!("to_{tap}")]
}

/// The rules of nftables that a rule of a group is: one, or one for each family.
fn rule_texts(rule: &GroupRule) -> Vec<String> {
    let (side, goes_to) = match rule.direction {
        Direction::In => ("saddr", "goto let_in"),
        Direction::Out => ("daddr", "goto begin"),
    };
    let peers = match &rule.peer {
        RulePeer::Anybody => vec![String::new()],
        // All of a family: no address to be compared.
        RulePeer::Block(block) if block.prefix_len() == 0 => vec![match block {
            IpNet::V4(_) => "ether type ip ".to_owned(),
            IpNet::V6(_) => "ether type ip6 ".to_owned(),
        }],
        RulePeer::Block(IpNet::V4(block)) => vec![format!("ip {side} {} ", block.trunc())],
        RulePeer::Block(IpNet::V6(block)) => vec![format!("ip6 {side} {} ", block.trunc())],
        RulePeer::Group(tag) => vec![
            format!("ip {side} @{} ", members(tag, 4)),
            format!("ip6 {side} @{} ", members(tag, 6)),
        ],
    };
    let traffic = match rule.traffic {
        Traffic::Any => String::new(),
        Traffic::Tcp(first, last) => ports("tcp", first, last),
        Traffic::Udp(first, last) => ports("udp", first, last),
        Traffic::Icmp(kind, code) => messages("icmp", kind, code),
        Traffic::Icmpv6(kind, code) => messages("icmpv6", kind, code),
        Traffic::Protocol(number) => format!("meta l4proto {number} "),
    };
    let with = |peer: String| format!("{peer}{traffic}{goes_to}");
    peers.into_iter().map(with).collect()
}

fn ports(protocol: &str, first: u16, last: u16) -> String {
    match (first, last) {
        (0, u16::MAX) => format!("meta l4proto {protocol} "),
        _ if first == last => format!("{protocol} dport {first} "),
        _ => format!("{protocol} dport {first}-{last} "),
    }
}

fn messages(protocol: &str, kind: Option<u8>, code: Option<u8>) -> String {
    let Some(kind) = kind else {
        let number = if protocol == "icmp" { 1 } else { 58 };
        return format!("meta l4proto {number} ");
    };
    let code = code.map_or_else(String::new, |code| format!("{protocol} code {code} "));
    format!("{protocol} type {kind} {code}")
}
