//! What crosses the cable to the site's Ethernet, and what stays on this side: DHCP, our own address, and all but IPv4 and ARP.
//! What guests send was checked at their taps.
//!
//! The host is a station of the site, too. Guests get no more of it there than on a network of ours.

use std::fmt::Write as _;

use super::{RARP, Ruleset};
use crate::address::MacPrefix;
use crate::site::Site;

/// The chains of the bridge table, there as long as there is a cable.
const CHAINS: [(&str, &str); 2] = [
    (
        "leaving_to_site",
        "{ type filter hook postrouting priority 300; policy accept; }",
    ),
    ("from_site", ""),
];

/// Counters of the bridge table: what was kept from leaving, and what was refused that came.
const COUNTERS: [&str; 2] = ["site_kept", "site_refused"];

/// The ports of DHCP, servers' and clients'.
const DHCP: &str = "{ 67, 68 }";

/// What must be there before the table is flushed and rules are added.
pub(super) fn declare_bridge(text: &mut String, table: &str) {
    for counter in COUNTERS {
        let _ = writeln!(text, "add counter bridge {table} {counter}");
    }
    for (chain, hook) in CHAINS {
        let _ = writeln!(text, "add chain bridge {table} {chain} {hook}");
    }
}

/// The rules of the bridge table; without a cable there are not even the chains. To be added before the rules of taps.
pub(super) fn bridge_rules(text: &mut String, rules: &Ruleset) {
    let table = rules.table();
    if rules.site.is_none() {
        for (chain, _) in CHAINS {
            let _ = writeln!(text, "delete chain bridge {table} {chain}");
        }
        return;
    }
    let mut rule = |chain: &str, rule: &str| {
        let _ = writeln!(text, "add rule bridge {table} {chain} {rule}");
    };
    let cable = rules.instance.uplink();
    let (own, own_mac) = (rules.gateway, MacPrefix::default().mac(rules.gateway));
    rule("guests", &format!("iifname \"{cable}\" goto from_site"));
    rule("leaving_to_site", &format!("oifname != \"{cable}\" accept"));
    // Where its guests are the site has to know, and no guest that of others.
    for (chain, counter, protocols) in [
        (
            "leaving_to_site",
            "site_kept",
            format!("{{ ip, arp, {RARP} }}"),
        ),
        ("from_site", "site_refused", "{ ip, arp }".to_owned()),
    ] {
        let dropped = format!("counter name {counter} drop");
        for what in [
            format!("ether saddr {own_mac}"),
            format!("ether daddr {own_mac}"),
            format!("ether type != {protocols}"),
            format!("arp saddr ip {own}"),
            format!("arp daddr ip {own}"),
            format!("ip saddr {own}"),
            format!("ip daddr {own}"),
            format!("udp sport {DHCP}"),
            format!("udp dport {DHCP}"),
        ] {
            rule(chain, &format!("{what} {dropped}"));
        }
    }
    rule("from_site", "accept");
}

/// Rules of the IP table: what comes by the operator's bridge with an address of guests is from guests.
pub(super) fn ip_rules(rule: &mut impl FnMut(&str, &str), site: &Site) {
    let Site {
        bridge,
        first,
        last,
        ..
    } = site;
    let from_guests = format!("iifname \"{bridge}\" ip saddr {first}-{last}");
    rule("input", &format!("{from_guests} jump to_host"));
    // What the host forwards for others of the site it doesn't forward for guests: their router is the site's.
    rule(
        "forward",
        &format!("{from_guests} oifname != \"{bridge}\" drop"),
    );
}
