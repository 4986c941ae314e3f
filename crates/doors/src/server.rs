//! Listening: TLS, HTTP/1.1 and HTTP/2, what clients may use up, and ending without cutting
//! anybody off.

mod asked;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use accounts::Shown;
use futures::future::Either;
use http::{Method, Request};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustix::net::sockopt;
use rustls::{pki_types::CertificateDer, server::Acceptor};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use trust::Peer;

use self::asked::{Answering, Asked, Counted, PIECE_BYTES};
use crate::{
    doors::Doors,
    hosts::{Ending, HostDoor},
    metrics::{self, ConnectionMetrics},
    origin::{Connection, TrustedProxy},
    plain_http,
    stall::Stalling,
    tls::Speech,
};

/// How long a connection may be quiet before the other end is asked whether it is there, how often then, and how many times.
const QUIET: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);

/// What clients may use up.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections open at once.
    pub connections: usize,
    /// Connections open at once from one address (of IPv6, one network of 64 bits), unless it is a trusted proxy's.
    pub connections_per_address: usize,
    /// Proxies that are believed on whose behalf they ask.
    pub trusted_proxies: Vec<TrustedProxy>,
    /// How long a TLS handshake may take.
    pub handshake: Duration,
    /// How long a connection may be idle, and how long a request's head may take.
    pub head: Duration,
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// How long a client may not read what is sent to it.
    pub write_stall: Duration,
    /// Requests at once on one HTTP/2 connection.
    pub streams: u32,
    /// How long open requests may go on once the server is to end.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_address: 1024,
            trusted_proxies: Vec::new(),
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(30),
            head_bytes: 32 * 1024,
            write_stall: Duration::from_secs(60),
            streams: 128,
            drain: Duration::from_secs(10),
        }
    }
}

/// A server that can't be started.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address can't be listened on.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// The doors, about to be opened.
pub struct Server {
    doors: Arc<Doors>,
    limits: Limits,
    tls: Option<Arc<Speech>>,
    hosts: Option<Arc<HostDoor>>,
}

/// The doors, open. Dropping this closes them at once; [`Running::end`] waits for open requests.
pub struct Running {
    /// Where they are; of port 0, the one that was chosen.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

/// What the tasks of a running server share.
struct Shared {
    doors: Arc<Doors>,
    limits: Limits,
    tls: Option<Arc<Speech>>,
    hosts: Option<Arc<HostDoor>>,
    metrics: ConnectionMetrics,
    /// Connections by address.
    open: Mutex<Open>,
    /// No more connections; those there are end after their request.
    closing: CancellationToken,
    /// All end now.
    aborting: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Default)]
struct Open {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Server {
    /// Over TLS, unless `tls` is `None` (behind a proxy that ends it).
    #[must_use]
    pub fn new(doors: Arc<Doors>, limits: Limits, tls: Option<Arc<Speech>>) -> Self {
        Self {
            doors,
            limits,
            tls,
            hosts: None,
        }
    }

    /// With a door for hosts, which there is over TLS only.
    #[must_use]
    pub fn with_hosts(mut self, hosts: Arc<HostDoor>) -> Self {
        self.hosts = Some(hosts);
        self
    }

    /// Listens and serves until the [`Running`] is ended or dropped.
    ///
    /// # Errors
    /// If the address can't be listened on.
    pub async fn start(self, address: SocketAddr) -> Result<Running, ServerError> {
        let refused = |source| ServerError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let shared = Arc::new(Shared {
            doors: self.doors,
            limits: self.limits,
            tls: self.tls,
            hosts: self.hosts,
            metrics: ConnectionMetrics::new(),
            open: Mutex::default(),
            closing: CancellationToken::new(),
            aborting: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        shared
            .tasks
            .spawn(accept(listener, address, Arc::clone(&shared)));
        shared.tasks.spawn(keep_metrics(shared.closing.clone()));
        Ok(Running { address, shared })
    }
}

impl Running {
    /// Takes no more connections, lets open requests finish for as long as the limits say, ends
    /// streams, then closes what is left.
    pub async fn end(self) {
        self.shared.closing.cancel();
        self.shared.doors.end_streams();
        self.shared.tasks.close();
        if timeout(self.shared.limits.drain, self.shared.tasks.wait())
            .await
            .is_err()
        {
            let left = self.shared.open.lock().all;
            tracing::warn!(
                connections = left,
                "requests cut off at the end of the drain time"
            );
            self.shared.aborting.cancel();
            self.shared.tasks.wait().await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.closing.cancel();
        self.shared.aborting.cancel();
    }
}

async fn keep_metrics(closing: CancellationToken) {
    while closing
        .run_until_cancelled(sleep(Duration::from_secs(5)))
        .await
        .is_some()
    {
        metrics::upkeep();
    }
}

async fn accept(listener: TcpListener, local: SocketAddr, shared: Arc<Shared>) {
    while let Some(accepted) = shared.closing.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => {
                let proxies = &shared.limits.trusted_proxies;
                let trusted = proxies.iter().any(|proxy| proxy.includes(peer.ip()));
                if let Some(place) = Place::take(&shared, peer.ip(), trusted) {
                    let local = stream.local_addr().unwrap_or(local);
                    let connection = Connection {
                        peer,
                        local,
                        tls: shared.tls.is_some(),
                        trusted,
                        shown: None,
                    };
                    let task = serve(stream, connection, place, Arc::clone(&shared));
                    shared.tasks.spawn(task);
                } else {
                    shared.metrics.refused.increment(1);
                }
            }
            // Out of descriptors, or the client is gone already: go on, but not in a tight loop.
            Err(error) => {
                tracing::warn!(%error, "a connection can't be accepted");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// One of the connections allowed; given back when dropped.
struct Place {
    shared: Arc<Shared>,
    address: IpAddr,
}

impl Place {
    fn take(shared: &Arc<Shared>, address: IpAddr, trusted: bool) -> Option<Self> {
        // One IPv6 customer has a whole /64.
        let address = match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
            v4 @ IpAddr::V4(_) => v4,
        };
        let mut open = shared.open.lock();
        if open.all >= shared.limits.connections {
            return None;
        }
        let of_address = open.by_address.entry(address).or_default();
        if *of_address >= shared.limits.connections_per_address && !trusted {
            return None;
        }
        *of_address += 1;
        open.all += 1;
        shared.metrics.open.increment(1.0);
        Some(Self {
            shared: Arc::clone(shared),
            address,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.shared.open.lock();
        open.all = open.all.saturating_sub(1);
        if let Some(count) = open.by_address.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.by_address.remove(&self.address);
            }
        }
        self.shared.metrics.open.decrement(1.0);
    }
}

/// One connection, from its handshake to its end.
async fn serve(stream: TcpStream, connection: Connection, place: Place, shared: Arc<Shared>) {
    // Answers are written whole: nothing is gained by waiting for more.
    let _ = stream.set_nodelay(true);
    // Who is gone without a word is noticed, also where the protocol doesn't ask.
    let _ = sockopt::set_socket_keepalive(&stream, true);
    let _ = sockopt::set_tcp_keepidle(&stream, QUIET.0);
    let _ = sockopt::set_tcp_keepintvl(&stream, QUIET.1);
    let _ = sockopt::set_tcp_keepcnt(&stream, QUIET.2);
    let aborting = shared.aborting.clone();
    let work = async {
        let patience = shared.limits.write_stall;
        match &shared.tls {
            None => speak(Stalling::new(stream, patience), false, connection, &shared).await,
            Some(tls) => {
                let spoken = plain_http::is_spoken(&stream);
                match timeout(shared.limits.handshake, spoken).await {
                    Ok(Ok(false)) => {}
                    Ok(Ok(true)) => {
                        shared.metrics.failed_handshakes.increment(1);
                        return plain_http::answer(stream, connection, &shared.limits).await;
                    }
                    Ok(Err(_)) | Err(_) => {
                        shared.metrics.failed_handshakes.increment(1);
                        return;
                    }
                }
                let handshake = handshake(stream, tls, &shared);
                let handshake = timeout(shared.limits.handshake, handshake).await;
                let Ok(Ok((stream, hosts))) = handshake else {
                    shared.metrics.failed_handshakes.increment(1);
                    return;
                };
                let (_, session) = stream.get_ref();
                if let Some(hosts) = hosts {
                    let own = session.peer_certificates().and_then(<[_]>::first);
                    let shown = own.map(|certificate| Peer::of(certificate));
                    let protocol = session.alpn_protocol().map(<[u8]>::to_vec);
                    let (stream, from) = ((stream, patience), connection.peer);
                    let ending = Ending {
                        closing: shared.closing.clone(),
                        aborting: shared.aborting.clone(),
                        tasks: shared.tasks.clone(),
                    };
                    return hosts
                        .serve(stream, (shown, protocol.as_deref()), from, &ending)
                        .await;
                }
                let http2 = session.alpn_protocol() == Some(b"h2");
                let mut connection = connection;
                connection.shown = session.peer_certificates().map(shown);
                speak(Stalling::new(stream, patience), http2, connection, &shared).await;
            }
        }
    };
    // Boxed: with both protocols in it, it is large.
    aborting.run_until_cancelled(Box::pin(work)).await;
    drop(place);
}

/// Agrees on TLS, as the client is to be spoken to; with the door for hosts, if that is where it wants to.
async fn handshake(
    stream: TcpStream,
    tls: &Speech,
    shared: &Shared,
) -> io::Result<(TlsStream<TcpStream>, Option<Arc<HostDoor>>)> {
    let started = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let name = started.client_hello().server_name().map(str::to_owned);
    let hosts = shared.hosts.as_ref();
    let hosts = hosts.filter(|_| name.as_deref() == Some(trust::SERVER_NAME));
    if let Some((hosts, config)) = hosts.and_then(|hosts| Some((hosts, hosts.config()?))) {
        let stream = started.into_stream(config).await?;
        return Ok((stream, Some(Arc::clone(hosts))));
    }
    // As it is configured now: where nobody is known by a certificate nobody is asked for one.
    let config = tls.config(shared.doors.asks_for_certificates());
    Ok((started.into_stream(config).await?, None))
}

/// The certificates of the other end, which TLS has seen to have the key of the first one.
fn shown(chain: &[CertificateDer<'_>]) -> Arc<Shown> {
    let chain = chain.iter().map(|one| one.clone().into_owned()).collect();
    Arc::new(Shown::of(chain))
}

/// HTTP on an open connection. What a client does wrong ends its connection and nothing else.
async fn speak<S>(stream: S, http2: bool, connection: Connection, shared: &Shared)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &shared.limits;
    let doors = Arc::clone(&shared.doors);
    let asked = Arc::new(Asked::default());
    let piece = if http2 { PIECE_BYTES } else { usize::MAX };
    let service = {
        let (asked, connection) = (Arc::clone(&asked), connection.clone());
        let (tasks, aborting) = (shared.tasks.clone(), shared.aborting.clone());
        service_fn(move |request: Request<Incoming>| {
            let (doors, asking) = (Arc::clone(&doors), asked.one_more());
            let connection = connection.clone();
            let changes = may_change(&request);
            // Boxed: it is moved a few times before it runs.
            let answer = Box::pin(async move {
                let answer = doors.handle(connection, request).await;
                answer.map(|body| Answering::new(body, piece, asking))
            });
            // What is begun goes on to its end, and into the audit log, also when the client resets its stream or is gone:
            // its connection then drops this future, and not that task.
            let answer = if changes {
                let aborting = aborting.clone();
                let task = async move { aborting.run_until_cancelled(answer).await };
                Either::Left(tasks.spawn(task))
            } else {
                Either::Right(answer)
            };
            async move {
                match answer {
                    Either::Left(task) => match task.await {
                        Ok(Some(answer)) => Ok(answer),
                        _ => Err(Interrupted),
                    },
                    Either::Right(answer) => Ok(answer.await),
                }
            }
        })
    };
    let outcome = if http2 {
        let stream = TokioIo::new(Counted::new(stream, Arc::clone(&asked)));
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
            // No pings: behind all that is on its way to a client that reads slowly, one is answered too late. Who is gone is
            // noticed by the system, who takes nothing is noticed here.
            .max_send_buf_size(256 * 1024);
        let served = pin!(builder.serve_connection(stream, service));
        // Of HTTP/1, the time for a request's head is the time without one, too.
        let idle = asked.is_idle_for(limits.head);
        let stuck = asked.takes_nothing_for(limits.write_stall);
        let gone = asked.says_nothing_for(limits.write_stall);
        until_closing!(served, shared, idle, gone, stuck)
    } else {
        let stream = TokioIo::new(stream);
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head)
            .max_header_size(limits.head_bytes)
            // No `pipeline_flush`: with it, an answer given before the body was read is lost.
            .max_buf_size(limits.head_bytes.max(64 * 1024));
        let mut connection = builder.serve_connection(stream, service);
        let outcome = {
            let served = Pin::new(&mut connection);
            let never = std::future::pending::<()>;
            until_closing!(served, shared, never(), never(), never())
        };
        linger(connection.into_parts().io.into_inner()).await;
        outcome
    };
    match outcome {
        Ok(Ended::Well) => {}
        Ok(Ended::Stuck) => {
            tracing::info!(peer = %connection.peer, "connection cut: the client takes nothing of what is sent");
        }
        Err(error) => tracing::debug!(peer = %connection.peer, %error, "connection ended"),
    }
}

/// How a connection ended that nothing went wrong with.
enum Ended {
    Well,
    /// It was cut, because its client took nothing any more.
    Stuck,
}

/// Whether a request may change something. Some pages do so when they are only got: the end of a session, the way back from
/// a login provider.
fn may_change(request: &Request<Incoming>) -> bool {
    let path = request.uri().path();
    !matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    ) || path.starts_with("/cimi/logout")
        || path.starts_with("/cimi/oidc/")
}

/// The server ends, and its patience with what was under way.
#[derive(Debug, thiserror::Error)]
#[error("the server ends")]
struct Interrupted;

/// Ends a connection so that the client gets what was sent last: says goodbye, then takes what is
/// still on its way, for a moment. (Closing with unread bytes would make the kernel reset the
/// connection, and the client lose an answer such as 413.)
pub(crate) async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let goodbye = async {
        stream.shutdown().await?;
        let mut rest = [0; 4096];
        let mut left = LINGER_BYTES;
        while left > 0 {
            match stream.read(&mut rest).await? {
                0 => break,
                length => left = left.saturating_sub(length),
            }
        }
        io::Result::Ok(())
    };
    // Whether it worked makes no difference: this was the end.
    let _ = timeout(LINGER, goodbye).await;
}

/// How long, and for how many bytes, a connection that ends is listened to.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 64 << 20;

/// Drives a connection; once the server is closing or nobody uses it (`idle`), tells it to end after its open requests, and cuts it if
/// the client of an unused one says nothing to that (`gone`), or takes nothing of what is sent (`stuck`).
/// (A macro, because the two protocols' connections have no trait in common.)
macro_rules! until_closing {
    ($served:ident, $shared:ident, $idle:expr, $gone:expr, $stuck:expr) => {{
        let mut served = $served;
        let (idle, gone, mut stuck) = ($idle, $gone, pin!($stuck));
        tokio::select! {
            outcome = served.as_mut() => outcome.map(|()| Ended::Well),
            () = stuck.as_mut() => Ok(Ended::Stuck),
            () = idle => {
                served.as_mut().graceful_shutdown();
                tokio::select! {
                    outcome = served => outcome.map(|()| Ended::Well),
                    () = gone => Ok(Ended::Well),
                    () = stuck => Ok(Ended::Stuck),
                }
            }
            () = $shared.closing.cancelled() => {
                served.as_mut().graceful_shutdown();
                served.await.map(|()| Ended::Well)
            }
        }
    }};
}
use until_closing;
