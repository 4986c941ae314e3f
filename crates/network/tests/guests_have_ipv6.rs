//! IPv6 of guests: addresses that they make themselves, names, the way out, and a host that isn't cut off by it.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::support::frames::{VNET_HEADER, plugged, send};
use crate::support::ipv6::{
    self, ALL_ROUTERS, DHCP_SERVERS, ICMP, ROUTER, UDP, global, has_address, local, make_address,
    packet, pings, prefix, udp,
};
use crate::support::lan::{connect, listen, listen_at};
use crate::support::{A, AAAA, Namespace, PTR, TestHost, ask, can_run, eventually, machine, run};
use network::{NetworkConfig, NetworkError, NetworkHost, Outward};

const ANY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
const UPLINK: &str = "fd00:beef::1";
const WORLD: &str = "fd00:beef::2";

/// A host with an uplink to a world that knows a way back to guests' own addresses, so only rules can stop it.
fn scene(outward: Outward) -> (TestHost, Namespace) {
    let mut test = ipv6::host();
    test.config.outward = outward;
    let world = Namespace::new();
    test.namespace.ip(&format!(
        "link add up0 type veth peer name eth0 netns {}",
        world.name
    ));
    test.namespace
        .ip(&format!("addr add {UPLINK}/64 dev up0 nodad"));
    test.namespace.ip("link set up0 up");
    world.ip(&format!("addr add {WORLD}/64 dev eth0 nodad"));
    world.ip("link set eth0 up");
    world.ip(&format!("route add {} via {UPLINK}", prefix()));
    (test, world)
}

#[test]
fn a_guest_makes_its_address_and_reaches_what_it_may() {
    if !can_run(&["dnsmasq", "nft", "ping"]) {
        return;
    }
    for outward in [Outward::Nat, Outward::Routed, Outward::Isolated] {
        let (mut test, world) = scene(outward);
        test.config.mtu = 1450;
        let (five, six) = (machine(5), machine(6));
        let (guest, neighbour) = (test.guest(&five), test.guest(&six));
        let (in_world, world_port) = listen_at(&world, ANY);
        let (_in_guest, guest_port) = listen_at(&guest, ANY);
        let (_on_host, host_port) = listen_at(&test.namespace, ANY);
        let [uplink, world_address]: [Ipv6Addr; 2] =
            [UPLINK, WORLD].map(|text| text.parse().unwrap());
        test.run(async |host| {
            host.reconcile(&[five.clone(), six.clone()]).await.unwrap();
            make_address(&guest, &five);
            make_address(&neighbour, &six);
            let gateway = prefix().gateway();
            // Larger ones come in fragments.
            for (to, size) in [(gateway, "56"), (ROUTER, "56"), (global(&six), "3000")] {
                assert!(pings(&guest, to, size), "{outward:?}: {to}");
            }
            let mtu = || std::fs::read_to_string("/proc/sys/net/ipv6/conf/eth0/mtu").unwrap();
            assert_eq!(guest.enter(mtu).trim(), "1450");

            let out = connect(&guest, world_address, world_port);
            if outward == Outward::Isolated {
                assert!(out.is_err());
            } else {
                out.expect("the guest reaches the world");
                let seen = in_world.accept().unwrap().1.ip();
                let own = if outward == Outward::Nat {
                    uplink
                } else {
                    global(&five)
                };
                assert_eq!(seen, IpAddr::from(own));
            }
            let inward = connect(&world, global(&five), guest_port);
            assert_eq!(inward.is_ok(), outward == Outward::Routed, "{inward:?}");
            connect(&test.namespace, global(&five), guest_port).expect("the host reaches it");
            for address in [gateway, uplink] {
                let refused = connect(&guest, address, host_port).err();
                assert!(
                    refused.is_some() && refused != Some(ErrorKind::TimedOut),
                    "the host's services are refused at once: {refused:?}"
                );
            }
            let packets = host.audit().await.unwrap().packets;
            assert!(packets["refused_host"] >= 2, "{packets:?}");
            for lie in ["spoofed_address", "spoofed_neighbour", "extension_header"] {
                assert_eq!(packets[lie], 0, "{lie}: honest guests do nothing of that");
            }
        });
    }
}

#[test]
fn ipv6_addresses_have_names_both_ways() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let test = ipv6::host();
    let (five, six) = (machine(5), machine(6));
    let guest = test.guest(&five);
    test.run(async |host| {
        host.reconcile(std::slice::from_ref(&five)).await.unwrap();
        make_address(&guest, &five);
        let name = format!(
            "vm-{}.cloud.test",
            global(&six).to_string().replace(':', "-")
        );
        assert_eq!(
            name,
            "vm-fd12-5c31-1-0-0-acff-fe10-6.cloud.test".replace("-0-0-", "--")
        );
        let reverse = |address: Ipv6Addr| {
            let digits: String = address
                .octets()
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect();
            let labels: Vec<String> = digits.chars().rev().map(String::from).collect();
            format!("{}.ip6.arpa", labels.join("."))
        };
        guest.enter(|| {
            let server = prefix().gateway();
            assert_eq!(
                ask(server, &name, AAAA),
                (0, vec![global(&six).to_string()])
            );
            assert_eq!(
                ask(server, &reverse(global(&six)), PTR),
                (0, vec![name.clone()])
            );
            assert_eq!(ask(server, "vm-172-16-0-6.cloud.test", A).1, ["172.16.0.6"]);
            // It is there, and has no such address.
            assert_eq!(ask(server, "vm-172-16-0-6.cloud.test", AAAA), (0, vec![]));
            assert_eq!(ask(server, "nobody.cloud.test", AAAA).0, 3, "NXDOMAIN");
        });
    });
}

/// The first packet of IPv6 that comes with these kinds of header and message, or port; from behind the Ethernet header.
fn heard(tap: &std::os::fd::OwnedFd, is_it: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut buffer = [0; 4096];
    while Instant::now() < deadline {
        match rustix::io::read(tap, &mut buffer) {
            Ok(length) => {
                let frame = &buffer[VNET_HEADER..length];
                if frame[12..14] == [0x86, 0xdd] && is_it(&frame[14..]) {
                    return frame[14..].to_vec();
                }
            }
            Err(rustix::io::Errno::AGAIN) => std::thread::sleep(Duration::from_millis(2)),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("nothing of that came");
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn the_router_tells_prefix_mtu_resolver_and_domain_and_so_does_dhcp() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let mut test = ipv6::host();
    test.config.mtu = 1450;
    test.run(async |host| {
        let me = machine(5);
        let tap = plugged(&host, &me).await;
        let link = local(&me);
        send(
            &tap,
            &packet(me.mac, link, ALL_ROUTERS, ICMP, &[133, 0, 0, 0, 0, 0, 0, 0]),
        );
        let told = heard(&tap, |packet| packet[6] == ICMP && packet[40] == 134);
        assert_eq!(told[8..24], ROUTER.octets());
        let options = &told[40 + 16..];
        // RFC 4861 §4.6.2, on the link and for making addresses of; §4.6.4; RFC 8106 §5.1 and §5.2.
        assert!(contains(options, &[3, 4, 64, 0xc0]), "{options:02x?}");
        assert!(contains(options, &prefix().address().octets()));
        assert!(
            contains(options, &[5, 1, 0, 0, 0, 0, 5, 170]),
            "{options:02x?}"
        );
        assert!(contains(options, &prefix().gateway().octets()));
        assert!(contains(options, b"\x05cloud\x04test\0"), "{options:02x?}");

        // It asks for the resolver only (RFC 8415 §18.2.6), and is told nothing else.
        test.namespace
            .ip(&format!("neigh add {link} lladdr {} dev stt-br0", me.mac));
        let question = [11, 1, 2, 3, 0, 6, 0, 2, 0, 23];
        let datagram = udp((link, 546), (DHCP_SERVERS, 547), &question);
        send(&tap, &packet(me.mac, link, DHCP_SERVERS, UDP, &datagram));
        let told = heard(&tap, |packet| {
            packet[6] == UDP && packet[42..44] == [2, 0x22]
        });
        let answer = &told[48..];
        assert_eq!(answer[..4], [7, 1, 2, 3], "a reply");
        let resolver = [&[0, 23, 0, 16][..], &prefix().gateway().octets()].concat();
        assert!(contains(answer, &resolver), "{answer:02x?}");
    });
}

#[test]
fn a_network_gets_ipv6_and_loses_it_under_running_guests() {
    if !can_run(&["dnsmasq", "nft", "ping"]) {
        return;
    }
    let mut test = TestHost::new();
    let five = machine(5);
    let guest = test.guest(&five);
    guest.ip("addr add 172.16.0.5/24 dev eth0");
    let (in_guest, port) = listen(&guest);
    let bridge = || {
        let name = &test.namespace.name;
        run("ip", &["-n", name, "-6", "addr", "show", "dev", "stt-br0"])
    };
    let tables = || String::from_utf8(test.namespace.command("nft", &["list", "tables"]).stdout);
    let mut wanted = std::slice::from_ref(&five).to_vec();
    let (here, there) = test.run(async |host| {
        host.reconcile(&wanted).await.unwrap();
        assert_eq!(bridge(), "");
        let here = connect(&test.namespace, five.ip, port).unwrap();
        (here, in_guest.accept().unwrap().0)
    });
    let goes_on = || crate::support::lan::carries(&here, &there);

    // Machines are wanted only later, as after a restart of the daemon.
    let mut with_ipv6 = test.config.clone();
    with_ipv6.network6 = Some(prefix());
    test.run_with(with_ipv6.clone(), async |host| {
        goes_on();
        make_address(&guest, &five);
        assert!(pings(&guest, prefix().gateway(), "56"));
        assert_eq!(host.audit().await.unwrap().bindings.len(), 1);
        wanted.push(machine(6));
        host.reconcile(&wanted).await.unwrap();
        goes_on();
        has_address(&guest, global(&five));
        assert!(pings(&guest, ROUTER, "56"));
        assert_eq!(host.audit().await.unwrap().missing, Vec::<String>::new());
    });
    // Addresses of an earlier prefix go.
    with_ipv6.network6 = Some("fd12:5c31:2::/64".parse().unwrap());
    test.run_with(with_ipv6, async |_| {
        assert!(bridge().contains("fd12:5c31:2::1/64") && !bridge().contains("fd12:5c31:1::1"));
        goes_on();
    });
    test.run(async |_| {
        assert_eq!(bridge(), "");
        assert!(!tables().unwrap().contains("ip6"), "{:?}", tables());
        goes_on();
    });
    test.config.network6 = Some(prefix());
    test.run(async |host| {
        host.teardown().await.unwrap();
        assert_eq!(tables().unwrap(), "");
    });
}

#[test]
fn a_host_that_a_router_told_its_way_keeps_it() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let (test, world) = scene(Outward::Nat);
    let conf = |interface: &str, key: &str| format!("/proc/sys/net/ipv6/conf/{interface}/{key}");
    let read = |interface: &str, key: &str| {
        let path = conf(interface, key);
        test.namespace
            .enter(|| std::fs::read_to_string(path).unwrap().trim().to_owned())
    };
    test.namespace.enter(|| {
        for (interface, key, value) in [
            ("all", "forwarding", "0"),
            ("default", "accept_ra", "1"),
            ("up0", "accept_ra", "1"),
            ("lo", "accept_ra", "0"),
        ] {
            std::fs::write(conf(interface, key), value).unwrap();
        }
    });
    // The world's router.
    world.command(
        "dnsmasq",
        &[
            "--conf-file=/dev/null",
            "--port=0",
            "--interface=eth0",
            "--enable-ra",
            "--dhcp-range=fd00:beef::,ra-only,64",
            "--pid-file=",
            "--dhcp-leasefile=/dev/null",
        ],
    );
    test.namespace.ip("link set up0 down");
    test.namespace.ip("link set up0 up");
    let routes = || {
        run(
            "ip",
            &["-n", &test.namespace.name, "-6", "route", "show", "default"],
        )
    };
    eventually("the host is told its way", || routes().contains("proto ra"));
    let told = routes();

    for _ in 0..2 {
        test.run(async |host| {
            assert_eq!(read("all", "forwarding"), "1");
            assert_eq!(
                routes().split(" expires").next(),
                told.split(" expires").next()
            );
            assert_eq!(read("up0", "accept_ra"), "2");
            assert_eq!(read("default", "accept_ra"), "2", "for those that come");
            assert_eq!(read("lo", "accept_ra"), "0");
            assert_eq!(read("stt-br0", "accept_ra"), "0");
            host.teardown().await.unwrap();
        });
        assert_eq!(read("all", "forwarding"), "0");
        assert_eq!(read("up0", "accept_ra"), "1");
        assert_eq!(read("default", "accept_ra"), "1");
        assert_eq!(
            routes().split(" expires").next(),
            told.split(" expires").next()
        );
    }
}

#[test]
fn two_clouds_with_the_same_prefix_are_told_so() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let test = ipv6::host();
    test.run(async |_first| {
        let mut second = test.config.clone();
        second.instance = "u".parse().unwrap();
        second.directory = test.folder.path().join("net2");
        second.network = "172.17.0.0/24".parse().unwrap();
        second.gateway = [172, 17, 0, 1].into();
        let check = async |config| NetworkHost::check(&NetworkConfig::Bridged(config)).await;
        let told = check(second.clone()).await.unwrap_err();
        assert!(matches!(told, NetworkError::SubnetTaken { .. }), "{told}");
        assert!(told.to_string().contains("fd12:5c31:1::"), "{told}");
        second.network6 = Some("fd12:5c31:2::/64".parse().unwrap());
        check(second).await.unwrap();
    });
}
