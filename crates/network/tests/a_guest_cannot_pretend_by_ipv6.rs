//! Real frames from real taps: what a guest must not say by IPv6 is counted and arrives nowhere, behind whatever headers.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::net::Ipv6Addr;

use crate::support::frames::{plugged, received_until, send, udp as ipv4_udp};
use crate::support::ipv6::{
    self, ALL_NODES, ALL_ROUTERS, DHCP_SERVERS, ICMP, ROUTER, UDP, behind, fragment, global, local,
    neighbour, packet, prefix, udp,
};
use crate::support::{can_run, machine};
use network::MacAddr;

const NOBODY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
/// The messages (RFC 4861 §4) and their options.
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
const SOURCE: u8 = 1;
const TARGET: u8 = 2;
const NONCE: u8 = 14;
/// Headers before a payload (RFC 8200 §4).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// A message of ICMPv6 without anything in it.
fn bare(kind: u8) -> Vec<u8> {
    let mut message = vec![kind];
    message.resize(24, 0);
    message
}

#[test]
fn spoofed_packets_are_counted_and_arrive_nowhere() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let test = ipv6::host();
    test.run(async |host| {
        let (me, victim) = (machine(5), machine(6));
        let mine = plugged(&host, &me).await;
        let theirs = plugged(&host, &victim).await;
        let (mac, its_mac) = (me.mac, victim.mac);
        let (address, link) = (global(&me), local(&me));
        let gateway = prefix().gateway();
        let unowned = prefix().address_of(MacAddr([2, 0, 172, 16, 0, 77]));
        let from = |source, header, payload: &[u8]| packet(mac, source, ALL_NODES, header, payload);
        let says = |source, message: Vec<u8>| from(source, ICMP, &message);
        let about = |kind, whom, option| says(link, neighbour(kind, whom, option));
        let datagram =
            |source, ports: (u16, u16)| udp((source, ports.0), (ALL_NODES, ports.1), b"something");
        let mut router_solicitation = vec![ROUTER_SOLICITATION, 0, 0, 0, 0, 0, 0, 0, SOURCE, 1];
        let told_its_mac = [router_solicitation.clone(), its_mac.octets().to_vec()].concat();
        router_solicitation.extend(mac.octets());
        let two_options = [
            neighbour(ADVERTISEMENT, address, Some((TARGET, mac))),
            vec![TARGET, 1],
            its_mac.octets().to_vec(),
        ];
        let mut long_options = behind(ICMP, &bare(143));
        long_options[1] = 1;
        let rogue = fragment(UDP, 0, true, &datagram(link, (1000, 546)));
        let asks_in_parts = fragment(UDP, 0, true, &datagram(link, (546, 547)));

        let lies = [
            (
                "spoofed_mac",
                packet(its_mac, link, ALL_NODES, UDP, &datagram(link, (1, 2))),
            ),
            (
                "spoofed_address",
                from(global(&victim), UDP, &datagram(global(&victim), (1, 2))),
            ),
            (
                "spoofed_address",
                from(local(&victim), UDP, &datagram(local(&victim), (1, 2))),
            ),
            (
                "spoofed_address",
                from(unowned, UDP, &datagram(unowned, (1, 2))),
            ),
            (
                "spoofed_address",
                says(gateway, neighbour(ADVERTISEMENT, address, None)),
            ),
            ("spoofed_address", says(ROUTER, bare(ROUTER_ADVERTISEMENT))),
            (
                "spoofed_address",
                from(NOBODY, UDP, &datagram(NOBODY, (1, 2))),
            ),
            ("spoofed_address", says(NOBODY, bare(128))),
            (
                "spoofed_address",
                says(NOBODY, neighbour(ADVERTISEMENT, address, None)),
            ),
            // About others, or with another's MAC.
            (
                "spoofed_neighbour",
                about(ADVERTISEMENT, global(&victim), Some((TARGET, mac))),
            ),
            (
                "spoofed_neighbour",
                about(ADVERTISEMENT, local(&victim), None),
            ),
            (
                "spoofed_neighbour",
                about(ADVERTISEMENT, gateway, Some((TARGET, mac))),
            ),
            (
                "spoofed_neighbour",
                about(ADVERTISEMENT, ROUTER, Some((TARGET, mac))),
            ),
            (
                "spoofed_neighbour",
                about(ADVERTISEMENT, address, Some((TARGET, its_mac))),
            ),
            ("spoofed_neighbour", says(link, two_options.concat())),
            (
                "spoofed_neighbour",
                about(SOLICITATION, global(&victim), Some((SOURCE, its_mac))),
            ),
            ("spoofed_neighbour", says(link, told_its_mac)),
            // That keeps it from taking its address.
            (
                "spoofed_neighbour",
                says(NOBODY, neighbour(SOLICITATION, global(&victim), None)),
            ),
            (
                "spoofed_neighbour",
                says(
                    NOBODY,
                    neighbour(SOLICITATION, address, Some((SOURCE, mac))),
                ),
            ),
            (
                "router_advertisement",
                says(link, bare(ROUTER_ADVERTISEMENT)),
            ),
            ("router_advertisement", says(link, bare(REDIRECT))),
            ("router_advertisement", says(link, bare(130))),
            ("other_protocol", says(link, bare(139))),
            // The same, hidden.
            (
                "extension_header",
                from(link, HOP_BY_HOP, &behind(ICMP, &bare(ROUTER_ADVERTISEMENT))),
            ),
            (
                "extension_header",
                from(NOBODY, HOP_BY_HOP, &behind(ICMP, &bare(SOLICITATION))),
            ),
            ("extension_header", from(link, HOP_BY_HOP, &long_options)),
            (
                "extension_header",
                from(
                    link,
                    HOP_BY_HOP,
                    &behind(DESTINATION_OPTIONS, &behind(ICMP, &bare(134))),
                ),
            ),
            (
                "extension_header",
                from(link, DESTINATION_OPTIONS, &behind(ICMP, &bare(136))),
            ),
            (
                "extension_header",
                from(link, ROUTING, &behind(ICMP, &bare(136))),
            ),
            (
                "extension_header",
                from(link, FRAGMENT, &fragment(ICMP, 0, true, &bare(134))),
            ),
            (
                "extension_header",
                from(link, FRAGMENT, &fragment(ICMP, 0, false, &bare(136))),
            ),
            (
                "extension_header",
                from(
                    link,
                    FRAGMENT,
                    &fragment(DESTINATION_OPTIONS, 0, true, &behind(ICMP, &bare(134))),
                ),
            ),
            (
                "rogue_dhcp_server",
                from(link, UDP, &datagram(link, (547, 546))),
            ),
            (
                "rogue_dhcp_server",
                from(link, UDP, &datagram(link, (1000, 546))),
            ),
            ("rogue_dhcp_server", from(link, FRAGMENT, &rogue)),
            ("too_many_dhcp", from(link, FRAGMENT, &asks_in_parts)),
        ];
        for (_, frame) in &lies {
            send(&mine, frame);
        }
        // Whoever listens to multicast says so to routers alone; what comes in fragments may be put together on the way. So
        // of these it is seen that none is counted.
        let whole = datagram(address, (1000, 2000));
        let first = [&whole[..], &[0; 7]].concat();
        for unseen in [
            from(link, HOP_BY_HOP, &behind(ICMP, &bare(143))),
            from(NOBODY, HOP_BY_HOP, &behind(ICMP, &bare(143))),
            from(address, FRAGMENT, &fragment(UDP, 0, true, &first)),
            from(address, FRAGMENT, &fragment(UDP, 3, false, &[7; 40])),
            from(address, FRAGMENT, &fragment(ICMP, 0, true, &bare(128))),
        ] {
            send(&mine, &unseen);
        }
        let asks = |source, about, option| {
            let message = neighbour(SOLICITATION, about, option);
            packet(mac, source, ALL_NODES, ICMP, &message)
        };
        let honest = [
            asks(NOBODY, address, None),
            asks(NOBODY, link, Some((NONCE, MacAddr([9; 6])))),
            asks(link, global(&victim), Some((SOURCE, mac))),
            asks(address, gateway, Some((SOURCE, mac))),
            about(ADVERTISEMENT, address, Some((TARGET, mac))),
            about(ADVERTISEMENT, link, None),
            packet(mac, link, ALL_ROUTERS, ICMP, &router_solicitation),
            packet(mac, NOBODY, ALL_ROUTERS, ICMP, &router_solicitation[..8]),
            packet(
                mac,
                link,
                DHCP_SERVERS,
                UDP,
                &udp((link, 546), (DHCP_SERVERS, 547), &[11]),
            ),
            from(address, UDP, &datagram(address, (1000, 2000))),
            says(address, bare(128)),
            says(address, bare(2)),
        ];
        for frame in &honest {
            send(&mine, frame);
        }
        let last = ipv4_udp(mac, (me.ip, 1000), 2000, &[9; 40]);
        send(&mine, &last);
        let arrived = received_until(&theirs, &last);
        for (counter, frame) in &lies {
            assert!(!arrived.contains(frame), "{counter}: {frame:02x?} arrived");
        }
        for frame in &honest {
            assert!(arrived.contains(frame), "{frame:02x?} did not arrive");
        }
        let packets = host.audit().await.unwrap().packets;
        for (counter, _) in &lies {
            let expected = lies.iter().filter(|(name, _)| name == counter).count() as u64;
            assert_eq!(packets.get(*counter), Some(&expected), "{counter}");
        }
    });
}

#[test]
fn a_guest_of_a_network_without_ipv6_says_nothing_by_it() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let test = crate::support::TestHost::new();
    test.run(async |host| {
        let me = machine(5);
        let mine = plugged(&host, &me).await;
        let theirs = plugged(&host, &machine(6)).await;
        let link = local(&me);
        let said = [
            packet(me.mac, link, ALL_NODES, ICMP, &bare(128)),
            packet(
                me.mac,
                NOBODY,
                ALL_NODES,
                ICMP,
                &neighbour(SOLICITATION, link, None),
            ),
            packet(
                me.mac,
                link,
                ALL_NODES,
                UDP,
                &udp((link, 1), (ALL_NODES, 2), b"x"),
            ),
        ];
        for frame in &said {
            send(&mine, frame);
        }
        let last = ipv4_udp(me.mac, (me.ip, 1000), 2000, &[9; 40]);
        send(&mine, &last);
        let arrived = received_until(&theirs, &last);
        assert!(
            said.iter().all(|frame| !arrived.contains(frame)),
            "{arrived:02x?}"
        );
        let packets = host.audit().await.unwrap().packets;
        assert_eq!(packets["other_protocol"], said.len() as u64);
    });
}
