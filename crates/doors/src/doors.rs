//! From a request to its answer: name it, find out who asks and for what, answer, tell.

mod admission;
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
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::{
    finishing::{REQUEST_ID, complete, is_received, tell},
    who_asks::who_asks,
};
use crate::{
    audit::{self, AuditLog, NoAudit},
    auth,
    body::{self, ResponseBody},
    budget::{Bounds, Budget, Share, Whose},
    cimi::{
        Asked, Cimi,
        events::{self, List},
        negotiation,
    },
    cloud_api::CloudApi,
    console, download, health, limits, load, manual, marketplace as marketplace_door,
    metrics::{self, RequestMetrics},
    openapi,
    origin::Connection,
    people::{self, People},
    problem::Problem,
    routes::Route,
    showing, upload,
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
    pub fn with_marketplace(mut self, marketplace: Marketplace, serving: Serving) -> Self {
        self.marketplace = Some(marketplace);
        self.serving = serving;
        self
    }

    /// With pages for people.
    #[must_use]
    pub fn with_people(mut self, people: People) -> Self {
        self.people = Some(people);
        self
    }

    /// Whether clients are asked for a certificate.
    pub(crate) fn takes_certificates(&self) -> bool {
        self.accounts.takes_certificates()
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
        self.admit(route.as_ref(), identity.as_ref(), exchange)?;
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

    async fn dispatch(
        &self,
        route: &Route<'_>,
        context: &OpContext,
        exchange: &Exchange<'_>,
        body: &mut Option<Incoming>,
        share: &mut Share<'_>,
    ) -> Result<Response<ResponseBody>, Problem> {
        let head = exchange.head;
        let parameters = negotiation::parameters(head.uri.query());
        let pairs = || parameters.iter().map(|(a, b)| (a.as_ref(), b.as_ref()));
        match route {
            Route::Health => {
                let health = match self.serving {
                    Serving::Cloud => self.api.health().await,
                    Serving::MarketplaceAlone => self.api.health().await.without_hosts(),
                };
                Ok(health::health(&health, context.is_admin()))
            }
            Route::Load => Ok(load::answer(&self.api.load().await)),
            Route::Metrics => Ok(metrics_answer()),
            Route::OpenApi => Ok(openapi::answer()),
            Route::Asset(asset) => Ok(asset.answer(&head.headers, head.uri.query())),
            Route::People(page) => self.show_page(page, context, exchange, body, share).await,
            Route::EntryPoint
                if self.people.is_some()
                    && head.uri.path() == "/"
                    && head.uri.query().is_none()
                    && matches!(head.method, Method::GET | Method::HEAD)
                    && people::is_for_people(&head.headers) =>
            {
                Ok(people::to_the_start())
            }
            Route::Marketplace(place) => {
                let Some(marketplace) = &self.marketplace else {
                    return Err(Problem::not_found(head.uri.path()));
                };
                let bytes = match body.as_mut() {
                    Some(body) if head.method == Method::POST => {
                        body::read(body, self.settings.body_at_most, share).await?
                    }
                    _ => bytes::Bytes::new(),
                };
                let is_below = head.uri.path().starts_with("/marketplace");
                let root = if is_below { "/marketplace" } else { "" };
                // What callers say of the host would get into feeds and pages that others see.
                let settings = marketplace.settings();
                let base = if settings.is_url_given || !exchange.connection.trusted {
                    settings.url.clone()
                } else {
                    format!("{}{root}/", exchange.origin())
                };
                let call = marketplace_door::Call {
                    method: &head.method,
                    headers: &head.headers,
                    query: head.uri.query(),
                    body: &bytes,
                    source: exchange.connection.client(&head.headers),
                    base,
                    root,
                };
                marketplace_door::answered(marketplace, place, &call).await
            }
            Route::Authentication => {
                let format = negotiation::format(&head.headers, &parameters)?;
                // Who is known in another way needs no word of it.
                let refused = context.user().is_none().then(|| exchange.refused.get());
                let refused = refused.flatten().map(String::as_str);
                let methods = self.accounts.methods();
                Ok(who_asks(context, &methods, refused, format))
            }
            Route::Status => {
                let status = self.api.status(context).await?;
                Ok(health::json_answer(StatusCode::OK, &status))
            }
            Route::Doctor => {
                let repair = pairs().any(|(name, value)| {
                    name == "repair" && !matches!(value, "false" | "0" | "no")
                });
                let report = self.api.doctor(context, repair).await?;
                Ok(health::json_answer(StatusCode::OK, &report))
            }
            Route::Audit if context.is_admin() => audit::answer(&*self.audit, pairs()).await,
            Route::Audit => Err(Problem::new(403, "the audit log is for administrators")),
            Route::Catalogue => {
                let named = pairs().find(|(name, _)| *name == "name");
                let found = self
                    .api
                    .catalogue(context, named.map(|(_, value)| value))
                    .await?;
                Ok(health::json_answer(StatusCode::OK, &found))
            }
            Route::Quota => {
                let (user, group) = limits::whose(pairs())?;
                let answer = self.api.quota(context, user, group).await?;
                Ok(health::json_answer(StatusCode::OK, &answer))
            }
            Route::Accounting => {
                let query = limits::period(pairs())?;
                let answer = self.api.usage(context, query).await?;
                Ok(health::json_answer(StatusCode::OK, &answer))
            }
            Route::HostTokens if head.method != Method::POST => {
                let tokens = self.api.host_tokens(context).await?;
                Ok(health::json_answer(StatusCode::OK, &tokens))
            }
            Route::HostToken(id) => {
                self.api.withdraw_host_token(context, id).await?;
                Ok(body::no_content())
            }
            Route::HostTokens => {
                let bytes = match body.as_mut() {
                    Some(body) => body::read(body, FORM_AT_MOST, share).await?,
                    None => bytes::Bytes::new(),
                };
                let asked = serde_json::from_slice(if bytes.is_empty() { b"{}" } else { &bytes });
                let asked = asked.map_err(|error| {
                    Problem::new(400, format!("the body is a JSON object: {error}"))
                })?;
                let mut answer = health::json_answer(
                    StatusCode::CREATED,
                    &self.api.make_host_token(context, asked).await?,
                );
                // It holds a secret.
                let no_store = HeaderValue::from_static("no-store");
                answer.headers_mut().insert(header::CACHE_CONTROL, no_store);
                Ok(answer)
            }
            Route::Manual => Ok(manual::answer()),
            Route::Console(id) => {
                let range = console::range(pairs())?;
                let console = self.api.console(context, id, range).await?;
                Ok(console::answer(console, self.end_of_stream(context)))
            }
            Route::ImageData(id) if head.method != Method::PUT => {
                let mut request = download::request(&head.headers, pairs());
                let mut content = self.api.download(context, id, request.clone()).await?;
                if content.part.is_some() && download::is_other(&head.headers, &content.tag) {
                    request.part = None;
                    content = self.api.download(context, id, request).await?;
                }
                download::answer(&head.method, content)
            }
            Route::ImageData(id) => {
                let Some(body) = body.take() else {
                    return Err(Problem::internal("a body is sent once".to_owned()));
                };
                let upload = upload::upload(body, self.settings.upload_patience);
                let view = self.api.upload(context, id, upload).await?;
                let format = negotiation::format(&head.headers, &parameters)?;
                Ok(self.cimi.show(StatusCode::OK, &view, format))
            }
            _ => {
                negotiation::version(&head.headers)?;
                let is_read = matches!(head.method, Method::GET | Method::HEAD);
                let followed =
                    List::of(route).filter(|_| is_read && events::are_wanted(&head.headers));
                let format = if followed.is_some() {
                    negotiation::format(&HeaderMap::new(), &parameters)?
                } else {
                    negotiation::format(&head.headers, &parameters)?
                };
                let has_body = matches!(head.method, Method::POST | Method::PUT);
                let bytes = match body.as_mut() {
                    Some(body) if has_body => {
                        body::read(body, self.settings.body_at_most, share).await?
                    }
                    _ => bytes::Bytes::new(),
                };
                let asked = Asked {
                    context,
                    method: &head.method,
                    headers: &head.headers,
                    parameters: &parameters,
                    format,
                    base_uri: &|| exchange.connection.base_uri(&head.uri, &head.headers),
                    body: &bytes,
                };
                match followed {
                    Some(list) => {
                        let end = self.end_of_stream(context);
                        self.cimi.watch(&list, &asked, end).await
                    }
                    None => self.cimi.answer(route, &asked).await,
                }
            }
        }
    }

    /// When a stream of this caller is to end, whatever it tells: with the server, or when the way in which they have shown
    /// who they are is none any more. What the rules know of the end of a right they see to themselves.
    fn end_of_stream(&self, context: &OpContext) -> impl Future<Output = ()> + Send + use<> {
        let (ending, accounts) = (self.ending.clone(), Arc::clone(&self.accounts));
        let caller = context.caller.clone();
        let over = async move {
            let Caller::User(identity) = caller else {
                return std::future::pending().await;
            };
            // How long a certificate counts isn't known here any more: it is shown anew.
            let by_certificate = matches!(
                identity.method,
                accounts::Method::Certificate | accounts::Method::Proxy | accounts::Method::Voms
            );
            let begun = Instant::now();
            loop {
                sleep(ASKED_AGAIN).await;
                let is_old = by_certificate && begun.elapsed() >= BY_CERTIFICATE;
                if is_old || !accounts.still_takes(&identity).await {
                    return;
                }
            }
        };
        async move {
            tokio::select! {
                () = ending.cancelled_owned() => {}
                () = over => {}
            }
        }
    }

    /// A page for people.
    async fn show_page(
        &self,
        page: &people::Page<'_>,
        context: &OpContext,
        exchange: &Exchange<'_>,
        body: &mut Option<Incoming>,
        share: &mut Share<'_>,
    ) -> Result<Response<ResponseBody>, Problem> {
        let Some(people) = &self.people else {
            return Err(Problem::not_found(exchange.head.uri.path()));
        };
        let bytes = match body.as_mut() {
            Some(body) => body::read(body, FORM_AT_MOST, share).await?,
            None => bytes::Bytes::new(),
        };
        let visit = people::Visit {
            context,
            head: exchange.head,
            body: &bytes,
            has_marketplace: self.marketplace.is_some(),
        };
        Box::pin(people.answer(page, &visit)).await
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

/// How often it is asked whether streams may go on, of what nobody tells: directories of users.
const ASKED_AGAIN: Duration = Duration::from_secs(60);
/// How long a stream goes on that was begun with a certificate.
const BY_CERTIFICATE: Duration = Duration::from_secs(30 * 60);

/// Most bytes of a form.
const FORM_AT_MOST: usize = 64 << 10;

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

fn metrics_answer() -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Whole(metrics::render().into()));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
    );
    response
}
