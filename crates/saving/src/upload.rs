//! Uploading an entry to a Marketplace: `POST <endpoint>/metadata` (StratusLab's contract).

use std::time::Duration;

use reqwest::{Client, StatusCode, header::CONTENT_TYPE};

/// How long one try may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Most characters of a refusal that are kept.
const SHOWN: usize = 300;
/// Most bytes of an answer that are read.
const ANSWER_BYTES: usize = 64 * 1024;

/// Why a Marketplace doesn't have an entry.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// It may have it later.
    #[error("{0} can't be reached: {1}")]
    Unreachable(String, String),
    /// It doesn't want it.
    #[error("{0} refused it: {1}")]
    Refused(String, String),
}

impl UploadError {
    /// Whether trying again may help.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable(..))
    }
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uploaded {
    /// It is there.
    Registered,
    /// It appears when its endorser confirms it.
    Waiting,
}

/// Uploads a signed entry. That it is there already is fine.
///
/// # Errors
/// [`UploadError`].
pub async fn upload(
    client: &Client,
    endpoint: &str,
    document: &str,
) -> Result<Uploaded, UploadError> {
    let url = format!("{}/metadata", endpoint.trim_end_matches('/'));
    let request = client
        .post(&url)
        .header(CONTENT_TYPE, "application/xml")
        .timeout(LIMIT)
        .body(document.to_owned());
    let unreachable = |error: reqwest::Error| {
        let error = error.without_url();
        let deepest = std::iter::successors(Some(&error as &dyn std::error::Error), |error| {
            error.source()
        })
        .last();
        UploadError::Unreachable(
            endpoint.to_owned(),
            deepest.map_or_else(String::new, ToString::to_string),
        )
    };
    let mut answer = request.send().await.map_err(unreachable)?;
    let status = answer.status();
    if status == StatusCode::ACCEPTED {
        return Ok(Uploaded::Waiting);
    }
    // A conflict is the same entry of an earlier try: identifier, endorser and time are the same.
    if status.is_success() || status == StatusCode::CONFLICT {
        return Ok(Uploaded::Registered);
    }
    let mut body = Vec::new();
    while let Ok(Some(part)) = answer.chunk().await {
        body.extend_from_slice(&part);
        if body.len() > ANSWER_BYTES {
            break;
        }
    }
    let said = marketplace::list::message(&body);
    let said: String = said
        .trim()
        .chars()
        .filter(|c| !c.is_control())
        .take(SHOWN)
        .collect();
    let told = format!("{status}: {said}");
    Err(
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            UploadError::Unreachable(endpoint.to_owned(), told)
        } else {
            UploadError::Refused(endpoint.to_owned(), told)
        },
    )
}
