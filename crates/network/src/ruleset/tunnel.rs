//! What crosses the tunnel between the hosts of one network, and what stays on each.
//!
//! All hosts have the same gateway, by address and MAC, so neither may cross: nor may DHCP, since each host's server knows
//! its own guests only. What a guest sends was checked at its tap before; what comes from elsewhere was checked there, and is
//! held here to what every guest of the network keeps to.
//!
//! A host speaks to guests of other hosts by an address of its own ([`Overlay::host_address`]). The bridge has one MAC, the
//! gateway's; on the tunnel it is exchanged for the host's own, both ways.

mod ipv6;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use crate::address::{MacAddr, MacPrefix};
use crate::ipv6::LINK_LOCAL;
use crate::name::InterfaceName;
use crate::overlay::Overlay;
use crate::ruleset::{ANNOUNCES, RARP, Ruleset};

/// The chains of the bridge table, there as long as there is a tunnel: each after those that go to it.
const CHAINS: [(&str, &str); 11] = [
    (
        "leaving",
        "{ type filter hook postrouting priority 300; policy accept; }",
    ),
    ("from_tunnel", ""),
    ("tunnel_arp", ""),
    ("tunnel_ip", ""),
    ("leaving_ipv6", ""),
    ("tunnel_ipv6", ""),
    ("tunnel_ipv6_guest", ""),
    ("tunnel_ipv6_peer", ""),
    ("tunnel_ipv6_nobody", ""),
    ("tunnel_icmpv6", ""),
    ("tunnel_neighbour", ""),
];

/// Counters of the bridge table: what was kept from leaving, and what was refused that came.
const BRIDGE_COUNTERS: [&str; 2] = ["tunnel_kept", "tunnel_refused"];

/// Counters of the IP table: tunnel packets of strangers, and those that a guest made.
const IP_COUNTERS: [&str; 2] = ["tunnel_stranger", "tunnel_forged"];

/// The ports of DHCP, servers' and clients'.
const DHCP: &str = "{ 67, 68 }";

/// What must be there before the table is flushed and rules are added.
pub(super) fn declare_bridge(text: &mut String, table: &str) {
    for counter in BRIDGE_COUNTERS {
        let _ = writeln!(text, "add counter bridge {table} {counter}");
    }
    for (chain, hook) in CHAINS {
        let _ = writeln!(text, "add chain bridge {table} {chain} {hook}");
    }
}

/// As [`declare_bridge`].
pub(super) fn declare_ip(text: &mut String, table: &str) {
    for counter in IP_COUNTERS {
        let _ = writeln!(text, "add counter ip {table} {counter}");
    }
}

/// The rules of the bridge table; a host without a tunnel has not even the chains. To be added before the rules of taps.
pub(super) fn bridge_rules(text: &mut String, rules: &Ruleset) {
    let table = rules.table();
    let Some(overlay) = &rules.overlay else {
        for (chain, _) in CHAINS {
            let _ = writeln!(text, "delete chain bridge {table} {chain}");
        }
        return;
    };
    let mut rule = |chain: &str, rule: &str| {
        let _ = writeln!(text, "add rule bridge {table} {chain} {rule}");
    };
    let tunnel = rules.instance.tunnel();
    let gateway = (rules.gateway, MacPrefix::default().mac(rules.gateway));
    let own = overlay.host_address.zip(overlay.host_mac());
    rule("guests", &format!("iifname \"{tunnel}\" goto from_tunnel"));
    if let Some((_, own_mac)) = own {
        // A guest that knew the host from elsewhere, and has come to it.
        rule("guests", &for_the_host(own_mac, gateway.1));
    }
    leaving(&mut rule, &tunnel, gateway, own, rules.network6.is_some());
    arriving(&mut rule, rules, gateway, own);
    if let Some(prefix) = rules.network6 {
        let (gateway_mac, own_mac) = (gateway.1, overlay.host_mac());
        ipv6::leaving(&mut rule, prefix, gateway_mac, own_mac);
        ipv6::arriving(&mut rule, rules, prefix, gateway_mac, own_mac);
    }
}

type Station = (Ipv4Addr, MacAddr);

fn leaving(
    rule: &mut impl FnMut(&str, &str),
    tunnel: &InterfaceName,
    (gateway, gateway_mac): Station,
    own: Option<Station>,
    with_ipv6: bool,
) {
    let mut rule = |text: &str| rule("leaving", text);
    let kept = "counter name tunnel_kept drop";
    if own.is_some() && with_ipv6 {
        // To its own guests as well: while its addresses are made anew the host's own may be the only one of the link for a moment.
        let router = LINK_LOCAL.gateway();
        rule(&format!(
            "ether saddr {gateway_mac} icmpv6 type {{ 134, 137 }} ip6 saddr != {router} {kept}"
        ));
    }
    rule(&format!("oifname != \"{tunnel}\" accept"));
    rule(&format!("ether daddr {gateway_mac} {kept}"));
    if with_ipv6 {
        rule("ether type ip6 goto leaving_ipv6");
    }
    rule(&format!("ether type != {{ ip, arp, {RARP} }} {kept}"));
    rule(&format!("arp daddr ip {gateway} {kept}"));
    rule(&format!("ip saddr {gateway} {kept}"));
    rule(&format!("ip daddr {gateway} {kept}"));
    rule(&format!("udp sport {DHCP} {kept}"));
    rule(&format!("udp dport {DHCP} {kept}"));
    let from_host = format!("ether saddr {gateway_mac}");
    match own {
        // The kernel asks with the gateway's address for those to whom it forwards.
        Some((own, own_mac)) => {
            for exchange in [
                format!("arp saddr ip {gateway} arp saddr ip set {own}"),
                format!("arp saddr ether {gateway_mac} arp saddr ether set {own_mac}"),
                format!("ether saddr set {own_mac}"),
            ] {
                rule(&format!("{from_host} {exchange}"));
            }
        }
        None => rule(&format!("{from_host} {kept}")),
    }
}

fn arriving(
    rule: &mut impl FnMut(&str, &str),
    rules: &Ruleset,
    (gateway, gateway_mac): Station,
    own: Option<Station>,
) {
    let refused = "counter name tunnel_refused drop";
    let any_guest = MacPrefix::default().mac(Ipv4Addr::UNSPECIFIED);
    let not_a_guest = format!("& ff:ff:00:00:00:00 != {any_guest} {refused}");
    let network = rules.network;

    let mut mac = |text: &str| rule("from_tunnel", text);
    mac(&format!("ether saddr {not_a_guest}"));
    mac(&format!("ether saddr {gateway_mac} {refused}"));
    mac(&format!("ether daddr {gateway_mac} {refused}"));
    if let Some((_, own_mac)) = own {
        mac(&format!("ether saddr {own_mac} {refused}"));
    }
    mac("ether type vmap { ip : goto tunnel_ip, arp : goto tunnel_arp }");
    mac(&format!("{ANNOUNCES} accept"));
    if rules.network6.is_some() {
        mac("ether type ip6 goto tunnel_ipv6");
    }
    mac(refused);

    let mut arp = |text: &str| rule("tunnel_arp", text);
    arp(&format!("arp saddr ether {not_a_guest}"));
    arp(&format!("arp saddr ether {gateway_mac} {refused}"));
    arp(&format!("arp saddr ip {gateway} {refused}"));
    arp(&format!("arp daddr ip {gateway} {refused}"));
    if let Some((own, own_mac)) = own {
        arp(&format!("arp saddr ether {own_mac} {refused}"));
        arp(&format!("arp saddr ip {own} {refused}"));
    }
    // As of a tap: 0.0.0.0 claims nothing.
    arp(&format!(
        "arp saddr ip != {{ 0.0.0.0, {network} }} {refused}"
    ));

    let mut ip = |text: &str| rule("tunnel_ip", text);
    ip(&format!("udp sport {DHCP} {refused}"));
    ip(&format!("udp dport {DHCP} {refused}"));
    ip(&format!("ip saddr {gateway} {refused}"));
    ip(&format!("ip daddr {gateway} {refused}"));
    if let Some((own, own_mac)) = own {
        ip(&format!("ip saddr {own} {refused}"));
        // It is a router for nobody there.
        ip(&format!(
            "ether daddr {own_mac} ip daddr != {own} {refused}"
        ));
    }
    // Another host forwards to guests here for guests of its own, in a network of the same group.
    let peers = rules.peers.iter().map(|peer| peer.network.to_string());
    let sources: Vec<String> = peers.chain([network.to_string()]).collect();
    ip(&format!(
        "ip saddr != {{ {} }} {refused}",
        sources.join(", ")
    ));

    if let Some((_, own_mac)) = own {
        for chain in ["tunnel_arp", "tunnel_ip"] {
            rule(chain, &for_the_host(own_mac, gateway_mac));
        }
    }
}

/// What is for the host's own MAC is for the bridge.
fn for_the_host(own_mac: MacAddr, gateway_mac: MacAddr) -> String {
    // The bridge has looked at the MAC before, and holds the frame for somebody else's.
    format!("ether daddr {own_mac} ether daddr set {gateway_mac} meta pkttype set host")
}

/// Rules of the IP table's input: the tunnel has one UDP port with those of other networks, and maybe of other programs,
/// so only packets for this one's are looked at.
pub(super) fn input_rules(rule: &mut impl FnMut(&str, &str), overlay: &Overlay, port: u16) {
    let others: BTreeSet<Ipv4Addr> = overlay.others().collect();
    // The number is behind the UDP header (8 bytes) and 4 bytes of the tunnel's.
    let ours = format!("udp dport {port} @th,96,24 {}", overlay.vni);
    let dropped = "counter name tunnel_stranger drop";
    rule(
        "input",
        &format!("{ours} ip daddr != {} {dropped}", overlay.local),
    );
    let list: Vec<String> = others.iter().map(Ipv4Addr::to_string).collect();
    let strangers = if list.is_empty() {
        String::new()
    } else {
        format!("ip saddr != {{ {} }} ", list.join(", "))
    };
    rule("input", &format!("{ours} {strangers}{dropped}"));
}

/// What guests behind an address of the host must not send with it: it would be taken for the host's own tunnel, of whatever
/// network. (Nothing could come back to them there, either.)
pub(super) fn forged_rule(port: u16) -> String {
    format!("udp dport {port} counter name tunnel_forged drop")
}

#[cfg(test)]
#[allow(clippy::panic)] // a test that panics has failed
mod tests {
    use super::*;
    use crate::overlay::Vni;
    use crate::ruleset::{Outward, Peer};

    fn rules(overlay: Option<Overlay>) -> Ruleset {
        Ruleset {
            instance: "x".parse().unwrap(),
            network: "172.16.0.0/24".parse().unwrap(),
            gateway: "172.16.0.1".parse().unwrap(),
            network6: None,
            outward: Outward::Nat,
            host_tcp_ports: BTreeSet::new(),
            peers: BTreeSet::new(),
            tunnel_port: 4789,
            overlay,
            site: None,
        }
    }

    fn overlay(peers: &[u8]) -> Overlay {
        Overlay {
            vni: Vni::new(77).unwrap(),
            local: Ipv4Addr::new(192, 0, 2, 1),
            peers: peers.iter().map(|n| Ipv4Addr::new(192, 0, 2, *n)).collect(),
            host_address: None,
        }
    }

    #[test]
    fn a_host_that_is_alone_takes_nothing_from_the_tunnel() {
        let text = rules(Some(overlay(&[1]))).establish(&BTreeSet::new());
        assert!(
            text.contains("input udp dport 4789 @th,96,24 77 counter name tunnel_stranger drop\n"),
            "{text}"
        );
    }

    #[test]
    fn only_packets_of_this_network_are_looked_at() {
        let text = rules(Some(overlay(&[1, 2, 3]))).establish(&BTreeSet::new());
        for line in text
            .lines()
            .filter(|line| line.contains("tunnel_stranger drop"))
        {
            assert!(line.contains("@th,96,24 77 "), "{line}");
        }
        assert!(
            text.contains("ip saddr != { 192.0.2.2, 192.0.2.3 } counter"),
            "{text}"
        );
    }

    #[test]
    fn a_network_without_an_overlay_has_no_rules_of_it() {
        let text = rules(None).establish(&BTreeSet::new());
        let added = text.lines().filter(|line| line.starts_with("add rule"));
        let of_tunnels: Vec<_> = added.filter(|line| line.contains("tunnel")).collect();
        assert_eq!(
            of_tunnels,
            ["add rule ip stratus_x outward udp dport 4789 counter name tunnel_forged drop"]
        );
    }

    #[test]
    fn guests_of_the_networks_that_are_forwarded_to_come_through_the_tunnel() {
        let mut rules = rules(Some(overlay(&[2])));
        rules.peers.insert(Peer {
            bridge: "sty-br0".parse().unwrap(),
            network: "172.17.0.0/24".parse().unwrap(),
            network6: None,
        });
        let text = rules.establish(&BTreeSet::new());
        assert!(
            text.contains("tunnel_ip ip saddr != { 172.17.0.0/24, 172.16.0.0/24 } counter"),
            "{text}"
        );
    }
}
