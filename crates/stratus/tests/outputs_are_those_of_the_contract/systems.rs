//! Systems: made, shown, asked as one, removed.

use serde_json::{Value, json};

use super::{U, V, unknown};
use crate::support::{Cloud, Reply, collection};

fn system(uuid: &str, name: &str) -> Value {
    json!({ "id": format!("System/{uuid}"), "name": name, "state": "STARTED" })
}

fn cloud() -> Cloud {
    Cloud::start(|seen| {
        let accepted = || Reply(202, Vec::new(), Vec::new()).with("cimi-job-uri", "Job/1");
        let line = seen.line.as_str();
        let of = |path: &str| line == format!("GET /cimi/System/{U}{path}");
        if of("") {
            return Reply::json(200, &system(U, "site"));
        }
        if of("/machines?$expand=machine") {
            let machine =
                json!({ "href": "Machine/x", "vmid": 7, "name": "web1", "state": "STARTED" });
            let gone = json!({ "href": format!("Machine/{V}") });
            let members = [json!({ "machine": machine }), json!({ "machine": gone })];
            return Reply::json(200, &collection("systemMachines", &members));
        }
        if line.starts_with(&format!("GET /cimi/System/{U}/")) {
            return Reply::json(200, &collection("none", &[]));
        }
        match line {
            "GET /cimi/System" => {
                let all = [system(U, "site"), system(V, "other")];
                Reply::json(200, &collection("systems", &all))
            }
            "POST /cimi/System" => {
                Reply::json(201, &system(U, "site")).with("cimi-job-uri", "Job/1")
            }
            "GET /cimi/Job/1" => Reply::json(
                200,
                &json!({ "state": "FAILED", "statusMessage": "web1: no room" }),
            ),
            _ if line.contains(V) => Reply::refusal(409, "it is busy"),
            _ if line.starts_with("POST") || line.starts_with("DELETE") => accepted(),
            _ => unknown(seen),
        }
    })
}

#[test]
fn systems_are_listed_and_shown_with_their_parts() {
    let cloud = cloud();
    assert_eq!(
        cloud.run("system list").success(),
        format!(
            "UUID                                  NAME   STATE    REASON\n{U}  site   STARTED\n{V}  other  STARTED\n"
        )
    );
    let shown = format!(
        "{U} site STARTED\nTYPE     ID                                    NAME  STATE\n\
         Machine  7                                     web1  STARTED\nMachine  {V}\n"
    );
    for named in ["site", U] {
        let printed = cloud.run(&format!("system show {named}")).success();
        assert_eq!(printed, shown);
    }
    let printed = cloud.run("system show site --format json").success();
    let printed: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(
        printed["parts"][0],
        json!({ "type": "Machine", "id": "7", "name": "web1", "state": "STARTED" })
    );
    let nobody = cloud.run("system show nothing");
    assert_eq!(
        (nobody.status, nobody.stdout.as_str()),
        (255, "Error: there is no system 'nothing'\n")
    );
}

#[test]
fn systems_are_made_of_a_file_or_a_template() {
    let cloud = cloud();
    let components = json!([{ "name": "data", "type": "Volume" }]);
    let file = json!({ "name": "a", "componentDescriptors": components });
    std::fs::write(cloud.home.path().join("site.json"), file.to_string()).unwrap();
    let made = cloud.run("system create --name site site.json").success();
    assert_eq!(made, format!("SYSTEM {U}\n"));
    let sent = cloud.requests().last().unwrap().json();
    assert_eq!(
        sent,
        json!({ "name": "site", "systemTemplate": { "componentDescriptors": components } })
    );
    cloud
        .run(&format!("system create --template {V}"))
        .success();
    let sent = cloud.requests().last().unwrap().json();
    assert_eq!(
        sent,
        json!({ "systemTemplate": { "href": format!("SystemTemplate/{V}") } })
    );
    let failed = cloud.run("system create site.json --wait -q");
    assert_eq!(
        (failed.status, failed.stdout),
        (255, format!("SYSTEM {U}\nError: web1: no room\n"))
    );
    std::fs::write(cloud.home.path().join("broken"), "{").unwrap();
    for (words, status) in [
        ("system create", 2),
        ("system create broken", 1),
        ("system create absent", 255),
        ("system create --template x", 1),
    ] {
        assert_eq!(cloud.run(words).status, status, "{words}");
    }
}

#[test]
fn systems_are_asked_as_one_and_one_that_is_busy_keeps_no_other() {
    let cloud = cloud();
    cloud.run("system stop site --force").success();
    assert_eq!(
        cloud.requests().last().unwrap().json(),
        json!({ "action": "http://schemas.dmtf.org/cimi/1/action/stop", "force": true })
    );
    let result = cloud.run("system delete other site --format json");
    assert_eq!(
        (result.status, result.stdout),
        (255, format!("[\n  \"{U}\"\n]\nError: other: it is busy\n"))
    );
    assert_eq!(
        cloud.lines().last().unwrap(),
        &format!("DELETE /cimi/System/{U}")
    );
    assert_eq!(cloud.run("system pause site --force").status, 2);
    let waited = cloud.run("system start site --wait -q");
    assert_eq!(
        (waited.status, waited.stdout.as_str()),
        (255, "Error: web1: no room\n")
    );
}
