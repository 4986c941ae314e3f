//! dnsmasq killed, adopted, replaced, refused.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::{A, TestHost, ask, can_run, dhcp, machine, run};
use network::{DhcpHealth, NetworkConfig, NetworkError, NetworkHost};

fn pid(host: &NetworkHost) -> i32 {
    match &*host.dhcp_health().unwrap().borrow() {
        DhcpHealth::Running { pid } => *pid,
        other => panic!("{other:?}"),
    }
}

fn user_of(pid: i32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("Uid:"))
        .unwrap();
    line.split_whitespace().nth(2).unwrap().parse().unwrap()
}

#[test]
fn a_killed_dnsmasq_is_back_within_a_second_with_its_leases() {
    if !can_run(&["dnsmasq", "nft", "busybox"]) {
        return;
    }
    let test = TestHost::new();
    let guest = test.guest(&machine(5));
    test.run(async |host| {
        host.reconcile(&[machine(5)]).await.unwrap();
        for _ in 0..2 {
            let old = pid(&host);
            assert_ne!(user_of(old), 0, "it drops its privileges");
            let mut health = host.dhcp_health().unwrap();
            let killed = Instant::now();
            run("kill", &["-KILL", &old.to_string()]);
            let back = health.wait_for(|h| matches!(h, DhcpHealth::Running { pid } if *pid != old));
            tokio::time::timeout(Duration::from_secs(20), back)
                .await
                .expect("it does not come back")
                .unwrap();
            println!("back after {:?}", killed.elapsed());
            assert_eq!(
                ask(test.config.gateway, "vm-172-16-0-5.cloud.test", A),
                (0, vec!["172.16.0.5".into()])
            );
            let told = dhcp(&guest, test.folder.path()).expect("its lease is gone");
            assert_eq!(told.get("ip").map(String::as_str), Some("172.16.0.5"));
        }
    });
}

#[test]
fn a_new_daemon_adopts_the_dnsmasq_of_the_old_one() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let mut test = TestHost::new();
    let first = test.run(async |host| {
        let plugged = host.plug(&machine(5)).await.unwrap();
        plugged.ready.wait().await.unwrap();
        pid(&host)
    });
    // The daemon is gone, dnsmasq answers.
    test.namespace
        .enter(|| assert_eq!(ask(test.config.gateway, "vm-172-16-0-5.cloud.test", A).0, 0));
    test.run(async |host| {
        assert_eq!(pid(&host), first);
        assert_eq!(
            host.audit().await.unwrap().bindings.len(),
            1,
            "rules stand until a reconciliation says otherwise"
        );
        assert_eq!(host.audit().await.unwrap().leases.len(), 1);
        let plugged = host.plug(&machine(6)).await.unwrap();
        plugged.ready.wait().await.unwrap();
        assert_eq!(pid(&host), first, "the adopted one follows changes");
    });
    // Without its pid file it is found all the same.
    std::fs::remove_file(test.config.directory.join("dnsmasq.pid")).unwrap();
    test.run(async |host| assert_eq!(pid(&host), first));
    // Another configuration takes another process, and the old one ends.
    test.config.domain = "other.test".parse().unwrap();
    test.run(async |host| {
        assert_ne!(pid(&host), first);
        assert!(!Path::new(&format!("/proc/{first}/exe")).exists());
        assert_eq!(ask(test.config.gateway, "vm-172-16-0-5.other.test", A).0, 0);
    });
}

#[test]
fn a_hung_dnsmasq_is_replaced_at_the_next_change() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let test = TestHost::new();
    test.run(async |host| {
        let hung = pid(&host);
        run("kill", &["-STOP", &hung.to_string()]);
        let plugged = host.plug(&machine(5)).await.unwrap();
        plugged.ready.wait().await.unwrap();
        assert_ne!(pid(&host), hung);
        assert_eq!(ask(test.config.gateway, "vm-172-16-0-5.cloud.test", A).0, 0);
    });
}

#[test]
fn a_bridge_made_anew_gets_its_dnsmasq_and_taps_back() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let test = TestHost::new();
    test.run(async |host| {
        let plugged = host.plug(&machine(5)).await.unwrap();
        plugged.ready.wait().await.unwrap();
        let old = pid(&host);
        test.namespace.ip("link del stt-br0");
        let found = host.reconcile(&[machine(5), machine(6)]).await.unwrap();
        assert_eq!(
            (found.missing, found.unexpected),
            (vec!["6".parse().unwrap()], vec![])
        );
        assert_ne!(pid(&host), old);
        assert_eq!(ask(test.config.gateway, "vm-172-16-0-5.cloud.test", A).0, 0);
        let ports = run(
            "ip",
            &[
                "-n",
                &test.namespace.name,
                "-br",
                "link",
                "show",
                "master",
                "stt-br0",
            ],
        );
        assert!(ports.contains("stt-5"), "{ports}");
    });
}

#[test]
fn a_dnsmasq_that_cannot_start_says_why_and_is_tried_again() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let mut test = TestHost::new();
    test.config.dnsmasq_user = Some("no-such-user".into());
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
    assert!(
        matches!(&error, NetworkError::Dnsmasq { reason } if reason.contains("no-such-user")),
        "{error}"
    );

    // While it runs, something else takes its place: a program that only fails.
    test.config.dnsmasq_user = None;
    let program = test.folder.path().join("dnsmasq");
    std::os::unix::fs::symlink("/usr/sbin/dnsmasq", &program).unwrap();
    test.config.dnsmasq = program.clone();
    test.run(async |host| {
        std::fs::remove_file(&program).unwrap();
        std::os::unix::fs::symlink("/bin/false", &program).unwrap();
        let mut health = host.dhcp_health().unwrap();
        let limit = Duration::from_secs(20);
        run("kill", &["-KILL", &pid(&host).to_string()]);
        let failing = health
            .wait_for(|h| matches!(h, DhcpHealth::Failing { failures, .. } if *failures >= 3));
        tokio::time::timeout(limit, failing).await.unwrap().unwrap();
        // Rules of machines go on being made meanwhile.
        host.plug(&machine(5))
            .await
            .unwrap()
            .ready
            .wait()
            .await
            .unwrap();
        std::fs::remove_file(&program).unwrap();
        std::os::unix::fs::symlink("/usr/sbin/dnsmasq", &program).unwrap();
        let back = health.wait_for(|h| matches!(h, DhcpHealth::Running { .. }));
        tokio::time::timeout(limit, back).await.unwrap().unwrap();
        assert_eq!(ask(test.config.gateway, "vm-172-16-0-5.cloud.test", A).0, 0);
    });
}

#[test]
fn behind_a_shut_folder_dnsmasq_still_drops_its_privileges() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let test = TestHost::new();
    let shut = |mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(test.folder.path(), mode).unwrap();
    };
    let argument = |pid: i32, name: &str| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        let found = line
            .split('\0')
            .find_map(|argument| argument.strip_prefix(name));
        found.unwrap().to_owned()
    };
    // Open first, so that the one with its files in the folder has to make room.
    let open = test.run(async |host| pid(&host));
    shut(0o700);
    let files = test.run(async |host| {
        let now = pid(&host);
        assert_ne!(now, open);
        assert!(!Path::new(&format!("/proc/{open}/exe")).exists());
        assert_ne!(user_of(now), 0, "it drops its privileges");
        host.reconcile(&[machine(5)]).await.unwrap();
        assert_eq!(ask(test.config.gateway, "vm-172-16-0-5.cloud.test", A).0, 0);
        assert_eq!(pid(&host), now, "it follows changes as its own user");
        let files = argument(now, "--pid-file=");
        assert!(files.starts_with("/run/stratus/"), "{files}");
        files
    });
    let again = test.run(async |host| {
        let now = pid(&host);
        host.teardown().await.unwrap();
        now
    });
    assert!(!Path::new(&format!("/proc/{again}/exe")).exists());
    let folder = Path::new(&files).parent().unwrap();
    assert!(!folder.exists(), "{}", folder.display());
    let mut root = test.config.clone();
    root.dnsmasq_user = Some("root".into());
    test.namespace.enter(|| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let refused = runtime.block_on(NetworkHost::open(NetworkConfig::Bridged(root)));
        assert!(refused.unwrap_err().to_string().contains("root"));
    });
}

#[test]
fn its_log_is_cut_whoever_makes_it_grow() {
    if !can_run(&["dnsmasq", "nft"]) {
        return;
    }
    let test = TestHost::new();
    test.run(async |_host| {
        use std::io::Write as _;
        let log = test.config.directory.join("dnsmasq.log");
        let size = || std::fs::metadata(&log).unwrap().len();
        let mut file = std::fs::File::options().append(true).open(&log).unwrap();
        for _ in 0..3 {
            file.write_all(&vec![b'x'; 3 << 20]).unwrap();
            let deadline = Instant::now() + Duration::from_secs(20);
            while size() > 1 << 20 {
                assert!(Instant::now() < deadline, "{} bytes", size());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        let old = test.config.directory.join("dnsmasq.log.old");
        assert!(std::fs::metadata(old).unwrap().len() <= 1 << 20);
    });
}
