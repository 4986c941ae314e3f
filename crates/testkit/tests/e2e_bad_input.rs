//! What is wrong, missing, huge or hostile is refused with a message, and leaves nothing. The attributes that are tried follow
//! from the interface's own table.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::{path::Path, process::Command};

use bytes::Bytes;
use cimi::model::{Access, Attribute, COMMON, Creation, Kind, Shape, describe};
use serde_json::{Value, json};
use testkit::{Api, Options, Reply, TestCloud, firmware_only_image, skip_unless};

const DEEP: usize = 20_000;

/// Values that are wrong for most attributes, and dangerous for some programs.
fn hostile_values() -> Vec<Value> {
    vec![
        Value::Null,
        json!(true),
        json!(-1),
        json!(0),
        json!(u64::MAX),
        json!(1e300),
        json!(0.5),
        json!(""),
        json!("x".repeat(70_000)),
        json!("../../../etc/passwd"),
        json!("a\u{0}b\nc\u{1b}[2J"),
        json!("$(reboot)`reboot`;'\"<script>"),
        json!([]),
        json!([[[null]]]),
        json!({}),
        json!({"href": "Machine/../../secrets"}),
        json!({"href": 7}),
        json!([{"href": "http://127.0.0.1:1/x"}]),
    ]
}

/// The paths of all attributes that a client may write, those of parts included.
fn paths(attributes: &[Attribute], within: &[String], depth: usize, found: &mut Vec<Vec<String>>) {
    for attribute in attributes
        .iter()
        .filter(|attribute| attribute.access != Access::ReadOnly)
    {
        let mut path = within.to_vec();
        path.push(attribute.name.to_owned());
        if depth < 4 {
            inner(&attribute.shape, &path, depth + 1, found);
        }
        found.push(path);
    }
}

fn inner(shape: &Shape, path: &[String], depth: usize, found: &mut Vec<Vec<String>>) {
    match shape {
        Shape::Struct(parts) | Shape::Flattened(parts, _) => paths(parts, path, depth, found),
        Shape::RefOrValue(kind) => paths(describe(*kind).attributes, path, depth, found),
        Shape::Array(element) => {
            let path = [path, &["0".to_owned()]].concat();
            inner(element, &path, depth, found);
        }
        _ => {}
    }
}

/// The document with the value at the path; what is on the way there and of another kind is replaced.
fn with(mut document: Value, path: &[String], value: Value) -> Value {
    let mut at = &mut document;
    for step in path {
        if step == "0" {
            if at.as_array().is_none_or(Vec::is_empty) {
                *at = json!([{}]);
            }
            at = &mut at[0];
        } else {
            if !at.is_object() {
                *at = json!({});
            }
            at = &mut at[step.as_str()];
        }
    }
    *at = value;
    document
}

/// What creates one of this kind, if it is right.
fn right_document(cloud: &TestCloud, kind: Kind, image: &str) -> Value {
    match kind {
        Kind::Machine => {
            let mut document = cloud.machine_document(image);
            document["machineTemplate"]["initialState"] = json!("STOPPED");
            document
        }
        Kind::MachineConfiguration => {
            json!({"name": "c", "cpu": 1, "memory": 65536, "cpuArch": "x86_64"})
        }
        Kind::MachineTemplate => json!({"name": "t", "machineImage": {"href": image}}),
        Kind::MachineImage => json!({"name": "i", "imageLocation": "upload:"}),
        Kind::Credential => json!({"name": "k", "publicKey": cloud.public_key()}),
        Kind::Volume => {
            json!({"name": "v", "volumeTemplate": {"volumeConfig": {"capacity": 1000}}})
        }
        Kind::VolumeConfiguration => json!({"name": "c", "capacity": 1000}),
        Kind::VolumeTemplate => json!({"name": "t", "volumeConfig": {"capacity": 1000}}),
        Kind::User => json!({"username": "somebody", "password": "some-password"}),
        _ => json!({"name": "x"}),
    }
}

/// Refusals have a status of 400 to 499 and a text; nothing ends badly. What was accepted is removed again.
#[track_caller]
fn judge(cloud: &TestCloud, what: &str, reply: Result<Reply, String>, wrong: &mut Vec<String>) {
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) => {
            wrong.push(format!("{what}: no answer: {error}"));
            return;
        }
    };
    if (200..300).contains(&reply.status) {
        if let Some(made) = reply.location.filter(|_| reply.status == 201) {
            remove(&cloud.api(), &made);
        }
        return;
    }
    if !(400..500).contains(&reply.status) {
        wrong.push(format!("{what}: {} {}", reply.status, reply.text()));
    } else if reply.detail().len() < 5 && reply.status != 401 {
        wrong.push(format!(
            "{what}: {} without a message: {}",
            reply.status,
            reply.text()
        ));
    } else if reply.bytes.len() > 4096 {
        wrong.push(format!(
            "{what}: {} with a message of {} bytes",
            reply.status,
            reply.bytes.len()
        ));
    }
}

fn remove(api: &Api, made: &str) {
    if made.starts_with("Machine/") {
        let _ = api.post(&format!("{made}/kill"), &json!({}));
    } else {
        let _ = api.delete(made);
    }
}

fn collections() -> impl Iterator<Item = Kind> {
    Kind::ALL
        .iter()
        .copied()
        .filter(|kind| describe(*kind).collection.is_some())
}

#[test]
fn every_route_refuses_nonsense() {
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start();
    let api = cloud.api();
    let image = cloud.import(&firmware_only_image(cloud.folder()));
    let machine = cloud.machine_of(&api, &cloud.machine_document(&image));
    let mut wrong = Vec::new();

    bodies_that_are_no_documents(&cloud, &machine.id, &mut wrong);
    paths_that_lead_nowhere(&cloud, &mut wrong);
    questions_that_make_no_sense(&cloud, &mut wrong);
    actions(&cloud, &machine.id, &mut wrong);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    survived(&cloud);
    machine.wait_for_phase("Running");
    machine.kill();
    cloud.assert_clean();
}

#[test]
fn every_attribute_refuses_nonsense() {
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start();
    let api = cloud.api();
    let image = cloud.import(&firmware_only_image(cloud.folder()));
    let mut wrong = Vec::new();
    for kind in collections().filter(|kind| !matches!(describe(*kind).creation, Creation::Never)) {
        let right = right_document(&cloud, kind, &image);
        // What is tried below is wrong in one thing only: without it, it is accepted. Else nothing would be tested.
        let is_right = || {
            let made = api.post(kind.name(), &right);
            assert_eq!(made.status, 201, "{kind}: {}", made.text());
            remove(&api, &made.location.unwrap());
        };
        is_right();
        let mut accepted = Vec::new();
        let mut all = Vec::new();
        paths(COMMON, &[], 0, &mut all);
        match describe(kind).creation {
            Creation::Template {
                member,
                kind,
                beside,
            } => {
                paths(beside, &[], 0, &mut all);
                paths(describe(kind).attributes, &[member.to_owned()], 0, &mut all);
            }
            _ => paths(describe(kind).attributes, &[], 0, &mut all),
        }
        for path in &all {
            for value in hostile_values() {
                let shown: String = value.to_string().chars().take(60).collect();
                let what = format!("POST {} with {} = {shown}", kind.name(), path.join("."));
                let document = with(right.clone(), path, value);
                let reply = api.try_json("POST", kind.name(), &document);
                accepted.push(reply.as_ref().is_ok_and(|reply| reply.status == 201));
                judge(&cloud, &what, reply, &mut wrong);
            }
        }
        // And it still is after all this: it was the values that were refused, and most of them were.
        is_right();
        let taken = accepted.iter().filter(|accepted| **accepted).count();
        let all = accepted.len();
        println!("{kind}: {taken} of {all} values were accepted");
        assert!(
            taken * 2 < all,
            "{kind}: {taken} of {all} hostile values were accepted"
        );
    }
    assert!(
        wrong.is_empty(),
        "{} of them:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(40)].join("\n")
    );
    survived(&cloud);
    for machine in api.list("Machine") {
        cloud.known_machine(&api, &machine).kill();
    }
    for volume in api.list("Volume") {
        let _ = api.delete(volume["id"].as_str().unwrap());
    }
    cloud.assert_clean();
}

fn bodies_that_are_no_documents(cloud: &TestCloud, machine: &str, wrong: &mut Vec<String>) {
    let json = "application/json";
    let deep = "[".repeat(DEEP);
    let deep_objects = format!("{}1{}", "{\"a\":".repeat(DEEP), "}".repeat(DEEP));
    let huge = format!("{{\"name\":\"{}\"}}", "x".repeat(3 << 20));
    let many = format!(
        "{{{}}}",
        (0..20_000)
            .map(|number| format!("\"a{number}\":1"))
            .collect::<Vec<_>>()
            .join(",")
    );
    let bodies: [(&str, &str, Bytes); 14] = [
        ("nothing", json, Bytes::new()),
        ("half an object", json, "{".into()),
        ("an array", json, "[]".into()),
        ("null", json, "null".into()),
        ("a number", json, "1e999".into()),
        (
            "no UTF-8",
            json,
            Bytes::from_static(b"{\"name\": \"\xff\xfe\"}"),
        ),
        ("deep arrays", json, deep.into()),
        ("deep objects", json, deep_objects.into()),
        ("3 MiB", json, huge.into()),
        ("many members", json, many.into()),
        (
            "two of one name",
            json,
            "{\"name\": 1, \"name\": {}}".into(),
        ),
        ("another type", "text/plain", "{}".into()),
        ("a broken type", "///;;", "{}".into()),
        (
            "XML that expands",
            "application/xml",
            "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>".into(),
        ),
    ];
    let api = cloud.api();
    let mut routes: Vec<(&str, String)> = collections()
        .map(|kind| ("POST", kind.name().to_owned()))
        .collect();
    routes.extend([
        ("PUT", machine.to_owned()),
        ("POST", format!("{machine}/volumes")),
        ("POST", format!("{machine}/restart")),
    ]);
    for (method, path) in &routes {
        for (name, content_type, body) in &bodies {
            // An action without a body is complete; an object without anything to change is one, too.
            if path.ends_with("/restart") && matches!(*name, "nothing" | "null")
                || *method == "PUT" && *name == "many members"
            {
                continue;
            }
            let send = || {
                api.send(
                    method,
                    path,
                    &[("content-type", content_type)],
                    Some(body.clone()),
                )
            };
            judge(
                cloud,
                &format!("{method} {path} with {name}"),
                send(),
                wrong,
            );
        }
    }
}

fn paths_that_lead_nowhere(cloud: &TestCloud, wrong: &mut Vec<String>) {
    let long = "x".repeat(6000);
    let ids = [
        "%00",
        "..%2f..%2fetc%2fpasswd",
        "%ff%fe",
        "-1",
        "0",
        "18446744073709551616",
        "a%20b",
        "'%20or%20'1'='1",
        long.as_str(),
    ];
    for kind in collections() {
        for id in ids {
            for method in ["GET", "PUT", "DELETE"] {
                let path = format!("{}/{id}", kind.name());
                let body = (method == "PUT").then(|| Bytes::from_static(b"{\"name\": \"x\"}"));
                let shown: String = path.chars().take(60).collect();
                let reply =
                    cloud
                        .api()
                        .send(method, &path, &[("content-type", "application/json")], body);
                if let Ok(reply) = &reply
                    && reply.status < 400
                {
                    wrong.push(format!("{method} {shown}: {}", reply.status));
                }
                judge(cloud, &format!("{method} {shown}"), reply, wrong);
            }
        }
    }
    for path in [
        "/",
        "/nothing",
        "/cimi/Nothing",
        "/cimi/Machine/1/2/3/4",
        "/cimi//Machine",
        "/stratus",
        "/stratus/nothing",
        "/%",
    ] {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "TRACE", "NONSENSE"] {
            judge(
                cloud,
                &format!("{method} {path}"),
                cloud.api().send(method, path, &[], None),
                wrong,
            );
        }
    }
}

fn questions_that_make_no_sense(cloud: &TestCloud, wrong: &mut Vec<String>) {
    let deep = format!("{}a=1{}", "(".repeat(2000), ")".repeat(2000));
    let filters = [
        "a",
        "=",
        "name=",
        "name='",
        "name='x' and",
        "(((((",
        "name ~ 'x'",
        "vmid=99999999999999999999999",
        "created>'never'",
        "%00",
        deep.as_str(),
    ];
    for filter in filters {
        let encoded: String = filter.bytes().map(|byte| format!("%{byte:02X}")).collect();
        for query in [
            "$filter", "$orderby", "$select", "$first", "$last", "$expand",
        ] {
            let path = format!("Machine?{query}={encoded}");
            let shown: String = filter.chars().take(30).collect();
            judge(
                cloud,
                &format!("GET Machine?{query}={shown}"),
                cloud.api().get_any(&path),
                wrong,
            );
        }
    }
}

fn actions(cloud: &TestCloud, machine: &str, wrong: &mut Vec<String>) {
    let documents = [
        json!({"action": "explode"}),
        json!({"action": 7}),
        json!({"force": "perhaps"}),
        json!({"force": [true]}),
        json!([1]),
    ];
    for action in describe(Kind::Machine)
        .actions
        .iter()
        .copied()
        .chain(["explode"])
    {
        for document in &documents {
            let reply = cloud
                .api()
                .try_json("POST", &format!("{machine}/{action}"), document);
            if let Ok(reply) = &reply
                && reply.status < 400
            {
                wrong.push(format!(
                    "POST {machine}/{action} with {document}: {}",
                    reply.status
                ));
            }
            judge(
                cloud,
                &format!("POST {machine}/{action} with {document}"),
                reply,
                wrong,
            );
        }
    }
    let header = [
        ("authorization", "Basic !!!"),
        ("authorization", "Bearer x"),
        ("authorization", "Basic OjpAOg=="),
    ];
    for (name, value) in header {
        let reply = cloud
            .api()
            .anonymous()
            .send("GET", "Machine", &[(name, value)], None);
        judge(
            cloud,
            &format!("GET Machine with {name}: {value}"),
            reply,
            wrong,
        );
    }
}

/// Nothing of all this made the daemon stumble.
#[track_caller]
fn survived(cloud: &TestCloud) {
    assert!(cloud.daemon_runs(), "{}", cloud.log_tail());
    let log = cloud.log();
    let panicked: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("panicked"))
        .collect();
    assert!(panicked.is_empty(), "{}", panicked.join("\n"));
}

#[test]
fn every_command_refuses_nonsense() {
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start();
    let text = |output: &std::process::Output| {
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    };
    let overview = cloud.cli(&["--help"]);
    let commands: Vec<&str> = overview
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next())
        .filter(|word| !word.starts_with("stratus"))
        .collect();
    assert!(commands.len() > 20, "{overview}");
    for command in &commands {
        let help = cloud.try_cli(&[command, "--help"]);
        assert_eq!(
            help.status.code(),
            Some(0),
            "{command} --help: {}",
            text(&help)
        );
        let refused = cloud.try_cli(&[command, "--no-such-option"]);
        assert_eq!(
            refused.status.code(),
            Some(2),
            "{command} --no-such-option: {}",
            text(&refused)
        );
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            told.contains("Usage") && told.contains("no-such-option"),
            "{command}: {told}"
        );
        let refused = cloud.try_cli(&[command, "--format", "poem"]);
        assert_eq!(
            refused.status.code(),
            Some(2),
            "{command} --format poem: {}",
            text(&refused)
        );
    }
    let nothing = "00000000-0000-7000-8000-000000000000";
    // Arguments, exit status, what the message must name.
    let table: &[(&[&str], i32, &str)] = &[
        (&["no-such-command"], 2, "no-such-command"),
        (&["run-instance"], 2, "image"),
        (&["run-instance", "no-such-image"], 255, "no-such-image"),
        (
            &["run-instance", "AAAAAAAAAAAAAAAAAAAAAAAAAAA"],
            255,
            "AAAAAAAAAAAAAAAAAAAAAAAAAAA",
        ),
        (&["run-instance", "-t", "no.type", "x"], 255, "no.type"),
        (&["run-instance", "-n", "many", "x"], 2, "many"),
        (&["run-instance", "--ram", "-5", "x"], 2, "-5"),
        (
            &[
                "run-instance",
                "-k",
                "/no/such/key.pub",
                "AAAAAAAAAAAAAAAAAAAAAAAAAAA",
            ],
            255,
            "/no/such/key.pub",
        ),
        (
            &["run-instance", "--context-file", "/no/such/file", "x"],
            2,
            "context file",
        ),
        (&["describe-instance", "abc"], 255, "abc"),
        (&["describe-instance", "4711"], 255, "4711"),
        (&["kill-instance"], 2, "vm-id"),
        (&["kill-instance", "4711"], 255, "4711"),
        (&["shutdown-instance", "-1"], 2, "-1"),
        (&["stop-instance", "4711"], 255, "4711"),
        (&["create-volume"], 1, "size"),
        (&["create-volume", "-s", "huge"], 1, "size"),
        (&["describe-volumes", "not-a-uuid"], 1, "not-a-uuid"),
        (&["delete-volume", nothing], 255, nothing),
        (&["attach-volume", "-i", "4711", nothing], 1, "4711"),
        (&["attach-volume", "-i", "4711", "x"], 1, "x"),
        (&["detach-volume", nothing], 255, nothing),
        (&["image", "import", "/no/such/file"], 255, "/no/such/file"),
        (&["image", "show", "nothing"], 255, "nothing"),
        (
            &["image", "import", "--sha1", "abc", "/etc/hostname"],
            2,
            "sha1",
        ),
        (&["user", "add", "../x", "--password-stdin"], 1, "password"),
        (&["console", "4711"], 255, "4711"),
    ];
    let mut wrong = Vec::new();
    for (arguments, code, named) in table {
        let output = cloud.try_cli(arguments);
        let told = text(&output);
        if output.status.code() != Some(*code) || !told.contains(named) || told.contains("panicked")
        {
            wrong.push(format!(
                "{arguments:?}: {:?}, expected {code} and `{named}`: {told}",
                output.status.code()
            ));
        }
    }
    // Where there is no cloud, and where it does not know us.
    let nowhere = cloud.try_cli(&["describe-instance", "--endpoint", "https://127.0.0.1:1"]);
    if nowhere.status.code() != Some(255) || !text(&nowhere).contains("127.0.0.1:1") {
        wrong.push(format!("no cloud there: {nowhere:?}"));
    }
    let unknown = cloud.try_cli_as("admin", "guess", &["describe-instance"]);
    if unknown.status.code() != Some(255) || !text(&unknown).contains("Unauthorized") {
        wrong.push(format!("wrong password: {unknown:?}"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    survived(&cloud);
}

#[test]
fn hostile_images_are_refused() {
    if skip_unless(&[]) {
        return;
    }
    let cloud = TestCloud::start_with(&Options {
        storage: "largest_image_gib = 1\n".to_owned(),
        ..Options::default()
    });
    let folder = cloud.folder().to_owned();
    let shell = |line: &str| {
        let output = Command::new("sh")
            .arg("-ec")
            .arg(line)
            .current_dir(&folder)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    shell("qemu-img create -q -f raw data.raw 1M");
    shell("qemu-img create -q -f qcow2 -b /etc/passwd -F raw backing.qcow2 1M");
    shell("qemu-img create -q -f qcow2 -o data_file=data.raw,data_file_raw=on external.qcow2 1M");
    shell("qemu-img create -q -f qcow2 absurd.qcow2 1P");
    shell("head -c 3000000 /dev/urandom | gzip -1 | head -c 1000000 > truncated.gz");
    shell("head -c 1200M /dev/zero | gzip -1 > bomb.gz");
    shell("qemu-img create -q -f vmdk -o subformat=monolithicFlat flat.vmdk 1M");
    let mut wrong = Vec::new();
    for (name, why) in [
        ("backing.qcow2", "backing"),
        ("external.qcow2", "external file"),
        ("absurd.qcow2", "limit"),
        ("truncated.gz", "gz"),
        ("bomb.gz", "limit"),
        ("flat.vmdk", ""),
    ] {
        let output = cloud.try_cli(&["image", "import", &folder.join(name).display().to_string()]);
        let told = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        if output.status.success() || !told.contains(why) {
            wrong.push(format!(
                "{name}: {:?}, expected to hear of `{why}`: {told}",
                output.status.code()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let images = cloud.api().list("MachineImage");
    assert!(images.is_empty(), "nothing stays: {images:?}");
    assert!(
        size_of(&cloud.state_dir().join("images")) < 1 << 20,
        "nothing stays on disk"
    );
    survived(&cloud);
    cloud.assert_clean();
}

/// Bytes of all files below a folder.
fn size_of(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| {
            let path = entry.path();
            if path.is_dir() {
                size_of(&path)
            } else {
                entry.metadata().map_or(0, |data| data.len())
            }
        })
        .sum()
}
