//! The members of the cluster: which one is asked, for how long, and who is asked next.
//!
//! Each member has a connection of its own, made when needed. All calls go to the same member until it fails; tonic's own
//! balancing would send every third call to a member that is cut off.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use http::uri::PathAndQuery;
use parking_lot::Mutex;
use prost::Message;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Streaming};
use tonic_prost::ProstCodec;

use super::failure::Failure;
use super::options::{EtcdLogin, EtcdOptions};
use super::wire::{self, path};
use crate::StoreError;

/// How long a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// How long the answer may take when a quiet connection is tried.
const PING_ANSWERED: Duration = Duration::from_secs(3);
/// Rest between two attempts.
const REST: Duration = Duration::from_millis(50);

struct Member {
    name: String,
    channel: Channel,
}

/// What it is to do something again that may have been done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Twice {
    Harmless,
    Forbidden,
}

/// See the module.
pub(super) struct Members {
    members: Vec<Member>,
    /// Where in `members` the one is that is asked first.
    preferred: AtomicUsize,
    login: Option<EtcdLogin>,
    token: Mutex<Option<MetadataValue<Ascii>>>,
    attempt: Duration,
    pub(super) deadline: Duration,
    /// All endpoints, for messages.
    pub(super) names: Arc<str>,
}

impl Members {
    /// Nothing is connected yet.
    pub(super) fn new(options: &EtcdOptions) -> Result<Self, StoreError> {
        let mut members = Vec::with_capacity(options.endpoints.len());
        for name in &options.endpoints {
            members.push(member(name, options)?);
        }
        if members.is_empty() {
            return Err(unusable("", "no endpoints are given".to_owned()));
        }
        Ok(Self {
            members,
            preferred: AtomicUsize::new(0),
            login: options.login.clone(),
            token: Mutex::new(None),
            attempt: options.attempt,
            deadline: options.deadline,
            names: options.endpoints.join(", ").into(),
        })
    }

    /// Ask until somebody answers: for what may be done twice.
    pub(super) async fn ask<Q, A>(&self, path: &'static str, request: &Q) -> Result<A, Failure>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let until = Instant::now() + self.deadline;
        let attempt = |at, limit| self.attempt(at, path, request, limit);
        self.until_answered(until, Twice::Harmless, attempt).await
    }

    /// Ask until somebody answers or may have done it: for what must not be done twice.
    pub(super) async fn once<Q, A>(
        &self,
        path: &'static str,
        request: &Q,
        until: Instant,
    ) -> Result<A, Failure>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let attempt = |at, limit| self.attempt(at, path, request, limit);
        self.until_answered(until, Twice::Forbidden, attempt).await
    }

    /// Begin an exchange of messages in which we say one thing, and hear until it ends. The first thing heard is waited
    /// for, as it tells whether the exchange works.
    pub(super) async fn listen<Q, A>(
        &self,
        path: &'static str,
        request: &Q,
    ) -> Result<(A, Streaming<A>), Failure>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let until = Instant::now() + self.deadline;
        let attempt = |at, limit| self.try_listen(at, path, request, limit);
        self.until_answered(until, Twice::Harmless, attempt).await
    }

    /// Attempts at one member after another, each until its limit, with a rest between them.
    async fn until_answered<T, F>(
        &self,
        until: Instant,
        twice: Twice,
        attempt: impl Fn(usize, Instant) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        loop {
            let at = self.preferred.load(Ordering::Relaxed);
            let limit = until.min(Instant::now() + self.attempt);
            let failure = match attempt(at, limit).await {
                Ok(answer) => return Ok(answer),
                Err(failure @ Failure::Refused(_)) => return Err(failure),
                Err(failure) => failure,
            };
            self.after(at, &failure);
            let may_be_done = matches!(failure, Failure::Unknown(_));
            if may_be_done && twice == Twice::Forbidden || Instant::now() + REST >= until {
                return Err(failure);
            }
            sleep(REST).await;
        }
    }

    /// Note that what was begun at the preferred member came to a bad end.
    pub(super) fn gone(&self, status: &tonic::Status) -> Failure {
        let at = self.preferred.load(Ordering::Relaxed);
        let failure = Failure::of(self.name(at), status);
        self.after(at, &failure);
        failure
    }

    /// Our token isn't good any more: get another before the next call. Whether there is any to be had; the one that was told of may
    /// have been forgotten by somebody else already.
    pub(super) fn forget_login(&self) -> bool {
        self.token.lock().take();
        self.login.is_some()
    }

    fn after(&self, at: usize, failure: &Failure) {
        if matches!(failure, Failure::LoggedOut(_)) {
            self.forget_login();
            return;
        }
        let next = (at + 1) % self.members.len();
        // Others may have gone on already.
        let moved = self
            .preferred
            .compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
        // Where there is but one, callers say what fails.
        if moved.is_ok() && next != at {
            tracing::info!(
                reason = failure.reason(),
                next = self.name(next),
                "etcd member failed"
            );
        }
    }

    fn name(&self, at: usize) -> &str {
        self.members.get(at).map_or("", |member| &member.name)
    }

    async fn attempt<Q, A>(
        &self,
        at: usize,
        path: &'static str,
        request: &Q,
        limit: Instant,
    ) -> Result<A, Failure>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let Some(member) = self.members.get(at) else {
            return Err(Failure::NotDone("no such member".to_owned()));
        };
        let token = self.token(member, limit).await?;
        let request = with_metadata(Request::new(request.clone()), token);
        unary(member, path, request, limit).await
    }

    async fn try_listen<Q, A>(
        &self,
        at: usize,
        path: &'static str,
        request: &Q,
        limit: Instant,
    ) -> Result<(A, Streaming<A>), Failure>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let Some(member) = self.members.get(at) else {
            return Err(Failure::NotDone("no such member".to_owned()));
        };
        let token = self.token(member, limit).await?;
        // etcd ends the exchange when we end our side of it.
        let said = stream::once(std::future::ready(request.clone())).chain(stream::pending());
        let request = with_metadata(Request::new(said), token);
        let exchange = async {
            let mut grpc = grpc(member);
            grpc.ready().await.map_err(|error| failed(member, error))?;
            let codec = ProstCodec::<Q, A>::default();
            let heard = grpc
                .streaming(request, PathAndQuery::from_static(path), codec)
                .await;
            let mut heard = heard
                .map_err(|status| Failure::of(&member.name, &status))?
                .into_inner();
            match heard.message().await {
                Ok(Some(first)) => Ok((first, heard)),
                Ok(None) => Err(Failure::Unknown(format!("{}: ended at once", member.name))),
                Err(status) => Err(Failure::of(&member.name, &status)),
            }
        };
        timeout_at(limit, exchange)
            .await
            .unwrap_or_else(|_late| Err(Failure::silence(&member.name)))
    }

    /// What proves our login, asked for if we have none.
    async fn token(
        &self,
        member: &Member,
        limit: Instant,
    ) -> Result<Option<MetadataValue<Ascii>>, Failure> {
        let Some(login) = &self.login else {
            return Ok(None);
        };
        if let Some(token) = &*self.token.lock() {
            return Ok(Some(token.clone()));
        }
        let request = wire::AuthenticateRequest {
            name: login.user.clone(),
            password: login.password.clone(),
        };
        let request = with_metadata(Request::new(request), None);
        let answer = unary(member, path::AUTHENTICATE, request, limit).await;
        let answer: wire::AuthenticateResponse = answer.map_err(|failure| match failure {
            // Whatever became of the login, the call itself was not sent.
            Failure::Unknown(reason) => Failure::NotDone(reason),
            other => other,
        })?;
        let token: MetadataValue<Ascii> = answer
            .token
            .parse()
            .map_err(|_invalid| Failure::NotDone("etcd gave an unusable token".to_owned()))?;
        *self.token.lock() = Some(token.clone());
        Ok(Some(token))
    }
}

async fn unary<Q, A>(
    member: &Member,
    path: &'static str,
    request: Request<Q>,
    limit: Instant,
) -> Result<A, Failure>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let mut grpc = grpc(member);
    // Nothing is sent before the connection is ready.
    let ready = timeout(limit.duration_since(Instant::now()), grpc.ready()).await;
    match ready {
        Ok(ready) => ready.map_err(|error| failed(member, error))?,
        Err(_late) => {
            let reason = format!("{} can't be reached in time", member.name);
            return Err(Failure::NotDone(reason));
        }
    }
    let codec = ProstCodec::<Q, A>::default();
    match timeout_at(
        limit,
        grpc.unary(request, PathAndQuery::from_static(path), codec),
    )
    .await
    {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(Failure::of(&member.name, &status)),
        Err(_late) => Err(Failure::silence(&member.name)),
    }
}

fn grpc(member: &Member) -> Grpc<Channel> {
    // Answers are as large as what we wrote; etcd bounds requests, and sends what it has.
    Grpc::new(member.channel.clone()).max_decoding_message_size(usize::MAX)
}

fn failed(member: &Member, error: tonic::transport::Error) -> Failure {
    Failure::of(&member.name, &tonic::Status::from_error(Box::new(error)))
}

fn with_metadata<T>(mut request: Request<T>, token: Option<MetadataValue<Ascii>>) -> Request<T> {
    // A member that is cut off from the leader says so instead of waiting, and ends watches.
    let metadata = request.metadata_mut();
    metadata.insert("hasleader", MetadataValue::from_static("true"));
    if let Some(token) = token {
        metadata.insert("token", token);
    }
    request
}

fn member(name: &str, options: &EtcdOptions) -> Result<Member, StoreError> {
    let wrong = |error: tonic::transport::Error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        unusable(name, cause.unwrap_or_else(|| error.to_string()))
    };
    let endpoint = Endpoint::from_shared(name.to_owned()).map_err(wrong)?;
    let mut endpoint = endpoint
        .connect_timeout(CONNECT_LIMIT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(options.ping)
        .keep_alive_timeout(PING_ANSWERED)
        .keep_alive_while_idle(true);
    match endpoint.uri().scheme_str() {
        Some("https") => {
            let mut tls = ClientTlsConfig::new();
            if let Some(authority) = &options.tls.authority {
                tls = tls.ca_certificate(Certificate::from_pem(authority));
            }
            if let Some((certificate, key)) = &options.tls.identity {
                tls = tls.identity(Identity::from_pem(certificate, key));
            }
            if let Some(name) = &options.tls.server_name {
                tls = tls.domain_name(name.clone());
            }
            endpoint = endpoint.tls_config(tls).map_err(wrong)?;
        }
        Some("http") if endpoint.uri().authority().is_some() => {}
        _ => {
            let reason = "write https://HOST:PORT, or http:// for one without TLS";
            return Err(unusable(name, reason.to_owned()));
        }
    }
    Ok(Member {
        name: name.to_owned(),
        channel: endpoint.connect_lazy(),
    })
}

fn unusable(endpoint: &str, reason: String) -> StoreError {
    StoreError::Endpoint {
        endpoint: endpoint.to_owned(),
        reason,
    }
}
