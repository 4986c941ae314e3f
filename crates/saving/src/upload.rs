//! Uploading an entry to a Marketplace: `POST <endpoint>/metadata` (StratusLab's contract).

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use marketplace::{
    Entry, UtcTime,
    catalogue::{Name, Record},
};
use reqwest::{
    Client, Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE},
};

/// How long one try may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Most characters of a refusal that are kept.
const SHOWN: usize = 300;
/// Most bytes of an answer that are read.
const ANSWER_BYTES: usize = 512 * 1024;

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

/// A Marketplace in this process, which trusts its cloud.
#[async_trait]
pub trait OwnMarketplace: Send + Sync {
    /// Takes an entry that this cloud has signed. That it is there already is fine.
    ///
    /// # Errors
    /// [`UploadError`].
    async fn publish(&self, document: &str) -> Result<(), UploadError>;

    /// The newest entries of an endorser that are valid, of those endorsed since a moment.
    fn valid_of(&self, endorser: &str, since: UtcTime) -> Vec<Arc<Record>>;

    /// The document of an entry.
    ///
    /// # Errors
    /// [`UploadError`].
    async fn document(&self, name: &Name) -> Result<Option<String>, UploadError>;
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
    let answer = request.send().await;
    let answer = answer.map_err(|error| unreachable(endpoint, error))?;
    let status = answer.status();
    if status == StatusCode::ACCEPTED {
        return Ok(Uploaded::Waiting);
    }
    if status.is_success() {
        return Ok(Uploaded::Registered);
    }
    let said = marketplace::list::message(&body(answer).await);
    let said: String = said
        .trim()
        .chars()
        .filter(|c| !c.is_control())
        .take(SHOWN)
        .collect();
    let told = format!("{status}: {said}");
    if is_passing(status) {
        return Err(UploadError::Unreachable(endpoint.to_owned(), told));
    }
    // Perhaps it is there from an earlier try.
    if status == StatusCode::CONFLICT && is_there(client, endpoint, &url, document).await? {
        return Ok(Uploaded::Registered);
    }
    Err(UploadError::Refused(endpoint.to_owned(), told))
}

/// Whether an answer says nothing about what was asked.
fn is_passing(status: StatusCode) -> bool {
    let is_busy = [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT];
    status.is_server_error() || is_busy.contains(&status)
}

fn unreachable(endpoint: &str, error: reqwest::Error) -> UploadError {
    UploadError::Unreachable(endpoint.to_owned(), deepest(error))
}

/// Whether a Marketplace has an entry for the same image, of the same endorser and time.
async fn is_there(
    client: &Client,
    endpoint: &str,
    url: &str,
    document: &str,
) -> Result<bool, UploadError> {
    let Ok(ours) = Entry::verify(document.as_bytes()) else {
        return Ok(false);
    };
    let answer = client
        .get(format!("{url}/{}", ours.path()))
        .header(ACCEPT, "application/xml")
        .timeout(LIMIT)
        .send()
        .await
        .map_err(|error| unreachable(endpoint, error))?;
    let status = answer.status();
    if is_passing(status) {
        let told = format!("{status} when it was asked whether it has it");
        return Err(UploadError::Unreachable(endpoint.to_owned(), told));
    }
    if !status.is_success() {
        return Ok(false);
    }
    let theirs = Entry::verify(&body(answer).await);
    Ok(theirs.is_ok_and(|theirs| {
        theirs.path() == ours.path()
            && theirs.certificate().fingerprint() == ours.certificate().fingerprint()
    }))
}

/// What an answer says, as far as it is read.
async fn body(mut answer: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(part)) = answer.chunk().await {
        body.extend_from_slice(&part);
        if body.len() > ANSWER_BYTES {
            break;
        }
    }
    body
}

/// The cause of a failure, without what led to it.
fn deepest(error: reqwest::Error) -> String {
    let error = error.without_url();
    let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| {
        error.source()
    });
    causes.last().map_or_else(String::new, ToString::to_string)
}
