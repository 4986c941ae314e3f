//! Real frames from real taps: what a guest must not send is counted and arrives nowhere.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::net::Ipv4Addr;

use crate::support::frames::{
    BROADCAST, arp, dhcp_discover, ethernet, plugged, rarp, received_until, router_advertisement,
    send, udp,
};
use crate::support::{TestHost, can_run, machine};
use network::MacAddr;

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

        // What QEMU says of a guest that has come, and what is not that.
        let announced = rarp(me.mac)[14..].to_vec();
        let long = [announced.clone(), vec![7; 100]].concat();
        let mut answer = announced.clone();
        answer[7] = 4;
        let lies = [
            ("spoofed_mac", arp(victim.mac, victim.mac, victim.ip)),
            ("spoofed_mac", rarp(victim.mac)),
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
            (
                "other_protocol",
                ethernet(victim.mac, me.mac, 0x8035, &announced),
            ),
            ("other_protocol", ethernet(BROADCAST, me.mac, 0x8035, &long)),
            (
                "other_protocol",
                ethernet(BROADCAST, me.mac, 0x8035, &answer),
            ),
        ];
        for (_, frame) in &lies {
            send(&mine, frame);
        }
        let honest = [
            arp(me.mac, me.mac, me.ip),
            arp(me.mac, me.mac, Ipv4Addr::UNSPECIFIED),
            dhcp_discover(me.mac, me.mac),
            rarp(me.mac),
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
            Some(&4),
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
