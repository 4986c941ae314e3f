//! Connections over TLS, with both ends relayed as those of a volume of another computer are, and with one.

#![allow(clippy::unwrap_used, clippy::panic)] // a test that panics has failed

use std::{fs, io, sync::Arc, time::Duration};

use relay::{Relayed, Remote, relay};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{PrivateKeyDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    sync::Barrier,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const PATIENCE: Duration = Duration::from_secs(60);
/// More than fits into all sockets of a way.
const MANY_BYTES: usize = 32 << 20;

/// Both ends of a connection over TLS, the client's first.
async fn connected() -> (Remote, Remote) {
    let made = rcgen::generate_simple_self_signed(vec!["volumes".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(
        TcpStream::connect(listener.local_addr().unwrap()),
        listener.accept()
    );
    let name = ServerName::try_from("volumes").unwrap();
    let (near, far) = tokio::join!(
        TlsConnector::from(Arc::new(client)).connect(name, near.unwrap()),
        TlsAcceptor::from(Arc::new(server)).accept(far.unwrap().0)
    );
    (near.unwrap().into(), far.unwrap().into())
}

type Relaying = JoinHandle<io::Result<Relayed>>;

/// A program at one end, of which this is the other one.
fn relayed(remote: Remote) -> (UnixStream, Relaying) {
    let (program, local) = UnixStream::pair().unwrap();
    (program, tokio::spawn(relay(remote, local)))
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at % 251) as u8).collect()
}

async fn ended<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("it ends in time")
}

#[tokio::test]
async fn much_goes_both_ways_at_once_though_nobody_reads_at_first() {
    let (near, far) = connected().await;
    let ((near, near_relay), (far, far_relay)) = (relayed(near), relayed(far));
    let said = bytes(MANY_BYTES);
    let both_are_full = Barrier::new(2);
    let speaks = |stream: UnixStream| {
        let (said, both_are_full) = (&said, &both_are_full);
        async move {
            let (mut reads, mut writes) = stream.into_split();
            // As much as has room while nobody reads: then all four relaying threads wait for room.
            let mut written = 0;
            while written < said.len()
                && let Ok(more) =
                    timeout(Duration::from_millis(200), writes.write(&said[written..])).await
            {
                written += more.unwrap();
            }
            assert!(written < said.len(), "nothing was full");
            both_are_full.wait().await;
            let writing = async {
                writes.write_all(&said[written..]).await.unwrap();
                writes.shutdown().await.unwrap();
            };
            let mut heard = Vec::new();
            let (_, read) = tokio::join!(writing, reads.read_to_end(&mut heard));
            read.unwrap();
            assert!(heard == *said);
        }
    };
    ended(async { tokio::join!(speaks(near), speaks(far)) }).await;
    let both = Relayed {
        sent: MANY_BYTES as u64,
        received: MANY_BYTES as u64,
    };
    for relay in [near_relay, far_relay] {
        assert_eq!(ended(relay).await.unwrap().unwrap(), both);
    }
}

#[tokio::test]
async fn the_end_of_one_way_is_passed_on_and_the_other_goes_on() {
    let (near, far) = connected().await;
    let ((mut near, near_relay), (mut far, far_relay)) = (relayed(near), relayed(far));
    near.write_all(b"that is all").await.unwrap();
    near.shutdown().await.unwrap();
    let mut heard = Vec::new();
    ended(far.read_to_end(&mut heard)).await.unwrap();
    assert_eq!(heard, b"that is all");
    far.write_all(b"here is more").await.unwrap();
    let mut heard = [0; 12];
    ended(near.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"here is more");
    drop(far);
    assert_eq!(ended(near.read(&mut heard)).await.unwrap(), 0);
    let near = ended(near_relay).await.unwrap().unwrap();
    let far = ended(far_relay).await.unwrap().unwrap();
    assert_eq!((near.sent, near.received), (11, 12));
    assert_eq!((far.sent, far.received), (12, 11));
}

#[tokio::test]
async fn what_came_along_with_the_first_words_is_not_lost() {
    let (mut near, mut far) = connected().await;
    far.write_all(b"greeting, and the rest").await.unwrap();
    far.flush().await.unwrap();
    let mut greeting = [0; 8];
    ended(near.read_exact(&mut greeting)).await.unwrap();
    let (mut near, _relay) = relayed(near);
    let mut rest = [0; 14];
    ended(near.read_exact(&mut rest)).await.unwrap();
    assert_eq!(&rest, b", and the rest");
}

/// How many threads of this process relay. Others' tests may run beside: nextest gives each its own process, and elsewhere it is
/// waited for.
fn threads() -> usize {
    let all = fs::read_dir("/proc/self/task").unwrap();
    let names = all.filter_map(|one| fs::read_to_string(one.unwrap().path().join("comm")).ok());
    names.filter(|name| name.starts_with("relay-")).count()
}

async fn until_no_thread_relays() {
    let gone = async {
        while threads() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    ended(gone).await;
}

#[tokio::test]
async fn who_is_dropped_ends_both_connections_and_its_threads_whatever_they_wait_for() {
    for is_full in [false, true] {
        let (near, mut far) = connected().await;
        let (mut program, relay) = relayed(near);
        if is_full {
            // Nobody reads at either end.
            let piece = bytes(1 << 20);
            let limit = Duration::from_millis(200);
            while timeout(limit, program.write_all(&piece)).await.is_ok() {}
            while timeout(limit, far.write_all(&piece)).await.is_ok() {}
        } else {
            program.write_all(b"x").await.unwrap();
            ended(far.read_u8()).await.unwrap();
        }
        relay.abort();
        assert!(ended(relay).await.unwrap_err().is_cancelled());
        let mut rest = Vec::new();
        let _ = ended(program.read_to_end(&mut rest)).await;
        assert!(program.write_all(b"more").await.is_err());
        assert!(ended(far.read_to_end(&mut rest)).await.is_err(), "cut off");
        until_no_thread_relays().await;
    }
}

#[tokio::test]
async fn an_end_that_tls_has_not_said_is_an_error_and_ends_both_ways() {
    let (near, far) = connected().await;
    let (mut program, relay) = relayed(near);
    // The connection ends, and who could have said so didn't.
    let (far, _session) = match far {
        Remote::Server(far) => far.into_inner(),
        Remote::Client(_) => unreachable!("it accepted"),
    };
    drop(far);
    let error = ended(relay).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(ended(program.read(&mut [0; 1])).await.unwrap_or(0), 0);
    until_no_thread_relays().await;
}

#[tokio::test]
async fn nothing_that_was_altered_on_the_way_is_passed_on() {
    let (near, far) = connected().await;
    let (mut program, relay) = relayed(near);
    let (mut far, mut session) = match far {
        Remote::Server(far) => far.into_inner(),
        Remote::Client(_) => unreachable!("it accepted"),
    };
    let mut sealed = Vec::new();
    io::Write::write_all(&mut session.writer(), b"a piece of a disk").unwrap();
    while session.wants_write() {
        session.write_tls(&mut sealed).unwrap();
    }
    *sealed.last_mut().unwrap() ^= 1;
    far.write_all(&sealed).await.unwrap();
    ended(relay).await.unwrap().unwrap_err();
    let mut heard = Vec::new();
    let _ = ended(program.read_to_end(&mut heard)).await;
    assert!(heard.is_empty());
    until_no_thread_relays().await;
}
