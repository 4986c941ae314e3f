//! IPv6 on the tunnel: as IPv4, nothing from, to or about the gateway, and only from and about addresses that guests can
//! have.
//!
//! The host itself speaks there by addresses of its own (those of [`Overlay::host_mac`](crate::Overlay::host_mac)). The kernel tells
//! the bridge's MAC, the gateway's, in its questions and answers about neighbours, so it is exchanged in these, too. That
//! would make their checksum wrong, which no rule can compute: instead the difference is made up for in a field of the same
//! message that is reserved, and that nobody may look at (RFC 4861 §4.3, §4.4).

use std::net::Ipv6Addr;

use super::super::ipv6::{FRAGMENT, HARMLESS, HOP_BY_HOP, ONLY_A_NONCE, REFUSED_HEADERS};
use super::for_the_host;
use crate::address::MacAddr;
use crate::ipv6::{InterfaceIds, Ipv6Prefix, LINK_LOCAL};
use crate::ruleset::Ruleset;

/// The ports of DHCPv6, servers' and clients'.
const DHCP: &str = "{ 546, 547 }";

/// The gateway's addresses, in rules about sources and targets.
fn gateway(prefix: Ipv6Prefix) -> [String; 2] {
    both([prefix.gateway(), LINK_LOCAL.gateway()])
}

/// Two addresses, in rules about sources and targets.
fn both(addresses: [Ipv6Addr; 2]) -> [String; 2] {
    let as_number = addresses.map(|address| format!("{:#034x}", address.to_bits()));
    let list = |texts: &[String]| format!("{{ {} }}", texts.join(", "));
    [
        list(&addresses.map(|address| address.to_string())),
        list(&as_number),
    ]
}

/// What leaves. Of what has the gateway's MAC, that is what the host says itself or forwards.
pub(super) fn leaving(
    rule: &mut impl FnMut(&str, &str),
    prefix: Ipv6Prefix,
    gateway_mac: MacAddr,
    own_mac: Option<MacAddr>,
) {
    let [addresses, targets] = gateway(prefix);
    let kept = "counter name tunnel_kept drop";
    let mut rule = |text: &str| rule("leaving_ipv6", text);
    let mut keep = |text: &str| rule(&format!("{text} {kept}"));
    keep(&format!("ip6 saddr {addresses}"));
    keep(&format!("ip6 daddr {addresses}"));
    keep(&format!("udp sport {DHCP}"));
    keep(&format!("udp dport {DHCP}"));
    // Who looks for a router finds the one of its own host.
    keep("icmpv6 type { 130, 133, 134, 137 }");
    keep(&format!("icmpv6 type {{ 135, 136 }} @th,64,128 {targets}"));
    let from_host = format!("ether saddr {gateway_mac}");
    let Some(own_mac) = own_mac else {
        keep(&from_host);
        return;
    };
    // The groups that it listens to, with a header before the message.
    keep(&format!("{from_host} ip6 nexthdr 0"));
    let tells_mac = format!(
        "{from_host} icmpv6 type {{ 135, 136 }} @th,192,16 {{ 0x0101, 0x0201 }} @th,208,48 {:#014x}",
        as_number(gateway_mac)
    );
    for exchange in [
        format!("@th,48,16 set {:#06x}", difference(gateway_mac, own_mac)),
        format!("@th,208,48 set {:#014x}", as_number(own_mac)),
    ] {
        rule(&format!("{tells_mac} {exchange}"));
    }
    rule(&format!("{from_host} ether saddr set {own_mac}"));
}

pub(super) fn arriving(
    rule: &mut impl FnMut(&str, &str),
    rules: &Ruleset,
    prefix: Ipv6Prefix,
    gateway_mac: MacAddr,
    own_mac: Option<MacAddr>,
) {
    let [addresses, targets] = gateway(prefix);
    let refused = "counter name tunnel_refused drop";
    let InterfaceIds { mask, value } = InterfaceIds::of(rules.network);
    let mut chain = |chain: &str, texts: &[String]| {
        for text in texts {
            rule(chain, text);
        }
    };
    let rest = || refused.to_owned();

    // The lower half of the source is at byte 16 of the header, and the upper one before it.
    let upper = |prefix: Ipv6Prefix| (prefix.address().to_bits() >> 64) as u64;
    let network_bits = format!("{{ {:#018x}, {:#018x} }}", upper(prefix), upper(LINK_LOCAL));
    let own = own_mac.map(|mac| both([prefix, LINK_LOCAL].map(|of| of.address_of(mac))));
    if let Some((mac, [own, _])) = own_mac.zip(own.as_ref()) {
        chain(
            "tunnel_ipv6",
            &[
                format!("ip6 saddr {own} {refused}"),
                // It is a router for nobody there.
                format!("ether daddr {mac} ip6 daddr != {own} {refused}"),
                for_the_host(mac, gateway_mac),
            ],
        );
    }
    chain(
        "tunnel_ipv6",
        &[
            format!("ip6 daddr {addresses} {refused}"),
            "ip6 saddr :: goto tunnel_ipv6_nobody".to_owned(),
        ],
    );
    // Another host forwards to guests here for guests of its own, in a network of the same group.
    let peers = rules.peers.iter();
    for (prefix, network) in peers.filter_map(|peer| peer.network6.zip(Some(peer.network))) {
        let (upper, InterfaceIds { mask, value }) = (upper(prefix), InterfaceIds::of(network));
        chain(
            "tunnel_ipv6",
            &[format!(
                "@nh,64,64 {upper:#018x} @nh,128,64 & {mask:#018x} == {value:#018x} goto tunnel_ipv6_peer"
            )],
        );
    }
    // What is forwarded is nothing about neighbours.
    chain(
        "tunnel_ipv6_peer",
        &[
            format!("ip6 nexthdr 0 {refused}"),
            format!("icmpv6 type {{ 135, 136 }} {refused}"),
            "goto tunnel_ipv6_guest".to_owned(),
        ],
    );
    chain(
        "tunnel_ipv6",
        &[
            format!("@nh,64,64 != {network_bits} {refused}"),
            format!("@nh,128,64 & {mask:#018x} != {value:#018x} {refused}"),
            "goto tunnel_ipv6_guest".to_owned(),
        ],
    );
    chain(
        "tunnel_ipv6_guest",
        &[
            format!(
                "ip6 nexthdr vmap {{ 0 : goto {HOP_BY_HOP}, 44 : goto {FRAGMENT}, 58 : goto tunnel_icmpv6 }}"
            ),
            format!("ip6 nexthdr {REFUSED_HEADERS} {refused}"),
            format!("udp sport {DHCP} {refused}"),
            format!("udp dport {DHCP} {refused}"),
            "accept".to_owned(),
        ],
    );
    chain(
        "tunnel_ipv6_nobody",
        &[
            format!("ip6 nexthdr 0 goto {HOP_BY_HOP}"),
            "ip6 nexthdr 58 icmpv6 type 135 goto tunnel_neighbour".to_owned(),
            rest(),
        ],
    );
    chain(
        "tunnel_icmpv6",
        &[
            "icmpv6 type { 135, 136 } goto tunnel_neighbour".to_owned(),
            format!("{HARMLESS} accept"),
            rest(),
        ],
    );
    // That somebody else has the host's own addresses, or would have them.
    if let Some([_, own]) = &own {
        chain(
            "tunnel_neighbour",
            &[
                format!("icmpv6 type 136 @th,64,128 {own} {refused}"),
                format!("ip6 saddr :: @th,64,128 {own} {refused}"),
            ],
        );
    }
    // Whom it is about, and which MAC it tells: at byte 8 and, in the only option, at byte 26.
    let guest_mac = "@th,192,16 { 0x0101, 0x0201 } @th,208,16 0x0200";
    let macs = [Some(gateway_mac), own_mac].into_iter().flatten();
    let macs: Vec<String> = macs
        .map(|mac| format!("{:#014x}", as_number(mac)))
        .collect();
    let no_option = format!("@th,208,48 {{ {} }}", macs.join(", "));
    chain(
        "tunnel_neighbour",
        &[
            format!("@th,64,128 {targets} {refused}"),
            format!("@th,64,64 != {network_bits} {refused}"),
            format!("@th,128,64 & {mask:#018x} != {value:#018x} {refused}"),
            "ip6 length 24 accept".to_owned(),
            format!("{ONLY_A_NONCE} accept"),
            format!("ip6 length 32 {no_option} {refused}"),
            format!("ip6 length 32 {guest_mac} accept"),
            rest(),
        ],
    );
}

/// What a message that tells one MAC instead of another has more, so that its sum is the same (RFC 1071).
fn difference(instead_of: MacAddr, tells: MacAddr) -> u16 {
    let words = |mac: MacAddr| {
        mac.octets()
            .chunks(2)
            .map(|word| u64::from(word[0]) << 8 | u64::from(word[1]))
            .sum::<u64>()
    };
    // Modulo 0xffff, where what is taken away has the complement for it.
    let all = words(instead_of) + 3 * 0xffff - words(tells);
    (all % 0xffff) as u16
}

fn as_number(mac: MacAddr) -> u64 {
    mac.octets()
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_a_message_stays_with_another_mac_in_it() {
        let sum = |words: &[u16]| words.iter().map(|word| u64::from(*word)).sum::<u64>() % 0xffff;
        for (one, other) in [
            ([2, 0, 172, 16, 0, 1], [2, 0, 172, 16, 0, 201]),
            ([2, 0, 172, 16, 0, 201], [2, 0, 172, 16, 0, 1]),
            ([2, 0, 10, 0, 0, 1], [2, 0, 10, 255, 255, 254]),
            ([0; 6], [255; 6]),
            ([2, 0, 10, 0, 0, 1], [2, 0, 10, 0, 0, 1]),
        ] {
            let words =
                |mac: [u8; 6]| [0, 2, 4].map(|at| u16::from_be_bytes([mac[at], mac[at + 1]]));
            let [a, b, c] = words(other);
            let made_up = difference(MacAddr(one), MacAddr(other));
            assert_eq!(sum(&words(one)), sum(&[a, b, c, made_up]));
        }
    }
}
