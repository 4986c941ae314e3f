//! A machine is moved at rest to another computer and back, with what is in its memory and on its disks; what goes wrong on the way harms it
//! not. All is real: two daemons in two network namespaces, QEMU.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::time::{Duration, Instant};

use testkit::{Machine, TestCloud, TestHost, skip_unless, wait_until};

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Whose the machine is, by the name of its host.
fn host_of(machine: &Machine<'_>, cloud: &TestCloud) -> String {
    let id = machine.document()["host"]["href"]
        .as_str()
        .unwrap()
        .to_owned();
    let hosts = cloud.cli_json(&["host", "list"]);
    let mut hosts = hosts.as_array().unwrap().iter();
    let host = hosts.find(|host| host["id"] == id.as_str()).unwrap();
    host["name"].as_str().unwrap().to_owned()
}

fn wait_until_on(cloud: &TestCloud, machine: &Machine<'_>, host: &str) {
    wait_until(&format!("it to be on {host}"), LIMIT, || {
        (host_of(machine, cloud) == host).then_some(())
    });
    machine.wait_for_phase("Running");
}

#[test]
fn a_machine_goes_to_another_host_and_back_and_its_guest_goes_on() {
    if skip_unless(&[]) {
        return;
    }
    let (mut host, cloud) = TestHost::of_a_cloud();
    cloud.cli(&["host", "maintenance", "testhost", "--off"]);
    cloud.cli(&["host", "maintenance", "node7"]);
    let machine = cloud.machine();
    machine.wait_for_ssh();
    let volume = cloud.volume(&cloud.api(), 1);
    machine.attach(&volume);
    let id = machine.vmid.to_string();
    // In memory alone, on the root disk, and a process that counts.
    machine.ssh("echo remembered > /dev/shm/word; echo written > /root/word; sync");
    machine.ssh("(n=0; while true; do n=$((n+1)); echo $n > /dev/shm/count; sleep 0.1; done) >/dev/null 2>&1 </dev/null &");
    let boot = machine.ssh("cat /proc/sys/kernel/random/boot_id");
    let same = || {
        assert_eq!(
            machine.ssh("cat /dev/shm/word /root/word"),
            "remembered\nwritten"
        );
        assert_eq!(machine.ssh("cat /proc/sys/kernel/random/boot_id"), boot);
        let count = || machine.ssh("cat /dev/shm/count").parse::<u64>().ok();
        let before = wait_until("a count", LIMIT, count);
        wait_until("it to count on", LIMIT, || {
            (count()? > before).then_some(())
        });
    };

    // Nobody has room: it stays, runs on, and says why.
    cloud.cli(&["host", "move", &id, "--at-rest"]);
    wait_until("the reason", LIMIT, || {
        let machine = machine.document();
        let reason = machine["reason"].as_str()?.to_owned();
        reason.contains("it is not moved").then_some(())
    });
    same();
    assert_eq!(host_of(&machine, &cloud), "testhost");

    cloud.cli(&["host", "maintenance", "node7", "--off"]);
    let began = Instant::now();
    cloud.cli(&["host", "move", &id, "node7", "--at-rest"]);
    wait_until_on(&cloud, &machine, "node7");
    same();
    eprintln!("moved in {:?}", began.elapsed());
    assert_eq!(host.machines(), [machine.uuid()]);
    let process = machine.process();
    assert!(host.namespace().unwrap().processes().contains(&process));
    wait_until("its files here to go", LIMIT, || {
        let here = cloud.state_dir().join("machines").join(machine.uuid());
        (!here.exists()).then_some(())
    });
    machine.detach(&volume);
    machine.attach(&volume);

    // The cable is cut on the way: the wish is given up, or it has arrived; in either case it is on one of them, and whole.
    cloud.cli(&["host", "drain", "node7", "--move", "--at-rest"]);
    cloud.namespace().unwrap().cut(true);
    host.wait_for_state(&cloud, "LOST");
    cloud.namespace().unwrap().cut(false);
    host.wait_for_state(&cloud, "MAINTENANCE");
    wait_until_on(&cloud, &machine, "testhost");
    same();

    // Either daemon dies at any moment of it.
    cloud.cli(&["host", "maintenance", "node7", "--off"]);
    cloud.cli(&["host", "move", &id, "node7", "--at-rest"]);
    cloud.kill();
    cloud.start_again();
    host.wait_for_state(&cloud, "OK");
    wait_until_on(&cloud, &machine, "node7");
    cloud.cli(&["host", "move", &id, "testhost", "--at-rest"]);
    host.kill();
    host.start();
    host.wait_for_state(&cloud, "OK");
    cloud.cli(&["host", "drain", "node7", "--move", "--at-rest"]);
    wait_until_on(&cloud, &machine, "testhost");
    same();
    wait_until("nothing to be left there", LIMIT, || {
        host.machines().is_empty().then_some(())
    });
    machine.kill();
    cloud.assert_clean();
}
