//! A cloud of somebody without privileges.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use testkit::{Need, TestCloud, skip_unless};

#[test]
fn a_user_without_privileges_has_a_cloud() {
    if skip_unless(&[Need::Qemu, Need::Ssh, Need::Program("setpriv")]) {
        return;
    }
    let cloud = TestCloud::start_user_mode();
    let machine = cloud.machine();
    machine.wait_for_phase("Running");
    let document = machine.document();
    let port = document["ssh"]["port"].as_u64().unwrap();
    assert_ne!(port, 22, "{document}");
    assert_eq!(document["ssh"]["host"], "127.0.0.1", "{document}");
    machine.wait_for_ssh();
    assert_eq!(machine.ssh("echo inside"), "inside");
    let table = cloud.cli(&["describe-instance", "-n"]);
    assert!(
        table.contains(&port.to_string()),
        "the forwarded port is shown: {table}"
    );

    cloud.kill();
    cloud.start_again();
    machine.wait_for_phase("Running");
    assert_eq!(machine.ssh("echo still inside"), "still inside");

    cloud.cli(&["kill-instance", &machine.vmid.to_string()]);
    machine.wait_for_phase("Done");
    cloud.assert_clean();
}
