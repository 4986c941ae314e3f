//! Machines on another computer than the cloud's that become images: their disks are there, and come to the storage whatever dies
//! on the way. All is real: two daemons in two network namespaces, QEMU, a tunnel.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::{path::PathBuf, process::Command, time::Duration};

use serde_json::{Value, json};
use testkit::{Machine, StopPoint, TestCloud, TestHost, skip_unless, wait_until};

/// Longer than anything takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// A machine on the other host that is to be saved at its shutdown, with a file in it.
fn marked<'c>(cloud: &'c TestCloud, host: &TestHost, title: &str) -> Machine<'c> {
    let mut document = cloud.machine_document(&cloud.image());
    document["machineTemplate"]["save"] = json!({
        "author": "Ann Example", "authorEmail": "ann@example.org", "title": title, "comment": "made by a test", "version": "1.1",
    });
    let machine = cloud.machine_of(&cloud.api(), &document);
    machine.wait_for_ssh();
    assert_eq!(host.machines(), [machine.uuid()]);
    // More than is given at once.
    machine.ssh(&format!(
        "echo {title} >/etc/made-here; head -c 2000000 /dev/urandom >/etc/much; sync"
    ));
    machine
}

fn image_named(cloud: &TestCloud, title: &str) -> Option<Value> {
    let images = cloud.api().list("MachineImage");
    images.into_iter().find(|image| image["name"] == title)
}

fn wait_for_image(cloud: &TestCloud, title: &str) -> Value {
    wait_until(&format!("the image {title}"), LIMIT, || {
        image_named(cloud, title).filter(|image| image["state"] == "AVAILABLE")
    })
}

/// Starts a machine from an image on the cloud's own host, and makes sure that it has what was made in the other.
fn holds_elsewhere(cloud: &TestCloud, host: &TestHost, image: &Value, title: &str) {
    cloud.cli(&["host", "maintenance", "testhost", "--off"]);
    cloud.cli(&["host", "maintenance", "node7"]);
    let identifier = image["identifier"].as_str().unwrap();
    let machine = cloud.machine_of(
        &cloud.api(),
        &cloud.machine_document(&format!("MachineImage/{identifier}")),
    );
    machine.wait_for_ssh();
    assert!(!host.machines().contains(&machine.uuid().to_owned()));
    assert_eq!(machine.ssh("cat /etc/made-here"), title);
    machine.kill();
}

/// What the storage has of disks from elsewhere, whole or not.
fn brought(cloud: &TestCloud) -> Vec<PathBuf> {
    let saving = cloud.state_dir().join("saving");
    let of = |name: &str| std::fs::read_dir(saving.join(name)).unwrap().flatten();
    let all = of("incoming").chain(of("images"));
    all.map(|entry| entry.path()).collect()
}

/// Waits until what was brought is gone: the image is there before, while all of it is proven.
fn nothing_stays_of_it(cloud: &TestCloud) {
    wait_until("what was brought to be gone", LIMIT, || {
        brought(cloud).is_empty().then_some(())
    });
}

/// Waits until the host has given a part of a disk, and the storage has it.
fn is_given(cloud: &TestCloud, point: &mut StopPoint, job: &str) {
    point.reached();
    wait_until("how far it is", LIMIT, || {
        let job = cloud.api().get(job).expect(200);
        let progress = job["progress"].as_u64().unwrap();
        assert!(progress < 50, "{job}");
        (progress > 0 && brought(cloud).len() == 1).then_some(())
    });
}

#[test]
fn a_machine_on_another_host_is_saved_without_traces_of_its_builder_and_starts_elsewhere() {
    if skip_unless(&[]) {
        return;
    }
    let (host, cloud) = TestHost::of_a_cloud();
    let machine = marked(&cloud, &host, "from-afar");
    machine.ssh(
        "echo secret-history >/root/.ash_history; echo secret-log >/var/log/mine.log; \
         echo secret-deleted >/root/deleted; sync; rm /root/deleted; sync",
    );
    cloud.cli(&["shutdown-instance", &machine.vmid.to_string()]);
    let image = wait_for_image(&cloud, "from-afar");
    machine.wait_for_phase("Done");
    wait_until("the machine's folder to go", LIMIT, || {
        host.machines().is_empty().then_some(())
    });
    nothing_stays_of_it(&cloud);
    assert_eq!(image["visibility"], "PRIVATE", "{image}");
    assert_eq!(image["format"], "qcow2", "{image}");
    assert_eq!(image["imageLocation"], machine.id.as_str(), "{image}");
    let told = wait_until("the announcement", LIMIT, || {
        let image = image_named(&cloud, "from-afar")?;
        let announced = &image["announced"];
        // While it is pending it was only begun.
        (announced["at"].is_string() && announced["pending"] != true).then_some(image)
    });
    assert!(told["sha256"].is_string(), "it is proven first: {told}");
    let found = cloud.cli_json(&["image", "search", "from-afar"]);
    assert_eq!(found[0]["identifier"], image["identifier"], "{found}");

    // The content itself, as anybody could take it.
    let raw = cloud.folder().join("saved.raw").display().to_string();
    let identifier = image["identifier"].as_str().unwrap();
    cloud.cli(&["image", "export", "--as", "raw", "-o", &raw, identifier]);
    let has = |what: &str| {
        let found = Command::new("grep").args(["-qaF", what, &raw]).status();
        found.unwrap().success()
    };
    assert!(has("from-afar"), "the content is this image");
    let public = cloud.public_key();
    let key = public.split_whitespace().nth(1).unwrap();
    for gone in ["secret-history", "secret-log", "secret-deleted", key] {
        assert!(!has(gone), "{gone} is in the image");
    }
    std::fs::remove_file(&raw).unwrap();
    holds_elsewhere(&cloud, &host, &image, "from-afar");
    cloud.assert_clean();
}

#[test]
fn a_disk_comes_to_the_storage_whichever_daemon_is_killed_meanwhile() {
    if skip_unless(&[]) {
        return;
    }
    let (mut host, cloud) = TestHost::of_a_cloud();
    let machine = marked(&cloud, &host, "again");
    let api = cloud.api();
    let id = machine.vmid.to_string();
    cloud.cli(&["stop-instance", &id]);
    machine.wait_for_phase("Stopped");
    let operations = machine.document()["operations"].to_string();
    assert!(operations.contains("/capture"), "{operations}");

    // The host's daemon dies while it gives the disk: the disk waits there, and what came of it is worth nothing.
    let mut point = host.stop_point("GivesDisk");
    let capture = json!({"name": "captured", "imageLocation": {"href": machine.id}});
    let reply = api.post("MachineImage", &capture);
    let job = reply.job.clone().unwrap();
    let _ = reply.expect(201);
    is_given(&cloud, &mut point, &job);
    let refused = api.post(&format!("{}/start", machine.id), &json!({}));
    assert_eq!(refused.status, 409, "{}", refused.text());
    let disk = host.folder().join("state/machines");
    let disk = disk.join(machine.uuid()).join("root.qcow2");
    let aside = disk.with_extension("aside");
    std::fs::rename(&disk, &aside).unwrap();
    host.kill();
    drop(point);
    let waits = wait_until("the reason", LIMIT, || {
        let image = image_named(&cloud, "captured")?;
        image["reason"].is_string().then_some(image)
    });
    assert_eq!(waits["state"], "CREATING", "{waits}");
    let reason = waits["reason"].as_str().unwrap();
    assert!(reason.contains("node7"), "{waits}");
    assert_eq!(host.machines(), [machine.uuid()]);
    host.start();
    // As long as it can't be read there, that is said.
    wait_until("the reason", LIMIT, || {
        let image = image_named(&cloud, "captured")?;
        assert_eq!(image["state"], "CREATING", "{image}");
        let reason = image["reason"].as_str()?;
        reason.contains("its host node7 can't read").then_some(())
    });
    std::fs::rename(&aside, &disk).unwrap();
    cloud.wait_for_job(&job);
    let captured = wait_for_image(&cloud, "captured");
    nothing_stays_of_it(&cloud);
    cloud.cli(&["start-instance", &id]);
    machine.wait_for_ssh();
    assert_eq!(machine.ssh("cat /etc/made-here"), "again");
    machine.ssh("echo later >/etc/made-here && sync");

    // The cloud's daemon dies while it has a part.
    let mut point = host.stop_point("GivesDisk");
    let asked = api.post(&format!("{}/shutdown", machine.id), &json!({}));
    let job = asked
        .job
        .clone()
        .unwrap_or_else(|| panic!("{}", asked.text()));
    is_given(&cloud, &mut point, &job);
    cloud.kill();
    assert_eq!(brought(&cloud).len(), 1, "as a crash leaves it");
    drop(point);
    cloud.start_again();
    let image = wait_for_image(&cloud, "again");
    cloud.wait_for_job(&job);
    machine.wait_for_phase("Done");
    wait_until("the machine's folder to go", LIMIT, || {
        host.machines().is_empty().then_some(())
    });
    nothing_stays_of_it(&cloud);
    holds_elsewhere(&cloud, &host, &image, "later");
    assert_ne!(captured["identifier"], image["identifier"]);
    cloud.assert_clean();
}

#[test]
fn an_image_is_made_of_a_volume_that_was_written_from_afar() {
    if skip_unless(&[]) {
        return;
    }
    let (host, cloud) = TestHost::of_a_cloud();
    let api = cloud.api();
    let machine = cloud.machine();
    machine.wait_for_ssh();
    assert_eq!(host.machines(), [machine.uuid()]);
    // The guest's disks are told by what follows the first one.
    let with = |volume: &str, what: &str| {
        machine.attach(volume);
        let disk = wait_until("the disk", LIMIT, || {
            let seen = machine.ssh("ls /sys/block");
            let mut names = seen.lines();
            let found = names.find(|name| *name == "vdb" || *name == "vdc")?;
            Some(found.to_owned())
        });
        let said = machine.ssh(&what.replace("DISK", &format!("/dev/{disk}")));
        machine.detach(volume);
        said
    };
    let first = cloud.volume(&api, 1);
    with(
        &first,
        "mkfs.ext4 -q DISK && mount DISK /mnt && echo then >/mnt/file && umount /mnt",
    );
    let asked = api.post(
        "VolumeImage",
        &json!({"name": "then", "imageLocation": {"href": first}}),
    );
    let job = asked.job.clone().unwrap();
    let image = asked.expect(201)["id"].as_str().unwrap().to_owned();
    cloud.wait_for_job(&job);
    with(
        &first,
        "mount DISK /mnt && echo now >/mnt/file && umount /mnt",
    );
    let capacity = api.get(&image).expect(200)["capacity"].clone();
    let asked = api.post(
        "Volume",
        &json!({"volumeTemplate": {"volumeConfig": {"capacity": capacity}, "volumeImage": {"href": image}}}),
    );
    let job = asked.job.clone();
    let second = asked.expect(201)["id"].as_str().unwrap().to_owned();
    job.iter().for_each(|job| cloud.wait_for_job(job));
    let read = "mount DISK /mnt && cat /mnt/file; umount /mnt";
    assert_eq!(with(&second, read), "then");
    assert_eq!(with(&first, read), "now");
    machine.kill();
    cloud.assert_clean();
}
