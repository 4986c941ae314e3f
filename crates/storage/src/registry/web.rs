//! Small documents from servers that the operator named: bounded in time and size.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cimi::uri::plain;
use reqwest::header::{ACCEPT, ETAG, IF_NONE_MATCH};
use reqwest::{Certificate, Client, StatusCode, Url, redirect};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For a whole answer.
const TIMEOUT: Duration = Duration::from_secs(60);
const MAX_REDIRECTS: usize = 5;

/// A client for one server.
#[derive(Debug, Clone)]
pub struct Web(Client);

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Got {
    /// What was asked for, and which version of it.
    Page { body: Bytes, etag: Option<String> },
    /// The version that is known already.
    Unchanged,
    /// There is no such thing.
    Absent,
    /// It is longer than may be.
    TooLong,
}

impl Web {
    /// A client that trusts the system's authorities, and those in `authorities` (PEM).
    ///
    /// # Errors
    /// If there is no certificate in `authorities`, or no client can be made.
    pub fn new(authorities: Option<&[u8]>) -> reqwest::Result<Self> {
        let redirects = redirect::Policy::custom(|attempt| {
            let downgraded = attempt.url().scheme() != "https"
                && attempt
                    .previous()
                    .last()
                    .is_some_and(|url| url.scheme() == "https");
            if attempt.previous().len() > MAX_REDIRECTS {
                attempt.error("too many redirects")
            } else if downgraded || !matches!(attempt.url().scheme(), "http" | "https") {
                attempt.error("redirected to a less safe kind of address")
            } else {
                attempt.follow()
            }
        });
        let client = trusting(Client::builder(), authorities)?
            .user_agent(concat!("stratusd/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .referer(false)
            .redirect(redirects)
            .build()?;
        Ok(Self(client))
    }

    /// Fetches a document of at most `most` bytes, unless it is still the version `known`.
    ///
    /// # Errors
    /// What went wrong, with the address.
    pub(super) async fn get(
        &self,
        url: &Url,
        accept: &str,
        known: Option<&str>,
        most: usize,
    ) -> Result<Got, String> {
        let failed = |error: &reqwest::Error| {
            format!("{} can't be read: {}", plain(url.as_str()), why(error))
        };
        let mut request = self.0.get(url.clone()).header(ACCEPT, accept);
        if let Some(known) = known {
            request = request.header(IF_NONE_MATCH, known);
        }
        let mut response = request.send().await.map_err(|error| failed(&error))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED if known.is_some() => return Ok(Got::Unchanged),
            StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(Got::Absent),
            status => return Err(format!("{} answered {status}", plain(url.as_str()))),
        }
        let header = response.headers().get(ETAG);
        let etag = header
            .and_then(|text| text.to_str().ok())
            .map(str::to_owned);
        let mut body = BytesMut::new();
        while let Some(piece) = response.chunk().await.map_err(|error| failed(&error))? {
            if body.len() + piece.len() > most {
                return Ok(Got::TooLong);
            }
            body.extend_from_slice(&piece);
        }
        Ok(Got::Page {
            body: body.freeze(),
            etag,
        })
    }
}

/// A builder that trusts further authorities (PEM).
///
/// # Errors
/// If there is no certificate in `authorities`.
pub fn trusting(
    builder: reqwest::ClientBuilder,
    authorities: Option<&[u8]>,
) -> reqwest::Result<reqwest::ClientBuilder> {
    let Some(pem) = authorities else {
        return Ok(builder);
    };
    let certificates = Certificate::from_pem_bundle(pem)?;
    Ok(certificates
        .into_iter()
        .fold(builder, reqwest::ClientBuilder::add_root_certificate))
}

/// The last cause says most.
fn why(error: &reqwest::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    if error.is_timeout() {
        return format!("no whole answer within {} s", TIMEOUT.as_secs());
    }
    last.to_string()
}
