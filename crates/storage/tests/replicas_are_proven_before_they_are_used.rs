//! Replicas of images: fetched once from servers that may break off or lie, examined, kept as long as a machine may need them.
#![allow(clippy::panic)] // a test that panics has failed

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cimi::ImageId;
use cimi::resources::{Digests, Image, ImageFile, ImageState, MediumFormat};
use cimi::size::ByteSize;
use documents::Documents;
use futures::future::{BoxFuture, FutureExt as _};
use sha1::{Digest as _, Sha1};
use storage::inspect::Format;
use storage::replicas::{ImageServer, Neighbour, Neighbours, Replica, Replicas, Settings};
use storage::{Durability, import::Fetcher, qcow2};
use store::SqliteStore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::web_server::{Answer, WebServer};

/// Generous: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where servers break off.
const BROKEN_AT: usize = 1_000_000;

/// A host that has joined: what it sees, and its folders.
struct Host {
    dir: tempfile::TempDir,
    documents: Documents,
}

/// Who has all images.
struct Known(Vec<Neighbour>);

impl Neighbours for Known {
    fn with<'a>(&'a self, _: &'a ImageId, _: &'a str) -> BoxFuture<'a, Vec<Neighbour>> {
        std::future::ready(self.0.clone()).boxed()
    }
}

/// Its daemon.
struct Running {
    replicas: Replicas,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Host {
    async fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = SqliteStore::open(dir.path().join("db")).expect("database");
        let documents = Documents::open(Arc::new(store)).await.expect("documents");
        Self { dir, documents }
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("replicas")
    }

    fn machines(&self) -> PathBuf {
        self.dir.path().join("machines")
    }

    fn settings(&self, servers: &[&WebServer]) -> Settings {
        let one = |server: &&WebServer| ImageServer {
            name: "the entry".to_owned(),
            url: format!("{}/", server.url),
            fetcher: Fetcher::of_server(reqwest::Client::builder(), "127.0.0.1").expect("fetcher"),
        };
        let mut settings = Settings::new(self.folder(), servers.iter().map(one).collect());
        settings.reserve_bytes = 0;
        settings.rest = Duration::from_millis(1);
        settings.overlay_dirs = vec![self.machines()];
        settings
    }

    /// The same, with neighbours that are asked in this order each time.
    async fn start_beside(&self, neighbours: &[&WebServer], servers: &[&WebServer]) -> Running {
        let one = |(number, server): (usize, &&WebServer)| Neighbour {
            name: format!("node{number}"),
            url: format!("{}/replica", server.url),
            fetcher: Fetcher::of_server(reqwest::Client::builder(), "127.0.0.1").expect("fetcher"),
        };
        let neighbours = neighbours.iter().enumerate().map(one);
        let mut settings = self.settings(servers);
        settings.neighbours = Some(Arc::new(Known(neighbours.collect())));
        self.start_with(settings).await
    }

    async fn start(&self, servers: &[&WebServer]) -> Running {
        self.start_with(self.settings(servers)).await
    }

    async fn start_with(&self, settings: Settings) -> Running {
        let replicas = Replicas::open(settings, self.documents.clone()).await;
        let (replicas, stop) = (replicas.expect("open"), CancellationToken::new());
        let (at_work, until) = (replicas.clone(), stop.clone());
        let task = tokio::spawn(async move { at_work.run(until).await });
        Running {
            replicas,
            stop,
            task,
        }
    }

    /// An image that is announced to be this.
    async fn image(&self, content: &[u8], format: MediumFormat) -> Image {
        let sha1 = Sha1::digest(content);
        let digests = Digests {
            sha1: Some(sha1.iter().map(|byte| format!("{byte:02x}")).collect()),
            bytes: Some(content.len() as u64),
            ..Digests::default()
        };
        let image = Image {
            state: ImageState::Available,
            file: Some(ImageFile {
                path: "/elsewhere".to_owned(),
                format,
                virtual_size: ByteSize(content.len() as u64),
                digests,
                kept: None,
            }),
            ..cimi::testing::image()
        };
        let made = self.documents.changes().create(&image).commit().await;
        made.expect("the document is made");
        image
    }

    async fn out_of_sight(&self, image: &Image) {
        let read = self.documents.images.get(image.id.local()).expect("there");
        let gone = self.documents.changes().remove(&read).commit().await;
        gone.expect("the document goes");
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder()).expect("folder");
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("entry").file_name();
        entries
            .map(|entry| name(entry).into_string().expect("a name"))
            .collect()
    }
}

impl Running {
    async fn end(self) {
        self.stop.cancel();
        self.task.await.expect("it ends");
    }

    /// What is told of the image, once it is this.
    async fn until(&self, image: &Image, wanted: impl Fn(&Replica) -> bool) -> Replica {
        let told = async {
            loop {
                let replica = self.replicas.of(image);
                if wanted(&replica) {
                    return replica;
                }
                self.replicas.changed().await;
            }
        };
        tokio::time::timeout(PATIENCE, told)
            .await
            .unwrap_or_else(|_| panic!("still {:?}", self.replicas.of(image)))
    }

    async fn here(&self, image: &Image) -> PathBuf {
        match self
            .until(image, |told| !matches!(told, Replica::OnItsWay(_)))
            .await
        {
            Replica::Here(path) => path,
            other => panic!("{other:?}"),
        }
    }

    async fn refused(&self, image: &Image) -> String {
        match self
            .until(image, |told| !matches!(told, Replica::OnItsWay(_)))
            .await
        {
            Replica::Refused(text) => text,
            other => panic!("{other:?}"),
        }
    }
}

/// A raw disk of whole sectors, with runs of zeroes in it.
fn disk(seed: u32) -> Arc<Vec<u8>> {
    let words = (0..750_080_u32).map(|i| {
        if i / 9000 % 3 == 1 {
            0
        } else {
            (i ^ (i >> 5)) + seed
        }
    });
    Arc::new(words.flat_map(u32::to_le_bytes).collect())
}

fn body(bytes: &Arc<Vec<u8>>, etag: &'static str, at_most: usize) -> Answer {
    Answer::Body {
        bytes: bytes.clone(),
        etag,
        ranges: true,
        at_most,
    }
}

fn whole(bytes: &Arc<Vec<u8>>) -> Answer {
    body(bytes, "one", usize::MAX)
}

fn mode(path: &Path) -> u32 {
    path.metadata().expect("metadata").permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn one_fetch_is_for_all_who_ask_and_for_later() {
    let (host, content) = (Host::new().await, disk(1));
    let server = WebServer::start({
        let content = content.clone();
        move |_| whole(&content)
    })
    .await;
    let image = host.image(&content, MediumFormat::Raw).await;
    // Another document of the same content.
    let twin = host.image(&content, MediumFormat::Raw).await;
    let running = host.start(&[&server]).await;
    assert!(matches!(running.replicas.of(&twin), Replica::OnItsWay(_)));
    let path = running.here(&image).await;
    assert_eq!(running.here(&twin).await, path);
    assert_eq!(std::fs::read(&path).expect("read"), *content);
    assert_eq!((path.parent(), mode(&path)), (Some(&*host.folder()), 0o400));
    assert_eq!(host.files().len(), 1, "{:?}", host.files());
    running.end().await;
    let running = host.start(&[]).await;
    assert_eq!(running.replicas.of(&image), Replica::Here(path));
    assert_eq!(server.requests.load(Ordering::SeqCst), 1);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_is_kept_as_it_comes_and_can_be_opened_by_its_name() {
    let (host, kernel) = (Host::new().await, Arc::new(b"MZ, a kernel".to_vec()));
    let server = WebServer::start({
        let kernel = kernel.clone();
        move |_| whole(&kernel)
    })
    .await;
    let mut image = host.image(&kernel, MediumFormat::Raw).await;
    image.kind = "FILE".to_owned();
    let read = host.documents.images.get(image.id.local()).expect("there");
    let changed = host.documents.changes().replace(&read, image.clone());
    changed.commit().await.expect("a file");
    let running = host.start(&[&server]).await;
    let path = running.here(&image).await;
    assert_eq!(std::fs::read(&path).expect("read"), *kernel);
    assert_eq!(mode(&path), 0o444);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_goes_on_where_it_was_also_after_a_restart() {
    let (host, content) = (Host::new().await, disk(2));
    let image = host.image(&content, MediumFormat::Raw).await;
    let silent = WebServer::start({
        let content = content.clone();
        move |number| match number {
            0 => body(&content, "one", BROKEN_AT),
            _ => Answer::Silence,
        }
    })
    .await;
    let running = host.start(&[&silent]).await;
    assert!(matches!(running.replicas.of(&image), Replica::OnItsWay(_)));
    let part = || {
        let files = host.files();
        let part = files.iter().find(|name| name.ends_with(".part"))?;
        Some(std::fs::metadata(host.folder().join(part)).ok()?.len())
    };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while part().is_none_or(|here| here < BROKEN_AT as u64 / 2) {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", part());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    running.end().await;

    // Of the first half million, this server has something else: that must not be asked for.
    let mut spoilt = content.to_vec();
    spoilt
        .iter_mut()
        .take(BROKEN_AT / 2)
        .for_each(|byte| *byte = 7);
    let spoilt = Arc::new(spoilt);
    let server = WebServer::start(move |_| whole(&spoilt)).await;
    let running = host.start(&[&server]).await;
    let path = running.here(&image).await;
    assert_eq!(std::fs::read(&path).expect("read"), *content);
    assert_eq!(server.requests.load(Ordering::SeqCst), 1);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_becomes_another_is_fetched_from_its_beginning() {
    let (host, old, new) = (Host::new().await, disk(3), disk(4));
    let server = WebServer::start({
        let new = new.clone();
        move |number| match number {
            0 => body(&old, "old", BROKEN_AT),
            _ => body(&new, "new", usize::MAX),
        }
    })
    .await;
    let image = host.image(&new, MediumFormat::Raw).await;
    let running = host.start(&[&server]).await;
    let path = running.here(&image).await;
    assert_eq!(std::fs::read(&path).expect("read"), *new);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_server_is_asked_when_one_does_not_give_it() {
    let (host, content, other) = (Host::new().await, disk(5), disk(6));
    let image = host.image(&content, MediumFormat::Raw).await;
    let blind = WebServer::start(|_| Answer::Head("HTTP/1.1 404 Not Found\r\n".to_owned())).await;
    let mistaken = WebServer::start(move |_| whole(&other)).await;
    let server = WebServer::start({
        let content = content.clone();
        move |_| whole(&content)
    })
    .await;
    let running = host.start(&[&blind, &mistaken, &server]).await;
    let path = running.here(&image).await;
    assert_eq!(std::fs::read(&path).expect("read"), *content);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_that_gave_one_last_is_asked_first() {
    let host = Host::new().await;
    let (one, another) = (disk(41), disk(42));
    let first = host.image(&one, MediumFormat::Raw).await;
    let second = host.image(&another, MediumFormat::Raw).await;
    let third = host.image(&disk(43), MediumFormat::Raw).await;
    let silent = WebServer::start(|_| Answer::Head("HTTP/1.1 404 Not Found\r\n".to_owned())).await;
    // Each gives what the others don't.
    let gives = async |known: Vec<(&Image, Arc<Vec<u8>>)>| {
        let local = |(image, content): (&Image, _)| (image.id.local().to_owned(), content);
        let known: Vec<_> = known.into_iter().map(local).collect();
        let answer = move |path: &str, _| match known.iter().find(|(id, _)| path.contains(id)) {
            Some((_, content)) => whole(content),
            None => Answer::Head("HTTP/1.1 404 Not Found\r\n".to_owned()),
        };
        WebServer::start_with(answer).await
    };
    let left = gives(vec![(&third, disk(43))]).await;
    let right = gives(vec![(&first, one), (&second, another)]).await;
    let running = host.start(&[&silent, &left, &right]).await;
    running.here(&first).await;
    let before = [asked(&silent), asked(&left)];
    assert_eq!(before, [1, 1]);
    running.here(&second).await;
    assert_eq!(
        [asked(&silent), asked(&left)],
        before,
        "right was asked first"
    );
    // Those behind it come first, then those before.
    running.here(&third).await;
    assert_eq!([asked(&silent), asked(&left)], [2, 2]);
    running.end().await;
}

/// How often it was asked.
fn asked(server: &WebServer) -> usize {
    server.requests.load(Ordering::SeqCst)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_gives_it_and_the_cloud_is_not_asked() {
    let (host, content) = (Host::new().await, disk(20));
    let image = host.image(&content, MediumFormat::Raw).await;
    let neighbour = WebServer::start({
        let content = content.clone();
        move |_| whole(&content)
    })
    .await;
    let running = host.start_beside(&[&neighbour], &[]).await;
    let path = running.here(&image).await;
    assert_eq!(std::fs::read(&path).expect("read"), *content);
    assert_eq!((asked(&neighbour), mode(&path)), (1, 0o400));

    // As this host gives it in its turn: what is whole, and nothing else.
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.expect("a name");
    let given = running.replicas.file(name).map(|(_, length)| length);
    assert_eq!(given, Some(content.len() as u64));
    let part = format!("{name}.part");
    for other in ["../db", "x.disk", &part, "", &name.replace("disk", "file")] {
        assert!(running.replicas.file(other).is_none(), "{other}");
    }
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_neighbour_has_begun_the_next_one_goes_on_with() {
    let (host, content) = (Host::new().await, disk(21));
    let image = host.image(&content, MediumFormat::Raw).await;
    let broken = WebServer::start({
        let content = content.clone();
        move |_| body(&content, "one", BROKEN_AT)
    })
    .await;
    let silent = WebServer::start(|_| Answer::Silence).await;
    let blind = WebServer::start(|_| Answer::Head("HTTP/1.1 403 Forbidden\r\n".to_owned())).await;
    // Of what is here by then, it has something else: that must not be asked for.
    let mut spoilt = content.to_vec();
    spoilt[..BROKEN_AT / 2].fill(7);
    let spoilt = Arc::new(spoilt);
    let server = WebServer::start(move |_| whole(&spoilt)).await;
    let neighbours = [&broken, &silent, &blind];
    let running = host.start_beside(&neighbours, &[&server]).await;
    let path = running.here(&image).await;
    assert_eq!(std::fs::read(&path).expect("read"), *content);
    assert_eq!(neighbours.map(asked), [1, 1, 1]);
    assert_eq!(asked(&server), 1);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_that_lies_is_found_out_and_not_asked_again() {
    let (host, content, other) = (Host::new().await, disk(22), disk(23));
    let lies = {
        let other = other.clone();
        move |_| whole(&other)
    };
    // The next one has it.
    let image = host.image(&content, MediumFormat::Raw).await;
    let (liar, honest) = (
        WebServer::start(lies.clone()).await,
        WebServer::start({
            let content = content.clone();
            move |_| whole(&content)
        })
        .await,
    );
    let running = host.start_beside(&[&liar, &honest], &[]).await;
    let path = running.here(&image).await;
    assert_eq!(std::fs::read(&path).expect("read"), *content);
    assert_eq!((asked(&liar), asked(&honest)), (1, 1));
    running.end().await;

    // One that begins with what is wrong, and leaves the rest to the cloud: that isn't to blame, and no image is refused for it.
    std::fs::remove_file(&path).expect("the replica goes");
    let liar = WebServer::start({
        let other = other.clone();
        move |_| body(&other, "one", BROKEN_AT)
    })
    .await;
    let server = WebServer::start({
        let content = content.clone();
        move |_| whole(&content)
    })
    .await;
    let running = host.start_beside(&[&liar], &[&server]).await;
    let path = running.here(&image).await;
    assert_eq!(std::fs::read(&path).expect("read"), *content);
    assert_eq!((asked(&liar), asked(&server)), (1, 2));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_as_announced_gets_no_name() {
    let host = Host::new().await;
    let content = disk(7);
    // Of another length, of the same length, and shorter than the server says itself.
    let longer = Arc::new([&content[..], &[0; 512]].concat());
    for (given, at_most, why) in [
        (longer, usize::MAX, "size of the file in bytes mismatch"),
        (disk(8), usize::MAX, "SHA-1 mismatch"),
    ] {
        let image = host.image(&content, MediumFormat::Raw).await;
        let server = WebServer::start(move |_| body(&given, "one", at_most)).await;
        let running = host.start(&[&server]).await;
        let told = running.refused(&image).await;
        assert!(told.contains(why), "{told}");
        running.end().await;
        assert_eq!(host.files(), [""; 0]);
    }

    // One that always breaks off at the same place is asked on, and what is here stays.
    let image = host.image(&content, MediumFormat::Raw).await;
    let server = WebServer::start({
        let content = content.clone();
        move |number| match number {
            0 => body(&content, "one", BROKEN_AT),
            _ => Answer::Head("HTTP/1.1 503 Service Unavailable\r\n".to_owned()),
        }
    })
    .await;
    let running = host.start(&[&server]).await;
    let told = |told: &Replica| matches!(told, Replica::OnItsWay(text) if text.contains("503"));
    running.until(&image, told).await;
    running.end().await;
    assert!(host.files().iter().all(|name| name.ends_with(".part")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_names_another_file_or_is_another_size_is_refused() {
    let host = Host::new().await;
    let made = |name: &str, backing: Option<&Path>| {
        let path = host.dir.path().join(name);
        let format = Format::Raw;
        let backing = backing.map(|path| qcow2::Backing { path, format });
        qcow2::create(&path, 1 << 20, backing, Durability::Cached).expect("disk");
        Arc::new(std::fs::read(path).expect("read"))
    };
    let overlay = made("overlay.qcow2", Some(Path::new("/etc/shadow")));
    let alone = made("alone.qcow2", None);
    for (content, format, virtual_size, why) in [
        (&overlay, MediumFormat::Qcow2, 1 << 20, "/etc/shadow"),
        (&alone, MediumFormat::Raw, 1 << 20, "contents are qcow2"),
        (&disk(9), MediumFormat::Qcow2, 1 << 20, "not qcow2"),
        (&alone, MediumFormat::Qcow2, 2 << 20, "size of the disk"),
        (&alone, MediumFormat::Qcow2, 1 << 19, "virtual size"),
    ] {
        let mut image = host.image(content, format).await;
        if let Some(file) = &mut image.file {
            file.virtual_size = ByteSize(virtual_size);
        }
        let content = content.clone();
        let server = WebServer::start(move |_| whole(&content)).await;
        let running = host.start(&[&server]).await;
        let told = running.refused(&image).await;
        assert!(told.contains(why), "{told}");
        running.end().await;
        assert_eq!(host.files(), [""; 0]);
        host.out_of_sight(&image).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_without_room_and_the_machine_is_told() {
    let (host, content) = (Host::new().await, disk(10));
    let image = host.image(&content, MediumFormat::Raw).await;
    let server = WebServer::start(move |_| whole(&content)).await;
    let mut settings = host.settings(&[&server]);
    settings.reserve_bytes = u64::MAX / 2;
    let running = host.start_with(settings).await;
    let told = |told: &Replica| matches!(told, Replica::OnItsWay(text) if text.contains("not enough space"));
    running.until(&image, told).await;
    running.end().await;
    let written = |name: &String| {
        std::fs::metadata(host.folder().join(name))
            .expect("file")
            .len()
    };
    assert!(host.files().iter().all(|name| written(name) == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_no_machine_needs_goes() {
    let host = Host::new().await;
    let contents = [disk(11), disk(12), disk(13)];
    let mut images = Vec::new();
    for content in &contents {
        images.push(host.image(content, MediumFormat::Raw).await);
    }
    let server = WebServer::start_with({
        let known: Vec<_> = images
            .iter()
            .map(|image| image.id.local().to_owned())
            .zip(contents.clone())
            .collect();
        move |path, _| {
            let of = |(id, _): &&(String, Arc<Vec<u8>>)| path.ends_with(id.as_str());
            whole(&known.iter().find(of).expect("a known image").1)
        }
    })
    .await;
    let running = host.start(&[&server]).await;
    let mut paths = Vec::new();
    for image in &images {
        paths.push(running.here(image).await);
    }
    running.end().await;
    let [seen, stood_on, unneeded] = &paths[..] else {
        panic!("three")
    };
    // A machine whose document this host doesn't see any more.
    let machine = host.machines().join("0190-machine");
    std::fs::create_dir_all(&machine).expect("folder");
    let backing = qcow2::Backing {
        path: stood_on,
        format: Format::Raw,
    };
    let root = machine.join("root.qcow2");
    qcow2::create(&root, 1 << 30, Some(backing), Durability::Cached).expect("root disk");
    for image in &images[1..] {
        host.out_of_sight(image).await;
    }
    std::fs::write(host.folder().join("stranger"), "x").expect("write");

    // For a day nothing goes, but what is nothing of ours.
    let running = host.start(&[&server]).await;
    running.end().await;
    assert_eq!(host.files().len(), 3);
    let mut settings = host.settings(&[&server]);
    settings.kept = Duration::ZERO;
    let running = host.start_with(settings).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while unneeded.exists() {
        assert!(tokio::time::Instant::now() < deadline, "it stays");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    running.end().await;
    assert!(seen.exists() && stood_on.exists());
}
