//! Images that this host gives to other hosts of its cloud.
//!
//! ```text
//!  another host ── TLS: its certificate, and this host's ──▶ GET /replicas/SHA1.disk, and an entry's ticket for it ──▶ the file
//! ```
//!
//! Who asks is a host of the cloud, and may be hostile: it gets what an entry has signed for it, and takes no more than its part of
//! this host. A transfer of which nothing is taken ends.

use std::{
    collections::HashMap,
    convert::Infallible,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use cimi::Timestamp;
use futures::{TryStreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::NoServerSessionStorage,
};
use storage::replicas::Replicas;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use trust::{HostKey, Peer, REPLICAS_PATH, TICKET_HEADER, Ticket, certificates_of};

use crate::joining::Kept;

/// Connections at once, more of which wait until they are taken; and those of one host, which has two while it fetches two files.
const CONNECTIONS: usize = 32;
const CONNECTIONS_OF_ONE: usize = 4;
/// Of one address that hasn't shown yet whose it is.
const SHOWING_AT_ONCE: usize = 4;
/// Files given at once; who comes then is told to ask another one.
const TRANSFERS: usize = 4;
/// Calls at once on a connection: those of ours have one.
const STREAMS: u32 = 1;
/// How long somebody may take to show who it is, and may be connected.
const SHOWING: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(3600);
const HEAD_BYTES: u32 = 16 * 1024;
/// How often a quiet connection is tried, and how long the answer may take.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));
/// Pieces that are read before they are sent, and how long nobody may take one.
const PIECES_AHEAD: usize = 1;
const PIECE_BYTES: usize = 256 * 1024;
const UNREAD: Duration = Duration::from_secs(30);
/// Rest after no connection could be taken.
const REST: Duration = Duration::from_millis(200);
/// How often is tried to have the place, as long as it isn't.
const PLACE_AGAIN: Duration = Duration::from_secs(5);

type AnyBody = UnsyncBoxBody<Bytes, io::Error>;

/// Where other hosts come, once that can be had: the address may come up later than this program.
pub(super) struct Place {
    address: SocketAddr,
    listener: OnceLock<Arc<TcpListener>>,
}

impl Place {
    /// At this address; had already, if that is possible.
    pub(super) async fn at(address: Ipv4Addr, port: u16) -> Self {
        let place = Self {
            address: (address, port).into(),
            listener: OnceLock::new(),
        };
        if let Err(error) = place.try_once().await {
            tracing::warn!(%address, port, %error, "this host gives no images to others yet: nobody can listen there (`network.images_port`); tried again");
        }
        place
    }

    /// The listener, once it is had.
    pub(super) fn listener(&self) -> Option<Arc<TcpListener>> {
        self.listener.get().cloned()
    }

    /// Its port, once it is had.
    pub(super) fn port(&self) -> Option<u16> {
        Some(self.listener.get()?.local_addr().ok()?.port())
    }

    /// Waits until it is had that wasn't; for ever if it was.
    pub(super) async fn had(&self) {
        if self.listener.get().is_some() {
            std::future::pending::<()>().await;
        }
        loop {
            sleep(PLACE_AGAIN).await;
            match self.try_once().await {
                Ok(()) => {
                    tracing::info!(address = %self.address, "this host gives images to others from now on");
                    return;
                }
                Err(error) => {
                    tracing::debug!(address = %self.address, %error, "nobody can listen there yet");
                }
            }
        }
    }

    async fn try_once(&self) -> io::Result<()> {
        let listener = TcpListener::bind(self.address).await?;
        let _ = self.listener.set(Arc::new(listener));
        Ok(())
    }
}

/// Gives them, as good as a certificate is.
pub(super) struct Giving {
    listener: Arc<TcpListener>,
    acceptor: TlsAcceptor,
    giver: Arc<Giver>,
}

struct Giver {
    /// The part of this host's id after the slash.
    host: String,
    authority: CertificateDer<'static>,
    replicas: Replicas,
    transfers: Arc<Semaphore>,
    /// How many connections each host has.
    seats: Mutex<HashMap<String, usize>>,
}

/// A connection of a host; given back when dropped.
struct Seat<'g> {
    giver: &'g Giver,
    host: String,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut seats = self.giver.seats.lock();
        if let Some(taken) = seats.get_mut(&self.host) {
            *taken -= 1;
            if *taken == 0 {
                seats.remove(&self.host);
            }
        }
    }
}

impl Giving {
    /// # Errors
    /// If what this host keeps of its cloud can't be used.
    pub(super) fn open(
        listener: Arc<TcpListener>,
        (kept, key): (&Kept, &HostKey),
        host: &str,
        replicas: Replicas,
    ) -> anyhow::Result<Self> {
        let authority = kept.authority()?;
        let provider = Arc::new(ring::default_provider());
        let own = CertificateDer::from_pem_slice(kept.joined.certificate.as_bytes())
            .ok()
            .context("this host's certificate can't be read")?;
        let key = PrivateKeyDer::from_pem_slice(key.to_pem().as_bytes())
            .ok()
            .context("this host's key can't be read")?;
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(certificates_of(&authority, provider)?)
            .with_single_cert(vec![own], key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self {
            listener,
            acceptor: Arc::new(config).into(),
            giver: Arc::new(Giver {
                host: host.to_owned(),
                authority,
                replicas,
                transfers: Arc::new(Semaphore::new(TRANSFERS)),
                seats: Mutex::default(),
            }),
        })
    }

    /// Until told to stop; then all ends.
    pub(super) async fn run(&self, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        stop.run_until_cancelled(self.serve(&mut connections)).await;
    }

    async fn serve(&self, connections: &mut JoinSet<()>) -> Infallible {
        loop {
            let may_come = connections.len() < CONNECTIONS;
            tokio::select! {
                accepted = self.listener.accept(), if may_come => match accepted {
                    Ok((stream, from)) => {
                        let (acceptor, giver) = (self.acceptor.clone(), Arc::clone(&self.giver));
                        connections.spawn(async move {
                            let served = serve(stream, from, &acceptor, giver);
                            let _ = timeout(LONGEST, served).await;
                        });
                    }
                    Err(error) => {
                        tracing::debug!(%error, "another host's connection can't be taken");
                        sleep(REST).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

async fn serve(stream: TcpStream, from: SocketAddr, acceptor: &TlsAcceptor, giver: Arc<Giver>) {
    let _ = stream.set_nodelay(true);
    // Who shows nothing keeps no place of others.
    let Some(showing) = giver.seat(&from.ip().to_string(), SHOWING_AT_ONCE) else {
        return;
    };
    let Ok(Ok(stream)) = timeout(SHOWING, acceptor.accept(stream)).await else {
        tracing::debug!(%from, "somebody who comes for an image shows no certificate of a host");
        return;
    };
    drop(showing);
    let shown = stream.get_ref().1.peer_certificates();
    let shown = shown.and_then(|shown| Peer::of(shown.first()?));
    let Some(Peer::Host(peer)) = shown else {
        return;
    };
    let Some(_seat) = giver.seat(&peer.host, CONNECTIONS_OF_ONE) else {
        tracing::debug!(host = peer.host, %from, "no more connection of this host is taken");
        return;
    };
    let service = service_fn(|request: Request<Incoming>| {
        let (giver, to) = (Arc::clone(&giver), peer.host.clone());
        async move { Ok::<_, Infallible>(giver.answer(&request, &to).await) }
    });
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD_BYTES)
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    tracing::debug!(%from, ?served, "another host has its images");
}

impl Giver {
    /// One more connection of a host, or of an address that hasn't shown whose it is; none if it has all that it gets.
    fn seat(&self, host: &str, most: usize) -> Option<Seat<'_>> {
        let mut seats = self.seats.lock();
        let taken = seats.entry(host.to_owned()).or_default();
        if *taken >= most {
            return None;
        }
        *taken += 1;
        Some(Seat {
            giver: self,
            host: host.to_owned(),
        })
    }

    /// What a host gets that asks.
    async fn answer(&self, request: &Request<Incoming>, to: &str) -> Response<AnyBody> {
        let file = request.uri().path().strip_prefix(REPLICAS_PATH);
        let Some(name) = file.filter(|_| request.method() == Method::GET) else {
            return empty(StatusCode::NOT_FOUND);
        };
        if let Err(why) = self.may_have(name, to, request.headers()) {
            tracing::debug!(host = to, file = name, %why, "another host asks for an image that it may not have from here");
            return empty(StatusCode::FORBIDDEN);
        }
        let Ok(turn) = Arc::clone(&self.transfers).try_acquire_owned() else {
            return empty(StatusCode::SERVICE_UNAVAILABLE);
        };
        let (replicas, asked) = (self.replicas.clone(), name.to_owned());
        let start = start_of(request.headers());
        let opened = spawn_blocking(move || {
            let (mut file, length) = replicas.file(&asked)?;
            // Behind its end there is nothing.
            let start = start.filter(|start| *start < length);
            file.seek(SeekFrom::Start(start.unwrap_or_default())).ok()?;
            Some((file, length, start))
        });
        let Ok(Some((file, length, start))) = opened.await else {
            return empty(StatusCode::NOT_FOUND);
        };
        tracing::info!(
            host = to,
            file = name,
            length,
            start,
            "another host has an image from here"
        );
        let left = length - start.unwrap_or_default();
        let body = StreamBody::new(sent(file, left, turn).map_ok(Frame::data)).boxed_unsync();
        let mut answer = Response::new(body);
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_LENGTH, left.into());
        if let Some(start) = start {
            let last = length.saturating_sub(1);
            let part = HeaderValue::from_str(&format!("bytes {start}-{last}/{length}"));
            headers.extend(part.ok().map(|part| (header::CONTENT_RANGE, part)));
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        answer
    }

    fn may_have(&self, name: &str, to: &str, headers: &HeaderMap) -> Result<(), trust::TrustError> {
        let none = trust::TrustError::Ticket("is missing");
        let ticket = headers
            .get(TICKET_HEADER)
            .and_then(|value| value.to_str().ok());
        let ticket = Ticket::signed(ticket.ok_or(none)?, &self.authority)?;
        let sha1 = name.split_once('.').map_or(name, |(sha1, _)| sha1);
        ticket.is_for(sha1, (&self.host, to), Timestamp::now())
    }
}

/// `N` of `Range: bytes=N-`: nothing else is asked for by ours.
fn start_of(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(header::RANGE)?.to_str().ok()?;
    range
        .strip_prefix("bytes=")?
        .strip_suffix('-')?
        .parse()
        .ok()
}

/// The rest of a file, with the turn given back at its end, and when nobody reads it: what is missing then is noticed by the length.
fn sent(
    file: File,
    mut left: u64,
    turn: OwnedSemaphorePermit,
) -> impl futures::Stream<Item = io::Result<Bytes>> + Send {
    let (to, pieces) = mpsc::channel(PIECES_AHEAD);
    let file = Arc::new(file);
    // Ends with the body, which is dropped with the connection.
    tokio::spawn(async move {
        let _turn = turn;
        while left > 0 {
            let from = Arc::clone(&file);
            let size = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            let read = spawn_blocking(move || {
                let mut piece = vec![0; size];
                (&*from).read_exact(&mut piece).map(|()| Bytes::from(piece))
            });
            let piece = read
                .await
                .unwrap_or_else(|error| Err(io::Error::other(error)));
            left -= size as u64;
            let was_read = piece.is_ok();
            let taken = timeout(UNREAD, to.send(piece)).await;
            if !was_read || !matches!(taken, Ok(Ok(()))) {
                return;
            }
        }
    });
    stream::unfold(pieces, |mut pieces| async move {
        pieces.recv().await.map(|piece| (piece, pieces))
    })
}

fn empty(status: StatusCode) -> Response<AnyBody> {
    let nothing = Empty::new().map_err(|never| match never {});
    let mut answer = Response::new(nothing.boxed_unsync());
    *answer.status_mut() = status;
    answer
}

#[cfg(test)]
pub(super) mod tests;
