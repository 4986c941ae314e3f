//! What is the same for all taps: the hooks, and how packets of connections are known that a tap's rules are not asked about.

use std::fmt::Write as _;

use super::{COUNTERS, text::Text};
use crate::ipv6::LINK_LOCAL;
use crate::ruleset::{MOST_TAPS, RARP, Ruleset};

/// Connections that are remembered at once in each direction and family. Beyond that, answers are taken for none.
const MOST: u32 = 1_048_576;
/// How long a connection is remembered that nothing is said on: TCP, anything else, TCP until the first answer, and after its end.
const TCP: &str = "1h";
const OTHER: &str = "3m";
const TCP_BEGINS: &str = "2m";
const TCP_ENDS: &str = "1m";

/// The chains that are the same for all.
const CHAINS: [(&str, &str); 15] = [
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
    ("answer", ""),
    ("answer4", ""),
    ("answer6", ""),
    ("begin", ""),
    ("begin4", ""),
    ("begin6", ""),
];

impl Ruleset {
    /// What is the same for all taps, written anew. What is in the sets stays.
    pub(super) fn base(&self, text: &mut Text<'_>) {
        let table = text.table;
        let _ = writeln!(text.text, "add table bridge {table}");
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
            &format!("{{ type ifname; size {MOST_TAPS}; flags dynamic,timeout; timeout 1m; }}"),
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
        text.rule("arrive", "ether type arp accept");
        text.rule("leave", &format!("ether type {{ arp, {RARP} }} accept"));
        for (chain, refused) in [
            ("arrive", Some("refused_by_groups")),
            ("leave", Some("refused_outward")),
            ("answer", None),
            ("begin", Some("refused_outward")),
        ] {
            text.rule(
                chain,
                &format!("ether type vmap {{ ip : goto {chain}4, ip6 : goto {chain}6 }}"),
            );
            if let Some(counter) = refused {
                text.rule(chain, &format!("counter name {counter} drop"));
            }
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

/// Which packets of a connection that is known let it be known for longer.
#[derive(Clone, Copy)]
enum Prolongs {
    /// All but those that begin it.
    All,
    /// For the last moments of one that ends: with what is sent alone a machine could fill a set.
    Ends,
    /// None: it would go on for ever by what a rule had let in that is gone.
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
            let (closing, moments) = (
                format!("closing{n}"),
                format!("{{ {ports} timeout {TCP_ENDS} }}"),
            );
            let ending = format!("tcp flags & (fin | rst) != 0 {ports} @{own}");
            let ends = match prolongs {
                Prolongs::All | Prolongs::Ends => vec![
                    format!("{ending} update @{closing} {moments}"),
                    format!(
                        "{tcp} {ports} @{closing} {ports} @{own} update @{own} {moments} accept"
                    ),
                ],
                // Once, as long as both know it.
                Prolongs::Nothing => vec![format!(
                    "{ending} {ports} != @{closing} update @{closing} {moments} update @{own} {moments}"
                )],
            };
            let rules = [
                format!("{tcp} {}", prolong(&own, ports, TCP)),
                format!("meta l4proto udp {}", prolong(&own, ports, OTHER)),
                format!("{rest} {}", prolong(&other, peer, OTHER)),
            ];
            for rule in ends.into_iter().chain(rules) {
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
        // What the host itself offers is for the host's own rules.
        if let Some(gateways) = gateways {
            text.rule(&leave, &format!("{word} daddr {gateways} goto begin"));
        }

        // Answers to what was let in: of machines that begin what they like in any case, and of what an outward rule lets out, else.
        let begin = format!("begin{n}");
        let answer = format!("answer{n}");
        for (chain, prolongs) in [(&begin, Prolongs::All), (&answer, Prolongs::Nothing)] {
            known(text, chain, &ports_out, &peer_out, "asked", prolongs);
            text.rule(
                chain,
                &format!("{} {peer_out} @asked_other{n} accept", self.echo_reply),
            );
        }

        known(text, &begin, &ports_out, &peer_out, "begun", Prolongs::Ends);
        text.rule(&begin, "update @begin_rate { iifname limit rate over 1000/second burst 10000 packets } counter name too_many_begun drop");
        begins(text, &begin, &ports_out, &peer_out, "begun");

        // A rule has let it in: what is known goes on, else it begins.
        let family = if n == 4 { "ip" } else { "ip6" };
        let mut let_in = Text::of(text.table);
        known(
            &mut let_in,
            "let_in",
            &ports_in,
            &peer_in,
            "asked",
            Prolongs::All,
        );
        begins(&mut let_in, "let_in", &ports_in, &peer_in, "asked");
        for line in let_in.text.lines() {
            // Both families in one chain: what doesn't name addresses would be the other's, too.
            let line = line.replacen("let_in ", &format!("let_in ether type {family} "), 1);
            let _ = writeln!(text.text, "{line}");
        }
    }
}
