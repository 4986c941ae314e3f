//! The same network on several hosts is one by IPv6 too; what belongs to each host stays there.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::net::{IpAddr, Ipv6Addr};

use crate::support::frames::{plugged, received_until, send};
use crate::support::ipv6::{
    self, ALL_NODES, ALL_ROUTERS, DHCP_SERVERS, ICMP, ROUTER, UDP, behind, global, local,
    make_address, neighbour, packet, pings, prefix, udp,
};
use crate::support::lan::{Lan, Site, Stranger, carries, connection, listen_at, send_in_tunnel};
use crate::support::{AAAA, Namespace, ask, can_run, machine};
use network::{MacAddr, MacPrefix};

const ANY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
/// The network between the hosts: the world has the last address.
const UNDERLAY: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xbeef, 0, 0, 0, 0, 0, 0);

fn underlay(n: u8) -> Ipv6Addr {
    Ipv6Addr::from_bits(UNDERLAY.to_bits() + u128::from(n))
}

fn site(lan: &Lan, n: u8, peers: &[u8]) -> Site {
    let site = Site::of(ipv6::host(), lan, n, peers);
    let namespace = &site.test.namespace;
    namespace.ip(&format!("addr add {}/64 dev up0 nodad", underlay(n)));
    site
}

/// A guest that has made its address.
fn guest(site: &Site, n: u8) -> Namespace {
    let guest = site.guest(&machine(n));
    site.has(&[machine(n)]);
    make_address(&guest, &machine(n));
    guest
}

#[test]
fn guests_reach_each_other_and_the_world_wherever_they_are() {
    if !can_run(&["dnsmasq", "nft", "ping"]) {
        return;
    }
    let lan = Lan::new();
    lan.0
        .ip(&format!("addr add {}/64 dev sw0 nodad", underlay(254)));
    let (first, second) = (site(&lan, 1, &[1, 2]), site(&lan, 2, &[1, 2]));
    let (five, six) = (guest(&first, 5), guest(&second, 6));
    for (from, to, at, seen_as) in [
        (&five, global(&machine(6)), &six, global(&machine(5))),
        (&six, global(&machine(5)), &five, global(&machine(6))),
        // Each by its own host.
        (&five, underlay(254), &lan.0, underlay(1)),
        (&six, underlay(254), &lan.0, underlay(2)),
    ] {
        let (here, there, seen) = connection(from, to, &listen_at(at, ANY));
        assert_eq!(seen, IpAddr::from(seen_as));
        carries(&here, &there);
        carries(&there, &here);
    }
    for site in [&first, &second] {
        assert_eq!(site.missing(), Vec::<String>::new());
        assert_eq!(site.counted("tunnel_refused"), 0);
    }

    // The router is the one of the own host, by both of its addresses, and by no other host.
    let gateway = prefix().gateway();
    let router_answers = || {
        six.ip("neigh flush dev eth0");
        [gateway, ROUTER].map(|router| pings(&six, router, "56"))
    };
    first.test.namespace.ip("link set up0 down");
    assert_eq!(router_answers(), [true, true]);
    let name = "vm-fd12-5c31-1--acff-fe10-5.cloud.test";
    let known = six.enter(|| ask(gateway, name, AAAA));
    assert_eq!(known, (0, vec![global(&machine(5)).to_string()]));
    first.test.namespace.ip("link set up0 up");
    let bridge = &second.test.namespace;
    bridge.ip(&format!("addr del {gateway}/64 dev stt-br0"));
    bridge.ip(&format!("addr del {ROUTER}/64 dev stt-br0"));
    assert_eq!(router_answers(), [false, false]);
}

#[test]
fn only_what_a_guest_of_the_network_can_say_comes_out_of_the_tunnel() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let lan = Lan::new();
    let site = site(&lan, 1, &[1, 8]);
    let peer = Stranger::new(&lan, 8);
    let tap = site.on(async |host| plugged(host, &machine(5)).await);
    let me = machine(6);
    let (address, link, gateway) = (global(&me), local(&me), prefix().gateway());
    let gateway_mac = MacPrefix::default().mac(site.test.config.gateway);
    let foreign = MacAddr([0x52, 0x54, 0, 0, 0, 6]);
    let unowned = Ipv6Addr::from_bits(gateway.to_bits() + 0x76);
    let other_network = prefix().address_of(MacPrefix::default().mac([172, 17, 0, 6].into()));
    let elsewhere = Ipv6Addr::from_bits(address.to_bits() ^ 1 << 64);
    let from = |source, header, payload: &[u8]| packet(me.mac, source, ALL_NODES, header, payload);
    let datagram = |source, port| udp((source, 1000), (ALL_NODES, port), b"hello");
    let speaks = |source| from(source, UDP, &datagram(source, 2000));
    let says = |kind: u8| {
        let mut message = vec![kind];
        message.resize(24, 0);
        from(link, ICMP, &message)
    };
    let about = |source, kind, whom, option| from(source, ICMP, &neighbour(kind, whom, option));
    let advertises = |whom, mac| about(link, 136, whom, Some((2, mac)));
    let lies = [
        speaks(gateway),
        speaks(ROUTER),
        speaks(unowned),
        speaks(other_network),
        speaks(elsewhere),
        speaks(Ipv6Addr::from_bits(ROUTER.to_bits() + 0x76)),
        speaks(ANY),
        packet(me.mac, address, gateway, UDP, &datagram(address, 2000)),
        packet(me.mac, link, ROUTER, UDP, &datagram(link, 2000)),
        packet(
            gateway_mac,
            address,
            ALL_NODES,
            UDP,
            &datagram(address, 2000),
        ),
        packet(foreign, address, ALL_NODES, UDP, &datagram(address, 2000)),
        from(link, UDP, &udp((link, 547), (ALL_NODES, 546), b"x")),
        packet(
            me.mac,
            link,
            DHCP_SERVERS,
            UDP,
            &udp((link, 546), (DHCP_SERVERS, 547), b"x"),
        ),
        says(130),
        says(133),
        says(134),
        says(137),
        says(139),
        advertises(gateway, me.mac),
        advertises(ROUTER, me.mac),
        advertises(unowned, me.mac),
        advertises(other_network, me.mac),
        advertises(address, gateway_mac),
        advertises(address, foreign),
        about(link, 135, gateway, Some((1, me.mac))),
        about(link, 135, global(&machine(5)), Some((1, gateway_mac))),
        about(ANY, 135, gateway, None),
        about(ANY, 136, address, None),
        from(link, 60, &behind(ICMP, &[136; 24])),
    ];
    for frame in &lies {
        send_in_tunnel(&peer.namespace, frame, 1);
    }
    let hidden = from(link, 0, &behind(ICMP, &[134; 24]));
    send_in_tunnel(&peer.namespace, &hidden, 1);
    let honest = [
        speaks(link),
        about(ANY, 135, address, Some((14, MacAddr([9; 6])))),
        about(ANY, 135, link, None),
        about(link, 135, global(&machine(5)), Some((1, me.mac))),
        advertises(address, me.mac),
        about(address, 136, link, None),
        says(128),
    ];
    for frame in &honest {
        send_in_tunnel(&peer.namespace, frame, 1);
    }
    let last = speaks(address);
    send_in_tunnel(&peer.namespace, &last, 1);
    let arrived = received_until(&tap, &last);
    for frame in lies.iter().chain([&hidden]) {
        assert!(!arrived.contains(frame), "{frame:02x?} arrived");
    }
    for frame in &honest {
        assert!(arrived.contains(frame), "{frame:02x?} did not arrive");
    }
    assert_eq!(site.counted("tunnel_refused"), lies.len() as u64);
    assert_eq!(site.counted("extension_header"), 1);
}

#[test]
fn what_belongs_to_a_host_does_not_leave_it() {
    if !can_run(&["dnsmasq", "nft", "ping"]) {
        return;
    }
    let lan = Lan::new();
    let site = site(&lan, 1, &[8]);
    let peer = Stranger::new(&lan, 8);
    let me = machine(5);
    let tap = site.on(async |host| plugged(host, &me).await);
    let (address, link) = (global(&me), local(&me));
    let asks = |whom| {
        let message = neighbour(135, whom, Some((1, me.mac)));
        packet(me.mac, link, ALL_NODES, ICMP, &message)
    };
    let question = udp((link, 546), (DHCP_SERVERS, 547), &[11, 1, 2, 3]);
    let kept = [
        asks(prefix().gateway()),
        asks(ROUTER),
        packet(me.mac, link, ALL_ROUTERS, ICMP, &[133, 0, 0, 0, 0, 0, 0, 0]),
        packet(me.mac, link, DHCP_SERVERS, UDP, &question),
    ];
    for frame in &kept {
        send(&tap, frame);
    }
    // It looks for a guest that nobody has.
    pings(&site.test.namespace, global(&machine(9)), "56");
    let leaves = asks(global(&machine(6)));
    send(&tap, &leaves);
    let last = packet(
        me.mac,
        address,
        ALL_NODES,
        UDP,
        &udp((address, 1), (ALL_NODES, 2), b"x"),
    );
    send(&tap, &last);
    let left = peer.received_until(&last);
    assert!(left.contains(&leaves), "{left:02x?}");
    for frame in &left {
        let is_ipv6 = frame[12..14] == [0x86, 0xdd];
        assert!(!is_ipv6 || frame[6..12] == me.mac.octets(), "{frame:02x?}");
        assert!(!kept.contains(frame), "{frame:02x?} left");
    }
}
