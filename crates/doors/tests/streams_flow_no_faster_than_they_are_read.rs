//! Consoles, uploads, HTTP/2, and how a server ends.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{sync::Arc, time::Duration};

use crate::support::{
    FakeCloud, World,
    client::{PATIENCE, Reply, login},
};
use bytes::Bytes;
use doors::{Limits, Settings};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

#[tokio::test]
async fn a_console_is_shown_from_where_it_was_asked_for() {
    let world = World::start().await;
    let reply = world
        .ask("GET /cimi/Machine/7/console?offset=40&last=100", "")
        .await;
    assert_eq!(
        (reply.status, reply.body.as_slice()),
        (200, b"login: " as &[u8])
    );
    assert_eq!(reply.header("x-console-start"), "41");
    assert!(reply.header("content-type").starts_with("text/plain"));
    assert_eq!(
        world.cloud.last_call(),
        "console 7 ConsoleRange { offset: Some(40), last: Some(100), follow: false }"
    );
    assert_eq!(
        world
            .ask("GET /cimi/Machine/7/console?offset=x", "")
            .await
            .status,
        400
    );
}

#[tokio::test]
async fn a_followed_console_outlasts_the_request_timeout_and_ends_with_the_server() {
    let settings = Settings {
        request_timeout: Duration::from_millis(200),
        ..Settings::default()
    };
    let world = World::with(settings, Limits::default()).await;
    let mut stream = world.connect().await;
    let text = format!(
        "GET /cimi/Machine/7/console?follow=true HTTP/1.1\r\nHost: x\r\n{}\r\n",
        login("alice")
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut received = Vec::new();
    while !String::from_utf8_lossy(&received).contains("login: ") {
        let mut buffer = [0; 1000];
        let length = timeout(PATIENCE, stream.read(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        assert!(length > 0);
        received.extend_from_slice(&buffer[..length]);
    }
    let mut buffer = [0; 1000];
    let more = timeout(Duration::from_millis(600), stream.read(&mut buffer)).await;
    assert!(more.is_err(), "it ended with the time-out of requests");
    let end = tokio::spawn(world.running.end());
    let rest = timeout(PATIENCE, stream.read_to_end(&mut received))
        .await
        .unwrap();
    assert!(rest.is_ok(), "cut off: {rest:?}");
    assert!(received.ends_with(b"0\r\n\r\n"));
    timeout(PATIENCE, end).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_upload_is_taken_whole_and_slowly_if_need_be() {
    let world = World::start().await;
    *world.cloud.upload_pause.lock() = Duration::from_millis(20);
    let size = 64 << 20;
    let head = format!(
        "PUT /cimi/MachineImage/7/data HTTP/1.1\r\nHost: x\r\n{}Connection: close\r\nContent-Length: {size}\r\n\r\n",
        login("alice")
    );
    let mut stream = world.connect().await;
    stream.write_all(head.as_bytes()).await.unwrap();
    let begun = |cloud: &FakeCloud| !cloud.calls.lock().is_empty();
    world.cloud.until(begun).await;
    let piece = vec![7; 1 << 16];
    // As long as little is taken, little can be sent: what is between fits into buffers.
    let mut sent = 0;
    while sent < size {
        let written = timeout(Duration::from_millis(300), stream.write_all(&piece)).await;
        if written.is_err() {
            break;
        }
        written.unwrap().unwrap();
        sent += piece.len();
        let taken = *world.cloud.uploaded.lock();
        assert!(
            sent - taken.min(sent) < 24 << 20,
            "{sent} sent, {taken} taken"
        );
        if sent > 32 << 20 {
            break;
        }
    }
    assert!(world.cloud.calls.lock()[0].starts_with(&format!("upload 7 Some({size})")));
    drop(stream);

    *world.cloud.upload_pause.lock() = Duration::ZERO;
    let before = *world.cloud.uploaded.lock();
    let body = "x".repeat(3 << 20);
    let reply = world.ask("PUT /cimi/MachineImage/8/data", &body).await;
    assert_eq!(
        (reply.status, &reply.json()["id"]),
        (200, &"MachineImage/8".into())
    );
    assert!(*world.cloud.uploaded.lock() - before >= body.len());
}

#[tokio::test]
async fn an_upload_that_stops_is_given_up() {
    let settings = Settings {
        upload_patience: Duration::from_millis(200),
        ..Settings::default()
    };
    let world = World::with(settings, Limits::default()).await;
    let text = format!(
        "PUT /cimi/MachineImage/7/data HTTP/1.1\r\nHost: x\r\n{}Content-Length: 10\r\n\r\nabc",
        login("alice")
    );
    let reply = Reply::parse(&world.raw(text.as_bytes()).await).unwrap();
    assert_eq!(reply.status, 400);
    assert!(
        reply.json()["detail"]
            .as_str()
            .unwrap()
            .contains("nothing was received")
    );
}

#[tokio::test]
async fn http2_is_spoken_to_those_who_ask_for_it() {
    let world = World::start().await;
    let mut config = (*world.client).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(world.address()).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let stream = connector.connect(name, stream).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    let driver = tokio::spawn(connection);
    let authorization = login("alice");
    let authorization = authorization.trim().split_once(": ").unwrap().1;
    let request = |method: &str, path: &str, body: &'static str| {
        http::Request::builder()
            .method(method)
            .uri(format!("https://two.example{path}"))
            .header("authorization", authorization)
            .body(Full::new(Bytes::from_static(body.as_bytes())))
            .unwrap()
    };
    let many: Vec<_> = (0..20)
        .map(|n| sender.send_request(request("GET", &format!("/cimi/Machine/{n}"), "")))
        .collect();
    for (n, answer) in many.into_iter().enumerate() {
        let answer = timeout(PATIENCE, answer).await.unwrap().unwrap();
        assert_eq!(answer.status(), 200);
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&body).contains(&format!("Machine/{n}\"")));
    }
    let created = sender
        .send_request(request("POST", "/cimi/Credential", r#"{"publicKey": "k"}"#))
        .await
        .unwrap();
    assert_eq!(
        created.headers()["location"],
        "https://two.example/cimi/Credential/new"
    );
    let head = sender
        .send_request(request("HEAD", "/cimi/Machine/7", ""))
        .await
        .unwrap();
    assert!(head.headers().contains_key("content-length"));
    drop(sender);
    timeout(PATIENCE, driver).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn an_ending_server_finishes_what_it_began() {
    let limits = Limits {
        drain: Duration::from_secs(30),
        ..Limits::default()
    };
    let world = World::with(Settings::default(), limits).await;
    let mut idle = world.connect().await;
    let mut busy = world.connect().await;
    let head = format!(
        "PUT /cimi/MachineImage/7/data HTTP/1.1\r\nHost: x\r\n{}Content-Length: 6\r\n\r\nabc",
        login("alice")
    );
    busy.write_all(head.as_bytes()).await.unwrap();
    world.cloud.until(|cloud| *cloud.uploaded.lock() >= 3).await;
    let address = world.address();
    let end = tokio::spawn(world.running.end());
    let mut buffer = Vec::new();
    timeout(PATIENCE, idle.read_to_end(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    assert!(buffer.is_empty());
    let refused = timeout(PATIENCE, async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    refused.await.unwrap();
    assert!(!end.is_finished());
    busy.write_all(b"def").await.unwrap();
    timeout(PATIENCE, busy.read_to_end(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(Reply::parse(&buffer).unwrap().status, 200);
    timeout(PATIENCE, end).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_does_not_finish_is_cut_off_in_the_end() {
    let limits = Limits {
        drain: Duration::from_millis(200),
        ..Limits::default()
    };
    let world = World::with(Settings::default(), limits).await;
    let mut stream = world.connect().await;
    let text = format!(
        "GET /cimi/Machine/slow HTTP/1.1\r\nHost: x\r\n{}\r\n",
        login("alice")
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    world.cloud.until(|cloud| cloud.last_call() == "slow").await;
    timeout(PATIENCE, world.running.end()).await.unwrap();
}
