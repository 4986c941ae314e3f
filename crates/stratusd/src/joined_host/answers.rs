//! What entries ask this host: each on a connection that this host has made to it.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use documents::Documents;
use futures::{TryStreamExt as _, future::join_all};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use serde::Serialize;
use storage::elsewhere::NoDisk;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use trust::{CALL_PROTOCOL, HostKey};
use vmhost::controller::VmHost;

use crate::{
    asking_hosts::{CONSOLE_START, Question, broken_off, sent},
    joining::{Believed, Entry, Kept},
    own_host,
};

/// How long an entry may take to be connected to.
const CONNECTING: Duration = Duration::from_secs(4);
/// Rest before an entry is connected to again; it grows up to the second while that doesn't succeed.
const REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(15);
/// How long a host may be away from an entry that has just begun, and all is well: it rests, and may have begun to connect a moment
/// before.
pub const AWAY_AT_MOST: Duration =
    Duration::from_secs(LONGEST_REST.as_secs() + 2 * CONNECTING.as_secs());
/// Questions at once, consoles that are followed among them.
const QUESTIONS: u32 = 256;
/// How often a quiet connection is tried, and how long the answer may take.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

type AnyBody = UnsyncBoxBody<Bytes, io::Error>;

/// By whom entries are answered.
pub(super) struct Answers {
    machines: VmHost,
    documents: Documents,
    entries: Vec<Entry>,
    config: Arc<ClientConfig>,
}

impl Answers {
    /// For these entries, as long as this certificate is good.
    ///
    /// # Errors
    /// If what this host keeps of its cloud can't be used.
    pub(super) fn open(
        kept: &Kept,
        key: &HostKey,
        documents: Documents,
        machines: VmHost,
    ) -> anyhow::Result<Arc<Self>> {
        let mut config = Believed::of_host(kept, key)?
            .config()
            .context("preparing to be asked")?;
        config.alpn_protocols = vec![CALL_PROTOCOL.to_vec()];
        Ok(Arc::new(Self {
            machines,
            documents,
            entries: kept.entries.clone(),
            config: Arc::new(config),
        }))
    }

    /// Answers until told to stop.
    pub(super) async fn run(self: &Arc<Self>, stop: CancellationToken) {
        let all = join_all(self.entries.iter().map(|entry| self.keep(entry)));
        stop.run_until_cancelled(all).await;
    }

    /// Keeps a connection to one of them, for ever.
    async fn keep(self: &Arc<Self>, entry: &Entry) {
        let mut rest = REST;
        loop {
            let begun = Instant::now();
            let connecting = entry.connect(Arc::clone(&self.config));
            match timeout(CONNECTING, connecting).await {
                Ok(Ok(stream)) => {
                    let service = service_fn(|request: Request<Incoming>| {
                        let answers = Arc::clone(self);
                        async move { Ok::<_, Infallible>(answers.answer(&request).await) }
                    });
                    let served = http2::Builder::new(TokioExecutor::new())
                        .timer(TokioTimer::new())
                        .max_concurrent_streams(QUESTIONS)
                        .keep_alive_interval(PING.0)
                        .keep_alive_timeout(PING.1)
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                    tracing::debug!(%entry, ?served, "an entry asks no more on this connection");
                }
                Ok(Err(error)) => tracing::debug!(%entry, %error, "an entry can't ask this host"),
                Err(_) => tracing::debug!(%entry, "an entry can't ask this host: it is silent"),
            }
            if begun.elapsed() > LONGEST_REST {
                rest = REST;
            }
            sleep(rest).await;
            rest = (rest * 2).min(LONGEST_REST);
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<AnyBody> {
        let uri = request.uri();
        let question = (request.method() == Method::GET)
            .then(|| Question::of(uri.path(), uri.query()))
            .flatten();
        match question {
            None => status(StatusCode::NOT_FOUND),
            Some(Question::Meters) => json(&sent(self.machines.host_meters())),
            Some(Question::MetersOf(machine)) => json(&sent(self.machines.meters(machine.local()))),
            Some(Question::Files(machine)) => match self.machines.files(machine.local()) {
                Some(files) => {
                    let files = files.map_ok(Frame::data);
                    Response::new(StreamBody::new(files).boxed_unsync())
                }
                None => status(StatusCode::NOT_FOUND),
            },
            Some(Question::Disk(machine)) => {
                match self.machines.disk_to_save(machine.local()).await {
                    Ok(Some((length, pieces))) => {
                        let pieces = pieces.map_ok(Frame::data).map_err(broken_off);
                        let pieces = StreamBody::new(pieces);
                        let mut answer = Response::new(pieces.boxed_unsync());
                        let headers = answer.headers_mut();
                        headers.insert(header::CONTENT_LENGTH, length.into());
                        answer
                    }
                    Ok(None) => status(StatusCode::NOT_FOUND),
                    Err(NoDisk::Unreadable(why)) => {
                        tracing::error!(%machine, why, "a disk that is to be saved can't be read");
                        status(StatusCode::INTERNAL_SERVER_ERROR)
                    }
                    Err(NoDisk::NotNow(why)) => {
                        tracing::warn!(%machine, why, "a disk that is to be saved can't be read for now");
                        status(StatusCode::SERVICE_UNAVAILABLE)
                    }
                }
            }
            Some(Question::Examine) => json(&self.machines.audit(false).await),
            Some(Question::Console(machine, range)) => {
                let own = (&self.machines, &self.documents);
                match own_host::console(own, &machine, range).await {
                    Ok(console) => {
                        let content = console.content.map_ok(Frame::data);
                        let mut answer = Response::new(StreamBody::new(content).boxed_unsync());
                        let start = console.start.into();
                        answer.headers_mut().insert(CONSOLE_START, start);
                        answer
                    }
                    Err(error) => {
                        tracing::warn!(%machine, %error, "a console can't be read");
                        status(StatusCode::INTERNAL_SERVER_ERROR)
                    }
                }
            }
        }
    }
}

fn json(told: &impl Serialize) -> Response<AnyBody> {
    match serde_json::to_vec(told) {
        Ok(told) => Response::new(
            Full::from(told)
                .map_err(|never| match never {})
                .boxed_unsync(),
        ),
        Err(error) => {
            tracing::error!(%error, "an answer can't be written");
            status(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

fn status(status: StatusCode) -> Response<AnyBody> {
    let nothing = Full::default().map_err(|never| match never {});
    let mut answer = Response::new(nothing.boxed_unsync());
    *answer.status_mut() = status;
    answer
}
