//! A volume of a machine on another computer than the cloud's: written over the network, whatever dies in between, and by one
//! machine only, whatever is cut. All is real: two daemons in two network namespaces, QEMU, `qemu-storage-daemon`.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::{process::Command, time::Duration};

use testkit::{Machine, Namespace, Options, TestCloud, TestHost, skip_unless, wait_until};

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);
const CLOUD: &str = "192.168.78.1";

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
    let mut host = TestHost::with_bridges();
    let (namespace, other) = (Namespace::new(), host.namespace().unwrap());
    namespace.connect(&format!("{CLOUD}/24"), other, "192.168.78.2/24");
    let options = Options {
        listen: Some(format!("{CLOUD}:8443")),
        tunnel_address: Some(CLOUD.to_owned()),
        ..Options::default()
    };
    let cloud = TestCloud::start_in(namespace, &options);
    let token = cloud.cli(&["host", "token", "--name", "node7"]);
    let joined = host.join(token.trim(), &cloud.url());
    assert!(joined.status.success(), "{joined:?}");
    host.start();
    wait_until("the host", LIMIT, || {
        let hosts = cloud.cli_json(&["host", "list"]);
        let mut hosts = hosts.as_array().unwrap().iter();
        let node = hosts.find(|shown| shown["name"] == "node7")?;
        (node["state"] == "OK").then_some(())
    });
    cloud.cli(&["host", "maintenance", "testhost"]);
    let machine = cloud.machine();
    machine.wait_for_ssh();
    assert_eq!(host.machines(), [machine.uuid()]);

    let volume = cloud.volume(&cloud.api(), 1);
    let uuid = volume.trim_start_matches("Volume/").to_owned();
    machine.attach(&volume);
    let disk = wait_until("the disk", LIMIT, || {
        let found = machine.ssh("ls /sys/block");
        found
            .lines()
            .find(|name| *name == "vdb" || *name == "vdc")
            .map(str::to_owned)
    });
    assert_eq!(exporters(&cloud), 1);
    machine.ssh(&format!(
        "mkfs.ext4 -q /dev/{disk} && mount /dev/{disk} /mnt && touch /mnt/log && sync"
    ));
    // Each line is on the disk before the next one is begun.
    machine.ssh(
        "(n=1; while echo line $n >> /mnt/log && sync; do n=$((n+1)); sleep 0.2; done; echo ended > /tmp/ended) \
         >/dev/null 2>&1 </dev/null &",
    );
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
    let disk = wait_until("the disk", LIMIT, || {
        let found = second.ssh("ls /sys/block");
        found
            .lines()
            .find(|name| *name == "vdb" || *name == "vdc")
            .map(str::to_owned)
    });
    second.ssh(&format!("mount /dev/{disk} /mnt"));
    assert_eq!(
        second.ssh("cat /mnt/word"),
        "the last that was acknowledged"
    );
    let written = lines(&second);
    second.ssh(
        "echo mine > /mnt/word && sync && umount /mnt && sync && echo 3 > /proc/sys/vm/drop_caches",
    );
    let sum = second.ssh(&format!("sha1sum < /dev/{disk}"));

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
    assert_eq!(second.ssh(&format!("sha1sum < /dev/{disk}")), sum);
    second.ssh(&format!("mount /dev/{disk} /mnt"));
    assert_eq!(second.ssh("cat /mnt/word"), "mine");
    assert_eq!(lines(&second), written);

    machine.kill();
    second.kill();
    cloud.assert_clean();
}
