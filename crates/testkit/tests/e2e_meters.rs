//! What a guest does is seen by its meters, and what happens to it by its log.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test that panics has failed

use std::time::Duration;

use serde_json::Value;
use testkit::{Machine, TestCloud, skip_unless, wait_until};

/// Two looks, and what a busy computer needs.
const LIMIT: Duration = Duration::from_secs(90);

fn meter(cloud: &TestCloud, machine: &Machine<'_>, name: &str) -> Option<Value> {
    let answer = cloud
        .api()
        .get(&format!("{}/meters", machine.id))
        .expect(200);
    let all = answer["meters"].as_array()?.clone();
    all.into_iter().find(|meter| meter["name"] == name)
}

/// What came together: rates times the time they are the mean of.
fn total(cloud: &TestCloud, machine: &Machine<'_>, name: &str) -> f64 {
    let Some(meter) = meter(cloud, machine, name) else {
        return 0.0;
    };
    let interval = meter["sampleInterval"].as_f64().unwrap();
    let samples = meter["samples"].as_array().unwrap();
    let sum: f64 = samples.iter().filter_map(|s| s["value"].as_f64()).sum();
    sum * interval
}

#[test]
fn what_a_guest_does_is_seen() {
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start();
    let machine = cloud.machine();
    let volume = cloud.volume(&cloud.api(), 1);
    machine.wait_for_ssh();
    machine.attach(&volume);
    wait_until("the guest to see the disk", LIMIT, || {
        machine.ssh("ls /sys/block").contains("vdb").then_some(())
    });
    wait_until("the first figures", LIMIT, || {
        meter(&cloud, &machine, "memory").map(drop)
    });
    let memory = meter(&cloud, &machine, "memory").unwrap();
    assert!(memory["maxValue"].as_f64().unwrap() > 10_000.0, "{memory}");

    let (written, sent) = (
        total(&cloud, &machine, "diskWritten"),
        total(&cloud, &machine, "packetsSent"),
    );
    machine.ssh("dd if=/dev/zero of=/dev/vdb bs=1M count=50 2>/dev/null; sync");
    machine
        .ssh("ping -c 200 -i 0.01 -q 10.77.0.1 >/dev/null || ping -c 20 -q 10.77.0.1 >/dev/null");
    machine.ssh("(while true; do true; done) </dev/null >/dev/null 2>&1 &");
    wait_until("50 MiB written", LIMIT, || {
        // The times between looks are not exactly ten seconds.
        let more = total(&cloud, &machine, "diskWritten") - written;
        (more > 45.0 * 1_048_576.0).then_some(())
    });
    wait_until("packets sent", LIMIT, || {
        (total(&cloud, &machine, "packetsSent") - sent > 15.0).then_some(())
    });
    wait_until("a busy CPU", LIMIT, || {
        let cpu = meter(&cloud, &machine, "cpu")?;
        (cpu["maxValue"].as_f64()? > 20.0).then_some(())
    });
    let host = machine.document()["host"]["href"]
        .as_str()
        .unwrap()
        .to_owned();
    let answer = cloud.api().get(&format!("{host}/meters")).expect(200);
    assert_eq!(answer["count"], 2, "{answer}");
    assert!(
        cloud
            .cli(&["meters", &machine.vmid.to_string()])
            .contains("diskWritten")
    );

    // Its log: who asked for what, and what became of it.
    let log = machine.document()["eventLog"]["href"]
        .as_str()
        .unwrap()
        .to_owned();
    let shown = cloud.api().get(&log).expect(200);
    assert!(shown["summary"]["low"].as_u64().unwrap() >= 3, "{shown}");
    assert_eq!(shown["targetResource"]["href"], machine.id.as_str());
    let events = cloud.api().get(&format!("{log}/events")).expect(200);
    let text = events.to_string();
    assert!(
        text.contains("\"Running\"") && text.contains("initiator"),
        "{text}"
    );
    machine.kill();
    assert_eq!(
        cloud.api().get(&log).status,
        404,
        "it goes with its machine"
    );
    cloud.assert_clean();
}

#[test]
fn what_went_over_the_network_is_accounted_across_a_restart_of_the_daemon() {
    const SENT: usize = 3_000_000;
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start();
    let machine = cloud.machine();
    machine.wait_for_ssh();
    let send = || {
        let sent = machine.ssh(&format!("yes | head -c {SENT}"));
        assert!(sent.len() >= SENT - 2, "{}", sent.len());
    };
    send();
    // Goes on while no daemon is there.
    machine.ssh("(ping -c 300 -i 0.01 -s 1400 -q 10.77.0.1) </dev/null >/dev/null 2>&1 &");
    cloud.kill();
    cloud.start_again();
    wait_until("the end of the packets", LIMIT, || {
        let going = machine.ssh("pidof ping || true");
        going.trim().is_empty().then_some(())
    });
    send();
    machine.kill();
    let answer = cloud.api().get("/stratus/accounting").expect(200);
    let uses = answer["uses"].as_array().unwrap();
    let run = uses.iter().find(|used| used["kind"] == "machine").unwrap();
    assert!(run["end"].is_string(), "{run}");
    let sent = run["sentBytes"].as_u64().unwrap();
    // With what its wrapping takes: SSH, TCP, acknowledgements.
    let least = 2 * SENT as u64 + 300 * 1_400;
    assert!((least..2 * least).contains(&sent), "{run}");
    assert!(run["receivedBytes"].as_u64().unwrap() > 10_000, "{run}");
    cloud.assert_clean();
}
