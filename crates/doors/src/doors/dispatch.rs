//! To whom a request goes that was admitted: the one place where routes become calls.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cloud::{Caller, Download, DownloadRequest, OpContext};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use hyper::body::Incoming;
use tokio::time::sleep;

use super::{Doors, Exchange, Serving, who_asks::who_asks};
use crate::{
    audit, auth,
    body::{self, ResponseBody},
    budget::Share,
    cimi::{
        Asked,
        events::{self, List},
        negotiation,
    },
    console, download, health, limits, load, manual, marketplace as marketplace_door, metrics,
    openapi, people,
    problem::Problem,
    routes::Route,
    upload,
};

/// How often it is asked whether streams may go on, of what nobody tells: directories of users.
const ASKED_AGAIN: Duration = Duration::from_secs(60);
/// How long a stream goes on that was begun with a certificate.
const BY_CERTIFICATE: Duration = Duration::from_secs(30 * 60);

/// Most bytes of a form.
const FORM_AT_MOST: usize = 64 << 10;

impl Doors {
    /// The answer of what a route leads to.
    pub(super) async fn dispatch(
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
                    Serving::Cloud | Serving::HostsAlone => self.api.health().await,
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
                let shown = self.shown(exchange);
                let call = marketplace_door::Call {
                    origin: exchange.origin(),
                    certificate: shown.as_deref().and_then(accounts::Shown::certificate),
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
            Route::ImageData(id) if head.method != Method::PUT && context.user().is_none() => {
                self.public_download(id, context, exchange).await
            }
            Route::ImageData(id) if head.method != Method::PUT => {
                let mut request = download::request(&head.headers, pairs());
                let content = self
                    .part_or_whole(context, id, &head.headers, &mut request)
                    .await?;
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
                    negotiation::format(&head.headers, &parameters)
                        .map_err(|problem| events::instead_of(route, &head.headers, problem))?
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

    /// The content that is asked for; all of it, if the part is of another one than the caller thinks.
    async fn part_or_whole(
        &self,
        context: &OpContext,
        id: &str,
        headers: &HeaderMap,
        request: &mut DownloadRequest,
    ) -> Result<Download, Problem> {
        let content = self.api.download(context, id, request.clone()).await?;
        if content.part.is_none() || !download::is_other(headers, &content.tag) {
            return Ok(content);
        }
        request.part = None;
        Ok(self.api.download(context, id, request.clone()).await?)
    }

    /// The content of a public image for somebody who isn't logged in. Of others they learn nothing, not even whether there are any.
    async fn public_download(
        &self,
        id: &str,
        context: &OpContext,
        exchange: &Exchange<'_>,
    ) -> Result<Response<ResponseBody>, Problem> {
        let head = exchange.head;
        let parameters = negotiation::parameters(head.uri.query());
        let pairs = parameters.iter().map(|(a, b)| (a.as_ref(), b.as_ref()));
        let mut request = download::request(&head.headers, pairs);
        let network = accounts::network_of(exchange.connection.client(&head.headers));
        let place = self.places.take(network)?;
        let found = self
            .part_or_whole(context, id, &head.headers, &mut request)
            .await;
        let content = found.map_err(|problem| match problem.status() {
            StatusCode::NOT_FOUND => auth::unauthorized(
                &head.headers,
                "log in first: only the content of public images, as it is kept, is for everybody"
                    .to_owned(),
            ),
            _ => problem,
        })?;
        download::answer(&head.method, download::holding(content, place))
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
}

fn metrics_answer() -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Whole(metrics::render().into()));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
    );
    response
}
