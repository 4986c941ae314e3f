//! Machines: described, started, removed.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::{IMAGE, U, V, unknown};
use crate::support::{Cloud, Reply, collection, machine};

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
            "Error: there is no machine with the number or the name 'abc'\n"
        )
    );
    assert!(result.stderr.contains("describe-instance"), "{result:?}");
    // Those that are there are shown, whatever is not.
    let result = cloud.run("describe-instance -n 99 7 -1");
    assert_eq!(result.status, 255, "{result:?}");
    assert!(result.stdout.contains("\n7   Failed "), "{result:?}");
    assert!(
        result.stdout.contains("Error: 99: [VirtualMachineInfo]")
            && result.stdout.contains("-1: there is no machine"),
        "{result:?}"
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
                &[
                    json!({ "id": "MachineImage/i", "name": "tiny" }),
                    product("1", "20300101", "ERROR"),
                    product("2", "20300102", "AVAILABLE"),
                ],
            ),
        ),
        "POST /cimi/MachineImage"
            if seen.json()["imageLocation"]["href"] == "catalogue:tools:tools-1.1" =>
        {
            let mut image = product("2", "20300102", "AVAILABLE");
            image["reason"] = json!("the catalogue can't be asked now");
            Reply::json(200, &image)
        }
        _ => unknown(seen),
    })
}

fn product(id: &str, version: &str, state: &str) -> Value {
    json!({
        "id": format!("MachineImage/{id}"), "name": "tools:tools-1.1", "state": state, "created": format!("2030-01-0{id}T00:00:00.000Z"),
        "imageLocation": format!("catalogue:tools:tools-1.1@{version}"),
    })
}

#[test]
fn a_product_of_a_catalogue_is_asked_for_whatever_is_here_under_its_name() {
    let cloud = starting_cloud();
    let result = cloud.run("run-instance tools:tools-1.1");
    assert_eq!(result.status, 0, "{result:?}");
    let all = format!("{}{}", result.stdout, result.stderr);
    assert!(
        all.contains("[WARNING] the catalogue can't be asked now"),
        "{result:?}"
    );
    let asked = cloud.requests();
    let machine = asked.iter().find(|seen| seen.line == "POST /cimi/Machine");
    assert_eq!(
        machine.unwrap().json()["machineTemplate"]["machineImage"]["href"],
        "MachineImage/2"
    );
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
                "credential": { "publicKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGBhO1Zq1GHMk0L5GcKzT1YhnRj6BqyJ1KcuRk2nGLTm user@host\n" },
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
    let requests = cloud.requests();
    let asked = |line: &str| {
        requests
            .iter()
            .find(|seen| seen.line == line)
            .unwrap()
            .json()
    };
    assert!(
        !requests
            .iter()
            .any(|seen| seen.line == "POST /cimi/MachineImage")
    );
    let body = asked("POST /cimi/Machine");
    let template = &body["machineTemplate"];
    assert_eq!(body["name"], "web");
    assert_eq!(
        template["machineConfig"],
        json!({ "cpu": 4, "memory": 2_097_152, "disks": [{ "capacity": 1_073_742, "format": "raw" }] })
    );
    assert!(template.get("machineImage").is_none(), "{template}");
    assert_eq!(
        template["networkInterfaces"],
        json!([{ "network": { "href": "Network/private" }, "addresses": [{ "ip": "192.0.2.9" }] }])
    );
    assert_eq!(
        template["volumes"],
        json!([U, V].map(|uuid| json!({ "volume": { "href": format!("Volume/{uuid}") } })))
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
        printed.ends_with(" :: The machine with vm ID 3 is running\n :: Done!\n"),
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

/// A cloud whose removals take as long as it tells.
fn telling_cloud(told: &'static str) -> Cloud {
    Cloud::start(move |seen| {
        let asks_to_be_told = seen
            .headers
            .get_all("accept")
            .iter()
            .any(|accept| accept == "text/event-stream");
        match seen.line.as_str() {
            "POST /cimi/Machine/7/kill" | "POST /cimi/Machine/7/shutdown" => Reply(
                202,
                vec![("cimi-job-uri", "/cimi/Job/1".to_owned())],
                Vec::new(),
            ),
            "GET /cimi/Job/1" => Reply::json(200, &json!({"id": "Job/1", "state": "RUNNING"})),
            line if asks_to_be_told && line.starts_with("GET /cimi/Job?$filter=id=") => Reply(
                200,
                vec![("content-type", "text/event-stream".to_owned())],
                told.as_bytes().to_vec(),
            ),
            _ => Reply::refusal(404, "no such thing"),
        }
    })
}

#[test]
fn who_waits_for_a_removal_is_told_of_its_end() {
    let told = "retry: 1000\n\nevent: changed\ndata: {\"id\":\"Job/1\",\"state\":\"RUNNING\"}\n\nid: 5\nevent: current\ndata: {\"revision\":5}\n\n\
                event: changed\ndata: {\"id\":\"Job/1\",\"state\":\"SUCCESS\"}\n\n";
    let cloud = telling_cloud(told);
    for command in ["kill-instance --wait 7", "shutdown-instance --wait 7"] {
        let before = cloud.lines().len();
        assert_eq!(cloud.run(command).success(), " :: Machine 7 is gone\n");
        // One look, one stream, and no more; whether it is going already is asked before it is killed.
        let mut lines = cloud.lines().split_off(before);
        lines.retain(|line| line != "GET /cimi/Machine/7");
        assert_eq!(lines.len(), 3, "{lines:?}");
    }
    assert_eq!(cloud.run("kill-instance -q --wait 7").success(), "");

    let told = "event: changed\ndata: {\"id\":\"Job/1\",\"state\":\"FAILED\",\"statusMessage\":\"its host is away\"}\n\n";
    let result = telling_cloud(told).run("kill-instance --wait 7");
    assert_eq!(
        (result.status, result.stdout.as_str()),
        (255, "Error: its host is away\n")
    );
    // Not done in time: the command says so, and that it goes on.
    let result = telling_cloud("").run("kill-instance --wait --timeout 1 7");
    assert_eq!(
        (result.status, result.stdout.as_str()),
        (
            255,
            "Error: kill of machine 7 is not done after 1 s; it goes on\n"
        )
    );
}

#[test]
fn machines_are_removed_in_order_whichever_of_them_are_refused() {
    let cloud = Cloud::start(|seen| {
        if seen.line.contains("/9") {
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
        (255, "Error: 9: no machine 9\n")
    );
    let result = cloud.run("kill-instance 9");
    assert_eq!(
        (result.status, result.stdout.as_str()),
        (255, "Error: no machine 9\n")
    );
    let result = cloud.run("stop-instance 9 11 --format json");
    assert_eq!(
        (result.status, result.stdout.as_str()),
        (255, "[\n  \"11\"\n]\nError: 9: no machine 9\n")
    );
    cloud.run("restart-instance --force 7").success();
    let mut asked = cloud.lines();
    // Whether it was there once, and whether it is going already.
    asked.retain(|line| !line.starts_with("GET /cimi/Machine"));
    assert_eq!(
        asked,
        [
            "POST /cimi/Machine/3/kill",
            "POST /cimi/Machine/4/kill",
            "POST /cimi/Machine/5/shutdown",
            "POST /cimi/Machine/6/shutdown",
            "POST /cimi/Machine/9/kill",
            "POST /cimi/Machine/10/kill",
            "POST /cimi/Machine/9/kill",
            "POST /cimi/Machine/9/stop",
            "POST /cimi/Machine/11/stop",
            "POST /cimi/Machine/7/restart"
        ]
    );
    assert_eq!(
        cloud.requests().last().unwrap().json(),
        json!({ "action": "http://schemas.dmtf.org/cimi/1/action/restart", "force": true })
    );
}

#[test]
fn machines_are_called_by_their_names_too() {
    let cloud = Cloud::start(|seen| {
        let named = |vmid, name: &str| {
            let mut machine = machine(vmid);
            machine["name"] = json!(name);
            machine
        };
        match seen.line.as_str() {
            "GET /cimi/Machine" => {
                let all = [named(3, "web"), named(4, "web"), named(5, "first")];
                Reply::json(200, &collection("machines", &all))
            }
            "GET /cimi/Machine/5" => Reply::json(200, &named(5, "first")),
            "POST /cimi/Machine/5/kill" => Reply(202, Vec::new(), Vec::new()),
            _ => unknown(seen),
        }
    });
    let said = cloud.run("describe-instance -n first").success();
    assert!(said.contains("\n5   Running"), "{said}");
    for (words, message) in [
        (
            "kill-instance web 5",
            "web: 2 machines have the name 'web'; take one of 3, 4",
        ),
        (
            "kill-instance nobody 5 --wait",
            "nobody: there is no machine with the number or the name 'nobody'",
        ),
    ] {
        let result = cloud.run(words);
        let told = result.stdout.lines().last();
        assert_eq!(told, Some(format!("Error: {message}").as_str()));
        assert!(result.stderr.contains("It was done for: 5."), "{result:?}");
        assert_eq!(result.status, 255);
    }
    assert_eq!(
        cloud.run("kill-instance --format json first").success(),
        "[\n  \"5\"\n]\n"
    );
    let lines = cloud.lines();
    let kills = lines.iter().filter(|line| line.ends_with("kill"));
    assert_eq!(kills.count(), 3, "what is not found keeps no other");
    let lists = lines.iter().filter(|line| *line == "GET /cimi/Machine");
    assert_eq!(lists.count(), 4, "a command asks for names once");
}

#[test]
fn a_machine_that_is_gone_already_was_to_go() {
    let cloud = Cloud::start(|seen| match seen.line.as_str() {
        "GET /cimi/MachineRecord/7" => Reply::json(200, &json!({ "vmid": 7, "phase": "Done" })),
        "POST /cimi/Machine/8/kill" | "POST /cimi/Machine/6/kill" => {
            Reply(202, Vec::new(), Vec::new())
        }
        "GET /cimi/Machine/6" => Reply::json(
            200,
            &json!({ "id": "Machine/6", "vmid": 6, "state": "DELETING" }),
        ),
        _ => Reply::refusal(404, "there is no such machine"),
    });
    // One that is just going.
    assert_eq!(
        cloud.run("kill-instance 6").success(),
        " :: Machine 6 is being removed already\n"
    );
    // For what was gone nothing was done.
    let result = cloud.run("kill-instance 7 9");
    assert_eq!(result.status, 255, "{result:?}");
    assert!(!result.stderr.contains("It was done for"), "{result:?}");
    for words in ["kill-instance 7", "shutdown-instance --wait 7"] {
        assert_eq!(
            cloud.run(words).success(),
            " :: Machine 7 is gone already\n",
            "{words}"
        );
    }
    assert_eq!(
        cloud.run("kill-instance --wait 7 8").success(),
        " :: Machine 7 is gone already\n :: Machine 8 is gone\n"
    );
    let result = cloud.run("kill-instance 9");
    assert_eq!(
        (result.status, result.stdout.as_str()),
        (255, "Error: there is no such machine\n")
    );
}

#[test]
fn all_that_an_image_needs_is_asked_for_at_once() {
    let cloud = starting_cloud();
    for (words, told) in [
        (
            "run-instance --save --author-email a@example.org base",
            "With the --save option, please provide --author, --image-version, --title, --comment",
        ),
        (
            "create-image --title T --author A base",
            "Image creation needs --comment, --author-email",
        ),
        (
            "run-instance --save --image-version=-1 base",
            "'-1' is no version",
        ),
        (
            "create-image --title T --author A --comment C --author-email ann.example.org base",
            "--author-email: 'ann.example.org' is no mail address",
        ),
    ] {
        let result = cloud.run(words);
        assert_eq!(result.status, 2, "{result:?}");
        assert!(result.stderr.contains(told), "{result:?}");
    }
}

#[test]
fn amounts_and_files_are_checked_before_a_machine_is_started() {
    let cloud = starting_cloud();
    let memory = |words: &str| {
        cloud
            .run(&format!("run-instance {words} {IMAGE}"))
            .success();
        let asked = cloud.requests().last().unwrap().json();
        asked["machineTemplate"]["machineConfig"].clone()
    };
    let config = memory("--ram 2G --swap 512M --volatile-disk 1");
    assert_eq!(
        config,
        json!({ "cpu": 1, "memory": 2_097_152,
            "disks": [{ "capacity": 536_871, "format": "swap" }, { "capacity": 1_073_742, "format": "raw" }] })
    );
    assert_eq!(memory("--ram 256")["memory"], 262_144);
    let before = cloud.lines().len();
    for (words, message) in [
        (
            "--ram 1.5G",
            "--ram <MB>: '1.5G' must be a whole number of MB, or one with its unit, such as 512M or 2G",
        ),
        ("--ram -1", "--ram <MB>: '-1' must be a whole number of MB"),
        (
            "--cpu -1",
            "--cpu <N>: '-1' must be a whole number, 0 or more",
        ),
        (
            "--cpu two",
            "--cpu <N>: 'two' must be a whole number, 0 or more",
        ),
        (
            "-n -3",
            "--number <N>: '-3' must be a whole number, 0 or more",
        ),
        (
            "--vm-cpu-amount half",
            "--vm-cpu-amount <SHARE>: 'half' must be a number, such as 0.5",
        ),
        (
            "-o /nope/x",
            "'/nope/x' can't be written: there is no folder '/nope'",
        ),
        ("-o .", "'.' is a folder; give the name of a file in it"),
    ] {
        let result = cloud.run(&format!("run-instance {words} {IMAGE}"));
        assert_eq!(result.status, 2, "{result:?}");
        assert!(result.stderr.contains(message), "{result:?}");
        assert!(!result.stderr.contains("tip:"), "{result:?}");
    }
    assert_eq!(cloud.lines().len(), before, "nothing is started");
    let files = std::fs::read_dir(cloud.home.path()).unwrap().flatten();
    let ids = files.filter(|file| file.file_name().to_string_lossy().contains("ids"));
    assert_eq!(ids.count(), 0);
}
