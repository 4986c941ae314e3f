//! Statuses, headers and bodies of CIMI over HTTP, in front of a cloud that is made up.

#![allow(clippy::unwrap_used, missing_docs)]

use crate::support::{World, client::login};
use serde_json::{Value, json};

#[tokio::test]
async fn the_entry_point_answers_at_three_places_and_links_what_the_caller_may_use() {
    let world = World::start().await;
    for path in ["/", "/cimi", "/cimi/"] {
        let reply = world.ask_with(&format!("GET {path}"), "", "").await;
        assert_eq!(reply.status, 200, "{path}");
        let body = reply.json();
        assert_eq!(
            body["resourceURI"],
            "http://schemas.dmtf.org/cimi/1/CloudEntryPoint"
        );
        assert_eq!(body["id"], "CloudEntryPoint");
        assert_eq!(body["baseURI"], "https://cloud.example:8443/cimi/");
        assert_eq!(body.get("machines"), None);
        assert_eq!(body.get("operations"), None);
        assert_eq!(reply.header("cimi-specification-version"), "1.0.1");
        assert_eq!(reply.header("content-type"), "application/json");
        assert!(!reply.header("x-request-id").is_empty());
    }
    let body = world.ask("GET /cimi", "").await.json();
    assert_eq!(
        body["machineConfigs"],
        json!({"href": "MachineConfiguration"})
    );
    assert_eq!(body.get("hosts"), None);
    let body = world.ask_with("GET /cimi", &login("root"), "").await.json();
    assert_eq!(body["hosts"], json!({"href": "Host"}));
}

#[tokio::test]
async fn resources_and_collections_are_shown_by_the_table() {
    let world = World::start().await;
    let reply = world.ask("GET /cimi/Machine/7", "").await;
    assert_eq!(reply.status, 200);
    let body = reply.json();
    assert_eq!(body["id"], "Machine/7");
    assert_eq!(body["disks"], json!({"href": "Machine/7/disks"}));
    assert_eq!(body.get("password"), None);
    assert_eq!(
        body["operations"][2],
        json!({"rel": "http://schemas.dmtf.org/cimi/1/action/start", "href": "Machine/7/start"})
    );

    let body = world
        .ask("GET /cimi/Machine/7?$select=cpu", "")
        .await
        .json();
    let names: Vec<_> = body.as_object().unwrap().keys().cloned().collect();
    assert_eq!(
        names,
        [
            "cpu",
            "disks",
            "id",
            "networkInterfaces",
            "resourceURI",
            "volumes"
        ]
        .into_iter()
        .filter(|name| ["cpu", "id", "resourceURI"].contains(name))
        .collect::<Vec<_>>()
    );

    let body = world
        .ask("GET /cimi/Machine/?$first=2&$last=3", "")
        .await
        .json();
    assert_eq!(
        body["resourceURI"],
        "http://schemas.dmtf.org/cimi/1/MachineCollection"
    );
    assert_eq!(
        (&body["id"], &body["count"]),
        (&json!("Machine"), &json!(5))
    );
    assert_eq!(body["machines"].as_array().unwrap().len(), 2);
    assert_eq!(
        body["operations"],
        json!([{"rel": "add", "href": "Machine"}])
    );

    let body = world.ask("GET /cimi/Machine/7/disks", "").await.json();
    assert_eq!(
        body["resourceURI"],
        "http://schemas.dmtf.org/cimi/1/DiskCollection"
    );
    assert_eq!(body["id"], "Machine/7/disks");

    let head = world.ask("HEAD /cimi/Machine/7", "").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(
        head.header("content-length"),
        reply.header("content-length")
    );
}

#[tokio::test]
async fn what_has_not_changed_is_rendered_once() {
    let world = World::start().await;
    for _ in 0..3 {
        world.ask("GET /cimi/Machine/7", "").await;
    }
    assert_eq!(*world.cloud.renderings.lock(), 1);
    world.ask("GET /cimi/Machine", "").await;
    world.ask("GET /cimi/Machine", "").await;
    // The five members; the seventh machine is none of them.
    assert_eq!(*world.cloud.renderings.lock(), 6);
}

#[tokio::test]
async fn creations_point_to_what_they_made() {
    let world = World::start().await;
    let body = json!({"name": "web", "machineTemplate": {"machineImage": "MachineImage/x"}});
    let reply = world.ask("POST /cimi/Machine", &body.to_string()).await;
    assert_eq!(reply.status, 201);
    assert_eq!(
        reply.header("location"),
        "https://cloud.example:8443/cimi/Machine/web"
    );
    assert_eq!(
        reply.header("cimi-job-uri"),
        "https://cloud.example:8443/cimi/Job/1"
    );
    assert_eq!(reply.json()["state"], "STARTED");
    assert_eq!(
        world.cloud.last_call(),
        r#"create Machine {"machineTemplate":{"machineImage":{"href":"MachineImage/x"}},"name":"web"}"#
    );

    let body = json!({"name": "there-already", "imageLocation": "https://x/y"}).to_string();
    let reply = world.ask("POST /cimi/MachineImage", &body).await;
    assert_eq!((reply.status, reply.header("cimi-job-uri")), (200, ""));

    let body = json!({"volume": {"href": "Volume/8"}, "initialLocation": "/dev/vdc"}).to_string();
    let reply = world.ask("POST /cimi/Machine/7/volumes", &body).await;
    assert_eq!(reply.status, 201);
    assert_eq!(
        reply.header("location"),
        "https://cloud.example:8443/cimi/Machine/7/volumes/8"
    );
}

#[tokio::test]
async fn changes_deletions_and_actions_have_their_statuses() {
    let world = World::start().await;
    let reply = world
        .ask(
            "PUT /cimi/Volume/8?$select=name",
            r#"{"name": "x", "capacity": 5}"#,
        )
        .await;
    assert_eq!(reply.status, 200);
    assert_eq!(world.cloud.last_call(), r#"edit Volume/8 {"name":"x"}"#);

    // Of what only the cloud writes, another value is no wish in a whole representation, and none that is lost in a part.
    for (request, body, status) in [
        (
            "PUT /cimi/Machine/7",
            r#"{"name": "x", "state": "STOPPED"}"#,
            400,
        ),
        (
            "PUT /cimi/Machine/7?$select=state",
            r#"{"state": "STOPPED"}"#,
            400,
        ),
        (
            "PUT /cimi/Machine/7?$select=name",
            r#"{"name": "x", "state": "STOPPED"}"#,
            200,
        ),
        (
            "PUT /cimi/Machine/7",
            r#"{"id": "Machine/7", "name": "x", "state": "STOPPED"}"#,
            200,
        ),
        (
            "PUT /cimi/Machine/7",
            "<Machine><name>x</name><state>STOPPED</state></Machine>",
            400,
        ),
    ] {
        let reply = world.ask(request, body).await;
        assert_eq!(reply.status, status, "{request} {body}");
        if status == 400 {
            let told = String::from_utf8_lossy(&reply.body);
            assert!(told.contains("state") && told.contains("stop"), "{told}");
        }
    }

    let reply = world.ask("DELETE /cimi/Machine/7", "").await;
    assert_eq!((reply.status, reply.body.len()), (202, 0));
    assert_eq!(
        reply.header("cimi-job-uri"),
        "https://cloud.example:8443/cimi/Job/2"
    );
    assert_eq!(world.ask("DELETE /cimi/Credential/7", "").await.status, 204);
    assert_eq!(
        world
            .ask("DELETE /cimi/Machine/7/volumes/8", "")
            .await
            .status,
        202
    );

    for (request, body) in [
        ("POST /cimi/Machine/7/stop", ""),
        ("POST /cimi/Machine/7/stop", "null"),
        ("POST /cimi/Machine/7/stop", r#"{"force": "true"}"#),
        (
            "POST /cimi/Machine/7",
            r#"{"action": "http://http://schemas.dmtf.org/cimi/1/Action/stop"}"#,
        ),
    ] {
        let reply = world.ask(request, body).await;
        assert_eq!((reply.status, reply.body.len()), (202, 0), "{body}");
        assert!(world.cloud.last_call().starts_with("stop Machine/7"));
    }
    let disagreeing = r#"{"action": "start"}"#;
    assert_eq!(
        world
            .ask("POST /cimi/Machine/7/stop", disagreeing)
            .await
            .status,
        400
    );
    let unknown = world
        .ask("POST /cimi/Machine/7", r#"{"action": "fly"}"#)
        .await;
    assert_eq!(unknown.status, 400);
    assert!(
        unknown.json()["detail"]
            .as_str()
            .unwrap()
            .contains("restart")
    );
}

#[tokio::test]
async fn errors_say_what_and_hide_what_is_internal() {
    let world = World::start().await;
    for (id, status) in [
        ("missing", 404),
        ("forbidden", 403),
        ("busy", 409),
        ("full", 409),
        ("away", 503),
        ("broken", 500),
        ("panic", 500),
    ] {
        let reply = world.ask(&format!("GET /cimi/Machine/{id}"), "").await;
        assert_eq!(reply.status, status, "{id}");
        assert_eq!(reply.header("content-type"), "application/problem+json");
        let body = reply.json();
        assert_eq!(body["status"], status);
        assert_eq!(body["code"], status);
        assert_eq!(body["message"], body["detail"]);
        assert_eq!(body["requestId"], reply.header("x-request-id"));
        assert!(!body.to_string().contains("secret"), "{body}");
    }
}

#[tokio::test]
async fn methods_types_versions_and_forms_are_negotiated() {
    let world = World::start().await;
    let alice = login("alice");
    for (request, headers, body, status) in [
        ("GET /cimi/Nothing", "", "", 404),
        ("GET /cimi/Machine/7/nothing", "", "", 404),
        ("GET /elsewhere", "", "", 404),
        ("DELETE /cimi/Machine", "", "", 405),
        ("POST /cimi/Network", "", "{}", 405),
        ("PUT /cimi", "", "{}", 405),
        ("POST /cimi/Job/7/start", "", "{}", 404),
        ("GET /cimi/Machine/7/start", "", "", 405),
        ("BREW /cimi/Machine", "", "", 405),
        ("OPTIONS /cimi/Machine", "", "", 204),
        ("GET /cimi/Machine", "Accept: application/xml\r\n", "", 200),
        ("GET /cimi/Machine", "Accept: text/html\r\n", "", 406),
        (
            "GET /cimi/Machine",
            "Accept: text/html, */*;q=0.1\r\n",
            "",
            200,
        ),
        (
            "GET /cimi/Machine",
            "CIMI-Specification-Version: 2.0\r\n",
            "",
            400,
        ),
        (
            "GET /cimi/Machine",
            "CIMI-Specification-Version: 9.9, 1.0\r\n",
            "",
            200,
        ),
        ("GET /cimi/Machine?$filter=alpha=beta", "", "", 400),
        (
            "GET /cimi/Machine?$filter=name%3D'x'+and+cpu%3E1",
            "",
            "",
            200,
        ),
        ("GET /cimi/Machine?$orderby=a:up", "", "", 400),
        (
            "POST /cimi/Credential",
            "Content-Type: text/plain\r\n",
            "hello",
            415,
        ),
        (
            "POST /cimi/Credential",
            "Content-Type: application/xml\r\n",
            "<Credential/>",
            400,
        ),
        (
            "POST /cimi/Credential",
            "Content-Type: text/plain\r\n",
            r#"{"publicKey": "k"}"#,
            201,
        ),
        ("POST /cimi/Credential", "", "{", 400),
        ("POST /cimi/Credential", "", r#"{"colour": 1}"#, 400),
        (
            "POST /cimi/Credential",
            "Sec-Fetch-Site: cross-site\r\n",
            r#"{"publicKey": "k"}"#,
            403,
        ),
    ] {
        let reply = world
            .ask_with(request, &format!("{alice}{headers}"), body)
            .await;
        assert_eq!(reply.status, status, "{request} {headers} {body} {reply:?}");
        if status == 405 {
            assert!(reply.header("allow").contains("OPTIONS"), "{request}");
        }
    }
    let reply = world
        .ask("POST /cimi/MachineConfiguration", r#"{"cpu": "x"}"#)
        .await;
    let violations = reply.json()["violations"].clone();
    assert_eq!(
        violations,
        json!([
            {"path": "cpu", "problem": "must be a whole number, but is the text \"x\""},
            {"path": "memory", "problem": "is missing; a MachineConfiguration must have it"}
        ])
    );
}

#[tokio::test]
async fn everybody_is_told_how_to_log_in_and_who_they_are() {
    let world = World::start().await;
    let reply = world.ask_with("GET /cimi/authn", "", "").await;
    let body = String::from_utf8_lossy(&reply.body).into_owned();
    assert_eq!(reply.status, 200, "{body}");
    assert!(
        body.contains("\"identity\":null") && body.contains("[\"password\",\"token\"]"),
        "{body}"
    );
    let reply = world.ask("GET /cimi/authn", "").await;
    let body = String::from_utf8_lossy(&reply.body).into_owned();
    assert!(
        body.contains("\"identity\":\"alice\"") && body.contains("\"method\":\"password\""),
        "{body}"
    );
}

#[tokio::test]
async fn who_is_not_known_sees_the_entry_point_the_health_and_the_load_only() {
    let world = World::start().await;
    for request in [
        "GET /cimi/Machine",
        "GET /elsewhere",
        "GET /metrics",
        "GET /stratus/status",
        "POST /stratus/doctor",
        "PUT /cimi",
        "DELETE /cimi/Machine/7",
    ] {
        let reply = world.ask_with(request, "", "").await;
        assert_eq!(reply.status, 401, "{request}");
        assert!(
            reply
                .header("www-authenticate")
                .starts_with("Basic realm=\"StratusLab\"")
        );
    }
    let browser = world
        .ask_with("GET /cimi/Machine", "X-Requested-With: x\r\n", "")
        .await;
    assert_eq!(
        (browser.status, browser.header("www-authenticate")),
        (401, "")
    );
    let wrong = "Authorization: Basic YWxpY2U6d3Jvbmc=\r\n";
    assert_eq!(world.ask_with("GET /cimi", wrong, "").await.status, 401);
    assert_eq!(
        world
            .ask_with("GET /cimi", "Authorization: Bearer x\r\n", "")
            .await
            .status,
        401
    );

    let health = world.ask_with("GET /health", "", "").await;
    assert_eq!(
        (health.status, health.json()),
        (200, json!({"status": "degraded"}))
    );
    let health = world
        .ask_with("GET /health", &login("root"), "")
        .await
        .json();
    assert_eq!(health["checks"][0]["name"], "database");

    let load = world.ask_with("GET /load.txt", "", "").await;
    assert_eq!(
        (load.status, load.header("content-type")),
        (200, "text/plain; charset=utf-8")
    );
    let text = String::from_utf8(load.body.to_vec()).unwrap();
    let (titles, hosts) = text.split_once('\n').unwrap();
    assert_eq!(
        titles,
        "  ID NAME               RVM   TCPU   FCPU   ACPU   TMEM   FMEM   AMEM   STAT"
    );
    assert_eq!(
        hosts,
        "   0 node1                1 2097152 1048576 1048576   2.0G 1024.0M 1024.0M     on\n"
    );

    let known = world.ask("GET /cimi/authn", "").await.json();
    let expected = json!({"identity": "alice", "roles": [], "method": "password", "methods": ["password", "token"]});
    assert_eq!(known, expected);
    assert_eq!(world.ask("GET /metrics", "").await.status, 403);
    let metrics = world.ask_with("GET /metrics", &login("root"), "").await;
    let text = String::from_utf8(metrics.body).unwrap();
    assert!(
        text.contains("stratus_http_requests_total{route=\"/cimi/authn\",status=\"2xx\"}"),
        "{text}"
    );
    assert_eq!(world.ask("GET /stratus/status", "").await.status, 403);
    let doctor = world
        .ask_with("POST /stratus/doctor?repair=true", &login("root"), "")
        .await;
    assert_eq!(doctor.json()["repair"], Value::Bool(true));
}

#[tokio::test]
async fn many_wrong_passwords_have_to_wait() {
    let world = World::start().await;
    let wrong = "Authorization: Basic YWxpY2U6d3Jvbmc=\r\n";
    for _ in 0..5 {
        assert_eq!(world.ask_with("GET /cimi", wrong, "").await.status, 401);
    }
    let reply = world.ask_with("GET /cimi", wrong, "").await;
    assert_eq!(reply.status, 429);
    assert!(!reply.header("retry-after").is_empty());
}
