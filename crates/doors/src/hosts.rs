//! The door for hosts, behind the same port: who asks for it by its name in TLS ([`trust::SERVER_NAME`]) is shown a certificate
//! by the cloud's authority for hosts, and asked for one.
//!
//! | who | gets |
//! |---|---|
//! | shows no certificate | to join, by a token; else nothing |
//! | shows one that isn't by that authority | no connection |
//! | shows that of a host that was removed | no connection |
//! | is a host | its part of the store, by the rules of crate `hosts`, its next certificate, and files of [images](self::images) that it sees |
//!
//! A connection ends when its host is removed, and with the certificate that it began with.

mod images;

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ::cimi::{HostId, Timestamp};
use ::hosts::HostRules;
use bytes::Bytes;
use cloud::{Caller, Cloud, OpContext};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited, combinators::UnsyncBoxBody};
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
use store::{Gateway, Peer, Rules, SharedStore, StoreError, cache::Changed};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OnceCell, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use trust::{Fingerprint, HostPeer, IMAGES_PATH, JOIN_PATH, JoinRequest, Joined, RENEW_PATH};

use crate::{
    audit::{AuditLog, Audited},
    problem::Problem,
};

/// Connections of one host at once: its daemon has one to each entry, and another while it changes certificates.
const CONNECTIONS_PER_HOST: usize = 8;
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

type AnyError = Box<dyn std::error::Error + Send + Sync>;
type AnyBody = UnsyncBoxBody<Bytes, io::Error>;

/// See the module.
pub struct HostDoor {
    cloud: Cloud,
    store: SharedStore,
    audit: Arc<dyn AuditLog>,
    rules: Arc<dyn Rules>,
    /// Opened for the first host: it reads the whole store once.
    gateway: OnceCell<Gateway>,
    shown: Mutex<Option<Shown>>,
    /// By host.
    seats: Mutex<HashMap<String, Seats>>,
    /// Of images, to all hosts.
    transfers: Arc<Semaphore>,
}

/// What hosts are shown, and since when.
struct Shown {
    authority: Fingerprint,
    since: SystemTime,
    config: Arc<ServerConfig>,
}

/// The connections of one host.
struct Seats {
    taken: usize,
    /// Cancelled when the host is one no more.
    cut: CancellationToken,
    /// Of images.
    transfers: Arc<Semaphore>,
}

impl Default for Seats {
    fn default() -> Self {
        Self {
            taken: 0,
            cut: CancellationToken::new(),
            transfers: Arc::new(Semaphore::new(images::OF_ONE_HOST)),
        }
    }
}

/// One of them; given back when dropped.
struct Seat<'d> {
    door: &'d HostDoor,
    host: String,
    cut: CancellationToken,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut seats = self.door.seats.lock();
        if let Some(of_host) = seats.get_mut(&self.host) {
            of_host.taken = of_host.taken.saturating_sub(1);
            if of_host.taken == 0 {
                seats.remove(&self.host);
            }
        }
    }
}

impl std::fmt::Debug for HostDoor {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("HostDoor")
    }
}

impl HostDoor {
    /// In front of a cloud.
    #[must_use]
    pub fn new(cloud: Cloud, audit: Arc<dyn AuditLog>) -> Self {
        Self::with_rules(cloud, audit, Arc::new(HostRules))
    }

    /// One with other rules than those of crate `hosts`.
    #[must_use]
    pub fn with_rules(cloud: Cloud, audit: Arc<dyn AuditLog>, rules: Arc<dyn Rules>) -> Self {
        Self {
            store: cloud.documents().store().clone(),
            cloud,
            audit,
            rules,
            gateway: OnceCell::new(),
            shown: Mutex::default(),
            seats: Mutex::default(),
            transfers: Arc::new(Semaphore::new(images::OF_ALL)),
        }
    }

    /// Cuts off hosts that are removed, as long as this runs.
    pub async fn follow(&self) {
        let mut changes = self.cloud.documents().host_identities.changes();
        loop {
            if let Changed::Removed(host) = changes.next().await {
                self.cut_off(&host);
            }
        }
    }

    fn cut_off(&self, host: &str) {
        // What was admitted before is in here, and what comes later finds no identity.
        if let Some(of_host) = self.seats.lock().get(host) {
            of_host.cut.cancel();
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
        let Some(authority) = self.cloud.authority_for_hosts()? else {
            return Ok(None);
        };
        let (now, mut shown) = (SystemTime::now(), self.shown.lock());
        let is_good = |shown: &&Shown| {
            let age = now.duration_since(shown.since);
            shown.authority == authority.fingerprint() && age.is_ok_and(|age| age < CERTIFICATE_AGE)
        };
        if let Some(good) = shown.as_ref().filter(is_good) {
            return Ok(Some(Arc::clone(&good.config)));
        }
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
        config.alpn_protocols = vec![b"h2".to_vec()];
        // Each connection is by a certificate that is looked at anew.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let config = Arc::new(config);
        *shown = Some(Shown {
            authority: authority.fingerprint(),
            since: now,
            config: Arc::clone(&config),
        });
        Ok(Some(config))
    }

    /// A place for one more connection of a host that is one.
    fn seat(&self, peer: &HostPeer) -> Option<Seat<'_>> {
        let seat = {
            let mut seats = self.seats.lock();
            let of_host = seats.entry(peer.host.clone()).or_default();
            if of_host.taken >= CONNECTIONS_PER_HOST {
                return None;
            }
            of_host.taken += 1;
            Seat {
                door: self,
                host: peer.host.clone(),
                cut: of_host.cut.clone(),
            }
        };
        // After the seat is taken: whoever is removed from now on finds it.
        self.cloud.host_of(peer).map(|_| seat)
    }

    /// One connection, once TLS is agreed on. `shown` is the certificate of the other end, which is by the authority.
    pub(crate) async fn serve<S>(
        self: &Arc<Self>,
        stream: S,
        shown: Option<Option<HostPeer>>,
        from: SocketAddr,
        closing: &CancellationToken,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_header_list_size(HEAD_BYTES)
            .max_send_buf_size(256 * 1024)
            .keep_alive_interval(PING.0)
            .keep_alive_timeout(PING.1);
        let stream = TokioIo::new(stream);
        match shown {
            None => {
                builder.max_concurrent_streams(STREAMS_OF_STRANGERS);
                let door = Arc::clone(self);
                let service = service_fn(move |request| {
                    let door = Arc::clone(&door);
                    async move { Ok::<_, Infallible>(door.stranger(request, from).await) }
                });
                let served = builder.serve_connection(stream, service);
                let _ = closing.run_until_cancelled(timeout(JOINING, served)).await;
            }
            Some(Some(peer)) => {
                let Some(seat) = self.seat(&peer) else {
                    tracing::debug!(host = peer.host, %from, "no (more) connection of this host is taken");
                    return;
                };
                builder.max_concurrent_streams(STREAMS);
                let (door, peer) = (Arc::clone(self), Arc::new(peer));
                let service = {
                    let peer = Arc::clone(&peer);
                    service_fn(move |request| {
                        let (door, peer) = (Arc::clone(&door), Arc::clone(&peer));
                        async move { Ok::<_, Infallible>(door.host(&peer, request, from).await) }
                    })
                };
                let mut served = pin!(builder.serve_connection(stream, service));
                tokio::select! {
                    _ = served.as_mut() => {}
                    () = seat.cut.cancelled() => {
                        tracing::info!(host = peer.host, %from, "the host was removed: its connection ends");
                    }
                    () = self.until_over(&peer) => {
                        tracing::info!(host = peer.host, %from, "the certificate is over, or the host: its connection ends");
                    }
                    () = closing.cancelled() => {
                        served.as_mut().graceful_shutdown();
                        let _ = timeout(LAST_WORDS, served).await;
                    }
                }
            }
            // By the authority, and no host's: an entry's own.
            Some(None) => {}
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
    ) -> Response<AnyBody> {
        if request.method() != Method::POST || request.uri().path() != JOIN_PATH {
            return empty(StatusCode::NOT_FOUND);
        }
        let asked = match read::<JoinRequest>(request).await {
            Ok(asked) => asked,
            Err(answer) => return answer,
        };
        let door = Arc::clone(self);
        // Goes on to its end, also if the host is gone: then it is written down what became of it.
        let joining = tokio::spawn(async move {
            let context = anonymous(from);
            let joined = door.cloud.join_host(&context, &asked).await;
            door.tell(&context, JOIN_PATH, joined).await
        });
        joining
            .await
            .unwrap_or_else(|_| empty(StatusCode::INTERNAL_SERVER_ERROR))
    }

    /// A host gets its part of the store, and its next certificate.
    async fn host(
        self: &Arc<Self>,
        peer: &HostPeer,
        request: Request<Incoming>,
        from: SocketAddr,
    ) -> Response<AnyBody> {
        let Some(id) = self.cloud.host_of(peer) else {
            return empty(StatusCode::NOT_FOUND);
        };
        if request.method() == Method::POST && request.uri().path() == RENEW_PATH {
            return self.renew(&id, request, from).await;
        }
        let gateway = match self.gateway().await {
            Ok(gateway) => gateway,
            Err(error) => {
                tracing::warn!(%error, "the store can't be read for hosts");
                return empty(StatusCode::SERVICE_UNAVAILABLE);
            }
        };
        let as_host = Peer::named(id.local());
        if request.method() == Method::GET
            && let Some(image) = request.uri().path().strip_prefix(IMAGES_PATH)
        {
            let headers = request.headers();
            return self.image(gateway, &as_host, peer, image, headers).await;
        }
        let answer = gateway.answer(as_host, request).await;
        answer.map(|body| body.map_err(io::Error::other).boxed_unsync())
    }

    async fn gateway(&self) -> Result<&Gateway, StoreError> {
        let open = || Gateway::open(self.store.clone(), Arc::clone(&self.rules));
        self.gateway.get_or_try_init(open).await
    }

    async fn renew(
        &self,
        id: &HostId,
        request: Request<Incoming>,
        from: SocketAddr,
    ) -> Response<AnyBody> {
        let context = anonymous(from);
        match read(request).await {
            Ok(asked) => {
                let renewed = self.cloud.renew_host(&context, id, &asked).await;
                self.tell(&context, RENEW_PATH, renewed).await
            }
            Err(answer) => answer,
        }
    }

    /// The answer to a host that wants a certificate, written down.
    async fn tell(
        &self,
        context: &OpContext,
        path: &str,
        outcome: cloud::Result<Joined>,
    ) -> Response<AnyBody> {
        let (status, made, body) = match outcome {
            Ok(joined) => {
                let body = serde_json::to_vec(&joined).unwrap_or_default();
                (StatusCode::OK, Some(joined.host), body)
            }
            Err(error) => {
                let problem = Problem::from(error);
                if let Some(text) = problem.internal_text() {
                    tracing::error!(
                        request_id = &*context.request_id,
                        error = text,
                        "a host got no certificate"
                    );
                } else {
                    tracing::info!(from = ?context.peer, reason = problem.detail(), "a host got no certificate");
                }
                let body = serde_json::json!({"error": problem.detail()});
                (problem.status(), None, body.to_string().into_bytes())
            }
        };
        if let Some(address) = context.peer {
            let entry = Audited {
                time: Timestamp::now(),
                request_id: Arc::clone(&context.request_id),
                user: None,
                authenticated_by: None,
                token: None,
                claimed: None,
                address,
                method: Method::POST.to_string(),
                path: path.to_owned(),
                about: None,
                made,
                status: status.as_u16(),
                outcome: None,
                others: 0,
            };
            self.audit.record(entry).await;
        }
        answer(status, body.into())
    }
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

fn empty(status: StatusCode) -> Response<AnyBody> {
    answer(status, Bytes::new())
}

fn answer(status: StatusCode, body: Bytes) -> Response<AnyBody> {
    let body = Full::new(body)
        .map_err(|never| match never {})
        .boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let no_store = http::HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
    response
}
