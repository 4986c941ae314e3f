//! Fifty machines at once, unplugging, real QEMU on the tap, and nothing left at the end.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{TestHost, can_run, eventually, machine, run};
use network::{Attachment, BridgedConfig, NetworkConfig, NetworkError, NetworkHost};

#[test]
fn fifty_machines_at_once_are_plugged_in_a_few_runs() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let test = TestHost::new();
    test.run(async |host| {
        let mut single = Vec::new();
        for n in 100..120 {
            let start = Instant::now();
            let plugged = host.plug(&machine(n)).await.unwrap();
            let handed_over = start.elapsed();
            plugged.ready.wait().await.unwrap();
            single.push((handed_over, start.elapsed()));
            host.unplug(&machine(n).nic, machine(n).ip).await.unwrap();
        }
        single.sort();
        println!(
            "one: tap after {:?}, ready after {:?} (median of {})",
            single[10].0,
            single[10].1,
            single.len()
        );

        let start = Instant::now();
        let requests: Vec<_> = (2..52).map(machine).collect();
        let all = futures::future::join_all(requests.iter().map(|request| async {
            let plugged = host.plug(request).await.unwrap();
            let handed_over = start.elapsed();
            plugged.ready.wait().await.unwrap();
            (plugged.attachment, handed_over, start.elapsed())
        }))
        .await;
        println!(
            "fifty: last tap after {:?}, last ready after {:?}",
            all.iter().map(|a| a.1).max().unwrap(),
            all.iter().map(|a| a.2).max().unwrap()
        );
        assert!(all.iter().map(|a| a.2).max().unwrap() < Duration::from_secs(10));

        let audit = host.audit().await.unwrap();
        assert_eq!(
            (audit.taps.len(), audit.bindings.len(), audit.leases.len()),
            (50, 50, 50)
        );

        let start = Instant::now();
        let gone =
            futures::future::join_all(requests.iter().map(|r| host.unplug(&r.nic, r.ip))).await;
        assert!(gone.iter().all(Result::is_ok), "{gone:?}");
        println!("fifty unplugged after {:?}", start.elapsed());
        let audit = host.audit().await.unwrap();
        assert_eq!(
            (audit.taps.len(), audit.bindings.len(), audit.leases.len()),
            (0, 0, 0)
        );

        // As after QEMU's end, which takes the tap along.
        let mut single = Vec::new();
        for request in &requests[..20] {
            let plugged = host.plug(request).await.unwrap();
            plugged.ready.wait().await.unwrap();
            drop(plugged.attachment);
            let start = Instant::now();
            host.unplug(&request.nic, request.ip).await.unwrap();
            single.push(start.elapsed());
        }
        single.sort();
        println!(
            "one unplugged after {:?} when its tap is gone (median of {})",
            single[10],
            single.len()
        );
        // Again is fine.
        host.unplug(&requests[0].nic, requests[0].ip).await.unwrap();
    });
}

#[test]
fn a_tap_goes_with_its_last_holder_and_its_name_cannot_be_taken_twice() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let test = TestHost::new();
    test.run(async |host| {
        let plugged = host.plug(&machine(5)).await.unwrap();
        let taken = host.plug(&machine(5)).await.unwrap_err();
        assert!(matches!(taken, NetworkError::Tap { .. }), "{taken}");
        drop(plugged);
        // A program being started (nft) holds a copy until it runs.
        let gone = async { while !host.audit().await.unwrap().taps.is_empty() {} };
        tokio::time::timeout(Duration::from_secs(20), gone)
            .await
            .expect("the tap stays");
        host.plug(&machine(5))
            .await
            .unwrap()
            .ready
            .wait()
            .await
            .unwrap();
    });
}

#[test]
fn qemu_holds_the_tap_and_takes_it_along() {
    if !can_run(&["dnsmasq", "nft", "qemu-system-x86_64"]) {
        return;
    }
    let test = TestHost::new();
    test.run(async |host| {
        let plugged = host.plug(&machine(5)).await.unwrap();
        // So that no nft is being started, which would inherit what QEMU is to inherit.
        plugged.ready.wait().await.unwrap();
        let Attachment::Tap(fd) = plugged.attachment else {
            panic!("no tap")
        };
        let inherited = rustix::io::dup(&fd).unwrap(); // without close-on-exec
        let mut qemu = Command::new("qemu-system-x86_64")
            .args([
                "-nodefaults",
                "-display",
                "none",
                "-M",
                "none",
                "-S",
                "-qmp",
                "stdio",
                "-netdev",
            ])
            .arg(format!("tap,id=n0,fd={}", inherited.as_raw_fd()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        drop((fd, inherited));
        // It greets when it has taken the tap.
        let mut greeting = String::new();
        BufReader::new(qemu.stdout.take().unwrap())
            .read_line(&mut greeting)
            .unwrap();
        assert!(greeting.contains("QMP"), "QEMU refused the tap");
        assert_eq!(host.audit().await.unwrap().taps.len(), 1);
        qemu.kill().unwrap();
        qemu.wait().unwrap();
        assert!(host.audit().await.unwrap().taps.is_empty());
    });
}

#[test]
fn a_teardown_leaves_nothing_and_can_be_followed_by_a_new_start() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let test = TestHost::new();
    let others = test
        .namespace
        .command("nft", &["add", "table", "ip", "somebody_elses"]);
    assert!(others.status.success());
    for _ in 0..2 {
        test.run(async |host| {
            let plugged = host.plug(&machine(5)).await.unwrap();
            plugged.ready.wait().await.unwrap();
            host.teardown().await.unwrap();
            host.teardown().await.unwrap();
            let audit = host.audit().await.unwrap();
            assert!(
                audit.bridge.is_none()
                    && audit.taps.is_empty()
                    && audit.bindings.is_empty()
                    && audit.leases.is_empty()
            );
        });
        let tables = test.namespace.command("nft", &["list", "tables"]);
        assert_eq!(
            String::from_utf8_lossy(&tables.stdout).trim(),
            "table ip somebody_elses"
        );
        let links = run("ip", &["-n", &test.namespace.name, "-br", "link"]);
        assert!(!links.contains("stt-"), "{links}");
        assert!(!test.config.directory.exists());
        eventually("the end of dnsmasq", || {
            run("ip", &["netns", "pids", &test.namespace.name])
                .trim()
                .is_empty()
        });
    }
}

#[test]
fn what_a_killed_daemon_left_is_removed_without_it() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let test = TestHost::new();
    test.run(async |host| {
        host.plug(&machine(5))
            .await
            .unwrap()
            .ready
            .wait()
            .await
            .unwrap();
    });
    test.namespace.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let config = NetworkConfig::Bridged(test.config.clone());
        for _ in 0..2 {
            runtime.block_on(NetworkHost::remove(&config)).unwrap();
        }
    });
    assert!(
        test.namespace
            .command("nft", &["list", "tables"])
            .stdout
            .is_empty()
    );
    assert!(!run("ip", &["-n", &test.namespace.name, "-br", "link"]).contains("stt-"));
    assert!(!test.config.directory.exists());
    eventually("the end of dnsmasq", || {
        run("ip", &["netns", "pids", &test.namespace.name])
            .trim()
            .is_empty()
    });
}

#[test]
fn a_missing_program_is_named() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let mut test = TestHost::new();
    test.config.nft = "/nowhere/nft".into();
    let error = test.namespace.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime
            .block_on(NetworkHost::open(NetworkConfig::Bridged(
                test.config.clone(),
            )))
            .unwrap_err()
    });
    assert!(error.to_string().contains("/nowhere/nft"), "{error}");
}

#[test]
fn forwarding_is_put_back_by_whoever_takes_the_last_network_down() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let test = TestHost::new();
    let forwards = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    let set = |value: &str| {
        test.namespace
            .enter(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", value).unwrap());
    };
    let second = another_network(&test);
    for before in ["0", "1"] {
        set(before);
        test.run(async |_first| {
            assert_eq!(forwards().trim(), "1");
            let _second = NetworkHost::open(NetworkConfig::Bridged(second.clone()))
                .await
                .unwrap();
        });
        // Another process takes them down.
        test.run(async |_| {});
        test.namespace.enter(|| {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                remove(&test.config).await;
                assert_eq!(forwards().trim(), "1", "the other needs it");
                remove(&second).await;
                assert_eq!(forwards().trim(), before);
            });
        });
    }
}

#[test]
fn networks_that_come_and_go_at_once_agree_about_forwarding() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let test = TestHost::new();
    let (first, second) = (&test.config, &another_network(&test));
    let forwards = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    let open = async |config: &BridgedConfig| {
        NetworkHost::open(NetworkConfig::Bridged(config.clone()))
            .await
            .unwrap()
    };
    test.namespace.enter(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            for _ in 0..10 {
                drop(futures::join!(open(first), open(second)));
                assert_eq!(forwards().trim(), "1", "both need it");
                futures::join!(remove(first), remove(second));
                assert_eq!(forwards().trim(), "0", "neither needs it");
                drop(open(first).await);
                drop(futures::join!(remove(first), open(second)));
                assert_eq!(forwards().trim(), "1", "the one that came needs it");
                remove(second).await;
                assert_eq!(forwards().trim(), "0", "nobody needs it");
            }
        });
    });
}

fn another_network(test: &TestHost) -> BridgedConfig {
    BridgedConfig {
        instance: "u".parse().unwrap(),
        directory: test.folder.path().join("net2"),
        network: "172.17.0.0/24".parse().unwrap(),
        gateway: Ipv4Addr::new(172, 17, 0, 1),
        ..test.config.clone()
    }
}

async fn remove(config: &BridgedConfig) {
    NetworkHost::remove(&NetworkConfig::Bridged(config.clone()))
        .await
        .unwrap();
}

#[test]
fn two_clouds_with_the_same_subnet_are_told_so() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let test = TestHost::new();
    test.run(async |_first| {
        let mut second = test.config.clone();
        second.instance = "u".parse().unwrap();
        second.directory = test.folder.path().join("net2");
        for (network, gateway, good) in [
            ("172.16.0.0/24", Ipv4Addr::new(172, 16, 0, 1), false),
            ("172.16.0.0/16", Ipv4Addr::new(172, 16, 9, 1), false),
            ("172.16.0.128/25", Ipv4Addr::new(172, 16, 0, 129), false),
            ("172.16.1.0/24", Ipv4Addr::new(172, 16, 1, 1), true),
        ] {
            second.network = network.parse().unwrap();
            second.gateway = gateway;
            let config = NetworkConfig::Bridged(second.clone());
            let checked = NetworkHost::check(&config).await;
            assert_eq!(checked.is_ok(), good, "{network}: {checked:?}");
            if good {
                continue;
            }
            let told = NetworkHost::open(config).await.unwrap_err().to_string();
            for part in [network, "stu-br0", "stt-br0", "172.16.0.1/24", "[networks]"] {
                assert!(told.contains(part), "{part}: {told}");
            }
        }
    });
}

#[test]
fn a_tap_that_nobody_holds_goes_and_one_that_is_held_stays() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let test = TestHost::new();
    test.run(async |host| {
        let held = host.plug(&machine(5)).await.unwrap();
        test.namespace.ip("tuntap add stt-77 mode tap");
        test.namespace
            .ip("link add stt-78 type veth peer name other");
        let found = host.reconcile(&[]).await.unwrap();
        let unexpected: Vec<_> = found.unexpected.iter().map(|name| name.as_str()).collect();
        assert_eq!(unexpected, ["stt-5", "stt-78"]);
        let taps = host.audit().await.unwrap().taps;
        assert!(taps.iter().all(|tap| tap.as_str() != "stt-77"), "{taps:?}");
        drop(held);
    });
}

#[test]
fn what_others_took_away_is_seen_and_set_up_again() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let test = TestHost::new();
    let bridge = test.config.instance.bridge().to_string();
    test.run(async |host| {
        let request = machine(5);
        let plugged = host.plug(&request).await.unwrap();
        plugged.ready.wait().await.unwrap();
        assert_eq!(host.audit().await.unwrap().missing, Vec::<String>::new());

        test.namespace.ip(&format!("link del {bridge}"));
        let flushed = test.namespace.command("nft", &["flush", "ruleset"]);
        assert!(flushed.status.success(), "{flushed:?}");
        let missing = host.audit().await.unwrap().missing.join("; ");
        assert!(
            missing.contains(&bridge) && missing.contains("firewall"),
            "{missing}"
        );

        let done = host
            .reconcile(std::slice::from_ref(&request))
            .await
            .unwrap();
        assert!(done.missing.is_empty(), "{done:?}");
        let audit = host.audit().await.unwrap();
        assert_eq!(audit.missing, Vec::<String>::new());
        assert_eq!((audit.taps.len(), audit.bindings.len()), (1, 1));
        drop(plugged.attachment);
    });
}

#[test]
fn a_bridge_of_another_cloud_is_left_alone() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let test = TestHost::new();
    let mut of_other = test.config.clone();
    of_other.directory = test.folder.path().join("other");
    test.run(async |host| {
        let config = NetworkConfig::Bridged(of_other.clone());
        for refused in [
            NetworkHost::check(&config).await,
            NetworkHost::open(config.clone()).await.map(drop),
            NetworkHost::remove(&config).await,
        ] {
            let refused = refused.unwrap_err();
            assert!(
                matches!(refused, NetworkError::BridgeTaken { .. }),
                "{refused}"
            );
            let told = refused.to_string();
            let owner = test.config.directory.display().to_string();
            assert!(told.contains(&owner), "{told}");
        }
        let audit = host.audit().await.unwrap();
        assert_eq!(audit.missing, Vec::<String>::new());
        // It is the first one's still, also for its next process.
        NetworkHost::check(&NetworkConfig::Bridged(test.config.clone()))
            .await
            .unwrap();
    });
}
