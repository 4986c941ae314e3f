//! `GET /moving/<local id>`: the files of a machine that comes to a host, once it stands still where it was.
//!
//! Each transfer holds a thread that reads files, here or on the host that has them. So those to one host are bounded, and one that
//! takes nothing for a while is ended: it asks again for what it still wants.

use std::time::Duration;

use ::cimi::HostId;
use cloud::ByteStream;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::timeout,
};
use trust::HostPeer;

use super::{AnyBody, HostDoor, empty};

/// Transfers at once to one host; others of it wait for their turn. Two more than the scheduler sends to one, for those that were
/// cut off a moment ago: an entry has some dozens of such threads for everything.
pub(super) const TO_ONE_HOST: usize = 6;
/// Pieces that are read before they are sent; each has up to 256 KiB.
const PIECES_AHEAD: usize = 1;
/// How long a host may take nothing.
const UNREAD: Duration = Duration::from_secs(60);

impl HostDoor {
    /// The files of a machine that is on its way to this host and at rest.
    pub(super) async fn machine_files(
        &self,
        host: &HostId,
        peer: &HostPeer,
        machine: &str,
    ) -> Response<AnyBody> {
        let comes = || {
            let read = self.cloud.documents().machines.get(machine);
            read.filter(|one| one.moving_to() == Some(host) && one.has_left())
        };
        if comes().is_none() {
            return empty(StatusCode::NOT_FOUND);
        }
        let Some(turns) = self.seats.arrivals(&peer.host) else {
            return empty(StatusCode::SERVICE_UNAVAILABLE);
        };
        let Ok(turn) = turns.acquire_owned().await else {
            return empty(StatusCode::SERVICE_UNAVAILABLE);
        };
        // What was true before it waited.
        let Some(machine) = comes() else {
            return empty(StatusCode::NOT_FOUND);
        };
        match self.files.files(&machine).await {
            Ok(files) => {
                let files = sent(files, turn, UNREAD).map_ok(Frame::data);
                Response::new(StreamBody::new(files).boxed_unsync())
            }
            Err(error) => {
                tracing::warn!(%host, machine = %machine.document.id, %error, "the files of a machine can't be sent");
                empty(StatusCode::SERVICE_UNAVAILABLE)
            }
        }
    }
}

/// The same, with the turn given back at its end, when nobody wants it any more, and when it isn't read for so long: it is seen to
/// be cut off then, since its last frame is missing.
fn sent(mut content: ByteStream, turn: OwnedSemaphorePermit, unread: Duration) -> ByteStream {
    let (to, pieces) = mpsc::channel(PIECES_AHEAD);
    // Ends with the body, which is dropped with the connection.
    tokio::spawn(async move {
        let _turn = turn;
        loop {
            let piece = tokio::select! {
                piece = content.next() => piece,
                () = to.closed() => None,
            };
            let Some(piece) = piece else { return };
            if !matches!(timeout(unread, to.send(piece)).await, Ok(Ok(()))) {
                return;
            }
        }
    });
    let pieces = stream::unfold(pieces, |mut pieces| async move {
        pieces.recv().await.map(|piece| (piece, pieces))
    });
    Box::pin(pieces)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use tokio::sync::Semaphore;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    /// The same as a host gets it, and the turns of that.
    async fn begun(content: ByteStream, unread: Duration) -> (ByteStream, Arc<Semaphore>) {
        let turns = Arc::new(Semaphore::new(1));
        let turn = turns.clone().acquire_owned().await.unwrap();
        (sent(content, turn, unread), turns)
    }

    fn endless() -> ByteStream {
        Box::pin(stream::repeat_with(|| Ok(Bytes::from_static(b"piece"))))
    }

    async fn is_given_back(turns: &Semaphore) {
        let turn = timeout(Duration::from_secs(60), turns.acquire()).await;
        drop(turn.unwrap().unwrap());
    }

    #[tokio::test]
    async fn what_is_not_read_ends_and_holds_no_turn() {
        let (content, turns) = begun(endless(), Duration::from_millis(20)).await;
        is_given_back(&turns).await;
        // What was ahead, and no more.
        assert!(content.count().await <= 2);
    }

    #[tokio::test]
    async fn what_nobody_wants_any_more_holds_no_turn() {
        let (mut content, turns) = begun(endless(), LONG).await;
        content.next().await.unwrap().unwrap();
        assert_eq!(turns.available_permits(), 0);
        drop(content);
        is_given_back(&turns).await;
        // Nor what a silent host never sends.
        let (content, turns) = begun(Box::pin(stream::pending()), LONG).await;
        drop(content);
        is_given_back(&turns).await;
    }

    #[tokio::test]
    async fn what_is_read_comes_to_its_end() {
        let all = (0..100_u8).map(|number| Ok(Bytes::from(vec![number])));
        let (content, turns) = begun(Box::pin(stream::iter(all)), LONG).await;
        let come: Vec<_> = content.map(|piece| piece.unwrap()).collect().await;
        assert_eq!(come.concat(), (0..100).collect::<Vec<u8>>());
        is_given_back(&turns).await;
    }
}
