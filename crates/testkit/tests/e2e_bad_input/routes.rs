//! Requests to every route: bodies that are no documents, paths that lead nowhere, questions without sense.

use bytes::Bytes;
use cimi::model::{Kind, describe};
use serde_json::json;
use testkit::{TestCloud, firmware_only_image, skip_unless};

use super::{collections, judge, survived};

const DEEP: usize = 20_000;

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
    let bodies: [(&str, &str, Bytes); 18] = [
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
        (
            "deep XML",
            "application/xml",
            format!("<Machine>{}", "<a>".repeat(DEEP)).into(),
        ),
        (
            "many elements",
            json,
            format!("<Machine>{}</Machine>", "<address/>".repeat(50_000)).into(),
        ),
        (
            "XML in UTF-16",
            "application/xml",
            Bytes::from_static(b"\xfe\xff\0<\0M\0/\0>"),
        ),
        (
            "another root",
            "application/xml",
            "<Nothing xmlns='urn:x'/>".into(),
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
