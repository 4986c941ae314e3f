//! Machines outlive the daemon, and what happens to them and to their helpers is seen at once.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::time::{Duration, Instant};

use testkit::{Machine, Options, TestCloud, skip_unless, wait_until};

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

fn reason(machine: &Machine<'_>) -> String {
    machine.document()["reason"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}
