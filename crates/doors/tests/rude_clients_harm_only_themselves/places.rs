//! Who holds much at once: connections, requests, bodies.

use base64::{Engine, prelude::BASE64_STANDARD};
use doors::{Limits, Settings};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::support::{
    World,
    client::{PATIENCE, Reply, login},
};

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

#[tokio::test]
async fn requests_at_once_are_bounded() {
    let settings = Settings {
        requests: 5,
        requests_per_caller: 2,
        ..Settings::default()
    };
    let world = World::with(settings, Limits::default()).await;
    // Known from here on: who isn't yet is counted by network until the password is checked.
    for user in ["alice", "root"] {
        until_status(&world, user, "", 200).await;
    }
    let slow = |user: &str| {
        let head = login(user);
        format!("GET /cimi/Machine/slow HTTP/1.1\r\nHost: x\r\n{head}\r\n")
    };
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = world.connect().await;
        stream.write_all(slow("alice").as_bytes()).await.unwrap();
        held.push(stream);
    }
    // As soon as both have arrived.
    let reply = until_status(&world, "alice", "", 429).await;
    assert_eq!(reply.header("retry-after"), "1");
    // Others are not concerned.
    let root = world
        .ask_with("GET /cimi/Machine/7", &login("root"), "")
        .await;
    assert_eq!(root.status, 200);
    for user in ["root", "root"] {
        let mut stream = world.connect().await;
        stream.write_all(slow(user).as_bytes()).await.unwrap();
        held.push(stream);
    }
    until_status(&world, "root", "", 429).await;
    drop(held);
    until_status(&world, "alice", "", 200).await;
}

#[tokio::test]
async fn who_waits_to_be_refused_holds_few_places() {
    let settings = Settings {
        requests: 5,
        requests_per_caller: 2,
        ..Settings::default()
    };
    // Longer than the test: those that wait do so to its end.
    let world = World::that_refuses_after(2 * PATIENCE, settings).await;
    let wrong = |user: &str| {
        let login = BASE64_STANDARD.encode(format!("{user}:wrong"));
        format!("GET /cimi/Machine HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {login}\r\n\r\n")
    };
    let mut held = Vec::new();
    for user in ["mallory", "eve"] {
        let mut stream = world.connect().await;
        stream.write_all(wrong(user).as_bytes()).await.unwrap();
        held.push(stream);
    }
    // As soon as both have arrived; what is refused so holds no place.
    until_nobody_is_answered(&world, 429).await;
    for _ in 0..5 {
        until_nobody_is_answered(&world, 429).await;
    }
    let other = world
        .ask_from([127, 0, 0, 2].into(), "GET /cimi/Machine/7", &login("root"))
        .await;
    assert_eq!(other.status, 200, "somebody elsewhere is served");
    drop(held);
    until_nobody_is_answered(&world, 401).await;
}

/// Asks without a login until the answer has this status.
async fn until_nobody_is_answered(world: &World, status: u16) {
    let begun = Instant::now();
    while world.ask_with("GET /cimi/Machine", "", "").await.status != status {
        assert!(begun.elapsed() < PATIENCE, "never {status}");
    }
}

#[tokio::test]
async fn bodies_at_once_are_bounded() {
    let settings = Settings {
        body_at_most: 1000,
        body_bytes: 1500,
        ..Settings::default()
    };
    let world = World::with(settings, Limits::default()).await;
    let part = "x".repeat(900);
    let stalled = |user: &str| {
        let head = login(user);
        format!(
            "POST /cimi/Machine HTTP/1.1\r\nHost: x\r\n{head}Content-Length: 1000\r\n\r\n{part}"
        )
    };
    let mut alice = world.connect().await;
    alice.write_all(stalled("alice").as_bytes()).await.unwrap();
    // Of her own she may have no more, of all there is some left for others.
    until_status(&world, "alice", &part, 429).await;
    let other = world
        .ask_with("POST /cimi/Machine", &login("root"), "{}")
        .await;
    assert_eq!(other.status, 400, "read, and refused for what it says");
    let other = world
        .ask_with("POST /cimi/Machine", &login("root"), &part)
        .await;
    assert_eq!(other.status, 503);
    drop(alice);
    until_status(&world, "alice", &part, 400).await;
}

/// Asks until the answer has this status: how soon the server has seen others is the scheduler's affair.
async fn until_status(world: &World, user: &str, body: &str, status: u16) -> Reply {
    let method = if body.is_empty() {
        "GET /cimi/Machine/7"
    } else {
        "POST /cimi/Machine"
    };
    let begun = Instant::now();
    loop {
        let reply = world.ask_with(method, &login(user), body).await;
        if reply.status == status {
            return reply;
        }
        assert!(begun.elapsed() < PATIENCE, "{}", reply.status);
    }
}
