//! IPv6 on the tunnel: as IPv4, nothing from, to or about the gateway, and only from and about addresses that guests can
//! have. The host itself doesn't speak it there: its questions for neighbours would be the gateway's.

use super::super::ipv6::{FRAGMENT, HARMLESS, HOP_BY_HOP, ONLY_A_NONCE, REFUSED_HEADERS};
use crate::address::{Ipv4Network, MacAddr};
use crate::ipv6::{InterfaceIds, Ipv6Prefix, LINK_LOCAL};

/// The ports of DHCPv6, servers' and clients'.
const DHCP: &str = "{ 546, 547 }";

/// The gateway's addresses, in rules about sources and targets.
fn gateway(prefix: Ipv6Prefix) -> [String; 2] {
    let addresses = [prefix.gateway(), LINK_LOCAL.gateway()];
    let as_number = addresses.map(|address| format!("{:#034x}", address.to_bits()));
    let list = |texts: &[String]| format!("{{ {} }}", texts.join(", "));
    [
        list(&addresses.map(|address| address.to_string())),
        list(&as_number),
    ]
}

/// What leaves, and is from guests: the gateway's MAC was looked at before.
pub(super) fn leaving(rule: &mut impl FnMut(&str, &str), prefix: Ipv6Prefix, gateway_mac: MacAddr) {
    let [addresses, targets] = gateway(prefix);
    let kept = "counter name tunnel_kept drop";
    let mut rule = |text: &str| rule("leaving_ipv6", &format!("{text} {kept}"));
    rule(&format!("ether saddr {gateway_mac}"));
    rule(&format!("ip6 saddr {addresses}"));
    rule(&format!("ip6 daddr {addresses}"));
    rule(&format!("udp sport {DHCP}"));
    rule(&format!("udp dport {DHCP}"));
    // Who looks for a router finds the one of its own host.
    rule("icmpv6 type { 130, 133, 134, 137 }");
    rule(&format!("icmpv6 type {{ 135, 136 }} @th,64,128 {targets}"));
}

pub(super) fn arriving(
    rule: &mut impl FnMut(&str, &str),
    prefix: Ipv6Prefix,
    network: Ipv4Network,
    gateway_mac: MacAddr,
) {
    let [addresses, targets] = gateway(prefix);
    let refused = "counter name tunnel_refused drop";
    let InterfaceIds { mask, value } = InterfaceIds::of(network);
    let mut chain = |chain: &str, texts: &[String]| {
        for text in texts {
            rule(chain, text);
        }
    };
    let rest = || refused.to_owned();

    // The lower half of the source is at byte 16 of the header, and the upper one before it.
    let [prefix_bits, link_bits] =
        [prefix, LINK_LOCAL].map(|prefix| (prefix.address().to_bits() >> 64) as u64);
    let network_bits = format!("{{ {prefix_bits:#018x}, {link_bits:#018x} }}");
    chain(
        "tunnel_ipv6",
        &[
            format!("ip6 daddr {addresses} {refused}"),
            "ip6 saddr :: goto tunnel_ipv6_nobody".to_owned(),
            format!("@nh,64,64 != {network_bits} {refused}"),
            format!("@nh,128,64 & {mask:#018x} != {value:#018x} {refused}"),
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
    // Whom it is about, and which MAC it tells: at byte 8 and, in the only option, at byte 26.
    let guest_mac = "@th,192,16 { 0x0101, 0x0201 } @th,208,16 0x0200";
    let no_option = format!("@th,208,48 {:#014x}", as_number(gateway_mac));
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

fn as_number(mac: MacAddr) -> u64 {
    mac.octets()
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}
