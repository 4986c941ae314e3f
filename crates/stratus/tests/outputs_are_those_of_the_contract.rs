//! What commands send and print, byte for byte where StratusLab's scripts read it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that panics has failed"
)]

mod support;

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use support::{Cloud, Reply, Seen, collection, ended, ended_with_input, machine, volume};

const U: &str = "08f59022-463a-4662-8136-c0cee5517f17";
const V: &str = "18f59022-463a-4662-8136-c0cee5517f18";
const IMAGE: &str = "GaHbcDefGhiJklMnoPqrStuVwxY";

fn job(state: &str, message: &str) -> Reply {
    Reply::json(
        200,
        &json!({ "id": "Job/1", "state": state, "statusMessage": message }),
    )
}

fn unknown(seen: &Seen) -> Reply {
    Reply::refusal(404, &format!("nothing at {}", seen.line))
}

#[test]
fn machines_are_described() {
    let cloud = Cloud::start(|seen| match seen.line.as_str() {
        "GET /cimi/Machine" => {
            Reply::json(200, &collection("machines", &[machine(12), machine(7)]))
        }
        "GET /cimi/Machine/7" => {
            let mut failed = machine(7);
            failed["phase"] = json!("Failed");
            failed["reason"] = json!("no space\u{1b}[2J");
            Reply::json(200, &failed)
        }
        "GET /cimi/MachineRecord/3" => Reply::json(
            200,
            &json!({ "phase": "Done", "name": "one-3", "addresses": ["192.0.2.3"], "cpu": 1, "memory": 524_288 }),
        ),
        _ => Reply::refusal(
            404,
            "[VirtualMachineInfo] Error getting virtual machine [99].",
        ),
    });
    assert_eq!(
        cloud.run("describe-instance -n").success(),
        "id  state     vcpu memory    cpu% host/ip                 name\n\
         7   Running   1    1572864   8    192.0.2.7               one-7\n\
         12  Running   1    1572864   8    192.0.2.12              one-12\n"
    );
    assert_eq!(
        cloud
            .run("describe-instance -nv 7 3")
            .success()
            .lines()
            .skip(1)
            .collect::<Vec<_>>(),
        [
            "id  state     vcpu memory    cpu% host/ip                 name",
            "7   Failed    1    1572864   8    192.0.2.7               one-7",
            "    no space?[2J",
            "3   Done      1    524288    0    192.0.2.3               one-3"
        ]
    );
    let result = cloud.run("describe-instance 99");
    assert_eq!(
        (result.status, result.stdout.as_str()),
        (
            255,
            "Error: [VirtualMachineInfo] Error getting virtual machine [99].\n"
        )
    );
    let result = cloud.run("describe-instance abc");
    assert_eq!(
        (result.status, result.stdout.as_str()),
        (
            255,
            "Error: invalid literal for int() with base 10: 'abc'\n\n"
        )
    );
    let all = cloud.run("describe-instance -vvv 7").success();
    assert!(
        all.contains("-------------------------\n7 (all attributes)\n  addresses = 192.0.2.7\n"),
        "{all}"
    );
    let list: Value =
        serde_json::from_str(&cloud.run("describe-instance -n --format json").success()).unwrap();
    assert_eq!(list[0]["id"], 7);
    assert_eq!(list[0]["ssh"], json!({ "host": "192.0.2.7", "port": 22 }));
    let authorization = cloud.requests()[0].headers["authorization"]
        .to_str()
        .unwrap()
        .to_owned();
    assert_eq!(authorization, "Basic am9lOnBhc3M6d29yZA==");
}

fn starting_cloud() -> Cloud {
    let next = AtomicU64::new(3);
    Cloud::start(move |seen| match seen.line.as_str() {
        "POST /cimi/Machine" => {
            let mut created = machine(next.fetch_add(1, Ordering::Relaxed));
            created["phase"] = json!("Pending");
            Reply::json(201, &created)
                .with("location", "https://somewhere/cimi/Machine/x")
                .with("cimi-job-uri", "https://somewhere/cimi/Job/1")
        }
        line if line.starts_with("GET /cimi/Machine/0190") => Reply::json(200, &machine(3)),
        "GET /cimi/MachineImage" => Reply::json(
            200,
            &collection(
                "machineImages",
                &[json!({ "id": "MachineImage/i", "name": "tiny" })],
            ),
        ),
        _ => unknown(seen),
    })
}

#[test]
fn machines_are_started() {
    let cloud = starting_cloud();
    assert_eq!(
        cloud.run(&format!("run-instance -n 2 {IMAGE}")).success(),
        "\n :::::::::::::::::::::::::\n :: Starting machine(s) ::\n :::::::::::::::::::::::::\n :: Starting 2 machines\n \
         :: Machine 1 (vm ID: 3)\n\tPublic ip: 192.0.2.3\n :: Machine 2 (vm ID: 4)\n\tPublic ip: 192.0.2.4\n :: Done!\n"
    );
    assert_eq!(
        cloud.requests()[0].json(),
        json!({
            "resourceURI": "http://schemas.dmtf.org/cimi/1/MachineCreate",
            "machineTemplate": {
                "machineConfig": { "cpu": 1, "memory": 1_572_864, "disks": [{ "capacity": 1_610_613, "format": "swap" }] },
                "machineImage": { "href": format!("MachineImage/{IMAGE}") },
                "networkInterfaces": [{ "network": { "href": "Network/public" } }],
                "initialState": "STARTED",
                "credential": { "publicKey": "ssh-rsa AAAA user@host\n" },
            }
        })
    );
    assert_eq!(
        cloud
            .run(&format!("run-instance -qo ids -n2 {IMAGE}"))
            .success(),
        "5, 192.0.2.5\n6, 192.0.2.6\n"
    );
    assert_eq!(
        std::fs::read_to_string(cloud.home.path().join("ids")).unwrap(),
        "5\n6"
    );
    let list: Value =
        serde_json::from_str(&cloud.run("run-instance --format json tiny").success()).unwrap();
    assert_eq!(
        (&list[0]["id"], &list[0]["address"]),
        (&json!(7), &json!("192.0.2.7"))
    );
}

#[test]
fn options_of_a_start_reach_the_cloud() {
    let cloud = starting_cloud();
    std::fs::write(cloud.home.path().join("script"), "#!/bin/sh\n").unwrap();
    std::fs::write(
        cloud.home.path().join("user.cfg"),
        "[default]\ndefault_instance_type = my.type\nis_local_ip = no\nkeymap = de\nvm_name = from-file\n[instance_types]\nmy.type = 4, 2048, 0\n",
    )
    .unwrap();
    let words = format!(
        "run-instance {U} -c user.cfg --vm-name=web --address 192.0.2.9 --volatile-disk 1 --persistent-disk {V} --readonly-disk {IMAGE} --use-host-cpu \
         --context A=b#C=d=e --cloud-init x-shellscript,script --vm-cpu-amount 0.5 --private-ip --notify a,b,c,d,e --vnc-port -1 --no-check"
    );
    let printed = cloud.run(&words).success();
    assert!(
        printed.starts_with("  [WARNING] Image availability check is disabled.\n"),
        "{printed}"
    );
    let body = cloud.requests()[0].json();
    let template = &body["machineTemplate"];
    assert_eq!(body["name"], "web");
    assert_eq!(
        template["machineConfig"],
        json!({ "cpu": 4, "memory": 2_097_152, "disks": [{ "capacity": 1_073_742, "format": "raw" }] })
    );
    assert_eq!(template["machineImage"]["href"], format!("Volume/{U}"));
    assert_eq!(
        template["networkInterfaces"],
        json!([{ "network": { "href": "Network/private" }, "addresses": [{ "ip": "192.0.2.9" }] }])
    );
    assert_eq!(
        template["volumes"],
        json!([{ "volume": { "href": format!("Volume/{V}") } }])
    );
    assert_eq!(
        template["readOnlyDisks"],
        json!([{ "href": format!("MachineImage/{IMAGE}") }])
    );
    assert_eq!(
        (
            &template["cpuModel"],
            &template["keymap"],
            &template["cpuShare"]
        ),
        (&json!("host"), &json!("de"), &json!(0.5))
    );
    let context = &template["context"];
    assert_eq!(
        (&context["A"], &context["C"], &context["CONTEXT_METHOD"]),
        (&json!("b"), &json!("d=e"), &json!("cloud-init"))
    );
    assert!(
        context["CLOUD_INIT_USER_DATA"].is_string()
            && context["CLOUD_INIT_AUTHORIZED_KEYS"].is_string()
    );
}

#[test]
fn waiting_ends_when_the_machine_runs() {
    let printed = starting_cloud()
        .run(&format!("run-instance --wait {IMAGE}"))
        .success();
    assert!(
        printed.ends_with(" :: Machine 3 is running\n :: Done!\n"),
        "{printed}"
    );
}

#[test]
fn machine_types_are_listed_without_a_request() {
    let cloud = starting_cloud();
    let printed = cloud.run("run-instance --list-types").success();
    assert!(printed.starts_with(" Type             CPU       RAM      SWAP\n  c1.medium       2 CPU    1536 MB    1536 MB\n"), "{printed}");
    assert!(
        printed.contains("\n* m1.small        1 CPU    1536 MB    1536 MB\n")
            && printed.ends_with("\n\n"),
        "{printed}"
    );
    assert_eq!(cloud.run("run-instance --list-type").success(), printed);
    assert!(cloud.lines().is_empty());
}

#[test]
fn machines_are_removed_in_order_until_one_is_refused() {
    let cloud = Cloud::start(|seen| {
        if seen.line.contains("/9/") {
            Reply::refusal(404, "no machine 9")
        } else {
            Reply(202, Vec::new(), Vec::new())
        }
    });
    std::fs::write(cloud.home.path().join("ids"), "3\n\n4").unwrap();
    assert_eq!(cloud.run("kill-instance -i ids").success(), "");
    assert_eq!(
        cloud
            .run("shutdown-instance -v 5 6")
            .success()
            .lines()
            .skip(1)
            .collect::<Vec<_>>(),
        [
            "Sending \"Shutdown\" request for instance 5.",
            "Sending \"Shutdown\" request for instance 6.",
            "\"Shutdown\" 2 VMs: 5, 6"
        ]
    );
    let result = cloud.run("kill-instance 9 10");
    assert_eq!(
        (result.status, result.stdout.as_str()),
        (255, "Error: no machine 9\n")
    );
    cloud.run("restart-instance --force 7").success();
    assert_eq!(
        cloud.lines(),
        [
            "POST /cimi/Machine/3/kill",
            "POST /cimi/Machine/4/kill",
            "POST /cimi/Machine/5/shutdown",
            "POST /cimi/Machine/6/shutdown",
            "POST /cimi/Machine/9/kill",
            "POST /cimi/Machine/7/restart"
        ]
    );
    assert_eq!(
        cloud.requests().last().unwrap().json(),
        json!({ "action": "http://schemas.dmtf.org/cimi/1/action/restart", "force": true })
    );
}

#[test]
fn volumes_are_created_shown_changed_and_deleted() {
    let cloud = Cloud::start(|seen| match seen.line.as_str() {
        "POST /cimi/Volume" => {
            Reply::json(201, &volume(U, "HELLO")).with("cimi-job-uri", "/cimi/Job/1")
        }
        "GET /cimi/Job/1" => job("SUCCESS", ""),
        "GET /cimi/Volume" => Reply::json(
            200,
            &collection("volumes", &[volume(U, "mydisk"), volume(V, "other")]),
        ),
        line if line.starts_with(&format!("PUT /cimi/Volume/{U}")) => {
            Reply::json(200, &volume(U, "new tag"))
        }
        line if line == format!("GET /cimi/Volume/{U}") => Reply::json(200, &volume(U, "mydisk")),
        line if line == format!("DELETE /cimi/Volume/{U}") => {
            Reply(202, vec![("cimi-job-uri", "Job/1".to_owned())], Vec::new())
        }
        _ => Reply::refusal(403, "Not enough rights to delete disk"),
    });
    assert_eq!(
        cloud.run("create-volume -s 1 -t HELLO").success(),
        format!("DISK {U}\n")
    );
    assert_eq!(
        cloud.requests()[0].json()["volumeTemplate"]["volumeConfig"]["capacity"],
        1_073_742
    );
    assert_eq!(
        cloud.run(&format!("describe-volumes {U}")).success(),
        format!(
            ":: DISK {U}\n\tcount: 0\n\towner: joe\n\ttag: mydisk\n\tsize: 1\n\tvisibility: PRIVATE\n"
        )
    );
    let both = cloud.run(&format!("describe-volumes {U} {V}")).success();
    assert_eq!(
        both.matches(":: DISK ").count(),
        2,
        "several UUIDs are alternatives: {both}"
    );
    assert_eq!(
        cloud
            .run("describe-volumes -f tag:^oth -f count:0")
            .success()
            .lines()
            .next(),
        Some(format!(":: DISK {V}").as_str())
    );
    assert_eq!(
        cloud.run("describe-volumes --filter tag:nothing").success(),
        "No disk to show\n"
    );
    assert_eq!(cloud.run(&format!("update-volume {U}")).success(), "");
    assert_eq!(
        cloud
            .run(&format!(
                "update-volume --tag=new --public --machine-image-live {U}"
            ))
            .success(),
        ""
    );
    let last = cloud.requests().last().unwrap().clone();
    assert_eq!(
        last.line,
        format!("PUT /cimi/Volume/{U}?$select=name,properties,visibility")
    );
    assert_eq!(
        last.json(),
        json!({ "name": "new", "visibility": "PUBLIC", "properties": { "type": "MACHINE_IMAGE_LIVE" } })
    );
    let result = cloud.run(&format!("delete-volume {U} {V}"));
    assert_eq!(
        (result.status, result.stdout),
        (
            255,
            format!("DELETED {U}\nError: Not enough rights to delete disk\n")
        )
    );
}

#[test]
fn volumes_are_attached_and_detached() {
    let cloud = Cloud::start(|seen| {
        let member = |target: &str| json!({ "volume": { "href": format!("Volume/{U}") }, "state": "ATTACHED", "target": target });
        match seen.line.as_str() {
            "GET /cimi/Machine/7" => Reply::json(200, &machine(7)),
            "GET /cimi/Machine/8" => {
                let mut booting = machine(8);
                booting["phase"] = json!("Boot");
                Reply::json(200, &booting)
            }
            "POST /cimi/Machine/7/volumes"
                if seen.json()["volume"]["href"] == format!("Volume/{U}") =>
            {
                Reply::json(201, &member("vdc"))
                    .with("location", &format!("https://x/cimi/Machine/7/volumes/{U}"))
                    .with("cimi-job-uri", "https://x/cimi/Job/1")
            }
            "POST /cimi/Machine/7/volumes" => Reply::refusal(409, "Disk not available"),
            "GET /cimi/Job/1" => job("SUCCESS", ""),
            "GET /cimi/Job/2" => job("RUNNING", ""),
            line if line == format!("GET /cimi/Volume/{U}") => {
                let mut attached = volume(U, "data");
                attached["attachedTo"] = json!({ "href": "https://x/cimi/Machine/7" });
                Reply::json(200, &attached)
            }
            line if line == format!("GET /cimi/Volume/{V}") => Reply::json(200, &volume(V, "data")),
            line if line == format!("GET /cimi/Machine/7/volumes/{U}") => {
                Reply::json(200, &member("vdc"))
            }
            line if line == format!("DELETE /cimi/Machine/7/volumes/{U}") => {
                Reply(202, vec![("cimi-job-uri", "Job/1".to_owned())], Vec::new())
            }
            line if line == format!("GET /cimi/Machine/7/volumes/{V}") => {
                Reply::json(200, &member("vdd"))
            }
            line if line == format!("DELETE /cimi/Machine/7/volumes/{V}") => {
                Reply::refusal(409, "Disk have not been hot-plugged")
            }
            "DELETE /cimi/Machine/7/volumes/00000000-0000-0000-0000-000000000000" => {
                Reply(202, vec![("cimi-job-uri", "Job/2".to_owned())], Vec::new())
            }
            line if line.ends_with("000000000000") => Reply::json(200, &member("vde")),
            _ => Reply::refusal(404, "Error getting virtual machine [0]."),
        }
    });
    let result = cloud.run(&format!("attach-volume -i 7 {V} {U}"));
    assert_eq!(
        (result.status, result.stdout),
        (
            255,
            format!("DISK {V}: Disk not available\n\nATTACHED {U} in VM 7 on /dev/vdc\n")
        )
    );
    assert_eq!(
        cloud.run(&format!("attach-volume -i7 {U}")).success(),
        format!("ATTACHED {U} in VM 7 on /dev/vdc\n")
    );
    let result = cloud.run(&format!("attach-volume -i 8 {U}"));
    assert_eq!(
        (result.status, result.stderr.as_str()),
        (1, "  [ERROR] VM 8 is not in running state\n")
    );
    let result = cloud.run(&format!("attach-volume {U}"));
    assert_eq!(
        (result.status, result.stderr.as_str()),
        (
            1,
            "  [ERROR] Please provide the machine to attach to (-i/--instance)\n"
        )
    );
    // Without a number it is taken from the machine that has it.
    let result = cloud.run(&format!("detach-volume {U} {V}"));
    assert_eq!(
        (result.status, result.stdout),
        (
            255,
            format!("DETACHED {U} from VM 7 on /dev/vdc\nDISK {V}: no machine has it\n")
        )
    );
    let result = cloud.run(&format!("detach-volume {V} -i 7 {U}"));
    assert_eq!(
        (result.status, result.stdout),
        (
            255,
            format!(
                "DISK {V}: Disk have not been hot-plugged\nDETACHED {U} from VM 7 on /dev/vdc\n"
            )
        )
    );
    let result = cloud.run("detach-volume -i 7 --timeout 1 00000000-0000-0000-0000-000000000000");
    assert!(
        result.status == 255 && result.stdout.contains("has not given it up after 1 s"),
        "{result:?}"
    );
}

#[test]
fn what_was_done_is_told_when_the_cloud_goes_away() {
    let cloud = Cloud::start(|seen| match seen.line.as_str() {
        "GET /cimi/Machine/7" => Reply::json(200, &machine(7)),
        "POST /cimi/Machine/7/volumes"
            if seen.json()["volume"]["href"] == format!("Volume/{U}") =>
        {
            Reply::json(201, &json!({}))
        }
        line if line == format!("GET /cimi/Machine/7/volumes/{U}") => {
            Reply::json(200, &json!({ "target": "vdc" }))
        }
        _ => Reply(200, Vec::new(), b"this is no cloud".to_vec()),
    });
    let result = cloud.run(&format!("attach-volume --format json -i 7 {U} {V}"));
    assert!(result.status != 0, "{result:?}");
    let told = result.stdout.split("Error").next().unwrap();
    let told = told.split("Network").next().unwrap();
    let told: Value = serde_json::from_str(told).unwrap_or_else(|_| panic!("{result:?}"));
    assert_eq!(told[0]["device"], "/dev/vdc");
}

#[test]
fn an_image_is_sent_once_and_checked_before() {
    let image = |state: &str| json!({ "id": "MachineImage/i", "name": "x", "identifier": "KmZPjZHBoFquj4lcXhQwmyc0Nid", "state": state });
    let cloud = Cloud::start(move |seen| match seen.line.as_str() {
        "POST /cimi/MachineImage" if seen.json()["name"] == "known" => {
            Reply::json(200, &image("AVAILABLE"))
        }
        "POST /cimi/MachineImage" => Reply::json(201, &image("CREATING"))
            .with("location", "https://x/cimi/MachineImage/i")
            .with("cimi-job-uri", "Job/1"),
        "PUT /cimi/MachineImage/i/data" if seen.body == b"abc" => {
            Reply::json(200, &image("AVAILABLE"))
        }
        "PUT /cimi/MachineImage/i/data" => Reply::refusal(400, "the content is not an image"),
        "GET /cimi/MachineImage/i" => Reply::json(200, &image("AVAILABLE")),
        "DELETE /cimi/MachineImage/i" => Reply(202, Vec::new(), Vec::new()),
        _ => unknown(seen),
    });
    std::fs::write(cloud.home.path().join("x.raw"), "abc").unwrap();
    std::fs::write(cloud.home.path().join("y.raw.gz"), b"\x1f\x8bxxx").unwrap();
    assert_eq!(
        cloud.run("image import x.raw").success(),
        "IMAGE KmZPjZHBoFquj4lcXhQwmyc0Nid\n"
    );
    let first = cloud.requests()[0].json();
    assert_eq!(
        (
            &first["name"],
            &first["imageLocation"],
            &first["visibility"]
        ),
        (&json!("x"), &json!("upload:"), &json!("PRIVATE"))
    );
    assert_eq!(
        first["expected"]["identifier"],
        "KmZPjZHBoFquj4lcXhQwmyc0Nid"
    );
    let before = cloud.lines().len();
    assert!(
        cloud
            .run("image import --name known x.raw")
            .success()
            .ends_with("IMAGE KmZPjZHBoFquj4lcXhQwmyc0Nid\n")
    );
    assert_eq!(cloud.lines().len(), before + 1, "known content is not sent");
    let result = cloud.run(&format!("image import --sha1 {} x.raw", "0".repeat(40)));
    assert!(
        result.status == 1 && result.stderr.contains("nothing was sent"),
        "{result:?}"
    );
    let result = cloud.run("image import y.raw.gz");
    assert_eq!(
        (result.status, result.stdout.as_str()),
        (255, "Error: the content is not an image\n")
    );
    assert_eq!(
        cloud.lines().last().unwrap(),
        "DELETE /cimi/MachineImage/i",
        "nothing half-made stays"
    );
}

/// A cloud that takes files and refuses disks; `answer` is for what else is asked.
fn cloud_that_refuses_disks(sending: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Cloud {
    let image = |id: &str, state: &str| json!({ "id": format!("MachineImage/{id}"), "name": id, "identifier": null, "state": state });
    let cloud = Cloud::start(move |seen| match seen.line.as_str() {
        "POST /cimi/MachineImage" => {
            let id = seen.json()["name"].as_str().unwrap().to_owned();
            Reply::json(201, &image(&id, "CREATING"))
        }
        "PUT /cimi/MachineImage/vmlinuz/data" => Reply::json(200, &image("vmlinuz", "AVAILABLE")),
        "GET /cimi/MachineImage/vmlinuz" => Reply::json(200, &image("vmlinuz", "AVAILABLE")),
        "PUT /cimi/MachineImage/disk/data" => sending(seen),
        line if line.starts_with("DELETE /cimi/MachineImage/") => {
            Reply(202, Vec::new(), Vec::new())
        }
        _ => unknown(seen),
    });
    std::fs::write(cloud.home.path().join("vmlinuz"), "kernel").unwrap();
    std::fs::write(cloud.home.path().join("disk"), "disk").unwrap();
    cloud
}

fn deletions(cloud: &Cloud) -> Vec<String> {
    let mut lines = cloud.lines();
    lines.retain(|line| line.starts_with("DELETE"));
    lines
}

const BOTH: [&str; 2] = [
    "DELETE /cimi/MachineImage/disk",
    "DELETE /cimi/MachineImage/vmlinuz",
];

#[test]
fn a_kernel_goes_with_the_disk_that_was_refused() {
    let cloud = cloud_that_refuses_disks(|_| Reply::refusal(400, "the content is not an image"));
    let result = cloud.run("image import disk --kernel vmlinuz");
    assert_eq!(result.status, 255, "{result:?}");
    assert_eq!(deletions(&cloud), BOTH);
}

#[test]
fn an_interrupted_upload_leaves_nothing() {
    let (begun, begins) = std::sync::mpsc::channel();
    let (go_on, waits) = std::sync::mpsc::channel::<()>();
    let channels = std::sync::Mutex::new((begun, waits));
    let cloud = cloud_that_refuses_disks(move |_| {
        let channels = channels.lock().unwrap();
        let _ = channels.0.send(());
        let _ = channels.1.recv_timeout(std::time::Duration::from_secs(60));
        Reply::refusal(400, "too late")
    });
    let mut command = cloud.command();
    command.args([
        "image", "import", "disk", "--kernel", "vmlinuz", "--ca", "ca.pem",
    ]);
    let child = command.spawn().unwrap();
    begins
        .recv_timeout(std::time::Duration::from_secs(60))
        .unwrap();
    let pid = child.id().to_string();
    let sent = std::process::Command::new("kill")
        .args(["-INT", &pid])
        .status();
    assert!(sent.unwrap().success());
    go_on.send(()).unwrap();
    let output = child.wait_with_output().unwrap();
    // Told as an interruption, or as the refusal if that was quicker.
    assert_eq!(deletions(&cloud), BOTH, "{output:?}");
}

#[test]
fn an_image_is_renamed_and_published() {
    let cloud = Cloud::start(|seen| match seen.line.as_str() {
        "GET /cimi/MachineImage" => Reply::json(
            200,
            &collection(
                "machineImages",
                &[json!({ "id": "MachineImage/i", "name": "x", "state": "AVAILABLE" })],
            ),
        ),
        "PUT /cimi/MachineImage/i?$select=name,visibility" => Reply::json(200, &seen.json()),
        _ => unknown(seen),
    });
    assert_eq!(cloud.run("image update --public --name y x").success(), "");
    assert_eq!(
        cloud.requests().last().unwrap().json(),
        json!({ "name": "y", "visibility": "PUBLIC" })
    );
}

#[test]
fn a_forwarded_port_is_waited_for() {
    let cloud = Cloud::start(|seen| {
        let mut starting = machine(7);
        starting.as_object_mut().unwrap().remove("ssh");
        match seen.line.as_str() {
            "POST /cimi/Machine" => {
                Reply::json(201, &starting).with("location", "https://x/cimi/Machine/7")
            }
            _ => {
                starting["ssh"] = json!({ "host": "127.0.0.1", "port": 22_007 });
                Reply::json(200, &starting)
            }
        }
    });
    let said = cloud
        .run("run-instance MachineImage/KmZPjZHBoFquj4lcXhQwmyc0Nid")
        .success();
    assert!(said.contains("\tSSH: 127.0.0.1 port 22007\n"), "{said}");
}

#[test]
fn the_console_is_shown_and_followed() {
    let cloud = Cloud::start(|seen| match seen.line.as_str() {
        "GET /cimi/Machine/7/console?offset=15&follow=true" => {
            Reply(200, Vec::new(), b"more\n".to_vec())
        }
        line if line.starts_with("GET /cimi/Machine/7/console") => Reply(
            200,
            vec![("x-console-start", "5".to_owned())],
            b"one\ntwo\nxx".to_vec(),
        ),
        _ => unknown(seen),
    });
    assert_eq!(cloud.run("console 7").success(), "one\ntwo\nxx");
    assert_eq!(cloud.run("console --last 2 7").success(), "two\nxx");
    assert_eq!(cloud.run("console -f 7").success(), "one\ntwo\nxxmore\n");
    let json: Value =
        serde_json::from_str(&cloud.run("console 7 --format=json").success()).unwrap();
    assert_eq!(json["text"], "one\ntwo\nxx");
}

#[test]
fn users_are_managed_and_passwords_never_on_the_command_line() {
    let cloud = Cloud::start(|seen| match seen.line.as_str() {
        "POST /cimi/User" => Reply::json(
            201,
            &json!({ "id": "User/ann", "username": "ann", "roles": ["::ADMIN"], "enabled": true }),
        ),
        "GET /cimi/User" => Reply::json(
            200,
            &collection(
                "users",
                &[
                    json!({ "username": "ann", "roles": ["::ADMIN"], "enabled": true }),
                    json!({ "username": "zoe", "enabled": false }),
                ],
            ),
        ),
        line if line.starts_with("PUT /cimi/User/") => Reply::json(200, &json!({})),
        _ => unknown(seen),
    });
    let mut command = cloud.command();
    command.args([
        "user",
        "add",
        "--admin",
        "--password-stdin",
        "ann",
        "--ca",
        "ca.pem",
    ]);
    assert_eq!(
        ended_with_input(command, "s3cret\n").success(),
        "USER ann\n"
    );
    assert_eq!(
        cloud.requests()[0].json(),
        json!({ "username": "ann", "password": "s3cret", "enabled": true, "roles": ["::ADMIN"] })
    );
    assert_eq!(
        cloud.run("user list").success(),
        "NAME  STATE     ROLES    EMAIL\nann   enabled   ::ADMIN\nzoe   disabled\n"
    );
    cloud.run("user disable zoe").success();
    let last = cloud.requests().last().unwrap().clone();
    assert_eq!(
        (last.line.as_str(), last.json()),
        (
            "PUT /cimi/User/zoe?$select=enabled",
            json!({ "enabled": false })
        )
    );
    let result = cloud.run("user disable ../x");
    assert_eq!(result.status, 1, "{result:?}");
}

#[test]
fn operators_see_troubles_in_the_exit_status() {
    let cloud = Cloud::start(|seen| match seen.line.as_str() {
        "GET /stratus/status" => Reply::json(
            200,
            &json!({ "status": "degraded", "version": "0.1.0", "checks": [{ "name": "dhcp", "ok": false, "detail": "gone" }] }),
        ),
        "POST /stratus/doctor" => Reply::json(
            200,
            &json!({ "findings": [{ "kind": "tap", "what": "st7", "detail": "of no machine", "repair": "delete it", "severity": "low" }] }),
        ),
        "POST /stratus/doctor?repair=true" => Reply::json(200, &json!({ "findings": [] })),
        "GET /cimi/Host" => Reply::json(
            200,
            &collection(
                "hosts",
                &[
                    json!({ "id": "Host/1", "name": "n1", "state": "OK", "machines": 2, "cpu": 4, "cpuUsed": 2, "memory": 1024, "memoryUsed": 512, "accelerator": "kvm" }),
                ],
            ),
        ),
        _ => unknown(seen),
    });
    let result = cloud.run("status");
    assert!(
        result.status == 1 && result.stdout.contains("TROUBLE    dhcp: gone\n"),
        "{result:?}"
    );
    let result = cloud.run("doctor");
    assert_eq!(
        (result.status, result.stdout.as_str()),
        (1, "low tap: st7: of no machine\n\trepair: delete it\n")
    );
    assert_eq!(
        cloud.run("doctor --repair").success(),
        "Nothing lost, nothing left over.\n"
    );
    let hosts = cloud.run("host list").success();
    assert!(
        hosts.contains("n1    OK     2         2/4       512.00 KiB/1.00 MiB"),
        "{hosts}"
    );
}

#[test]
fn ssh_is_run_as_the_contract_says_and_its_status_passed_on() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let banner = std::thread::spawn(move || {
        listener
            .accept()
            .map(|(mut stream, _)| std::io::Write::write_all(&mut stream, b"SSH-2.0-x\r\n"))
    });
    let cloud = Cloud::start(move |_| {
        let mut translated = machine(7);
        translated["ssh"] = json!({ "host": "127.0.0.1", "port": port });
        Reply::json(200, &translated)
    });
    let tools = cloud.home.path().join("tools");
    std::fs::create_dir(&tools).unwrap();
    std::fs::write(
        tools.join("ssh"),
        "#!/bin/sh\nprintf '%s\\n' \"$@\"\nexit 3\n",
    )
    .unwrap();
    std::os::unix::fs::symlink(
        env!("CARGO_BIN_EXE_stratus"),
        tools.join("stratus-connect-instance"),
    )
    .unwrap();
    let mut permissions = std::fs::metadata(tools.join("ssh")).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    std::fs::set_permissions(tools.join("ssh"), permissions).unwrap();
    let mut command = cloud.command();
    command.args(["connect-instance", "7", "--ca", "ca.pem"]);
    let result = ended(command);
    assert_eq!(result.status, 2);
    assert!(
        result.stderr.ends_with(&format!(
            "stratus connect-instance: error: Private key `{}/.ssh/id_rsa` does not exist\n",
            cloud.home.path().display()
        )),
        "{result:?}"
    );
    std::fs::write(cloud.home.path().join(".ssh/id_rsa"), "").unwrap();
    let mut command = cloud.command();
    command
        .env("PATH", format!("{}:/usr/bin:/bin", tools.display()))
        .args([
            "connect-instance",
            "7",
            "--ca",
            "ca.pem",
            "--",
            "uname",
            "-a",
        ]);
    let result = ended(command);
    banner.join().unwrap().unwrap().unwrap();
    assert_eq!(result.status, 3, "{result:?}");
    let words: Vec<&str> = result.stdout.lines().collect();
    assert_eq!(
        words[..8],
        [
            "-p",
            &port.to_string(),
            "-o",
            "ConnectTimeout=5",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "NumberOfPasswordPrompts=3"
        ]
    );
    // A guest that died does not keep it for ever.
    assert!(
        words.contains(&"ServerAliveInterval=15") && words.contains(&"ServerAliveCountMax=4"),
        "{words:?}"
    );
    assert_eq!(words[words.len() - 3..], ["root@127.0.0.1", "uname", "-a"]);
    assert!(
        words.contains(&format!("{}/.ssh/id_rsa", cloud.home.path().display()).as_str()),
        "{words:?}"
    );
}
