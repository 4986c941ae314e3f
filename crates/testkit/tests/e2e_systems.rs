//! A system of real machines, a volume and an address: made, stopped, started and removed as one, across a killed daemon;
//! and an image of its volume, which another volume begins as.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test that panics has failed

use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Machine, TestCloud, skip_unless, wait_until};

const LIMIT: Duration = Duration::from_secs(90);

/// Two machines with a key in common; one has the volume, which they are made with, and the address.
fn template(cloud: &TestCloud) -> Value {
    let network = &cloud.api().list("Network")[0]["id"];
    let machine = json!({"machineConfig": {"cpu": 1, "memory": 128 * 1024},
        "machineImage": {"href": cloud.image()}, "credential": {"href": "#key"}});
    let mut db = machine.clone();
    db["volumes"] = json!([{"volume": {"href": "#data"}}]);
    db["networkInterfaces"] =
        json!([{"network": {"href": network}, "addresses": [{"href": "#ip"}]}]);
    json!({"name": "site", "componentDescriptors": [
        {"name": "web", "type": "Machine", "machineTemplate": machine},
        {"name": "db", "type": "Machine", "machineTemplate": db},
        {"name": "data", "type": "Volume", "volumeTemplate": {"volumeConfig": {"capacity": 100_000}}},
        {"name": "ip", "type": "Address", "addressTemplate": {"network": {"href": network}}},
        {"name": "key", "type": "Credential", "credentialTemplate": {"publicKey": cloud.public_key()}},
    ]})
}

/// Asks all of it for something, and waits for the one job that tells of it; what the job says at its end.
#[track_caller]
fn act(cloud: &TestCloud, system: &str, action: &str, during: impl FnOnce()) -> String {
    let body = json!({"action": format!("http://schemas.dmtf.org/cimi/1/action/{action}")});
    let asked = cloud.api().post(&format!("{system}/{action}"), &body);
    let job = asked.job.clone().unwrap();
    let _ = asked.expect(202);
    during();
    let (state, told) = cloud.job_end(&job);
    assert_eq!(state, "SUCCESS", "{told}");
    told["statusMessage"].as_str().unwrap().to_owned()
}

#[track_caller]
fn state(cloud: &TestCloud, id: &str) -> String {
    let document = cloud.api().get(id).expect(200);
    document["state"].as_str().unwrap().to_owned()
}

/// What the members of one of its collections refer to.
fn parts(cloud: &TestCloud, system: &str, collection: &str, attribute: &str) -> Vec<String> {
    let reply = cloud.api().get(&format!("{system}/{collection}"));
    let members = reply.members().unwrap_or_default();
    let href = |member: &Value| member[attribute]["href"].as_str().unwrap().to_owned();
    members.iter().map(href).collect()
}

#[test]
fn a_system_of_machines_and_a_volume_is_one() {
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start();
    let template = cloud
        .api()
        .post("SystemTemplate", &template(&cloud))
        .expect(201);
    let body = json!({"name": "mine", "systemTemplate": {"href": template["id"]}});
    let asked = cloud.api().post("System", &body);
    let job = asked.job.clone().unwrap();
    let system = asked.expect(201)["id"].as_str().unwrap().to_owned();
    // Nothing is made twice, and nothing forgotten, when the daemon dies while it makes the parts.
    cloud.kill();
    cloud.start_again();
    cloud.wait_for_job(&job);
    assert_eq!(state(&cloud, &system), "STARTED");
    let told = cloud.api().get(&job).expect(200)["statusMessage"].to_string();
    for part in ["web: STARTED", "db: STARTED", "data: AVAILABLE"] {
        assert!(told.contains(part), "{told}");
    }
    assert_eq!(cloud.api().list("Machine").len(), 2);
    let volume = parts(&cloud, &system, "volumes", "volume").remove(0);
    let address = parts(&cloud, &system, "addresses", "address").remove(0);
    let machines: Vec<Machine<'_>> = parts(&cloud, &system, "machines", "machine")
        .iter()
        .map(|id| cloud.known_machine(&cloud.api(), &cloud.api().get(id).expect(200)))
        .collect();
    let db = &machines[1];
    let kept = cloud.api().get(&address).expect(200);
    assert_eq!(kept["resource"]["href"], db.id.as_str(), "{kept}");
    assert_eq!(db.document()["addresses"], json!([kept["ip"]]));
    for machine in &machines {
        machine.wait_for_ssh();
    }
    db.ssh("mkfs.ext4 -q /dev/vdb && mkdir -p /mnt/data && mount /dev/vdb /mnt/data && echo kept > /mnt/data/file && umount /mnt/data");
    let log = cloud.api().get(&system).expect(200)["eventLog"]["href"].clone();
    let log = cloud.api().get(log.as_str().unwrap()).expect(200);
    assert_eq!(log["targetResource"]["href"], system.as_str(), "{log}");

    // All stop by one job, also if the daemon dies meanwhile; one that runs again makes it mixed.
    let told = act(&cloud, &system, "stop", || {
        cloud.kill();
        cloud.start_again();
    });
    for part in ["web: ", "db: "] {
        assert!(told.contains(part), "{told}");
    }
    assert_eq!(state(&cloud, &system), "STOPPED");
    let begun = cloud
        .api()
        .post(&format!("{}/start", db.id), &json!({}))
        .job
        .unwrap();
    cloud.wait_for_job(&begun);
    assert_eq!(state(&cloud, &system), "MIXED");
    act(&cloud, &system, "start", || ());
    assert_eq!(state(&cloud, &system), "STARTED");
    db.wait_for_ssh();
    assert_eq!(
        db.ssh("mkdir -p /mnt/data && mount /dev/vdb /mnt/data && cat /mnt/data/file && umount /mnt/data"),
        "kept"
    );

    // Both rest in memory, and go on.
    let boot = db.ssh("cat /proc/sys/kernel/random/boot_id");
    act(&cloud, &system, "pause", || ());
    assert_eq!(state(&cloud, &system), "PAUSED");
    act(&cloud, &system, "start", || ());
    db.wait_for_ssh();
    assert_eq!(db.ssh("cat /proc/sys/kernel/random/boot_id"), boot);

    // While a machine has the volume no image is made of it; it goes with the system, and what was added stays.
    let image = json!({"imageLocation": {"href": volume}});
    let refused = cloud.api().post("VolumeImage", &image).expect(409);
    assert!(refused.to_string().contains("detach"), "{refused}");
    let other = cloud.volume(&cloud.api(), 1);
    let member = json!({"volume": {"href": other}});
    let _ = cloud
        .api()
        .post(&format!("{system}/volumes"), &member)
        .expect(201);
    let gone = cloud.api().delete(&system);
    let job = gone.job.clone().unwrap();
    let _ = gone.expect(202);
    cloud.wait_for_job(&job);
    for id in [&system, &volume, &address, &machines[0].id, &db.id] {
        assert_eq!(cloud.api().get(id).status, 404, "{id}");
    }
    assert_eq!(state(&cloud, &other), "AVAILABLE");
    let _ = cloud.api().delete(&other);
    cloud.assert_clean();
}

#[test]
fn a_volume_begins_as_the_image_of_another() {
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start();
    let machine = cloud.machine();
    let first = cloud.volume(&cloud.api(), 1);
    machine.wait_for_ssh();
    let read = |file: &str| {
        wait_until("the guest to see the disk", LIMIT, || {
            machine.ssh("ls /sys/block").contains("vdb").then_some(())
        });
        machine.ssh(&format!("mkdir -p /mnt/data && mount /dev/vdb /mnt/data && cat /mnt/data/{file}; umount /mnt/data"))
    };
    machine.attach(&first);
    wait_until("the guest to see the disk", LIMIT, || {
        machine.ssh("ls /sys/block").contains("vdb").then_some(())
    });
    machine.ssh("mkfs.ext4 -q /dev/vdb && mkdir -p /mnt/data && mount /dev/vdb /mnt/data && echo then > /mnt/data/file && umount /mnt/data");
    machine.detach(&first);
    let asked = cloud.api().post(
        "VolumeImage",
        &json!({"name": "then", "imageLocation": {"href": first}}),
    );
    let job = asked.job.clone().unwrap();
    let image = asked.expect(201)["id"].as_str().unwrap().to_owned();
    cloud.wait_for_job(&job);
    let log = cloud.api().get(&first).expect(200)["eventLog"]["href"].clone();
    let events = cloud
        .api()
        .get(&format!("{}/events", log.as_str().unwrap()));
    let events = events.expect(200)["events"].to_string();
    for told in [r#""operation":"capture""#, r#""previous":"CAPTURING""#] {
        assert!(events.contains(told), "{told} is not in {events}");
    }

    // What is written afterwards is not in the image, nor in what is made of it.
    machine.attach(&first);
    wait_until("the guest to see the disk", LIMIT, || {
        machine.ssh("ls /sys/block").contains("vdb").then_some(())
    });
    machine
        .ssh("mount /dev/vdb /mnt/data && echo now > /mnt/data/file && sync && umount /mnt/data");
    machine.detach(&first);
    let capacity = cloud.api().get(&image).expect(200)["capacity"].clone();
    let asked = cloud.api().post(
        "Volume",
        &json!({"volumeTemplate": {"volumeConfig": {"capacity": capacity}, "volumeImage": {"href": image}}}),
    );
    let job = asked.job.clone();
    let second = asked.expect(201)["id"].as_str().unwrap().to_owned();
    job.iter().for_each(|job| cloud.wait_for_job(job));
    machine.attach(&second);
    assert_eq!(read("file"), "then");
    machine.ssh("mount /dev/vdb /mnt/data && echo second > /mnt/data/file && umount /mnt/data");
    machine.detach(&second);
    machine.attach(&first);
    assert_eq!(read("file"), "now");
    machine.detach(&first);

    // The image's file is kept for who stands on it, whoever goes first.
    let _ = cloud.api().delete(&image);
    machine.attach(&second);
    assert_eq!(read("file"), "second");
    machine.detach(&second);
    machine.kill();
    for volume in [&first, &second] {
        wait_until("the volume to go", LIMIT, || {
            let status = cloud.api().delete(volume).status;
            (status == 404).then_some(())
        });
    }
    wait_until("the image to go", LIMIT, || {
        (cloud.api().get(&image).status == 404).then_some(())
    });
    cloud.assert_clean();
}
