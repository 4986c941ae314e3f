//! `GET` of a machine over TLS with HTTP Basic, one server core, 64 connections; beside it, in the
//! same run and with the same client, a bare axum that answers the same bytes without authentication.
//!
//! `cargo bench -p doors --bench reads`. The client runs in threads of its own: on a computer with
//! few cores, compare the two rows rather than believe either. What the server's thread spent on a request (its own time and the
//! kernel's, by the kernel's account) hardly depends on what else runs.
//!
//! `reads bare N` and `reads doors N` make N requests on one connection and nothing else: under `valgrind --tool=callgrind` the
//! difference of two such runs is what a request costs in instructions, whatever else the computer does.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use axum::{Router, http::header, routing::get};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rustls::{ClientConfig, pki_types::ServerName};
use support::{World, client::login};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::{Builder, Runtime},
};
use tokio_rustls::TlsConnector;

const CONNECTIONS: usize = 64;
const WARM_UP: Duration = Duration::from_millis(300);
const MEASURED: Duration = Duration::from_secs(1);
/// Pairs of rows: a computer that is shared is not equally quick twice, so each is compared with its neighbour.
const PAIRS: usize = 11;

fn one_core() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

/// How many requests a second, and latencies.
struct Row {
    per_second: f64,
    median: Duration,
    p99: Duration,
    /// What the server spent on a request.
    spent: Duration,
}

/// How long the thread of a runtime has been on a core.
fn on_core(runtime: &Runtime) -> Duration {
    let account = runtime.spawn(async { std::fs::read_to_string("/proc/thread-self/schedstat") });
    let account = runtime.block_on(account).unwrap().unwrap();
    let nanoseconds = account.split_whitespace().next().unwrap();
    Duration::from_nanos(nanoseconds.parse().unwrap())
}

/// Asks as fast as answers come, or at a rate over all connections, which then take turns at equal distances: callers that know
/// nothing of each other don't all ask in the same moment.
fn drive(
    server: &Runtime,
    address: SocketAddr,
    tls: &Arc<ClientConfig>,
    request: &str,
    rate: Option<f64>,
) -> Row {
    let stop = Arc::new(AtomicBool::new(false));
    let counting = Arc::new(AtomicBool::new(false));
    let client = {
        let (stop, counting) = (Arc::clone(&stop), Arc::clone(&counting));
        let (tls, request) = (Arc::clone(tls), request.as_bytes().to_vec());
        let pause = rate.map(|rate| Duration::from_secs_f64(CONNECTIONS as f64 / rate));
        thread::spawn(move || {
            one_core().block_on(async {
                let tasks: Vec<_> = (0..CONNECTIONS)
                    .map(|turn| {
                        let (stop, counting) = (Arc::clone(&stop), Arc::clone(&counting));
                        tokio::spawn(one(
                            address,
                            Arc::clone(&tls),
                            request.clone(),
                            pause.map(|pause| Pace { pause, turn }),
                            stop,
                            counting,
                        ))
                    })
                    .collect();
                let mut all = Vec::new();
                for task in tasks {
                    all.extend(task.await.unwrap());
                }
                all
            })
        })
    };
    thread::sleep(WARM_UP);
    counting.store(true, Ordering::Relaxed);
    let (begun, before) = (Instant::now(), on_core(server));
    thread::sleep(MEASURED);
    counting.store(false, Ordering::Relaxed);
    let (took, spent) = (begun.elapsed(), on_core(server) - before);
    stop.store(true, Ordering::Relaxed);
    let mut latencies = client.join().unwrap();
    latencies.sort_unstable();
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize];
    Row {
        per_second: latencies.len() as f64 / took.as_secs_f64(),
        median: at(0.5),
        p99: at(0.99),
        spent: spent / u32::try_from(latencies.len()).unwrap(),
    }
}

/// One connection's share of a rate: how long from a request to the next, and its place among the connections.
struct Pace {
    pause: Duration,
    turn: usize,
}

async fn one(
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    request: Vec<u8>,
    pace: Option<Pace>,
    stop: Arc<AtomicBool>,
    counting: Arc<AtomicBool>,
) -> Vec<Duration> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(tls).connect(name, stream).await.unwrap();
    let mut latencies = Vec::with_capacity(200_000);
    let mut buffer = vec![0; 16 * 1024];
    let mut next = tokio::time::Instant::now();
    if let Some(pace) = &pace {
        next += pace.pause.mul_f64(pace.turn as f64 / CONNECTIONS as f64);
    }
    while !stop.load(Ordering::Relaxed) {
        if let Some(pace) = &pace {
            next += pace.pause;
            tokio::time::sleep_until(next).await;
        }
        let begun = Instant::now();
        stream.write_all(&request).await.unwrap();
        stream.flush().await.unwrap();
        answer(&mut stream, &mut buffer).await;
        if counting.load(Ordering::Relaxed) {
            latencies.push(begun.elapsed());
        }
    }
    latencies
}

/// So many requests, one after the other.
async fn counted(address: SocketAddr, tls: &Arc<ClientConfig>, request: &str, requests: usize) {
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(Arc::clone(tls));
    let mut stream = connector.connect(name, stream).await.unwrap();
    let mut buffer = vec![0; 16 * 1024];
    for _ in 0..requests {
        stream.write_all(request.as_bytes()).await.unwrap();
        answer(&mut stream, &mut buffer).await;
    }
}

async fn answer(stream: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) {
    let mut length = 0;
    let mut whole = usize::MAX;
    while length < whole {
        let read = stream.read(&mut buffer[length..]).await.unwrap();
        assert!(read > 0, "the server closed the connection");
        length += read;
        if whole == usize::MAX {
            whole = whole_length(&buffer[..length]).unwrap_or(usize::MAX);
        }
    }
}

/// Length of head and body together, once the head is there.
fn whole_length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let text = std::str::from_utf8(&bytes[..head]).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    let length = text
        .split("\r\n")
        .find_map(|line| line.strip_prefix("content-length: "))?;
    Some(head + 4 + length.parse::<usize>().unwrap())
}

/// axum as small as it can be, with the same TLS.
async fn bare_axum(body: &'static [u8], tls: Arc<rustls::ServerConfig>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let json = [(header::CONTENT_TYPE, "application/json")];
    let router = Router::new().route(
        "/cimi/Machine/{id}",
        get(move || async move { (json, body) }),
    );
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (acceptor, router) = (acceptor.clone(), router.clone());
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                let service = TowerToHyperService::new(router);
                let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}

fn print(name: &str, row: &Row) {
    println!(
        "{name:<44} {:>8.0}/s   median {:>8.1?}   p99 {:>8.1?}   {:>6.1?} of a core",
        row.per_second, row.median, row.p99, row.spent
    );
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let server = one_core();
    let world = server.block_on(World::start());
    let authenticated = format!(
        "GET /cimi/Machine/7 HTTP/1.1\r\nHost: localhost\r\n{}Accept: application/json\r\n\r\n",
        login("alice")
    );
    let plain =
        "GET /cimi/Machine/7 HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n";
    let body = server.block_on(world.ask("GET /cimi/Machine/7", "")).body;
    println!(
        "one server core, {CONNECTIONS} connections, TLS 1.3, body of {} bytes",
        body.len()
    );
    let certificate = doors::tls::Certificate::read(&world.files()).unwrap();
    let tls = doors::tls::Speech::new(certificate.into()).unwrap();
    let axum = server.block_on(bare_axum(body.leak(), tls.config(false)));

    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let [whom @ ("bare" | "doors"), requests] =
        *arguments.iter().map(String::as_str).collect::<Vec<_>>()
    {
        let (address, request) = match whom {
            "bare" => (axum, plain),
            _ => (world.address(), &*authenticated),
        };
        server.block_on(counted(
            address,
            &world.client,
            request,
            requests.parse().unwrap(),
        ));
        return;
    }

    let (mut rates, mut costs, mut reached) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        let bare = drive(&server, axum, &world.client, plain, None);
        print("bare axum, no authentication", &bare);
        let ours = drive(
            &server,
            world.address(),
            &world.client,
            &authenticated,
            None,
        );
        print("doors: Basic, CIMI, metrics, cached rendering", &ours);
        rates.push(ours.per_second / bare.per_second);
        costs.push(bare.spent.as_secs_f64() / ours.spent.as_secs_f64());
        reached.push(ours.per_second);
    }
    println!(
        "ratio, median of the pairs: {:.2}; of what they spend: {:.2}",
        median(&mut rates),
        median(&mut costs)
    );
    let in_xml = authenticated.replace("application/json", "application/xml");
    let row = drive(&server, world.address(), &world.client, &in_xml, None);
    print("the same in XML", &row);
    let rate = Some(median(&mut reached) / 2.0);
    let mut waits = Vec::new();
    for _ in 0..PAIRS {
        let bare = drive(&server, axum, &world.client, plain, rate);
        print("bare axum at the same rate", &bare);
        let ours = drive(
            &server,
            world.address(),
            &world.client,
            &authenticated,
            rate,
        );
        print("doors at half load", &ours);
        waits.push((bare.p99.as_secs_f64(), ours.p99.as_secs_f64()));
    }
    let (mut bare, mut ours): (Vec<_>, Vec<_>) = waits.into_iter().unzip();
    println!(
        "p99 at half load, median of the pairs: {:.2} ms; bare axum {:.2} ms",
        median(&mut ours) * 1e3,
        median(&mut bare) * 1e3
    );
}
