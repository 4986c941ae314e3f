//! Server-sent events of a collection: how they are asked for, written, and ended.

#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use crate::support::{
    World,
    client::{PATIENCE, login},
};
use doors::{Limits, Settings};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

#[tokio::test]
async fn a_followed_collection_outlasts_the_request_timeout_and_ends_with_the_server() {
    let settings = Settings {
        request_timeout: Duration::from_millis(200),
        ..Settings::default()
    };
    let world = World::with(settings, Limits::default()).await;
    let mut stream = world.connect().await;
    let text = format!(
        "GET /cimi/Machine?$select=name&$filter=cpu%3D1 HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nLast-Event-ID: 40\r\n{}\r\n",
        login("alice")
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut received = Vec::new();
    while !String::from_utf8_lossy(&received).contains("\"revision\"") {
        let mut buffer = [0; 4000];
        let length = timeout(PATIENCE, stream.read(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        assert!(length > 0);
        received.extend_from_slice(&buffer[..length]);
    }
    assert_eq!(world.cloud.last_call(), "watch Machine Revision(40) true");
    let more = timeout(Duration::from_millis(600), stream.read(&mut [0; 100])).await;
    assert!(more.is_err(), "it ended with the time-out of requests");
    let end = tokio::spawn(world.running.end());
    let rest = timeout(PATIENCE, stream.read_to_end(&mut received))
        .await
        .unwrap();
    assert!(rest.is_ok(), "cut off: {rest:?}");
    timeout(PATIENCE, end).await.unwrap().unwrap();
    assert!(received.ends_with(b"0\r\n\r\n"));
    let text = String::from_utf8(received).unwrap();
    // Of what was selected, nothing became otherwise.
    assert_eq!(text.matches("event: changed").count(), 1, "{text}");
    for part in [
        "content-type: text/event-stream",
        "cache-control: no-store",
        "retry: 1000\n\n",
        "event: reset\ndata: {}\n\n",
        "event: changed\ndata: {\"resourceURI\":\"http://schemas.dmtf.org/cimi/1/Machine\",\"id\":\"Machine/1\",\"name\":\"1\"}\n\n",
        "event: removed\ndata: {\"id\":\"Machine/2\"}\n\n",
        "id: 41\nevent: current\ndata: {\"revision\":41}\n\n",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[tokio::test]
async fn what_a_resource_has_of_its_own_is_followed_too() {
    let world = World::start().await;
    let mut stream = world.connect().await;
    let text = format!(
        "GET /cimi/Machine/7/disks?$since=now HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n{}\r\n",
        login("alice")
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut received = Vec::new();
    while !String::from_utf8_lossy(&received).contains("\"revision\"") {
        let read = timeout(PATIENCE, stream.read_buf(&mut received)).await;
        assert!(read.unwrap().unwrap() > 0);
    }
    let calls = world.cloud.calls.lock().join("\n");
    assert!(calls.contains("watch Machine/7/disks Now"), "{calls}");
    let text = String::from_utf8(received).unwrap();
    assert!(text.contains("schemas.dmtf.org/cimi/1/Disk"), "{text}");
}

#[tokio::test]
async fn messages_for_everybody_are_followed_without_a_login() {
    let world = World::start().await;
    let mut stream = world.connect().await;
    let text = "GET /cimi/ServiceMessage?$since=now HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n";
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut received = Vec::new();
    while !String::from_utf8_lossy(&received).contains("\"revision\"") {
        let read = timeout(PATIENCE, stream.read_buf(&mut received)).await;
        assert!(read.unwrap().unwrap() > 0);
    }
    assert!(received.starts_with(b"HTTP/1.1 200"));
    let calls = world.cloud.calls.lock().join("\n");
    assert!(calls.contains("watch ServiceMessage Now"), "{calls}");
}

#[tokio::test]
async fn what_can_not_be_followed_says_so() {
    let world = World::start().await;
    let headers = format!("{}Accept: text/event-stream\r\n", login("alice"));
    for (request, more, status) in [
        ("GET /cimi/Machine", "Last-Event-ID: x\r\n", 400),
        ("GET /cimi/Machine?$filter=a", "", 400),
        ("GET /cimi/Machine?$format=yaml", "", 406),
        ("GET /cimi/Machine/7", "", 406),
        ("GET /cimi/Machine/7/disks/1", "", 406),
        ("GET /cimi/Machine/missing/disks", "", 404),
        ("GET /cimi/Machine/7/disks?$filter=vmid%3D1", "", 400),
        ("POST /cimi/Machine", "", 406),
        ("HEAD /cimi/Machine", "", 200),
    ] {
        let reply = world
            .ask_with(request, &format!("{headers}{more}"), "")
            .await;
        assert_eq!(reply.status, status, "{request} {reply:?}");
    }
    let nobody = world
        .ask_with("GET /cimi/Machine", "Accept: text/event-stream\r\n", "")
        .await;
    assert_eq!(nobody.status, 401);
}
