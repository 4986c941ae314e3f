//! Hosts that are asked on connections of their own, over real TLS: who is one, what a host that means no good gets.

#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use cimi::HostId;
use doors::CallError;
use futures::stream;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::{net::TcpStream, task::JoinHandle, time::timeout};
use tokio_rustls::TlsConnector;
use trust::{CALL_PROTOCOL, HostKey, JoinToken, Joined, SERVER_NAME};

use crate::{
    hosts_come_in_by_their_own_door::world::{World, config, until},
    support::client::PATIENCE,
};

type AnyBody = UnsyncBoxBody<Bytes, Infallible>;

/// What a host of these tests answers.
async fn answer(of: &'static str, request: Request<Incoming>) -> Response<AnyBody> {
    let whole = |text: &'static str| Full::from(text).boxed_unsync();
    let mut answer = Response::new(match request.uri().path() {
        "/name" => whole(of),
        "/silent" => std::future::pending().await,
        // For ever.
        "/long" => {
            let piece = Bytes::from(vec![b' '; 64 * 1024]);
            let pieces = stream::repeat_with(move || Ok(Frame::data(piece.clone())));
            StreamBody::new(pieces).boxed_unsync()
        }
        _ => whole("no"),
    });
    if request.uri().path() == "/missing" {
        *answer.status_mut() = StatusCode::NOT_FOUND;
    }
    answer
}

/// A connection on which a host answers; it ends with its connection.
async fn answering(
    world: &World,
    (joined, key, token): &(Joined, HostKey, JoinToken),
    of: &'static str,
) -> JoinHandle<()> {
    let key = key.to_pem();
    let mut config = config(token, Some((&joined.certificate, &key)));
    config.alpn_protocols = vec![CALL_PROTOCOL.to_vec()];
    let stream = TcpStream::connect(world.running.address).await.unwrap();
    let name = ServerName::try_from(SERVER_NAME).unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let stream = TokioIo::new(stream.await.unwrap());
    tokio::spawn(async move {
        let service =
            service_fn(
                move |request| async move { Ok::<_, Infallible>(answer(of, request).await) },
            );
        let _ = http2::Builder::new(TokioExecutor::new())
            .serve_connection(stream, service)
            .await;
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_is_asked_as_long_as_it_is_one_and_harms_nobody_by_its_answers() {
    let world = World::start().await;
    let host = world.host("node1").await;
    let id: HostId = host.0.host.parse().unwrap();
    let name = async || world.calls.read::<String>(&id, "/name").await;
    assert!(matches!(name().await, Err(CallError::NotConnected)));

    let first = answering(&world, &host, "\"first\"").await;
    until("the host to be asked", async || name().await.ok()).await;
    assert_eq!(name().await.unwrap(), "first");
    let other = world.host("node2").await.0.host.parse().unwrap();
    let asked = world.calls.read::<String>(&other, "/name").await;
    assert!(matches!(asked, Err(CallError::NotConnected)));

    // What comes back is bounded, in time and size, and believed nothing.
    let asked = world.calls.read::<String>(&id, "/missing").await;
    assert!(matches!(
        asked,
        Err(CallError::Refused(StatusCode::NOT_FOUND))
    ));
    let asked = world.calls.read::<u64>(&id, "/name").await;
    assert!(matches!(asked, Err(CallError::Nonsense)));
    let (silent, long) = tokio::join!(
        world.calls.get(&id, "/silent"),
        timeout(PATIENCE, world.calls.read::<String>(&id, "/long"))
    );
    assert!(matches!(silent, Err(CallError::Silent)));
    assert!(matches!(long, Ok(Err(CallError::Ended))), "{long:?}");
    assert_eq!(name().await.unwrap(), "first", "others' answers come");
    // Nor does anybody wait for those who don't read what they asked for.
    let mut unread = Vec::new();
    for _ in 0..64 {
        unread.push(world.calls.get(&id, "/long").await.unwrap());
    }
    for _ in 0..100 {
        assert_eq!(name().await.unwrap(), "first");
    }
    drop(unread);
    // Of what is followed there is only so much.
    let mut followed = Vec::new();
    let refused = loop {
        match world.calls.follow(&id, "/name").await {
            Ok(one) => followed.push(one),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, CallError::Busy), "{refused}");
    assert_eq!(followed.len(), 192);
    assert_eq!(name().await.unwrap(), "first", "what is waited for comes");
    drop(followed);
    drop(world.calls.follow(&id, "/name").await.unwrap());

    // The next connection takes the place of the one before, whose end is nobody's then.
    let second = answering(&world, &host, "\"second\"").await;
    until("the second", async || {
        (name().await.ok()? == "second").then_some(())
    })
    .await;
    first.abort();
    let _ = first.await;
    assert_eq!(name().await.unwrap(), "second");

    // It is one no more.
    world.remove(&host.0).await;
    timeout(Duration::from_secs(20), second)
        .await
        .unwrap()
        .unwrap();
    until("nobody to be asked", async || {
        matches!(name().await, Err(CallError::NotConnected)).then_some(())
    })
    .await;
}
