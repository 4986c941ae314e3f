//! The statuses of CIMI's tables, each by a request that gets it; in JSON and in XML.

#![allow(clippy::unwrap_used, missing_docs)]

use crate::support::{World, client::login};
use doors::{Limits, Settings};

/// Request, further header lines, body, status.
type Row = (&'static str, &'static str, &'static str, u16);

const OF_SUCCESS: &[Row] = &[
    ("GET /cimi", "", "", 200),
    ("GET /cimi/Machine", "", "", 200),
    ("GET /cimi/Machine/7", "", "", 200),
    ("HEAD /cimi/Machine/7", "", "", 200),
    ("GET /cimi/Machine/7/volumes", "", "", 200),
    ("GET /cimi/Machine/7/volumes/8", "", "", 200),
    ("POST /cimi/Credential", "", r#"{"publicKey": "k"}"#, 201),
    (
        "POST /cimi/Machine/7/volumes",
        "",
        r#"{"volume": {"href": "Volume/8"}}"#,
        201,
    ),
    (
        "POST /cimi/MachineImage",
        "",
        r#"{"name": "there-already", "imageLocation": "https://x/y"}"#,
        200,
    ),
    ("PUT /cimi/Volume/8", "", r#"{"name": "x"}"#, 200),
    ("DELETE /cimi/Credential/7", "", "", 204),
    ("DELETE /cimi/Machine/7", "", "", 202),
    ("POST /cimi/Machine/7/stop", "", "", 202),
    ("OPTIONS /cimi/Machine/7", "", "", 204),
    ("GET /cimi/Machine/7", "If-None-Match: *\r\n", "", 304),
];

const OF_FAILURE: &[Row] = &[
    // The body doesn't parse, or isn't what the type has.
    ("POST /cimi/Credential", "", "{", 400),
    ("POST /cimi/Credential", "", "[1]", 400),
    ("POST /cimi/Credential", "", "<Credential>", 400),
    (
        "POST /cimi/Credential",
        "",
        "<!DOCTYPE a [<!ENTITY b \"c\">]><Credential>&b;</Credential>",
        400,
    ),
    ("POST /cimi/Credential", "", "{}", 400),
    ("POST /cimi/Credential", "", r#"{"publicKey": 5}"#, 400),
    (
        "POST /cimi/Credential",
        "",
        r#"{"publicKey": "k", "colour": 1}"#,
        400,
    ),
    (
        "POST /cimi/Credential",
        "",
        r#"{"resourceURI": "http://schemas.dmtf.org/cimi/1/Volume", "publicKey": "k"}"#,
        400,
    ),
    (
        "POST /cimi/Machine",
        "",
        r#"{"machineTemplate": {"machineImage": {"href": "nowhere"}}}"#,
        400,
    ),
    ("PUT /cimi/Volume/8", "", r#"{"colour": 1}"#, 400),
    ("PUT /cimi/Volume/8", "", "", 400),
    // Actions that are none, or not the one of the URL.
    ("POST /cimi/Machine/7", "", r#"{"action": "fly"}"#, 400),
    ("POST /cimi/Machine/7", "", "{}", 400),
    (
        "POST /cimi/Machine/7/stop",
        "",
        r#"{"action": "start"}"#,
        400,
    ),
    (
        "POST /cimi/Machine/7/stop",
        "",
        r#"{"force": "perhaps"}"#,
        400,
    ),
    // Queries.
    ("GET /cimi/Machine?$filter=cpu", "", "", 400),
    ("GET /cimi/Machine?$filter=colour%3D1", "", "", 400),
    (
        "GET /cimi/Machine/7/volumes?$filter=colour%3D1",
        "",
        "",
        400,
    ),
    ("GET /cimi/Machine?$orderby=name:up", "", "", 400),
    ("GET /cimi/Machine?$orderby=colour", "", "", 400),
    ("GET /cimi/Machine?$expand=colour", "", "", 400),
    ("GET /cimi/Machine/7?$expand=cpu", "", "", 400),
    ("GET /cimi/Machine/7?$expand=volumes%5B0%5D", "", "", 400),
    ("GET /cimi?$expand=cars", "", "", 400),
    (
        "GET /cimi/Machine",
        "CIMI-Specification-Version: 2.0\r\n",
        "",
        400,
    ),
    (
        "GET /cimi/Machine",
        "CIMI-Specification-Version:\r\n",
        "",
        400,
    ),
    // What one may not.
    ("GET /cimi/Machine/forbidden", "", "", 403),
    ("PUT /cimi/Volume/forbidden", "", r#"{"name": "x"}"#, 403),
    ("DELETE /cimi/Machine/forbidden", "", "", 403),
    ("POST /cimi/Machine/forbidden/stop", "", "", 403),
    // What isn't there.
    ("GET /cimi/Machine/missing", "", "", 404),
    ("GET /cimi/Nothing", "", "", 404),
    ("GET /cimi/machine", "", "", 404),
    ("GET /cimi/Disk", "", "", 404),
    ("POST /cimi/Machine/7/fly", "", "", 404),
    ("DELETE /cimi/Machine/missing", "", "", 404),
    // What is never done there.
    ("DELETE /cimi/Machine", "", "", 405),
    ("PUT /cimi/Machine", "", "{}", 405),
    ("POST /cimi/Network", "", "{}", 405),
    ("GET /cimi/Machine/7/stop", "", "", 405),
    ("PATCH /cimi/Machine/7", "", "{}", 405),
    ("POST /cimi", "", "{}", 405),
    // Forms that there are not.
    ("GET /cimi/Machine", "Accept: text/html\r\n", "", 406),
    (
        "GET /cimi/Machine",
        "Accept: application/json;q=0\r\n",
        "",
        406,
    ),
    ("GET /cimi/Machine?$format=yaml", "", "", 406),
    ("GET /cimi/authn", "Accept: text/html\r\n", "", 406),
    // What the state doesn't allow.
    ("DELETE /cimi/Machine/busy", "", "", 409),
    ("POST /cimi/Machine/busy/start", "", "", 409),
    (
        "POST /cimi/Credential",
        "",
        r#"{"publicKey": "k", "name": "full"}"#,
        409,
    ),
    // What isn't what the client saw.
    (
        "PUT /cimi/Volume/8",
        "If-Match: \"0-0\"\r\n",
        r#"{"name": "x"}"#,
        412,
    ),
    ("DELETE /cimi/Volume/8", "If-None-Match: *\r\n", "", 412),
    (
        "POST /cimi/Credential",
        "Content-Type: text/plain\r\n",
        "hello",
        415,
    ),
    (
        "POST /cimi/Credential",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "publicKey=k",
        415,
    ),
    // Of the standard, but not here.
    (
        "POST /cimi/Machine/7",
        "",
        r#"{"action": "http://schemas.dmtf.org/cimi/1/action/restore"}"#,
        501,
    ),
    (
        "POST /cimi/System/7",
        "",
        "<Action><action>http://schemas.dmtf.org/cimi/1/action/export</action></Action>",
        501,
    ),
    ("GET /cimi/Machine/broken", "", "", 500),
    ("GET /cimi/Machine/away", "", "", 503),
];

#[tokio::test]
async fn requests_get_the_statuses_of_the_tables() {
    let world = World::start().await;
    for (request, headers, body, status) in OF_SUCCESS.iter().chain(OF_FAILURE) {
        let headers = format!("{}{headers}", login("alice"));
        let reply = world.ask_with(request, &headers, body).await;
        assert_eq!(reply.status, *status, "{request} {body}: {reply:?}");
        assert_eq!(reply.header("cimi-specification-version"), "1.0.1");
    }
}

#[tokio::test]
async fn failures_are_told_in_the_form_that_is_asked_for() {
    let world = World::start().await;
    for (request, headers, body, status) in OF_FAILURE {
        if headers.contains("Accept") || request.contains("$format") {
            continue;
        }
        let headers = format!("{}Accept: application/xml\r\n{headers}", login("alice"));
        let reply = world.ask_with(request, &headers, body).await;
        assert_eq!(reply.status, *status, "{request} {body}: {reply:?}");
        assert_eq!(reply.header("content-type"), "application/xml", "{request}");
        let text = String::from_utf8(reply.body).unwrap();
        assert!(
            text.starts_with(&format!("<error status=\"{status}\"")),
            "{request}: {text}"
        );
    }
}

#[tokio::test]
async fn who_is_not_known_is_asked_to_log_in_and_too_much_is_too_much() {
    let settings = Settings {
        body_at_most: 1_000,
        ..Settings::default()
    };
    let world = World::with(settings, Limits::default()).await;
    for request in [
        "GET /cimi/Machine",
        "POST /cimi/Machine",
        "GET /cimi/Nothing",
    ] {
        let reply = world.ask_with(request, "", "").await;
        assert_eq!(reply.status, 401, "{request}");
        let asked = reply.header("www-authenticate");
        assert!(asked.starts_with("Basic realm=\"StratusLab\""), "{asked}");
    }
    let large = format!(r#"{{"publicKey": "{}"}}"#, "k".repeat(1_000));
    assert_eq!(world.ask("POST /cimi/Credential", &large).await.status, 413);
}

#[tokio::test]
async fn a_wrong_name_in_a_query_is_named() {
    let world = World::start().await;
    let reply = world
        .ask("GET /cimi/Machine?$filter=Name%3D'x'&$orderby=siz", "")
        .await;
    let problem = reply.json();
    assert_eq!(
        problem["violations"],
        serde_json::json!([
            {"path": "$filter", "problem": "has `Name`, which is not an attribute of a Machine; did you mean `name`?"},
            {"path": "$orderby", "problem": "has `siz`, which is not an attribute of a Machine"},
        ])
    );
    // By the tables, these are not wrong.
    for query in [
        "$select=colour",
        "$first=x&$last=y",
        "colour=1",
        "$colour=1",
    ] {
        let reply = world.ask(&format!("GET /cimi/Machine?{query}"), "").await;
        assert_eq!(reply.status, 200, "{query}");
    }
}

#[tokio::test]
async fn who_asks_is_told_in_xml_too() {
    let world = World::start().await;
    let headers = format!("{}Accept: application/xml\r\n", login("root"));
    let reply = world.ask_with("GET /cimi/authn", &headers, "").await;
    assert_eq!(reply.header("content-type"), "application/xml");
    assert_eq!(
        String::from_utf8(reply.body).unwrap(),
        "<Authentication xmlns=\"http://stratuslab.eu/cimi/1\"><identity>root</identity><method>password</method>\
         <methods><method>password</method><method>token</method></methods><roles><role>::ADMIN</role></roles>\
         </Authentication>"
    );
    let nobody = world.ask_with("GET /cimi/authn?$format=xml", "", "").await;
    let text = String::from_utf8(nobody.body).unwrap();
    assert!(
        !text.contains("identity") && text.contains("<methods>"),
        "{text}"
    );
}
