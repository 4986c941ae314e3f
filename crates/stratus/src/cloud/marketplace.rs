//! The client of a Marketplace: fetching and posting descriptions of images.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::{Method, StatusCode};

use super::api::RawAnswer;
use super::{Api, ApiError, Endpoint, Found, RawBody, Search, market_search};
use crate::failure::{Failure, Result};
use crate::options;
use crate::output::printable;
use crate::session::Session;

/// Where to look when nothing is said.
const DEFAULT_ENDPOINT: &str = "https://marketplace.stratuslab.eu";

/// Where the interface is on servers that have other things at their root.
const USUAL_PATH: &str = "/marketplace";

/// What gives the address of the configured one.
const NAMED_BY: &str =
    "--marketplace-endpoint, marketplace_endpoint and STRATUSLAB_MARKETPLACE_ENDPOINT";

const XML: &str = "application/xml";
const JSON: &str = "application/json";

/// A Marketplace.
#[derive(Debug)]
pub struct Marketplace {
    api: Api,
    /// The endpoint as it was given, of several the first, with a scheme and without a slash at the end.
    endpoint: String,
    /// The path of it.
    path: String,
    /// Whether the interface was found where it usually is, below that.
    is_below: AtomicBool,
    /// What gives the address, for who has to change it.
    named_by: &'static str,
}

/// How an upload ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uploaded {
    /// The entry is there.
    Created,
    /// It waits for its endorser to follow the link in a mail.
    Waiting,
    /// It was there before, and nothing was changed; what the Marketplace says of it.
    Known(String),
}

/// The beginning of what a Marketplace says of an entry that it has.
const EXISTS: &str = "metadata entry exists";

/// Whether a refusal isn't a Marketplace's: another server, such as a cloud that runs none, tells nothing of use.
fn is_of_another_server(answer: &RawAnswer) -> bool {
    matches!(answer.status, 401 | 403 | 404 | 405) && !marketplace::list::is_refusal(&answer.body)
}

/// One address as it was given, with a scheme and without a slash at the end.
fn whole(text: &str) -> Result<(String, reqwest::Url)> {
    let text = text.trim().trim_end_matches('/');
    let endpoint = match text.contains("://") {
        true => text.to_owned(),
        false => format!("https://{text}"),
    };
    match reqwest::Url::parse(&endpoint) {
        Ok(url) => Ok((endpoint, url)),
        Err(error) => Err(Failure::Work(format!(
            "the endpoint '{endpoint}' is not usable: {error}"
        ))),
    }
}

impl Marketplace {
    /// A client for the Marketplace that is configured; nothing is sent yet.
    ///
    /// # Errors
    /// [`Failure::Work`] for an address that can't be used, and as [`Session::connect`].
    pub fn of(session: &Session, options: &options::Marketplace) -> Result<Self> {
        let text = session
            .settings
            .text(
                options.marketplace_endpoint.as_deref(),
                "marketplace_endpoint",
            )
            .unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        Self::at(session, &text, options.ca_file.clone(), NAMED_BY)
    }

    /// A client for the Marketplace at this address, or at several with commas between, of which the next is asked when one doesn't
    /// answer; nothing is sent yet. `named_by` says to the user where the address comes from.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn at(
        session: &Session,
        address: &str,
        ca_file: Option<PathBuf>,
        named_by: &'static str,
    ) -> Result<Self> {
        let server = Endpoint::parse(address)?;
        let all: Result<Vec<_>> = address.split(',').map(whole).collect();
        let mut all = all?.into_iter();
        let (endpoint, url) = all
            .next()
            .ok_or_else(|| Failure::Work("a Marketplace has no address".to_owned()))?;
        if let Some((other, _)) = all.find(|(_, other)| other.path() != url.path()) {
            return Err(Failure::Work(format!(
                "'{endpoint}' and '{other}' are no addresses of one Marketplace: give the same path in all of them (by {named_by})"
            )));
        }
        let cloud = options::Cloud {
            ca_file,
            ..options::Cloud::default()
        };
        Ok(Self {
            api: session.connect(server, None, &cloud)?,
            path: url.path().trim_end_matches('/').to_owned(),
            endpoint,
            is_below: AtomicBool::new(false),
            named_by,
        })
    }

    /// The address of what has this path below `metadata`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        let separator = if path.is_empty() { "" } else { "/" };
        let below = if self.is_below.load(Ordering::Relaxed) {
            USUAL_PATH
        } else {
            ""
        };
        format!("{}{below}/metadata{separator}{path}", self.endpoint)
    }

    /// Fetches what has this path below `metadata`.
    ///
    /// # Errors
    /// [`Failure::Work`] with the Marketplace's words, [`Failure::Network`].
    pub async fn fetch(&self, path: &str) -> Result<Vec<u8>> {
        let answer = self.ask(&Method::GET, path, XML, None).await?;
        if answer.status == 200 {
            return Ok(answer.body);
        }
        let url = self.url(path);
        Err(Failure::Work(self.refusal("GET", &url, &answer)))
    }

    /// Posts a document.
    ///
    /// # Errors
    /// [`Failure::Work`] with the Marketplace's words, [`Failure::Network`].
    pub async fn upload(&self, document: &[u8]) -> Result<Uploaded> {
        let answer = self.ask(&Method::POST, "", XML, Some(document)).await?;
        match answer.status {
            202 => Ok(Uploaded::Waiting),
            200 if answer.body.starts_with(EXISTS.as_bytes()) => {
                let said = String::from_utf8_lossy(&answer.body);
                Ok(Uploaded::Known(said.trim().to_owned()))
            }
            200..=299 => Ok(Uploaded::Created),
            _ => Err(Failure::Work(format!(
                "Failed to upload: {}",
                self.refusal("POST", &self.url(""), &answer)
            ))),
        }
    }

    /// What it has of what is looked for, the newest first, and how many there are altogether.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch).
    pub async fn search(&self, search: &Search) -> Result<(Vec<Found>, u64)> {
        let path = format!("?{}", search.parameters());
        let answer = self.ask(&Method::GET, &path, JSON, None).await?;
        let url = self.url("");
        match answer.status {
            200 => market_search::parse(&answer.body, search.limit).ok_or_else(|| {
                Failure::Work(format!("{url} answers, but not as a Marketplace does"))
            }),
            _ => Err(Failure::Work(self.refusal("GET", &url, &answer))),
        }
    }

    /// Asks at the endpoint, and where the interface usually is if nothing like it is there.
    async fn ask(
        &self,
        method: &Method,
        path: &str,
        accepted: &str,
        body: Option<&[u8]>,
    ) -> Result<RawAnswer> {
        let first = self
            .ask_at(&self.path, method, path, accepted, body)
            .await?;
        let may_be_elsewhere =
            |answer: &RawAnswer| matches!(answer.status, 404 | 405) || is_of_another_server(answer);
        if may_be_elsewhere(&first) && !self.path.ends_with(USUAL_PATH) {
            let base = format!("{}{USUAL_PATH}", self.path);
            let second = self.ask_at(&base, method, path, accepted, body).await?;
            if !is_of_another_server(&second) {
                self.is_below.store(true, Ordering::Relaxed);
                return Ok(second);
            }
        }
        Ok(first)
    }

    async fn ask_at(
        &self,
        base: &str,
        method: &Method,
        path: &str,
        accepted: &str,
        body: Option<&[u8]>,
    ) -> Result<RawAnswer> {
        let separator = if path.is_empty() || path.starts_with('?') {
            ""
        } else {
            "/"
        };
        let body = body.map(|bytes| RawBody {
            media_type: XML,
            bytes: bytes.to_vec(),
        });
        let path = format!("{base}/metadata{separator}{path}");
        let sent = self.api.send_raw(method.clone(), &path, accepted, body);
        sent.await.map_err(|error| match error {
            ApiError::Network { text } if text.contains("Connection refused") => {
                Failure::Network(text).with_hint(format!(
                    "No Marketplace listens at {}: check {}",
                    self.endpoint, self.named_by
                ))
            }
            other => other.into(),
        })
    }

    /// A refusal in the words of the contract.
    fn refusal(&self, method: &str, url: &str, answer: &RawAnswer) -> String {
        let status = answer.status;
        let reason = StatusCode::from_u16(status)
            .ok()
            .and_then(|status| status.canonical_reason())
            .unwrap_or("unknown");
        let mut text =
            format!("Failed calling method {method} on url {url}, with reason: {status}: {reason}");
        if is_of_another_server(answer) {
            text.push_str(&format!(
                ". There is no Marketplace at {}: check {}, which is the like of https://HOST[:PORT]{USUAL_PATH}",
                self.endpoint, self.named_by
            ));
        } else if status < 500 {
            let message = marketplace::list::message(&answer.body);
            text.push_str(&format!(". Error: : {}", printable(message.trim())));
        }
        text
    }
}
