//! A computer is lost: the machine on it that boots from a volume goes on elsewhere by its operator's word, and when that word was
//! wrong and the computer is back, it ends what it still runs. All is real: two daemons in two network namespaces, QEMU.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::time::Duration;

use testkit::{Machine, TestCloud, TestHost, skip_unless, wait_until};

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// A volume with a system that boots.
fn bootable(cloud: &TestCloud) -> String {
    let machine = cloud.machine();
    machine.wait_for_ssh();
    let volume = cloud.volume(&cloud.api(), 1);
    machine.attach(&volume);
    let uuid = volume.trim_start_matches("Volume/").to_owned();
    let serial: String = uuid.replace('-', "").chars().skip(12).collect();
    let disk = wait_until("the guest to see the volume", LIMIT, || {
        let seen = machine.ssh(&format!("grep -l {serial} /sys/block/vd*/serial || true"));
        Some(seen.split('/').nth(3)?.to_owned())
    });
    machine.ssh(&format!(
        "sync && dd if=/dev/vda of=/dev/{disk} bs=1M 2>/dev/null && sync"
    ));
    machine.detach(&volume);
    machine.kill();
    uuid
}

fn run<'c>(cloud: &'c TestCloud, more: &[&str]) -> Machine<'c> {
    let key = cloud.public_key_file().display().to_string();
    let all = ["run-instance", "-k", &key, "--ram", "96", "--swap", "0"];
    let started = cloud.cli_json(&[&all[..], more].concat());
    cloud.machine_by_number(started[0]["id"].as_u64().unwrap())
}

#[test]
fn a_machine_goes_on_elsewhere_with_its_volume_when_its_host_is_lost() {
    if skip_unless(&[]) {
        return;
    }
    let (host, cloud) = TestHost::of_a_cloud();
    let only = |here: &str, there: &str| {
        cloud.cli(&["host", "maintenance", here, "--off"]);
        cloud.cli(&["host", "maintenance", there]);
    };
    only("testhost", "node7");
    let uuid = bootable(&cloud);
    only("node7", "testhost");
    let machine = run(&cloud, &["--restart-policy", "always", &uuid]);
    machine.wait_for_ssh();
    let other = run(&cloud, &[&cloud.image()]);
    other.wait_for_phase("Running");
    machine.ssh("echo acknowledged > /root/word && sync");
    assert_eq!(host.machines().len(), 2);

    // While it is heard of, nothing of it is started twice.
    let refused = cloud.try_cli(&["host", "evacuate", "node7", "--off"]);
    let told = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(
        !refused.status.success() && told.contains("is not lost"),
        "{refused:?}"
    );

    cloud.namespace().unwrap().cut(true);
    host.wait_for_state(&cloud, "LOST");
    let refused = cloud.try_cli(&["host", "evacuate", "node7"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    cloud.cli(&["host", "maintenance", "testhost", "--off"]);
    let done = cloud.cli_json(&["host", "evacuate", "node7", "--off"]);
    assert_eq!(done["evacuated"][0], machine.id.as_str(), "{done}");
    assert_eq!(done["left"][0], other.id.as_str(), "{done}");
    machine.wait_for_ssh();
    assert_eq!(machine.ssh("cat /root/word"), "acknowledged");
    machine.ssh("echo elsewhere > /root/word && sync");
    other.wait_for_phase("Unknown");

    // It was not off: what it still runs of that machine is ended there, and nothing else.
    assert_eq!(host.machines().len(), 2);
    cloud.namespace().unwrap().cut(false);
    wait_until(&format!("the end there: {}", host.log()), LIMIT, || {
        (host.machines() == [other.uuid()]).then_some(())
    });
    other.wait_for_phase("Running");
    // Bridges have learned the way to the other guest of its address, until this one says something.
    machine.wait_for_ssh();
    assert_eq!(machine.ssh("cat /root/word"), "elsewhere");

    // Killed, it is gone: nobody is waited for any more.
    machine.kill();
    other.kill();
    cloud.assert_clean();
}

/// The word of its host is enough where that ends machines by itself: also when nothing of it is left but that.
#[test]
fn a_machine_goes_on_elsewhere_by_itself_when_its_host_has_ended_it() {
    if skip_unless(&[]) {
        return;
    }
    let (mut host, cloud) = TestHost::of_a_cloud();
    let only = |here: &str, there: &str| {
        cloud.cli(&["host", "maintenance", here, "--off"]);
        cloud.cli(&["host", "maintenance", there]);
    };
    host.configure("machines", "fence_seconds = 30");
    only("testhost", "node7");
    let uuid = bootable(&cloud);
    only("node7", "testhost");
    host.kill();
    host.start();
    // What it was before it was killed is shown until its lease ends.
    wait_until("what it says of itself", LIMIT, || {
        let known = cloud.cli_json(&["host", "show", "node7"]);
        (known["fencesAfter"] == 30).then_some(())
    });
    host.wait_for_state(&cloud, "OK");
    // Whoever ends the guard: there is another one a moment later.
    let lock = host.folder().join("state/guard/lock");
    let guard = || {
        let text = std::fs::read_to_string(&lock).ok()?;
        text.lines().next()?.parse::<u32>().ok()
    };
    let first = wait_until("the guard", LIMIT, guard);
    let killed = std::process::Command::new("kill")
        .args(["-KILL", &first.to_string()])
        .status();
    assert!(killed.unwrap().success());
    wait_until("another guard", LIMIT, || {
        guard().filter(|next| *next != first)
    });
    wait_until("all to be well", LIMIT, || {
        let known = cloud.cli_json(&["host", "show", "node7"]);
        let troubles = known["troubles"].as_array();
        troubles.is_none_or(Vec::is_empty).then_some(())
    });
    let machine = run(&cloud, &["--restart-policy", "always", &uuid]);
    machine.wait_for_ssh();
    machine.ssh("echo acknowledged > /root/word && sync");
    let disk = run(&cloud, &["--restart-policy", "always", &cloud.image()]);
    disk.wait_for_phase("Running");
    let processes = [machine.process(), disk.process()];
    let lives = |process: u32| std::path::Path::new(&format!("/proc/{process}")).exists();

    // Neither cable nor daemon: the guard alone is left.
    cloud.namespace().unwrap().cut(true);
    host.kill();
    host.wait_for_state(&cloud, "LOST");
    cloud.cli(&["host", "maintenance", "testhost", "--off"]);
    machine.wait_for_phase("Unknown");
    wait_until("its end there", LIMIT, || {
        (!lives(processes[0])).then_some(())
    });
    machine.wait_for_ssh();
    assert_eq!(machine.ssh("cat /root/word"), "acknowledged");
    // What can't go on elsewhere is undisturbed.
    assert!(lives(processes[1]));
    disk.wait_for_phase("Unknown");

    // Back, it clears away what it has of that machine, and takes over the others.
    cloud.namespace().unwrap().cut(false);
    host.start();
    host.wait_for_state(&cloud, "OK");
    disk.wait_for_phase("Running");
    assert_eq!(disk.process(), processes[1]);
    wait_until("what is left of it there", LIMIT, || {
        (host.machines() == [disk.uuid()]).then_some(())
    });
    machine.wait_for_ssh();
    assert_eq!(machine.ssh("cat /root/word"), "acknowledged");
    machine.kill();
    disk.kill();
    cloud.assert_clean();
}
