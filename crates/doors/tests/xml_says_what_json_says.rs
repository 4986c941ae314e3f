//! CIMI in XML beside JSON: what goes out, what comes in, errors, and which of the two it is.

#![allow(clippy::unwrap_used, missing_docs)]

use crate::support::{World, client::Reply, client::login};
use cimi::model::{
    Kind,
    xml::{Expected, read},
};
use serde_json::{Value, json};

fn xml(reply: &Reply, expected: Expected) -> Value {
    assert_eq!(reply.header("content-type"), "application/xml", "{reply:?}");
    read(std::str::from_utf8(&reply.body).unwrap(), expected).unwrap()
}

/// A request of alice's that wants XML.
async fn ask(world: &World, request: &str, body: &str) -> Reply {
    let headers = format!("{}Accept: application/xml\r\n", login("alice"));
    world.ask_with(request, &headers, body).await
}

#[tokio::test]
async fn everything_that_is_shown_says_the_same_in_both_forms() {
    let world = World::start().await;
    for (path, expected) in [
        ("/cimi", Expected::Representation(Kind::CloudEntryPoint)),
        ("/cimi/Machine/7", Expected::Representation(Kind::Machine)),
        ("/cimi/Job/7", Expected::Representation(Kind::Job)),
        ("/cimi/User/7", Expected::Representation(Kind::User)),
        (
            "/cimi/Machine/7?$select=cpu,operations",
            Expected::Representation(Kind::Machine),
        ),
        (
            "/cimi/Machine/7/volumes/8",
            Expected::Representation(Kind::MachineVolume),
        ),
        ("/cimi/Machine", Expected::Collection(Kind::Machine)),
        (
            "/cimi/MachineConfiguration?$last=2",
            Expected::Collection(Kind::MachineConfiguration),
        ),
        ("/cimi/Machine/7/disks", Expected::Collection(Kind::Disk)),
        (
            "/cimi/Machine/7?$expand=*",
            Expected::Representation(Kind::Machine),
        ),
        (
            "/cimi?$expand=machines,jobs",
            Expected::Representation(Kind::CloudEntryPoint),
        ),
    ] {
        let in_json = world.ask(&format!("GET {path}"), "").await;
        let in_xml = ask(&world, &format!("GET {path}"), "").await;
        assert_eq!((in_json.status, in_xml.status), (200, 200), "{path}");
        assert_eq!(in_json.header("vary"), "Accept");
        assert_ne!(in_json.header("etag"), in_xml.header("etag"));
        assert_eq!(xml(&in_xml, expected), in_json.json(), "{path}");
        let head = ask(&world, &format!("HEAD {path}"), "").await;
        assert_eq!(
            (head.header("content-length"), head.body.len()),
            (in_xml.header("content-length"), 0)
        );
    }
    let machine = world.ask("GET /cimi/Machine/7?$format=xml", "").await;
    let text = String::from_utf8(machine.body).unwrap();
    assert!(
        text.starts_with("<Machine xmlns=\"http://schemas.dmtf.org/cimi/1\"><id>Machine/7</id>"),
        "{text}"
    );
    let machine = ask(&world, "GET /cimi/Machine/7?$format=json", "").await;
    assert_eq!(machine.header("content-type"), "application/json");
}

#[tokio::test]
async fn references_are_expanded_in_place() {
    let world = World::start().await;
    let body = world
        .ask("GET /cimi/Machine/7?$expand=machineImage,disks", "")
        .await
        .json();
    assert_eq!(body["machineImage"]["href"], "MachineImage/x");
    assert_eq!(body["machineImage"]["name"], "x");
    assert_eq!(
        body["disks"]["resourceURI"],
        "http://schemas.dmtf.org/cimi/1/DiskCollection"
    );
    assert_eq!(body["volumes"], json!({"href": "Machine/7/volumes"}));
    let body = world
        .ask("GET /cimi/Machine?$expand=machineImage&$last=2", "")
        .await
        .json();
    assert_eq!(body["machines"][1]["machineImage"]["id"], "MachineImage/x");
    let body = world.ask("GET /cimi?$expand=machines", "").await.json();
    assert_eq!(body["machines"]["machines"][0]["id"], "Machine/1");
    assert_eq!(body["jobs"], json!({"href": "Job"}));
}

#[tokio::test]
async fn a_body_in_xml_asks_for_what_the_one_in_json_does() {
    let world = World::start().await;
    let header = "xmlns=\"http://schemas.dmtf.org/cimi/1\"";
    for (request, in_json, in_xml, status) in [
        (
            "POST /cimi/Machine",
            r#"{"name": "web", "properties": {"a": "b"}, "machineTemplate": {"machineConfig": {"cpu": 1, "memory": 1024},
                "machineImage": {"href": "MachineImage/x"}, "context": {"k": " v "}}}"#
                .to_owned(),
            format!(
                "<MachineCreate {header}>\n <name>\n web</name><property key='a'>b</property><machineTemplate>\
                 <machineConfig><cpu>1</cpu><memory>1024</memory></machineConfig>\
                 <machineImage href='MachineImage/x'/><context key='k'> v </context></machineTemplate></MachineCreate>"
            ),
            201,
        ),
        (
            "POST /cimi/MachineConfiguration",
            r#"{"cpu": 2, "memory": 2048, "disks": [{"capacity": 5}]}"#.to_owned(),
            "<MachineConfiguration><disk><capacity>5</capacity></disk><memory>2048</memory><cpu>2</cpu></MachineConfiguration>"
                .to_owned(),
            201,
        ),
        (
            "POST /cimi/Machine/7/volumes",
            r#"{"volume": {"href": "Volume/8"}, "initialLocation": "/dev/vdc"}"#.to_owned(),
            format!("<MachineVolume {header}><initialLocation>/dev/vdc</initialLocation><volume href='Volume/8'/></MachineVolume>"),
            201,
        ),
        (
            "PUT /cimi/Volume/8",
            r#"{"name": "x"}"#.to_owned(),
            format!("<Volume {header}><name>x</name></Volume>"),
            200,
        ),
        (
            "PUT /cimi/Volume/8?$select=name,description",
            r#"{"name": "x", "capacity": 5}"#.to_owned(),
            "<Volume><name>x</name><capacity>5</capacity></Volume>".to_owned(),
            200,
        ),
        (
            "PUT /cimi/Volume/8",
            r#"{"id": "Volume/8", "name": "x"}"#.to_owned(),
            "<Volume><id>Volume/8</id><name>x</name></Volume>".to_owned(),
            200,
        ),
        (
            "POST /cimi/Machine/7/stop",
            r#"{"force": true}"#.to_owned(),
            format!("<Action {header}><force>true</force></Action>"),
            202,
        ),
        (
            "POST /cimi/Machine/7",
            r#"{"action": "http://schemas.dmtf.org/cimi/1/action/stop"}"#.to_owned(),
            format!("<Action {header}><action>http://schemas.dmtf.org/cimi/1/action/stop</action></Action>"),
            202,
        ),
    ] {
        let reply = world.ask(request, &in_json).await;
        assert_eq!(reply.status, status, "{request} {in_json} {reply:?}");
        let wanted = world.cloud.last_call();
        for label in ["application/xml", "application/json", "text/plain"] {
            let headers = format!("{}Content-Type: {label}\r\n", login("alice"));
            let reply = world.ask_with(request, &headers, &in_xml).await;
            assert_eq!(reply.status, status, "{request} {in_xml} {reply:?}");
            assert_eq!(world.cloud.last_call(), wanted, "{request}");
        }
    }
    let machine = ask(&world, "GET /cimi/Machine/7", "").await.body;
    let reply = ask(
        &world,
        "PUT /cimi/Machine/7",
        std::str::from_utf8(&machine).unwrap(),
    )
    .await;
    assert_eq!(reply.status, 200);
    xml(&reply, Expected::Representation(Kind::Machine));
    assert!(
        world
            .cloud
            .last_call()
            .contains(r#""properties":{"k":"v"}"#)
    );
    let created = ask(
        &world,
        "POST /cimi/Credential",
        "<CredentialCreate><credentialTemplate><publicKey>k</publicKey></credentialTemplate></CredentialCreate>",
    )
    .await;
    assert_eq!(created.status, 201);
    assert_eq!(
        xml(&created, Expected::Representation(Kind::Credential))["id"],
        "Credential/new"
    );
}

#[tokio::test]
async fn errors_come_in_the_form_that_was_asked_for() {
    let world = World::start().await;
    for (request, body, status) in [
        ("GET /cimi/Machine/missing", "", 404),
        ("GET /nowhere?a=%3Cb%3E", "", 404),
        ("DELETE /cimi/Machine", "", 405),
        ("GET /cimi/Machine/broken", "", 500),
        (
            "POST /cimi/MachineConfiguration",
            "<MachineConfiguration><cpu>x</cpu></MachineConfiguration>",
            400,
        ),
        (
            "POST /cimi/Credential",
            "<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><Credential><publicKey>&b;</publicKey></Credential>",
            400,
        ),
        ("POST /cimi/Credential", "<Credential>", 400),
        ("POST /cimi/Credential", "<Volume/>", 400),
        (
            "POST /cimi/Credential",
            "<Credential><colour>red</colour></Credential>",
            400,
        ),
        (
            "PUT /cimi/Volume/8",
            "<Volume xmlns='http://schemas.dmtf.org/cimi/2'/>",
            400,
        ),
    ] {
        let reply = ask(&world, request, body).await;
        assert_eq!(reply.status, status, "{request} {body} {reply:?}");
        assert_eq!(reply.header("content-type"), "application/xml");
        let text = String::from_utf8(reply.body).unwrap();
        assert!(
            text.starts_with(&format!("<error status=\"{status}\" url=\"/")),
            "{text}"
        );
        assert!(
            text.contains(&format!("<code>{status}</code><message>")),
            "{text}"
        );
        assert!(
            text.ends_with("</error>") && !text.contains("secret") && !text.contains("root:"),
            "{text}"
        );
        if text.contains("colour") || text.contains("<cpu>") {
            assert!(text.contains("<violation path=\"c"), "{text}");
        }
    }
    let nobody = world
        .ask_with("GET /cimi/Machine", "Accept: application/xml\r\n", "")
        .await;
    assert_eq!(
        (nobody.status, nobody.header("content-type")),
        (401, "application/xml")
    );
    let html = format!("{}Accept: text/html\r\n", login("alice"));
    let reply = world.ask_with("GET /cimi/Machine", &html, "").await;
    assert_eq!(
        (reply.status, reply.header("content-type")),
        (406, "application/problem+json")
    );
}
