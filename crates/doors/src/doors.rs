//! From a request to its answer: name it, find out who asks and for what, answer, tell.

mod admission;
mod dispatch;
mod finishing;
mod who_asks;

use std::{
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use accounts::{Accounts, Identity, Shown};
use cloud::{Caller, OpContext};
use futures::{FutureExt, poll};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header,
};
use hyper::body::Incoming;
use marketplace_service::Marketplace;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::finishing::{REQUEST_ID, complete, is_received, tell};
use crate::{
    audit::{self, AuditLog, NoAudit},
    auth,
    body::{self, ResponseBody},
    budget::{Bounds, Budget, Whose},
    cimi::{Cimi, events, negotiation},
    cloud_api::CloudApi,
    download,
    metrics::RequestMetrics,
    origin::Connection,
    people::{self, People},
    problem::Problem,
    routes::Route,
    showing,
};

/// How requests are answered.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes of a request's body, but for image data.
    pub body_at_most: usize,
    /// How long a request may take, but for uploads and followed consoles.
    pub request_timeout: Duration,
    /// How long an upload may send nothing.
    pub upload_patience: Duration,
    /// Bytes of rendered representations that are kept.
    pub rendered_bytes: usize,
    /// Requests being answered at once.
    pub requests: usize,
    /// Of these, of one user (or of one address, of those who aren't logged in).
    pub requests_per_caller: usize,
    /// Bytes of bodies at once; a quarter of it may be one caller's.
    pub body_bytes: usize,
    /// Whether `/metrics` may be read from this computer without credentials.
    pub metrics_open_to_loopback: bool,
    /// The header in which trusted proxies pass on their clients' certificates. Such a proxy must set it in every request:
    /// what its clients send by that name would be believed.
    pub certificate_header: Option<HeaderName>,
    /// Whether the content of public images is for everybody, also for who isn't logged in.
    pub public_data: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            body_at_most: 1 << 20,
            request_timeout: Duration::from_secs(30),
            upload_patience: Duration::from_secs(60),
            rendered_bytes: 8 << 20,
            requests: 2048,
            requests_per_caller: 256,
            body_bytes: 64 << 20,
            metrics_open_to_loopback: false,
            certificate_header: None,
            public_data: false,
        }
    }
}

/// What there is behind the doors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Serving {
    /// A cloud; the Marketplace, if there is one, is below `/marketplace`.
    #[default]
    Cloud,
    /// A Marketplace and nothing else: it is at the root, too.
    MarketplaceAlone,
    /// Nothing for users: a door for hosts, beside what an operator looks at.
    HostsAlone,
}

/// All doors of the cloud.
pub struct Doors {
    api: Arc<dyn CloudApi>,
    accounts: Arc<Accounts>,
    settings: Settings,
    cimi: Cimi,
    audit: Arc<dyn AuditLog>,
    people: Option<People>,
    metrics: RequestMetrics,
    budget: Arc<Budget>,
    marketplace: Option<Marketplace>,
    serving: Serving,
    /// Of who downloads public images without a login.
    places: download::Places<std::net::IpAddr>,
    /// Begins the names of requests: makes those of this process differ from those of the last.
    process: String,
    requests: AtomicU64,
    /// Cancelled when streams are to end.
    ending: CancellationToken,
}

impl Doors {
    /// In front of a cloud and its accounts.
    #[must_use]
    pub fn new(api: Arc<dyn CloudApi>, accounts: Arc<Accounts>, settings: Settings) -> Self {
        Self {
            cimi: Cimi::new(Arc::clone(&api), settings.rendered_bytes),
            budget: Arc::new(Budget::new(Bounds {
                requests: settings.requests,
                requests_per_caller: settings.requests_per_caller,
                // One request of the largest size must always be possible.
                body_bytes: settings.body_bytes.max(settings.body_at_most),
                body_bytes_per_caller: (settings.body_bytes / 4).max(settings.body_at_most),
            })),
            api,
            accounts,
            settings,
            audit: Arc::new(NoAudit),
            people: None,
            metrics: RequestMetrics::new(),
            marketplace: None,
            serving: Serving::Cloud,
            places: download::Places::default(),
            // The random part of a version 4 UUID.
            process: format!("{:08x}-", uuid::Uuid::new_v4().as_fields().0),
            requests: AtomicU64::new(0),
            ending: CancellationToken::new(),
        }
    }

    /// With a log of who does what.
    #[must_use]
    pub fn audited_by(mut self, log: Arc<dyn AuditLog>) -> Self {
        self.audit = log;
        self
    }

    /// With a Marketplace.
    #[must_use]
    pub fn with_marketplace(mut self, marketplace: Marketplace) -> Self {
        self.marketplace = Some(marketplace);
        self
    }

    /// For so much of it.
    #[must_use]
    pub fn serving(mut self, serving: Serving) -> Self {
        self.serving = serving;
        self
    }

    /// With pages for people.
    #[must_use]
    pub fn with_people(mut self, people: People) -> Self {
        self.people = Some(people);
        self
    }

    /// Whether clients are asked for a certificate: users where they may log in by one, and endorsers where there is nothing but a
    /// Marketplace. In a cloud's own they are asked if its users are.
    pub(crate) fn asks_for_certificates(&self) -> bool {
        self.serving == Serving::MarketplaceAlone || self.accounts.takes_certificates()
    }

    /// What the client has shown of itself, or a proxy that is believed says that it has.
    fn shown(&self, exchange: &Exchange<'_>) -> Option<Arc<Shown>> {
        let connection = &exchange.connection;
        match &self.settings.certificate_header {
            Some(name) if connection.trusted => {
                showing::passed_on(&exchange.head.headers, name).map(Arc::new)
            }
            _ => connection.shown.clone(),
        }
    }

    /// Ends the answers that would go on by themselves.
    pub(crate) fn end_streams(&self) {
        self.ending.cancel();
    }

    /// Answers a request. Never fails: what goes wrong is an answer, too.
    pub(crate) async fn handle(
        &self,
        connection: Connection,
        request: Request<Incoming>,
    ) -> Response<ResponseBody> {
        let begun = Instant::now();
        let (head, body) = request.into_parts();
        let request_id = self.name_request(&connection, &head.headers);
        let route = match self.serving {
            Serving::Cloud => Route::of(head.uri.path()),
            Serving::MarketplaceAlone => Route::of_marketplace_alone(head.uri.path()),
            Serving::HostsAlone => Route::of_hosts_alone(head.uri.path()),
        };
        let template = route.as_ref().map_or(0, Route::template);
        let exchange = Exchange {
            connection,
            head: &head,
            request_id: &request_id,
            identity: OnceLock::new(),
            refused: OnceLock::new(),
        };
        let mut body = Some(body);
        let answer = AssertUnwindSafe(self.answer(route, &exchange, &mut body)).catch_unwind();
        let (result, in_time) = if matches!(template, UPLOAD) {
            (answer.await, true)
        } else {
            match timeout(self.settings.request_timeout, answer).await {
                Ok(result) => (result, true),
                Err(_) => (Ok(Err(too_late(self.settings.request_timeout))), false),
            }
        };
        let result = result.unwrap_or_else(|_| Err(Problem::internal("a panic".to_owned())));
        let mut response = result.unwrap_or_else(|mut problem| {
            if let Some(text) = problem.internal.take() {
                tracing::error!(request_id = &*request_id, error = text, "request failed");
            }
            let parameters = negotiation::parameters(head.uri.query());
            let format = negotiation::format(&head.headers, &parameters).unwrap_or_default();
            problem.into_response(&request_id, format, (&head.method, head.uri.path()))
        });
        let (who, from) = (
            &exchange.identity,
            exchange.connection.client(&head.headers),
        );
        if let Some(entry) = audit::entry(&head, &request_id, who, from, &response, in_time) {
            self.audit.record(entry).await;
        }
        complete(&mut response, &head.method, &request_id);
        if !(in_time && is_received(&head, body.as_mut(), response.status()).await)
            && head.version < Version::HTTP_2
        {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        let took = self.metrics.record(template, response.status(), begun);
        tell(&exchange, response.status(), took);
        response
    }

    async fn answer(
        &self,
        route: Option<Route<'_>>,
        exchange: &Exchange<'_>,
        body: &mut Option<Incoming>,
    ) -> Result<Response<ResponseBody>, Problem> {
        let head = exchange.head;
        let mut share = self.budget.enter()?;
        let peer = exchange.connection.client(&head.headers);
        let shown = self.shown(exchange);
        let network = Whose::Network(accounts::network_of(peer));
        let mut asked = pin!(auth::identify(
            &self.accounts,
            &head.headers,
            shown.as_deref(),
            Some(peer)
        ));
        let asked = match poll!(asked.as_mut()) {
            Poll::Ready(asked) => asked,
            // Who has to wait to be known holds a place meanwhile: as long as it isn't known whose, it is the network's.
            Poll::Pending => {
                share.belongs_to(network)?;
                asked.await
            }
        };
        let (identity, refusal) = asked?.split();
        if let Some(refusal) = refusal {
            let _ = exchange.refused.set(refusal);
        }
        let identity = match (identity, people::session_secret(&head.headers)) {
            // A browser takes a stream up again by itself.
            (None, Some(secret))
                if head.method == Method::GET && events::are_wanted(&head.headers) =>
            {
                Box::pin(self.accounts.by_unused_session(secret)).await
            }
            (None, Some(secret)) => Box::pin(self.accounts.by_session(secret, Some(peer))).await,
            (identity, _) => identity,
        };
        if let Some(identity) = &identity {
            // Known from here on, whatever comes of the request.
            let _ = exchange.identity.set(Arc::clone(identity));
        }
        share.belongs_to(match &identity {
            Some(identity) => Whose::User(&identity.user),
            None => network,
        })?;
        let is_a_look = self.people.is_some() && people::is_a_look(head);
        match (
            self.admit(route.as_ref(), identity.as_ref(), exchange),
            &route,
        ) {
            (Err(problem), Some(_))
                if is_a_look && problem.status() == StatusCode::UNAUTHORIZED =>
            {
                return Ok(people::to_the_login(head));
            }
            (_, None) if is_a_look => return people::nothing_here(head.uri.path()),
            (admitted, _) => admitted?,
        }
        let Some(route) = route else {
            return Err(Problem::not_found(head.uri.path()));
        };
        if !route.allows(&head.method) {
            let text = format!(
                "{} is not possible here; {} are",
                head.method,
                route.methods()
            );
            return Err(Problem::new(405, text)
                .with(header::ALLOW, HeaderValue::from_static(route.methods())));
        }
        if head.method == Method::OPTIONS {
            let mut response = body::no_content();
            let allow = HeaderValue::from_static(route.methods());
            response.headers_mut().insert(header::ALLOW, allow);
            return Ok(response);
        }
        let context = OpContext {
            caller: identity.map_or(Caller::Anonymous, Caller::User),
            request_id: Arc::clone(exchange.request_id),
            deadline: Instant::now() + self.settings.request_timeout,
            peer: Some(peer),
            unchanged: None,
            part_of: None,
            parent_job: None,
        };
        // Boxed: with all routes in it, it is large, and the future of a request is moved a few times before it runs.
        Box::pin(self.dispatch(&route, &context, exchange, body, &mut share)).await
    }

    /// The request's name: what a trusted proxy calls it, else a new one. Other clients don't choose: entries of the audit
    /// log must not be taken for each other.
    fn name_request(&self, connection: &Connection, headers: &HeaderMap) -> Arc<str> {
        let given = headers
            .get(&REQUEST_ID)
            .filter(|_| connection.trusted)
            .and_then(|value| value.to_str().ok())
            .filter(|value| {
                (1..=64).contains(&value.len())
                    && value
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            });
        match given {
            Some(given) => given.into(),
            None => {
                let number = self.requests.fetch_add(1, Ordering::Relaxed);
                [self.process.as_str(), &number.to_string()].concat().into()
            }
        }
    }
}

/// The template of uploads and downloads, the only requests that may take as long as they need.
const UPLOAD: usize = 7;

/// One request, as far as all parts of its answer need it.
struct Exchange<'r> {
    connection: Connection,
    head: &'r http::request::Parts,
    request_id: &'r Arc<str>,
    /// Who asks, once that is known.
    identity: OnceLock<Arc<Identity>>,
    /// Why the certificate that was shown doesn't say who asks.
    refused: OnceLock<String>,
}

impl Exchange<'_> {
    /// `https://HOST:PORT`, as the client knows us.
    fn origin(&self) -> String {
        let base = self.connection.base_uri(&self.head.uri, &self.head.headers);
        base.trim_end_matches("/cimi/").to_owned()
    }
}

fn too_late(limit: Duration) -> Problem {
    Problem::new(
        503,
        format!(
            "the request took longer than {} s; try again",
            limit.as_secs_f32()
        ),
    )
    .with(header::RETRY_AFTER, HeaderValue::from_static("1"))
}
