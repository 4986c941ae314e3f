//! Imports from URLs: broken connections, restarts, changes, redirects, silence; and many imports of one image at once.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sha1::{Digest as _, Sha1};
use storage::Error;
use storage::digest::Expected;
use storage::import::{Fetcher, ImageStore, Imported, Limits, Options, Progress, Reach, Source};
use tokio::io::AsyncReadExt as _;
use tokio::sync::{Notify, watch};

use crate::web_server::{Answer, WebServer};

fn fetcher(allowed: &[&str]) -> Fetcher {
    // Another test of this process may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let allowed = allowed.iter().map(|block| block.parse().expect("a block"));
    let reach = Reach {
        allowed: allowed.collect(),
        ..Reach::default()
    };
    Fetcher::new(reqwest::Client::builder(), reach).expect("fetcher")
}

fn store(dir: &Path) -> ImageStore {
    ImageStore::open(&dir.join("store"), Options::default()).expect("open")
}

fn contents() -> Arc<Vec<u8>> {
    Arc::new(
        (0..500_000_u32)
            .flat_map(|i| (i ^ (i >> 5)).to_le_bytes())
            .collect(),
    )
}

async fn fetch(
    store: &ImageStore,
    url: &str,
    expected: Expected,
    limits: Limits,
) -> Result<Imported, Error> {
    let (progress, _) = watch::channel(Progress::default());
    let source = Source::Url {
        url: url.to_owned(),
        fetcher: fetcher(&["127.0.0.0/8"]),
    };
    tokio::time::timeout(
        Duration::from_secs(60),
        store.import(source, expected, limits, &progress),
    )
    .await
    .expect("in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_within_are_not_asked_unless_that_is_allowed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = store(dir.path());
    let within = WebServer::start(|_| Answer::Head("HTTP/1.1 200 OK\r\n".to_owned())).await;
    let port = within.url.rsplit(':').next().expect("a port and a path");
    let fetch = async |url: &str, allowed: &[&str]| {
        let (progress, _) = watch::channel(Progress::default());
        let source = Source::Url {
            url: url.to_owned(),
            fetcher: fetcher(allowed),
        };
        store
            .import(source, Expected::default(), Limits::default(), &progress)
            .await
            .expect_err("refused")
            .to_string()
    };
    for host in ["127.0.0.1", "localhost", "[::1]", "2130706433"] {
        let told = fetch(&format!("http://{host}:{port}"), &[]).await;
        assert!(told.contains("a loopback address"), "{host}: {told}");
        assert!(told.contains("allow_sources = ["), "{host}: {told}");
    }
    let told = fetch("http://169.254.169.254/latest/meta-data", &[]).await;
    assert!(told.contains("a link-local address"), "{told}");
    assert_eq!(within.requests.load(Ordering::SeqCst), 0);

    // Redirected from where it is allowed to where it isn't.
    let location = format!("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.2:{port}/\r\n");
    let outside = WebServer::start(move |_| Answer::Head(location.clone())).await;
    let told = fetch(&outside.url, &["127.0.0.1/32"]).await;
    assert!(told.contains("127.0.0.2 is a loopback address"), "{told}");
    assert_eq!(within.requests.load(Ordering::SeqCst), 0);
    nothing_is_left(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dribbles_is_cut_off() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = store(dir.path());
    let server = WebServer::start(|_| Answer::Dribble(Duration::from_millis(20))).await;
    let slow = Limits {
        grace: Duration::from_millis(500),
        ..Limits::default()
    };
    let error = fetch(&store, &server.url, Expected::default(), slow)
        .await
        .expect_err("too slow");
    assert!(matches!(error, Error::TooSlow { .. }), "{error}");
    let long = Limits {
        longest: Duration::from_millis(500),
        ..Limits::default()
    };
    let error = fetch(&store, &server.url, Expected::default(), long)
        .await
        .expect_err("too long");
    assert!(matches!(error, Error::TooLong { .. }), "{error}");
    nothing_is_left(dir.path()).await;
}

/// Waits until an ended import has cleared up; its blocking half does so a moment later.
async fn nothing_is_left(dir: &Path) {
    let incoming = dir.join("store/incoming");
    for _ in 0..600 {
        if std::fs::read_dir(&incoming).expect("list").count() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    unreachable!("something is left in {}", incoming.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_is_taken_up_where_it_was() {
    for ranges in [true, false] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = store(dir.path());
        let bytes = contents();
        let served = bytes.clone();
        let server = WebServer::start(move |n| Answer::Body {
            bytes: served.clone(),
            etag: "one",
            ranges,
            at_most: if n < 3 { 300_000 * (n + 1) } else { usize::MAX },
        })
        .await;
        let (progress, _) = watch::channel(Progress::default());
        let source = Source::Url {
            url: server.url.clone(),
            fetcher: fetcher(&["127.0.0.0/8"]),
        };
        let image = store
            .import(source, Expected::default(), Limits::default(), &progress)
            .await
            .expect("resumed")
            .image;
        assert!(std::fs::read(&image.path).expect("read") == **bytes);
        assert!(server.requests.load(Ordering::SeqCst) >= 3);
        let total = bytes.len() as u64;
        assert_eq!(
            *progress.borrow(),
            Progress {
                bytes_read: total,
                bytes_written: total,
                total: Some(total)
            }
        );
        nothing_is_left(dir.path()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_meanwhile_is_not_mixed() {
    for ranges in [true, false] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = store(dir.path());
        let bytes = contents();
        let server = WebServer::start(move |n| Answer::Body {
            bytes: bytes.clone(),
            etag: if n == 0 { "one" } else { "two" },
            ranges,
            at_most: if n == 0 { 300_000 } else { usize::MAX },
        })
        .await;
        let error = fetch(&store, &server.url, Expected::default(), Limits::default())
            .await
            .expect_err("changed");
        assert!(error.to_string().contains("changed"), "{error}");
        nothing_is_left(dir.path()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_tell_apart_is_not_put_together() {
    let one = contents();
    let two = Arc::new(one.iter().map(|byte| !byte).collect::<Vec<u8>>());
    let sha1: [u8; 20] = Sha1::digest(&two[..]).into();
    // Another file of the same length when the connection has broken, and nothing that says so.
    let changing = async |again: Arc<Vec<u8>>| {
        let first = one.clone();
        WebServer::start(move |n| Answer::Body {
            bytes: if n == 0 { first.clone() } else { again.clone() },
            etag: "",
            ranges: true,
            at_most: if n == 0 { 300_000 } else { usize::MAX },
        })
        .await
    };
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = store(dir.path());
    let server = changing(two.clone()).await;
    let image = fetch(&store, &server.url, Expected::default(), Limits::default())
        .await
        .expect("from the beginning")
        .image;
    assert!(std::fs::read(&image.path).expect("read") == **two);
    assert_eq!(server.requests.load(Ordering::SeqCst), 2);
    store.delete(&image.identifier).await.expect("deleted");

    // A checksum tells them apart in the end, so that the same file needn't come twice.
    let expected = Expected {
        sha1: Some(storage::digest::Digest::from_bytes(sha1)),
        ..Expected::default()
    };
    let server = changing(two.clone()).await;
    let error = fetch(&store, &server.url, expected, Limits::default())
        .await
        .expect_err("half of each");
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");

    // One that never gets further is given up.
    let same = one.clone();
    let server = WebServer::start(move |_| Answer::Body {
        bytes: same.clone(),
        etag: "",
        ranges: true,
        at_most: 300_000,
    })
    .await;
    let limits = Limits {
        resumes: 2,
        ..Limits::default()
    };
    let error = fetch(&store, &server.url, Expected::default(), limits)
        .await
        .expect_err("never whole");
    assert!(matches!(error, Error::BrokeOff { .. }), "{error}");
    assert_eq!(server.requests.load(Ordering::SeqCst), 3);
    nothing_is_left(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_and_addresses_that_will_not_do() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = store(dir.path());
    let limits = Limits {
        stall: Duration::from_millis(500),
        resumes: 1,
        ..Limits::default()
    };
    for url in [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "gopher://127.0.0.1",
        "not a url",
        "",
    ] {
        let error = fetch(&store, url, Expected::default(), limits)
            .await
            .expect_err(url);
        assert!(matches!(error, Error::Url { .. }), "{url}: {error}");
    }
    let missing = WebServer::start(|_| Answer::Head("HTTP/1.1 404 Not Found\r\n".to_owned())).await;
    let error = fetch(&store, &missing.url, Expected::default(), limits)
        .await
        .expect_err("missing");
    assert!(error.to_string().contains("404"), "{error}");
    assert_eq!(
        missing.requests.load(Ordering::SeqCst),
        1,
        "asked again for nothing"
    );

    let silent = WebServer::start(|_| Answer::Silence).await;
    let error = fetch(&store, &silent.url, Expected::default(), limits)
        .await
        .expect_err("silent");
    assert!(matches!(error, Error::Stalled { .. }), "{error}");
    assert_eq!(silent.requests.load(Ordering::SeqCst), 2);

    let busy = WebServer::start(|_| Answer::Head("HTTP/1.1 503 Busy\r\n".to_owned())).await;
    let error = fetch(&store, &busy.url, Expected::default(), limits)
        .await
        .expect_err("busy");
    assert!(error.to_string().contains("503"), "{error}");

    for target in ["file:///etc/passwd", "/image"] {
        let head = format!("HTTP/1.1 302 Found\r\nlocation: {target}\r\n");
        let round = WebServer::start(move |_| Answer::Head(head.clone())).await;
        let error = fetch(&store, &round.url, Expected::default(), limits)
            .await
            .expect_err("redirect");
        assert!(matches!(error, Error::Url { .. }), "{error}");
        assert!(round.requests.load(Ordering::SeqCst) <= 7);
    }
    let secret = "http://user:secret@127.0.0.1:1/x?signature=secret";
    let error = fetch(&store, secret, Expected::default(), limits)
        .await
        .expect_err("nobody listens");
    assert!(!error.to_string().contains("secret"), "{error}");
    nothing_is_left(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_are_limited_before_and_while_reading() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = store(dir.path());
    let limits = Limits {
        max_source_bytes: 1_000_000,
        ..Limits::default()
    };
    let bytes = contents();
    let (progress, _) = watch::channel(Progress::default());
    let source = Source::Stream {
        reader: Box::new(std::io::Cursor::new(bytes.to_vec())),
        length: None,
    };
    let error = store
        .import(source, Expected::default(), limits, &progress)
        .await
        .expect_err("too large");
    assert!(
        matches!(
            error,
            Error::TooLarge {
                what: "image file",
                ..
            }
        ),
        "{error}"
    );
    let server = WebServer::start(move |_| Answer::Body {
        bytes: bytes.clone(),
        etag: "e",
        ranges: true,
        at_most: 0,
    })
    .await;
    let error = fetch(&store, &server.url, Expected::default(), limits)
        .await
        .expect_err("announced too large");
    assert!(
        matches!(
            error,
            Error::TooLarge {
                what: "image file",
                ..
            }
        ),
        "{error}"
    );
    nothing_is_left(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_imports_of_one_url_fetch_it_once() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = store(dir.path());
    let bytes = contents();
    let gate = Arc::new(Notify::new());
    let held = gate.clone();
    let server = WebServer::start(move |_| {
        let body = Answer::Body {
            bytes: bytes.clone(),
            etag: "one",
            ranges: true,
            at_most: usize::MAX,
        };
        Answer::After(held.clone(), Box::new(body))
    })
    .await;
    let imports =
        (0..20).map(|_| fetch(&store, &server.url, Expected::default(), Limits::default()));
    let mut imports = std::pin::pin!(futures::future::join_all(imports));
    // All have begun before the server sends anything.
    tokio::select! {
        biased;
        _ = &mut imports => unreachable!("the server has not answered yet"),
        () = async { gate.notify_one() } => {}
    }
    let done = imports.await;
    let fresh = done
        .iter()
        .filter(|done| done.as_ref().is_ok_and(|done| !done.already_present))
        .count();
    assert!(done.iter().all(Result::is_ok), "{done:?}");
    assert_eq!(fresh, 1);
    assert_eq!(server.requests.load(Ordering::SeqCst), 1);
    nothing_is_left(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_waited_for_a_failing_import_uses_their_own_source() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = store(dir.path());
    let bytes = contents();
    let identifier = {
        let (progress, _) = watch::channel(Progress::default());
        let source = Source::Stream {
            reader: Box::new(std::io::Cursor::new(bytes.to_vec())),
            length: None,
        };
        let done = store
            .import(source, Expected::default(), Limits::default(), &progress)
            .await
            .expect("import");
        store.delete(&done.image.identifier).await.expect("delete");
        done.image.identifier
    };
    let expected = Expected {
        identifier: Some(identifier),
        ..Expected::default()
    };
    // The first sends a little, keeps the second waiting, and then turns out to be somebody else's.
    let (mut far_end, near_end) = tokio::io::duplex(64);
    let (first_progress, mut first_progress_seen) = watch::channel(Progress::default());
    let first = tokio::spawn({
        let (store, expected) = (store.clone(), expected.clone());
        async move {
            let source = Source::Stream {
                reader: Box::new(near_end),
                length: None,
            };
            store
                .import(source, expected, Limits::default(), &first_progress)
                .await
        }
    });
    tokio::io::AsyncWriteExt::write_all(&mut far_end, b"nonsense")
        .await
        .expect("write");
    first_progress_seen
        .wait_for(|progress| progress.bytes_read > 0)
        .await
        .expect("first has begun");
    let second = tokio::spawn(async move {
        let (progress, _) = watch::channel(Progress::default());
        let source = Source::Stream {
            reader: Box::new(std::io::Cursor::new(bytes.to_vec())),
            length: None,
        };
        store
            .import(source, expected, Limits::default(), &progress)
            .await
    });
    tokio::task::yield_now().await;
    drop(far_end);
    let error = first.await.expect("no panic").expect_err("nonsense");
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    let done = second.await.expect("no panic").expect("on its own");
    assert_eq!(done.image.identifier, identifier);
    nothing_is_left(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_nobody_waits_for_ends_and_leaves_nothing() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = store(dir.path());
    let (progress, mut seen) = watch::channel(Progress::default());
    let endless = tokio::io::repeat(7).take(u64::MAX);
    let import = tokio::spawn({
        let store = store.clone();
        async move {
            let source = Source::Stream {
                reader: Box::new(endless),
                length: None,
            };
            store
                .import(source, Expected::default(), Limits::default(), &progress)
                .await
        }
    });
    seen.wait_for(|progress| progress.bytes_written > 1 << 20)
        .await
        .expect("under way");
    import.abort();
    assert!(import.await.expect_err("aborted").is_cancelled());
    nothing_is_left(dir.path()).await;
    assert!(store.list().is_empty());
}
