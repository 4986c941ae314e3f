//! Security groups: a table of their own, `stratus_<instance>_groups`, that is there once a machine of the network has one.
//!
//! ```text
//!  outward (taps' packets, after the anti-spoofing) ─ iifname @outward ─▶ to_<tap> ─▶ always, answers ─▶ out_<group>… ─▶ begin
//!  inward  (what leaves by a tap)                   ─ oifname @inward  ─▶ ti_<tap> ─▶ always, answers ─▶ in_<group>…  ─▶ let_in
//! ```
//!
//! Each packet in the direction in which a connection was begun is held to the rules as they are: a rule that goes takes along
//! what it let through, and everything else goes on, whatever is changed beside it. Answers are known by sets with timeouts:
//! `begun` has what machines began, `asked` what was let in to them. Not the kernel's connection tracking, which knows nothing of
//! what goes over a bridge on many kernels, and would take from everybody where it does. These sets outlive every change of
//! rules, so nothing has to be picked up again.
//!
//! Members are elements of sets `m4_<group>` and `m6_<group>`, a machine's groups are jumps of its own chain, and a change of
//! either is one transaction that touches nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Ruleset;
use crate::group::{Direction, Group, GroupRule, GroupTag, RulePeer, Traffic};
use crate::ipv6::LINK_LOCAL;
use crate::name::InterfaceName;

/// Counters: packets that no rule lets in, that none lets out, and of which too many were begun at once.
pub(crate) const COUNTERS: [&str; 3] = ["refused_by_groups", "refused_outward", "too_many_begun"];

/// What names of chains and sets begin with that belong to one tap or group.
const OF_ONE: [&str; 6] = ["ti_", "to_", "in_", "out_", "m4_", "m6_"];

/// Connections that are remembered at once in each direction and family. Beyond that, answers are taken for none.
const MOST: u32 = 1_048_576;
/// How long a connection is remembered that nothing is said on: TCP, anything else, TCP until the first answer, and after its end.
const TCP: &str = "1h";
const OTHER: &str = "3m";
const TCP_BEGINS: &str = "2m";
const TCP_ENDS: &str = "1m";

/// The chains that are the same for all.
const CHAINS: [(&str, &str); 12] = [
    (
        "inward",
        "{ type filter hook postrouting priority 200; policy accept; }",
    ),
    (
        "outward",
        "{ type filter hook prerouting priority -150; policy accept; }",
    ),
    ("arrive", ""),
    ("arrive4", ""),
    ("arrive6", ""),
    ("let_in", ""),
    ("leave", ""),
    ("leave4", ""),
    ("leave6", ""),
    ("begin", ""),
    ("begin4", ""),
    ("begin6", ""),
];

/// What stands, or is to stand, for taps that have groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Those that are needed, also because rules name them.
    groups: BTreeMap<GroupTag, Group>,
    taps: BTreeMap<InterfaceName, Guard>,
}

/// What is held to the groups of one tap.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Guard {
    groups: BTreeSet<GroupTag>,
    /// Whether one of them says what may be begun.
    outward: bool,
}

impl Plan {
    /// For taps with these groups, which are defined so.
    pub(crate) fn of(
        taps: &BTreeMap<InterfaceName, BTreeSet<GroupTag>>,
        defined: &BTreeMap<GroupTag, Group>,
    ) -> Self {
        let nothing = Group::default();
        let define = |tag: &GroupTag| defined.get(tag).unwrap_or(&nothing);
        let mut plan = Self::default();
        for (tap, groups) in taps.iter().filter(|(_, groups)| !groups.is_empty()) {
            for tag in groups {
                for named in define(tag).named() {
                    plan.groups.insert(named.clone(), define(named).clone());
                }
                plan.groups.insert(tag.clone(), define(tag).clone());
            }
            let guard = Guard {
                groups: groups.clone(),
                outward: groups.iter().any(|tag| define(tag).has_outward()),
            };
            plan.taps.insert(tap.clone(), guard);
        }
        plan
    }

    /// Whether a tap has groups.
    pub(crate) fn has(&self, tap: &InterfaceName) -> bool {
        self.taps.contains_key(tap)
    }

    /// Whether no tap has a group.
    pub(crate) fn is_empty(&self) -> bool {
        self.taps.is_empty()
    }
}

/// Chains and sets of the table that belong to one tap or group, as they were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Chains.
    pub(crate) chains: BTreeSet<String>,
    /// Sets.
    pub(crate) sets: BTreeSet<String>,
}

impl Found {
    /// Keeps what belongs to one tap or group.
    pub(crate) fn of(chains: Vec<String>, sets: Vec<String>) -> Self {
        let ours = |name: &String| OF_ONE.iter().any(|prefix| name.starts_with(prefix));
        Self {
            chains: chains.into_iter().filter(ours).collect(),
            sets: sets.into_iter().filter(ours).collect(),
        }
    }
}

impl Ruleset {
    /// Name of the table of security groups.
    pub(crate) fn groups_table(&self) -> String {
        format!("{}_groups", self.table())
    }

    /// Makes of `before` what is `wanted`, in one transaction with whatever else is in the text.
    pub(crate) fn regroup(&self, before: &Plan, wanted: &Plan) -> String {
        let table = self.groups_table();
        Text::of(&table).change(before, wanted)
    }

    /// The same where it isn't known what stands, and so all that is wanted is written anew: what isn't wanted stays.
    pub(crate) fn group_anew(&self, wanted: &Plan) -> String {
        let table = self.groups_table();
        let mut text = Text::of(&table);
        self.base(&mut text);
        text.change(&Plan::default(), wanted)
    }

    /// Exactly what is wanted: of what was found, too, the rest goes. Nothing at all if no tap has a group.
    pub(crate) fn group_exactly(&self, found: Option<&Found>, wanted: &Plan) -> String {
        if wanted.is_empty() {
            return found.map_or_else(String::new, |_| self.ungroup());
        }
        let table = self.groups_table();
        let mut text = Text::of(&table);
        self.base(&mut text);
        let nothing = Found::default();
        let found = found.unwrap_or(&nothing);
        text.line("flush map", "inward", "");
        text.line("flush map", "outward", "");
        for chain in &found.chains {
            text.line("flush chain", chain, "");
        }
        for chain in &found.chains {
            text.line("delete chain", chain, "");
        }
        for set in &found.sets {
            text.line("delete set", set, "");
        }
        text.change(&Plan::default(), wanted)
    }

    /// Takes a tap out of which nothing is known but its name, and that it may be there.
    pub(crate) fn ungroup_tap(&self, tap: &InterfaceName) -> String {
        let table = self.groups_table();
        let mut text = Text::of(&table);
        for chain in tap_chains(tap) {
            text.line("add chain", &chain, "");
        }
        text.tap_elements("add", tap);
        text.remove_tap(tap);
        text.0.0
    }

    /// Removes the table, whether it exists or not.
    pub(crate) fn ungroup(&self) -> String {
        let table = self.groups_table();
        format!("add table bridge {table}\ndelete table bridge {table}\n")
    }

    /// What is the same for all taps, written anew. What is in the sets stays.
    fn base(&self, text: &mut Text<'_>) {
        let table = text.1;
        let _ = writeln!(text.0.0, "add table bridge {table}");
        for counter in COUNTERS {
            text.line("add counter", counter, "");
        }
        let dynamic = format!("size {MOST}; flags dynamic,timeout; timeout {OTHER}; }}");
        for family in FAMILIES {
            let (number, address) = (family.number, family.address_type);
            for set in ["begun", "asked", "closing"] {
                text.line(
                    "add set",
                    &format!("{set}{number}"),
                    &format!("{{ type ifname . {address} . inet_proto . inet_service . inet_service; {dynamic}"),
                );
            }
            for set in ["begun_other", "asked_other"] {
                text.line(
                    "add set",
                    &format!("{set}{number}"),
                    &format!("{{ type ifname . {address} . inet_proto; {dynamic}"),
                );
            }
        }
        text.line(
            "add set",
            "begin_rate",
            &format!(
                "{{ type ifname; size {}; flags dynamic,timeout; timeout 1m; }}",
                super::MOST_TAPS
            ),
        );
        for map in ["inward", "outward"] {
            text.line("add map", map, "{ type ifname : verdict; }");
        }
        for (chain, hook) in CHAINS {
            text.line("add chain", chain, hook);
        }
        for (chain, _) in CHAINS {
            text.line("flush chain", chain, "");
        }
        text.rule("inward", "oifname vmap @inward");
        text.rule("outward", "iifname vmap @outward");
        for (chain, refused) in [
            ("arrive", "refused_by_groups"),
            ("leave", "refused_outward"),
            ("begin", "refused_outward"),
        ] {
            if chain != "begin" {
                text.rule(
                    chain,
                    &format!("ether type {{ arp, {} }} accept", super::RARP),
                );
            }
            text.rule(
                chain,
                &format!("ether type vmap {{ ip : goto {chain}4, ip6 : goto {chain}6 }}"),
            );
            text.rule(chain, &format!("counter name {refused} drop"));
        }
        for family in FAMILIES {
            // Nobody from outside answers for the host, and no guest does by its own rules.
            let near = match (family.number, &self.site) {
                // Our DHCP has an address of its own there, and no other's comes by the cable.
                (4, Some(_)) => self.gateway.to_string(),
                (4, None) => self.network.to_string(),
                _ => LINK_LOCAL.to_string(),
            };
            family.rules(text, &near, self.gateways(family.number).as_deref());
        }
        text.rule("let_in", "accept");
    }

    /// The addresses of the host that guests of a family know.
    fn gateways(&self, family: u8) -> Option<String> {
        match (family, self.network6) {
            // There it has nothing for them but DHCP.
            _ if self.site.is_some() => None,
            (4, _) => Some(self.gateway.to_string()),
            (_, Some(prefix)) => Some(format!(
                "{{ {}, {} }}",
                prefix.gateway(),
                LINK_LOCAL.gateway()
            )),
            (_, None) => None,
        }
    }
}

/// What differs between the two.
struct Family {
    number: u8,
    /// Word for addresses in rules, and of their type.
    word: &'static str,
    address_type: &'static str,
    /// Number of its messages' protocol.
    icmp: u8,
    /// What a server says and what a client says.
    dhcp: [&'static str; 2],
    /// What a machine needs to have an address and neighbours, in and out; errors; and fragments but the first, which are nothing
    /// without that.
    needed_in: &'static [&'static str],
    needed_out: &'static [&'static str],
    echo_reply: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family {
        number: 4,
        word: "ip",
        address_type: "ipv4_addr",
        icmp: 1,
        dhcp: ["udp sport 67 udp dport 68", "udp sport 68 udp dport 67"],
        needed_in: &[
            "meta l4proto 2 accept",
            "icmp type { 3, 11, 12 } accept",
            "ip frag-off & 0x1fff != 0 accept",
        ],
        needed_out: &[
            "meta l4proto 2 accept",
            "icmp type { 3, 11, 12 } accept",
            "ip frag-off & 0x1fff != 0 accept",
        ],
        echo_reply: "icmp type 0",
    },
    Family {
        number: 6,
        word: "ip6",
        address_type: "ipv6_addr",
        icmp: 58,
        dhcp: ["udp sport 547 udp dport 546", "udp sport 546 udp dport 547"],
        needed_in: &[
            "icmpv6 type { 1, 2, 3, 4, 130, 131, 132, 134, 135, 136, 143 } accept",
            "frag frag-off != 0 accept",
        ],
        needed_out: &[
            "icmpv6 type { 1, 2, 3, 4, 131, 132, 133, 135, 136, 143 } accept",
            "frag frag-off != 0 accept",
        ],
        echo_reply: "icmpv6 type 129",
    },
];

/// Which packets of a connection that is known let it be known for longer. Always those that come in: with what is sent alone a
/// machine could fill a set, and go on for ever by what a rule had let in that is gone.
#[derive(Clone, Copy)]
enum Prolongs {
    /// All but those that begin it.
    All,
    /// For the last moments of one that ends.
    Ends,
    /// None.
    Nothing,
}

impl Family {
    fn rules(&self, text: &mut Text<'_>, near: &str, gateways: Option<&str>) {
        let (n, word, icmp) = (self.number, self.word, self.icmp);
        let ports_in = format!("oifname . {word} saddr . meta l4proto . th sport . th dport");
        let ports_out = format!("iifname . {word} daddr . meta l4proto . th dport . th sport");
        let peer_in = format!("oifname . {word} saddr . meta l4proto");
        let peer_out = format!("iifname . {word} daddr . meta l4proto");
        let rest = format!("meta l4proto != {{ tcp, udp, {icmp} }}");

        // Goes on with what is in a set already.
        let known = |text: &mut Text<'_>,
                     chain: &str,
                     ports: &str,
                     peer: &str,
                     set: &str,
                     prolongs: Prolongs| {
            let (own, other) = (format!("{set}{n}"), format!("{set}_other{n}"));
            let prolong = |set: &str, of: &str, timeout: &str| match prolongs {
                Prolongs::All => {
                    format!("{of} @{set} update @{set} {{ {of} timeout {timeout} }} accept")
                }
                Prolongs::Ends | Prolongs::Nothing => format!("{of} @{set} accept"),
            };
            // What begins a connection is no answer, be it by the ports of an old one.
            let tcp = match prolongs {
                Prolongs::All | Prolongs::Nothing => "tcp flags & (syn | ack) != syn",
                Prolongs::Ends => "meta l4proto tcp",
            };
            let ends = match prolongs {
                Prolongs::All | Prolongs::Ends => Some(format!(
                    "{tcp} {ports} @closing{n} {ports} @{own} update @{own} {{ {ports} timeout {TCP_ENDS} }} accept"
                )),
                Prolongs::Nothing => None,
            };
            let ending = format!(
                "tcp flags & (fin | rst) != 0 {ports} @{own} update @closing{n} {{ {ports} timeout {TCP_ENDS} }}"
            );
            let rules = [
                format!("{tcp} {}", prolong(&own, ports, TCP)),
                format!("meta l4proto udp {}", prolong(&own, ports, OTHER)),
                format!("{rest} {}", prolong(&other, peer, OTHER)),
            ];
            for rule in [ending].into_iter().chain(ends).chain(rules) {
                text.rule(chain, &rule);
            }
        };
        // Begins it. Where there is no room in a set any more the next rule is looked at.
        let begins = |text: &mut Text<'_>, chain: &str, ports: &str, peer: &str, set: &str| {
            for rule in [
                format!(
                    "meta l4proto tcp update @{set}{n} {{ {ports} timeout {TCP_BEGINS} }} accept"
                ),
                format!("meta l4proto udp update @{set}{n} {{ {ports} timeout {OTHER} }} accept"),
                format!(
                    "meta l4proto != {{ tcp, udp }} update @{set}_other{n} {{ {peer} timeout {OTHER} }} accept"
                ),
                "accept".to_owned(),
            ] {
                text.rule(chain, &rule);
            }
        };

        let [server, client] = self.dhcp;
        let arrive = format!("arrive{n}");
        text.rule(&arrive, &format!("{word} saddr {near} {server} accept"));
        for rule in self.needed_in {
            text.rule(&arrive, rule);
        }
        known(text, &arrive, &ports_in, &peer_in, "begun", Prolongs::All);
        text.rule(
            &arrive,
            &format!("{} {peer_in} @begun_other{n} accept", self.echo_reply),
        );

        let leave = format!("leave{n}");
        text.rule(&leave, &format!("{client} accept"));
        for rule in self.needed_out {
            text.rule(&leave, rule);
        }
        known(
            text,
            &leave,
            &ports_out,
            &peer_out,
            "asked",
            Prolongs::Nothing,
        );
        text.rule(
            &leave,
            &format!("{} {peer_out} @asked_other{n} accept", self.echo_reply),
        );
        // What the host itself offers is for the host's own rules.
        if let Some(gateways) = gateways {
            text.rule(&leave, &format!("{word} daddr {gateways} goto begin"));
        }

        let begin = format!("begin{n}");
        known(text, &begin, &ports_out, &peer_out, "begun", Prolongs::Ends);
        text.rule(&begin, "update @begin_rate { iifname limit rate over 1000/second burst 10000 packets } counter name too_many_begun drop");
        begins(text, &begin, &ports_out, &peer_out, "begun");

        // A rule has let it in: what is known goes on, else it begins.
        let family = if n == 4 { "ip" } else { "ip6" };
        let mut let_in = Text::of(text.1);
        known(
            &mut let_in,
            "let_in",
            &ports_in,
            &peer_in,
            "asked",
            Prolongs::All,
        );
        begins(&mut let_in, "let_in", &ports_in, &peer_in, "asked");
        for line in let_in.0.0.lines() {
            // Both families in one chain: what doesn't name addresses would be the other's, too.
            let line = line.replacen("let_in ", &format!("let_in ether type {family} "), 1);
            let _ = writeln!(text.0.0, "{line}");
        }
    }
}

/// The text that is being made.
struct Text<'a>(Lines, &'a str);
#[derive(Default)]
struct Lines(String);

impl<'a> Text<'a> {
    fn of(table: &'a str) -> Self {
        Self(Lines::default(), table)
    }

    fn line(&mut self, verb: &str, name: &str, rest: &str) {
        let _ = writeln!(self.0.0, "{verb} bridge {} {name} {rest}", self.1);
    }

    fn rule(&mut self, chain: &str, rule: &str) {
        self.line("add rule", chain, rule);
    }

    fn change(mut self, before: &Plan, wanted: &Plan) -> String {
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
        self.0.0
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
        let rest = match guard.outward {
            true => "counter name refused_outward drop",
            false => "goto begin",
        };
        self.rule(&outward, rest);
        self.tap_elements("add", tap);
    }

    fn remove_tap(&mut self, tap: &InterfaceName) {
        self.tap_elements("delete", tap);
        for chain in tap_chains(tap) {
            self.line("flush chain", &chain, "");
            self.line("delete chain", &chain, "");
        }
    }

    fn tap_elements(&mut self, verb: &str, tap: &InterfaceName) {
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

fn tap_chains(tap: &InterfaceName) -> [String; 2] {
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    fn tag(name: &str) -> GroupTag {
        name.parse().unwrap()
    }

    fn lets_in(traffic: Traffic, peer: RulePeer) -> GroupRule {
        GroupRule {
            direction: Direction::In,
            traffic,
            peer,
        }
    }

    fn plan(members: &[&str], rules: &[GroupRule]) -> Plan {
        let web = Group {
            rules: rules.iter().cloned().collect(),
            members: BTreeSet::new(),
        };
        let app = Group {
            rules: BTreeSet::new(),
            members: members.iter().map(|ip| ip.parse().unwrap()).collect(),
        };
        let taps = BTreeMap::from([("stx-7".parse().unwrap(), BTreeSet::from([tag("web")]))]);
        Plan::of(
            &taps,
            &BTreeMap::from([(tag("web"), web), (tag("app"), app)]),
        )
    }

    fn change(before: &Plan, wanted: &Plan) -> String {
        Text::of("t").change(before, wanted)
    }

    #[test]
    fn a_member_is_an_element_and_a_rule_touches_its_group_only() {
        let named = lets_in(Traffic::Tcp(22, 22), RulePeer::Group(tag("app")));
        let before = plan(&["10.0.0.1", "fd00::1"], std::slice::from_ref(&named));
        let members = plan(&["10.0.0.2", "fd00::1"], std::slice::from_ref(&named));
        assert_eq!(
            change(&before, &members),
            "delete element bridge t m4_app { 10.0.0.1 } \nadd element bridge t m4_app { 10.0.0.2 } \n"
        );
        let all = lets_in(Traffic::Any, RulePeer::Block("0.0.0.0/0".parse().unwrap()));
        let rules = change(&before, &plan(&["10.0.0.1", "fd00::1"], &[named, all]));
        let lines = rules.lines();
        assert!(
            lines.clone().all(|line| line.contains("_web ")) && lines.count() == 5,
            "{rules}"
        );
        assert_eq!(change(&before, &before), "");
    }

    #[test]
    fn what_goes_takes_its_chains_and_sets_along() {
        let named = lets_in(Traffic::Any, RulePeer::Group(tag("app")));
        let before = plan(&["10.0.0.1"], &[named]);
        let text = change(&before, &Plan::default());
        for name in ["ti_stx-7", "to_stx-7", "in_web", "out_web", "in_app"] {
            assert!(
                text.contains(&format!("delete chain bridge t {name} ")),
                "{text}"
            );
        }
        for name in ["m4_web", "m6_web", "m4_app", "m6_app"] {
            assert!(
                text.contains(&format!("delete set bridge t {name} ")),
                "{text}"
            );
        }
    }
}
