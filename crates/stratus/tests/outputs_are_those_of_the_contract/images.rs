//! Images that are sent, and what is left of them if that fails.

use serde_json::json;

use super::unknown;
use crate::support::{Cloud, Reply, Seen, collection, ended, machine};

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
    let before = cloud.lines().len();
    std::fs::write(
        cloud.home.path().join("key.pem"),
        "-----BEGIN PRIVATE KEY-----\nx\n",
    )
    .unwrap();
    let result = cloud.run("image import key.pem");
    assert!(
        result.status != 0 && result.stderr.contains("was not sent"),
        "{result:?}"
    );
    assert_eq!(cloud.lines().len(), before);
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
        "GET /cimi/MachineImage" => Reply::json(200, &collection("machineImages", &[])),
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
    // Told as an interruption, or as the refusal if that was quicker; or an interruption while the refused is being removed, which
    // then is asked for once more.
    let mut deletions = deletions(&cloud);
    deletions.dedup();
    assert_eq!(deletions, BOTH, "{output:?}");
    assert!(
        matches!(output.status.code(), Some(130 | 255)),
        "{output:?}"
    );
}

/// The identifier of "abc".
const ABC: &str = "KmZPjZHBoFquj4lcXhQwmyc0Nid";

#[test]
fn known_content_that_shall_boot_otherwise_becomes_another_image() {
    let cloud = Cloud::start(|seen| {
        let kernel = json!({ "id": "MachineImage/k", "name": "vmlinuz", "identifier": "k", "type": "FILE", "state": "AVAILABLE" });
        let plain = json!({ "id": "MachineImage/old", "name": "x", "identifier": ABC, "state": "AVAILABLE", "visibility": "PRIVATE" });
        let mut booting = plain.clone();
        booting["id"] = json!("MachineImage/new");
        booting["kernel"] = json!({ "href": "https://x/cimi/MachineImage/k" });
        match seen.line.as_str() {
            // Known content, or a cloud where only the plain image is, or also the other one.
            "POST /cimi/MachineImage" if seen.json()["expected"].get("identifier").is_some() => {
                Reply::json(200, &plain)
            }
            "POST /cimi/MachineImage" => Reply::json(201, &booting),
            "PUT /cimi/MachineImage/new/data" | "GET /cimi/MachineImage/new" => {
                Reply::json(200, &booting)
            }
            "GET /cimi/MachineImage/k" => Reply::json(200, &kernel),
            "GET /cimi/MachineImage"
                if seen.headers.get("authorization").unwrap() == "Basic YW5uOng=" =>
            {
                Reply::json(200, &collection("machineImages", &[kernel, plain, booting]))
            }
            "GET /cimi/MachineImage" => {
                Reply::json(200, &collection("machineImages", &[kernel, plain]))
            }
            _ => unknown(seen),
        }
    });
    std::fs::write(cloud.home.path().join("x.raw"), "abc").unwrap();
    let said = cloud.run("image import --name y --public x.raw").success();
    assert!(
        said.contains("keeps its name 'x'; stratus image update --name 'y' MachineImage/old")
            && said.contains("stays private; stratus image update --public MachineImage/old"),
        "{said}"
    );
    let said = cloud.run("image import x.raw --kernel vmlinuz").success();
    assert!(said.contains("another image of it is made"), "{said}");
    assert!(said.contains("Two images are called 'x'"), "{said}");
    let asked = cloud
        .requests()
        .into_iter()
        .rfind(|seen| seen.line == "POST /cimi/MachineImage")
        .unwrap()
        .json();
    assert_eq!(asked["kernel"], json!({ "href": "MachineImage/k" }));
    assert_eq!(
        asked["expected"]["sha1"],
        "a9993e364706816aba3e25717850c26c9cd0d89d"
    );
    // Asked for once more, there is nothing to do.
    let before = cloud.lines();
    let said = cloud
        .run("image import -u ann -p x x.raw --kernel vmlinuz")
        .success();
    assert!(said.contains("it boots so."), "{said}");
    let lines = cloud.lines();
    assert!(
        lines[before.len()..]
            .iter()
            .all(|line| line.starts_with("GET")),
        "{lines:?}"
    );
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
    for (words, message) in [
        ("--name= x", "an image can't be without a name"),
        ("--public --private x", "cannot be used with"),
    ] {
        let result = cloud.run(&format!("image update {words}"));
        assert_eq!(result.status, 2, "{result:?}");
        assert!(result.stderr.contains(message), "{result:?}");
    }
    assert_eq!(cloud.run("image update --public --name y x").success(), "");
    assert_eq!(
        cloud.requests().last().unwrap().json(),
        json!({ "name": "y", "visibility": "PUBLIC" })
    );
}

#[test]
fn an_image_is_shared_with_particular_people() {
    let rules =
        std::sync::Mutex::new(json!([{ "principal": "bob", "type": "USER", "right": "VIEW" }]));
    let cloud = Cloud::start(move |seen| {
        let mut rules = rules.lock().unwrap();
        let acl = |rules: &serde_json::Value| json!({ "owner": { "principal": "joe", "type": "USER" }, "rules": rules });
        let image = |rules: &serde_json::Value| json!({ "id": "MachineImage/i", "name": "x", "state": "AVAILABLE", "acl": acl(rules) });
        match seen.line.as_str() {
            "GET /cimi/MachineImage" => {
                Reply::json(200, &collection("machineImages", &[image(&rules)]))
            }
            "GET /cimi/MachineImage/i" => Reply::json(200, &image(&rules)),
            "PUT /cimi/MachineImage/i?$select=acl" => {
                assert_eq!(seen.json()["acl"]["owner"]["principal"], "joe");
                *rules = seen.json()["acl"]["rules"].clone();
                Reply::json(200, &image(&rules))
            }
            _ => unknown(seen),
        }
    });
    let said = cloud.run("image share -v --with ann --with bob:modify --with-group physics x");
    let shared = "ann (VIEW), bob (MODIFY), group physics (VIEW)";
    assert_eq!(said.success(), format!("x is shared with {shared}\n"));
    let shown = cloud.run("image show x").success();
    assert!(
        shown.ends_with(&format!("shared with: {shared}\n")),
        "{shown}"
    );
    assert_eq!(cloud.run("image unshare --with bob x").success(), "");
    let result = cloud.run("image unshare --with bob --with ann x");
    assert_eq!(
        (result.status, result.stdout.as_str()),
        (255, "Error: the image is not shared with bob\n")
    );
    let said = cloud.run("image unshare -v --all x").success();
    assert_eq!(said, "x is shared with nobody\n");
    for words in [
        "share x",
        "share --with ann:READ x",
        "unshare x",
        "unshare --all --with ann x",
    ] {
        assert_eq!(cloud.run(&format!("image {words}")).status, 2, "{words}");
    }
}

#[test]
fn images_are_deleted_one_by_one_and_one_that_failed_is_not_meant_by_its_name() {
    let cloud = Cloud::start(|seen| {
        let image = |id: &str, name: &str, state: &str| json!({ "id": format!("MachineImage/{id}"), "name": name, "state": state, "owner": "joe", "reason": (state == "ERROR").then_some("no such host") });
        match seen.line.as_str() {
            "GET /cimi/MachineImage" => {
                let all = [
                    image("a", "web", "ERROR"),
                    image("b", "web", "AVAILABLE"),
                    image("c", "old", "ERROR"),
                    image("d", "db", "AVAILABLE"),
                ];
                Reply::json(200, &collection("machineImages", &all))
            }
            "GET /cimi/authn" => Reply::json(200, &json!({ "identity": "joe" })),
            "GET /cimi/MachineImage/b" => Reply::json(200, &image("b", "web", "AVAILABLE")),
            "DELETE /cimi/MachineImage/d" => Reply::refusal(409, "machine 7 (web) needs it"),
            line if line.starts_with("DELETE") => Reply(202, Vec::new(), Vec::new()),
            _ => unknown(seen),
        }
    });
    let shown = cloud.run("image show web").success();
    assert!(shown.contains("id: MachineImage/b\n"), "{shown}");
    let result = cloud.run("image delete web nothing db old");
    assert_eq!(result.status, 255, "{result:?}");
    assert_eq!(
        result.stdout,
        "DELETED old\nError: web: 2 images have the name 'web'; take one of MachineImage/a (ERROR: no such host), MachineImage/b; \
         nothing: there is no image 'nothing'; stratus image list shows what there is; db: machine 7 (web) needs it\n"
    );
    assert_eq!(
        deletions(&cloud),
        ["DELETE /cimi/MachineImage/d", "DELETE /cimi/MachineImage/c"]
    );
}

fn create_image(cloud: &Cloud) -> std::process::Command {
    for name in ["key", "key.pub"] {
        let key =
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGBhO1Zq1GHMk0L5GcKzT1YhnRj6BqyJ1KcuRk2nGLTm a";
        std::fs::write(cloud.home.path().join(name), key).unwrap();
    }
    let mut command = cloud.command();
    command.args("create-image --ca ca.pem -k key.pub --title t --comment c --author a --author-email a@x.org".split(' '));
    command.arg(ABC);
    command
}

#[test]
fn a_machine_whose_start_create_image_loses_sight_of_goes_again() {
    let cloud = Cloud::start(|seen| match seen.line.as_str() {
        "GET /cimi/MachineImage/KmZPjZHBoFquj4lcXhQwmyc0Nid" => Reply::json(
            200,
            &json!({ "id": "MachineImage/i", "state": "AVAILABLE" }),
        ),
        "POST /cimi/Machine" => {
            let mut machine = machine(7);
            machine["ssh"] = json!(null);
            Reply::json(201, &machine).with("location", "https://x/cimi/Machine/7")
        }
        "DELETE /cimi/Machine/7" => Reply(202, Vec::new(), Vec::new()),
        line if line.starts_with("GET /cimi/Machine/") => Reply::refusal(500, "out of order"),
        _ => unknown(seen),
    });
    let ended = ended(create_image(&cloud));
    assert_eq!(ended.status, 255, "{ended:?}");
    assert!(ended.stdout.contains("out of order"), "{ended:?}");
    assert_eq!(deletions(&cloud), ["DELETE /cimi/Machine/7"], "{ended:?}");
    assert!(!ended.stderr.contains("kept"), "{ended:?}");
}

#[test]
fn a_machine_that_is_asked_for_when_create_image_is_interrupted_goes_again() {
    let (begun, begins) = std::sync::mpsc::channel();
    let (go_on, waits) = std::sync::mpsc::channel::<()>();
    let channels = std::sync::Mutex::new((begun, waits));
    let cloud = Cloud::start(move |seen| match seen.line.as_str() {
        "GET /cimi/MachineImage/KmZPjZHBoFquj4lcXhQwmyc0Nid" => Reply::json(
            200,
            &json!({ "id": "MachineImage/i", "state": "AVAILABLE" }),
        ),
        "POST /cimi/Machine" => {
            let channels = channels.lock().unwrap();
            let _ = channels.0.send(());
            let _ = channels.1.recv_timeout(std::time::Duration::from_secs(60));
            Reply::json(201, &machine(7)).with("location", "https://x/cimi/Machine/7")
        }
        "DELETE /cimi/Machine/7" => Reply(202, Vec::new(), Vec::new()),
        _ => unknown(seen),
    });
    let child = create_image(&cloud).spawn().unwrap();
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
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert_eq!(deletions(&cloud), ["DELETE /cimi/Machine/7"], "{output:?}");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("What was unfinished is"), "{told}");
}

#[test]
fn why_an_image_does_not_come_is_told_once_for_each_change() {
    let looks = std::sync::atomic::AtomicUsize::new(0);
    let cloud = Cloud::start(move |seen| match seen.line.as_str() {
        "POST /cimi/MachineImage" => Reply::json(
            201,
            &json!({ "id": "MachineImage/i", "state": "CREATING", "identifier": ABC }),
        ),
        _ => {
            let look = looks.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let (state, reason) = match look {
                0 | 1 => ("CREATING", json!("one is down; it is tried again")),
                2 | 3 => ("CREATING", json!("two\u{1b}[2J is down; it is tried again")),
                _ => ("AVAILABLE", json!(null)),
            };
            Reply::json(
                200,
                &json!({ "id": "MachineImage/i", "state": state, "reason": reason, "identifier": ABC }),
            )
        }
    });
    let ended = cloud.run("image fetch base@ann@example.org");
    assert_eq!(ended.stdout, format!("IMAGE {ABC}\n"), "{ended:?}");
    let lines: Vec<&str> = ended
        .stderr
        .lines()
        .filter(|line| !line.trim_matches('.').is_empty())
        .collect();
    let told =
        |which: &str| format!("MachineImage/i is waited for: {which} is down; it is tried again");
    // A reason is other people's text.
    assert_eq!(lines, [told("one"), told("two?[2J")], "{ended:?}");
    let asked = cloud.requests()[0].json();
    assert_eq!(asked["imageLocation"]["href"], "base@ann@example.org");
}

#[test]
fn an_image_is_pinned_and_let_go_again_while_it_is_fetched() {
    let cloud = Cloud::start(|seen| match seen.line.as_str() {
        "POST /cimi/MachineImage" => Reply::json(
            200,
            &json!({ "id": "MachineImage/i", "state": "CREATING", "identifier": ABC }),
        ),
        "PUT /cimi/MachineImage/i?$select=pinned" => Reply::json(200, &seen.json()),
        "GET /cimi/MachineImage/i" => Reply::json(
            200,
            &json!({ "id": "MachineImage/i", "state": "AVAILABLE", "identifier": ABC }),
        ),
        _ => unknown(seen),
    });
    let pins = |cloud: &Cloud| {
        let mut all = cloud.requests();
        all.retain(|seen| seen.line.starts_with("PUT"));
        all.iter().map(Seen::json).collect::<Vec<_>>()
    };
    for (words, pinned) in [
        ("", None),
        ("--pin", Some(true)),
        ("--unpin", Some(false)),
        ("--pin --timeout 0", Some(true)),
    ] {
        let before = pins(&cloud).len();
        let said = cloud.run(&format!("image fetch {words} {ABC}")).success();
        assert_eq!(said, format!("IMAGE {ABC}\n"), "{words}");
        let asked: Vec<_> = pinned
            .iter()
            .map(|pinned| json!({ "pinned": pinned }))
            .collect();
        assert_eq!(pins(&cloud)[before..], asked, "{words}");
    }
    let refusing = Cloud::start(|seen| match seen.line.as_str() {
        line if line.starts_with("PUT") => Reply::refusal(403, "only administrators pin images"),
        "POST /cimi/MachineImage" => Reply::json(
            200,
            &json!({ "id": "MachineImage/i", "state": "AVAILABLE", "identifier": ABC }),
        ),
        _ => unknown(seen),
    });
    let refused = refusing.run(&format!("image fetch --pin {ABC}"));
    assert!(
        refused.status != 0 && refused.stdout.contains("only administrators pin images"),
        "{refused:?}"
    );
}

#[test]
fn a_folder_becomes_an_image_with_its_label() {
    let mut programs = ["xorriso", "genisoimage", "mkisofs"].into_iter();
    let is_there = |program: &str| {
        let tried = std::process::Command::new(program)
            .arg("--version")
            .output();
        tried.is_ok()
    };
    if !programs.any(is_there) {
        println!("skipped: nothing that makes ISO images is here (Debian: xorriso)");
        return;
    }
    let cloud = Cloud::start(|seen| {
        let image = |state: &str| json!({ "id": "MachineImage/i", "name": "x", "identifier": ABC, "state": state });
        match seen.line.as_str() {
            "POST /cimi/MachineImage" => Reply::json(201, &image("CREATING")),
            "PUT /cimi/MachineImage/i/data" | "GET /cimi/MachineImage/i" => {
                Reply::json(200, &image("AVAILABLE"))
            }
            _ => unknown(seen),
        }
    });
    let home = cloud.home.path();
    std::fs::create_dir_all(home.join("data/sub")).unwrap();
    std::fs::write(home.join("data/sub/hello"), "inside").unwrap();
    // ECMA-119 §8.4: the primary volume descriptor is sector 16, the label 32 characters at 40.
    let label = |iso: &[u8]| {
        assert_eq!(&iso[0x8000..0x8006], b"\x01CD001");
        let text = &iso[0x8000 + 40..0x8000 + 72];
        String::from_utf8_lossy(text).trim_end().to_owned()
    };
    let said = cloud
        .run("image from-folder data --label GENOMES")
        .success();
    assert!(said.ends_with("GENOMES.iso\n"), "{said}");
    let iso = std::fs::read(home.join("GENOMES.iso")).unwrap();
    assert_eq!(label(&iso), "GENOMES");
    assert!(iso.windows(6).any(|part| part == b"inside"));

    for (words, status, why) in [
        (
            "data --label TOO_LONG_FOR_JOLIET",
            2,
            "is no label: 1 to 16",
        ),
        ("data --label A.B", 2, "is no label"),
        ("data --label=", 2, "is no label"),
        ("nothing --label A", 2, "'nothing' is not a folder"),
        ("data/sub/hello --label A", 2, "is not a folder"),
        ("data --label GENOMES", 1, "GENOMES.iso"),
        ("data --label A --public", 2, "--import"),
        ("data --label A --name x", 2, "--import"),
        ("data", 2, "--label"),
    ] {
        let refused = cloud.run(&format!("image from-folder {words}"));
        let told = format!("{}{}", refused.stdout, refused.stderr);
        assert_eq!(refused.status, status, "{words}: {refused:?}");
        assert!(told.contains(why), "{words}: {told}");
    }
    assert!(!home.join("A.iso").exists());
    assert_eq!(std::fs::read(home.join("GENOMES.iso")).unwrap(), iso);
    assert!(cloud.requests().is_empty());

    // Imported under another name, for everybody; what was made for that alone is gone again.
    let said = cloud
        .run("image from-folder data --label THINGS --import --public --name things-2")
        .success();
    assert!(said.ends_with(&format!("IMAGE {ABC}\n")), "{said}");
    let all = cloud.requests();
    let asked = all[0].json();
    assert_eq!(
        (&asked["name"], &asked["visibility"], &asked["type"]),
        (&json!("things-2"), &json!("PUBLIC"), &json!("IMAGE"))
    );
    assert_eq!(label(&all[1].body), "THINGS");
    assert!(!home.join("THINGS.iso").exists());
}

#[test]
fn properties_of_an_image_are_shown_with_their_names() {
    let cloud = Cloud::start(|_| {
        Reply::json(
            200,
            &json!({ "id": "MachineImage/i", "properties": { "version": "1.1" }, "kernel": { "href": "MachineImage/k" } }),
        )
    });
    let shown = cloud.run(&format!("image show {ABC}")).success();
    assert!(shown.contains("properties: version=1.1\n"), "{shown}");
    assert!(shown.contains("kernel: MachineImage/k\n"), "{shown}");
}
