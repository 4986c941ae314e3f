//! Where guests may go: the tables of the IP families. What differs between the two is in [`IpTable`], the rules are the same.

use std::fmt::Write as _;

use super::{MOST_TAPS, Outward, Ruleset, site, tunnel};
use crate::ipv6::{Ipv6Prefix, LINK_LOCAL};

/// One of the two tables.
pub(super) struct IpTable<'a> {
    rules: &'a Ruleset,
    /// Word for the table, and for addresses in rules.
    family: &'static str,
    address_type: &'static str,
    /// Word for messages of the protocol.
    icmp: &'static str,
    /// The guests' network.
    network: String,
    /// The host's addresses that guests know.
    gateway: String,
    /// Bridges and networks that are forwarded to.
    peers: Vec<(String, String)>,
    /// What guests send to the host before they have an address, or to get one.
    needed: &'static [&'static str],
}

impl<'a> IpTable<'a> {
    pub(super) fn ipv4(rules: &'a Ruleset) -> Self {
        let peers = rules.peers.iter();
        Self {
            rules,
            family: "ip",
            address_type: "ipv4_addr",
            icmp: "icmp",
            network: rules.network.to_string(),
            gateway: rules.gateway.to_string(),
            peers: peers
                .map(|peer| (peer.bridge.to_string(), peer.network.to_string()))
                .collect(),
            needed: &["udp sport 68 udp dport 67 accept"],
        }
    }

    pub(super) fn ipv6(rules: &'a Ruleset, prefix: Ipv6Prefix) -> Self {
        let peers = rules.peers.iter();
        let of_peer = |peer: &super::Peer| {
            let network = peer.network6?;
            Some((peer.bridge.to_string(), network.to_string()))
        };
        Self {
            rules,
            family: "ip6",
            address_type: "ipv6_addr",
            icmp: "icmpv6",
            network: prefix.to_string(),
            gateway: format!("{{ {}, {} }}", prefix.gateway(), LINK_LOCAL.gateway()),
            peers: peers.filter_map(of_peer).collect(),
            needed: &[
                // Reports of multicast listeners; solicitations of routers; solicitations and advertisements of neighbours.
                // Connection tracking knows none of them.
                "icmpv6 type { 131, 132, 143, 133, 135, 136 } accept",
                "udp sport 546 udp dport 547 accept",
            ],
        }
    }

    /// What is to be there before rules are added, and the rules.
    pub(super) fn text(&self) -> String {
        let (t, family) = (self.rules.table(), self.family);
        let mut text = format!(
            "add table {family} {t}\n\
             add set {family} {t} dns_rate {{ type {}; size {MOST_TAPS}; flags dynamic; timeout 1m; }}\n\
             add counter {family} {t} too_many_dns\n\
             add counter {family} {t} refused_host\n\
             add counter {family} {t} refused_inward\n",
            self.address_type
        );
        if family == "ip" {
            tunnel::declare_ip(&mut text, &t);
        }
        let _ = write!(
            text,
            "add chain {family} {t} input {{ type filter hook input priority filter; policy accept; }}\n\
             add chain {family} {t} forward {{ type filter hook forward priority filter; policy accept; }}\n\
             add chain {family} {t} postrouting {{ type nat hook postrouting priority srcnat; policy accept; }}\n\
             add chain {family} {t} to_host\n\
             add chain {family} {t} outward\n\
             add chain {family} {t} inward\n\
             flush table {family} {t}\n\
             flush set {family} {t} dns_rate\n"
        );
        let mut rule = |chain: &str, rule: &str| {
            let _ = writeln!(text, "add rule {family} {t} {chain} {rule}");
        };
        if let Some(site) = self.rules.site.as_ref().filter(|_| family == "ip") {
            site::ip_rules(&mut rule, site);
        }
        self.to_host(&mut rule);
        self.forward(&mut rule);
        if self.rules.outward == Outward::Nat {
            self.postrouting(&mut rule);
        }
        text
    }

    fn to_host(&self, rule: &mut impl FnMut(&str, &str)) {
        let (family, gateway, icmp) = (self.family, &self.gateway, self.icmp);
        if let Some(overlay) = self.rules.overlay.as_ref().filter(|_| family == "ip") {
            tunnel::input_rules(rule, overlay, self.rules.tunnel_port);
        }
        let bridge = self.rules.instance.bridge();
        rule("input", &format!("iifname \"{bridge}\" jump to_host"));
        let mut rule = |text: &str| rule("to_host", text);
        // By address, which is the tap's own by now. One guest must not take dnsmasq from the others. Before
        // what is established: questions from one port are.
        rule(&format!(
            "udp dport 53 update @dns_rate {{ {family} saddr limit rate over 500/second burst 1000 packets }} counter name too_many_dns drop"
        ));
        rule("ct state established,related accept");
        for needed in self.needed {
            rule(needed);
        }
        let to_gateway = format!("{family} daddr {gateway}");
        if self.rules.site.is_none() {
            rule(&format!("{to_gateway} udp dport 53 accept"));
            rule(&format!("{to_gateway} tcp dport 53 accept"));
            rule(&format!("{to_gateway} {icmp} type echo-request accept"));
        }
        if !self.rules.host_tcp_ports.is_empty() {
            let ports = self.rules.host_tcp_ports.iter();
            let ports: Vec<String> = ports.map(u16::to_string).collect();
            let ports = ports.join(", ");
            rule(&format!("{to_gateway} tcp dport {{ {ports} }} accept"));
        }
        rule(&format!(
            "counter name refused_host reject with {icmp} type admin-prohibited"
        ));
    }

    fn forward(&self, rule: &mut impl FnMut(&str, &str)) {
        let (family, network) = (self.family, &self.network);
        let bridge = self.rules.instance.bridge().to_string();
        rule(
            "forward",
            &format!("iifname \"{bridge}\" oifname \"{bridge}\" accept"),
        );
        // By bridge and address: nobody outside can pretend to be a peer, and no peer to be somebody else. Both networks'
        // tables have these, each its own: a packet is forwarded if all tables let it.
        for (other, theirs) in &self.peers {
            for (from, to, source, target) in [
                (&bridge, other, network, theirs),
                (other, &bridge, theirs, network),
            ] {
                rule(
                    "forward",
                    &format!(
                        "iifname \"{from}\" oifname \"{to}\" {family} saddr {source} {family} daddr {target} accept"
                    ),
                );
            }
        }
        rule("forward", &format!("iifname \"{bridge}\" jump outward"));
        rule("forward", &format!("oifname \"{bridge}\" jump inward"));
        rule("outward", &format!("{family} saddr != {network} drop"));
        let outward = self.rules.outward;
        if outward == Outward::Nat && family == "ip" {
            rule("outward", &tunnel::forged_rule(self.rules.tunnel_port));
        }
        if outward != Outward::Routed {
            // An answer through a port that the host hands on to a guest. What a guest itself begins doesn't get out by such a
            // rule of the host's.
            rule("outward", "ct status dnat ct direction reply return");
            // One to what only a network can have begun that was a peer then: no other gets in.
            rule("outward", "ct state established ct direction reply drop");
        }
        if outward == Outward::Isolated {
            let icmp = self.icmp;
            rule(
                "outward",
                &format!("reject with {icmp} type admin-prohibited"),
            );
        }
        // What was begun inside; the rest of what is established is for the rules above, or was.
        rule("inward", "ct state established ct direction reply accept");
        rule("inward", "ct state related accept");
        rule("inward", "ct status dnat accept");
        if outward != Outward::Routed {
            rule("inward", "counter name refused_inward drop");
        }
    }

    /// Guests behind the host's address, but not for peers.
    fn postrouting(&self, rule: &mut impl FnMut(&str, &str)) {
        let (family, network) = (self.family, &self.network);
        let bridge = self.rules.instance.bridge();
        for (other, theirs) in &self.peers {
            rule(
                "postrouting",
                &format!(
                    "{family} saddr {network} {family} daddr {theirs} oifname \"{other}\" accept"
                ),
            );
        }
        rule(
            "postrouting",
            &format!(
                "{family} saddr {network} {family} daddr != {network} oifname != \"{bridge}\" masquerade"
            ),
        );
    }
}
