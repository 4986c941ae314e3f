//! Following another Marketplace, so that a site survives its loss: what is new or deprecated there is fetched, verified, and kept.
//!
//! The other one is a Marketplace of StratusLab or of Stratus, asked by what both have: the table (the DataTables list, ordered by
//! the time of endorsement), then each document by its full name. It is not trusted with more than not inventing entries: every document
//! is verified, has the name it was asked by, and what is here already is never changed. Sizes, numbers and times are bounded.
//!
//! A pass begins with the newest and ends where a whole page is known; the first, one a day, and the one after a pass that was cut off
//! look at all, and then at what was superseded ([`history`]). A document that can't be fetched holds nobody up: it is tried again at the end of each pass. Nothing of this needs to be
//! kept when the daemon ends, since the first pass afterwards looks at all again.

mod history;
mod memory;

use std::time::Duration;

use marketplace::catalogue::Name;
use marketplace::metadata::is_email;
use reqwest::{Client, StatusCode, Url, header};
use serde::Deserialize;
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::memory::Memory;
use crate::stored::Confirmation;
use crate::upload::{Age, is_early, verified};
use crate::{Marketplace, Refused, Settings};

/// Rows asked for at once.
const ROWS: usize = 200;
/// Most bytes of such an answer: a row has some hundred.
const ROWS_BYTES: usize = 8 << 20;
/// Entries of another Marketplace beyond these are not looked at.
const ENTRIES_AT_MOST: usize = 1_000_000;
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(60);
/// Full passes, which look at old rows, too.
const FULL_PASS: Duration = Duration::from_secs(86_400);
/// Documents in a row that can't be fetched, after which it is the Marketplace itself that is down.
const IN_A_ROW: usize = 5;
/// Failures told one by one in a pass; of the others the number.
const TOLD: usize = 5;

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

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pass {
    kept: usize,
    refused: usize,
    /// Could not be fetched, of these in a row, and are still owed.
    failed: usize,
    failed_in_a_row: usize,
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
        let mut last_full: Option<Instant> = None;
        let mut memory = Memory::default();
        let mut wait = Duration::from_secs(5).min(self.every);
        loop {
            let is_due = last_full.is_none_or(|last| last.elapsed() >= FULL_PASS);
            let is_full = is_due || memory.has_gaps;
            memory.has_gaps = false;
            match self.pass(&mut memory, is_full).await {
                Ok(pass) => {
                    if pass != Pass::default() {
                        let Pass {
                            kept,
                            refused,
                            failed,
                            ..
                        } = pass;
                        tracing::info!(from = %self.base, kept, refused, failed, "another Marketplace followed");
                    }
                    if is_full {
                        last_full = Some(Instant::now());
                    }
                    wait = Duration::from_secs(5).min(self.every);
                    sleep(self.every).await;
                }
                Err(error) => {
                    memory.has_gaps = true;
                    tracing::warn!(%error, retry_in = ?wait, "another Marketplace can't be followed");
                    sleep(wait).await;
                    wait = (wait * 2).min(self.every);
                }
            }
        }
    }

    /// One pass over what is new there: from the newest on, until a whole page is known; a full one to the end.
    ///
    /// # Errors
    /// See [`FollowError`]; that a few documents can't be fetched is none.
    async fn pass(&self, memory: &mut Memory, is_full: bool) -> Result<Pass, FollowError> {
        let mut pass = Pass::default();
        let mut offset = 0;
        while offset < ENTRIES_AT_MOST {
            let names = self.page(offset).await?;
            let count = names.len();
            let mut unknown = Vec::new();
            for name in names {
                match name {
                    Some(name) if self.is_wanted(memory, &name, is_full) => unknown.push(name),
                    Some(_) => {}
                    None if is_full => {
                        let url = self.base.to_string();
                        let reason = "a row names no entry".to_owned();
                        pass.refuse(&FollowError::Nonsense { url, reason });
                    }
                    None => {}
                }
            }
            let had_news = !unknown.is_empty();
            // Old ones first: should it be cut off, what is missing is at the top, where the next pass begins.
            for name in unknown.into_iter().rev() {
                self.try_one(memory, &mut pass, name).await?;
            }
            if count < ROWS || !(had_news || is_full) {
                break;
            }
            offset += count;
        }
        if is_full {
            self.history(memory, &mut pass).await?;
        }
        // Each once; those that fail again are behind the others the next time.
        for _ in 0..memory.owed() {
            let Some(name) = memory.next_owed() else {
                break;
            };
            match self.try_one(memory, &mut pass, name).await {
                Ok(()) => {}
                // What is new was looked at: this is no reason to begin again.
                Err(FollowError::Unreachable { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(pass)
    }

    /// Whether an entry is to be fetched now.
    fn is_wanted(&self, memory: &Memory, name: &Name, is_full: bool) -> bool {
        // One of the future would be refused now, and is at the top of the table again when its time has come.
        !is_early(name.2)
            && !memory.is_owed(name)
            && (is_full || !memory.is_refused(name))
            && self
                .marketplace
                .ask(|catalogue| catalogue.named(name).is_none())
    }

    /// Fetches one entry and keeps it, or remembers why not.
    ///
    /// # Errors
    /// What ends the pass.
    async fn try_one(
        &self,
        memory: &mut Memory,
        pass: &mut Pass,
        name: Name,
    ) -> Result<(), FollowError> {
        let mut document = None;
        match self.take(memory, &name, &mut document).await {
            Ok(is_kept) => {
                pass.failed_in_a_row = 0;
                pass.kept += usize::from(is_kept);
                if is_kept {
                    memory.forgive(&name);
                }
                Ok(())
            }
            Err(
                error @ (FollowError::Nonsense { .. }
                | FollowError::Store(Refused::Invalid(_) | Refused::Taken(_))),
            ) => {
                pass.failed_in_a_row = 0;
                pass.refuse(&error);
                memory.refuse(name, document.as_deref());
                Ok(())
            }
            Err(error @ FollowError::Unreachable { .. }) => {
                pass.failed += 1;
                pass.failed_in_a_row += 1;
                if pass.failed <= TOLD {
                    tracing::warn!(%error, "an entry of another Marketplace can't be fetched now");
                }
                memory.owe(name);
                if pass.failed_in_a_row >= IN_A_ROW {
                    return Err(error);
                }
                Ok(())
            }
            Err(error) => Err(error),
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
            url: url.to_string(),
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
        let body = document.insert(body);
        let entry = verified(body).await?;
        let endorsement = entry.endorsement();
        let is_it = entry.metadata().identifier == name.0
            && *endorsement.email == *name.1
            && endorsement.created == name.2;
        if !is_it {
            return Err(FollowError::Nonsense {
                url: url.to_string(),
                reason: format!("it is another entry: {}", entry.path()),
            });
        }
        let from = Confirmation::From(self.base.to_string());
        self.marketplace
            .keep(&entry, from, Age::Any, |transaction| transaction)
            .await?;
        Ok(true)
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
            url: url.to_string(),
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
                    url: url.to_string(),
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
                        url: url.to_string(),
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

impl Pass {
    fn refuse(&mut self, error: &FollowError) {
        self.refused += 1;
        if self.refused <= TOLD {
            tracing::warn!(%error, "an entry of another Marketplace is not taken");
        }
    }
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
    text
}
