//! A volume of a machine on another computer than the cloud's: written over the network, whatever dies in between, and by one
//! machine only, whatever is cut. All is real: two daemons in two network namespaces, QEMU, `qemu-storage-daemon`.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::time::Duration;

use serde_json::json;
use testkit::{TestHost, skip_unless, wait_until};

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn a_volume_is_written_from_afar_and_by_one_machine_only() {
    if skip_unless(&[]) {
        return;
    }
    let (mut host, cloud) = TestHost::of_a_cloud();
    let (machine, volume) = cloud.machine_that_writes_lines();
    let uuid = volume.trim_start_matches("Volume/").to_owned();
    assert_eq!(host.machines(), [machine.uuid()]);
    cloud.wait_for_exporters(0, 1);

    // Either daemon may die: the guest waits, and goes on where it was.
    let process = machine.process();
    cloud.kill();
    cloud.start_again();
    machine.wait_for_more_lines();
    host.kill();
    host.start();
    machine.wait_for_more_lines();
    assert_eq!(machine.process(), process);
    assert!(!machine.could_not_write());
    cloud.wait_for_exporters(0, 1);

    // The cable is cut: the machine runs on, nobody hears of it, and its volume is taken from it.
    machine.ssh("echo 'the last that was acknowledged' > /mnt/word && sync");
    cloud.namespace().unwrap().cut(true);
    machine.wait_for_phase("Unknown");
    cloud.cli(&["detach-volume", "-i", &machine.vmid.to_string(), &uuid]);
    cloud.wait_for_exporters(0, 0);
    cloud.cli(&["host", "maintenance", "testhost", "--off"]);
    let second = cloud.machine();
    second.wait_for_ssh();
    second.attach(&volume);
    let disk = second.disk_of(&volume);
    second.ssh(&format!("mount /dev/{disk} /mnt"));
    assert_eq!(
        second.ssh("cat /mnt/word"),
        "the last that was acknowledged"
    );
    let written = second.lines();
    second.ssh(
        "echo mine > /mnt/word && sync && umount /mnt && sync && echo 3 > /proc/sys/vm/drop_caches",
    );
    let sum = second.ssh(&format!("head -c 67108864 /dev/{disk} | sha1sum"));

    // It is mended: the first machine has its volume no more, and writes nothing into it.
    cloud.namespace().unwrap().cut(false);
    machine.wait_for_phase("Running");
    wait_until(
        &format!("the loss to be noticed: {}", host.log()),
        LIMIT,
        || machine.could_not_write().then_some(()),
    );
    cloud.wait_for_exporters(0, 0);
    second.ssh("echo 3 > /proc/sys/vm/drop_caches");
    assert_eq!(
        second.ssh(&format!("head -c 67108864 /dev/{disk} | sha1sum")),
        sum
    );
    second.ssh(&format!("mount /dev/{disk} /mnt"));
    assert_eq!(second.ssh("cat /mnt/word"), "mine");
    assert_eq!(second.lines(), written);

    machine.kill();
    second.kill();
    cloud.assert_clean();
}

#[test]
fn a_volume_that_is_taken_away_unheard_and_given_again_is_not_what_the_guest_remembers() {
    if skip_unless(&[]) {
        return;
    }
    let (host, cloud) = TestHost::of_a_cloud();
    let (machine, volume) = cloud.machine_that_writes_lines();
    let uuid = volume.trim_start_matches("Volume/").to_owned();
    machine.ssh("echo mine > /mnt/word && sync");
    let process = machine.process();

    cloud.namespace().unwrap().cut(true);
    machine.wait_for_phase("Unknown");
    cloud.cli(&["detach-volume", "-i", &machine.vmid.to_string(), &uuid]);
    let api = cloud.api();
    let again = api.post(
        &format!("{}/volumes", machine.id),
        &json!({"volume": {"href": volume}}),
    );
    let attached = again.job.clone().unwrap();
    let _ = again.expect(201);
    cloud.wait_for_exporters(0, 0);

    // Its guest finds the disk of before broken, and another one with what was on it.
    cloud.namespace().unwrap().cut(false);
    machine.wait_for_phase("Running");
    cloud.wait_for_job(&attached);
    wait_until(
        &format!("the loss to be noticed: {}", host.log()),
        LIMIT,
        || machine.could_not_write().then_some(()),
    );
    let read = wait_until("the other disk", LIMIT, || {
        let read = machine.ssh(
            "mkdir -p /tmp/new; for disk in /dev/vd[b-z]; do \
             if mount $disk /tmp/new 2>/dev/null; then cat /tmp/new/word && tail -n 1 /tmp/new/log; break; fi; done",
        );
        (!read.is_empty()).then_some(read)
    });
    assert!(read.starts_with("mine\nline "), "{read}");
    machine.ssh("echo new > /tmp/new/word && sync && cat /tmp/new/log > /dev/null");
    assert_eq!(machine.process(), process);
    cloud.wait_for_exporters(0, 1);
    machine.kill();
    cloud.assert_clean();
}
