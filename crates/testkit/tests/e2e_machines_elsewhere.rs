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
