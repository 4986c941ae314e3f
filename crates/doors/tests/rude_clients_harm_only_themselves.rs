//! Hostile and broken input: huge, slow, cut off, malformed.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

mod over_http2;
mod places;

use std::time::Duration;

use self::over_http2::http2;
use crate::support::{
    FakeCloud, World,
    client::{PATIENCE, Reply, login},
};
use doors::{Limits, Settings};
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
    let change = world.ask("PUT /cimi/Machine/slow", r#"{"name": "x"}"#);
    assert_eq!(change.await.status, 503);
    // What should have been changed may have been: so it is written down, and of the read nothing.
    let mut audited = world.audited.lock().await;
    let mut next = async || timeout(PATIENCE, audited.recv()).await.unwrap().unwrap();
    for (method, path) in [("POST", "/cimi/Machine"), ("PUT", "/cimi/Machine/slow")] {
        let entry = next().await;
        assert_eq!((entry.method.as_str(), entry.path.as_str()), (method, path));
        assert_eq!((entry.status, entry.outcome), (503, Some("unknown")));
        assert_eq!(entry.user.as_deref(), Some("alice"));
        assert!(!entry.is_in_vain(), "it may not have been in vain");
    }
    drop(audited);

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
        b"\x16\x03\x01\xff\xff\x01" as &[u8],
        &[0; 4096],
        // Neither TLS nor HTTP, and HTTP that doesn't go on.
        b"HELO x\r\n\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n",
    ] {
        let mut stream = TcpStream::connect(world.address()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut received = Vec::new();
        let end = timeout(PATIENCE, stream.read_to_end(&mut received)).await;
        assert!(end.is_ok(), "still open");
        let received = String::from_utf8_lossy(&received);
        assert!(!received.contains("https"), "answered: {received}");
    }
    is_well(&world).await;
}

#[tokio::test]
async fn who_speaks_http_without_tls_is_told_the_address_that_works() {
    let world = World::with(Settings::default(), impatient()).await;
    for (request, body, address) in [
        (
            "GET /cimi?x=1 HTTP/1.1\r\nHost: cloud.example:8443\r\n",
            "",
            "https://cloud.example:8443/cimi\n".to_owned(),
        ),
        (
            "POST /cimi/Machine HTTP/1.1\r\nHost: a/b@c\r\nX-Forwarded-Proto: http\r\nContent-Length: 9\r\n",
            "something",
            format!("https://{}/cimi/Machine\n", world.address()),
        ),
        (
            "GET / HTTP/1.0\r\n",
            "",
            format!("https://{}/\n", world.address()),
        ),
    ] {
        let mut stream = TcpStream::connect(world.address()).await.unwrap();
        let whole = format!("{request}\r\n{body}");
        stream.write_all(whole.as_bytes()).await.unwrap();
        let mut received = Vec::new();
        let end = timeout(PATIENCE, stream.read_to_end(&mut received)).await;
        assert!(end.is_ok(), "still open");
        let reply = Reply::parse(&received).unwrap();
        assert_eq!(reply.status, 400, "{request}");
        assert_eq!(reply.headers["content-type"], "text/plain; charset=utf-8");
        let text = String::from_utf8(reply.body).unwrap();
        assert!(text.ends_with(&address), "{text}");
    }
    is_well(&world).await;
}

#[tokio::test]
async fn who_sends_too_much_gets_the_answer_though() {
    let world = World::start().await;
    let head = |length: usize| {
        let user = login("alice");
        format!("POST /cimi/Machine HTTP/1.1\r\nHost: x\r\n{user}Content-Length: {length}\r\n\r\n")
    };
    // Not so much that it couldn't be taken: the connection goes on.
    let mut stream = world.connect().await;
    for _ in 0..2 {
        let length = 3 << 20;
        stream.write_all(head(length).as_bytes()).await.unwrap();
        stream.write_all(&vec![b'x'; length]).await.unwrap();
        let reply = one_reply(&mut stream).await;
        assert_eq!((reply.status, reply.header("connection")), (413, ""));
    }
    // Much more: the client writes all of it before it reads, and still finds the answer.
    let length = 20 << 20;
    let mut all = head(length).into_bytes();
    all.resize(all.len() + length, b'x');
    let mut stream = world.connect().await;
    let sent = timeout(PATIENCE, stream.write_all(&all)).await.unwrap();
    assert!(sent.is_ok(), "{sent:?}");
    let reply = one_reply(&mut stream).await;
    assert_eq!((reply.status, reply.header("connection")), (413, "close"));
    // Nobody is made to send what is refused already.
    let mut stream = world.connect().await;
    let text = head(5000).replace("POST /cimi/Machine ", "POST /cimi/Nothing ");
    let text = text.replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let reply = one_reply(&mut stream).await;
    assert_eq!((reply.status, reply.header("connection")), (404, "close"));
}

/// The next answer on a connection that may stay open; its body isn't of interest.
async fn one_reply<S: tokio::io::AsyncRead + Unpin>(stream: &mut S) -> Reply {
    let mut received = Vec::new();
    let read = async {
        loop {
            let mut byte = [0; 1];
            stream.read_exact(&mut byte).await.unwrap();
            received.push(byte[0]);
            if received.ends_with(b"\r\n\r\n") {
                break;
            }
        }
        let reply = Reply::parse(&received).unwrap();
        let length = reply.header("content-length").parse().unwrap();
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        reply
    };
    timeout(PATIENCE, read).await.unwrap()
}

#[tokio::test]
async fn nobody_is_believed_whose_behalf_they_ask_on_but_named_proxies() {
    let forwarded = "X-Forwarded-Host: evil.example\r\nX-Forwarded-For: 203.0.113.5\r\n";
    let headers = format!("{}{forwarded}", login("alice"));
    let world = World::start().await;
    let base = |reply: Reply| reply.json()["baseURI"].as_str().unwrap().to_owned();
    let direct = world.ask_with("GET /cimi", &headers, "").await;
    assert_eq!(base(direct), "https://cloud.example:8443/cimi/");
    let limits = Limits {
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        ..Limits::default()
    };
    let world = World::with(Settings::default(), limits).await;
    let proxied = world.ask_with("GET /cimi", &headers, "").await;
    assert_eq!(base(proxied), "https://evil.example/cimi/");
}

#[tokio::test]
async fn what_is_begun_is_done_and_written_down_though_nobody_waits_for_it() {
    let world = World::start().await;
    let (mut sender, connection) = http2(&world).await;
    let (name, value) = login("alice")
        .trim_end()
        .split_once(": ")
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .unwrap();
    let request = |method: &str, path: &str| {
        http::Request::builder()
            .method(method)
            .uri(format!("https://localhost{path}"))
            .header(&name, &value)
            .body(String::new())
            .unwrap()
    };
    // The stream is reset when its answer is dropped; an answer on the next stream shows that the server knows.
    let asked = sender.send_request(request("DELETE", "/cimi/Machine/held"));
    let asked = tokio::spawn(asked);
    let held = |times| move |cloud: &FakeCloud| count(cloud, "held") == times;
    world.cloud.until(held(1)).await;
    asked.abort();
    assert!(asked.await.unwrap_err().is_cancelled());
    let next = sender.send_request(request("GET", "/health"));
    timeout(PATIENCE, next).await.unwrap().unwrap();
    world.cloud.release.notify_one();
    world.cloud.until(|cloud| count(cloud, "done") == 1).await;
    assert_written_down(&world).await;

    // And when the whole connection is gone, which is over before the rest is done.
    let mut stream = world.connect().await;
    let text = format!(
        "DELETE /cimi/Machine/held HTTP/1.1\r\nHost: x\r\n{}\r\n",
        login("alice")
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    world.cloud.until(held(2)).await;
    drop(stream);
    connection.abort();
    drop(sender);
    // The end of the server waits for it.
    let World {
        running,
        cloud,
        audited,
        ..
    } = world;
    let ending = tokio::spawn(running.end());
    cloud.release.notify_one();
    timeout(PATIENCE, ending).await.unwrap().unwrap();
    assert_eq!(count(&cloud, "done"), 2);
    let entry = audited.into_inner().try_recv().unwrap();
    assert_eq!((&*entry.method, entry.status), ("DELETE", 202));
}

fn count(cloud: &FakeCloud, call: &str) -> usize {
    cloud.calls.lock().iter().filter(|one| *one == call).count()
}

async fn assert_written_down(world: &World) {
    let mut audited = world.audited.lock().await;
    let entry = timeout(PATIENCE, audited.recv()).await.unwrap().unwrap();
    assert_eq!(
        (&*entry.method, &*entry.path, entry.user.as_deref()),
        ("DELETE", "/cimi/Machine/held", Some("alice"))
    );
    assert_eq!(entry.status, 202);
}

#[tokio::test]
async fn requests_are_named_by_trusted_proxies_only() {
    let headers = format!("{}X-Request-Id: theirs-1\r\n", login("alice"));
    let world = World::start().await;
    let reply = world.ask_with("DELETE /cimi/Machine/x", &headers, "").await;
    assert_ne!(reply.header("x-request-id"), "theirs-1");
    let entry = world.audited.lock().await.recv().await.unwrap();
    assert_eq!(&*entry.request_id, reply.header("x-request-id"));
    let limits = Limits {
        trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
        ..Limits::default()
    };
    let world = World::with(Settings::default(), limits).await;
    let reply = world.ask_with("DELETE /cimi/Machine/x", &headers, "").await;
    assert_eq!(reply.header("x-request-id"), "theirs-1");
}
