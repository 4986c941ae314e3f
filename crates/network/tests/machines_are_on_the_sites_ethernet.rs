//! A network on a bridge of the operator's: its machines are stations of the site, and the site notices nothing else of us.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};

use crate::support::lan::{connect, connection, listen, listen_at};
use crate::support::{Namespace, TestHost, can_run, dhcp, eventually, machine};
use network::links::Links;
use network::{
    Direction, Group, GroupRule, GroupTag, Groups, NetworkConfig, NetworkError, NetworkHost,
    PlugRequest, RulePeer, Site, Traffic,
};

const ROUTER: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
const HOST: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 10);
const STRANGER: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 77);

/// A site with a router, a host on it by a bridge of the operator's, and a stranger.
fn scene() -> (TestHost, Namespace, Namespace) {
    let (mut test, site, stranger) = (TestHost::new(), Namespace::new(), Namespace::new());
    site.ip("link add sw0 type bridge");
    site.ip("addr add 172.16.0.1/24 dev sw0");
    site.ip("link set sw0 up");
    for (station, name, port) in [
        (&test.namespace, "eth1", "port0"),
        (&stranger, "eth0", "port1"),
    ] {
        site.ip(&format!(
            "link add {port} type veth peer name {name} netns {}",
            station.name
        ));
        site.ip(&format!("link set {port} master sw0 up"));
        station.ip(&format!("link set {name} up"));
    }
    stranger.ip("addr add 172.16.0.77/24 dev eth0");
    test.namespace.ip("link add br-eth1 type bridge");
    test.namespace.ip("link set eth1 master br-eth1");
    test.namespace.ip("addr add 172.16.0.10/24 dev br-eth1");
    test.namespace.ip("link set br-eth1 up");
    test.config.site = Some(Site {
        bridge: "br-eth1".parse().unwrap(),
        first: machine(100).ip,
        last: machine(150).ip,
        name_servers: vec![STRANGER],
    });
    (test, site, stranger)
}

#[test]
fn its_machines_are_stations_of_the_site_by_our_dhcp() {
    if !can_run(&["dnsmasq", "nft", "busybox"]) {
        return;
    }
    let (test, _site, stranger) = scene();
    let guest = test.guest(&machine(105));
    let mac = mac_of_bridge(&test);
    test.run(async |host| {
        host.reconcile(&[machine(105)]).await.unwrap();
        let counted = async |name: &str| host.audit().await.unwrap().packets[name];
        assert_eq!(host.audit().await.unwrap().missing, Vec::<String>::new());
        assert_eq!(mac_of_bridge(&test), mac, "stations know it");
        // What the host tells of itself.
        let links = Links::open().unwrap();
        assert_eq!(links.bridges_of_operator().await.unwrap(), ["br-eth1"]);
        let told = dhcp(&guest, test.folder.path()).expect("our DHCP answers");
        let told = |key: &str| told.get(key).map(String::as_str);
        assert_eq!(
            (told("ip"), told("router"), told("dns"), told("mask")),
            (
                Some("172.16.0.105"),
                Some("172.16.0.1"),
                Some("172.16.0.77"),
                Some("24")
            )
        );
        assert!(counted("site_kept").await > 0, "its questions don't leave");

        // No stranger gets an answer, and none is asked to.
        assert_eq!(dhcp(&stranger, test.folder.path()), None);
        assert!(counted("site_refused").await > 0);

        // A station like others, by its own address.
        guest.ip("addr add 172.16.0.105/24 dev eth0");
        guest.ip("route add default via 172.16.0.1");
        let (at_stranger, at_guest) = (listen(&stranger), listen(&guest));
        let (.., seen) = connection(&guest, STRANGER, &at_stranger);
        assert_eq!(seen, IpAddr::from(machine(105).ip));
        let (.., seen) = connection(&stranger, machine(105).ip, &at_guest);
        assert_eq!(seen, IpAddr::from(STRANGER));
        assert!(
            connect(&guest, ROUTER, 9).is_err_and(|error| error == ErrorKind::ConnectionRefused),
            "the router is reached"
        );

        // The host is one, too, of which it gets no more than elsewhere.
        let (.., seen) = connection(&test.namespace, machine(105).ip, &at_guest);
        assert_eq!(seen, IpAddr::from(HOST));
        let at_host = listen_at(&test.namespace, HOST);
        let refused = connect(&guest, HOST, at_host.1).err();
        assert!(
            refused.is_some() && refused != Some(ErrorKind::TimedOut),
            "refused at once: {refused:?}"
        );
        let _of_the_site = connect(&stranger, HOST, at_host.1).unwrap();

        // With another's address it is heard by nobody.
        guest.ip("addr add 172.16.0.106/24 dev eth0");
        let before = counted("spoofed_arp").await + counted("spoofed_address").await;
        guest.command(
            "busybox",
            &[
                "ping",
                "-c",
                "1",
                "-W",
                "1",
                "-I",
                "172.16.0.106",
                "172.16.0.77",
            ],
        );
        eventually("a spoofed packet is counted", || {
            let counted = test.namespace.command("nft", &["list", "counters"]);
            let text = String::from_utf8_lossy(&counted.stdout).into_owned();
            spoofed(&text) > before
        });

        // The site's host is no router, for us or for itself.
        let forwards = test
            .namespace
            .command("cat", &["/proc/sys/net/ipv4/ip_forward"]);
        assert_eq!(forwards.stdout, b"0\n");

        // What is ours goes; what is the operator's stays.
        host.teardown().await.unwrap();
        let left = test
            .namespace
            .command("ip", &["-o", "link", "show", "type", "veth"]);
        let left = String::from_utf8(left.stdout).unwrap();
        assert!(left.contains("eth1") && !left.contains("up0"), "{left}");
        let _of_the_site = connect(&stranger, HOST, at_host.1).unwrap();
    });
}

#[test]
fn security_groups_hold_what_comes_from_the_site() {
    if !can_run(&["dnsmasq", "nft", "busybox"]) {
        return;
    }
    let (test, _site, stranger) = scene();
    let guest = test.guest(&machine(105));
    let tag: GroupTag = "one".parse().unwrap();
    let groups = BTreeSet::from([tag.clone()]);
    let request = PlugRequest {
        groups: groups.clone(),
        ..machine(105)
    };
    let told = |rules: BTreeSet<GroupRule>| {
        let members = BTreeSet::new();
        Groups {
            groups: [(tag.clone(), Group { rules, members })].into(),
            of: [(machine(105).nic, groups.clone())].into(),
        }
    };
    test.run(async |host| {
        host.reconcile(std::slice::from_ref(&request))
            .await
            .unwrap();
        host.set_groups(told(BTreeSet::new())).await.unwrap();
        assert!(dhcp(&guest, test.folder.path()).is_some());
        guest.ip("addr add 172.16.0.105/24 dev eth0");
        let (at_stranger, at_guest) = (listen(&stranger), listen(&guest));
        let (.., seen) = connection(&guest, STRANGER, &at_stranger);
        assert_eq!(seen, IpAddr::from(machine(105).ip));
        assert!(connect(&stranger, machine(105).ip, at_guest.1).is_err());
        let let_in = GroupRule {
            direction: Direction::In,
            traffic: Traffic::Any,
            peer: RulePeer::Block("172.16.0.77/32".parse().unwrap()),
        };
        host.set_groups(told([let_in].into())).await.unwrap();
        let (.., seen) = connection(&stranger, machine(105).ip, &at_guest);
        assert_eq!(seen, IpAddr::from(STRANGER));
    });
}

#[test]
fn what_was_cut_is_mended_and_found_again() {
    if !can_run(&["dnsmasq", "nft", "busybox"]) {
        return;
    }
    let (test, ..) = scene();
    let guest = test.guest(&machine(105));
    test.run(async |host| {
        host.reconcile(&[machine(105)]).await.unwrap();
        test.namespace.ip("link del stt-up0");
        let missing = host.audit().await.unwrap().missing;
        assert!(
            missing
                .iter()
                .any(|what| what.contains("stt-up0 is not there")),
            "{missing:?}"
        );
        host.reconcile(&[machine(105)]).await.unwrap();
        assert_eq!(host.audit().await.unwrap().missing, Vec::<String>::new());
    });
    // A new process finds all as it is.
    test.run(async |host| {
        host.reconcile(&[machine(105)]).await.unwrap();
        let audit = host.audit().await.unwrap();
        assert_eq!((audit.missing, audit.taps.len()), (Vec::new(), 1));
        assert!(dhcp(&guest, test.folder.path()).is_some());
    });
}

#[test]
fn without_the_operators_bridge_nothing_is_made() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let (test, ..) = scene();
    let error = || {
        test.namespace.enter(|| {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let config = NetworkConfig::Bridged(test.config.clone());
            runtime.block_on(NetworkHost::open(config)).unwrap_err()
        })
    };
    test.namespace.ip("addr add 172.16.0.101/24 dev br-eth1");
    let taken = error();
    assert!(
        matches!(taken, NetworkError::SiteAddress { address, .. } if address == machine(101).ip),
        "{taken}"
    );
    test.namespace.ip("link del br-eth1");
    {
        let error = error();
        assert!(matches!(error, NetworkError::SiteBridge { .. }), "{error}");
        assert!(
            error.to_string().contains("stratusd network attach"),
            "{error}"
        );
    }
    let links = test.namespace.command("ip", &["-o", "link", "show"]);
    assert!(!String::from_utf8_lossy(&links.stdout).contains("stt-"));
}

/// As others know the host. It was given none, so it has that of `eth1`.
fn mac_of_bridge(test: &TestHost) -> String {
    let shown = test
        .namespace
        .command("ip", &["-o", "link", "show", "dev", "br-eth1"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    let mut words = shown
        .split_whitespace()
        .skip_while(|word| *word != "link/ether");
    words.nth(1).unwrap().to_owned()
}

/// Of `nft list counters`.
fn spoofed(text: &str) -> u64 {
    let words: Vec<&str> = text.split_whitespace().collect();
    let counter = |name: &str| {
        let at = words.windows(2).position(|pair| pair == ["counter", name]);
        let packets = at.and_then(|at| words.get(at + 4)?.parse::<u64>().ok());
        packets.unwrap_or_default()
    };
    counter("spoofed_arp") + counter("spoofed_address")
}
