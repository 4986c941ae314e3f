//! `GET /images/<id>` of the door for hosts: whole and in part for a host that sees the image, nothing for others.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test that panics has failed

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cimi::{
    Ref, Timestamp,
    ids::HostPulseId,
    lifecycle::Stage,
    resources::{Digests, HostPulse, Image, ImageFile, ImageState, MediumFormat},
    size::ByteSize,
    testing as documents_of,
};
use cloud::{CloudError, Download, DownloadRequest, ImageIntake, NoServices, Upload};
use futures::{FutureExt as _, StreamExt as _};
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{net::TcpStream, sync::watch, time::timeout};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;
use trust::{
    HostKey, IMAGES_PATH, JoinToken, Joined, NEIGHBOURS_PATH, Neighbour, SERVER_NAME, TICKET_LIFE,
    Ticket,
};

use crate::{
    hosts_come_in_by_their_own_door::world::{World, config, machine_on, until},
    support::client::PATIENCE,
};

/// More than one part of what is sent at once.
const LENGTH: usize = 3_000_000;
const SHA1: &str = "a9993e364706816aba3e25717850c26c9cd0d89d";

/// The name of an image of which nothing ever comes.
const HANGS: &str = "hangs";

fn content() -> Bytes {
    let bytes = (0..LENGTH).map(|at| u8::try_from(at * 7 % 251).unwrap());
    bytes.collect()
}

/// The storage: one content, for all images.
struct Shelf {
    /// Nothing is given until this is so.
    gives: watch::Sender<bool>,
    /// How many are being read, and how many that were at most.
    reading: Arc<watch::Sender<(usize, usize)>>,
}

impl Shelf {
    fn new(gives: bool) -> Arc<Self> {
        Arc::new(Self {
            gives: watch::Sender::new(gives),
            reading: Arc::default(),
        })
    }
}

/// One who reads.
struct Reading(Arc<watch::Sender<(usize, usize)>>);

impl Reading {
    fn begin(all: &Arc<watch::Sender<(usize, usize)>>) -> Self {
        all.send_modify(|(now, most)| {
            *now += 1;
            *most = (*most).max(*now);
        });
        Self(all.clone())
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.send_modify(|(now, _)| *now -= 1);
    }
}

#[async_trait]
impl ImageIntake for Shelf {
    async fn take(&self, image: Arc<Image>, upload: Upload) -> cloud::Result<()> {
        NoServices.take(image, upload).await
    }

    async fn open(&self, image: Arc<Image>, request: DownloadRequest) -> cloud::Result<Download> {
        let all = content();
        let (start, end) = match request.part {
            Some((start, end)) => {
                let start = usize::try_from(start).unwrap();
                let end = end.map_or(LENGTH, |end| usize::try_from(end).unwrap());
                (start, end.min(LENGTH))
            }
            None => (0, LENGTH),
        };
        if start >= end {
            return Err(CloudError::invalid("range", "is behind the end"));
        }
        let sent: Vec<_> = all
            .slice(start..end)
            .chunks(500_000)
            .map(|part| Ok(Bytes::copy_from_slice(part)))
            .collect();
        let (reading, mut gives) = (Reading::begin(&self.reading), self.gives.subscribe());
        let content = async move {
            gives.wait_for(|gives| *gives).await.unwrap();
            futures::stream::iter(sent).inspect(move |_| {
                let _until_its_end = &reading;
            })
        };
        let content = match image.common.name.as_deref() {
            Some(HANGS) => futures::stream::pending().boxed(),
            _ => content.flatten_stream().boxed(),
        };
        Ok(Download {
            format: "raw",
            length: Some(LENGTH as u64),
            part: request.part.map(|_| (start as u64, end as u64)),
            identifier: None,
            content,
            tag: String::new(),
        })
    }
}

/// A machine of this image on a host, which sees the image from then on.
async fn place(world: &World, host: &AHost, image: &Image) {
    let mut machine = machine_on(&host.0.host);
    machine.image = Some(Ref::to(image.id.clone()));
    let machine = (machine.id.clone(), serde_json::to_vec(&machine).unwrap());
    world.put(machine.0, machine.1).await;
}

fn image() -> Image {
    let digests = Digests {
        sha1: Some(SHA1.to_owned()),
        bytes: Some(LENGTH as u64),
        ..Digests::default()
    };
    Image {
        state: ImageState::Available,
        file: Some(ImageFile {
            path: "/nowhere".to_owned(),
            format: MediumFormat::Raw,
            virtual_size: ByteSize(LENGTH as u64),
            digests,
            kept: None,
        }),
        ..documents_of::image()
    }
}

/// A host that has joined, and believes what it was told to believe.
type AHost = (Joined, HostKey, JoinToken);

fn shown((joined, key, token): &AHost) -> ClientConfig {
    config(token, Some((&joined.certificate, &key.to_pem())))
}

/// An answer whose content isn't read yet.
struct Begun {
    answer: http::Response<hyper::body::Incoming>,
    _driving: AbortOnDropHandle<Result<(), hyper::Error>>,
}

/// Asks for an image; an error if there is no connection, or it ends.
async fn get(
    world: &World,
    config: ClientConfig,
    image: &str,
    headers: &[(header::HeaderName, &str)],
) -> Result<(u16, HeaderMap, Bytes), String> {
    let begun = begin(world, config, image, headers).await?;
    let (head, body) = begun.answer.into_parts();
    let body = timeout(PATIENCE, body.collect()).await.unwrap();
    let body = body.map_err(|error| error.to_string())?;
    Ok((head.status.as_u16(), head.headers, body.to_bytes()))
}

async fn begin(
    world: &World,
    config: ClientConfig,
    image: &str,
    headers: &[(header::HeaderName, &str)],
) -> Result<Begun, String> {
    let exchange = async {
        let told = |error: &dyn std::fmt::Display| error.to_string();
        let stream = TcpStream::connect(world.running.address).await.unwrap();
        let name = ServerName::try_from(SERVER_NAME).unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream);
        let stream = stream.await.map_err(|error| told(&error))?;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(|error| told(&error))?;
        let driving = AbortOnDropHandle::new(tokio::spawn(connection));
        let mut request = Request::get(format!("https://{SERVER_NAME}{IMAGES_PATH}{image}"));
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let answer = sender.send_request(request).await;
        Ok(Begun {
            answer: answer.map_err(|error| told(&error))?,
            _driving: driving,
        })
    };
    timeout(PATIENCE, exchange).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_gets_the_file_of_an_image_it_sees_whole_and_in_part() {
    let world = World::start_with(Shelf::new(true)).await;
    let seeing = world.host("node1").await;
    let blind = world.host("node2").await;
    let image = image();
    world
        .put(&image.id, serde_json::to_vec(&image).unwrap())
        .await;
    place(&world, &seeing, &image).await;
    let id = image.id.local();

    // What the door knows of the store may come a moment after the store has it.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let (status, headers, body) = loop {
        let answer = get(&world, shown(&seeing), id, &[]).await.unwrap();
        if answer.0 != 404 {
            break answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "it is never seen");
    };
    assert_eq!(status, 200);
    assert_eq!(body, content());
    assert_eq!(headers[header::CONTENT_LENGTH], LENGTH.to_string());
    assert_eq!(headers[header::ACCEPT_RANGES], "bytes");
    let tag = format!("\"{SHA1}-{LENGTH}\"");
    assert_eq!(headers[header::ETAG], tag);

    let from = |start| [(header::RANGE, start), (header::IF_RANGE, &*tag)];
    let rest = get(&world, shown(&seeing), id, &from("bytes=2999990-")).await;
    let (status, headers, body) = rest.unwrap();
    assert_eq!((status, body), (206, content().slice(2_999_990..)));
    assert_eq!(
        headers[header::CONTENT_RANGE],
        "bytes 2999990-2999999/3000000"
    );
    assert_eq!(headers[header::ETAG], tag);
    let behind = get(&world, shown(&seeing), id, &from("bytes=3000000-")).await;
    assert_eq!(behind.unwrap().0, 400);
    let of_other = [(header::RANGE, "bytes=9-"), (header::IF_RANGE, "\"other\"")];
    let (status, _, body) = get(&world, shown(&seeing), id, &of_other).await.unwrap();
    assert_eq!((status, body.len()), (200, LENGTH));

    // Who doesn't see it isn't told that it is there.
    let (status, _, body) = get(&world, shown(&blind), id, &[]).await.unwrap();
    assert_eq!((status, body.len()), (404, 0));
    for none in ["0190-none", "../Machine/x", ""] {
        let (status, ..) = get(&world, shown(&seeing), none, &[]).await.unwrap();
        assert_eq!(status, 404, "{none}");
    }
    let (status, _, body) = get(&world, config(&seeing.2, None), id, &[]).await.unwrap();
    assert_eq!((status, body.len()), (404, 0));

    // An image that isn't there yet.
    let coming = Image {
        state: ImageState::Creating,
        file: None,
        ..documents_of::image()
    };
    world
        .put(&coming.id, serde_json::to_vec(&coming).unwrap())
        .await;
    place(&world, &seeing, &coming).await;
    let (status, ..) = get(&world, shown(&seeing), coming.id.local(), &[])
        .await
        .unwrap();
    assert_eq!(status, 404);
}

/// What the door says of who has an image, once it shows that the host sees it.
async fn neighbours(world: &World, host: &AHost, image: &Image) -> Vec<Neighbour> {
    let asked = format!("{}{NEIGHBOURS_PATH}", image.id.local());
    let said = until("it is seen", async || {
        let (status, _, said) = get(world, shown(host), &asked, &[]).await.unwrap();
        (status != 404).then_some((status, said))
    });
    let (status, said) = said.await;
    assert_eq!(status, 200);
    serde_json::from_slice(&said).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_is_told_who_else_has_an_image_and_gets_tickets_for_itself_alone() {
    let world = World::start_with(Shelf::new(true)).await;
    let asking = world.host("node1").await;
    let (having, key, token) = world.host("node2").await;
    let blind = world.host("node3").await;
    let image = image();
    world
        .put(&image.id, serde_json::to_vec(&image).unwrap())
        .await;
    place(&world, &asking, &image).await;
    assert!(neighbours(&world, &asking, &image).await.is_empty());

    // It runs a machine of it, and says where it gives images.
    let local = having.host.strip_prefix("Host/").unwrap();
    let host = world.cloud.documents().hosts.get(local).unwrap();
    let mut host = host.document.0.clone();
    (host.tunnel, host.images_port) = (Some([10, 0, 0, 2].into()), Some(8444));
    world
        .put(&host.id, serde_json::to_vec(&host).unwrap())
        .await;
    let mut machine = machine_on(&having.host);
    machine.image = Some(Ref::to(image.id.clone()));
    machine.observed.stage = Stage::Preparing;
    world
        .put(&machine.id, serde_json::to_vec(&machine).unwrap())
        .await;
    let pulse = HostPulse {
        id: HostPulseId::from_local(local).unwrap(),
        common: host.common.clone(),
    };
    world
        .put(&pulse.id, serde_json::to_vec(&pulse).unwrap())
        .await;
    assert!(neighbours(&world, &asking, &image).await.is_empty());
    machine.observed.stage = Stage::Running;
    world
        .put(&machine.id, serde_json::to_vec(&machine).unwrap())
        .await;

    let told = neighbours(&world, &asking, &image).await;
    let [one] = &*told else { panic!("{told:?}") };
    assert_eq!((&*one.host, &*one.name), (local, "node2"));
    assert_eq!(one.address, "10.0.0.2:8444".parse().unwrap());
    let authority = CertificateDer::from_pem_slice(asking.0.authority.as_bytes()).unwrap();
    let ticket = Ticket::signed(&one.ticket, &authority).unwrap();
    let to = asking.0.host.strip_prefix("Host/").unwrap();
    let now = Timestamp::now();
    ticket.is_for(SHA1, (local, to), now).unwrap();
    assert!(ticket.until > now && ticket.until <= Timestamp::now().after(TICKET_LIFE));

    // It isn't its own neighbour, and who doesn't see the image isn't told that it is there.
    let having = (having, key, token);
    assert!(neighbours(&world, &having, &image).await.is_empty());
    let asked = format!("{}{NEIGHBOURS_PATH}", image.id.local());
    let (status, _, said) = get(&world, shown(&blind), &asked, &[]).await.unwrap();
    assert_eq!((status, said.len()), (404, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_of_one_host_wait_for_their_turn_and_all_come() {
    let shelf = Shelf::new(false);
    let world = Arc::new(World::start_with(shelf.clone()).await);
    let host = Arc::new(world.host("node1").await);
    let other = world.host("node2").await;
    let image = image();
    world
        .put(&image.id, serde_json::to_vec(&image).unwrap())
        .await;
    place(&world, &host, &image).await;
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let (world, host, id) = (world.clone(), host.clone(), image.id.clone());
        asking.spawn(async move {
            loop {
                // What the door knows of the store may come a moment after the store has it.
                let answer = get(&world, shown(&host), id.local(), &[]).await.unwrap();
                if answer.0 != 404 {
                    return answer;
                }
            }
        });
    }
    let mut reading = shelf.reading.subscribe();
    timeout(PATIENCE, reading.wait_for(|(now, _)| *now >= 2))
        .await
        .unwrap()
        .unwrap();
    // A turn of somebody else's request is enough for those that don't wait.
    for _ in 0..3 {
        let (status, ..) = get(&world, shown(&other), image.id.local(), &[])
            .await
            .unwrap();
        assert_eq!(status, 404);
    }
    shelf.gives.send_replace(true);
    for (status, _, body) in asking.join_all().await {
        assert_eq!((status, body), (200, content()));
    }
    assert_eq!(shelf.reading.borrow().1, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_that_take_nothing_keep_nobody_waiting() {
    let world = World::start_with(Shelf::new(true)).await;
    let image = image();
    world
        .put(&image.id, serde_json::to_vec(&image).unwrap())
        .await;
    let id = image.id.local();
    let mut slow = Vec::new();
    for number in 1..=8 {
        let host = world.host(&format!("slow{number}")).await;
        place(&world, &host, &image).await;
        for _ in 0..2 {
            let begun = loop {
                // What the door knows of the store may come a moment after the store has it.
                let begun = begin(&world, shown(&host), id, &[]).await.unwrap();
                if begun.answer.status() != 404 {
                    break begun;
                }
            };
            assert_eq!(begun.answer.status(), 200);
            slow.push(begun);
        }
    }
    let host = world.host("node1").await;
    place(&world, &host, &image).await;
    let getting = async {
        loop {
            let answer = get(&world, shown(&host), id, &[]).await.unwrap();
            if answer.0 != 404 {
                return answer;
            }
        }
    };
    let (status, _, body) = timeout(PATIENCE / 2, getting).await.unwrap();
    assert_eq!((status, body), (200, content()));
    drop(slow);
}

/// As at an entry that has content from the storage elsewhere, when that doesn't give it any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_that_does_not_come_keeps_no_other_from_coming() {
    let world = World::start_with(Shelf::new(true)).await;
    let (whole, mut hangs) = (image(), image());
    hangs.common.name = Some(HANGS.to_owned());
    for image in [&whole, &hangs] {
        let text = serde_json::to_vec(image).unwrap();
        world.put(&image.id, text).await;
    }
    let mut waiting = Vec::new();
    for number in 1..=6 {
        let host = world.host(&format!("waits{number}")).await;
        place(&world, &host, &hangs).await;
        for _ in 0..2 {
            waiting.push(loop {
                // What the door knows of the store may come a moment after the store has it.
                let begun = begin(&world, shown(&host), hangs.id.local(), &[]).await;
                let begun = begun.unwrap();
                if begun.answer.status() != 404 {
                    break begun;
                }
            });
        }
    }
    let host = world.host("node1").await;
    place(&world, &host, &whole).await;
    let getting = async {
        loop {
            let answer = get(&world, shown(&host), whole.id.local(), &[]).await;
            let answer = answer.unwrap();
            if answer.0 != 404 {
                return answer;
            }
        }
    };
    let (status, _, body) = timeout(PATIENCE, getting).await.unwrap();
    assert_eq!((status, body), (200, content()));
    drop(waiting);
}
