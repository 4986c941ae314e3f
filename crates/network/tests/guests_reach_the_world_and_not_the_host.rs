//! NAT, routing and isolation between namespaces, with real connections.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::time::Duration;

use crate::support::lan::{connect, listen};
use crate::support::{Namespace, TestHost, can_run, machine};
use network::{BridgedConfig, NetworkConfig, NetworkHost, Outward, PlugRequest};

const UPLINK: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const WORLD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const LIMIT: Duration = Duration::from_secs(20);

/// A host with an uplink to a world, and a guest with its address set.
fn scene(outward: Outward) -> (TestHost, Namespace, Namespace) {
    let mut test = TestHost::new();
    test.config.outward = outward;
    let world = Namespace::new();
    test.namespace.ip(&format!(
        "link add up0 type veth peer name eth0 netns {}",
        world.name
    ));
    test.namespace.ip("addr add 192.0.2.1/24 dev up0");
    test.namespace.ip("link set up0 up");
    world.ip("addr add 192.0.2.2/24 dev eth0");
    world.ip("link set eth0 up");
    // The world has a way back to guests' own addresses, so only our rules can stop it.
    world.ip("route add 172.16.0.0/24 via 192.0.2.1");
    let guest = test.guest(&machine(5));
    guest.ip("addr add 172.16.0.5/24 dev eth0");
    guest.ip("route add default via 172.16.0.1");
    (test, world, guest)
}

#[test]
fn nat_hides_guests_and_lets_nobody_in() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let (test, world, guest) = scene(Outward::Nat);
    let (in_world, world_port) = listen(&world);
    let (in_guest, guest_port) = listen(&guest);
    let (_on_host, host_port) = listen(&test.namespace);
    test.run(async |host| {
        host.reconcile(&[machine(5)]).await.unwrap();
        let _out = connect(&guest, WORLD, world_port).expect("the guest reaches the world");
        assert_eq!(
            in_world.accept().unwrap().1.ip(),
            IpAddr::from(UPLINK),
            "with the host's address"
        );

        assert_eq!(
            connect(&world, machine(5).ip, guest_port).err(),
            Some(ErrorKind::TimedOut),
            "nobody comes in"
        );
        let _in = connect(&test.namespace, machine(5).ip, guest_port)
            .expect("the host itself reaches the guest");
        assert_eq!(
            in_guest.accept().unwrap().1.ip(),
            IpAddr::from(test.config.gateway)
        );

        for address in [test.config.gateway, UPLINK] {
            let refused = connect(&guest, address, host_port).err();
            assert!(
                refused.is_some() && refused != Some(ErrorKind::TimedOut),
                "the host's services are refused at once: {refused:?}"
            );
        }
        let packets = host.audit().await.unwrap().packets;
        assert!(
            packets["refused_host"] >= 2 && packets["refused_inward"] >= 1,
            "{packets:?}"
        );

        // A connection lives on through a reconciliation.
        let before = connect(&guest, WORLD, world_port).unwrap();
        let (mut peer, _) = in_world.accept().unwrap();
        host.reconcile(&[machine(5), machine(6)]).await.unwrap();
        std::io::Write::write_all(&mut peer, b"still here").unwrap();
        drop(peer);
        before.set_read_timeout(Some(LIMIT)).unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut { before }, &mut text).unwrap();
        assert_eq!(text, "still here");
    });
}

#[test]
fn a_port_of_the_host_can_be_opened_for_guests() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let (mut test, _world, guest) = scene(Outward::Nat);
    let (_on_host, port) = listen(&test.namespace);
    test.config.host_tcp_ports.insert(port);
    test.run(async |host| {
        host.reconcile(&[machine(5)]).await.unwrap();
        assert!(connect(&guest, test.config.gateway, port).is_ok());
        assert!(
            connect(&guest, UPLINK, port).is_err(),
            "on the gateway's address only"
        );
    });
}

#[test]
fn routed_guests_keep_their_address_and_can_be_reached() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let (test, world, guest) = scene(Outward::Routed);
    let (in_world, world_port) = listen(&world);
    let (_in_guest, guest_port) = listen(&guest);
    test.run(async |host| {
        host.reconcile(&[machine(5)]).await.unwrap();
        let _out = connect(&guest, WORLD, world_port).unwrap();
        assert_eq!(
            in_world.accept().unwrap().1.ip(),
            IpAddr::from(machine(5).ip)
        );
        assert!(connect(&world, machine(5).ip, guest_port).is_ok());
    });
}

#[test]
fn isolated_guests_reach_nobody_outside() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let (test, world, guest) = scene(Outward::Isolated);
    let (_in_world, world_port) = listen(&world);
    let (_in_guest, guest_port) = listen(&guest);
    test.run(async |host| {
        host.reconcile(&[machine(5)]).await.unwrap();
        assert!(connect(&guest, WORLD, world_port).is_err());
        assert!(connect(&world, machine(5).ip, guest_port).is_err());
    });
}

#[test]
fn what_the_host_hands_on_lets_no_isolated_guest_out() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let (test, world, guest) = scene(Outward::Isolated);
    let (in_world, world_port) = listen(&world);
    let (in_guest, guest_port) = listen(&guest);
    // Rules of an operator, who may have them for others than guests: whatever comes to these ports is handed on.
    let (to_world, to_guest) = (7001, 7002);
    let table = format!(
        "add table ip operator
         add chain ip operator handed_on {{ type nat hook prerouting priority dstnat; }}
         add rule ip operator handed_on tcp dport {to_world} dnat to {WORLD}:{world_port}
         add rule ip operator handed_on tcp dport {to_guest} dnat to {}:{guest_port}",
        machine(5).ip
    );
    let loaded = test.namespace.command("nft", &[&table]);
    assert!(loaded.status.success(), "{loaded:?}");
    test.run(async |host| {
        host.reconcile(&[machine(5)]).await.unwrap();
        let refused = connect(&guest, test.config.gateway, to_world);
        assert!(refused.is_err(), "{refused:?}");
        in_world.set_nonblocking(true).unwrap();
        let nobody = in_world.accept().map_err(|error| error.kind());
        assert_eq!(nobody.err(), Some(ErrorKind::WouldBlock));

        let into = connect(&world, UPLINK, to_guest).expect("a port handed on to a guest is open");
        let (taken, _) = in_guest.accept().unwrap();
        assert!(arrives(&into, &taken, "in", LIMIT));
        assert!(arrives(&taken, &into, "and the answer", LIMIT));
    });
}

/// What arrives in time of what is said at the other end.
fn arrives(mut from: &TcpStream, mut to: &TcpStream, words: &str, limit: Duration) -> bool {
    std::io::Write::write_all(&mut from, words.as_bytes()).unwrap();
    to.set_read_timeout(Some(limit)).unwrap();
    let mut read = vec![0; words.len()];
    match std::io::Read::read_exact(&mut to, &mut read) {
        Ok(()) => {
            assert_eq!(read, words.as_bytes());
            true
        }
        Err(error) => {
            assert!(
                matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                "{error}"
            );
            false
        }
    }
}

#[test]
fn a_connection_between_two_networks_ends_with_their_being_peers() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    for (here, there) in [
        (Outward::Nat, Outward::Nat),
        (Outward::Nat, Outward::Isolated),
        (Outward::Isolated, Outward::Nat),
        (Outward::Routed, Outward::Nat),
    ] {
        let (test, world, guest) = scene(here);
        let mut second = BridgedConfig::new(
            "u".parse().unwrap(),
            test.folder.path().join("second"),
            "172.17.0.0/24".parse().unwrap(),
            Ipv4Addr::new(172, 17, 0, 1),
            "second.test".parse().unwrap(),
        );
        second.outward = there;
        let other = PlugRequest {
            ip: Ipv4Addr::new(172, 17, 0, 5),
            ..machine(5)
        };
        let other_guest = Namespace::new();
        test.namespace.ip(&format!(
            "link add stu-5 type veth peer name eth0 netns {}",
            other_guest.name
        ));
        other_guest.ip(&format!("link set eth0 address {} up", other.mac));
        other_guest.ip("addr add 172.17.0.5/24 dev eth0");
        other_guest.ip("route add default via 172.17.0.1");
        let (listener, port) = listen(&other_guest);
        let (in_world, world_port) = listen(&world);
        // Each begins with its peer, without being told of it later.
        let (mut first, peer) = (test.config.clone(), test.config.as_peer());
        first.peers.insert(second.as_peer());
        second.peers.insert(peer);
        let peers = first.peers.clone();
        test.run_with(first, async |host| {
            host.reconcile(&[machine(5)]).await.unwrap();
            let second = NetworkHost::open(NetworkConfig::Bridged(second)).await;
            let second = second.unwrap();
            second
                .reconcile(std::slice::from_ref(&other))
                .await
                .unwrap();
            let begun = connect(&guest, other.ip, port).unwrap();
            let (taken, from) = listener.accept().unwrap();
            assert_eq!(from.ip(), IpAddr::from(machine(5).ip));
            assert!(arrives(&begun, &taken, "there", LIMIT));
            assert!(arrives(&taken, &begun, "back", LIMIT));
            let out = (here != Outward::Isolated).then(|| {
                let out = connect(&guest, WORLD, world_port).unwrap();
                (out, in_world.accept().unwrap().0)
            });

            host.forward_to([].into()).await.unwrap();
            second.forward_to([].into()).await.unwrap();
            let short = Duration::from_millis(700);
            assert!(
                !arrives(&begun, &taken, "no more", short),
                "{here:?}, {there:?}"
            );
            assert!(
                !arrives(&taken, &begun, "nor back", short),
                "{here:?}, {there:?}"
            );
            if let Some((out, world)) = &out {
                assert!(arrives(out, world, "what else is open", LIMIT));
                assert!(arrives(world, out, "goes on", LIMIT));
            }
            // Peers again: what was said meanwhile arrives.
            let peer = test.config.as_peer();
            second.forward_to([peer].into()).await.unwrap();
            host.forward_to(peers).await.unwrap();
            let late = Duration::from_secs(20);
            let mut read = [0; 7];
            taken.set_read_timeout(Some(late)).unwrap();
            std::io::Read::read_exact(&mut &taken, &mut read).unwrap();
            assert_eq!(&read, b"no more");
        });
    }
}
