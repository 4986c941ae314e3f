//! A guest that rests goes on where it was: paused in memory, or written to disk, whatever happens to the daemon.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test that panics has failed

use std::{os::unix::fs::MetadataExt as _, path::PathBuf, time::Duration};

use serde_json::{Value, json};
use testkit::{Machine, TestCloud, skip_unless, wait_until};

const LIMIT: Duration = Duration::from_secs(90);

fn state(machine: &Machine<'_>) -> String {
    machine.document()["state"].as_str().unwrap().to_owned()
}

#[track_caller]
fn wait_for_state(machine: &Machine<'_>, wanted: &str) {
    wait_until(wanted, LIMIT, || (state(machine) == wanted).then_some(()));
}

/// Asks for it, and waits for its job.
#[track_caller]
fn act(cloud: &TestCloud, machine: &Machine<'_>, action: &str) {
    let reply = cloud
        .api()
        .post(&format!("{}/{action}", machine.id), &json!({}));
    let job = reply.job.clone();
    let _ = reply.expect(202);
    cloud.wait_for_job(&job.unwrap());
}

fn operations(machine: &Machine<'_>) -> Vec<String> {
    let document = machine.document();
    let operations = document["operations"].as_array().unwrap();
    let mut names: Vec<String> = operations
        .iter()
        .filter_map(|operation| operation["rel"].as_str()?.rsplit('/').next())
        .filter(|name| ["start", "stop", "restart", "pause", "suspend"].contains(name))
        .map(str::to_owned)
        .collect();
    names.sort();
    names
}

/// A process in the guest that counts in its memory, and says how far it is when asked.
fn begin_to_count(machine: &Machine<'_>) {
    machine.ssh("mkdir -p /tmp && (n=0; while true; do n=$((n+1)); echo $n > /tmp/next; mv /tmp/next /tmp/count; sleep 1; done) </dev/null >/dev/null 2>&1 &");
    wait_until("it to count", LIMIT, || {
        let output = machine.try_ssh("cat /tmp/count");
        String::from_utf8_lossy(&output.stdout)
            .trim()
            .parse::<u64>()
            .ok()
    });
}

fn count(machine: &Machine<'_>) -> u64 {
    wait_until("the count", LIMIT, || {
        machine.ssh("cat /tmp/count").trim().parse().ok()
    })
}

/// It is still the same life of the guest, and it goes on.
#[track_caller]
fn goes_on(machine: &Machine<'_>, boot: &str, before: u64) {
    machine.wait_for_ssh();
    assert_eq!(machine.ssh("cat /proc/sys/kernel/random/boot_id"), boot);
    let now = count(machine);
    assert!(now >= before, "{now} after {before}");
    wait_until("it to count on", LIMIT, || {
        (count(machine) > now).then_some(())
    });
}

#[test]
fn a_guest_goes_on_where_it_was() {
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
    machine.ssh("mkfs.ext4 -q /dev/vdb && mkdir -p /mnt/data && mount /dev/vdb /mnt/data && echo before > /mnt/data/file");
    let boot = machine.ssh("cat /proc/sys/kernel/random/boot_id");
    let address = machine.address();
    begin_to_count(&machine);
    assert_eq!(
        operations(&machine),
        ["pause", "restart", "stop", "suspend"]
    );
    let qemu = machine.process();

    // Paused: the same process, halted, also for a daemon that comes later.
    let before = count(&machine);
    act(&cloud, &machine, "pause");
    assert_eq!(state(&machine), "PAUSED");
    assert_eq!(operations(&machine), ["restart", "start", "stop"]);
    cloud.kill();
    cloud.start_again();
    wait_for_state(&machine, "PAUSED");
    assert_eq!(machine.processes(), [qemu]);
    act(&cloud, &machine, "start");
    assert_eq!(machine.process(), qemu);
    goes_on(&machine, &boot, before);

    // Suspended by command: no process, memory in a file for the daemon alone.
    let before = count(&machine);
    cloud.cli(&["suspend-instance", "--wait", &machine.vmid.to_string()]);
    assert_eq!(state(&machine), "SUSPENDED");
    assert_eq!(machine.phase(), "Suspended");
    assert_eq!(operations(&machine), ["restart", "start", "stop"]);
    assert!(machine.processes().is_empty());
    let memory = memory_of(&cloud, &machine);
    let file = std::fs::metadata(&memory).unwrap();
    assert_eq!(file.mode() & 0o777, 0o600);
    assert!(file.len() > 1 << 20, "{}", file.len());
    // Its disks stay as its memory knows them.
    let uuid = volume.trim_start_matches("Volume/");
    let refused = cloud
        .api()
        .delete(&format!("{}/volumes/{uuid}", machine.id))
        .expect(409);
    assert!(refused.to_string().contains("suspended"), "{refused}");
    cloud.kill();
    cloud.start_again();
    wait_for_state(&machine, "SUSPENDED");

    cloud.cli(&["start-instance", "--wait", &machine.vmid.to_string()]);
    assert_eq!(machine.address(), address);
    goes_on(&machine, &boot, before);
    assert!(!memory.exists(), "old memory is never read again");
    assert_eq!(machine.ssh("cat /mnt/data/file"), "before");
    machine.ssh("echo after > /mnt/data/file && sync && umount /mnt/data");
    machine.detach(&volume);

    the_daemon_dies_in_between(&cloud, &machine, &boot);
    damaged_memory_is_told_and_kept(&cloud, &machine);
    machine.kill();
    cloud.assert_clean();
}

fn memory_of(cloud: &TestCloud, machine: &Machine<'_>) -> PathBuf {
    cloud
        .state_dir()
        .join("machines")
        .join(machine.uuid())
        .join("memory")
}

fn the_daemon_dies_in_between(cloud: &TestCloud, machine: &Machine<'_>, boot: &str) {
    for action in ["suspend", "start"] {
        let before = match action {
            "suspend" => count(machine),
            _ => 0,
        };
        let asked = cloud
            .api()
            .post(&format!("{}/{action}", machine.id), &json!({}));
        let _ = asked.expect(202);
        cloud.kill();
        cloud.start_again();
        match action {
            "suspend" => wait_for_state(machine, "SUSPENDED"),
            _ => {
                wait_for_state(machine, "STARTED");
                goes_on(machine, boot, before);
            }
        }
    }
}

fn damaged_memory_is_told_and_kept(cloud: &TestCloud, machine: &Machine<'_>) {
    act(cloud, machine, "suspend");
    let memory = memory_of(cloud, machine);
    let whole = std::fs::read(&memory).unwrap();
    std::fs::write(&memory, whole.get(..whole.len() / 2).unwrap()).unwrap();
    let asked = cloud
        .api()
        .post(&format!("{}/start", machine.id), &json!({}));
    let _ = asked.expect(202);
    wait_for_state(machine, "ERROR");
    let document: Value = machine.document();
    let reason = document["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("could not be read back"), "{document}");
    assert!(memory.exists(), "it is kept");
    // Put right, it is read after all.
    std::fs::write(&memory, &whole).unwrap();
    act(cloud, machine, "start");
    machine.wait_for_ssh();
    // Its memory is given up by who asks for that.
    let boot = machine.ssh("cat /proc/sys/kernel/random/boot_id");
    act(cloud, machine, "suspend");
    act(cloud, machine, "restart");
    machine.wait_for_ssh();
    assert_ne!(machine.ssh("cat /proc/sys/kernel/random/boot_id"), boot);
    assert!(!memory.exists());
    act(cloud, machine, "suspend");
    act(cloud, machine, "stop");
    assert_eq!(state(machine), "STOPPED");
    assert!(!memory.exists());
}

#[test]
fn a_machine_is_made_to_be_paused() {
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start();
    let mut document = cloud.machine_document(&cloud.image());
    document["machineTemplate"]["initialState"] = json!("PAUSED");
    let machine = cloud.machine_of(&cloud.api(), &document);
    wait_for_state(&machine, "PAUSED");
    assert_eq!(machine.console(), "", "it has not executed anything");
    act(&cloud, &machine, "start");
    machine.wait_for_ssh();
    // A soft stop is no pulling of the plug, also of a paused machine.
    act(&cloud, &machine, "pause");
    act(&cloud, &machine, "stop");
    assert_eq!(state(&machine), "STOPPED");
    machine.kill();
    cloud.assert_clean();
}
