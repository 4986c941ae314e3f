//! Data that outlives machines: written in one, read in another, and never in two at once.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::time::Duration;

use serde_json::json;
use testkit::{Api, Machine, TestCloud, skip_unless, wait_until};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn data_moves_from_machine_to_machine() {
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start();
    let first = cloud.machine();
    let uuid = the_life_of_a_volume_by_commands(&cloud);
    let volume = format!("Volume/{uuid}");

    // Present from the start, in a machine of its own.
    let other = cloud.volume(&cloud.api(), 1);
    let mut document = cloud.machine_document(&cloud.image());
    document["machineTemplate"]["volumes"] = json!([{"volume": {"href": other}}]);
    first.wait_for_ssh();
    let second = cloud.machine_of(&cloud.api(), &document);

    let told = cloud.cli(&["attach-volume", "-i", &first.vmid.to_string(), &uuid]);
    assert!(
        told.starts_with(&format!("ATTACHED {uuid} in VM {} on ", first.vmid)),
        "{told}"
    );
    let disk = disk_of(&first, &uuid);
    first.ssh(&format!("mkfs.ext4 -q /dev/{disk} && mkdir -p /mnt/data && mount /dev/{disk} /mnt/data && echo kept > /mnt/data/file && umount /mnt/data"));
    refusals(&cloud, &first, &volume);

    let told = cloud.cli(&["detach-volume", "-i", &first.vmid.to_string(), &uuid]);
    assert!(
        told.starts_with(&format!("DETACHED {uuid} from VM {} on ", first.vmid)),
        "{told}"
    );
    wait_until("the guest to see the disk gone", LIMIT, || {
        (!has_disk(&first, &uuid)).then_some(())
    });

    second.wait_for_ssh();
    assert_eq!(
        second.ssh("cat /sys/block/vdb/serial"),
        serial(other.trim_start_matches("Volume/")),
        "there from the start"
    );
    let refused = cloud.try_cli(&[
        "detach-volume",
        "-i",
        &second.vmid.to_string(),
        other.trim_start_matches("Volume/"),
    ]);
    assert!(!refused.status.success());
    let told = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(told.contains("Disk have not been hot-plugged"), "{told}");

    let (winner, loser) = two_at_once(&cloud, &volume, [&first, &second]);
    assert!(loser.contains("Disk not available"), "{loser}");
    let machine = if winner == first.vmid {
        &first
    } else {
        &second
    };
    let disk = disk_of(machine, &uuid);
    assert_eq!(
        machine.ssh(&format!(
            "mkdir -p /mnt/data && mount /dev/{disk} /mnt/data && cat /mnt/data/file"
        )),
        "kept"
    );

    // Which machine has it is told by the number that commands take.
    let shown = cloud.cli(&["describe-volumes", &uuid]);
    let line = format!("machine: {winner}");
    assert!(shown.contains(&line), "{shown}");
    let of_it = ["describe-volumes", "-f", &format!("machine:^{winner}$")];
    assert_eq!(cloud.cli_json(&of_it)[0]["machine"], winner);

    // A machine that goes leaves its volumes behind, and who waits for that finds them free.
    let (one, two) = (first.vmid.to_string(), second.vmid.to_string());
    let told = cloud.cli_json(&["kill-instance", "--wait", &one, &two]);
    assert_eq!(told, json!([one, two]));
    for volume in [&volume, &other] {
        let document = cloud.api().get(volume).expect(200);
        assert_eq!(document["count"], 0, "{document}");
    }
    for machine in [&first, &second] {
        assert_eq!(cloud.api().get(&machine.id).status, 404);
    }
    cloud.cli(&["delete-volume", &uuid, other.trim_start_matches("Volume/")]);
    let none = cloud.cli(&["describe-volumes"]);
    assert!(none.contains("No disk to show"), "{none}");
    cloud.assert_clean();
}

fn the_life_of_a_volume_by_commands(cloud: &TestCloud) -> String {
    let made = cloud.cli(&["create-volume", "-s", "1", "-t", "first tag"]);
    let uuid = made
        .split_whitespace()
        .nth(1)
        .unwrap_or_else(|| panic!("{made}"))
        .to_owned();
    let shown = cloud.cli(&["describe-volumes", &uuid]);
    assert!(
        shown.contains(&uuid) && shown.contains("first tag") && shown.contains('1'),
        "{shown}"
    );
    cloud.cli(&["update-volume", "-t", "second tag", "--public", &uuid]);
    let document = cloud.api().get(&format!("Volume/{uuid}")).expect(200);
    assert_eq!(document["name"], "second tag", "{document}");
    assert_eq!(document["visibility"], "PUBLIC", "{document}");
    let filtered = cloud.cli(&["describe-volumes", "-f", "tag:second"]);
    assert!(filtered.contains(&uuid), "{filtered}");
    let gone = cloud.cli(&["create-volume", "-s", "1"]);
    let gone = gone.split_whitespace().nth(1).unwrap().to_owned();
    cloud.cli(&["delete-volume", &gone]);
    assert_eq!(cloud.api().get(&format!("Volume/{gone}")).status, 404);
    for wrong in ["0", "-1", "1025", "abc"] {
        let refused = cloud.try_cli(&["create-volume", "-s", wrong]);
        assert_eq!(refused.status.code(), Some(1), "size {wrong}: {refused:?}");
    }
    uuid
}

/// While it is attached.
fn refusals(cloud: &TestCloud, machine: &Machine<'_>, volume: &str) {
    let refused = cloud.api().delete(volume);
    assert_eq!(refused.status, 409, "{}", refused.text());
    let again = attach(&cloud.api(), &machine.id, volume);
    assert_eq!(again.0, 409, "{}", again.1);
    let document = cloud.api().get(volume).expect(200);
    assert_eq!(document["count"], 1, "{document}");
    assert_eq!(
        document["attachedTo"]["href"],
        machine.id.as_str(),
        "{document}"
    );
}

fn attach(api: &Api, machine: &str, volume: &str) -> (u16, String, Option<String>) {
    let reply = api.post(
        &format!("{machine}/volumes"),
        &json!({"volume": {"href": volume}}),
    );
    (reply.status, reply.text(), reply.job)
}

/// Two clients attach the same volume to two machines at the same moment: the number of the machine that got it, and what the
/// other was told.
fn two_at_once(cloud: &TestCloud, volume: &str, machines: [&Machine<'_>; 2]) -> (u64, String) {
    let answers = std::thread::scope(|scope| {
        machines
            .map(|machine| scope.spawn(|| attach(&cloud.api(), &machine.id, volume)))
            .map(|thread| thread.join().unwrap())
    });
    let statuses = [answers[0].0, answers[1].0];
    let winner = statuses
        .iter()
        .position(|status| *status == 201)
        .unwrap_or_else(|| panic!("nobody got it: {answers:?}"));
    assert_eq!(statuses[1 - winner], 409, "{answers:?}");
    cloud.wait_for_job(answers[winner].2.as_ref().unwrap());
    (machines[winner].vmid, answers[1 - winner].1.clone())
}

/// The serial that the guest sees: 20 characters fit, and the last ones tell volumes apart.
fn serial(uuid: &str) -> String {
    uuid.replace('-', "").chars().skip(12).collect()
}

fn disks(machine: &Machine<'_>) -> String {
    machine
        .ssh("cd /sys/block; for disk in vd*; do echo $disk $(cat $disk/serial 2>/dev/null); done")
}

fn has_disk(machine: &Machine<'_>, uuid: &str) -> bool {
    disks(machine).contains(&serial(uuid))
}

/// What the guest calls the volume.
fn disk_of(machine: &Machine<'_>, uuid: &str) -> String {
    wait_until("the guest to see the disk", LIMIT, || {
        disks(machine)
            .lines()
            .find(|line| line.ends_with(&serial(uuid)))
            .and_then(|line| Some(line.split_whitespace().next()?.to_owned()))
    })
}
