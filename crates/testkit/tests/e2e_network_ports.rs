//! A port that is stopped is a cable pulled out of a real guest, whatever happens to the daemon.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test that panics has failed

use std::time::Duration;

use serde_json::json;
use testkit::{Machine, TestCloud, skip_unless, wait_until};

const LIMIT: Duration = Duration::from_secs(90);

/// Asks for it, and waits for its job.
#[track_caller]
fn act(cloud: &TestCloud, id: &str, action: &str) {
    let reply = cloud.api().post(&format!("{id}/{action}"), &json!({}));
    let job = reply.job.clone();
    let _ = reply.expect(202);
    cloud.wait_for_job(&job.unwrap());
}

/// How often its kernel saw the link go or come.
fn carrier_changes(machine: &Machine<'_>) -> u64 {
    let text = machine.ssh("cat /sys/class/net/eth0/carrier_changes");
    text.trim().parse().unwrap()
}

#[track_caller]
fn is_cut_off(machine: &Machine<'_>) {
    let output = machine.try_ssh("true");
    assert!(!output.status.success(), "its link is up");
}

#[test]
fn a_stopped_port_is_a_cable_pulled_out() {
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start();
    let api = cloud.api();
    let body =
        json!({"name": "uplink", "networkPortTemplate": {"network": {"href": "Network/public"}}});
    let port = api.post("NetworkPort", &body).expect(201)["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let state = || {
        let shown = api.get(&port).expect(200);
        shown["state"].as_str().unwrap().to_owned()
    };
    let mut document = cloud.machine_document(&cloud.image());
    document["machineTemplate"]["networkInterfaces"] = json!([{"networkPort": {"href": port}}]);
    let machine = cloud.machine_of(&api, &document);
    assert_eq!(
        api.get(&port).expect(200)["machine"]["href"],
        machine.id.as_str()
    );
    machine.wait_for_ssh();
    let before = carrier_changes(&machine);

    act(&cloud, &port, "stop");
    assert_eq!(state(), "STOPPED");
    is_cut_off(&machine);
    // The daemon is killed, and takes the machine over: it stays cut off.
    let qemu = machine.process();
    cloud.kill();
    cloud.start_again();
    wait_until("the machine to be taken over", LIMIT, || {
        (machine.phase() == "Running").then_some(())
    });
    assert_eq!(machine.process(), qemu);
    assert_eq!(state(), "STOPPED");
    is_cut_off(&machine);
    act(&cloud, &port, "start");
    machine.wait_for_ssh();
    // The guest itself saw the cable go and come.
    assert!(carrier_changes(&machine) >= before + 2);

    let refused = api.delete(&port).expect(409);
    assert!(refused.to_string().contains("in use"), "{refused}");
    machine.kill();
    machine.wait_for_phase("Done");
    assert_eq!(api.get(&port).expect(200)["machine"], json!(null));
    let _ = api.delete(&port).ok();
    cloud.assert_clean();
}
