//! Hosts that are asked: what they have and is no document. Each host has a connection to each entry, on which the host answers
//! HTTP/2 ([`trust::CALL_PROTOCOL`]), so that nobody has to reach a host.
//!
//! A host is believed nothing here: what it says is bounded in time and size, and no more than what it says of itself.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use ::cimi::HostId;
use bytes::Bytes;
use cloud::Duplex;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    body::Incoming,
    client::conn::http2::{Builder, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use trust::HostPeer;

use super::{Ending, HEAD_BYTES, HostDoor, PING, seats::Seat};

/// How long a host may take to begin: to speak HTTP/2, and each of its answers.
const ANSWERING: Duration = Duration::from_secs(5);
/// How long an answer may take that is read to its end, and how long it may be.
const WHOLE: Duration = Duration::from_secs(20);
const WHOLE_BYTES: usize = 4 << 20;
/// Answers of one host that somebody reads as slowly as he likes. It gives 256 at once: the rest is for what is waited for.
const FOLLOWED_AT_ONCE: usize = 192;
/// What a host may send ahead of whoever reads: of one answer, and of all that it gives at once. Were that less, some that are not
/// read would keep all others from coming.
const AHEAD_OF_ONE: u32 = 256 * 1024;
const AHEAD_OF_ALL: u32 = 256 * AHEAD_OF_ONE;

/// The hosts that can be asked here. Clones are of the same.
#[derive(Clone, Debug, Default)]
pub struct HostCalls(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    of_hosts: HashMap<String, Line>,
    opened: u64,
}

#[derive(Debug)]
struct Line {
    /// One for each that was opened: the next of a host takes the place of the one before.
    number: u64,
    caller: SendRequest<Empty<Bytes>>,
    /// Turns to follow something.
    followed: Arc<Semaphore>,
}

/// Why a host didn't answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nothing is known of it here.
    #[error("it is not connected to this entry")]
    NotConnected,
    /// Others follow as much as it gives at once.
    #[error("as many consoles on it are followed as it shows at once: end one that nobody reads")]
    Busy,
    /// It takes too long.
    #[error("it doesn't answer in time")]
    Silent,
    /// The connection is no more.
    #[error("the connection to it ended")]
    Ended,
    /// It can't say it.
    #[error("it answered {0}")]
    Refused(StatusCode),
    /// What it said is none of what was asked.
    #[error("what it answered makes no sense")]
    Nonsense,
}

impl HostCalls {
    /// Asks a host; the answer is one of 200.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn get(&self, host: &HostId, path: &str) -> Result<Response<Incoming>, CallError> {
        let caller = self
            .0
            .lock()
            .of_hosts
            .get(host.local())
            .map(|line| line.caller.clone());
        let mut caller = caller.ok_or(CallError::NotConnected)?;
        let request = Request::get(path).body(Empty::new());
        let request = request.map_err(|_| CallError::Nonsense)?;
        let answer = timeout(ANSWERING, async {
            caller.ready().await?;
            caller.send_request(request).await
        });
        let answer = answer.await.map_err(|_| CallError::Silent)?;
        let answer = answer.map_err(|_| CallError::Ended)?;
        match answer.status() {
            StatusCode::OK => Ok(answer),
            status => Err(CallError::Refused(status)),
        }
    }

    /// Asks a host for something that comes as long as somebody reads it. It is one of so many as long as the turn is held.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn follow(
        &self,
        host: &HostId,
        path: &str,
    ) -> Result<(Response<Incoming>, OwnedSemaphorePermit), CallError> {
        let turns = self
            .0
            .lock()
            .of_hosts
            .get(host.local())
            .map(|line| Arc::clone(&line.followed));
        let turn = turns.ok_or(CallError::NotConnected)?.try_acquire_owned();
        let turn = turn.map_err(|_| CallError::Busy)?;
        Ok((self.get(host, path).await?, turn))
    }

    /// Asks a host for something in JSON.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn read<A: DeserializeOwned>(
        &self,
        host: &HostId,
        path: &str,
    ) -> Result<A, CallError> {
        let answer = self.get(host, path).await?;
        let body = Limited::new(answer.into_body(), WHOLE_BYTES).collect();
        let body = timeout(WHOLE, body).await.map_err(|_| CallError::Silent)?;
        let body = body.map_err(|_| CallError::Ended)?.to_bytes();
        serde_json::from_slice(&body).map_err(|_| CallError::Nonsense)
    }

    fn open(&self, host: &HostId, caller: SendRequest<Empty<Bytes>>) -> Open<'_> {
        let mut lines = self.0.lock();
        lines.opened += 1;
        let number = lines.opened;
        let host = host.local().to_owned();
        let line = Line {
            number,
            caller,
            followed: Arc::new(Semaphore::new(FOLLOWED_AT_ONCE)),
        };
        lines.of_hosts.insert(host.clone(), line);
        Open {
            calls: self,
            host,
            number,
        }
    }
}

/// A connection by which a host can be asked; no longer once this is dropped.
struct Open<'c> {
    calls: &'c HostCalls,
    host: String,
    number: u64,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let mut lines = self.calls.0.lock();
        let known = lines.of_hosts.get(&self.host);
        if known.is_some_and(|line| line.number == self.number) {
            lines.of_hosts.remove(&self.host);
        }
    }
}

impl HostDoor {
    /// One connection by which a host is asked.
    pub(super) async fn serve_calls(
        self: &Arc<Self>,
        stream: impl Duplex + 'static,
        (peer, seat): (&HostPeer, Seat<'_>),
        from: SocketAddr,
        ending: &Ending,
    ) {
        let Some(host) = self.cloud.host_of(peer) else {
            return;
        };
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(PING.0)
            .keep_alive_timeout(PING.1)
            .keep_alive_while_idle(true)
            .max_header_list_size(HEAD_BYTES)
            .initial_stream_window_size(AHEAD_OF_ONE)
            .initial_connection_window_size(AHEAD_OF_ALL);
        let begun = timeout(ANSWERING, builder.handshake(TokioIo::new(stream)));
        let Ok(Ok((caller, connection))) = begun.await else {
            return;
        };
        tracing::debug!(%host, %from, "a host can be asked");
        let _open = self.calls.open(&host, caller);
        tokio::select! {
            _ = connection => {}
            () = seat.cut_off() => {}
            () = self.until_over(peer) => {}
            () = ending.closing.cancelled() => {}
        }
        tracing::debug!(%host, %from, "a host can't be asked on this connection any more");
    }
}
