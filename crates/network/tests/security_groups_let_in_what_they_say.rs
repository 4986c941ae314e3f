//! Machines with security groups are reached by what these let in, and by answers; changes of them disturb nothing else.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use network::{Direction, Group, GroupRule, GroupTag, Groups, PlugRequest, RulePeer, Traffic};

use crate::support::frames::plugged;
use crate::support::ipv6::{self, global, local, make_address, pings};
use crate::support::lan::{
    Lan, Site, carries, connect, connection, host_address, listen, listen_at,
};
use crate::support::{Namespace, can_run, dhcp, eventually, machine};

const PROGRAMS: [&str; 4] = ["dnsmasq", "nft", "busybox", "ping"];
/// For what is not to come.
const SHORT: Duration = Duration::from_millis(500);
/// For what is.
const LATE: Duration = Duration::from_secs(20);

fn tag(name: &str) -> GroupTag {
    name.parse().unwrap()
}

fn rule(direction: Direction, traffic: Traffic, peer: RulePeer) -> GroupRule {
    GroupRule {
        direction,
        traffic,
        peer,
    }
}

fn lets_in(traffic: Traffic, peer: RulePeer) -> GroupRule {
    rule(Direction::In, traffic, peer)
}

fn from(block: &str) -> RulePeer {
    RulePeer::Block(block.parse().unwrap())
}

fn members_of(name: &str) -> RulePeer {
    RulePeer::Group(tag(name))
}

fn port(number: u16) -> Traffic {
    Traffic::Tcp(number, number)
}

/// What is to hold for the machines of one host.
#[derive(Default, Clone)]
struct Told(Groups);

impl Told {
    fn rules(mut self, name: &str, rules: impl IntoIterator<Item = GroupRule>) -> Self {
        self.0.groups.entry(tag(name)).or_default().rules = rules.into_iter().collect();
        self
    }

    fn members(mut self, name: &str, members: impl IntoIterator<Item = IpAddr>) -> Self {
        let group: &mut Group = self.0.groups.entry(tag(name)).or_default();
        group.members = members.into_iter().collect();
        self
    }

    fn of(mut self, n: u8, groups: &[&str]) -> Self {
        let groups = groups.iter().map(|name| tag(name)).collect();
        self.0.of.insert(machine(n).nic, groups);
        self
    }

    fn at(&self, site: &Site) {
        let groups = self.0.clone();
        site.on(async |host| host.set_groups(groups).await.unwrap());
    }
}

fn with_groups(n: u8, groups: &[&str]) -> PlugRequest {
    PlugRequest {
        groups: groups.iter().map(|name| tag(name)).collect(),
        ..machine(n)
    }
}

/// A host that is alone, with guests of these numbers that it is still to be told of.
fn with_guests<const N: usize>(lan: &Lan, numbers: [u8; N]) -> (Site, [Namespace; N]) {
    let site = Site::new(lan, 1, &[]);
    let guests = numbers.map(|n| site.guest(&machine(n)));
    (site, guests)
}

fn ip(n: u8) -> IpAddr {
    machine(n).ip.into()
}

/// Bound within a namespace; a call that waits for ever fails instead.
fn udp(namespace: &Namespace) -> (UdpSocket, u16) {
    let socket = namespace.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

fn told(socket: &UdpSocket, within: Duration) -> Option<SocketAddr> {
    socket.set_read_timeout(Some(within)).unwrap();
    socket.recv_from(&mut [0; 100]).ok().map(|(_, from)| from)
}

fn ping(namespace: &Namespace, to: Ipv4Addr) -> bool {
    let to = to.to_string();
    let arguments = ["-n", "-c", "1", "-W", "1", &to];
    namespace.command("ping", &arguments).status.success()
}

#[test]
fn only_what_is_allowed_comes_in_and_answers_to_what_was_asked() {
    if !can_run(&PROGRAMS) {
        return;
    }
    let lan = Lan::new();
    let (site, [five, six, seven]) = with_guests(&lan, [5, 6, 7]);
    let (open, closed) = (listen(&five), listen(&five));
    let told_to = Told::default()
        .rules(
            "web",
            [
                lets_in(port(open.1), RulePeer::Anybody),
                lets_in(port(closed.1), members_of("friends")),
                lets_in(Traffic::Icmp(Some(8), None), from("172.16.0.7/32")),
            ],
        )
        .members("friends", [ip(7)]);
    told_to.at(&site);
    site.has(&[with_groups(5, &["web"]), machine(6), machine(7)]);

    connection(&six, machine(5).ip, &open);
    connection(&site.test.namespace, machine(5).ip, &open);
    assert!(connect(&six, machine(5).ip, closed.1).is_err());
    assert!(connect(&site.test.namespace, machine(5).ip, closed.1).is_err());
    connection(&seven, machine(5).ip, &closed);
    assert_eq!(
        (ping(&six, machine(5).ip), ping(&seven, machine(5).ip)),
        (false, true)
    );
    let ((at_five, port_of_five), (at_six, port_of_six)) = (udp(&five), udp(&six));
    at_six.send_to(b"?", (machine(5).ip, port_of_five)).unwrap();
    assert_eq!(told(&at_five, SHORT), None);
    assert!(site.counted("refused_by_groups") > 2);

    // Whatever it begins itself, and answers: to others, to the host and the world.
    let at_world = listen(&lan.0);
    for (to, listener) in [(machine(6).ip, listen(&six)), (Lan::WORLD, at_world)] {
        let (here, there, _) = connection(&five, to, &listener);
        carries(&here, &there);
        carries(&there, &here);
    }
    at_five.send_to(b"?", (machine(6).ip, port_of_six)).unwrap();
    let asked_by = told(&at_six, LATE).unwrap();
    at_six.send_to(b"!", asked_by).unwrap();
    assert!(told(&at_five, LATE).is_some());
    // From another port it is no answer.
    let (elsewhere, _) = udp(&six);
    elsewhere.send_to(b"!", asked_by).unwrap();
    assert_eq!(told(&at_five, SHORT), None);
    assert!(ping(&five, machine(6).ip) && ping(&five, Lan::WORLD));
    assert!(dhcp(&five, site.test.folder.path()).is_some());

    // Machines without groups are as they were.
    connection(&six, machine(7).ip, &listen(&seven));
    assert_eq!(site.missing(), Vec::<String>::new());

    // A group that isn't known lets nothing in.
    told_to.clone().of(6, &["later"]).at(&site);
    assert!(connect(&seven, machine(6).ip, listen(&six).1).is_err());
    // And without groups it is free again.
    told_to.of(6, &[]).of(5, &[]).at(&site);
    connection(&seven, machine(6).ip, &listen(&six));
    connection(&six, machine(5).ip, &closed);
}

/// A socket that shares its port with others.
fn shared(at: SocketAddr) -> tokio::net::TcpSocket {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(at).unwrap();
    socket
}

fn inside<T: Send>(namespace: &Namespace, work: impl AsyncFnOnce() -> T + Send) -> T {
    namespace.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(work())
    })
}

#[test]
fn by_the_ports_of_what_a_machine_began_nobody_begins_anything() {
    if !can_run(&PROGRAMS) {
        return;
    }
    let lan = Lan::new();
    let (site, [five, six]) = with_guests(&lan, [5, 6]);
    Told::default().rules("closed", []).at(&site);
    site.has(&[with_groups(5, &["closed"]), machine(6)]);
    let at_six = SocketAddr::from((machine(6).ip, 4000));
    let at_five = SocketAddr::from((machine(5).ip, 5000));
    let listener = inside(&six, async || {
        let listener = shared(at_six).listen(8).unwrap();
        listener.into_std().unwrap()
    });
    listener.set_nonblocking(false).unwrap();
    let (open, begun) = inside(&five, async || {
        let open = shared(at_five).listen(8).unwrap();
        let begun = shared(at_five).connect(at_six).await.unwrap();
        (open.into_std().unwrap(), begun.into_std().unwrap())
    });
    let (answered, from) = listener.accept().unwrap();
    assert_eq!(from, at_five);
    // Who ends it first has its ports for another minute.
    drop(begun);
    answered.set_read_timeout(Some(LATE)).unwrap();
    assert_eq!((&answered).read(&mut [0]).unwrap(), 0);
    drop((answered, listener));
    let refused = site.counted("refused_by_groups");
    let again = inside(&six, async || {
        let connecting = shared(at_six).connect(at_five);
        tokio::time::timeout(SHORT * 4, connecting).await.is_ok()
    });
    assert!(!again, "by the ports of the old connection");
    assert!(site.counted("refused_by_groups") > refused);
    drop(open);
}

#[test]
fn outward_rules_bound_what_a_machine_begins_and_not_what_it_answers() {
    if !can_run(&PROGRAMS) {
        return;
    }
    let lan = Lan::new();
    let (site, [five, six]) = with_guests(&lan, [5, 6]);
    let (own, allowed, other) = (listen(&five), listen(&six), listen(&six));
    let out = |traffic, peer| rule(Direction::Out, traffic, peer);
    let told_to = Told::default()
        .rules("open", [lets_in(port(own.1), RulePeer::Anybody)])
        .rules("narrow", [out(port(allowed.1), from("172.16.0.0/24"))]);
    told_to.at(&site);
    site.has(&[with_groups(5, &["open", "narrow"]), machine(6)]);

    let (kept, its_end, _) = connection(&five, machine(6).ip, &allowed);
    assert!(connect(&five, machine(6).ip, other.1).is_err());
    assert!(connect(&five, Lan::WORLD, listen(&lan.0).1).is_err());
    assert!(!ping(&five, machine(6).ip));
    let (here, there, _) = connection(&six, machine(5).ip, &own);
    carries(&there, &here);
    assert!(site.counted("refused_outward") > 1);
    // What every machine needs of its host stays.
    assert!(dhcp(&five, site.test.folder.path()).is_some());
    let (code, _) = five.enter(|| {
        crate::support::ask(
            Ipv4Addr::new(172, 16, 0, 1),
            "vm-172-16-0-6.cloud.test",
            crate::support::A,
        )
    });
    assert_eq!(code, 0);

    // Without the group that bounds it, everything; what it had goes on.
    told_to.of(5, &["open"]).at(&site);
    connection(&five, machine(6).ip, &other);
    carries(&kept, &its_end);
    carries(&its_end, &kept);
}

/// For how many seconds answers to what was let in are let out.
fn remembered(site: &Site) -> u64 {
    let set = ["-j", "list", "set", "bridge", "stratus_t_groups", "asked4"];
    let listed: serde_json::Value = serde_json::from_slice(&site_command(site, &set)).unwrap();
    let sets = listed["nftables"].as_array().unwrap();
    let elements = sets
        .iter()
        .filter_map(|part| part["set"]["elem"].as_array());
    let left: Vec<u64> = elements
        .flatten()
        .map(|element| element["elem"]["expires"].as_u64().unwrap())
        .collect();
    let [left] = left[..] else {
        panic!("{listed}");
    };
    left
}

#[test]
fn what_a_removed_rule_had_let_in_is_not_answered_for_ever() {
    if !can_run(&PROGRAMS) {
        return;
    }
    let lan = Lan::new();
    let (site, [five, six]) = with_guests(&lan, [5, 6]);
    let ((server, at), (client, _)) = (udp(&five), udp(&six));
    let outward = rule(Direction::Out, port(1), RulePeer::Anybody);
    let inward = lets_in(Traffic::Udp(at, at), RulePeer::Anybody);
    let closed = Told::default().rules("bound", [outward.clone()]);
    let open = closed.clone().rules("bound", [outward, inward]);
    open.at(&site);
    site.has(&[with_groups(5, &["bound"]), machine(6)]);
    let asks = || client.send_to(b"?", (machine(5).ip, at)).unwrap();
    asks();
    let asker = told(&server, LATE).unwrap();
    let answers = || {
        server.send_to(b"!", asker).unwrap();
        told(&client, LATE).unwrap();
    };
    answers();

    closed.at(&site);
    let then = remembered(&site);
    eventually("it goes on by the time of the last question", || {
        answers();
        remembered(&site) + 4 < then
    });
    // What is let in is what prolongs it.
    open.at(&site);
    let then = remembered(&site);
    asks();
    told(&server, LATE).unwrap();
    assert!(remembered(&site) > then);
}

#[test]
fn by_what_a_machine_still_says_nobody_comes_in_again() {
    if !can_run(&PROGRAMS) {
        return;
    }
    let lan = Lan::new();
    let (site, [five, six]) = with_guests(&lan, [5, 6]);
    let ((server, at), (client, _)) = (udp(&five), udp(&six));
    let closed = Told::default().rules("open", []);
    let inward = lets_in(Traffic::Udp(at, at), RulePeer::Anybody);
    closed.clone().rules("open", [inward]).at(&site);
    site.has(&[with_groups(5, &["open"]), machine(6)]);
    let asks = || client.send_to(b"?", (machine(5).ip, at)).unwrap();
    asks();
    let asker = told(&server, LATE).unwrap();
    closed.at(&site);
    // It may say what it likes, but that is still no connection of its own.
    let then = remembered(&site);
    eventually("some time to pass", || remembered(&site) + 4 < then);
    let before = remembered(&site);
    server.send_to(b"!", asker).unwrap();
    told(&client, LATE).unwrap();
    assert!(remembered(&site) > before);
    asks();
    assert_eq!(told(&server, SHORT), None);
}

/// Bytes that go on all the time, from one end to the other; each is the next.
struct Flow<'a> {
    ends: AtomicBool,
    passed: &'a AtomicU64,
}

impl Flow<'_> {
    fn send(&self, mut to: &TcpStream) {
        let block: Vec<u8> = (0..=u8::MAX).collect();
        while !self.ends.load(Ordering::Relaxed) {
            to.write_all(&block).unwrap();
        }
        to.shutdown(std::net::Shutdown::Write).unwrap();
    }

    fn receive(&self, mut from: &TcpStream) -> u64 {
        from.set_read_timeout(Some(LATE)).unwrap();
        let (mut read, mut count) = ([0; 4096], 0_u64);
        loop {
            let length = from.read(&mut read).unwrap();
            if length == 0 {
                return count;
            }
            for byte in &read[..length] {
                assert_eq!(u64::from(*byte), count % 256);
                count += 1;
            }
            self.passed.store(count, Ordering::Relaxed);
        }
    }
}

#[test]
fn what_is_still_allowed_goes_on_whatever_is_changed_beside_it() {
    if !can_run(&PROGRAMS) {
        return;
    }
    let lan = Lan::new();
    let (mut site, [five, six]) = with_guests(&lan, [5, 6]);
    let listener = listen(&five);
    let base = Told::default().rules("web", [lets_in(port(listener.1), members_of("friends"))]);
    let told_to = base.clone().members("friends", [ip(6)]);
    told_to.at(&site);
    let wanted = [with_groups(5, &["web"]), machine(6)];
    site.has(&wanted);

    let (here, there, _) = connection(&six, machine(5).ip, &listener);
    let passed = AtomicU64::new(0);
    let flow = Flow {
        ends: AtomicBool::new(false),
        passed: &passed,
    };
    let sent = std::thread::scope(|scope| {
        let count = scope.spawn(|| flow.receive(&there));
        scope.spawn(|| flow.send(&here));
        let goes_on = || {
            let before = passed.load(Ordering::Relaxed);
            eventually("it goes on", || passed.load(Ordering::Relaxed) > before);
        };
        for n in 0..30_u8 {
            // Members come and go, rules beside it, another group, and another machine's.
            let others = (0..=n).map(|m| ip(100 + m)).chain([ip(6)]);
            let mut rules = vec![lets_in(port(listener.1), members_of("friends"))];
            rules.extend((0..n % 5).map(|m| lets_in(port(m.into()), RulePeer::Anybody)));
            let mut next = base.clone().members("friends", others).rules("web", rules);
            next = match n % 3 {
                0 => next.of(5, &["web"]).of(6, &[]),
                1 => next.of(5, &["web", "more"]).of(6, &["more"]),
                _ => next.of(5, &["more", "web"]),
            };
            next.at(&site);
            goes_on();
        }
        // A daemon that ends, and the next one, which knows nothing before it is told.
        site.restart();
        goes_on();
        assert!(connect(&six, machine(5).ip, 1).is_err());
        told_to.at(&site);
        goes_on();
        site.has(&wanted);
        goes_on();
        flow.ends.store(true, Ordering::Relaxed);
        count.join().unwrap()
    });
    assert!(sent > 0);
    assert_eq!(site.missing(), Vec::<String>::new());

    // The rule goes: so does what it let in, at once, with its next packet.
    let (here, there, _) = connection(&six, machine(5).ip, &listener);
    let (mut own, mut answers, _) = connection(&five, machine(6).ip, &listen(&six));
    base.members("friends", []).at(&site);
    (&here).write_all(b"?").unwrap();
    there.set_read_timeout(Some(SHORT)).unwrap();
    assert!((&there).read(&mut [0; 10]).is_err());
    // But not what it began itself.
    own.write_all(b"?").unwrap();
    answers.read_exact(&mut [0]).unwrap();
    answers.write_all(b"!").unwrap();
    own.read_exact(&mut [0]).unwrap();
    // And with the rule it is back: nothing was lost.
    told_to.at(&site);
    there.set_read_timeout(Some(LATE)).unwrap();
    (&there).read_exact(&mut [0]).unwrap();
}

#[test]
fn rules_that_somebody_takes_away_are_put_back_and_none_is_left_over() {
    if !can_run(&PROGRAMS) {
        return;
    }
    let lan = Lan::new();
    let (mut site, [five, six]) = with_guests(&lan, [5, 6]);
    let (open, closed) = (listen(&five), listen(&five));
    let told_to = Told::default().rules("web", [lets_in(port(open.1), RulePeer::Anybody)]);
    told_to.at(&site);
    let wanted = [with_groups(5, &["web"]), machine(6)];
    site.has(&wanted);
    site_command(&site, &["delete", "table", "bridge", "stratus_t_groups"]);
    assert_eq!(site.missing(), ["the rules of the firewall are not there"]);
    // By the next change, whatever it is.
    told_to.clone().of(6, &["web"]).at(&site);
    assert_eq!(site.missing(), Vec::<String>::new());
    connection(&six, machine(5).ip, &open);
    assert!(connect(&six, machine(5).ip, closed.1).is_err());

    // A process that is told nothing of groups any more leaves nothing of them.
    site.restart();
    let tables = site_command(&site, &["list", "tables"]);
    assert!(
        String::from_utf8(tables)
            .unwrap()
            .contains("stratus_t_groups")
    );
    site.has(&[machine(5), machine(6)]);
    let tables = site_command(&site, &["list", "tables"]);
    assert!(
        !String::from_utf8(tables)
            .unwrap()
            .contains("stratus_t_groups")
    );
    connection(&six, machine(5).ip, &closed);

    // Nor does a machine that goes.
    told_to.at(&site);
    site.has(&wanted);
    site.on(async |host| {
        let gone = &wanted[0];
        host.unplug(&gone.nic, gone.ip).await.unwrap();
    });
    let listed = site_command(&site, &["list", "table", "bridge", "stratus_t_groups"]);
    let listed = String::from_utf8(listed).unwrap();
    for word in ["stt-5", "web"] {
        assert!(!listed.contains(word), "{listed}");
    }
}

fn site_command(site: &Site, arguments: &[&str]) -> Vec<u8> {
    let output = site.test.namespace.command("nft", arguments);
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

#[test]
fn members_of_a_group_are_let_in_from_whatever_host() {
    if !can_run(&PROGRAMS) {
        return;
    }
    let lan = Lan::new();
    let [first, second] = [1, 2].map(|n| Site::new(&lan, n, &[1, 2]));
    let five = first.guest(&machine(5));
    let [six, seven] = [6, 7].map(|n| second.guest(&machine(n)));
    let listener = listen(&five);
    let told_to = Told::default().rules("db", [lets_in(port(listener.1), members_of("app"))]);
    told_to.clone().members("app", [ip(6)]).at(&first);
    first.has(&[with_groups(5, &["db"])]);
    second.has(&[with_groups(6, &["app"]), machine(7)]);

    let (here, there, _) = connection(&six, machine(5).ip, &listener);
    carries(&here, &there);
    assert!(connect(&seven, machine(5).ip, listener.1).is_err());
    // Hosts are not in groups.
    assert!(connect(&second.test.namespace, machine(5).ip, listener.1).is_err());
    assert!(first.counted("refused_by_groups") > 0);
    // Its own way out, and the answers through the tunnel.
    connection(&five, machine(7).ip, &listen(&seven));
    // Who is in no group is reached, who is in one without rules isn't.
    assert!(connect(&five, machine(6).ip, listen(&six).1).is_err());
    let at_seven = listen(&seven);
    connection(&first.test.namespace, machine(7).ip, &at_seven);
    let (_, _, seen) = connection(&first.test.namespace, machine(7).ip, &at_seven);
    assert_eq!(seen, IpAddr::from(host_address(1)));

    told_to.members("app", [ip(6), ip(7)]).at(&first);
    connection(&seven, machine(5).ip, &listener);
    carries(&here, &there);
    carries(&there, &here);
}

#[test]
fn the_same_holds_by_ipv6() {
    if !can_run(&PROGRAMS) {
        return;
    }
    let lan = Lan::new();
    let site = Site::of(ipv6::host(), &lan, 1, &[]);
    let [five, six, seven] = [5, 6, 7].map(|n| site.guest(&machine(n)));
    let any = |guest: &Namespace| listen_at(guest, Ipv6Addr::UNSPECIFIED);
    let (open, closed, own) = (any(&five), any(&five), any(&six));
    let addresses = |n: u8| [global(&machine(n)), local(&machine(n))].map(IpAddr::from);
    let told_to = Told::default()
        .rules(
            "web",
            [
                lets_in(port(open.1), from("fd12:5c31:1::/64")),
                lets_in(port(closed.1), members_of("friends")),
                lets_in(Traffic::Icmpv6(Some(128), Some(0)), from("::/0")),
                // Of the other family.
                lets_in(Traffic::Any, from("0.0.0.0/0")),
            ],
        )
        .members("friends", addresses(7));
    told_to.at(&site);
    site.has(&[with_groups(5, &["web"]), machine(6), machine(7)]);
    for (guest, n) in [(&five, 5), (&six, 6), (&seven, 7)] {
        // Of the router's advertisement, and nobody else having it.
        make_address(guest, &machine(n));
    }
    let to_five = global(&machine(5));
    let (here, there, _) = connection(&six, to_five, &open);
    carries(&here, &there);
    assert!(connect(&six, to_five, closed.1).is_err());
    connection(&seven, to_five, &closed);
    let (here, there, _) = connection(&five, global(&machine(6)), &own);
    carries(&there, &here);
    // In fragments, too.
    assert!(pings(&six, to_five, "56") && pings(&six, to_five, "4000"));
    told_to.rules("web", []).at(&site);
    assert!(!pings(&six, to_five, "56"));
    assert!(pings(&five, global(&machine(6)), "4000"));
    assert!(pings(&five, ipv6::prefix().gateway(), "56"));
    // Its neighbours still find it, though it lets nothing in.
    six.ip("neigh flush dev eth0");
    assert!(connect(&six, to_five, open.1).is_err());
    let known = six.command("ip", &["-6", "neigh", "show", "dev", "eth0"]);
    let known = String::from_utf8(known.stdout).unwrap();
    assert!(known.contains(&machine(5).mac.to_string()), "{known}");
}

#[test]
fn a_machine_is_held_to_its_groups_from_its_first_packet_on() {
    if !can_run(&PROGRAMS) {
        return;
    }
    let lan = Lan::new();
    let site = Site::new(&lan, 1, &[]);
    let request = with_groups(5, &["web"]);
    site.on(async |host| {
        let linked = plugged(host, &request).await;
        let listed = site_command(&site, &["list", "table", "bridge", "stratus_t_groups"]);
        let listed = String::from_utf8(listed).unwrap();
        for line in [
            "\"stt-5\" : goto ti_stt-5",
            "\"stt-5\" : goto to_stt-5",
            "jump in_web",
        ] {
            assert!(listed.contains(line), "{line} is not in {listed}");
        }
        drop(linked);
    });
}
