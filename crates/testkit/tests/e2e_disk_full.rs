//! A full disk stops what needs disk, clearly, and nothing else; once there is space again, all goes on.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::json;
use testkit::{Options, TestCloud, firmware_only_image, skip_unless, wait_until};

const MIB: usize = 1 << 20;
const SIZE_MIB: usize = 96;
const LIMIT: Duration = Duration::from_secs(60);

/// A small file system in memory; unmounted at the end.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("stratus-small-")
            .tempdir()
            .unwrap();
        let mounted = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={SIZE_MIB}m,mode=0755"),
                "tmpfs",
            ])
            .arg(folder.path())
            .status();
        assert!(mounted.unwrap().success(), "mount");
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Takes all space.
    fn fill(&self) {
        let mut file = File::options()
            .append(true)
            .create(true)
            .open(self.filler())
            .unwrap();
        let block = vec![0_u8; MIB / 16];
        while file.write_all(&block).is_ok() {}
        while file.write_all(&block[..512]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("-l")
            .arg(self.folder.path())
            .status();
    }
}

#[test]
fn a_full_disk_is_told_and_recovered_from() {
    if skip_unless(&[]) {
        return;
    }
    // Dropped after the cloud.
    let disk = SmallDisk::new();
    let options = Options {
        state_dir: Some(disk.path().join("state")),
        reserve_mib: Some(8),
        ..Options::default()
    };
    let cloud = TestCloud::start_with(&options);
    let api = cloud.api();
    let image = cloud.import(&firmware_only_image(cloud.folder()));
    let machine = cloud.machine_of(&api, &cloud.machine_document(&image));
    machine.wait_for_phase("Running");
    let qemu = machine.process();

    // An import that does not fit.
    let large = cloud.folder().join("large.img");
    let mut content = vec![7_u8; (SIZE_MIB + 16) * MIB];
    content
        .iter_mut()
        .step_by(4096)
        .enumerate()
        .for_each(|(index, byte)| *byte = u8::try_from(index % 251).unwrap());
    fs::write(&large, &content).unwrap();
    let refused = cloud.try_cli(&["image", "import", &large.display().to_string()]);
    let told = format!(
        "{}{}",
        String::from_utf8_lossy(&refused.stdout),
        String::from_utf8_lossy(&refused.stderr)
    );
    assert!(!refused.status.success(), "{told}");
    assert!(told.contains("space") || told.contains("disk"), "{told}");
    wait_until("nothing half-made stays", LIMIT, || {
        (cloud.api().list("MachineImage").len() == 1).then_some(())
    });

    // A machine that does not fit: it waits or fails with a reason, and does not take the rest along.
    disk.fill();
    let reply = api.post("Machine", &cloud.machine_document(&image));
    let (status, text) = (reply.status, reply.text());
    let waiting = (status == 201).then(|| cloud.known_machine(&api, &reply.body));
    if waiting.is_none() {
        assert!(
            status == 409 && (text.contains("space") || text.contains("full")),
            "{status} {text}"
        );
    }
    assert_eq!(machine.phase(), "Running", "reading goes on");
    assert_eq!(machine.processes(), [qemu]);

    // Writes to the database: each is acknowledged and kept, or refused and not there.
    let mut accepted = Vec::new();
    let mut refused = None;
    for number in 0..2000 {
        let document = json!({"name": format!("filler-{number}"), "description": "x".repeat(200), "publicKey": cloud.public_key()});
        let reply = api.post("Credential", &document);
        match reply.status {
            201 => accepted.push(reply.body["id"].as_str().unwrap().to_owned()),
            status => {
                assert_eq!(status, 409, "{}", reply.text());
                refused = Some(reply.text());
                break;
            }
        }
    }
    let refused = refused.expect("the database can't grow on a full disk");
    assert!(
        refused.contains("space") || refused.contains("full"),
        "{refused}"
    );
    assert!(cloud.daemon_runs(), "{}", cloud.log_tail());
    let health = api.get("/health");
    assert_eq!(
        health.status,
        503,
        "it answers, and says that it can't write: {}",
        health.text()
    );
    assert_eq!(health.body["status"], "failing", "{}", health.text());
    assert!(!database_is_well(&cloud), "{}", health.text());

    disk.free();
    wait_until("writes to be possible again", LIMIT, || {
        let reply = api.post(
            "Credential",
            &json!({"name": "after", "publicKey": cloud.public_key()}),
        );
        (reply.status == 201).then_some(())
    });
    wait_until("health to say so", LIMIT, || {
        database_is_well(&cloud).then_some(())
    });
    for id in accepted {
        let _ = api.get(&id).expect(200);
    }
    if let Some(waiting) = waiting {
        wait_until("the waiting machine", LIMIT, || {
            ["Running", "Failed"]
                .contains(&waiting.phase().as_str())
                .then_some(())
        });
        waiting.kill();
    }
    let another = cloud.machine_of(&api, &cloud.machine_document(&image));
    another.wait_for_phase("Running");
    another.kill();
    machine.kill();
    cloud.assert_clean();
}

/// What health says of the database.
fn database_is_well(cloud: &TestCloud) -> bool {
    let health = cloud.api().get("/health").body;
    let checks = health["checks"].as_array().unwrap();
    checks
        .iter()
        .any(|check| check["name"] == "database" && check["ok"] == true)
}
