//! `GET /images/<local id>`: the file of an image as it is kept, for hosts that see the image's document. A range `bytes=N-`
//! takes a transfer up where it was; the tag is that of the file, so that `If-Range` tells one from the next. And
//! `GET /images/<local id>/neighbours`: hosts that likely have it, too, with what each of them gives it for ([`trust::Ticket`]).

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use ::cimi::{
    HostId,
    resources::{Image, Resource as _},
};
use bytes::Bytes;
use cloud::ByteStream;
use futures::{StreamExt as _, stream};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use store::{Gateway, Key, Peer};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use trust::HostPeer;

use super::{AnyBody, HostDoor, answers::told, empty};
use crate::{download, problem::Problem};

/// Parts of files that are read at once from this computer's disk, for all hosts, and as many for all other entries: none waits for
/// one that is slow to take them.
pub(super) const READ_AT_ONCE: usize = 8;
/// Transfers at once to one host; others of it wait for their turn.
pub(super) const OF_ONE_HOST: usize = 2;
/// Parts that are read before they are sent; each has up to half a MiB.
const PARTS_AHEAD: usize = 1;
/// How long a host may take nothing, before its turn is another transfer's.
const UNREAD: Duration = Duration::from_secs(60);

/// What a transfer is known by in the log, and what it waits for.
struct Transfer {
    host: String,
    image: String,
    turn: OwnedSemaphorePermit,
    /// None: it comes by the network, where one that waits keeps nobody from anything.
    reading: Option<Arc<Semaphore>>,
}

impl HostDoor {
    pub(super) async fn image(
        &self,
        gateway: &Gateway,
        as_host: &Peer,
        peer: &HostPeer,
        image: &str,
        headers: &HeaderMap,
    ) -> Response<AnyBody> {
        let Ok(key) = Key::new(Image::COLLECTION, image) else {
            return empty(StatusCode::NOT_FOUND);
        };
        if !gateway.sees(as_host, &key) {
            return empty(StatusCode::NOT_FOUND);
        }
        let Some(turn) = self.turn(peer).await else {
            return empty(StatusCode::SERVICE_UNAVAILABLE);
        };
        // What was true before it waited.
        if !gateway.sees(as_host, &key) {
            return empty(StatusCode::NOT_FOUND);
        }
        let transfer = Transfer {
            host: peer.host.clone(),
            image: image.to_owned(),
            turn,
            reading: self.keeps_images.then(|| Arc::clone(&self.reading)),
        };
        match self.file(image, headers, transfer).await {
            Ok(answer) => answer,
            Err(problem) => {
                if let Some(error) = problem.internal_text() {
                    tracing::error!(host = peer.host, image, error, "an image could not be sent");
                }
                empty(problem.status())
            }
        }
    }

    /// Hosts that this one may have it from instead.
    pub(super) fn neighbours(
        &self,
        gateway: &Gateway,
        (as_host, id): (&Peer, &HostId),
        image: &str,
    ) -> Response<AnyBody> {
        let sees = Key::new(Image::COLLECTION, image).is_ok_and(|key| gateway.sees(as_host, &key));
        if !sees {
            return empty(StatusCode::NOT_FOUND);
        }
        match self.cloud.neighbours_with(image, id) {
            Ok(neighbours) => told(&neighbours),
            Err(error) => {
                tracing::error!(host = %id, image, %error, "a host can't be told who has an image");
                empty(StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    }

    async fn turn(&self, peer: &HostPeer) -> Option<OwnedSemaphorePermit> {
        let of_host = self.seats.transfers(&peer.host)?;
        of_host.acquire_owned().await.ok()
    }

    async fn file(
        &self,
        image: &str,
        headers: &HeaderMap,
        transfer: Transfer,
    ) -> Result<Response<AnyBody>, Problem> {
        let part = download::request(headers, []).part;
        let mut file = self.cloud.image_for_host(image, part).await?;
        if part.is_some() && download::is_other(headers, &file.tag) {
            file = self.cloud.image_for_host(image, None).await?;
        }
        file.content = sent(file.content, transfer);
        let answer = download::answer(&Method::GET, file)?;
        Ok(answer.map(|body| body.boxed_unsync()))
    }
}

/// The next part of a file, when it may be read.
async fn next(content: &mut ByteStream, reading: Option<&Semaphore>) -> Option<io::Result<Bytes>> {
    let _turn = match reading {
        Some(reading) => Some(reading.acquire().await.ok()?),
        None => None,
    };
    content.next().await
}

/// The same content, each part when it may be read.
pub(super) fn in_turn(content: ByteStream, reading: Arc<Semaphore>) -> ByteStream {
    let parts = stream::unfold((content, reading), |(mut content, reading)| async move {
        let part = next(&mut content, Some(reading.as_ref())).await?;
        Some((part, (content, reading)))
    });
    Box::pin(parts)
}

/// The same, with the turn given back at its end, and when nobody reads it: what is missing then is noticed by the length.
fn sent(mut content: ByteStream, transfer: Transfer) -> ByteStream {
    let (to, parts) = mpsc::channel(PARTS_AHEAD);
    // Ends with the body, which is dropped with the connection.
    tokio::spawn(async move {
        let (began, mut bytes) = (Instant::now(), 0);
        let mut is_whole = true;
        while let Some(part) = next(&mut content, transfer.reading.as_deref()).await {
            let length = part.as_ref().map_or(0, Bytes::len);
            is_whole = part.is_ok() && matches!(timeout(UNREAD, to.send(part)).await, Ok(Ok(())));
            if !is_whole {
                break;
            }
            bytes += length as u64;
        }
        let Transfer {
            host, image, turn, ..
        } = transfer;
        drop(turn);
        let took = began.elapsed();
        tracing::info!(
            host,
            image,
            bytes,
            is_whole,
            ?took,
            "the file of an image was sent to a host"
        );
    });
    let parts = stream::unfold(parts, |mut parts| async move {
        parts.recv().await.map(|part| (part, parts))
    });
    Box::pin(parts)
}
