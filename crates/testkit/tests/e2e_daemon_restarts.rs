//! Machines outlive the daemon, and what happens to them and to their helpers is seen at once.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    time::{Duration, Instant},
};

use serde_json::json;
use testkit::{Machine, Need, Options, TestCloud, skip_unless, wait_until};

const LIMIT: Duration = Duration::from_secs(30);
/// How soon after the daemon is ready the states of machines must be right.
const ADOPTION_LIMIT: Duration = Duration::from_secs(1);

#[test]
fn machines_outlive_the_daemon() {
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start();
    let machine = cloud.machine();
    let volume = cloud.volume(&cloud.api(), 1);
    machine.wait_for_ssh();
    let boot = machine.ssh("cat /proc/sys/kernel/random/boot_id");
    let qemu = machine.process();

    let ended = cloud.stop();
    assert!(ended.success(), "{ended}: {}", cloud.log_tail());
    assert_eq!(
        machine.processes(),
        [qemu],
        "the guest runs without the daemon"
    );
    cloud.start_again();
    is_as_before(&machine, qemu, &boot);

    cloud.kill();
    cloud.start_again();
    is_as_before(&machine, qemu, &boot);
    machine.attach(&volume);
    wait_until("the guest to see the disk", LIMIT, || {
        machine.ssh("ls /sys/block").contains("vdb").then_some(())
    });

    // While a disk is attached, too; and the disk can still be taken away.
    cloud.kill();
    cloud.start_again();
    is_as_before(&machine, qemu, &boot);
    machine.detach(&volume);
    let _ = cloud.api().delete(&volume).ok();

    dnsmasq_comes_back(&cloud, &machine);

    // Killed while the daemon was away: seen when it is back.
    cloud.kill();
    cloud.shell(&format!("kill -9 {qemu}"));
    cloud.start_again();
    machine.wait_for_phase("Unknown");
    machine.kill();
    cloud.assert_clean();
}

fn is_as_before(machine: &Machine<'_>, qemu: u32, boot: &str) {
    let begun = Instant::now();
    machine.wait_for_phase("Running");
    let took = begun.elapsed();
    assert!(
        took <= ADOPTION_LIMIT,
        "it took {took:?} until the machine was shown as it is"
    );
    assert_eq!(machine.processes(), [qemu], "the same QEMU, and no other");
    assert_eq!(
        machine.ssh("cat /proc/sys/kernel/random/boot_id"),
        boot,
        "the guest was not started again"
    );
}

fn dnsmasq_comes_back(cloud: &TestCloud, machine: &Machine<'_>) {
    let name = machine.ssh("hostname");
    let ask = format!("busybox nslookup {name}.stratus.internal 10.77.0.1");
    cloud.shell(&ask);
    let pid_of = || {
        let inside = cloud.namespace().unwrap().processes();
        inside.into_iter().find(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name.trim() == "dnsmasq")
        })
    };
    let old = pid_of().unwrap();
    cloud.shell(&format!("kill -9 {old}"));
    wait_until("another dnsmasq", LIMIT, || {
        pid_of().filter(|pid| *pid != old)
    });
    wait_until("its answer", LIMIT, || {
        let output = cloud.run(std::process::Command::new("sh").args(["-c", &ask]));
        output.status.success().then_some(())
    });
}

#[test]
fn what_happens_in_a_guest_is_seen_at_once() {
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start_with(&Options {
        power_button_seconds: Some(3),
        ..Options::default()
    });
    let (first, second) = (cloud.machine(), cloud.machine());
    first.wait_for_ssh();

    // It switches itself off.
    let _ = first.try_ssh("poweroff");
    first.wait_for_phase("Unknown");
    let reason = reason(&first);
    assert!(!reason.is_empty(), "it says why: {}", first.document());
    first.kill();

    // It panics. The connection breaks, so the command's end is not waited for.
    second.wait_for_ssh();
    let third = cloud.machine();
    let _ = second.try_ssh("(sleep 0.2; echo c > /proc/sysrq-trigger) >/dev/null 2>&1 &");
    let why = wait_until("the panic to be seen", LIMIT, || {
        Some(self::reason(&second)).filter(|reason| reason.contains("panic"))
    });
    assert!(
        ["Unknown", "Failed"].contains(&second.phase().as_str()),
        "{}: {why}",
        second.phase()
    );
    second.kill();

    // It does not obey the power button.
    third.wait_for_ssh();
    third.ssh("printf '#!/bin/sh\\n' > /etc/acpi/PWRF/00000080");
    let begun = Instant::now();
    cloud.cli(&["stop-instance", &third.vmid.to_string()]);
    third.wait_for_phase("Stopped");
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_secs(3),
        "it was given its time, but only {took:?}"
    );
    assert!(third.processes().is_empty());

    // Started again it has its disk; its QEMU dies.
    cloud.cli(&["start-instance", &third.vmid.to_string()]);
    third.wait_for_phase("Running");
    let qemu = third.process();
    cloud.shell(&format!("kill -9 {qemu}"));
    let begun = Instant::now();
    third.wait_for_phase("Unknown");
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "seen after {:?}",
        begun.elapsed()
    );
    let document = third.document();
    assert_eq!(document["state"], "ERROR", "{document}");
    assert!(self::reason(&third).contains("QEMU"), "{document}");
    third.kill();
    cloud.assert_clean();
}

/// Longer than requests may take to drain (10 s), shorter than an operator's patience.
const END_LIMIT: Duration = Duration::from_secs(15);

#[test]
fn a_signal_renews_the_certificate_and_another_ends_the_daemon_in_seconds() {
    if skip_unless(&[Need::Program("openssl")]) {
        return;
    }
    let cloud = TestCloud::start_with(&Options {
        tables: "[images]\nallow_sources = [\"127.0.0.1/32\"]\n".into(),
        ..Options::default()
    });
    let shown = || {
        cloud.shell(
            "openssl s_client -connect 127.0.0.1:8443 </dev/null 2>/dev/null | openssl x509 -noout -serial",
        )
    };
    let first = shown();
    std::fs::remove_file(cloud.state_dir().join("tls/server.crt")).unwrap();
    assert_eq!(shown(), first, "files count when they are read");
    cloud.shell(&format!("kill -HUP {}", cloud.daemon_pid()));
    wait_until("another certificate", LIMIT, || {
        (shown() != first).then_some(())
    });
    let _ = cloud.api().list("Machine"); // trusts the same authority

    // A server that sends the beginning of an image and then nothing more.
    let namespace = cloud.namespace().unwrap();
    let server = namespace.enter(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let url = format!("http://{}/image.raw", server.local_addr().unwrap());
    let stalled = std::thread::spawn(move || {
        let (mut stream, _) = server.accept().unwrap();
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 1048576\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&[0; 4096]).unwrap();
        let _ = stream.read(&mut [0; 4096]);
        stream
    });
    let import = json!({"name": "stalled", "imageLocation": url});
    let _ = cloud.api().post("MachineImage", &import).expect(201);
    let stream = stalled.join().unwrap();
    let begun = Instant::now();
    let ended = cloud.stop();
    assert!(ended.success(), "{ended}: {}", cloud.log_tail());
    assert!(
        begun.elapsed() < END_LIMIT,
        "it took {:?} to end",
        begun.elapsed()
    );
    drop(stream);
}

fn reason(machine: &Machine<'_>) -> String {
    machine.document()["reason"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}
