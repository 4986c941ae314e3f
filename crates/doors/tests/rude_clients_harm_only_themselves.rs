//! Hostile and broken input: huge, slow, cut off, malformed.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::Duration;

use doors::{Limits, Settings};
use support::{
    World,
    client::{PATIENCE, Reply, login},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

/// The server still answers others.
async fn is_well(world: &World) {
    assert_eq!(world.ask("GET /cimi/Machine/7", "").await.status, 200);
}

fn impatient() -> Limits {
    Limits {
        handshake: Duration::from_millis(300),
        head: Duration::from_millis(300),
        write_stall: Duration::from_millis(300),
        ..Limits::default()
    }
}

#[tokio::test]
async fn malformed_requests_end_their_connection() {
    // Impatient, because some of these look like the beginning of a request.
    let limits = Limits {
        head: Duration::from_millis(500),
        ..Limits::default()
    };
    let world = World::with(Settings::default(), limits).await;
    let many_headers = format!(
        "GET / HTTP/1.1\r\nHost: x\r\n{}\r\n",
        "A: b\r\n".repeat(5000)
    );
    let long_header = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n",
        "b".repeat(1 << 20)
    );
    let long_path = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "b".repeat(1 << 20));
    for (bytes, statuses) in [
        (b"\r\n\r\n\r\n" as &[u8], &[400u16] as &[u16]),
        (b"hello\r\n\r\n", &[400]),
        (b"GET / HTTP/9.9\r\n\r\n", &[400, 505]),
        (b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n", &[400]),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
            &[400],
        ),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
            &[400],
        ),
        (many_headers.as_bytes(), &[431, 400]),
        (long_header.as_bytes(), &[431, 400]),
        (long_path.as_bytes(), &[414, 431, 400]),
    ] {
        let received = world.raw(bytes).await;
        let shown = String::from_utf8_lossy(bytes.get(..40).unwrap_or(bytes)).into_owned();
        // Or nothing at all: the connection just ends.
        if let Some(reply) = Reply::parse(&received) {
            assert!(
                statuses.contains(&reply.status),
                "{shown}: {}",
                reply.status
            );
        }
    }
    is_well(&world).await;
}

#[tokio::test]
async fn hostile_json_is_a_bad_request() {
    let world = World::start().await;
    let deep = format!(
        "{{\"properties\": {}1{}}}",
        "[".repeat(5000),
        "]".repeat(5000)
    );
    let nested = format!(
        "{}1{}",
        "{\"machineTemplate\":".repeat(100),
        "}".repeat(100)
    );
    let long = format!("{{\"name\": \"{}\"}}", "x".repeat(500_000));
    let many = format!(
        "{{{}}}",
        (0..20_000)
            .map(|n| format!("\"a{n}\": 1"))
            .collect::<Vec<_>>()
            .join(",")
    );
    for body in [
        deep.as_str(),
        &nested,
        &long,
        &many,
        "{\"name\": 1e999}",
        "{\"name\": \"\\ud800\"}",
        "[1]",
        "{\"name\": \"x\"} trailing",
        "{\"properties\": {\"\": \"x\"}}",
    ] {
        let reply = world.ask("POST /cimi/Machine", body).await;
        assert_eq!(reply.status, 400, "{}", &body[..60.min(body.len())]);
        assert!(reply.body.len() < 20_000, "{}", reply.body.len());
    }
    is_well(&world).await;
}

#[tokio::test]
async fn bodies_are_bounded_whether_announced_or_not() {
    let settings = Settings {
        body_at_most: 10_000,
        ..Settings::default()
    };
    let world = World::with(settings, Limits::default()).await;
    let alice = login("alice");
    let announced = format!(
        "POST /cimi/Machine HTTP/1.1\r\nHost: x\r\n{alice}Connection: close\r\nContent-Length: 999999999999\r\n\r\n"
    );
    assert_eq!(
        Reply::parse(&world.raw(announced.as_bytes()).await)
            .unwrap()
            .status,
        413
    );
    let chunk = format!("800\r\n{}\r\n", "x".repeat(0x800));
    let chunked = format!(
        "POST /cimi/Machine HTTP/1.1\r\nHost: x\r\n{alice}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
        chunk.repeat(8)
    );
    let received = world.raw(chunked.as_bytes()).await;
    let shown = String::from_utf8_lossy(&received).into_owned();
    let reply = Reply::parse(&received);
    assert_eq!(reply.map(|reply| reply.status), Some(413), "{shown}");
    is_well(&world).await;
}

#[tokio::test]
async fn slow_clients_are_left() {
    let settings = Settings {
        request_timeout: Duration::from_millis(500),
        ..Settings::default()
    };
    let world = World::with(settings, impatient()).await;

    // Says nothing at all, not even TLS.
    let mut silent = TcpStream::connect(world.address()).await.unwrap();
    let mut buffer = [0; 100];
    let end = timeout(PATIENCE, silent.read(&mut buffer)).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)));

    // Sends its head a byte at a time.
    let mut slow = world.connect().await;
    let begun = Instant::now();
    loop {
        let gone = slow.write_all(b"G").await.is_err() || slow.flush().await.is_err();
        let read = timeout(Duration::from_millis(50), slow.read(&mut buffer)).await;
        if gone || matches!(read, Ok(Ok(0) | Err(_))) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE);
    }

    // Announces a body that never comes.
    let text = format!(
        "POST /cimi/Machine HTTP/1.1\r\nHost: x\r\n{}Content-Length: 10\r\n\r\n{{",
        login("alice")
    );
    let reply = Reply::parse(&world.raw(text.as_bytes()).await).unwrap();
    assert_eq!(reply.status, 503);

    // Waits for an answer that never comes.
    assert_eq!(world.ask("GET /cimi/Machine/slow", "").await.status, 503);

    // Stays connected without a request.
    let mut idle = world.connect().await;
    let end = timeout(PATIENCE, idle.read(&mut buffer)).await.unwrap();
    // With close_notify: a cut connection would be an error.
    assert_eq!(end.unwrap(), 0);
    is_well(&world).await;
}

#[tokio::test]
async fn what_is_not_tls_is_dropped() {
    let world = World::with(Settings::default(), impatient()).await;
    for bytes in [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" as &[u8],
        &[0x16, 0x03, 0x01, 0xff, 0xff, 0x01],
        &[0; 4096],
    ] {
        let mut stream = TcpStream::connect(world.address()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut received = Vec::new();
        let end = timeout(PATIENCE, stream.read_to_end(&mut received)).await;
        assert!(end.is_ok(), "still open");
        assert!(!received.starts_with(b"HTTP"), "answered without TLS");
    }
    is_well(&world).await;
}

#[tokio::test]
async fn connections_are_bounded() {
    let limits = Limits {
        connections: 3,
        ..Limits::default()
    };
    let world = World::with(Settings::default(), limits).await;
    let held = [
        world.connect().await,
        world.connect().await,
        world.connect().await,
    ];
    let mut refused = TcpStream::connect(world.address()).await.unwrap();
    let mut buffer = [0; 10];
    let end = timeout(PATIENCE, refused.read(&mut buffer)).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)));
    drop(held);
    // The places come back; how soon is the scheduler's affair.
    let begun = Instant::now();
    loop {
        let stream = TcpStream::connect(world.address()).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(world.client.clone());
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        if connector.connect(name, stream).await.is_ok() {
            break;
        }
        assert!(begun.elapsed() < PATIENCE);
    }
}
