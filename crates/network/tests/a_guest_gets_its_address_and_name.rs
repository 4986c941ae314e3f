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
        assert_eq!(told("hostname"), Some("vm-5"));
        assert_eq!(told("domain"), Some("cloud.test"));

        guest.ip("addr add 172.16.0.5/24 dev eth0");
        guest.enter(|| {
            let server = test.config.gateway;
            assert_eq!(
                ask(server, "vm-6.cloud.test", A),
                (0, vec!["172.16.0.6".into()])
            );
            assert_eq!(
                ask(server, "5.0.16.172.in-addr.arpa", PTR),
                (0, vec!["vm-5.cloud.test".into()])
            );
            assert_eq!(ask(server, "nobody.cloud.test", A).0, 3, "NXDOMAIN");
            assert_eq!(
                ask(server, "77.0.16.172.in-addr.arpa", PTR).0,
                3,
                "NXDOMAIN"
            );
        });
        host.teardown().await.unwrap();
    });
}

#[test]
fn an_address_given_back_serves_another_mac_and_name_at_once() {
    if !can_run(&["dnsmasq", "nft", "busybox"]) {
        return;
    }
    let test = TestHost::new();
    let old = machine(5);
    let mut new = machine(5);
    new.nic = "6".parse().unwrap();
    new.mac = MacAddr([2, 0, 0, 0, 0, 0x55]);
    new.hostname = "successor".parse().unwrap();
    let (guest, successor) = (test.guest(&old), test.guest(&new));
    test.run(async |host| {
        host.reconcile(std::slice::from_ref(&old)).await.unwrap();
        assert!(dhcp(&guest, test.folder.path()).is_some());

        // Given back while dnsmasq still remembers the lease.
        host.unplug(&old.nic, old.ip).await.unwrap();
        host.reconcile(std::slice::from_ref(&new)).await.unwrap();
        let told = dhcp(&successor, test.folder.path()).expect("the old lease is still remembered");
        assert_eq!(told.get("ip").map(String::as_str), Some("172.16.0.5"));

        successor.ip("addr add 172.16.0.5/24 dev eth0");
        successor.enter(|| {
            assert_eq!(
                ask(test.config.gateway, "vm-5.cloud.test", A).0,
                3,
                "the old name is gone"
            );
            assert_eq!(
                ask(test.config.gateway, "5.0.16.172.in-addr.arpa", PTR),
                (0, vec!["successor.cloud.test".into()])
            );
        });
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
