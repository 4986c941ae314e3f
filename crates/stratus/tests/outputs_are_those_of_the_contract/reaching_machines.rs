//! Ways into a machine: its address, its console, SSH.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::unknown;
use crate::support::{Cloud, Reply, ended, machine};

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
fn what_was_started_before_a_refusal_is_named() {
    let made = AtomicUsize::new(0);
    let cloud = Cloud::start(move |seen| match seen.line.as_str() {
        "POST /cimi/Machine" => match made.fetch_add(1, Ordering::Relaxed) {
            2 => Reply::refusal(409, "machines quota exceeded"),
            n => Reply::json(201, &machine(7 + n as u64))
                .with("location", &format!("https://x/cimi/Machine/{}", 7 + n)),
        },
        _ => Reply::json(200, &machine(7)),
    });
    let ended = cloud.run("run-instance -n 3 -o ids MachineImage/KmZPjZHBoFquj4lcXhQwmyc0Nid");
    assert_eq!(ended.status, 255, "{ended:?}");
    assert!(
        ended.stdout.contains("machines quota exceeded"),
        "{ended:?}"
    );
    assert!(
        ended.stderr.contains("kept: 7 8.") && ended.stderr.contains("kill-instance 7 8"),
        "{ended:?}"
    );
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

#[test]
fn a_machine_that_is_off_is_not_waited_for() {
    let cloud = Cloud::start(|seen| {
        let mut off = machine(7);
        match seen.line.as_str() {
            "GET /cimi/Machine/7" => off["phase"] = json!("Stopped"),
            "GET /cimi/MachineRecord/8" => off["phase"] = json!("Done"),
            _ => return unknown(seen),
        }
        Reply::json(200, &off)
    });
    std::fs::write(cloud.home.path().join(".ssh/id_rsa"), "").unwrap();
    for (id, message, hint) in [
        (
            "7",
            "machine 7 is Stopped",
            "stratus start-instance --wait 7",
        ),
        ("8", "machine 7 is Done", "gone for good"),
    ] {
        let result = cloud.run(&format!("connect-instance {id}"));
        assert_eq!(result.stdout, format!("Error: {message}\n"), "{result:?}");
        assert!(
            result.status == 255 && result.stderr.contains(hint),
            "{result:?}"
        );
    }
}

#[test]
fn an_interrupted_wait_is_no_success() {
    let (asked, asks) = std::sync::mpsc::channel();
    let asked = std::sync::Mutex::new(asked);
    let cloud = Cloud::start(move |seen| {
        let mut booting = machine(7);
        booting["phase"] = json!("Boot");
        if seen.line.starts_with("GET") {
            let _ = asked.lock().unwrap().send(());
        }
        Reply::json(201, &booting)
    });
    let mut command = cloud.command();
    command.args(["run-instance", "--wait=ssh", "--ca", "ca.pem", super::IMAGE]);
    let child = command.spawn().unwrap();
    asks.recv_timeout(std::time::Duration::from_secs(60))
        .unwrap();
    let pid = child.id().to_string();
    let sent = std::process::Command::new("kill")
        .args(["-INT", &pid])
        .status();
    assert!(sent.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.ends_with("\n\nInterrupted. What was begun goes on at the cloud: machine 7 (stratus kill-instance 7 removes it). Goodbye.\n"),
        "{said}"
    );
}
