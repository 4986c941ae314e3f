//! The same network on several hosts is one by IPv6 too; what belongs to each host stays there.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::net::{IpAddr, Ipv6Addr};

use crate::support::frames::{plugged, received_until, send};
use crate::support::ipv6::{
    self, ALL_NODES, ALL_ROUTERS, DHCP_SERVERS, ICMP, ROUTER, UDP, behind, global, local,
    make_address, make_address_of, neighbour, packet, pings, prefix, udp,
};
use crate::support::lan::{
    Lan, OtherNetwork, Site, Stranger, carries, connect, connection, host_address, listen_at,
    send_in_tunnel,
};
use crate::support::{AAAA, Namespace, ask, can_run, machine};
use network::{Ipv6Prefix, MacAddr, MacPrefix, PlugRequest};

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

/// By what the n-th host speaks to guests, on the network and on the link.
fn own(n: u8) -> [Ipv6Addr; 2] {
    let me = PlugRequest {
        mac: own_mac(n),
        ..machine(n)
    };
    [global(&me), local(&me)]
}

fn own_mac(n: u8) -> MacAddr {
    MacPrefix::default().mac(host_address(n))
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
    let hosts = [&first.test.namespace, &second.test.namespace];
    for (from, to, at, seen_as) in [
        (&five, global(&machine(6)), &six, global(&machine(5))),
        (&six, global(&machine(5)), &five, global(&machine(6))),
        // The hosts themselves, the last one with the neighbours that the first of them made.
        (hosts[0], global(&machine(6)), &six, own(1)[0]),
        (hosts[0], global(&machine(5)), &five, own(1)[0]),
        (hosts[1], global(&machine(5)), &five, own(2)[0]),
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
    // A guest that knew the host from another one, and has come to it.
    five.ip(&format!(
        "neigh replace {} lladdr {} dev eth0",
        own(1)[0],
        own_mac(1)
    ));
    connection(hosts[0], global(&machine(5)), &listen_at(&five, ANY));

    // They don't reach a host by that address, neither theirs nor another's, and no router is there.
    let (_on_host, port) = listen_at(hosts[0], ANY);
    for guest in [&five, &six] {
        assert!(connect(guest, own(1)[0], port).is_err());
        let routes = guest.command("ip", &["-6", "route", "show", "default"]);
        let routes = String::from_utf8(routes.stdout).unwrap();
        assert!(
            routes.contains("via fe80::1 ") && routes.lines().count() == 1,
            "{routes}"
        );
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
fn guests_of_two_networks_of_a_group_reach_each_other_wherever_they_are() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let lan = Lan::new();
    let (first, second) = (site(&lan, 1, &[1, 2]), site(&lan, 2, &[1, 2]));
    let five = guest(&first, 5);
    let other_prefix: Ipv6Prefix = "fd12:5c31:2::/64".parse().unwrap();
    let other = OtherNetwork::new([&first, &second], Some(other_prefix));
    let (guest, address) = (&other.guest, other_prefix.address_of(other.machine.mac));
    make_address_of(guest, address);

    // And once more when nobody knows a neighbour any more, and the answer is the first to be forwarded.
    for _ in 0..2 {
        for (from, to, at, seen_as) in [
            (&five, address, guest, global(&machine(5))),
            (guest, global(&machine(5)), &five, address),
        ] {
            let (here, there, seen) = connection(from, to, &listen_at(at, ANY));
            assert_eq!(seen, IpAddr::from(seen_as));
            carries(&here, &there);
            carries(&there, &here);
        }
        for namespace in [&first.test.namespace, &second.test.namespace, &five, guest] {
            namespace.ip("-6 neigh flush all");
        }
    }
    for site in [&first, &second] {
        assert_eq!(site.counted("tunnel_refused"), 0);
    }
}

/// The host's addresses on the bridge: the oldest of the link last.
fn addresses(site: &Site) -> Vec<String> {
    let arguments = ["-6", "-br", "addr", "show", "dev", "stt-br0"];
    let shown = site.test.namespace.command("ip", &arguments).stdout;
    let shown = String::from_utf8(shown).unwrap();
    shown
        .split_whitespace()
        .skip(2)
        .map(str::to_owned)
        .collect()
}

#[test]
fn hosts_are_joined_and_parted_while_guests_run() {
    if !can_run(&["dnsmasq", "nft", "ping"]) {
        return;
    }
    let lan = Lan::new();
    let (mut first, second) = (site(&lan, 1, &[1, 2]), site(&lan, 2, &[1, 2]));
    let (five, six) = (guest(&first, 5), guest(&second, 6));
    let at_six = listen_at(&six, ANY);
    let alone = [format!("{}/64", prefix().gateway()), format!("{ROUTER}/64")];
    let part = |site: &Site| {
        site.on(async |host| host.set_overlay(None).await.unwrap());
        assert_eq!(addresses(site), alone);
    };
    let is_joined = |first: &Site| {
        let [global, local] = own(1);
        let mut all = alone.to_vec();
        all.insert(0, format!("{global}/128"));
        all.push(format!("{local}/64"));
        assert_eq!(addresses(first), all);
        connection(
            &first.test.namespace,
            crate::support::ipv6::global(&machine(6)),
            &at_six,
        );
        let routes = five.command("ip", &["-6", "route", "show", "default"]);
        let routes = String::from_utf8(routes.stdout).unwrap();
        assert!(
            routes.contains("via fe80::1 ") && routes.lines().count() == 1,
            "{routes}"
        );
        assert!(pings(&five, ROUTER, "56"));
    };
    is_joined(&first);
    part(&first);
    assert!(pings(&five, ROUTER, "56"));
    first.join(1, &[1, 2]);
    is_joined(&first);
    // An earlier version's stand when a new process begins.
    part(&first);
    first.restart();
    first.has(&[machine(5)]);
    is_joined(&first);
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
    // The host is no router for it.
    let outside = udp((address, 1000), (underlay(254), 2000), b"hello");
    let mut by_the_host = packet(me.mac, address, underlay(254), UDP, &outside);
    by_the_host[..6].copy_from_slice(&own_mac(1).octets());
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
        by_the_host,
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
        // As the host that it comes to.
        speaks(own(1)[0]),
        speaks(own(1)[1]),
        packet(
            own_mac(1),
            address,
            ALL_NODES,
            UDP,
            &datagram(address, 2000),
        ),
        advertises(own(1)[0], me.mac),
        advertises(own(1)[1], me.mac),
        advertises(address, own_mac(1)),
        about(ANY, 135, own(1)[0], None),
        from(link, 60, &behind(ICMP, &[136; 24])),
    ];
    for frame in &lies {
        send_in_tunnel(&peer.namespace, frame, 1);
    }
    let hidden = from(link, 0, &behind(ICMP, &[134; 24]));
    send_in_tunnel(&peer.namespace, &hidden, 1);
    let honest = [
        speaks(link),
        // As another host.
        speaks(own(2)[0]),
        about(own(2)[1], 135, global(&machine(5)), Some((1, own_mac(2)))),
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
    let nobody = global(&machine(9));
    pings(&site.test.namespace, nobody, "56");
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
    let mut questions = 0;
    for frame in &left {
        assert!(!kept.contains(frame), "{frame:02x?} left");
        if frame[12..14] != [0x86, 0xdd] || frame[6..12] == me.mac.octets() {
            continue;
        }
        // The host's question, with its own MAC and not the gateway's, and with a sum that is right.
        assert_eq!(frame[6..12], own_mac(1).octets(), "{frame:02x?}");
        let source: [u8; 16] = frame[22..38].try_into().unwrap();
        assert!(own(1).contains(&source.into()), "{frame:02x?}");
        let message = &frame[54..];
        let asks_for = [&[135, 0][..], &nobody.octets()].map(<[u8]>::to_vec);
        assert_eq!(
            [&message[..2], &message[8..24]].map(<[u8]>::to_vec),
            asks_for
        );
        assert_eq!(message[24..26], [1, 1]);
        assert_eq!(message[26..32], own_mac(1).octets());
        assert_eq!(sum_of(frame), 0xffff, "{frame:02x?}");
        questions += 1;
    }
    assert!(questions > 0, "{left:02x?}");
}

/// The one's complement sum that a receiver makes of a message of ICMPv6 (RFC 4443 §2.3): 0xffff if it is whole.
fn sum_of(frame: &[u8]) -> u32 {
    let (addresses, message) = (&frame[22..54], &frame[54..]);
    let words = [addresses, message]
        .into_iter()
        .flat_map(|part| part.chunks(2));
    let sum = words.map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum = sum.sum::<u32>() + message.len() as u32 + u32::from(ICMP);
    (sum & 0xffff) + (sum >> 16)
}
