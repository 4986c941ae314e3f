//! A volume of a machine on another computer than the cloud's, used by iSCSI: QEMU's own initiator, a real `tgtd`, two daemons in two
//! network namespaces.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::{fs, process::Command, time::Duration};

use serde_json::json;
use testkit::{Machine, Need, TestCloud, TestHost, skip_unless, wait_until};

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);
const SHARED_BY_ISCSI: &str = "share = \"iscsi\"\niscsi_portal = \"192.168.77.1:3260\"";

fn skipped() -> bool {
    skip_unless(&[]) || skip_unless(&[Need::Program("tgtd")])
}

/// What a command in a guest printed, however busy this computer is.
fn ssh(machine: &Machine<'_>, command: &str) -> String {
    wait_until(command, LIMIT, || {
        let output = machine.try_ssh(command);
        let text = String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned();
        output.status.success().then_some(text)
    })
}

/// How many lines a guest has written that are on its disk, all of them in order.
fn lines(machine: &Machine<'_>) -> usize {
    let text = ssh(machine, "cat /mnt/log");
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

/// Has a guest make a file system on a volume that it has just got, and write a line a moment into a file there, each of which is on
/// the disk before the next one is begun, until it can't.
fn write_lines(machine: &Machine<'_>, volume: &str) {
    let uuid = volume.trim_start_matches("Volume/").replace('-', "");
    let find = format!("grep -l {} /sys/block/vd*/serial || true", &uuid[12..]);
    let disk = wait_until("the guest to see the volume", LIMIT, || {
        let seen = machine.ssh(&find);
        Some(seen.split('/').nth(3)?.to_owned())
    });
    machine.ssh(&format!(
        "mkfs.ext4 -q /dev/{disk} && mount /dev/{disk} /mnt && touch /mnt/log && sync"
    ));
    machine.ssh(
        "(n=1; while echo line $n >> /mnt/log && sync; do n=$((n+1)); sleep 0.2; done; echo ended > /tmp/ended) \
         >/dev/null 2>&1 </dev/null &",
    );
    wait_for_more(machine);
}

/// The processes that show volumes to other hosts, by the beginning of their name: the daemon's children, each in a network of its
/// own.
fn exporters(cloud: &TestCloud, name: &str) -> Vec<String> {
    let parent = cloud.daemon_pid().to_string();
    let children = Command::new("ps")
        .args(["--ppid", &parent, "-o", "pid=,stat=,comm="])
        .output()
        .unwrap();
    let children = String::from_utf8(children.stdout).unwrap();
    let of = |line: &str| {
        let mut words = line.split_whitespace();
        let (pid, state, comm) = (words.next()?, words.next()?, words.next()?);
        (comm.starts_with(name) && !state.starts_with('Z')).then(|| pid.to_owned())
    };
    children.lines().filter_map(of).collect()
}

fn wait_for_exporters(cloud: &TestCloud, expected: (usize, usize)) {
    wait_until(&format!("{expected:?} exporters"), LIMIT, || {
        let (targets, others) = (exporters(cloud, "tgtd"), exporters(cloud, "qemu-storage"));
        ((targets.len(), others.len()) == expected).then_some(())
    });
}

/// The secret of the one volume of a machine that it uses by iSCSI, as its host keeps it.
fn secret(host: &TestHost, machine: &Machine<'_>) -> String {
    let folder = host.folder().join("state/machines").join(machine.uuid());
    let all = fs::read_dir(folder.join("volumes")).unwrap();
    let all = all.map(|one| one.unwrap().path());
    let mut secrets = all
        .filter(|path| path.extension().is_some_and(|end| end == "iscsi"))
        .map(|path| fs::read_to_string(path).unwrap())
        .filter(|secret| !secret.is_empty());
    secrets.next().expect("it is used by iSCSI")
}

/// What somebody in the host's network gets who logs in so.
fn log_in(host: &TestHost, target: &str, initiator: &str, secret: &str) -> Result<(), String> {
    let mut info = Command::new("qemu-img");
    info.args(["info", "--image-opts"]).arg(format!(
        "driver=iscsi,transport=tcp,portal=192.168.77.1:3260,target={target},lun=1,initiator-name={initiator},user=stratus,password={secret}"
    ));
    let told = host.namespace().unwrap().output(&mut info);
    match told.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&told.stderr).into_owned()),
    }
}

/// By what names QEMU has logged in, as anybody on the host can read them.
fn names(machine: &Machine<'_>) -> (String, String) {
    let line = fs::read(format!("/proc/{}/cmdline", machine.process())).unwrap();
    let line = String::from_utf8_lossy(&line).into_owned();
    let after = |key: &str| {
        let rest = line.split_once(key).expect("it was started with it").1;
        rest.split('"').nth(1).unwrap().to_owned()
    };
    (after("\"target\":"), after("\"initiator-name\":"))
}

#[test]
fn a_volume_is_used_by_iscsi_by_its_machine_and_nobody_else() {
    if skipped() {
        return;
    }
    let (mut host, cloud) = TestHost::of_a_cloud_with(SHARED_BY_ISCSI);
    let machine = cloud.machine();
    machine.wait_for_ssh();
    let volume = cloud.volume(&cloud.api(), 1);
    machine.attach(&volume);
    write_lines(&machine, &volume);
    wait_for_exporters(&cloud, (1, 0));

    // Whatever dies, the guest waits, and goes on where it was.
    let process = machine.process();
    let target = exporters(&cloud, "tgtd").remove(0);
    let killed = Command::new("kill").args(["-KILL", &target]).status();
    assert!(killed.unwrap().success());
    wait_for_more(&machine);
    cloud.kill();
    cloud.start_again();
    wait_for_more(&machine);
    host.kill();
    host.start();
    wait_for_more(&machine);
    assert_eq!(machine.process(), process);
    assert_eq!(ssh(&machine, "cat /tmp/ended 2>/dev/null; echo on"), "on");
    wait_for_exporters(&cloud, (1, 0));
    let before = secret(&host, &machine);

    // It starts with it, too.
    machine.ssh("sync; umount -l /mnt; sync");
    let id = machine.vmid.to_string();
    cloud.cli(&["stop-instance", "--wait", &id]);
    wait_for_exporters(&cloud, (0, 0));
    cloud.cli(&["start-instance", "--wait", &id]);
    machine.wait_for_ssh();
    wait_for_exporters(&cloud, (1, 0));
    let read = machine.ssh(
        "for disk in /dev/vd[b-z]; do mount $disk /mnt 2>/dev/null && [ -e /mnt/log ] && break; done; tail -n 1 /mnt/log",
    );
    assert!(read.starts_with("line "), "{read}");
    let lines_before = lines(&machine);
    machine.ssh("echo line $(($(wc -l < /mnt/log) + 1)) >> /mnt/log && sync");
    assert_eq!(lines(&machine), lines_before + 1);

    // Who knows all that can be read is let in by the secret alone, and that is on no command line.
    let own = secret(&host, &machine);
    assert_eq!(own, before, "it is the same attachment");
    let lines = fs::read(format!("/proc/{}/cmdline", machine.process())).unwrap();
    assert!(!String::from_utf8_lossy(&lines).contains(&own));
    let (target, initiator) = names(&machine);
    let refused = log_in(&host, &target, &initiator, "0123456789abcdef").unwrap_err();
    assert!(refused.contains("Authentication failure"), "{refused}");
    let other = format!("{initiator}x");
    log_in(&host, &target, &other, &own).expect_err("the secret is of one initiator");
    log_in(&host, &target, &initiator, &own).expect("QEMU has logged in so");

    // Afterwards nobody is.
    machine.ssh("umount /mnt");
    machine.detach(&volume);
    wait_for_exporters(&cloud, (0, 0));
    log_in(&host, &target, &initiator, &own).expect_err("it was detached");
    let volumes = host
        .folder()
        .join("state/machines")
        .join(machine.uuid())
        .join("volumes");
    let left = fs::read_dir(volumes).unwrap();
    let left = left.map(|one| one.unwrap().metadata().unwrap().len());
    assert_eq!(left.sum::<u64>(), 0, "no secret of it is left");
    // Another attachment has another secret.
    machine.attach(&volume);
    wait_for_exporters(&cloud, (1, 0));
    assert_ne!(secret(&host, &machine), own);
    log_in(&host, &target, &initiator, &own).expect_err("it is of an earlier attachment");

    machine.kill();
    wait_for_exporters(&cloud, (0, 0));
    cloud.assert_clean();
}

#[test]
fn a_volume_by_iscsi_is_taken_from_a_host_that_nobody_hears_and_its_guest_notices() {
    if skipped() {
        return;
    }
    let (host, cloud) = TestHost::of_a_cloud_with(SHARED_BY_ISCSI);
    let machine = cloud.machine();
    machine.wait_for_ssh();
    let volume = cloud.volume(&cloud.api(), 1);
    let uuid = volume.trim_start_matches("Volume/").to_owned();
    machine.attach(&volume);
    write_lines(&machine, &volume);
    machine.ssh("echo mine > /mnt/word && sync");
    let process = machine.process();

    cloud.namespace().unwrap().cut(true);
    machine.wait_for_phase("Unknown");
    cloud.cli(&["detach-volume", "-i", &machine.vmid.to_string(), &uuid]);
    wait_for_exporters(&cloud, (0, 0));
    cloud.cli(&["host", "maintenance", "testhost", "--off"]);
    let second = cloud.machine();
    second.wait_for_ssh();
    second.attach(&volume);
    let read = wait_until("the disk", LIMIT, || {
        let read = second.ssh(
            "for disk in /dev/vd[b-z]; do mount $disk /mnt 2>/dev/null && [ -e /mnt/log ] && break; done; cat /mnt/word",
        );
        (!read.is_empty()).then_some(read)
    });
    assert_eq!(read, "mine");
    let written = lines(&second);
    second.ssh("echo other > /mnt/word && sync");

    // It is mended: what the first guest still wants of it fails, and doesn't come into it.
    cloud.namespace().unwrap().cut(false);
    machine.wait_for_phase("Running");
    wait_until(
        &format!("the loss to be noticed: {}", host.log()),
        LIMIT,
        || (ssh(&machine, "cat /tmp/ended 2>/dev/null; echo on") == "ended\non").then_some(()),
    );
    assert_eq!(machine.process(), process);
    second.ssh("umount /mnt; echo 3 > /proc/sys/vm/drop_caches");
    second.ssh(
        "for disk in /dev/vd[b-z]; do mount $disk /mnt 2>/dev/null && [ -e /mnt/log ] && break; done",
    );
    assert_eq!(second.ssh("cat /mnt/word"), "other");
    assert_eq!(lines(&second), written);

    machine.kill();
    second.kill();
    wait_for_exporters(&cloud, (0, 0));
    cloud.assert_clean();
}

#[test]
fn a_machine_with_a_volume_by_iscsi_is_moved_while_its_guest_writes() {
    if skipped() {
        return;
    }
    let (_host, cloud) = TestHost::of_a_cloud_with(SHARED_BY_ISCSI);
    let machine = cloud.machine();
    machine.wait_for_ssh();
    let volume = cloud.volume(&cloud.api(), 1);
    machine.attach(&volume);
    write_lines(&machine, &volume);
    wait_for_exporters(&cloud, (1, 0));
    cloud.cli(&["host", "maintenance", "testhost", "--off"]);
    let id = machine.vmid.to_string();
    let go = |to: &str| {
        let moved = cloud.cli_json(&["host", "move", &id, to, "--wait"]);
        assert_eq!(moved["host"], json!(to), "{moved}");
        assert!(
            moved["lastMove"]["downtimeMilliseconds"].is_u64(),
            "it went at rest: {moved}"
        );
        wait_for_more(&machine);
        assert_eq!(ssh(&machine, "cat /tmp/ended 2>/dev/null; echo on"), "on");
    };
    // Where the volume is, as a file; and to a host, in NBD, which waits for it before it is the host's.
    go("testhost");
    wait_for_exporters(&cloud, (0, 0));
    go("node7");
    wait_for_exporters(&cloud, (0, 1));

    machine.kill();
    wait_for_exporters(&cloud, (0, 0));
    cloud.assert_clean();
}
