//! A volume of a machine on another computer than the cloud's: written over the network, whatever dies in between, and by one
//! machine only, whatever is cut. All is real: two daemons in two network namespaces, QEMU, `qemu-storage-daemon`.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::{process::Command, time::Duration};

use serde_json::json;
use testkit::{Machine, TestCloud, TestHost, skip_unless, wait_until};

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// How many lines a guest has written that are on its disk, all of them in order.
fn lines(machine: &Machine<'_>) -> usize {
    let text = machine.ssh("cat /mnt/log");
    for (number, line) in text.lines().enumerate() {
        assert_eq!(line, format!("line {}", number + 1));
    }
    text.lines().count()
}

fn wait_for_more(machine: &Machine<'_>) {
    let before = lines(machine);
    wait_until("more lines", LIMIT, || {
        (lines(machine) > before + 2).then_some(())
    });
}

/// The disk that a machine has beside its root disk.
fn disk_of(machine: &Machine<'_>) -> String {
    wait_until("the disk", LIMIT, || {
        let found = machine.ssh("ls /sys/block");
        let mut names = found.lines();
        let name = names.find(|name| *name == "vdb" || *name == "vdc")?;
        Some(name.to_owned())
    })
}

/// Has a guest write a line a moment into `log` of this folder, each of which is on the disk before the next one is begun, until it
/// can't.
fn write_lines(machine: &Machine<'_>, folder: &str) {
    machine.ssh(&format!(
        "(n=1; while echo line $n >> {folder}/log && sync; do n=$((n+1)); sleep 0.2; done; echo ended > /tmp/ended) \
         >/dev/null 2>&1 </dev/null &",
    ));
}

fn exporters(cloud: &TestCloud) -> usize {
    let of_cloud = cloud.namespace().unwrap().processes();
    let is_one = |pid: &&u32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        name.is_ok_and(|name| name.starts_with("qemu-storage"))
    };
    // They have a network of their own: the children of the daemon are looked at, too.
    let children = Command::new("ps")
        .args(["--ppid", &cloud.daemon_pid().to_string(), "-o", "comm="])
        .output()
        .unwrap();
    let children = String::from_utf8_lossy(&children.stdout).into_owned();
    of_cloud.iter().filter(is_one).count()
        + children
            .lines()
            .filter(|name| name.starts_with("qemu-storage"))
            .count()
}

#[test]
fn a_volume_is_written_from_afar_and_by_one_machine_only() {
    if skip_unless(&[]) {
        return;
    }
    let (mut host, cloud) = TestHost::of_a_cloud();
    let machine = cloud.machine();
    machine.wait_for_ssh();
    assert_eq!(host.machines(), [machine.uuid()]);

    let volume = cloud.volume(&cloud.api(), 1);
    let uuid = volume.trim_start_matches("Volume/").to_owned();
    machine.attach(&volume);
    let disk = disk_of(&machine);
    assert_eq!(exporters(&cloud), 1);
    machine.ssh(&format!(
        "mkfs.ext4 -q /dev/{disk} && mount /dev/{disk} /mnt && touch /mnt/log && sync"
    ));
    write_lines(&machine, "/mnt");
    wait_for_more(&machine);

    // Either daemon may die: the guest waits, and goes on where it was.
    let process = machine.process();
    cloud.kill();
    cloud.start_again();
    wait_for_more(&machine);
    host.kill();
    host.start();
    wait_for_more(&machine);
    assert_eq!(machine.process(), process);
    assert_eq!(machine.ssh("cat /tmp/ended 2>/dev/null; echo on"), "on");
    assert_eq!(exporters(&cloud), 1);

    // The cable is cut: the machine runs on, nobody hears of it, and its volume is taken from it.
    machine.ssh("echo 'the last that was acknowledged' > /mnt/word && sync");
    cloud.namespace().unwrap().cut(true);
    machine.wait_for_phase("Unknown");
    cloud.cli(&["detach-volume", "-i", &machine.vmid.to_string(), &uuid]);
    wait_until("the exporter to end", LIMIT, || {
        (exporters(&cloud) == 0).then_some(())
    });
    cloud.cli(&["host", "maintenance", "testhost", "--off"]);
    let second = cloud.machine();
    second.wait_for_ssh();
    second.attach(&volume);
    let disk = disk_of(&second);
    second.ssh(&format!("mount /dev/{disk} /mnt"));
    assert_eq!(
        second.ssh("cat /mnt/word"),
        "the last that was acknowledged"
    );
    let written = lines(&second);
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
        || (machine.ssh("cat /tmp/ended 2>/dev/null; echo on") == "ended\non").then_some(()),
    );
    assert_eq!(exporters(&cloud), 0);
    second.ssh("echo 3 > /proc/sys/vm/drop_caches");
    assert_eq!(
        second.ssh(&format!("head -c 67108864 /dev/{disk} | sha1sum")),
        sum
    );
    second.ssh(&format!("mount /dev/{disk} /mnt"));
    assert_eq!(second.ssh("cat /mnt/word"), "mine");
    assert_eq!(lines(&second), written);

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
    let machine = cloud.machine();
    machine.wait_for_ssh();
    let volume = cloud.volume(&cloud.api(), 1);
    let uuid = volume.trim_start_matches("Volume/").to_owned();
    machine.attach(&volume);
    let disk = disk_of(&machine);
    machine.ssh(&format!(
        "mkfs.ext4 -q /dev/{disk} && mount /dev/{disk} /mnt && echo mine > /mnt/word && sync"
    ));
    write_lines(&machine, "/mnt");
    wait_for_more(&machine);
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
    wait_until("the exporter to end", LIMIT, || {
        (exporters(&cloud) == 0).then_some(())
    });

    // Its guest finds the disk of before broken, and another one with what was on it.
    cloud.namespace().unwrap().cut(false);
    machine.wait_for_phase("Running");
    cloud.wait_for_job(&attached);
    wait_until(
        &format!("the loss to be noticed: {}", host.log()),
        LIMIT,
        || (machine.ssh("cat /tmp/ended 2>/dev/null; echo on") == "ended\non").then_some(()),
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
    assert_eq!(exporters(&cloud), 1);
    machine.kill();
    cloud.assert_clean();
}
