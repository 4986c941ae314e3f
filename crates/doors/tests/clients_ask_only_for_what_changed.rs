//! Conditional requests: entity tags, 304 and 412.

#![allow(clippy::unwrap_used, missing_docs)]

use crate::support::{World, client::Reply, client::login};

async fn ask(world: &World, request: &str, condition: &str, body: &str) -> Reply {
    let headers = format!("{}{condition}\r\n", login("alice"));
    world.ask_with(request, &headers, body).await
}

#[tokio::test]
async fn what_a_client_has_is_not_sent_again() {
    let world = World::start().await;
    for path in [
        "/cimi",
        "/cimi/Machine/7",
        "/cimi/Machine/7?$select=name",
        "/cimi/Machine/7?$expand=*",
        "/cimi/Machine",
        "/cimi/Machine?$expand=machineImage",
        "/cimi/Machine/7/disks",
        "/cimi/Machine/7/volumes/8",
    ] {
        let first = world.ask(&format!("GET {path}"), "").await;
        let tag = first.header("etag").to_owned();
        assert!(tag.starts_with('"') && tag.len() > 10, "{path} {tag}");
        assert_eq!(first.header("cache-control"), "no-cache");
        for condition in [tag.clone(), format!("\"other\", W/{tag}"), "*".to_owned()] {
            let condition = format!("If-None-Match: {condition}");
            for method in ["GET", "HEAD"] {
                let again = ask(&world, &format!("{method} {path}"), &condition, "").await;
                assert_eq!((again.status, again.body.len()), (304, 0), "{path}");
                assert_eq!(again.header("etag"), tag);
            }
        }
        let other = ask(&world, &format!("GET {path}"), "If-None-Match: \"x\"", "").await;
        assert_eq!((other.status, other.body), (200, first.body), "{path}");
    }
    let whole = world.ask("GET /cimi/Machine/7", "").await;
    let part = world.ask("GET /cimi/Machine/7?$select=name", "").await;
    let other = world.ask("GET /cimi/Machine/8", "").await;
    assert_ne!(whole.header("etag"), part.header("etag"));
    assert_ne!(whole.header("etag"), other.header("etag"));
}

#[tokio::test]
async fn what_changed_since_is_not_changed() {
    let world = World::start().await;
    let tag = world.ask("GET /cimi/Volume/8?$format=xml", "").await;
    let same = format!("If-Match: {}", tag.header("etag"));
    let member = world.ask("GET /cimi/Machine/7/volumes/8", "").await;
    let member = format!("If-Match: {}", member.header("etag"));
    let machine = world.ask("GET /cimi/Machine/7", "").await;
    let machine = format!("If-Match: {}", machine.header("etag"));
    let name = r#"{"name": "x"}"#;
    for (request, condition, body, status) in [
        ("PUT /cimi/Volume/8", same.as_str(), name, 200),
        ("PUT /cimi/Volume/8", "If-Match: *", name, 200),
        ("PUT /cimi/Volume/8", "If-None-Match: \"x\"", name, 200),
        ("DELETE /cimi/Volume/8", &same, "", 204),
        ("POST /cimi/Machine/7/stop", &machine, "", 202),
        ("DELETE /cimi/Machine/7/volumes/8", &member, "", 202),
        // A member is its machine's: what is known of this counts.
        ("DELETE /cimi/Machine/7/volumes/8", &machine, "", 202),
        ("DELETE /cimi/Machine/7/volumes/8", &same, "", 412),
        (
            "POST /cimi/Machine/7/volumes",
            "If-Match: \"x\"",
            r#"{"volume": {"href": "Volume/8"}}"#,
            412,
        ),
        ("PUT /cimi/Volume/8", "If-Match: \"x\"", name, 412),
        ("PUT /cimi/Volume/9", &same, name, 412),
        ("PUT /cimi/Volume/8", "If-None-Match: *", name, 412),
        ("DELETE /cimi/Volume/8", "If-Match: \"x\"", "", 412),
        ("POST /cimi/Machine/7/stop", "If-Match: \"x\"", "", 412),
        (
            "POST /cimi/Machine/7",
            "If-Match: \"x\"",
            r#"{"action": "stop"}"#,
            412,
        ),
        (
            "DELETE /cimi/Machine/7/volumes/8",
            "If-Match: \"x\"",
            "",
            412,
        ),
        ("PUT /cimi/Volume/missing", "If-Match: *", name, 404),
    ] {
        let before = world.cloud.calls.lock().len();
        let reply = ask(&world, request, condition, body).await;
        assert_eq!(reply.status, status, "{request} {condition} {reply:?}");
        let called = world.cloud.calls.lock().len() > before;
        assert_eq!(called, status < 300, "{request} {condition}");
    }
}
