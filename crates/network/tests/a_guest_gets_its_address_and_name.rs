//! A real DHCP client and real DNS questions against the dnsmasq we drive.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use crate::support::{A, PTR, TestHost, ask, can_run, dhcp, machine};
use network::MacAddr;

#[test]
fn a_guest_gets_its_address_router_resolver_mtu_and_name() {
    if !can_run(&["dnsmasq", "nft", "busybox"]) {
        return;
    }
    let mut test = TestHost::new();
    test.config.mtu = 1450;
    let (web, db) = (machine(5), machine(6));
    let guest = test.guest(&web);
    test.run(async |host| {
        host.reconcile(&[web.clone(), db.clone()]).await.unwrap();
        let told = dhcp(&guest, test.folder.path()).expect("no lease");
        let told = |key: &str| told.get(key).map(String::as_str);
        assert_eq!(told("ip"), Some("172.16.0.5"));
        assert_eq!(told("router"), Some("172.16.0.1"));
        assert_eq!(told("dns"), Some("172.16.0.1"));
        assert_eq!(told("mtu"), Some("1450"));
        assert_eq!(told("hostname"), Some("vm-172-16-0-5"));
        assert_eq!(told("domain"), Some("cloud.test"));

        guest.ip("addr add 172.16.0.5/24 dev eth0");
        guest.enter(|| {
            let server = test.config.gateway;
            assert_eq!(
                ask(server, "vm-172-16-0-6.cloud.test", A),
                (0, vec!["172.16.0.6".into()])
            );
            assert_eq!(
                ask(server, "5.0.16.172.in-addr.arpa", PTR),
                (0, vec!["vm-172-16-0-5.cloud.test".into()])
            );
            // Whether a machine has it or not.
            assert_eq!(
                ask(server, "77.0.16.172.in-addr.arpa", PTR),
                (0, vec!["vm-172-16-0-77.cloud.test".into()])
            );
            for name in [
                "nobody.cloud.test",
                "vm-172-17-0-6.cloud.test",
                "vm-172-16-0-1.cloud.test",
                "vm-172-16-0-255.cloud.test",
            ] {
                assert_eq!(ask(server, name, A).0, 3, "NXDOMAIN: {name}");
            }
            let gateway = "1.0.16.172.in-addr.arpa";
            assert_eq!(ask(server, gateway, PTR).0, 3, "NXDOMAIN");
        });
        host.teardown().await.unwrap();
    });
}

#[test]
fn an_address_given_back_serves_another_mac_at_once() {
    if !can_run(&["dnsmasq", "nft", "busybox"]) {
        return;
    }
    let test = TestHost::new();
    let old = machine(5);
    let mut new = machine(5);
    new.nic = "6".parse().unwrap();
    new.mac = MacAddr([2, 0, 0, 0, 0, 0x55]);
    let (guest, successor) = (test.guest(&old), test.guest(&new));
    test.run(async |host| {
        host.reconcile(std::slice::from_ref(&old)).await.unwrap();
        assert!(dhcp(&guest, test.folder.path()).is_some());

        // Given back while dnsmasq still remembers the lease.
        host.unplug(&old.nic, old.ip).await.unwrap();
        host.reconcile(std::slice::from_ref(&new)).await.unwrap();
        let told = dhcp(&successor, test.folder.path()).expect("the old lease is still remembered");
        assert_eq!(told.get("ip").map(String::as_str), Some("172.16.0.5"));
    });
}

#[test]
fn an_address_moves_to_another_mac_even_without_loopback() {
    if !can_run(&["dnsmasq", "nft", "busybox"]) {
        return;
    }
    let test = TestHost::new();
    let old = machine(5);
    let mut new = machine(5);
    new.nic = "6".parse().unwrap();
    new.mac = MacAddr([2, 0, 0, 0, 0, 0x55]);
    let (guest, successor) = (test.guest(&old), test.guest(&new));
    test.run(async |host| {
        host.reconcile(std::slice::from_ref(&old)).await.unwrap();
        assert!(dhcp(&guest, test.folder.path()).is_some());
        // The release cannot be delivered now, so dnsmasq has to be started again.
        test.namespace.ip("link set lo down");
        host.reconcile(std::slice::from_ref(&new)).await.unwrap();
        assert!(dhcp(&successor, test.folder.path()).is_some());
    });
}
