//! What a guest may say by IPv6: from its own two addresses, those that follow from its MAC, and about them only.
//!
//! What ARP is to IPv4 is a part of ICMPv6 here (RFC 4861), so who may say what is a question of messages and of what is in
//! them. Headers before the message (RFC 8200 §4) could hide it from a rule that looks at one place, and fragments could
//! spread it. So there is a header before it in two cases only: reports of multicast listeners have one (RFC 3810 §5), and
//! large packets come in fragments, of ICMPv6 those of echoes alone.

use std::fmt::Write as _;

use super::{Binding, hexadecimal};
use crate::ipv6::{Ipv6Prefix, LINK_LOCAL};

/// The chains of the bridge table, but for the one that others go to: `ipv6_sender`.
const CHAINS: [&str; 7] = [
    "ipv6_sender",
    "ipv6_nobody",
    HOP_BY_HOP,
    FRAGMENT,
    "icmpv6_sender",
    "solicitation",
    "advertisement",
];

/// Packets with such a header first: only those are accepted that are what they should be.
pub(super) const HOP_BY_HOP: &str = "ipv6_hop_by_hop";
/// As [`HOP_BY_HOP`].
pub(super) const FRAGMENT: &str = "ipv6_fragment";

/// Headers that no guest needs: routing, authentication, destination options, mobility, HIP, Shim6, experiments.
pub(super) const REFUSED_HEADERS: &str = "{ 43, 51, 60, 135, 139, 140, 253, 254 }";
/// Those, and the two that are needed, but not behind another.
const ALL_HEADERS: &str = "{ 0, 43, 44, 51, 60, 135, 139, 140, 253, 254 }";

/// ICMPv6 messages that are about no address: errors and echoes.
pub(super) const HARMLESS: &str = "icmpv6 type { 1, 2, 3, 4, 128, 129 }";
/// A solicitation's nonce (RFC 3971 §5.3.2) as its only option, by which a guest knows its own when it comes back to it
/// (RFC 7527).
pub(super) const ONLY_A_NONCE: &str = "ip6 length 32 @th,192,16 0x0e01";

const HEADER: &str = "counter name extension_header drop";

/// What must be there before the table is flushed and rules are added.
pub(super) fn declare(text: &mut String, table: &str) {
    let _ = write!(
        text,
        "add set bridge {table} bindings6 {{ type ifname . ether_addr . ipv6_addr; }}\n\
         add set bridge {table} neighbours {{ typeof iifname . @th,64,128; }}\n\
         add set bridge {table} link_options {{ typeof iifname . @th,192,64; }}\n"
    );
    for chain in CHAINS {
        let _ = writeln!(text, "add chain bridge {table} {chain}");
    }
}

/// The elements that a binding has in a set.
type Elements = fn(Ipv6Prefix, &Binding) -> String;

/// What makes the elements of a binding in each set: its addresses, the same as targets of messages, and the options by
/// which messages tell its MAC, as a source's and as a target's (RFC 4861 §4.6.1).
pub(super) const ELEMENTS: [(&str, Elements); 3] = [
    ("bindings6", |prefix, binding| {
        let (port, mac) = (&binding.port, binding.mac);
        let element = |of: Ipv6Prefix| format!("\"{port}\" . {mac} . {}", of.address_of(mac));
        format!("{}, {}", element(LINK_LOCAL), element(prefix))
    }),
    ("neighbours", |prefix, binding| {
        let element = |of: Ipv6Prefix| {
            let address = hexadecimal(&of.address_of(binding.mac).octets());
            format!("\"{}\" . 0x{address}", binding.port)
        };
        format!("{}, {}", element(LINK_LOCAL), element(prefix))
    }),
    ("link_options", |_, binding| {
        let (port, mac) = (&binding.port, hexadecimal(&binding.mac.octets()));
        format!("\"{port}\" . 0x0101{mac}, \"{port}\" . 0x0201{mac}")
    }),
];

/// Where guests have no IPv6, none is theirs to send from. Advertisements of routers are counted apart: they are an attempt
/// to become everybody's.
pub(super) fn rules_without(rule: &mut impl FnMut(&str, &str)) {
    for text in [
        "icmpv6 type nd-router-advert counter name router_advertisement drop",
        "counter name other_protocol drop",
    ] {
        rule("ipv6_sender", text);
    }
}

/// The rules of taps.
pub(super) fn rules(rule: &mut impl FnMut(&str, &str)) {
    let mut chain = |chain: &str, texts: &[&str]| {
        for text in texts {
            rule(chain, text);
        }
    };
    chain(
        "ipv6_sender",
        &[
            "ip6 saddr :: goto ipv6_nobody",
            "iifname . ether saddr . ip6 saddr != @bindings6 counter name spoofed_address drop",
            &format!(
                "ip6 nexthdr vmap {{ 0 : goto {HOP_BY_HOP}, 44 : goto {FRAGMENT}, 58 : goto icmpv6_sender }}"
            ),
            &format!("ip6 nexthdr {REFUSED_HEADERS} {HEADER}"),
            // As of IPv4: dnsmasq may log a line for each.
            "udp dport 547 update @dhcp_rate { iifname limit rate over 5/second burst 20 packets } counter name too_many_dhcp drop",
            "udp sport 547 counter name rogue_dhcp_server drop",
            "udp dport 546 counter name rogue_dhcp_server drop",
            "accept",
        ],
    );
    // Without an address a guest listens, looks for a router, and asks whether somebody has an address that is to be its own
    // (RFC 4862 §5.4). Asking for another's could keep that from being taken.
    chain(
        "ipv6_nobody",
        &[
            &format!("ip6 nexthdr 0 goto {HOP_BY_HOP}"),
            "ip6 nexthdr != 58 counter name spoofed_address drop",
            "icmpv6 type 133 ip6 length 8 accept",
            "icmpv6 type != 135 counter name spoofed_address drop",
            "iifname . @th,64,128 != @neighbours counter name spoofed_neighbour drop",
            "ip6 length 24 accept",
            &format!("{ONLY_A_NONCE} accept"),
            "counter name spoofed_neighbour drop",
        ],
    );
    // One header of 8 bytes, and the report right behind it.
    chain(
        HOP_BY_HOP,
        &[
            "@nh,320,16 0x3a00 icmpv6 type { 131, 132, 143 } accept",
            HEADER,
        ],
    );
    // The first fragment tells what all of them are, and it has 8 bytes of it at least. Others alone are nothing.
    chain(
        FRAGMENT,
        &[
            &format!("@nh,320,8 {ALL_HEADERS} {HEADER}"),
            "@nh,336,16 & 0xfff8 != 0 accept",
            &format!("@nh,320,8 58 @nh,384,8 != {{ 128, 129 }} {HEADER}"),
            // Of what a guest asks for no question is so long.
            "@nh,320,8 17 @nh,400,16 547 counter name too_many_dhcp drop",
            "@nh,320,8 17 @nh,384,16 547 counter name rogue_dhcp_server drop",
            "@nh,320,8 17 @nh,400,16 546 counter name rogue_dhcp_server drop",
            "accept",
        ],
    );
    // What routers say: queries of listeners, advertisements, redirects. Whatever else there is, guests don't need.
    chain(
        "icmpv6_sender",
        &[
            "icmpv6 type vmap { 135 : goto solicitation, 136 : goto advertisement }",
            "icmpv6 type { 130, 134, 137 } counter name router_advertisement drop",
            // With its MAC as the only option, or none.
            "icmpv6 type 133 ip6 length 8 accept",
            "icmpv6 type 133 ip6 length 16 iifname . @th,64,64 @link_options accept",
            "icmpv6 type 133 counter name spoofed_neighbour drop",
            &format!("{HARMLESS} accept"),
            "counter name other_protocol drop",
        ],
    );
    // Asking for anybody, and telling one's own MAC by that.
    chain(
        "solicitation",
        &[
            "ip6 length 24 accept",
            "ip6 length 32 iifname . @th,192,64 @link_options accept",
            &format!("{ONLY_A_NONCE} accept"),
            "counter name spoofed_neighbour drop",
        ],
    );
    chain(
        "advertisement",
        &[
            "iifname . @th,64,128 != @neighbours counter name spoofed_neighbour drop",
            "ip6 length 24 accept",
            "ip6 length 32 iifname . @th,192,64 @link_options accept",
            "counter name spoofed_neighbour drop",
        ],
    );
}
