//! Following another Marketplace, so that a site survives its loss: what is new or deprecated there is fetched, verified, and kept.
//!
//! The other one is a Marketplace of StratusLab or of Stratus, asked by what both have: the table (the DataTables list, ordered by
//! the time of endorsement), then each document by its full name. It is not trusted with more than not inventing entries: every document
//! is verified, has the name it was asked by, and what is here already is never changed. Sizes, numbers and times are bounded.
//!
//! A pass begins with the newest and ends where a whole page is known; the first, one a day, and the one after a pass that was cut off
//! look at all; the first and one a day then at what was superseded (`history`). What can't be fetched holds nobody up, however much of it there is: it is tried again at the end of each pass, and what
//! is new meanwhile goes first (`pass`). Nothing of this needs to be kept when the daemon ends, since the first pass afterwards looks
//! at all again.

mod history;
mod memory;
mod pass;

use std::time::Duration;

use marketplace::catalogue::Name;
use marketplace::metadata::is_email;
use reqwest::{Client, StatusCode, Url, header};
use serde::Deserialize;
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::memory::Memory;
use self::pass::{Extent, Figures, Pass};
use crate::stored::Confirmation;
use crate::upload::{Age, Kept, verified};
use crate::{Marketplace, Refused, Settings};

/// Rows asked for at once.
const ROWS: usize = 200;
/// Most bytes of such an answer: a row has some hundred.
const ROWS_BYTES: usize = 8 << 20;
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(60);
/// Between passes that look at all, also at what was refused; and after one of these that was cut off.
const FULL_PASS: Duration = Duration::from_secs(86_400);
const FULL_PASS_AGAIN: Duration = Duration::from_secs(3600);
/// Another Marketplace that is followed.
pub struct Follower {
    marketplace: Marketplace,
    client: Client,
    /// Ends with `/`.
    base: Url,
    every: Duration,
}

/// Why a pass was cut off.
#[derive(Debug, Error)]
pub enum FollowError {
    /// It can't be an address.
    #[error(
        "`{0}` is no address of a Marketplace; write https://marketplace.example.org/marketplace"
    )]
    Address(String),
    /// No answer.
    #[error("{url}: {reason}")]
    Unreachable {
        /// What was asked.
        url: String,
        /// Why.
        reason: String,
    },
    /// An answer that can't be.
    #[error("{url}: {reason}")]
    Nonsense {
        /// What was asked.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// It can't be kept here.
    #[error(transparent)]
    Store(#[from] Refused),
}

/// The DataTables list, of which three columns count.
#[derive(Deserialize)]
struct Table {
    #[serde(rename = "aaData")]
    rows: Vec<Vec<Option<String>>>,
}

impl Follower {
    /// `every` is the time between the end of a pass and the next. The client decides whom to trust and what may be reached.
    ///
    /// # Errors
    /// [`FollowError::Address`].
    pub fn new(
        marketplace: Marketplace,
        client: Client,
        url: &str,
        every: Duration,
    ) -> Result<Self, FollowError> {
        let wrong = || FollowError::Address(url.chars().take(200).collect());
        let mut base: Url = url.trim().parse().map_err(|_| wrong())?;
        if !["http", "https"].contains(&base.scheme()) || base.cannot_be_a_base() {
            return Err(wrong());
        }
        base.set_query(None);
        base.set_fragment(None);
        let path = format!("{}/", base.path().trim_end_matches('/'));
        base.set_path(&path);
        Ok(Self {
            marketplace,
            client,
            base,
            every,
        })
    }

    /// Follows until it is told to stop. Failures are logged, and tried again.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.follow()).await;
    }

    async fn follow(&self) {
        let mut next_full = Instant::now();
        let mut memory = Memory::default();
        let mut wait = Duration::from_secs(5).min(self.every);
        loop {
            let is_full = Instant::now() >= next_full;
            let extent = Extent {
                all_pages: is_full || memory.has_gaps,
                refused_too: is_full,
            };
            memory.has_gaps = false;
            let (figures, ended) = Pass::new(self, &mut memory, extent).run().await;
            if figures != Figures::default() {
                let Figures {
                    kept,
                    refused,
                    failed,
                } = figures;
                tracing::info!(
                    from = shown(&self.base),
                    kept,
                    refused,
                    failed,
                    "another Marketplace followed"
                );
            }
            if is_full {
                let pause = if ended.is_ok() {
                    FULL_PASS
                } else {
                    FULL_PASS_AGAIN
                };
                next_full = Instant::now() + pause;
            }
            match ended {
                Ok(()) => {
                    wait = Duration::from_secs(5).min(self.every);
                    sleep(self.every).await;
                }
                Err(error) => {
                    tracing::warn!(%error, retry_in = ?wait, "another Marketplace can't be followed");
                    sleep(wait).await;
                    wait = (wait * 2).min(self.every);
                }
            }
        }
    }

    /// The entries named by a page of the table.
    async fn page(&self, offset: usize) -> Result<Vec<Option<Name>>, FollowError> {
        let mut url = self.url(&["metadata"]);
        url.query_pairs_mut()
            .append_pair("status", "all")
            .append_pair("sEcho", "1")
            .append_pair("iDisplayStart", &offset.to_string())
            .append_pair("iDisplayLength", &ROWS.to_string())
            .append_pair("iSortCol_0", "6")
            .append_pair("sSortDir_0", "desc");
        let body = self.fetch(&url, "application/json", ROWS_BYTES).await?;
        let nonsense = |reason: String| FollowError::Nonsense {
            url: shown(&url),
            reason,
        };
        let table: Table = serde_json::from_slice(&body)
            .map_err(|error| nonsense(format!("no table of a Marketplace: {error}")))?;
        if table.rows.len() > ROWS {
            return Err(nonsense(format!(
                "{} rows instead of {ROWS}",
                table.rows.len()
            )));
        }
        Ok(table.rows.iter().map(|row| named(row)).collect())
    }

    /// Fetches one entry, and keeps it if it is what it is called; whether it is new, or was refused before as it is. What was
    /// answered is left in `document`.
    async fn take(
        &self,
        memory: &Memory,
        name: &Name,
        document: &mut Option<Vec<u8>>,
    ) -> Result<bool, FollowError> {
        let url = self.url(&[
            "metadata",
            &name.0.to_string(),
            &name.1,
            &name.2.to_string(),
        ]);
        let body = self
            .fetch(&url, "application/xml", Settings::LONGEST)
            .await?;
        if memory.was_refused(name, &body) {
            return Ok(false);
        }
        if is_page(&body) {
            return Err(FollowError::Nonsense {
                url: shown(&url),
                reason: "the answer is a page for people".to_owned(),
            });
        }
        let body = document.insert(body);
        let entry = verified(body).await?;
        let endorsement = entry.endorsement();
        let is_it = entry.metadata().identifier == name.0
            && *endorsement.email == *name.1
            && endorsement.created == name.2;
        if !is_it {
            return Err(FollowError::Nonsense {
                url: shown(&url),
                reason: format!("it is another entry: {}", entry.path()),
            });
        }
        let from = Confirmation::From(shown(&self.base));
        let kept = self
            .marketplace
            .keep(&entry, from, Age::Any, |transaction| transaction)
            .await?;
        // Or another way brought it meanwhile.
        Ok(matches!(kept, Kept::New(_)))
    }

    fn url(&self, parts: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(parts);
        }
        url
    }

    async fn fetch(&self, url: &Url, media: &str, most: usize) -> Result<Vec<u8>, FollowError> {
        let unreachable = |reason: String| FollowError::Unreachable {
            url: shown(url),
            reason,
        };
        let work = async {
            let request = self.client.get(url.clone()).header(header::ACCEPT, media);
            let mut answer = request
                .send()
                .await
                .map_err(|error| unreachable(told(&error)))?;
            let is_busy = [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT];
            if answer.status().is_client_error() && !is_busy.contains(&answer.status()) {
                return Err(FollowError::Nonsense {
                    url: shown(url),
                    reason: format!("it answers {}", answer.status()),
                });
            }
            if !answer.status().is_success() {
                return Err(unreachable(format!("it answers {}", answer.status())));
            }
            let mut body = Vec::new();
            while let Some(chunk) = answer
                .chunk()
                .await
                .map_err(|error| unreachable(told(&error)))?
            {
                if body.len() + chunk.len() > most {
                    return Err(FollowError::Nonsense {
                        url: shown(url),
                        reason: format!("the answer is longer than {most} bytes"),
                    });
                }
                body.extend_from_slice(&chunk);
            }
            Ok(body)
        };
        timeout(ANSWER, work)
            .await
            .map_err(|_| unreachable(format!("no answer within {} s", ANSWER.as_secs())))?
    }
}

/// An address without the user and password that open it.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Both fail only for addresses that can't have them.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

/// Whether an answer is HTML, as proxies say that something is under maintenance.
fn is_page(body: &[u8]) -> bool {
    let text = body.trim_ascii_start();
    ["<!doctype html", "<html"].iter().any(|start| {
        text.get(..start.len())
            .is_some_and(|begins| begins.eq_ignore_ascii_case(start.as_bytes()))
    })
}

fn named(row: &[Option<String>]) -> Option<Name> {
    let column = |number: usize| row.get(number)?.as_deref();
    let email = column(4).filter(|email| is_email(email))?;
    Some((
        column(7)?.parse().ok()?,
        email.into(),
        column(6)?.parse().ok()?,
    ))
}

/// An error with what caused it.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    // As TLS calls it.
    if text.contains("UnknownIssuer") {
        text.push_str(
            ". Its certificate is of an authority that isn't trusted here: marketplace.follow_ca names a PEM file with it",
        );
    }
    text
}
