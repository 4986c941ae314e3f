//! The same network on several hosts is one; what belongs to each host stays there.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use crate::support::frames::{BROADCAST, arp, dhcp_discover, ethernet, plugged, received_until};
use crate::support::frames::{rarp, router_advertisement, send, udp};
use crate::support::lan::{
    Lan, OtherNetwork, Site, Stranger, carries, connect, connection, host_address, in_tunnel,
    listen, overlay, send_in_tunnel, underlay,
};
use crate::support::{A, Namespace, PTR, ask, can_run, dhcp, machine, run};
use network::{DhcpHealth, MacAddr, MacPrefix, NetworkError, Overlay, PlugRequest, VXLAN_PORT};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);

fn gateway_mac() -> MacAddr {
    MacPrefix::default().mac(GATEWAY)
}

/// Two hosts, joined, with a guest each: 5 on the first, 6 on the second.
fn two_hosts(lan: &Lan) -> (Site, Namespace, Site, Namespace) {
    let sites = [Site::new(lan, 1, &[1, 2]), Site::new(lan, 2, &[1, 2])];
    let guests = [(5, &sites[0]), (6, &sites[1])].map(|(n, site)| {
        let guest = site.guest(&machine(n));
        site.has(&[machine(n)]);
        guest
    });
    let ([first, second], [five, six]) = (sites, guests);
    (first, five, second, six)
}

#[test]
fn guests_and_hosts_reach_each_other_wherever_they_are() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let lan = Lan::new();
    let (first, five, second, six) = two_hosts(&lan);
    let (at_five, at_six) = (listen(&five), listen(&six));
    let hosts = [&first.test.namespace, &second.test.namespace];
    let to_five = (machine(5).ip, &at_five);
    let to_six = (machine(6).ip, &at_six);
    for (from, (to, listener), seen_as) in [
        (&five, to_six, machine(5).ip),
        (&six, to_five, machine(6).ip),
        (hosts[0], to_six, host_address(1)),
        (hosts[0], to_five, host_address(1)),
        (hosts[1], to_five, host_address(2)),
    ] {
        let (here, there, seen) = connection(from, to, listener);
        assert_eq!(seen, IpAddr::from(seen_as));
        carries(&here, &there);
        carries(&there, &here);
    }
    for site in [&first, &second] {
        assert_eq!(site.missing(), Vec::<String>::new());
    }

    // A guest that knew the host from another one, and has come to it.
    let own = MacPrefix::default().mac(host_address(1));
    five.ip(&format!(
        "neigh replace {} lladdr {own} dev eth0",
        host_address(1)
    ));
    connection(hosts[0], machine(5).ip, &at_five);

    // Guests don't reach a host by that address, neither theirs nor another's.
    let (_on_host, port) = listen(hosts[0]);
    for guest in [&five, &six] {
        assert!(connect(guest, host_address(1), port).is_err());
    }

    // Without an address of its own a host speaks as the gateway, to which guests elsewhere answer elsewhere.
    first.on(async |host| {
        let overlay = Overlay {
            host_address: None,
            ..overlay(1, &[2])
        };
        host.set_overlay(Some(overlay)).await.unwrap();
    });
    assert!(connect(hosts[0], machine(6).ip, at_six.1).is_err());
    let (_here, _there, seen) = connection(hosts[0], machine(5).ip, &at_five);
    assert_eq!(seen, IpAddr::from(GATEWAY));
    first.join(1, &[2]);
    connection(hosts[0], machine(6).ip, &at_six);
}

/// How many answer when a guest asks for the gateway's MAC.
fn answers_for_gateway(guest: &Namespace) -> usize {
    let asked = guest.command(
        "busybox",
        &[
            "arping",
            "-c",
            "1",
            "-w",
            "1",
            "-I",
            "eth0",
            &GATEWAY.to_string(),
        ],
    );
    let said = String::from_utf8_lossy(&asked.stdout).into_owned();
    assert!(said.contains("Received"), "{asked:?}");
    said.matches("reply from").count()
}

#[test]
fn the_gateway_and_dhcp_are_those_of_the_own_host_only() {
    if !can_run(&["dnsmasq", "nft", "busybox"]) {
        return;
    }
    let lan = Lan::new();
    let (first, _five, second, six) = two_hosts(&lan);
    // The first would answer: it takes the guest of the second for one of its own that doesn't run.
    first.has(&[machine(5), machine(6)]);
    assert_eq!(answers_for_gateway(&six), 1);
    let told = dhcp(&six, second.test.folder.path()).unwrap();
    for (key, value) in [
        ("ip", "172.16.0.6"),
        ("mtu", "1450"),
        ("router", "172.16.0.1"),
        ("serverid", "172.16.0.1"),
    ] {
        assert_eq!(told.get(key).map(String::as_str), Some(value), "{key}");
    }

    second.test.namespace.ip("link set stt-br0 arp off");
    assert_eq!(answers_for_gateway(&six), 0);
    let health = second.on(async |host| host.dhcp_health().unwrap().borrow().clone());
    let DhcpHealth::Running { pid } = health else {
        panic!("{health:?}")
    };
    let signal = |name: &str| run("kill", &[name, &pid.to_string()]);
    signal("-STOP");
    let told = dhcp(&six, second.test.folder.path());
    signal("-CONT");
    assert_eq!(told, None);
}

#[test]
fn guests_know_the_names_of_all_others_whatever_becomes_of_their_hosts() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let lan = Lan::new();
    let (_first, five, second, six) = two_hosts(&lan);
    let names_of = |guest: &Namespace, other: u8| {
        let forward = format!("vm-172-16-0-{other}.cloud.test");
        let backward = format!("{other}.0.16.172.in-addr.arpa");
        guest.enter(|| {
            let address = machine(other).ip.to_string();
            assert_eq!(ask(GATEWAY, &forward, A), (0, vec![address]));
            assert_eq!(ask(GATEWAY, &backward, PTR), (0, vec![forward.clone()]));
        });
    };
    names_of(&five, 6);
    names_of(&six, 5);
    second.test.namespace.ip("link set up0 down");
    names_of(&five, 6);
    names_of(&six, 5);
}

#[test]
fn a_host_that_dies_takes_only_its_own_guests_along() {
    if !can_run(&["dnsmasq", "nft", "busybox"]) {
        return;
    }
    let lan = Lan::new();
    let (first, five, second, six) = two_hosts(&lan);
    let in_world = listen(&lan.0);
    connection(&six, machine(5).ip, &listen(&five));
    drop((first, five));
    assert!(dhcp(&six, second.test.folder.path()).is_some());
    let (here, there, seen) = connection(&six, Lan::WORLD, &in_world);
    assert_eq!(seen, IpAddr::from(underlay(2)), "by its own host");
    carries(&there, &here);
}

#[test]
fn hosts_come_and_go_and_daemons_restart_without_a_broken_connection() {
    if !can_run(&["dnsmasq", "nft", "bridge"]) {
        return;
    }
    let lan = Lan::new();
    let (mut first, five, second, six) = two_hosts(&lan);
    let third = Site::new(&lan, 3, &[1, 2, 3]);
    let seven = third.guest(&machine(7));
    third.has(&[machine(7)]);
    let at_seven = listen(&seven);
    let (here, there, _) = connection(&five, machine(6).ip, &listen(&six));
    let device = || {
        let shown = run("ip", &["-n", &first.test.namespace.name, "-o", "link"]);
        let number = shown.lines().find(|line| line.contains("stt-vx0"));
        number.map(|line| line.split(':').next().unwrap().to_owned())
    };
    let made = device();
    assert!(made.is_some());
    let goes_on = || {
        carries(&here, &there);
        carries(&there, &here);
    };

    // From the host, so that no guest asked for a MAC in vain before.
    assert!(connect(&first.test.namespace, machine(7).ip, at_seven.1).is_err());
    for _ in 0..2 {
        first.join(1, &[1, 2, 3]);
        second.join(2, &[1, 2, 3]);
        goes_on();
    }
    connection(&five, machine(7).ip, &at_seven);
    connection(&six, machine(7).ip, &at_seven);

    // Nothing of it is left where it was learnt, and what it sends is a stranger's.
    first.join(1, &[1, 2]);
    goes_on();
    let known = first
        .test
        .namespace
        .command("bridge", &["fdb", "show", "dev", "stt-vx0"]);
    let known = String::from_utf8(known.stdout).unwrap();
    assert!(
        known.contains("192.0.2.2") && !known.contains("192.0.2.3"),
        "{known}"
    );
    let refused = connect(&seven, machine(5).ip, 1).err();
    assert!(refused.is_some() && refused != Some(ErrorKind::ConnectionRefused));
    assert!(first.counted("tunnel_stranger") > 0);
    assert_eq!(device(), made);

    first.test.config.overlay = Some(overlay(1, &[1, 2]));
    first.restart();
    goes_on();
    first.has(&[machine(5)]);
    goes_on();
    let shown = run("ip", &["-n", &first.test.namespace.name, "-o", "link"]);
    let number = made.unwrap();
    assert!(shown.contains(&format!("{number}: stt-vx0")), "{shown}");
    assert_eq!(first.missing(), Vec::<String>::new());
}

#[test]
fn a_tunnel_that_others_took_away_is_seen_and_set_up_again_and_goes_when_it_is_not_wanted() {
    if !can_run(&["dnsmasq", "nft", "bridge"]) {
        return;
    }
    let lan = Lan::new();
    let (first, five, second, six) = two_hosts(&lan);
    let at_six = listen(&six);
    let bridge = [
        "fdb",
        "del",
        "00:00:00:00:00:00",
        "dev",
        "stt-vx0",
        "dst",
        "192.0.2.2",
    ];
    let namespace = &first.test.namespace;
    let harms: [(&str, &dyn Fn()); 4] = [
        ("is not there", &|| namespace.ip("link del stt-vx0")),
        ("is down", &|| namespace.ip("link set stt-vx0 down")),
        ("is not on the bridge", &|| {
            namespace.ip("link set stt-vx0 nomaster");
        }),
        ("doesn't lead to 192.0.2.2", &|| {
            assert!(namespace.command("bridge", &bridge).status.success());
        }),
    ];
    for (seen, harm) in harms {
        harm();
        let missing = first.missing().join("; ");
        assert!(missing.contains(seen), "{missing}");
        first.has(&[machine(5)]);
        assert_eq!(first.missing(), Vec::<String>::new());
        connection(&five, machine(6).ip, &at_six);
    }
    // The gateway's address comes back as the first, by which dnsmasq knows the network.
    namespace.ip("addr del 172.16.0.1/24 dev stt-br0");
    first.has(&[machine(5)]);
    let addresses = run(
        "ip",
        &[
            "-n",
            &namespace.name,
            "-4",
            "-br",
            "addr",
            "show",
            "stt-br0",
        ],
    );
    let addresses: Vec<_> = addresses.split_whitespace().skip(2).collect();
    assert_eq!(addresses, ["172.16.0.1/24", "172.16.0.201/32"]);
    connection(namespace, machine(6).ip, &at_six);

    let audit = first.on(async |host| host.audit().await.unwrap());
    assert_eq!(audit.tunnel.unwrap().as_str(), "stt-vx0");
    assert_eq!(audit.taps.len(), 1, "{:?}", audit.taps);

    first.on(async |host| host.set_overlay(None).await.unwrap());
    let audit = first.on(async |host| host.audit().await.unwrap());
    assert_eq!((audit.tunnel, audit.missing), (None, Vec::new()));
    assert!(connect(&five, machine(6).ip, at_six.1).is_err());
    second.on(async |host| host.teardown().await.unwrap());
    let left = run("ip", &["-n", &second.test.namespace.name, "-br", "link"]);
    assert!(!left.contains("stt-"), "{left}");
}

#[test]
fn a_tunnel_of_an_earlier_run_goes_with_the_wish_for_it() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let lan = Lan::new();
    let mut site = Site::new(&lan, 1, &[2]);
    site.test.config.overlay = None;
    site.restart();
    let audit = site.on(async |host| host.audit().await.unwrap());
    assert_eq!((audit.tunnel, audit.missing), (None, Vec::new()));
}

#[test]
fn only_what_a_guest_of_the_network_can_send_comes_out_of_the_tunnel() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let lan = Lan::new();
    let site = Site::new(&lan, 1, &[1, 8]);
    let (peer, stranger) = (Stranger::new(&lan, 8), Stranger::new(&lan, 9));
    let tap = site.on(async |host| plugged(host, &machine(5)).await);
    let (me, own) = (machine(6), MacPrefix::default().mac(host_address(1)));
    let outside = Ipv4Addr::new(172, 17, 0, 6);
    let foreign = MacAddr([0x52, 0x54, 0, 0, 0, 6]);
    let say = |mac, ip| udp(mac, (ip, 1000), 2000, &[7; 40]);
    let mut to_gateway = say(me.mac, me.ip);
    to_gateway[..6].copy_from_slice(&gateway_mac().octets());
    // The host is no router for it.
    let mut by_the_host = say(me.mac, me.ip);
    by_the_host[..6].copy_from_slice(&own.octets());
    let mut asks_for_gateway = arp(me.mac, me.mac, me.ip);
    asks_for_gateway[38..42].copy_from_slice(&GATEWAY.octets());
    let lies = [
        by_the_host,
        say(gateway_mac(), me.ip),
        say(me.mac, GATEWAY),
        to_gateway,
        say(foreign, me.ip),
        say(me.mac, outside),
        say(own, me.ip),
        say(me.mac, host_address(1)),
        arp(gateway_mac(), gateway_mac(), GATEWAY),
        arp(me.mac, me.mac, GATEWAY),
        arp(me.mac, gateway_mac(), me.ip),
        arp(me.mac, foreign, me.ip),
        arp(me.mac, me.mac, outside),
        arp(me.mac, me.mac, host_address(1)),
        arp(me.mac, own, me.ip),
        asks_for_gateway,
        dhcp_discover(me.mac, me.mac),
        udp(me.mac, (me.ip, 67), 68, &[2; 300]),
        router_advertisement(me.mac),
        ethernet(BROADCAST, me.mac, 0x8100, &[0, 5, 8, 6, 0, 0]),
    ];
    for frame in &lies {
        send_in_tunnel(&peer.namespace, frame, 1);
    }
    send_in_tunnel(&stranger.namespace, &say(me.mac, me.ip), 1);
    send_in_tunnel(&peer.namespace, &rarp(me.mac), 1);
    send_in_tunnel(&peer.namespace, &rarp(foreign), 1);
    let last = udp(me.mac, (me.ip, 1000), 2000, &[9; 40]);
    send_in_tunnel(&peer.namespace, &last, 1);
    let arrived = received_until(&tap, &last);
    assert!(arrived.contains(&rarp(me.mac)), "{arrived:02x?}");
    assert!(!arrived.contains(&rarp(foreign)), "{arrived:02x?}");
    for frame in lies.iter().chain([&say(me.mac, me.ip)]) {
        assert!(!arrived.contains(frame), "{frame:02x?} arrived");
    }
    assert_eq!(site.counted("tunnel_refused"), lies.len() as u64 + 1);
    assert_eq!(site.counted("tunnel_stranger"), 1);
}

#[test]
fn what_belongs_to_a_host_does_not_leave_it() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let lan = Lan::new();
    let site = Site::new(&lan, 1, &[8]);
    let peer = Stranger::new(&lan, 8);
    let me = machine(5);
    let tap = site.on(async |host| plugged(host, &me).await);
    let mut asks_for_gateway = arp(me.mac, me.mac, me.ip);
    asks_for_gateway[38..42].copy_from_slice(&GATEWAY.octets());
    let kept = [asks_for_gateway, dhcp_discover(me.mac, me.mac)];
    for frame in &kept {
        send(&tap, frame);
    }
    // The host speaks to guests elsewhere: with its own address and MAC only. As the gateway it can ask, not speak.
    let namespace = &site.test.namespace;
    let (known, unknown) = (machine(6), machine(9));
    namespace.ip(&format!(
        "neigh add {} lladdr {} dev stt-br0",
        known.ip, known.mac
    ));
    let elsewhere = |guest: &PlugRequest| SocketAddr::from((guest.ip, 9));
    say(namespace, GATEWAY, elsewhere(&known), b"hello");
    say(namespace, GATEWAY, elsewhere(&unknown), b"hello");
    say(namespace, host_address(1), elsewhere(&known), b"hello");
    // A guest that has come says so.
    send(&tap, &rarp(me.mac));
    let last = udp(me.mac, (me.ip, 1000), 2000, &[9; 40]);
    send(&tap, &last);
    let mut left = peer.received_until(&last);
    let all = left.len();
    left.retain(|frame| *frame != rarp(me.mac));
    assert_eq!(all - left.len(), 1, "{left:02x?}");
    for frame in &kept {
        assert!(!left.contains(frame), "{frame:02x?} left");
    }
    let own = (host_address(1), MacPrefix::default().mac(host_address(1)));
    let (mut asked, mut spoken) = (0, 0);
    for frame in &left {
        assert_eq!(frame[6..12], own.1.octets(), "{frame:02x?}");
        if frame[12..14] == [8, 6] {
            assert_eq!(frame[22..28], own.1.octets(), "the sender's MAC within ARP");
            assert_eq!(frame[28..32], own.0.octets());
            assert_eq!(frame[38..42], unknown.ip.octets());
            asked += 1;
        } else {
            assert_eq!(frame[26..30], own.0.octets());
            spoken += 1;
        }
    }
    assert_eq!((asked, spoken), (1, 1), "{left:02x?}");
}

/// Sends from a guest with whatever of its addresses.
fn say(guest: &Namespace, from: Ipv4Addr, to: SocketAddr, words: &[u8]) {
    guest.enter(|| {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.send_to(words, to).unwrap();
    });
}

#[test]
fn a_guest_can_not_pretend_to_be_one_of_another_host() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let lan = Lan::new();
    let (first, _five, second, six) = two_hosts(&lan);
    let seven = first.guest(&machine(7));
    first.has(&[machine(5), machine(7)]);
    let heard = seven.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
    let to = SocketAddr::from((machine(7).ip, heard.local_addr().unwrap().port()));
    six.ip("addr add 172.16.0.5/32 dev eth0");
    // So that it needs no ARP, which would be dropped already.
    six.ip(&format!(
        "neigh add {} lladdr {} dev eth0",
        machine(7).ip,
        machine(7).mac
    ));
    say(&six, machine(5).ip, to, b"from five");
    say(&six, machine(6).ip, to, b"from six");
    let mut words = [0; 20];
    let length = heard.recv(&mut words).unwrap();
    assert_eq!(&words[..length], b"from six");
    assert_eq!(second.counted("spoofed_address"), 1);
}

#[test]
fn a_guest_can_not_speak_as_the_tunnel_of_its_host() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let lan = Lan::new();
    let (first, _five, second, six) = two_hosts(&lan);
    let tap = first.on(async |host| plugged(host, &machine(7)).await);
    let me = machine(6);
    let to = SocketAddr::from((underlay(1), VXLAN_PORT));
    // Behind its host's address it would be one of the peers.
    let forged = udp(machine(5).mac, (machine(5).ip, 1000), 2000, &[7; 40]);
    say(&six, me.ip, to, &in_tunnel(&forged));
    assert_eq!(second.counted("tunnel_forged"), 1);
    let honest = udp(me.mac, (me.ip, 1000), 2000, &[9; 40]);
    send_in_tunnel(&second.test.namespace, &honest, 1);
    assert!(!received_until(&tap, &honest).contains(&forged));
}

#[test]
fn guests_of_two_networks_of_a_group_reach_each_other_wherever_they_are() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let lan = Lan::new();
    let (first, five, second, _six) = two_hosts(&lan);
    let other = OtherNetwork::new([&first, &second], None);
    let (guest, at) = (&other.guest, other.machine.ip);
    guest.ip(&format!("addr add {at}/24 dev eth0"));
    guest.ip("route add default via 172.17.0.1");

    for (from, to, listener, seen_as) in [
        (&five, at, listen(guest), machine(5).ip),
        (guest, machine(5).ip, listen(&five), at),
    ] {
        let (here, there, seen) = connection(from, to, &listener);
        assert_eq!(seen, IpAddr::from(seen_as));
        carries(&here, &there);
        carries(&there, &here);
    }
}

#[test]
fn an_overlay_that_can_not_work_is_told_and_changes_nothing() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let lan = Lan::new();
    let mut site = Site::new(&lan, 1, &[2]);
    let refused = |site: &Site, overlay: Overlay| {
        site.on(async |host| host.set_overlay(Some(overlay)).await.unwrap_err())
    };
    let elsewhere = Overlay {
        local: underlay(77),
        ..overlay(1, &[2])
    };
    let told = refused(&site, elsewhere);
    assert!(matches!(told, NetworkError::TunnelAddress { .. }), "{told}");
    let of_the_gateway = Overlay {
        host_address: Some(GATEWAY),
        ..overlay(1, &[2])
    };
    let told = refused(&site, of_the_gateway);
    assert!(matches!(told, NetworkError::Pool(_)), "{told}");
    assert_eq!(site.missing(), Vec::<String>::new());

    site.on(async |host| host.set_overlay(None).await.unwrap());
    let namespace = &site.test.namespace;
    namespace.ip("link add other type vxlan id 77 dstport 4789 local 192.0.2.1");
    let told = refused(&site, overlay(1, &[2]));
    assert!(matches!(told, NetworkError::TunnelTaken { .. }), "{told}");
    namespace.ip("link del other");
    site.on(async |host| host.set_overlay(None).await.unwrap());
    site.test.config.overlay = None;
    site.test.config.mtu = 1451;
    site.restart();
    let told = refused(&site, overlay(1, &[2]));
    assert!(matches!(told, NetworkError::TunnelMtu { .. }), "{told}");
    let told = told.to_string();
    for part in ["1451", "up0", "mtu = 1450"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let audit = site.on(async |host| host.audit().await.unwrap());
    assert_eq!((audit.tunnel, audit.missing), (None, Vec::new()));
}
