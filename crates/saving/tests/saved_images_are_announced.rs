//! A real mail server of our own, a Marketplace that answers as told.

mod own_marketplace;

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use cimi::{
    ImageId, MachineId, Timestamp, VmId,
    resources::{
        Capture, Digests, Image, ImageFile, ImageSource, ImageState, MediumFormat, Resource as _,
        Save,
    },
    size::ByteSize,
};
use documents::Documents;
use marketplace::{SigningKey, UtcTime};
use saving::{Announcer, Settings};
use store::SqliteStore;
use tokio_util::sync::CancellationToken;

/// The answer with which a Marketplace of these tests gives back what it was sent before.
const HAS_IT: &str = "200 OK";
const PATIENCE: Duration = Duration::from_secs(30);

fn key() -> SigningKey {
    SigningKey::from_pem(&pem(), None).unwrap()
}

fn pem() -> String {
    let pair = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(Vec::new())
        .unwrap()
        .self_signed(&pair)
        .unwrap();
    format!("{}{}", pair.serialize_pem(), certificate.pem())
}

/// An image of a machine's disk, saved for Ann.
fn saved(marketplace: Option<&str>) -> Image {
    let hex = |length: usize| Some("ab".repeat(length));
    let sha1 = hex(20);
    let identifier =
        marketplace::ImageIdentifier::from_sha1(&sha1.clone().unwrap().parse().unwrap());
    let capture = Capture {
        machine: MachineId::generate(),
        vmid: VmId(7),
        origin: ImageId::generate(),
        origin_identifier: Some("MMZu9WvwKIro-rtBQfDk4PsKO7_".to_owned()),
        disk_bytes: None,
        save: Some(Save {
            author: "Ann Example".to_owned(),
            author_email: "ann@example.org".to_owned(),
            title: "Debian <with> R".to_owned(),
            comment: "R & more".to_owned(),
            version: Some("1.1".to_owned()),
            marketplace: marketplace.map(str::to_owned),
        }),
    };
    let mut image = cimi::testing::image();
    image.state = ImageState::Available;
    image.desired.source = ImageSource::Machine(capture);
    image.file = Some(ImageFile {
        path: "/images/disk".to_owned(),
        format: MediumFormat::Qcow2,
        virtual_size: ByteSize(1 << 30),
        digests: Digests {
            identifier: Some(identifier.to_string()),
            md5: hex(16),
            sha1,
            sha256: hex(32),
            sha512: hex(64),
            bytes: Some(4096),
        },
        kept: None,
    });
    image
}

/// A Marketplace that answers these statuses one after the other, the last one for ever; what it was sent.
fn marketplace_answering(statuses: &'static [&'static str]) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let got = Arc::new(Mutex::new(Vec::new()));
    let kept = got.clone();
    thread::spawn(move || {
        let mut entry = String::new();
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            let is_whole = |request: &[u8]| {
                request.ends_with(b"</rdf:RDF>\n")
                    || (request.starts_with(b"GET ") && request.ends_with(b"\r\n\r\n"))
            };
            while !is_whole(&request) {
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(length) => request.extend_from_slice(&buffer[..length]),
                }
            }
            let request = String::from_utf8(request).unwrap();
            let status = *statuses.get(number).or(statuses.last()).unwrap();
            let body = if status == HAS_IT { &entry } else { "no" };
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            if let Some((_, sent)) = request.split_once("\r\n\r\n") {
                entry = sent.to_owned();
            }
            kept.lock().unwrap().push(request);
        }
    });
    (endpoint, got)
}

fn settings(marketplace: Option<String>, patience: Duration) -> Settings {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Settings {
        base_url: "https://cloud.example.org:8443".to_owned(),
        marketplace,
        own: None,
        key: Some(key()),
        endorser: "cloud@example.org".to_owned(),
        valid_days: 2,
        patience,
        has_mail: true,
        client: reqwest::Client::builder().no_proxy().build().unwrap(),
    }
}

/// Announces an image; the image and the letters that were queued.
async fn announced(
    image: &Image,
    marketplace: Option<String>,
    patience: Duration,
) -> (Image, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(dir.path().join("db")).unwrap());
    let documents = Documents::open(store).await.unwrap();
    documents.changes().create(image).commit().await.unwrap();
    let stop = CancellationToken::new();
    let announcer = Announcer::new(documents.clone(), settings(marketplace, patience));
    let work = tokio::spawn(announcer.run(stop.clone()));
    let mut changes = documents.images.changes();
    let done = tokio::time::timeout(PATIENCE, async {
        loop {
            let read = documents.images.get(image.local_id()).unwrap();
            if let Some(told) = &read.announced {
                if told.pending {
                    // Whoever looks after a failure sees why.
                    assert!(
                        told.problem
                            .as_deref()
                            .is_none_or(|why| why.ends_with("; it is tried again"))
                    );
                    changes.next().await;
                    continue;
                }
                return read.document.0.clone();
            }
            changes.next().await;
        }
    });
    let done = done.await.expect("announced in time");
    stop.cancel();
    work.await.unwrap();
    (done, letters_of(&documents).await)
}

async fn letters_of(documents: &Documents) -> Vec<String> {
    let letters = documents
        .store()
        .range(store::Range::prefix(
            &store::Prefix::collection("Letter").unwrap(),
        ))
        .await
        .unwrap();
    let letters = letters.entries.iter();
    letters
        .map(|entry| String::from_utf8_lossy(&entry.value).into_owned())
        .collect()
}

#[tokio::test]
async fn an_author_is_told_and_the_entry_is_one_that_readers_believe() {
    let (endpoint, got) = marketplace_answering(&["503 Busy", "201 Created"]);
    let (image, letters) = announced(&saved(None), Some(endpoint.clone()), PATIENCE).await;
    let announcement = image.announced.clone().unwrap();
    assert_eq!(
        announcement.marketplace.as_deref(),
        Some(endpoint.as_str()),
        "{announcement:?}"
    );
    let got = got.lock().unwrap().clone();
    assert_eq!(got.len(), 2, "tried again");
    let (_, document) = got[1].split_once("\r\n\r\n").unwrap();
    let entry = marketplace::Entry::verify(document.as_bytes()).unwrap();
    let metadata = entry.metadata();
    assert_eq!(
        Some(metadata.identifier.to_string().as_str()),
        image.identifier()
    );
    assert_eq!(entry.endorsement().email, "cloud@example.org");
    assert_eq!(metadata.creator.as_deref(), Some("Ann Example"));
    assert_eq!(metadata.title.as_deref(), Some("Debian <with> R"));
    assert_eq!(metadata.version.as_deref(), Some("1.1"));
    assert_eq!(metadata.format.as_deref(), Some("qcow2"));
    assert_eq!(
        metadata.locations,
        [format!(
            "https://cloud.example.org:8443/cimi/{}/data",
            image.id
        )]
    );
    let made = image.common.created.as_millis() / 1000;
    let valid = metadata.valid.unwrap().unix_seconds() - made;
    assert!(
        (2 * 86_400 - 2..=2 * 86_400 + 120).contains(&valid),
        "{valid} s"
    );
    assert_eq!(letters.len(), 1, "{letters:?}");
    let letter = &letters[0];
    for told in [
        "ann@example.org",
        "New image created",
        image.identifier().unwrap(),
        &endpoint,
        "stratus-sign-metadata",
    ] {
        assert!(letter.contains(told), "{told}: {letter}");
    }
}

#[tokio::test]
async fn an_entry_that_is_there_from_an_earlier_try_is_fine() {
    let (endpoint, got) = marketplace_answering(&["409 Conflict", HAS_IT]);
    let (image, _) = announced(&saved(None), Some(endpoint.clone()), PATIENCE).await;
    assert_eq!(image.announced.unwrap().marketplace, Some(endpoint));
    let got = got.lock().unwrap().clone();
    let (_, document) = got[0].split_once("\r\n\r\n").unwrap();
    let entry = marketplace::Entry::verify(document.as_bytes()).unwrap();
    assert!(
        got[1].starts_with(&format!("GET /metadata/{} ", entry.path())),
        "{}",
        got[1]
    );
}

#[tokio::test]
async fn a_marketplace_that_fails_when_it_is_asked_what_it_has_is_asked_again() {
    for failure in ["503 Busy", "429 Too Many Requests"] {
        let statuses = vec!["409 Conflict", failure, "409 Conflict", HAS_IT];
        let (endpoint, got) = marketplace_answering(Vec::leak(statuses));
        let (image, _) = announced(&saved(None), Some(endpoint.clone()), PATIENCE).await;
        let announcement = image.announced.unwrap();
        assert_eq!(announcement.marketplace, Some(endpoint), "{announcement:?}");
        assert_eq!(got.lock().unwrap().len(), 4);
    }
}

/// A Marketplace that takes each entry when it is told to; the times of the entries that it got.
fn marketplace_held() -> (String, mpsc::Receiver<UtcTime>, mpsc::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (got, times) = mpsc::channel();
    let (release, released) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.ends_with(b"</rdf:RDF>\n") {
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(length) => request.extend_from_slice(&buffer[..length]),
                }
            }
            let request = String::from_utf8(request).unwrap();
            let (_, document) = request.split_once("\r\n\r\n").unwrap();
            let entry = marketplace::Entry::verify(document.as_bytes()).unwrap();
            if got.send(entry.endorsement().created).is_err() || released.recv().is_err() {
                return;
            }
            let answer = "HTTP/1.1 201 Created\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (endpoint, times, release)
}

#[tokio::test]
async fn an_image_has_one_entry_whatever_becomes_of_it_and_of_the_daemon_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(dir.path().join("db")).unwrap());
    let documents = Documents::open(store).await.unwrap();
    let image = saved(None);
    documents.changes().create(&image).commit().await.unwrap();
    let (endpoint, times, release) = marketplace_held();
    let times = Arc::new(Mutex::new(times));
    let uploaded = async || {
        let times = Arc::clone(&times);
        let next = move || times.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        tokio::task::spawn_blocking(next).await.unwrap()
    };
    let start = |stop: &CancellationToken| {
        let settings = settings(Some(endpoint.clone()), PATIENCE * 10);
        tokio::spawn(Announcer::new(documents.clone(), settings).run(stop.clone()))
    };
    let change = async |name: &str| {
        let read = documents.images.get(image.local_id()).unwrap();
        let mut changed = read.document.0.clone();
        changed.common.name = Some(name.to_owned());
        let changes = documents.changes().replace(&read, changed);
        changes.commit().await.unwrap();
    };

    let stop = CancellationToken::new();
    let work = start(&stop);
    let first = uploaded().await;
    // Somebody edits the image while its entry is on the way: what became of that can't be written.
    change("edited").await;
    release.send(()).unwrap();
    let second = uploaded().await;
    assert!(Timestamp::now().as_millis() / 1000 > first.unix_seconds());
    // The daemon is killed before it knows what became of that one, and starts again.
    stop.cancel();
    work.await.unwrap();
    release.send(()).unwrap();
    let stop = CancellationToken::new();
    let work = start(&stop);
    let third = uploaded().await;
    assert_eq!([second, third], [first; 2]);
    assert!(letters_of(&documents).await.is_empty());
    release.send(()).unwrap();
    let mut changes = documents.images.changes();
    let done = tokio::time::timeout(PATIENCE, async {
        loop {
            let read = documents.images.get(image.local_id()).unwrap();
            match &read.announced {
                Some(told) if !told.pending => return read.document.0.clone(),
                _ => changes.next().await,
            };
        }
    });
    let done = done.await.expect("announced in time");
    stop.cancel();
    work.await.unwrap();
    assert_eq!(done.common.name.as_deref(), Some("edited"));
    assert_eq!(done.announced.unwrap().marketplace, Some(endpoint));
    assert_eq!(letters_of(&documents).await.len(), 1);
}

/// Documents from before addresses were read as letters need them.
#[tokio::test]
async fn an_author_who_cannot_be_told_is_a_problem_that_is_shown() {
    for state in [ImageState::Available, ImageState::Error] {
        let mut image = saved(None);
        image.state = state;
        let ImageSource::Machine(capture) = &mut image.desired.source else {
            panic!("a saved image");
        };
        capture.save.as_mut().unwrap().author_email = "joe@@x".to_owned();
        let (image, letters) = announced(&image, None, PATIENCE).await;
        let problem = image.announced.unwrap().problem.unwrap_or_default();
        assert!(
            problem.contains("its author can't be told: `joe@@x` is no e-mail address"),
            "{problem}"
        );
        assert!(letters.is_empty(), "{letters:?}");
    }
}

/// Users choose whom the letter goes to, and it comes from the cloud.
#[tokio::test]
async fn a_letter_is_no_place_for_what_users_like_to_say() {
    let mut image = saved(Some("http://evil.example.net/ Click here"));
    let ImageSource::Machine(capture) = &mut image.desired.source else {
        panic!("a saved image");
    };
    let save = capture.save.as_mut().unwrap();
    save.author = "you won, see https://evil.example.net".to_owned();
    let (_, letters) = announced(&image, None, PATIENCE).await;
    assert!(
        letters[0].contains("Hello,") && letters[0].contains("not the Marketplace"),
        "{letters:?}"
    );
    assert!(
        !letters[0].contains("evil") && !letters[0].contains("Click"),
        "{letters:?}"
    );
}

#[tokio::test]
async fn another_conflict_is_a_refusal() {
    for then in ["404 Not Found", "200 Something Else"] {
        let statuses: &'static [&'static str] = Vec::leak(vec!["409 Conflict", then]);
        let (endpoint, _) = marketplace_answering(statuses);
        let (image, letters) = announced(&saved(None), Some(endpoint), PATIENCE).await;
        let announcement = image.announced.unwrap();
        assert_eq!(announcement.marketplace, None);
        let problem = announcement.problem.unwrap();
        assert!(problem.contains("refused it: 409"), "{problem}");
        assert!(letters[0].contains("was not registered"), "{letters:?}");
    }
}

#[tokio::test]
async fn an_image_that_could_not_be_cleaned_is_not_published_and_its_author_is_told() {
    let (endpoint, got) = marketplace_answering(&["201 Created"]);
    let mut image = saved(None);
    image.uncleaned = vec!["partition 2 is an XFS file system".to_owned()];
    let (image, letters) = announced(&image, Some(endpoint), PATIENCE).await;
    let announcement = image.announced.unwrap();
    assert_eq!(announcement.marketplace, None);
    for told in [&announcement.problem.unwrap(), &letters[0]] {
        assert!(
            told.contains("may hold keys and histories") && told.contains("partition 2 is an XFS"),
            "{told}"
        );
    }
    assert!(got.lock().unwrap().is_empty(), "nothing is uploaded");
}

#[tokio::test]
async fn without_a_marketplace_the_author_is_told_why() {
    // None at all.
    let (image, letters) = announced(&saved(None), None, PATIENCE).await;
    assert_eq!(image.announced.unwrap().marketplace, None);
    assert_eq!(letters.len(), 1);
    // One that is away for longer than is waited for, one that refuses, one that wants a confirmation first, and one that
    // nobody configured.
    let (refusing, _) = marketplace_answering(&["400 Bad Request"]);
    let (asking, _) = marketplace_answering(&["202 Accepted"]);
    let (stranger, asked) = marketplace_answering(&["201 Created"]);
    for (wanted, configured, why) in [
        (
            None,
            Some("http://127.0.0.1:1".to_owned()),
            "can't be reached",
        ),
        (None, Some(refusing), "refused it"),
        (
            None,
            Some(asking),
            "waits for a confirmation by cloud@example.org",
        ),
        (
            Some(stranger.as_str()),
            Some("http://127.0.0.1:1".to_owned()),
            "not the Marketplace",
        ),
    ] {
        let (image, letters) = announced(&saved(wanted), configured, Duration::ZERO).await;
        let problem = image.announced.unwrap().problem.unwrap_or_default();
        assert!(problem.contains(why), "{problem}");
        assert!(letters[0].contains(why), "{letters:?}");
    }
    assert!(
        asked.lock().unwrap().is_empty(),
        "nothing is sent to where users say"
    );
}

#[tokio::test]
async fn a_failure_to_save_is_told_too() {
    let mut image = saved(None);
    image.state = ImageState::Error;
    image.reason = Some("the disk is damaged".to_owned());
    image.file = None;
    let (_, letters) = announced(&image, None, PATIENCE).await;
    assert!(
        letters[0].contains("the disk is damaged") && letters[0].contains("was not saved"),
        "{letters:?}"
    );
}
