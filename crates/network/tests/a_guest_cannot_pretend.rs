//! Real frames from real taps: what a guest must not send is counted and arrives nowhere.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::support::{TestHost, can_run, machine};
use network::{Attachment, MacAddr, NetworkHost, PlugRequest};

const VNET_HEADER: usize = 10;
const BROADCAST: MacAddr = MacAddr([0xff; 6]);

fn ethernet(to: MacAddr, from: MacAddr, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [to.octets(), from.octets()].concat();
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame.resize(frame.len().max(60), 0);
    frame
}

fn arp(from: MacAddr, sender: MacAddr, sender_ip: Ipv4Addr) -> Vec<u8> {
    let mut payload = vec![0, 1, 8, 0, 6, 4, 0, 1];
    payload.extend(sender.octets());
    payload.extend(sender_ip.octets());
    payload.extend([0; 6]);
    payload.extend([172, 16, 0, 99]);
    ethernet(BROADCAST, from, 0x0806, &payload)
}

fn udp(from: MacAddr, source: (Ipv4Addr, u16), port: u16, data: &[u8]) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend((28 + data.len() as u16).to_be_bytes());
    header.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    header.extend(source.0.octets());
    header.extend([255, 255, 255, 255]);
    let sum: u32 = header
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header.extend(source.1.to_be_bytes());
    header.extend(port.to_be_bytes());
    header.extend((8 + data.len() as u16).to_be_bytes());
    header.extend([0, 0]);
    header.extend(data);
    ethernet(BROADCAST, from, 0x0800, &header)
}

fn dhcp_discover(from: MacAddr, chaddr: MacAddr) -> Vec<u8> {
    let mut data = vec![1, 1, 6, 0];
    data.resize(28, 0);
    data.extend(chaddr.octets());
    data.resize(300, 0);
    udp(from, (Ipv4Addr::UNSPECIFIED, 68), 67, &data)
}

fn router_advertisement(from: MacAddr) -> Vec<u8> {
    let mut packet = vec![
        0x60, 0, 0, 0, 0, 16, 58, 255, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
    ];
    packet.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
    ethernet(MacAddr([0x33, 0x33, 0, 0, 0, 1]), from, 0x86dd, &packet)
}

fn send(tap: &OwnedFd, frame: &[u8]) {
    let whole = [&[0; VNET_HEADER], frame].concat();
    assert_eq!(rustix::io::write(tap, &whole).unwrap(), whole.len());
}

/// Everything that arrives until `last` does.
fn received_until(tap: &OwnedFd, last: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut buffer = [0; 4096];
    while Instant::now() < deadline {
        match rustix::io::read(tap, &mut buffer) {
            Ok(length) if &buffer[VNET_HEADER..length] == last => return all,
            Ok(length) => all.push(buffer[VNET_HEADER..length].to_vec()),
            Err(rustix::io::Errno::AGAIN) => std::thread::sleep(Duration::from_millis(2)),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the last frame never arrived; before it {all:?}");
}

async fn plugged(host: &NetworkHost, request: &PlugRequest) -> OwnedFd {
    let plugged = host.plug(request).await.unwrap();
    plugged.ready.wait().await.unwrap();
    match plugged.attachment {
        Attachment::Tap(fd) => fd,
        Attachment::User(_) => panic!("no tap"),
    }
}

#[test]
fn spoofed_frames_are_counted_and_arrive_nowhere() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let test = TestHost::new();
    test.run(async |host| {
        let (me, victim) = (machine(5), machine(6));
        let mine = plugged(&host, &me).await;
        let theirs = plugged(&host, &victim).await;
        // It would be said at the tap, to the guest.
        let addresses = test
            .namespace
            .command("ip", &["-6", "addr", "show", "dev", "stt-6"]);
        let addresses = String::from_utf8(addresses.stdout).unwrap();
        assert_eq!(addresses, "", "the host has an address there");
        let other = Ipv4Addr::new(172, 16, 0, 77);

        let lies = [
            ("spoofed_mac", arp(victim.mac, victim.mac, victim.ip)),
            (
                "spoofed_mac",
                udp(MacAddr([2, 0, 0, 0, 0, 9]), (me.ip, 1000), 2000, &[7; 40]),
            ),
            ("spoofed_arp", arp(me.mac, me.mac, victim.ip)),
            ("spoofed_arp", arp(me.mac, me.mac, test.config.gateway)),
            ("spoofed_arp", arp(me.mac, victim.mac, me.ip)),
            (
                "spoofed_address",
                udp(me.mac, (victim.ip, 1000), 2000, &[7; 40]),
            ),
            (
                "spoofed_address",
                udp(me.mac, (other, 1000), 2000, &[7; 40]),
            ),
            (
                "spoofed_address",
                udp(me.mac, (Ipv4Addr::UNSPECIFIED, 1000), 2000, &[7; 40]),
            ),
            ("rogue_dhcp_server", udp(me.mac, (me.ip, 67), 68, &[2; 300])),
            ("spoofed_dhcp", dhcp_discover(me.mac, victim.mac)),
            ("router_advertisement", router_advertisement(me.mac)),
            (
                "other_protocol",
                ethernet(BROADCAST, me.mac, 0x8100, &[0, 5, 8, 6, 0, 0]),
            ),
        ];
        for (_, frame) in &lies {
            send(&mine, frame);
        }
        let honest = [
            arp(me.mac, me.mac, me.ip),
            arp(me.mac, me.mac, Ipv4Addr::UNSPECIFIED),
            dhcp_discover(me.mac, me.mac),
        ];
        for frame in &honest {
            send(&mine, frame);
        }
        let last = udp(
            me.mac,
            (me.ip, 1000),
            2000,
            b"the last frame, long enough to need no padding",
        );
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

        // Without rules a tap is mute.
        host.reconcile(std::slice::from_ref(&victim)).await.unwrap();
        send(&mine, &arp(me.mac, me.mac, me.ip));
        let packets = host.audit().await.unwrap().packets;
        assert_eq!(
            packets.get("spoofed_mac"),
            Some(&3),
            "counters go on counting over a reconciliation"
        );
    });
}

#[test]
fn rules_somebody_flushed_come_back_with_the_next_change() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let test = TestHost::new();
    test.run(async |host| {
        let _first = plugged(&host, &machine(5)).await;
        test.namespace.command("nft", &["flush", "ruleset"]);
        assert!(host.audit().await.unwrap().bindings.is_empty());
        let _second = plugged(&host, &machine(6)).await;
        assert_eq!(host.audit().await.unwrap().bindings.len(), 2);

        // Tables of our name in a shape of somebody else's.
        test.namespace.command("nft", &["flush", "ruleset"]);
        test.namespace
            .command("nft", &["add", "table", "bridge", "stratus_t"]);
        test.namespace.command(
            "nft",
            &[
                "add",
                "set",
                "bridge",
                "stratus_t",
                "macs",
                "{ type ipv4_addr; }",
            ],
        );
        let _third = plugged(&host, &machine(7)).await;
        assert_eq!(host.audit().await.unwrap().bindings.len(), 3);
    });
}

#[test]
fn a_guest_that_floods_dhcp_and_dns_is_held_back() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let test = TestHost::new();
    test.run(async |host| {
        let me = machine(5);
        let mine = plugged(&host, &me).await;
        let discover = dhcp_discover(me.mac, me.mac);
        for _ in 0..200 {
            send(&mine, &discover);
        }
        // Nobody parses it: it only has to come from here and go there.
        let mut question = udp(me.mac, (me.ip, 5353), 53, &[0; 12]);
        question[30..34].copy_from_slice(&test.config.gateway.octets());
        question[24..26].copy_from_slice(&[0, 0]);
        let sum: u32 = question[14..34]
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        question[24..26].copy_from_slice(&sum.to_be_bytes());
        let gateway = network::MacPrefix::default().mac(test.config.gateway);
        question[..6].copy_from_slice(&gateway.octets());
        for _ in 0..5000 {
            send(&mine, &question);
        }
        let packets = host.audit().await.unwrap().packets;
        assert!(packets["too_many_dhcp"] > 100, "{packets:?}");
        assert!(packets["too_many_dns"] > 1000, "{packets:?}");
    });
}
