//! A machine on another computer than the cloud's: a host that has joined, in a network namespace of its own, with a cable to
//! the cloud's. All is real: two daemons, QEMU, dnsmasq, a tunnel between the bridges.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::time::Duration;

use serde_json::Value;
use testkit::{Machine, TestCloud, TestHost, skip_unless, wait_until};

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

/// What is no document is told by the host, on a connection of its own.
fn told_from_elsewhere(cloud: &TestCloud, machine: &Machine<'_>) {
    // The guest may say more between the two.
    let last = cloud.cli(&["console", "--last", "20", &machine.vmid.to_string()]);
    let console = machine.console();
    assert!(console.contains("stratus-ready"), "{console}");
    assert!(console.contains(last.trim()), "{last}");
    let id = machine.vmid.to_string();
    cloud.cli_until(
        &["console", "--follow", "--last", "1", &id],
        "told at once",
        || {
            machine.ssh("echo told at once > /dev/ttyS0");
        },
    );
    wait_until("what it used", LIMIT, || {
        let meters = cloud.api().get(&format!("{}/meters", machine.id)).ok();
        let names = meters.to_string();
        ["memory", "cpu", "networkSent"]
            .iter()
            .all(|name| names.contains(name))
            .then_some(())
    });
    assert_eq!(
        cloud.cli_json(&["doctor"])["findings"],
        Value::Array(Vec::new())
    );
}

/// The host tells of its copies of the machine's image, its kernel and its first file system, and how busy it is, which everybody is told who asks how full hosts are.
fn told_of_the_host(cloud: &TestCloud) {
    let host = wait_until("what its host has and uses", LIMIT, || {
        let host = cloud.cli_json(&["host", "show", "node7"]);
        let told = |name: &str| host[name].as_u64().filter(|amount| *amount > 0);
        (told("imagesCached")? == 3 && told("memoryLoad")? > 0 && host["cpuLoad"].is_u64())
            .then_some(host.clone())
    });
    let kib = |name: &str| host[name].as_f64().unwrap();
    let free = kib("memory") - kib("memoryLoad");
    let load = cloud.api().anonymous().get("/load.txt").text();
    let line = load.lines().find(|line| line.contains("node7")).unwrap();
    let shown = line.split_whitespace().nth(7).unwrap();
    let (number, unit) = shown.split_at(shown.len() - 1);
    let unit = ["K", "M", "G", "T"].iter().position(|one| *one == unit);
    let shown = number.parse::<f64>().unwrap() * 1024_f64.powi(unit.unwrap() as i32);
    assert!((shown - free).abs() < free / 20.0, "{free}: {load}");
}

#[test]
fn a_machine_runs_on_a_host_that_joined_and_outlives_both_daemons() {
    if skip_unless(&[]) {
        return;
    }
    let (mut host, cloud) = TestHost::of_a_cloud();
    let machine = cloud.machine();
    // By the address of the machine, from the cloud's host: through the tunnel.
    machine.wait_for_ssh();
    assert_eq!(host.machines(), [machine.uuid()]);
    let process = machine.process();
    let own = host.namespace().unwrap().processes();
    assert!(own.contains(&process), "{process}: {own:?}");
    assert_eq!(machine.document()["state"], "STARTED");
    told_from_elsewhere(&cloud, &machine);
    told_of_the_host(&cloud);

    // The cloud's daemon is away: the machine runs on, and is what it was when that is back.
    cloud.kill();
    cloud.start_again();
    host.wait_for_state(&cloud, "OK");
    machine.wait_for_phase("Running");
    assert_eq!(machine.process(), process);

    // The host's daemon is away: nothing is known of the machine, which runs on and is taken over.
    host.kill();
    machine.wait_for_phase("Unknown");
    host.wait_for_state(&cloud, "LOST");
    for of in ["console", "meters"] {
        let refused = cloud.api().get(&format!("{}/{of}", machine.id));
        assert_eq!(refused.status, 503, "{refused:?}");
        assert!(
            refused.detail().contains("node7 can't be asked"),
            "{refused:?}"
        );
    }
    let doctor = cloud.try_cli(&["doctor"]);
    let told = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(told.contains("the host was not examined"), "{doctor:?}");
    machine.ssh("true");
    // With the next certificate its store is opened anew, while the machine runs: it is looked after as before.
    let certificate = host.certificate();
    host.renew_in(Duration::from_secs(2));
    host.start();
    machine.wait_for_phase("Running");
    wait_until("the next certificate", LIMIT, || {
        (host.certificate() != certificate).then_some(())
    });
    let id = machine.vmid.to_string();
    cloud.cli(&["pause-instance", &id]);
    cloud.cli(&["start-instance", &id]);
    machine.wait_for_phase("Running");
    assert_eq!(machine.process(), process);

    // Asked for while its host is away, done when that is back.
    host.kill();
    machine.wait_for_phase("Unknown");
    cloud.cli(&["kill-instance", &id]);
    assert_eq!(machine.process(), process);
    host.start();
    machine.wait_for_phase("Done");
    wait_until("the machine's folder to go", LIMIT, || {
        host.machines().is_empty().then_some(())
    });
    assert!(machine.processes().is_empty());

    // What it used is accounted for, and what became of it told, as of any machine.
    let used = cloud.cli(&["accounting", "export", "--from", "2026-01-01"]);
    assert!(used.contains(&machine.id), "{used}");
    cloud.assert_clean();
}
