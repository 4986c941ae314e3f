//! A volume of a machine on another computer than the cloud's, used by iSCSI: QEMU's own initiator, a real `tgtd`, two daemons in two
//! network namespaces.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::{fs, process::Command, time::Duration};

use serde_json::json;
use testkit::{Machine, Need, TestHost, skip_unless, wait_until};

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);
const SHARED_BY_ISCSI: &str = "share = \"iscsi\"\niscsi_portal = \"192.168.77.1:3260\"";

fn skipped() -> bool {
    skip_unless(&[]) || skip_unless(&[Need::Program("tgtd")])
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
    let (machine, volume) = cloud.machine_that_writes_lines();
    cloud.wait_for_exporters(1, 0);
    let shown = cloud.cli_json(&["host", "show", "node7"]);
    let mut features = shown["features"].as_array().unwrap().iter();
    assert!(features.any(|feature| feature == "iscsi"), "{shown}");

    // Whatever dies, the guest waits, and goes on where it was.
    let process = machine.process();
    let target = cloud.exporters("tgtd").remove(0);
    let killed = Command::new("kill").args(["-KILL", &target]).status();
    assert!(killed.unwrap().success());
    machine.wait_for_more_lines();
    cloud.kill();
    cloud.start_again();
    machine.wait_for_more_lines();
    host.kill();
    host.start();
    machine.wait_for_more_lines();
    assert_eq!(machine.process(), process);
    assert!(!machine.could_not_write());
    cloud.wait_for_exporters(1, 0);
    let before = secret(&host, &machine);

    // It starts with it, too.
    machine.ssh("sync; umount -l /mnt; sync");
    let id = machine.vmid.to_string();
    cloud.cli(&["stop-instance", "--wait", &id]);
    cloud.wait_for_exporters(0, 0);
    cloud.cli(&["start-instance", "--wait", &id]);
    machine.wait_for_ssh();
    cloud.wait_for_exporters(1, 0);
    let read = machine.ssh(
        "for disk in /dev/vd[b-z]; do mount $disk /mnt 2>/dev/null && [ -e /mnt/log ] && break; done; tail -n 1 /mnt/log",
    );
    assert!(read.starts_with("line "), "{read}");
    let lines_before = machine.lines();
    machine.ssh("echo line $(($(wc -l < /mnt/log) + 1)) >> /mnt/log && sync");
    assert_eq!(machine.lines(), lines_before + 1);

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
    cloud.wait_for_exporters(0, 0);
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
    cloud.wait_for_exporters(1, 0);
    assert_ne!(secret(&host, &machine), own);
    log_in(&host, &target, &initiator, &own).expect_err("it is of an earlier attachment");

    machine.kill();
    cloud.wait_for_exporters(0, 0);
    cloud.assert_clean();
}

#[test]
fn a_volume_by_iscsi_is_taken_from_a_host_that_nobody_hears_and_its_guest_notices() {
    if skipped() {
        return;
    }
    let (host, cloud) = TestHost::of_a_cloud_with(SHARED_BY_ISCSI);
    let (machine, volume) = cloud.machine_that_writes_lines();
    let uuid = volume.trim_start_matches("Volume/").to_owned();
    machine.ssh("echo mine > /mnt/word && sync");
    let process = machine.process();

    cloud.namespace().unwrap().cut(true);
    machine.wait_for_phase("Unknown");
    cloud.cli(&["detach-volume", "-i", &machine.vmid.to_string(), &uuid]);
    cloud.wait_for_exporters(0, 0);
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
    let written = second.lines();
    second.ssh("echo other > /mnt/word && sync");

    // It is mended: what the first guest still wants of it fails, and doesn't come into it.
    cloud.namespace().unwrap().cut(false);
    machine.wait_for_phase("Running");
    wait_until(
        &format!("the loss to be noticed: {}", host.log()),
        LIMIT,
        || machine.could_not_write().then_some(()),
    );
    assert_eq!(machine.process(), process);
    second.ssh("umount /mnt; echo 3 > /proc/sys/vm/drop_caches");
    second.ssh(
        "for disk in /dev/vd[b-z]; do mount $disk /mnt 2>/dev/null && [ -e /mnt/log ] && break; done",
    );
    assert_eq!(second.ssh("cat /mnt/word"), "other");
    assert_eq!(second.lines(), written);

    machine.kill();
    second.kill();
    cloud.wait_for_exporters(0, 0);
    cloud.assert_clean();
}

#[test]
fn a_guest_goes_on_after_its_portal_was_away_for_long_and_when_it_is_back_where_it_was() {
    if skipped() {
        return;
    }
    let (host, cloud) = TestHost::of_a_cloud_with(SHARED_BY_ISCSI);
    let (machine, _) = cloud.machine_that_writes_lines();
    let process = machine.process();

    // For longer than either side waits for the other: both have given up their connections.
    cloud.namespace().unwrap().cut(true);
    cloud.wait_for_exporters(0, 0);
    wait_until("the host to notice", LIMIT, || {
        let log = host.log();
        // Of that volume, or, where it has given up all that it had of the cloud, at once.
        let told = [
            "a volume isn't shown by iSCSI any more",
            "no entry can be reached",
        ];
        told.iter().any(|told| log.contains(told)).then_some(())
    });
    cloud.namespace().unwrap().cut(false);
    machine.wait_for_more_lines();
    cloud.wait_for_exporters(1, 0);

    // At another address: its host says which, and what is to be done, and holds the volume.
    let config = fs::read_to_string(cloud.config()).unwrap();
    assert!(cloud.stop().success());
    fs::write(cloud.config(), config.replace(":3260", ":3261")).unwrap();
    cloud.start_again();
    let told = wait_until("the host to tell where it is", LIMIT, || {
        let log = host.log();
        let mut lines = log.lines();
        let found = lines.find(|line| line.contains("at another address now"))?;
        Some(found.to_owned())
    });
    for part in [
        "192.168.77.1:3260",
        "192.168.77.1:3261",
        "`storage.iscsi_portal`",
    ] {
        assert!(told.contains(part), "{told}");
    }
    cloud.wait_for_exporters(1, 0);
    assert!(!machine.could_not_write());
    assert!(cloud.stop().success());
    fs::write(cloud.config(), config).unwrap();
    cloud.start_again();
    machine.wait_for_more_lines();
    assert!(!machine.could_not_write());
    assert_eq!(machine.process(), process);

    machine.kill();
    cloud.wait_for_exporters(0, 0);
    cloud.assert_clean();
}

#[test]
fn a_guest_that_ends_while_its_hosts_daemon_is_down_gives_its_volume_by_iscsi_back() {
    if skipped() {
        return;
    }
    let (mut host, cloud) = TestHost::of_a_cloud_with(SHARED_BY_ISCSI);
    let (machine, volume) = cloud.machine_that_writes_lines();
    machine.ssh("echo mine > /mnt/word && sync");

    // It switches itself off with something on its way to the volume, which nobody takes.
    host.kill();
    cloud.wait_for_exporters(0, 0);
    // (By `poweroff` it would wait for that.)
    let _ =
        machine.try_ssh("(sleep 0.2; echo o > /proc/sysrq-trigger) >/dev/null 2>&1 </dev/null &");
    wait_until("the guest to be gone", LIMIT, || {
        (!machine.try_ssh("true").status.success()).then_some(())
    });
    assert_eq!(machine.processes().len(), 1, "QEMU waits for its daemon");
    host.start();
    wait_until(&format!("the run to end: {}", host.log()), LIMIT, || {
        machine.processes().is_empty().then_some(())
    });
    cloud.wait_for_exporters(0, 0);

    // The volume is another machine's, with what was acknowledged.
    machine.detach(&volume);
    cloud.cli(&["host", "maintenance", "testhost", "--off"]);
    let second = cloud.machine();
    second.wait_for_ssh();
    second.attach(&volume);
    let disk = second.disk_of(&volume);
    second.ssh(&format!("mount /dev/{disk} /mnt"));
    assert_eq!(second.ssh("cat /mnt/word"), "mine");
    assert!(second.lines() > 2);

    machine.kill();
    second.kill();
    cloud.wait_for_exporters(0, 0);
    cloud.assert_clean();
}

#[test]
fn a_machine_with_a_volume_by_iscsi_is_moved_while_its_guest_writes() {
    if skipped() {
        return;
    }
    let (_host, cloud) = TestHost::of_a_cloud_with(SHARED_BY_ISCSI);
    let (machine, _) = cloud.machine_that_writes_lines();
    cloud.wait_for_exporters(1, 0);
    cloud.cli(&["host", "maintenance", "testhost", "--off"]);
    let id = machine.vmid.to_string();
    let go = |to: &str| {
        let moved = cloud.cli_json(&["host", "move", &id, to, "--wait"]);
        assert_eq!(moved["host"], json!(to), "{moved}");
        assert!(
            moved["lastMove"]["downtimeMilliseconds"].is_u64(),
            "it went at rest: {moved}"
        );
        machine.wait_for_more_lines();
        assert!(!machine.could_not_write());
    };
    // Where the volume is, as a file; and to a host, in NBD, which waits for it before it is the host's.
    go("testhost");
    cloud.wait_for_exporters(0, 0);
    go("node7");
    cloud.wait_for_exporters(0, 1);

    machine.kill();
    cloud.wait_for_exporters(0, 0);
    cloud.assert_clean();
}
