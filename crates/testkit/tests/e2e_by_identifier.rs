//! An image that somebody described and signed elsewhere starts by its identifier: looked up, judged, fetched once, checked,
//! and gone again on the operator's wish. The commands sign, a plain file server stands for the Marketplace.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use testkit::{
    Appliance, FileServer, Machine, Need, Options, TestCloud, identifier_of, self_signed,
    skip_unless, wait_until,
};

const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn an_identifier_is_all_that_it_takes() {
    if skip_unless(&[
        Need::Root,
        Need::Qemu,
        Need::Ssh,
        Need::Program("setpriv"),
        Need::Program("openssl"),
    ]) {
        return;
    }
    let site = FileServer::serve();
    let work = tempfile::tempdir().unwrap();
    let policy = work.path().join("policy.cfg");
    fs::write(
        &policy,
        "[endorsers]\nwhitelistendorsers = alice@example.org\n",
    )
    .unwrap();
    let cloud = TestCloud::start_user_mode_with(&Options {
        tables: format!(
            "[images]\nallow_sources = [\"127.0.0.1/32\"]\npolicy = \"{}\"\n[[catalogue]]\nname = \"test\"\nkind = \"marketplace\"\nurl = \"{}\"\n",
            readable(&policy).display(),
            site.url()
        ),
        ..Options::default()
    });
    let folder = cloud.folder().to_owned();
    let disk = Appliance::tiny().disk;
    site.put("/tiny.qcow2", &disk);
    let location = format!("{}/tiny.qcow2", site.url());
    let entry = signed(&cloud, &folder, &disk, &location);
    let identifier = identifier_of(&entry);
    let page = format!("/metadata/{identifier}");

    // Nobody knows it yet.
    let refused = cloud.try_cli(&["image", "fetch", "--timeout", "60", &identifier]);
    // Work that failed is told on standard output (the contract).
    let told = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert_eq!(refused.status.code(), Some(255), "{refused:?}");
    assert!(
        told.contains("no Marketplace of this cloud (test, own)"),
        "{refused:?}"
    );
    // A slip of the pen is in nobody's list.
    assert!(cloud.api().list("MachineImage").is_empty());

    // Ten users at once.
    site.put(&page, &entry);
    let users: Vec<String> = (0..10).map(|number| format!("user{number}")).collect();
    for user in &users {
        cloud.user(user);
    }
    std::thread::scope(|scope| {
        for user in &users {
            let (cloud, identifier) = (&cloud, &identifier);
            scope.spawn(move || {
                let password = format!("{user}-password");
                let key = cloud.public_key_file().display().to_string();
                let output = cloud.try_cli_as(
                    user,
                    &password,
                    &[
                        "run-instance",
                        "-k",
                        &key,
                        "--ram",
                        "96",
                        "--swap",
                        "0",
                        identifier,
                    ],
                );
                assert!(output.status.success(), "{output:?}");
            });
        }
    });
    let image = cloud.cli_json(&["image", "show", &identifier]);
    let path = image["id"].as_str().unwrap().to_owned();
    wait_until("the image", LIMIT, || {
        let image = cloud.cli_json(&["image", "show", &identifier]);
        (image["state"] == "AVAILABLE").then_some(())
    });
    let image = cloud.cli_json(&["image", "show", &identifier]);
    assert_eq!(image["endorser"], "alice@example.org", "{image}");
    assert_eq!(
        image["imageLocation"],
        format!("marketplace:{identifier}"),
        "{image}"
    );
    assert_eq!(site.asked("/tiny.qcow2"), 1, "ten machines, one download");
    let numbers: Vec<String> = cloud
        .cli_json(&["describe-instance"])
        .as_array()
        .unwrap()
        .iter()
        .map(|machine| machine["id"].to_string())
        .collect();
    assert_eq!(numbers.len(), 10);
    // One of them is looked into; ten guests at once are too much for a small host.
    for number in &numbers[1..] {
        cloud.cli(&["kill-instance", number]);
    }
    let machine = cloud.machine_by_number(numbers[0].parse().unwrap());
    machine.wait_for_ssh();
    assert_eq!(machine.ssh("echo inside"), "inside");
    other_names_start_too(&cloud, &machine, &location);

    // It is the cloud's: users can't remove it, and it stays while somebody needs it.
    let user = cloud.api().as_user("user0", "user0-password");
    let _ = user.delete(&format!("/cimi/{path}")).expect(403);
    let _ = cloud.api().delete(&format!("/cimi/{path}")).expect(409);
    cloud.cli(&["kill-instance", &numbers[0]]);
    // On the operator's wish it goes, once the last machine is gone.
    wait_until("the end of the image", LIMIT, || {
        let reply = cloud.api().delete(&format!("/cimi/{path}"));
        (reply.status != 409).then(|| reply.ok())
    });
    wait_until("no image", LIMIT, || {
        cloud.api().list("MachineImage").is_empty().then_some(())
    });
    cloud.assert_clean();
}

/// A URL, of whose image a machine gets a disk of its own; and a volume with a system on it, which keeps what the machine writes.
fn other_names_start_too(cloud: &TestCloud, machine: &Machine<'_>, location: &str) {
    let volume = cloud.volume(&cloud.api(), 1);
    machine.attach(&volume);
    let uuid = volume.trim_start_matches("Volume/");
    // The serial number is the end of its id.
    let serial: String = uuid.replace('-', "").chars().skip(12).collect();
    let disk = wait_until("the guest to see the volume", LIMIT, || {
        let seen = machine.ssh(&format!("grep -l {serial} /sys/block/vd*/serial || true"));
        Some(seen.split('/').nth(3)?.to_owned())
    });
    let copy = format!("dd if=/dev/vda of=/dev/{disk} bs=1M 2>/dev/null && sync && echo done");
    assert_eq!(
        machine.ssh(&format!("echo kept > /root/mark && sync && {copy}")),
        "done"
    );
    machine.detach(&volume);
    let in_place = format!("pdisk:cloud.example.org:8445:{uuid}");
    for (name, mark) in [
        (in_place.as_str(), "kept"),
        (uuid, "changed"),
        (location, "none"),
    ] {
        let key = cloud.public_key_file().display().to_string();
        let run = [
            "run-instance",
            "-k",
            &key,
            "--ram",
            "96",
            "--swap",
            "0",
            name,
        ];
        let started = cloud.cli_json(&run);
        let other = cloud.machine_by_number(started[0]["id"].as_u64().unwrap());
        other.wait_for_ssh();
        assert_eq!(
            other.ssh("cat /root/mark 2>/dev/null || echo none"),
            mark,
            "{name}"
        );
        let image = other.document()["machineImage"]["href"].clone();
        assert_eq!(image.is_string(), name == location, "{image}");
        other.ssh("echo changed > /root/mark; sync");
        other.kill();
        if let Some(image) = image.as_str() {
            wait_until("the end of the image", LIMIT, || {
                let reply = cloud.api().delete(&format!("/cimi/{image}"));
                (reply.status != 409).then(|| reply.ok())
            });
        }
    }
    let _ = cloud.api().delete(&format!("/cimi/{volume}")).ok();
}

#[test]
fn what_the_clouds_own_marketplace_has_starts_without_a_word_of_configuration() {
    if skip_unless(&[
        Need::Root,
        Need::Qemu,
        Need::Ssh,
        Need::Program("setpriv"),
        Need::Program("openssl"),
    ]) {
        return;
    }
    let site = FileServer::serve();
    let cloud = TestCloud::start_user_mode_with(&Options {
        tables: "[images]\nallow_sources = [\"127.0.0.1/32\"]\n[marketplace]\nconfirm = false\n"
            .to_owned(),
        ..Options::default()
    });
    let disk = Appliance::tiny().disk;
    site.put("/tiny.qcow2", &disk);
    let location = format!("{}/tiny.qcow2", site.url());
    let folder = cloud.folder().to_owned();
    let entry = signed(&cloud, &folder, &disk, &location);
    let identifier = identifier_of(&entry);
    let refused = cloud.try_cli(&["run-instance", &identifier]);
    let told = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(
        told.contains("no Marketplace of this cloud (own)"),
        "{told}"
    );

    let market = format!("{}/marketplace", cloud.url());
    let entry = entry.display().to_string();
    let upload = ["upload-metadata", "--marketplace-endpoint", &market, &entry];
    assert_eq!(cloud.cli_json(&upload)["state"], "created");

    // Found where the cloud looks, and started: what one finds works.
    let found = cloud.cli_json(&["image", "search", "tiny"]);
    assert_eq!(found[0]["name"], identifier.as_str(), "{found}");
    assert_eq!(found[0]["source"], "own", "{found}");
    let run = |more: &[&str]| {
        let key = cloud.public_key_file().display().to_string();
        let all = ["run-instance", "-k", &key, "--ram", "96", "--swap", "0"];
        cloud.cli(&[&all[..], more].concat())
    };
    let number = |told: &str| {
        let number = told.split("(vm ID: ").nth(1).unwrap();
        number.split(')').next().unwrap().parse().unwrap()
    };
    let told = run(&["--marketplace-endpoint", &market, &identifier]);
    assert!(!told.contains("does not look images up"), "{told}");
    let machine = cloud.machine_by_number(number(&told));
    machine.wait_for_ssh();
    assert_eq!(machine.ssh("echo inside"), "inside");
    machine.kill();
    let elsewhere = ["--marketplace-endpoint", "https://elsewhere.example.org"];
    let told = run(&[&elsewhere[..], &[&identifier]].concat());
    assert!(
        told.contains("does not look images up in https://elsewhere.example.org")
            && told.contains(&format!("own ({market})")),
        "{told}"
    );
    cloud.machine_by_number(number(&told)).kill();

    // Taken back by who vouched for it.
    let pem = folder.join("me.pem").display().to_string();
    cloud.cli(&[
        "deprecate-metadata",
        "--marketplace-endpoint",
        &market,
        "--email",
        "alice@example.org",
        "--pem-cert",
        &pem,
        "--reason",
        "spoilt",
        &identifier,
    ]);
    let found = cloud.cli_json(&["image", "search", "tiny"]);
    assert_eq!(found, serde_json::json!([]), "it is found no more");
    // At once, though it was looked up a moment ago: the Marketplace is this cloud's own.
    let refused = cloud.try_cli(&["run-instance", &identifier]);
    let told = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(
        !refused.status.success() && told.contains("spoilt"),
        "{told}"
    );
    assert!(!told.contains("machineTemplate"), "{told}");
    cloud.assert_clean();
}

/// Its folder can be passed by the daemon, which is somebody else here.
fn readable(path: &Path) -> &Path {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = path.parent().unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// The appliance described and signed by the commands.
fn signed(cloud: &TestCloud, folder: &Path, disk: &Path, location: &str) -> PathBuf {
    let pem = self_signed(folder).display().to_string();
    let image = folder.join("tiny.qcow2");
    std::os::unix::fs::symlink(disk, &image).unwrap();
    let out = folder.join("entry.xml");
    let described = [
        "build-metadata",
        "--author",
        "Alice",
        "--os",
        "tiny",
        "--os-version",
        "1",
        "--os-arch",
        "x86_64",
        "--image-version",
        "1.0",
        "--format",
        "qcow2",
        "--comment",
        "Tiny",
        "--title",
        "Tiny",
        "--location",
        location,
        "tiny.qcow2",
    ];
    cloud.cli_in(folder, &described);
    let to = out.display().to_string();
    cloud.cli_in(
        folder,
        &[
            "sign-metadata",
            "--pem-cert",
            &pem,
            "--output",
            &to,
            "tiny-1-x86_64-base-1.0.xml",
        ],
    );
    out
}
