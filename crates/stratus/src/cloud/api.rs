//! Requests to a cloud: authentication, time-outs, bounds, and errors in the cloud's own words.

use std::collections::HashSet;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use std::time::Duration;

use reqwest::header::{ACCEPT, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::verifier::Seen;
use super::{ApiError, Endpoint, OwnCertificate, ShownBy, Trust, Witness};
use crate::output::Output;
use crate::unfinished;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The same where there are other addresses to be tried.
const CONNECT_TIMEOUT_OF_SEVERAL: Duration = Duration::from_secs(3);
/// How long a request may take, connecting included; uploads and consoles have their own rules.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Pauses before a request that could not connect is repeated.
const RETRY_PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(800)];
/// The longest answer that is read.
const ANSWER_MAX_BYTES: usize = 256 << 20;
/// The longest line of text that is shown as what went wrong.
const LINE_MAX_BYTES: usize = 400;
/// The longest error text that is read.
const REFUSAL_MAX_BYTES: usize = 64 << 10;

/// How often a change is made anew because somebody else was faster.
const REVISIONS_AT_MOST: usize = 16;

/// What every token begins with.
const TOKEN_PREFIX: &str = "strat_";

/// What a user logs in with.
#[derive(Debug, Clone)]
pub enum Login {
    /// User name and password.
    Password(String, String),
    /// A token.
    Token(String),
    /// A certificate, or a proxy of one.
    Certificate(OwnCertificate),
}

/// A connection to one cloud, as one user.
#[derive(Debug, Clone)]
pub struct Api {
    /// At least one.
    ways: Arc<[Way]>,
    /// The one of them that answered last, for all clones.
    current: Arc<AtomicUsize>,
    login: Option<Login>,
    timeout: Duration,
    out: Output,
}

/// An address of the cloud, and how it is spoken to.
#[derive(Debug)]
struct Way {
    endpoint: Endpoint,
    client: reqwest::Client,
    is_pinned: bool,
    witness: Arc<Witness>,
}

/// An answer to work that was accepted.
#[derive(Debug, Default)]
pub struct Accepted {
    /// HTTP status.
    pub status: u16,
    /// `Location`, as a path below the CloudEntryPoint.
    pub location: Option<String>,
    /// `CIMI-Job-URI`, as a path below the CloudEntryPoint.
    pub job: Option<String>,
    /// `ETag`: names the state in which the representation shows the resource.
    pub tag: Option<String>,
    /// The representation; null if there is none.
    pub body: Value,
}

/// A body of another interface than the cloud's.
pub struct RawBody {
    /// `Content-Type`.
    pub media_type: &'static str,
    /// The body.
    pub bytes: Vec<u8>,
}

/// An answer of another interface than the cloud's.
#[derive(Debug)]
pub struct RawAnswer {
    /// HTTP status.
    pub status: u16,
    /// The whole body.
    pub body: Vec<u8>,
}

/// What is sent.
pub enum Body<'a> {
    /// Nothing.
    Empty,
    /// A document.
    Json(&'a Value),
    /// Bytes of known length; no time-out but the caller's.
    Stream(reqwest::Body, u64),
}

impl Api {
    /// A client for a cloud, with how each of its addresses is trusted; nothing is sent yet.
    ///
    /// # Errors
    /// [`ApiError::Setup`].
    pub fn new(
        endpoint: Endpoint,
        login: Option<Login>,
        trust: impl Fn(&Endpoint) -> Trust,
        out: Output,
    ) -> Result<Self, ApiError> {
        let others = endpoint.others().to_vec();
        let is_only = others.is_empty();
        let all = std::iter::once(endpoint).chain(others);
        let ways = all.map(|endpoint| Way::new(&trust(&endpoint), endpoint, is_only, &login));
        Ok(Self {
            ways: ways.collect::<Result<_, _>>()?,
            current: Arc::default(),
            login,
            timeout: REQUEST_TIMEOUT,
            out,
        })
    }

    /// The same with another time-out of a request.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The cloud's address.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.way().endpoint
    }

    fn way(&self) -> &Way {
        let current = self.current.load(Ordering::Relaxed);
        &self.ways[current % self.ways.len()]
    }

    /// The certificate that the cloud showed last.
    #[must_use]
    pub fn seen_certificate(&self) -> Option<Seen> {
        self.way().witness.seen()
    }

    /// Reads a resource or a list.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn get(&self, path: &str) -> Result<Value, ApiError> {
        Ok(self.send(Method::GET, path, Body::Empty).await?.body)
    }

    /// Reads a resource into a view of it.
    ///
    /// # Errors
    /// [`ApiError`]; [`ApiError::Strange`] when the members have other types.
    pub async fn view<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.viewed(path, self.get(path).await?)
    }

    /// An answer as a view.
    ///
    /// # Errors
    /// [`ApiError::Strange`].
    pub fn viewed<T: DeserializeOwned>(&self, path: &str, body: Value) -> Result<T, ApiError> {
        serde_json::from_value(body).map_err(|error| ApiError::Strange {
            url: self.url(path),
            problem: error.to_string(),
        })
    }

    /// All members of a list, as documents. A cloud shows a long list in pages: all are read, one after the other. What
    /// comes or goes meanwhile may or may not be among them, and nothing is twice.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn list(&self, path: &str) -> Result<Vec<Value>, ApiError> {
        let (mut members, count) = self.members(path, self.get(path).await?)?;
        let joint = if path.contains('?') { '&' } else { '?' };
        while members.len() < count {
            let next = format!("{path}{joint}$first={}", members.len().saturating_add(1));
            let (page, _) = self.members(path, self.get(&next).await?)?;
            let seen: HashSet<_> = members.iter().map(|member| &member["id"]).collect();
            let fresh: Vec<_> = page
                .into_iter()
                .filter(|member| !seen.contains(&member["id"]))
                .collect();
            if fresh.is_empty() {
                break;
            }
            members.extend(fresh);
        }
        Ok(members)
    }

    /// The members that an answer shows, and how many there are in all.
    fn members(&self, path: &str, answer: Value) -> Result<(Vec<Value>, usize), ApiError> {
        let strange = |problem: &str| ApiError::Strange {
            url: self.url(path),
            problem: problem.to_owned(),
        };
        let mut collection = match answer {
            Value::Array(members) => {
                let count = members.len();
                return Ok((members, count));
            }
            Value::Object(collection) => collection,
            _ => return Err(strange("it is not a list")),
        };
        let type_name = path.split('?').next().unwrap_or_default();
        let count = collection.get("count").and_then(Value::as_u64);
        // CIMI names the member after the type: `machines`, `machineImages`; an empty list may be left out.
        let wanted = format!("{type_name}s").to_lowercase();
        let name = collection
            .keys()
            .find(|key| key.to_lowercase() == wanted || *key == "members")
            .cloned();
        match name.and_then(|name| collection.remove(&name)) {
            Some(Value::Array(members)) => {
                let count = count.and_then(|count| usize::try_from(count).ok());
                let count = count.unwrap_or(members.len());
                Ok((members, count))
            }
            None if count.is_some() || collection.contains_key("resourceURI") => {
                Ok((Vec::new(), 0))
            }
            _ => Err(strange("the list has no members")),
        }
    }

    /// All members of a list, as views.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn views<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, ApiError> {
        self.list(path)
            .await?
            .into_iter()
            .map(|member| self.viewed(path, member))
            .collect()
    }

    /// Creates something, or asks for an action.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<Accepted, ApiError> {
        self.send(Method::POST, path, Body::Json(body)).await
    }

    /// Edits something.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn put(&self, path: &str, body: &Value) -> Result<Accepted, ApiError> {
        self.send(Method::PUT, path, Body::Json(body)).await
    }

    /// Changes one attribute of a resource by what it is: `revise` gets its value, null if there is none, and gives the one to
    /// be written, or none if it is well as it is. What somebody else changes meanwhile is not lost: `revise` is asked again
    /// with it. Whether anything was changed.
    ///
    /// # Errors
    /// [`ApiError`]; that of status 412 if others are always faster.
    pub async fn revise(
        &self,
        path: &str,
        attribute: &str,
        mut revise: impl FnMut(&Value) -> Option<Value>,
    ) -> Result<bool, ApiError> {
        let query = format!("{path}?$select={attribute}");
        let mut others = REVISIONS_AT_MOST;
        loop {
            // All of it: what names a state names the whole.
            let there = self.send(Method::GET, path, Body::Empty).await?;
            let Some(value) = revise(there.body.get(attribute).unwrap_or(&Value::Null)) else {
                return Ok(false);
            };
            let body = json!({ attribute: value });
            let tag = there.tag.as_deref();
            match self
                .send_if(Method::PUT, &query, Body::Json(&body), tag)
                .await
            {
                Ok(_) => return Ok(true),
                Err(error) if error.is_status(412) && others > 0 => others -= 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Deletes something.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn delete(&self, path: &str) -> Result<Accepted, ApiError> {
        self.send(Method::DELETE, path, Body::Empty).await
    }

    /// Sends a request and reads the whole answer. `path` is below the CloudEntryPoint, or from the root with a leading `/`.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Body<'_>,
    ) -> Result<Accepted, ApiError> {
        self.send_if(method, path, body, None).await
    }

    /// The same, of a resource only that is in the state that `tag` names.
    async fn send_if(
        &self,
        method: Method,
        path: &str,
        body: Body<'_>,
        tag: Option<&str>,
    ) -> Result<Accepted, ApiError> {
        let mut builder = self.request(method.clone(), path);
        if let Some(tag) = tag {
            builder = builder.header(reqwest::header::IF_MATCH, tag);
        }
        let builder = match body {
            Body::Empty => builder.timeout(self.timeout),
            Body::Json(document) => builder.timeout(self.timeout).json(document),
            Body::Stream(stream, length) => builder
                .header(reqwest::header::CONTENT_TYPE, "application/octet-stream")
                .header(reqwest::header::CONTENT_LENGTH, length)
                .body(stream),
        };
        let response = self.exchange(method, path, builder).await?;
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name)?.to_str().ok();
        let below = |name: &str| header(name).map(|value| self.relative(value));
        let (location, job) = (below("location"), below("cimi-job-uri"));
        let tag = header("etag").map(str::to_owned);
        let bytes = self.read(response, path, ANSWER_MAX_BYTES).await?;
        let body = if bytes.iter().all(u8::is_ascii_whitespace) {
            Value::Null
        } else {
            serde_json::from_slice(&bytes).map_err(|_| ApiError::Strange {
                url: self.url(path),
                problem: "the answer is not JSON".to_owned(),
            })?
        };
        Ok(Accepted {
            status,
            location,
            job,
            tag,
            body,
        })
    }

    /// Sends a request of another interface than the cloud's, and gives the answer whatever its status. `path` is from the root, with a
    /// leading `/`.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn send_raw(
        &self,
        method: Method,
        path: &str,
        accepted: &str,
        body: Option<RawBody>,
    ) -> Result<RawAnswer, ApiError> {
        let mut builder = self
            .way()
            .client
            .request(method.clone(), self.url(path))
            .header(reqwest::header::ACCEPT, accepted)
            .timeout(self.timeout);
        if let Some(body) = body {
            builder = builder
                .header(reqwest::header::CONTENT_TYPE, body.media_type)
                .body(body.bytes);
        }
        let response = self.delivered(&method, builder).await?;
        let status = response.status().as_u16();
        let body = self.read(response, path, ANSWER_MAX_BYTES).await?;
        if status >= 400 && self.out.verbose >= 2 {
            let text = crate::output::printable(&String::from_utf8_lossy(&body));
            self.out.detail(format_args!("Detail: {text}"));
        }
        Ok(RawAnswer { status, body })
    }

    /// Opens an answer that is read piece by piece, without a time-out for the whole.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn open(&self, path: &str) -> Result<reqwest::Response, ApiError> {
        self.open_as(path, "application/json").await
    }

    /// The same of another media type.
    pub(super) async fn open_as(
        &self,
        path: &str,
        media: &'static str,
    ) -> Result<reqwest::Response, ApiError> {
        let accept = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(media))]);
        let builder = self.request(Method::GET, path).headers(accept);
        match tokio::time::timeout(self.timeout, self.exchange(Method::GET, path, builder)).await {
            Ok(result) => result,
            Err(_) => Err(ApiError::Network {
                text: format!("[Errno 110] Connection timed out ({})", self.endpoint()),
            }),
        }
    }

    /// Whose login it is, if there is one and the cloud says so.
    pub async fn own_name(&self) -> Option<String> {
        let who = self.get("authn").await.ok()?;
        Some(who.get("identity")?.as_str()?.to_owned())
    }

    /// A `Location` or href as a path below the CloudEntryPoint; hosts that it names are not looked at.
    #[must_use]
    pub fn relative(&self, href: &str) -> String {
        href.split_once("/cimi/")
            .map_or(href, |(_, path)| path)
            .to_owned()
    }

    /// The address of a resource.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        if path.starts_with('/') {
            format!("{}{path}", self.endpoint().root_url())
        } else {
            format!("{}/{path}", self.endpoint().cimi_url())
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let builder = self
            .way()
            .client
            .request(method, self.url(path))
            .header(reqwest::header::ACCEPT, "application/json");
        match &self.login {
            Some(Login::Password(name, password)) => builder.basic_auth(name, Some(password)),
            Some(Login::Token(token)) => builder.bearer_auth(token),
            Some(Login::Certificate(_)) | None => builder,
        }
    }

    /// Sends, and turns refusals into errors.
    async fn exchange(
        &self,
        method: Method,
        path: &str,
        builder: RequestBuilder,
    ) -> Result<reqwest::Response, ApiError> {
        let response = self.delivered(&method, builder).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.refused(response, path).await)
    }

    /// Sends. What nobody has heard, as there is no connection, is sent to the cloud's other addresses; what is safe to repeat is
    /// repeated while nothing answers.
    async fn delivered(
        &self,
        method: &Method,
        builder: RequestBuilder,
    ) -> Result<reqwest::Response, ApiError> {
        if *method != Method::GET {
            unfinished::note_change();
        }
        let is_repeatable = [Method::GET, Method::PUT, Method::DELETE].contains(method);
        let mut pauses = RETRY_PAUSES.iter().filter(|_| is_repeatable);
        let unusable = |error| ApiError::network(&error, &self.endpoint().to_string());
        let mut request = builder.build().map_err(unusable)?;
        let mut untried = self.ways.len() - 1;
        loop {
            let tried = self.current.load(Ordering::Relaxed);
            let way = &self.ways[tried % self.ways.len()];
            // Another request may have gone on to another address since this one was made: each is trusted in its own way.
            way.endpoint.take_over(request.url_mut());
            let again = request.try_clone();
            let error = match way.client.execute(request).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            if error.is_connect()
                && let Some(refusal) = way.refusal_of_certificate()
            {
                return Err(refusal);
            }
            let told = ApiError::network(&error, &way.endpoint.to_string());
            // A connection that broke may have been heard.
            let is_unheard = error.is_connect() || (*method == Method::GET && !error.is_timeout());
            let Some(again) = again.filter(|_| is_unheard) else {
                return Err(told);
            };
            if untried > 0 {
                untried -= 1;
                // Unless another request has done so.
                let next = (tried + 1) % self.ways.len();
                let (was, is) = (Ordering::Relaxed, Ordering::Relaxed);
                let _ = self.current.compare_exchange(tried, next, was, is);
                self.out
                    .detail(format_args!("{told}; trying {}", self.endpoint()));
            } else if let Some(pause) = pauses.next().filter(|_| error.is_connect()) {
                self.out.detail(format_args!("{told}; trying again"));
                tokio::time::sleep(*pause).await;
                untried = self.ways.len() - 1;
            } else {
                return Err(told);
            }
            request = again;
        }
    }

    async fn refused(&self, response: reqwest::Response, path: &str) -> ApiError {
        let status = response.status();
        let media = response.headers().get(reqwest::header::CONTENT_TYPE);
        let is_text = media.is_some_and(|media| media.as_bytes().starts_with(b"text/plain"));
        let bytes = self
            .read(response, path, REFUSAL_MAX_BYTES)
            .await
            .unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        if self.out.verbose >= 2 {
            self.out.detail(format_args!("Detail: {text}"));
        }
        let document: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let member = |name: &str| {
            document
                .get(name)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        };
        let in_words = || {
            StatusCode::canonical_reason(&status)
                .map_or_else(|| format!("HTTP status {}", status.as_u16()), str::to_owned)
        };
        let message = member("message")
            .or_else(|| member("detail"))
            .or_else(|| member("title"))
            .or_else(|| {
                let line = text.lines().next().filter(|_| is_text)?.trim();
                (1..=LINE_MAX_BYTES)
                    .contains(&line.len())
                    .then(|| line.to_owned())
            })
            .unwrap_or_else(in_words);
        ApiError::Refused {
            status: status.as_u16(),
            message,
            shown: match &self.login {
                None => ShownBy::Nothing,
                // Many put a token where a password is asked for.
                Some(Login::Password(_, password)) if password.starts_with(TOKEN_PREFIX) => {
                    ShownBy::Token
                }
                Some(Login::Password(..)) => ShownBy::Password,
                Some(Login::Token(_)) => ShownBy::Token,
                Some(Login::Certificate(_)) => ShownBy::Certificate,
            },
        }
    }

    async fn read(
        &self,
        mut response: reqwest::Response,
        path: &str,
        max_bytes: usize,
    ) -> Result<Vec<u8>, ApiError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| ApiError::network(&error, &self.endpoint().to_string()))?
        {
            if bytes.len() + chunk.len() > max_bytes {
                return Err(ApiError::Strange {
                    url: self.url(path),
                    problem: format!("the answer is longer than {max_bytes} bytes"),
                });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

impl Way {
    fn new(
        trust: &Trust,
        endpoint: Endpoint,
        is_only: bool,
        login: &Option<Login>,
    ) -> Result<Self, ApiError> {
        let own_certificate = match login {
            Some(Login::Certificate(own)) => Some(own),
            _ => None,
        };
        let (tls, witness) = trust.client_config(&endpoint, own_certificate)?;
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .connect_timeout(if is_only {
                CONNECT_TIMEOUT
            } else {
                CONNECT_TIMEOUT_OF_SEVERAL
            })
            // The interface never redirects; credentials never go anywhere else.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("stratus/", env!("CARGO_PKG_VERSION")))
            .no_proxy();
        if !endpoint.is_loopback()
            && let Some(proxy) = proxy_of_environment(endpoint.is_secure())?
        {
            builder = builder.proxy(proxy);
        }
        let client = builder.build().map_err(|error| {
            ApiError::Setup(format!("the HTTP client cannot be set up: {error}"))
        })?;
        Ok(Self {
            endpoint,
            client,
            is_pinned: trust.pin.is_some(),
            witness,
        })
    }

    fn refusal_of_certificate(&self) -> Option<ApiError> {
        let Seen {
            fingerprint,
            refusal: Some(reason),
        } = self.witness.seen()?
        else {
            return None;
        };
        let endpoint = &self.endpoint;
        let (message, hint) = if self.is_pinned {
            (
                format!(
                    "the certificate of {endpoint} has changed: it now has the fingerprint {fingerprint}. Either the cloud was given a new one, or somebody else answers in its place"
                ),
                format!(
                    "Ask the administrator for the fingerprint. If it is this one: stratus trust --fingerprint {fingerprint} {}",
                    endpoint.root_url()
                ),
            )
        } else {
            (
                format!(
                    "the certificate of {endpoint} is not trusted: {reason}. Its fingerprint is {fingerprint}"
                ),
                format!(
                    "Compare the fingerprint with the one that the cloud's administrator gives you, then trust it once and for all with: stratus trust {}\n\
                     Or name a file with the certificate or its authority: --ca FILE, STRATUS_CA or ca_file in the configuration.",
                    endpoint.root_url()
                ),
            )
        };
        Some(ApiError::Untrusted { message, hint })
    }
}

/// The proxy that the environment asks for; `no_proxy` exempts hosts. StratusLab's clients used `http_proxy` for https too,
/// so it counts where `https_proxy` is not set.
fn proxy_of_environment(is_secure: bool) -> Result<Option<reqwest::Proxy>, ApiError> {
    let variables: &[&str] = if is_secure {
        &[
            "https_proxy",
            "HTTPS_PROXY",
            "all_proxy",
            "ALL_PROXY",
            "http_proxy",
        ]
    } else {
        &["http_proxy", "all_proxy", "ALL_PROXY"]
    };
    let chosen = variables.iter().find_map(|name| {
        std::env::var(name)
            .ok()
            .filter(|value| !value.is_empty())
            .map(|value| (name, value))
    });
    let Some((name, value)) = chosen else {
        return Ok(None);
    };
    let proxy = reqwest::Proxy::all(&value)
        .map_err(|error| ApiError::Setup(format!("{name}='{value}' is not a proxy: {error}")))?;
    Ok(Some(proxy.no_proxy(reqwest::NoProxy::from_env())))
}
