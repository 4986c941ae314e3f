//! Wrong words, wrong files, clouds that refuse or do not answer: message, stream and exit status.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Cloud, Ended, Reply, collection, ended, machine, program};
use serde_json::json;

fn alone(words: &str) -> Ended {
    let home = tempfile::tempdir().unwrap();
    let mut command = program(home.path());
    command.args(words.split_whitespace());
    ended(command)
}

#[test]
fn wrong_words_end_with_usage_on_stderr_and_2() {
    for (words, usage, message) in [
        (
            "run-instance",
            "Usage: stratus run-instance [options] [image]",
            "stratus run-instance: error: Please specify the machine image to start",
        ),
        (
            "kill-instance",
            "Usage: stratus kill-instance [options] [vm-id …]",
            "stratus kill-instance: error: Missing vm-id or input file (-i/--input)",
        ),
        (
            "connect-instance",
            "Usage: stratus connect-instance [options] [vm-id …] [-- command …]",
            "stratus connect-instance: error: Missing vm-id",
        ),
        (
            "run-instance -n 0 --endpoint https://127.0.0.1:1 -u joe -p x image",
            "Usage: stratus run-instance [options] [image]",
            "stratus run-instance: error: 0 is no number of machines to start: take 1 to 1000",
        ),
        (
            "image update --endpoint https://127.0.0.1:1 -u joe -p x tiny",
            "Usage: stratus image update [options] IMAGE",
            "stratus image update: error: Nothing to change: give --name, --public, --private or --cleaned",
        ),
        (
            "run-instance tiny --wait ssh",
            "Usage: stratus run-instance [options] [image]",
            "stratus run-instance: error: unexpected argument 'ssh' found; write --wait=ssh with '='",
        ),
        (
            "describe-instance --frob",
            "Usage: stratus describe-instance [options] [vm-id …]",
            "stratus describe-instance: error: unexpected argument '--frob' found",
        ),
        (
            "describe-instance",
            "Usage: stratus describe-instance [options] [vm-id …]",
            "stratus describe-instance: error: Missing cloud endpoint. Please provide --endpoint",
        ),
    ] {
        let result = alone(words);
        assert_eq!(
            (result.status, result.stdout.as_str()),
            (2, ""),
            "{words}: {result:?}"
        );
        assert!(
            result.stderr.starts_with(&format!("{usage}\n\n{message}")),
            "{words}: {}",
            result.stderr
        );
    }
}

#[test]
fn checks_of_the_command_end_with_1_on_stderr() {
    for (words, message) in [
        ("create-volume", "Missing mandatory -s/--size option"),
        (
            "create-volume --size=1025",
            "Volume size must be a valid integer between 1 and 1024",
        ),
        (
            "create-volume -s 1 -t 12345678901234567890123456789012345678901",
            "Tags must have less than 40 characters",
        ),
        ("delete-volume", "At least one disk UUID is required"),
        ("delete-volume x", "Invalid UUID x"),
        ("update-volume", "A disk UUID must be supplied"),
        ("update-volume a b", "Only one disk UUID can be specified"),
        (
            "attach-volume",
            "Please provide at least one persistent disk UUID to attach",
        ),
    ] {
        let result = alone(words);
        assert_eq!(
            (
                result.status,
                result.stdout.as_str(),
                result.stderr.as_str()
            ),
            (1, "", format!("  [ERROR] {message}\n").as_str()),
            "{words}"
        );
    }
    let result = alone("delete-volume -vvv");
    assert_eq!(
        (result.status, result.stderr.as_str()),
        (1, "  [ERROR] At least one disk UUID is required\n")
    );
    let result = alone("create-volume --size 0");
    assert_eq!(
        (result.status, result.stderr.as_str()),
        (
            1,
            "  [ERROR] Missing mandatory -s/--size option\nA size of 0 is taken for none: give GiB from 1 to 1024.\n"
        )
    );
    assert_eq!(
        alone("update-volume -t 12345678901234567890123456789012345678901 x").status,
        2
    );
}

#[test]
fn configuration_files_that_cannot_be_used_are_named() {
    let home = tempfile::tempdir().unwrap();
    let run = |words: &str| {
        let mut command = program(home.path());
        command.args(words.split_whitespace());
        ended(command)
    };
    let result = run("describe-instance -c nowhere.cfg");
    assert_eq!(
        (result.status, result.stdout.as_str()),
        (
            255,
            "Error parsing user configuration file nowhere.cfg. Details: No section: 'default'\n"
        )
    );
    assert_eq!(result.stderr, "There is no such file: nowhere.cfg\n");
    // Not of the work: there is no more to tell of it.
    let result = run("describe-instance -vvv -c nowhere.cfg");
    assert_eq!(result.status, 255, "{result:?}");
    std::fs::write(
        home.path().join("a.cfg"),
        "[default]\nendpoint = https://h\n",
    )
    .unwrap();
    let result = run("describe-instance -c a.cfg -S other");
    assert_eq!(
        (result.status, result.stdout.as_str()),
        (
            255,
            "Error parsing user configuration file a.cfg. Details: No section: 'other'\n"
        )
    );
    let result = run("describe-instance -c a.cfg");
    assert_eq!(
        (result.status, result.stdout.as_str()),
        (255, "Error: Missing credentials\n")
    );
    let result = run("describe-instance -c a.cfg --pem-cert x.pem --pem-key y.pem");
    assert!(
        result.status == 255 && result.stdout.contains("'x.pem' cannot be used to log in"),
        "{result:?}"
    );
}

#[test]
fn nobody_there_is_a_network_error() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let result = alone(&format!(
        "describe-instance --endpoint https://127.0.0.1:{port} -u joe -p x"
    ));
    assert_eq!(result.status, 255);
    assert_eq!(
        result.stdout,
        format!("Network error: [Errno 111] Connection refused (127.0.0.1:{port})\n")
    );
    assert!(
        result.stderr.starts_with("Nothing listens there: "),
        "{result:?}"
    );
    let started = Instant::now();
    let result = alone("kill-instance 1 --endpoint https://no-such-host.invalid -u joe -p x");
    assert!(
        result.status == 255 && result.stdout.starts_with("Network error: "),
        "{result:?}"
    );
    assert!(started.elapsed() < Duration::from_secs(60));
}

#[test]
fn plain_http_to_a_service_of_tls_is_told() {
    let cloud = Cloud::start(|_| Reply::json(200, &json!({})));
    let result = alone(&format!(
        "describe-instance --endpoint http://127.0.0.1:{} -u joe -p x",
        cloud.port
    ));
    assert_eq!(result.status, 255, "{result:?}");
    assert!(
        result.stdout.contains(&format!(
            "it speaks https: give https://127.0.0.1:{}",
            cloud.port
        )),
        "{result:?}"
    );
}

#[test]
fn a_machine_without_a_key_is_not_started() {
    let cloud = Cloud::start(|_| Reply::refusal(500, "nothing should be asked for"));
    let image = "run-instance KmZPjZHBoFquj4lcXhQwmyc0Nid -k";
    let result = cloud.run(&format!("{image} nowhere.pub"));
    assert!(
        result
            .stdout
            .ends_with("Error: [Errno 2] No such file or directory: 'nowhere.pub'\n"),
        "{result:?}"
    );
    for word in ["ssh-keygen", "-k", "STRATUSLAB_KEY"] {
        assert!(result.stderr.contains(word), "{result:?}");
    }
    std::fs::write(cloud.home.path().join("hostname"), "here\n").unwrap();
    let result = cloud.run(&format!("{image} hostname"));
    assert!(
        result.status == 255
            && result
                .stdout
                .contains("'hostname': public keys: line 1: is no SSH public key"),
        "{result:?}"
    );
    assert_eq!(cloud.lines(), Vec::<String>::new());
}

#[test]
fn refusals_are_shown_in_the_words_of_the_cloud() {
    let cloud = Cloud::start(|seen| match seen.line.as_str() {
        "GET /cimi/Machine/1" => Reply::refusal(401, "who are you"),
        "GET /cimi/Machine/2" => Reply(500, Vec::new(), b"<html>".to_vec()),
        "GET /cimi/Machine/3" => Reply(200, Vec::new(), b"<html>".to_vec()),
        "GET /cimi/Machine/4" => Reply::json(200, &json!({ "vmid": "seven" })),
        "GET /cimi/Machine/5" => Reply(
            302,
            vec![("location", "https://evil.example.org/".to_owned())],
            Vec::new(),
        ),
        _ => Reply::refusal(409, "not now"),
    });
    let result = cloud.run("describe-instance 1");
    assert_eq!(
        (result.status, result.stdout.as_str()),
        (255, "Error: Unauthorized\n")
    );
    assert!(result.stderr.contains("STRATUSLAB_PASSWORD"), "{result:?}");
    // A token that is refused isn't said to be a password.
    let mut by_token = cloud.command();
    by_token
        .env("STRATUS_CA", cloud.home.path().join("ca.pem"))
        .env("STRATUS_TOKEN", "strat_x")
        .env_remove("STRATUSLAB_USERNAME")
        .env_remove("STRATUSLAB_PASSWORD")
        .args(["describe-instance", "1"]);
    let result = ended(by_token);
    assert_eq!(result.stdout, "Error: Unauthorized\n");
    assert!(
        result.stderr.contains("this token (who are you)")
            && result.stderr.contains("STRATUS_TOKEN"),
        "{result:?}"
    );
    assert!(!result.stderr.contains("password"), "{result:?}");
    assert_eq!(
        cloud.run("describe-instance 2").stdout,
        "Error: Internal Server Error\n"
    );
    assert!(
        cloud
            .run("describe-instance 3")
            .stdout
            .contains("does not answer like a Stratus cloud: the answer is not JSON")
    );
    assert!(
        cloud
            .run("describe-instance 4")
            .stdout
            .contains("does not answer like a Stratus cloud")
    );
    assert_eq!(cloud.run("describe-instance 5").stdout, "Error: Found\n");
    let result = cloud.run("kill-instance -vv 6");
    assert!(
        result.stdout.contains("Detail: {") && result.stdout.ends_with("Error: not now\n"),
        "{result:?}"
    );
    let result = cloud.run("kill-instance -vvv 6");
    assert!(
        result.status == 1 && result.stderr.starts_with("not now\n"),
        "{result:?}"
    );
    let result = cloud.run("kill-instance -qqq 6");
    assert_eq!(
        (
            result.status,
            result.stdout.as_str(),
            result.stderr.as_str()
        ),
        (255, "", "")
    );
}

#[test]
fn a_reader_that_goes_away_ends_the_program_quietly() {
    let machines: Vec<_> = (1..3000).map(machine).collect();
    let list = collection("machines", &machines);
    let cloud = Cloud::start(move |_| Reply::json(200, &list));
    let mut command = cloud.command();
    command.args(["describe-instance", "-n", "--ca", "ca.pem"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn one_cloud_of_several_that_does_not_answer_does_not_end_the_command() {
    let cloud = Cloud::start(|_| Reply::json(200, &collection("machines", &[machine(7)])));
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let url = format!("https://localhost:{}/one-proxy/xmlrpc", cloud.port);
    let file = format!(
        "[default]\nca_file = ca.pem\nendpoints = https://127.0.0.1:{port} joe x\n  {url} ann y\n"
    );
    std::fs::write(cloud.home.path().join("m.cfg"), file).unwrap();
    let result = cloud.run("describe-instance -nm -c m.cfg");
    assert_eq!(result.status, 1, "{result:?}");
    assert!(
        result
            .stderr
            .starts_with(&format!("  [ERROR] https://127.0.0.1:{port}: [Errno 111]")),
        "{result:?}"
    );
    assert!(
        result
            .stdout
            .contains(&format!("::: {url} : ann :::\nid  state ")),
        "{result:?}"
    );
}

#[test]
fn a_list_longer_than_a_page_is_read_whole_also_when_it_changes_meanwhile() {
    // Pages of three; a machine that was on the first page ended before the second is asked for.
    let cloud = Cloud::start(|seen| {
        let page = |numbers: std::ops::RangeInclusive<u64>, count| {
            let members: Vec<_> = numbers.map(machine).collect();
            let mut page = collection("machines", &members);
            page["count"] = json!(count);
            Reply::json(200, &page)
        };
        match seen.line.rsplit_once("$first=").map(|(_, first)| first) {
            None => page(1..=3, 7),
            Some("4") => page(3..=5, 6),
            Some(_) => page(6..=7, 7),
        }
    });
    let listed = cloud.run("describe-instance").success();
    let numbers: Vec<&str> = listed
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(
        numbers,
        ["1", "2", "3", "4", "5", "6", "7"],
        "{:?}",
        cloud.lines()
    );
}
