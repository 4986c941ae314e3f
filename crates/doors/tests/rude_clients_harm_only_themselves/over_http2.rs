//! Clients that speak HTTP/2: idle ones, slow ones, and such that take nothing.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use doors::{Limits, Settings};
use http_body_util::BodyExt as _;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep, timeout},
};

use super::{impatient, is_well};
use crate::support::{
    World,
    client::{PATIENCE, login},
    fake::LARGE,
};

#[tokio::test]
async fn connections_that_nobody_uses_are_closed_in_http2_too() {
    let world = World::with(Settings::default(), impatient()).await;
    let mut config = (*world.client).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let stream = TcpStream::connect(world.address()).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let stream = connector.connect(name, stream).await.unwrap();
    let (sender, connection) = hyper::client::conn::http2::handshake::<_, _, String>(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .unwrap();
    // Answers to the server's pings come, and yet it ends, though the client would go on.
    let ended = timeout(PATIENCE, connection).await;
    assert!(ended.is_ok(), "still open");
    drop(sender);
}

/// A connection by HTTP/2, and the task that keeps it going.
pub async fn http2(
    world: &World,
) -> (
    hyper::client::conn::http2::SendRequest<String>,
    tokio::task::JoinHandle<hyper::Result<()>>,
) {
    let mut config = (*world.client).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let stream = TcpStream::connect(world.address()).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let stream = connector.connect(name, stream).await.unwrap();
    let (sender, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .unwrap();
    (sender, tokio::spawn(connection))
}

/// A stream that is read slowly.
struct Slow {
    inner: tokio_rustls::client::TlsStream<TcpStream>,
    piece: Vec<u8>,
    pause: Pin<Box<Sleep>>,
}

impl AsyncRead for Slow {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        ready!(this.pause.as_mut().poll(context));
        let most = buffer.remaining().min(this.piece.len());
        let mut piece = ReadBuf::new(&mut this.piece[..most]);
        ready!(Pin::new(&mut this.inner).poll_read(context, &mut piece))?;
        buffer.put_slice(piece.filled());
        let next = Instant::now() + Duration::from_millis(10);
        this.pause.as_mut().reset(next);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Slow {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, data)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}

fn download() -> http::Request<String> {
    let (name, value) = login("alice")
        .trim_end()
        .split_once(": ")
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .unwrap();
    http::Request::get("https://localhost/cimi/MachineImage/large/data")
        .header(name, value)
        .body(String::new())
        .unwrap()
}

#[tokio::test]
async fn who_reads_an_image_slowly_in_http2_gets_all_of_it() {
    let limits = Limits {
        write_stall: PATIENCE,
        ..impatient()
    };
    let world = World::with(Settings::default(), limits).await;
    let mut config = (*world.client).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    // Little of it is on its way at once in the system, much is promised to be taken.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let stream = socket.connect(world.address()).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let stream = Slow {
        inner: connector.connect(name, stream).await.unwrap(),
        piece: vec![0; 16 << 10],
        pause: Box::pin(sleep(Duration::ZERO)),
    };
    let (mut sender, connection) =
        hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
            .initial_stream_window_size(64 << 20)
            .initial_connection_window_size(64 << 20)
            .handshake(hyper_util::rt::TokioIo::new(stream))
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let begun = Instant::now();
    let answer = sender.send_request(download()).await.unwrap();
    assert_eq!(answer.status(), 200);
    let got = timeout(PATIENCE, answer.into_body().collect())
        .await
        .unwrap();
    let got = got.map(|body| body.to_bytes().len());
    assert_eq!(
        got.unwrap_or_else(|error| panic!("{error:?} after {:?}", begun.elapsed())),
        LARGE
    );
    // As slow as it is to be: a test of what takes no time would show nothing.
    assert!(begun.elapsed() > 4 * impatient().head);
    connection.abort();
}

#[tokio::test]
async fn who_takes_nothing_of_an_answer_in_http2_is_cut_off() {
    let world = World::with(Settings::default(), impatient()).await;
    let (mut sender, connection) = http2(&world).await;
    let answer = sender.send_request(download()).await.unwrap();
    assert_eq!(answer.status(), 200);
    // Its client keeps the connection going, and gives no leave to send more.
    let ended = timeout(PATIENCE, connection).await;
    assert!(ended.is_ok(), "still open");
    drop((answer, sender));
    is_well(&world).await;
}

/// Pings, as many clients send them by themselves, and other answers that it takes: neither is something of this one.
#[tokio::test]
async fn who_takes_nothing_of_one_answer_is_cut_off_whatever_else_is_said() {
    let world = World::with(Settings::default(), impatient()).await;
    let (mut sender, connection) = http2(&world).await;
    let answer = sender.send_request(download()).await.unwrap();
    assert_eq!(answer.status(), 200);
    let asks = async {
        loop {
            let small = http::Request::get("https://localhost/health");
            let small = small.body(String::new()).unwrap();
            let Ok(other) = sender.send_request(small).await else {
                return;
            };
            if other.into_body().collect().await.is_err() {
                return;
            }
            sleep(impatient().write_stall / 10).await;
        }
    };
    let ended = timeout(PATIENCE, asks).await;
    assert!(ended.is_ok(), "still open");
    assert!(timeout(PATIENCE, connection).await.is_ok());
    drop(answer);
    is_well(&world).await;
}
