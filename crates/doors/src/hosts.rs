//! The door for hosts, behind the same port: who asks for it by its name in TLS ([`trust::SERVER_NAME`]) is shown a certificate
//! by the cloud's authority for hosts, and asked for one.
//!
//! | who | gets |
//! |---|---|
//! | shows no certificate | to join, by a token; else nothing |
//! | shows one that isn't by that authority | no connection |
//! | shows that of a host that was removed | to hear so |
//! | is a host | its part of the store, by the rules of crate `hosts`, its next certificate, files of [images](self::images) that it sees, and of [machines](self::moves) that come to it |
//! | is an entry of the same cloud | what the one that [keeps the images](self::entries) does for the others |
//! | is a host, and speaks another protocol | a [volume](self::volumes) of a machine that is placed on it, [questions](self::calls), or the [other host](self::crossings) of a machine on its way |
//!
//! A connection ends when its host is removed, and with the certificate that it began with.

mod answers;
mod calls;
mod crossings;
mod entries;
mod images;
mod moves;
mod seats;
mod targets;
mod volumes;

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ::cimi::HostId;
use ::hosts::HostRules;
use cloud::{Caller, Cloud, FilesOfMachines, OpContext, VolumesOfHosts};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::{
    ServerConfig,
    crypto::ring,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    sign::SingleCertAndKey,
};
use serde::de::DeserializeOwned;
use store::{Gateway, Peer as StorePeer, SharedStore, cache::Changed};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_rustls::server::TlsStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use trust::{
    Authority, CALL_PROTOCOL, CROSSING_PROTOCOL, HostPeer, IMAGES_PATH, JOIN_PATH, JoinRequest,
    MOVING_PATH, NEIGHBOURS_PATH, Peer, RENEW_PATH, TARGET_PROTOCOL, VOLUME_PROTOCOL,
};

use self::{
    answers::{AnyBody, Wanted, empty, removed},
    seats::{Seat, Seats},
};
pub use self::{
    calls::{CallError, HostCalls},
    crossings::{CrossingEnd, Meetings},
    entries::{CONTENT_HEADER, SentContent},
};
use crate::{audit::AuditLog, stall::Stalling};

/// Connections of one host at once: its daemon has one to each entry, and another while it changes certificates.
const SEATS_PER_HOST: usize = 8;
/// Those for volumes, each of which is a process.
const VOLUMES_PER_HOST: usize = 512;
/// Those on which it is asked: one, and the next that takes its place.
const CALLED_PER_HOST: usize = 4;
/// Those to other hosts: some for each machine on its way.
const CROSSINGS_PER_HOST: usize = 256;
/// Calls at once on one connection, watches among them.
const STREAMS: u32 = 64;
/// Those of somebody who wants to join, and how long that may take.
const STREAMS_OF_STRANGERS: u32 = 2;
const JOINING: Duration = Duration::from_secs(30);
/// Bytes of a request's head, and of what is asked beside the store.
const HEAD_BYTES: u32 = 16 * 1024;
const ASKED_BYTES: usize = 16 * 1024;
/// How often a quiet connection is tried, and how long the answer may take.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));
/// How old the certificate that hosts are shown becomes before another is made.
const CERTIFICATE_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
/// How often a connection asks by itself whether its host still is one: a host that came and went before anybody looked is
/// told to nobody.
const LOOKED_AGAIN: Duration = Duration::from_secs(30);
/// How long calls under way may go on once the server ends.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long a host that was removed may ask.
const FAREWELL: Duration = Duration::from_secs(5);
/// Rest after the store could not be read for hosts.
const REST: Duration = Duration::from_secs(1);
/// How long a call waits for the store to be read. A host has given up before.
const OPENING: Duration = Duration::from_secs(30);

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// See the module.
pub struct HostDoor {
    cloud: Cloud,
    store: SharedStore,
    audit: Arc<dyn AuditLog>,
    rules: HostRules,
    /// Opened once there is a host: it reads the whole store.
    gateway: watch::Sender<Option<Arc<Gateway>>>,
    shown: Mutex<Option<Shown>>,
    seats: Seats,
    volume_seats: Seats,
    call_seats: Seats,
    crossing_seats: Seats,
    calls: HostCalls,
    meetings: Meetings,
    /// Turns to read a part of an image: for all hosts, and for all entries.
    reading: Arc<Semaphore>,
    reading_for_entries: Arc<Semaphore>,
    volumes: Arc<dyn VolumesOfHosts>,
    files: Arc<dyn FilesOfMachines>,
    /// Whether this daemon keeps the images, for other entries, too.
    keeps_images: bool,
}

/// What a connection is for, by its protocol in TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoken {
    Http,
    Volume,
    Target,
    Calls,
    Crossing,
}

impl Spoken {
    fn of(protocol: Option<&[u8]>) -> Self {
        match protocol {
            Some(VOLUME_PROTOCOL) => Self::Volume,
            Some(TARGET_PROTOCOL) => Self::Target,
            Some(CALL_PROTOCOL) => Self::Calls,
            Some(CROSSING_PROTOCOL) => Self::Crossing,
            _ => Self::Http,
        }
    }
}

/// By what a server ends what goes on in it.
#[derive(Clone)]
pub(crate) struct Ending {
    /// Nothing new begins.
    pub(crate) closing: CancellationToken,
    /// What is left ends now.
    pub(crate) aborting: CancellationToken,
    /// What has begun.
    pub(crate) tasks: TaskTracker,
}

impl Ending {
    /// Does `work` to its end, also if whoever waits for it is gone.
    async fn to_its_end(
        &self,
        work: impl Future<Output = Response<AnyBody>> + Send + 'static,
    ) -> Response<AnyBody> {
        let aborting = self.aborting.clone();
        let task = async move { aborting.run_until_cancelled(work).await };
        match self.tasks.spawn(task).await {
            Ok(Some(answer)) => answer,
            _ => empty(StatusCode::SERVICE_UNAVAILABLE),
        }
    }
}

/// What hosts are shown, and since when.
struct Shown {
    /// The certificate of the authority, PEM.
    authority: String,
    since: SystemTime,
    config: Arc<ServerConfig>,
}

impl std::fmt::Debug for HostDoor {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("HostDoor")
    }
}

impl HostDoor {
    /// In front of a cloud.
    #[must_use]
    pub fn new(
        cloud: Cloud,
        audit: Arc<dyn AuditLog>,
        (volumes, files): (Arc<dyn VolumesOfHosts>, Arc<dyn FilesOfMachines>),
        (calls, meetings): (HostCalls, Meetings),
    ) -> Self {
        let documents = cloud.documents().clone();
        Self {
            store: cloud.documents().store().clone(),
            cloud,
            audit,
            rules: HostRules::of(documents),
            gateway: watch::Sender::new(None),
            shown: Mutex::default(),
            seats: Seats::of(SEATS_PER_HOST),
            volume_seats: Seats::of(VOLUMES_PER_HOST),
            call_seats: Seats::of(CALLED_PER_HOST),
            crossing_seats: Seats::of(CROSSINGS_PER_HOST),
            calls,
            meetings,
            files,
            reading: Arc::new(Semaphore::new(images::READ_AT_ONCE)),
            reading_for_entries: Arc::new(Semaphore::new(images::READ_AT_ONCE)),
            volumes,
            keeps_images: false,
        }
    }

    /// Of the daemon that keeps the images: entries of the same cloud that don't may ask for them.
    #[must_use]
    pub fn keeping_images(mut self) -> Self {
        self.keeps_images = true;
        self
    }

    /// Cuts off hosts that are removed, and has the store read for hosts once there are any, as long as this runs.
    pub async fn follow(&self) {
        tokio::join!(self.cut_off_removed(), self.open_gateway());
    }

    async fn cut_off_removed(&self) {
        let mut changes = self.cloud.documents().host_identities.changes();
        loop {
            if let Changed::Removed(host) = changes.next().await {
                self.seats.cut_off(&host);
                self.volume_seats.cut_off(&host);
                self.call_seats.cut_off(&host);
                self.crossing_seats.cut_off(&host);
            }
        }
    }

    /// Not within a call: a host that doesn't wait so long would end it, and begin it anew, for ever.
    async fn open_gateway(&self) {
        let identities = &self.cloud.documents().host_identities;
        let mut changes = identities.changes();
        while identities.is_empty() {
            changes.next().await;
        }
        loop {
            match Gateway::open(self.store.clone(), Arc::new(self.rules.clone())).await {
                Ok(gateway) => {
                    self.gateway.send_replace(Some(Arc::new(gateway)));
                    return;
                }
                Err(error) => tracing::warn!(%error, "the store can't be read for hosts"),
            }
            sleep(REST).await;
        }
    }

    /// What a connection for hosts is accepted with; none as long as the cloud has no authority.
    pub(crate) fn config(&self) -> Option<Arc<ServerConfig>> {
        match self.current_config() {
            Ok(config) => config,
            Err(error) => {
                tracing::error!(%error, "hosts can't be let in");
                None
            }
        }
    }

    fn current_config(&self) -> Result<Option<Arc<ServerConfig>>, AnyError> {
        let Some(kept) = self.cloud.authority_for_hosts() else {
            return Ok(None);
        };
        let (now, mut shown) = (SystemTime::now(), self.shown.lock());
        let is_good = |shown: &&Shown| {
            let age = now.duration_since(shown.since);
            shown.authority == kept.certificate && age.is_ok_and(|age| age < CERTIFICATE_AGE)
        };
        if let Some(good) = shown.as_ref().filter(is_good) {
            return Ok(Some(Arc::clone(&good.config)));
        }
        let authority = Authority::from_pem(&kept.certificate, &kept.private_key)?;
        let provider = Arc::new(ring::default_provider());
        let own = authority.server(&provider, now)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(
            Arc::new(authority.roots()?),
            Arc::clone(&provider),
        )
        .allow_unauthenticated()
        .build()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
        config.alpn_protocols = [
            b"h2",
            TARGET_PROTOCOL,
            VOLUME_PROTOCOL,
            CALL_PROTOCOL,
            CROSSING_PROTOCOL,
        ]
        .map(<[u8]>::to_vec)
        .to_vec();
        // Each connection is by a certificate that is looked at anew.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let config = Arc::new(config);
        *shown = Some(Shown {
            authority: kept.certificate.clone(),
            since: now,
            config: Arc::clone(&config),
        });
        Ok(Some(config))
    }

    /// One connection, once TLS and the protocol are agreed on; who takes nothing for so long is let go. `shown` is the
    /// certificate of the other end, which is by the authority.
    pub(crate) async fn serve(
        self: &Arc<Self>,
        (stream, patience): (TlsStream<TcpStream>, Duration),
        (shown, protocol): (Option<Option<Peer>>, Option<&[u8]>),
        from: SocketAddr,
        ending: &Ending,
    ) {
        let spoken = Spoken::of(protocol);
        match shown {
            None if spoken != Spoken::Http => {}
            None => {
                self.serve_stranger(Stalling::new(stream, patience), from, ending)
                    .await;
            }
            Some(Some(Peer::Host(peer))) => {
                let (seats, for_what) = match spoken {
                    Spoken::Http => (&self.seats, "documents and images"),
                    Spoken::Volume | Spoken::Target => (&self.volume_seats, "volumes"),
                    Spoken::Calls => (&self.call_seats, "what it is asked"),
                    Spoken::Crossing => (&self.crossing_seats, "machines on their way"),
                };
                let Some(seat) = seats.take(&peer.host, for_what) else {
                    return;
                };
                // After the seat is taken: whoever is removed from now on finds it.
                if spoken == Spoken::Volume {
                    return self
                        .serve_volume((stream, patience), (&peer, seat), from, ending)
                        .await;
                }
                let stream = Stalling::new(stream, patience);
                if spoken == Spoken::Target {
                    self.serve_target(stream, (&peer, seat), from, ending).await;
                } else if spoken == Spoken::Calls {
                    self.serve_calls(stream, (&peer, seat), from, ending).await;
                } else if spoken == Spoken::Crossing {
                    self.serve_crossing(stream, (&peer, seat), from, ending)
                        .await;
                } else if self.cloud.host_of(&peer).is_some() {
                    self.serve_host(stream, (peer, seat), from, ending).await;
                } else if self.cloud.was_removed(&peer).await {
                    tracing::debug!(host = peer.host, %from, "a host that was removed is told so");
                    let service = service_fn(|request: Request<Incoming>| {
                        let answer = removed(&request);
                        async move { Ok::<_, Infallible>(answer) }
                    });
                    let served =
                        connections(STREAMS).serve_connection(TokioIo::new(stream), service);
                    let _ = ending
                        .closing
                        .run_until_cancelled(timeout(FAREWELL, served))
                        .await;
                }
            }
            // Who doesn't keep them would ask on: itself, in the worst case.
            Some(Some(Peer::Entry(until))) => {
                if self.keeps_images && spoken == Spoken::Http {
                    let stream = Stalling::new(stream, patience);
                    self.serve_entry(stream, until, from, ending).await;
                }
            }
            // By the authority, and no peer's: that of a door.
            Some(None) => {}
        }
    }

    async fn serve_stranger<S>(self: &Arc<Self>, stream: S, from: SocketAddr, ending: &Ending)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(|request: Request<Incoming>| {
            let (door, ending) = (Arc::clone(self), ending.clone());
            async move { Ok::<_, Infallible>(door.stranger(request, from, &ending).await) }
        });
        let served = connections(STREAMS_OF_STRANGERS);
        let served = served.serve_connection(TokioIo::new(stream), service);
        let _ = ending
            .closing
            .run_until_cancelled(timeout(JOINING, served))
            .await;
    }

    async fn serve_host<S>(
        self: &Arc<Self>,
        stream: S,
        (peer, seat): (HostPeer, Seat<'_>),
        from: SocketAddr,
        ending: &Ending,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let peer = Arc::new(peer);
        let service = service_fn(|request: Request<Incoming>| {
            let (door, peer, ending) = (Arc::clone(self), Arc::clone(&peer), ending.clone());
            async move { Ok::<_, Infallible>(door.host(&peer, request, from, &ending).await) }
        });
        let served = connections(STREAMS).serve_connection(TokioIo::new(stream), service);
        let mut served = pin!(served);
        tokio::select! {
            _ = served.as_mut() => {}
            () = seat.cut_off() => {
                tracing::info!(host = peer.host, %from, "the host was removed: its connection ends");
            }
            () = self.until_over(&peer) => {
                tracing::info!(host = peer.host, %from, "the certificate is over, or the host: its connection ends");
            }
            () = ending.closing.cancelled() => {
                served.as_mut().graceful_shutdown();
                let _ = timeout(LAST_WORDS, served).await;
            }
        }
    }

    /// Waits until a certificate has ended, or its host is one no more.
    async fn until_over(&self, peer: &HostPeer) {
        while self.cloud.host_of(peer).is_some() {
            let Ok(left) = peer.expires.duration_since(SystemTime::now()) else {
                return;
            };
            sleep(left.min(LOOKED_AGAIN)).await;
        }
    }

    /// Somebody without a certificate may join, and nothing else.
    async fn stranger(
        self: &Arc<Self>,
        request: Request<Incoming>,
        from: SocketAddr,
        ending: &Ending,
    ) -> Response<AnyBody> {
        if request.method() != Method::POST || request.uri().path() != JOIN_PATH {
            return empty(StatusCode::NOT_FOUND);
        }
        let asked = match read::<JoinRequest>(request).await {
            Ok(asked) => asked,
            Err(answer) => return answer,
        };
        let door = Arc::clone(self);
        let joining = async move {
            let context = anonymous(from);
            let joined = door.cloud.join_host(&context, &asked).await;
            let token = door.cloud.host_token_of(&asked.secret);
            let wanted = Wanted::joining(token.as_ref().map(|token| &token.document.0));
            wanted.answered(&*door.audit, &context, joined).await
        };
        ending.to_its_end(joining).await
    }

    /// A host gets its part of the store, and its next certificate.
    async fn host(
        self: &Arc<Self>,
        peer: &HostPeer,
        request: Request<Incoming>,
        from: SocketAddr,
        ending: &Ending,
    ) -> Response<AnyBody> {
        let Some(id) = self.cloud.host_of(peer) else {
            return removed(&request);
        };
        if request.method() == Method::POST && request.uri().path() == RENEW_PATH {
            return self.renew(id, request, from, ending).await;
        }
        let gateway = {
            let mut opened = self.gateway.subscribe();
            let opened = timeout(OPENING, opened.wait_for(Option::is_some)).await;
            opened.ok().and_then(|opened| opened.ok()?.clone())
        };
        let Some(gateway) = gateway else {
            return empty(StatusCode::SERVICE_UNAVAILABLE);
        };
        let as_host = StorePeer::named(id.local());
        if request.method() == Method::GET
            && let Some(image) = request.uri().path().strip_prefix(IMAGES_PATH)
        {
            if let Some(image) = image.strip_suffix(NEIGHBOURS_PATH) {
                return self.neighbours(&gateway, (&as_host, &id), image);
            }
            let headers = request.headers();
            return self.image(&gateway, &as_host, peer, image, headers).await;
        }
        if request.method() == Method::GET
            && let Some(machine) = request.uri().path().strip_prefix(MOVING_PATH)
        {
            return self.machine_files(&id, peer, machine).await;
        }
        let answer = gateway.answer(as_host, request).await;
        answer.map(|body| body.map_err(io::Error::other).boxed_unsync())
    }

    async fn renew(
        self: &Arc<Self>,
        id: HostId,
        request: Request<Incoming>,
        from: SocketAddr,
        ending: &Ending,
    ) -> Response<AnyBody> {
        let asked = match read(request).await {
            Ok(asked) => asked,
            Err(answer) => return answer,
        };
        let door = Arc::clone(self);
        let renewing = async move {
            let context = anonymous(from);
            let renewed = door.cloud.renew_host(&context, &id, &asked).await;
            let wanted = Wanted::renewing(&id);
            wanted.answered(&*door.audit, &context, renewed).await
        };
        ending.to_its_end(renewing).await
    }
}

/// HTTP/2 as it is spoken with hosts.
fn connections(streams: u32) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams)
        .max_header_list_size(HEAD_BYTES)
        .max_send_buf_size(256 * 1024)
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1);
    builder
}

/// Nobody whom the rules know by name: what they let in shows itself by what it asks with.
fn anonymous(from: SocketAddr) -> OpContext {
    let request_id = format!("host-{}", uuid::Uuid::new_v4()).into();
    let mut context = OpContext::new(Caller::Anonymous, request_id, JOINING);
    context.peer = Some(from.ip().to_canonical());
    context
}

/// What was asked, in JSON.
async fn read<Q: DeserializeOwned>(request: Request<Incoming>) -> Result<Q, Response<AnyBody>> {
    let body = Limited::new(request.into_body(), ASKED_BYTES).collect();
    let wrong = |_| empty(StatusCode::BAD_REQUEST);
    let body = timeout(JOINING, body).await.map_err(wrong)?;
    let body = body.map_err(|_| empty(StatusCode::BAD_REQUEST))?.to_bytes();
    // What is wrong may be a secret: it isn't said.
    serde_json::from_slice(&body).map_err(|_| empty(StatusCode::BAD_REQUEST))
}
