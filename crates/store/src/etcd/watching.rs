//! Watches: one exchange with one member each, begun anew with another when it breaks.
//!
//! ```text
//!              answer                          answer or reconnected
//!  opening ──────────────▶ open ── broken ──▶ opening again, after the last revision that is complete
//!     │                     │
//!     │ nobody in time      │ compacted, refused
//!     └──────▶ failed ◀─────┘
//! ```
//!
//! **How far the cluster is.** A watch hears of revisions that change what it watches. Somebody may wait for another: a
//! transaction that changed nothing, or a page, is of the cluster's newest revision, which another cloud in the same cluster may
//! have made. etcd tells of progress by itself only every ten minutes; what it tells when asked can be ahead of the changes
//! it still has to send (etcd issue 15220, before 3.4.25 and 3.5.8: Debian 12's has it). So a watch of everything that lags behind
//! what was told has a key written that it watches itself: that comes in order on every version.

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::Streaming;

use super::Shared;
use super::failure::{Failure, Refusal};
use super::keyspace::{number, revision};
use super::wire::{
    Event, HeaderResponse, PutRequest, WatchCreateRequest, WatchRequest, WatchResponse, path,
};
use crate::{Batch, Change, Prefix, Range, Revision, StoreError, WatchError, WatchSource};

/// How long changes may be under way, before a sign of progress is asked for.
const PATIENCE: Duration = Duration::from_millis(20);
/// The same for a watch that is still being told the past: etcd looks after those ten times a second.
const PATIENCE_AT_FIRST: Duration = Duration::from_secs(1);
/// Rest before asking once more.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How long a watch may hear nothing though there is something to be heard, before it is begun anew: its member is cut off, which
/// the connection notices much later.
const SILENCE: Duration = Duration::from_secs(3);
/// Rest before a broken watch is begun anew.
const REST: Duration = Duration::from_millis(50);
/// How long a closed store's watch may take to hear of what was committed.
const LAST_WORDS: Duration = Duration::from_secs(2);

type Opened = Result<(WatchResponse, Streaming<WatchResponse>), Failure>;
type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

enum State {
    // Kept here, so that dropping the future of `next` doesn't begin it from the start.
    Opening(Pending<Opened>),
    Open(Box<Streaming<WatchResponse>>),
}

/// See the module.
pub(super) struct EtcdWatch {
    shared: Arc<Shared>,
    from: Bytes,
    to: Bytes,
    /// Whether it sees the sign of progress.
    everything: bool,
    /// All changes up to here are in `ready` or were yielded.
    received: i64,
    ready: VecDeque<Batch>,
    /// The beginning of a transaction whose rest is in the next piece.
    partial: Option<Batch>,
    state: State,
    failed: Option<WatchError>,
    told: watch::Receiver<i64>,
    written: watch::Receiver<i64>,
    /// Whether it has been told all of the past since it was opened.
    caught_up: bool,
    closing: watch::Receiver<Option<i64>>,
    closed_at: Option<Instant>,
    asking: Option<Pending<()>>,
    /// Since when there is something to be heard, and nothing is.
    silent_since: Option<Instant>,
}

impl EtcdWatch {
    pub(super) async fn open(
        shared: Arc<Shared>,
        prefix: &Prefix,
        after: Revision,
    ) -> Result<Self, Failure> {
        let everything = prefix.as_str().is_empty();
        let (from, to) = if everything {
            shared.keys.everything()
        } else {
            shared.keys.range(&Range::prefix(prefix))
        };
        let received = number(after).min(i64::MAX - 1);
        let opened = begin(shared.clone(), from.clone(), to.clone(), received, false).await?;
        let (told, closing) = (shared.told.subscribe(), shared.closing.subscribe());
        let written = shared.written.subscribe();
        let mut watch = Self {
            shared,
            from,
            to,
            everything,
            received,
            ready: VecDeque::new(),
            partial: None,
            state: State::Open(Box::new(opened.1)),
            failed: None,
            told,
            written,
            caught_up: false,
            closing,
            closed_at: None,
            asking: None,
            silent_since: None,
        };
        watch.take_in(opened.0);
        Ok(watch)
    }

    /// Go on after the last complete revision, with whoever answers.
    fn reopen(&mut self) {
        self.partial = None;
        self.caught_up = false;
        self.silent_since = None;
        let (shared, from, to) = (self.shared.clone(), self.from.clone(), self.to.clone());
        self.state = State::Opening(Box::pin(begin(shared, from, to, self.received, true)));
    }

    fn take_in(&mut self, answer: WatchResponse) {
        if answer.canceled {
            self.canceled(&answer);
            return;
        }
        let quiet = answer.events.is_empty() && !answer.created;
        for event in answer.events {
            self.take_event(event);
        }
        if answer.fragment {
            return;
        }
        self.complete();
        // Without changes it is etcd's own word that there are none up to here.
        let at = answer.header.map_or(0, |header| header.revision);
        if quiet && at > self.received {
            self.received = at;
            self.ready.push_back(Batch {
                revision: revision(at),
                changes: Vec::new(),
            });
        }
    }

    fn take_event(&mut self, event: Event) {
        let Some(found) = event.kv else { return };
        // Never again what was complete before the connection broke.
        if found.mod_revision <= self.received {
            return;
        }
        let at = revision(found.mod_revision);
        if self
            .partial
            .as_ref()
            .is_some_and(|batch| batch.revision != at)
        {
            self.complete();
        }
        let batch = self.partial.get_or_insert_with(|| Batch {
            revision: at,
            changes: Vec::new(),
        });
        // A sign of progress leaves a batch without changes.
        if event.kind == Event::DELETE {
            let key = self.shared.keys.document(&found.key);
            batch.changes.extend(key.map(|key| Change::Delete { key }));
        } else {
            let entry = self.shared.keys.entry(found);
            batch.changes.extend(entry.map(Change::Put));
        }
    }

    /// The transaction at hand has no more changes.
    fn complete(&mut self) {
        if let Some(batch) = self.partial.take() {
            self.received = number(batch.revision);
            self.ready.push_back(batch);
        }
    }

    fn canceled(&mut self, answer: &WatchResponse) {
        let reason = &answer.cancel_reason;
        if answer.compact_revision > 0 {
            let oldest = revision(answer.compact_revision);
            self.failed = Some(WatchError::Compacted { oldest });
        } else if reason.contains("token") && self.shared.members.forget_login() {
            self.reopen();
        } else {
            let failure = Failure::Refused(Refusal::Other(reason.clone()));
            self.failed = Some(self.shared.error("watching", failure).into());
        }
    }

    fn opened(&mut self, opened: Opened) {
        match opened {
            Ok((first, rest)) => {
                self.state = State::Open(Box::new(rest));
                self.take_in(first);
            }
            Err(failure) => self.failed = Some(self.shared.error("watching", failure).into()),
        }
    }

    fn heard(&mut self, answer: Result<Option<WatchResponse>, tonic::Status>) {
        self.silent_since = None;
        match answer {
            Ok(Some(answer)) => self.take_in(answer),
            Ok(None) => self.reopen(),
            Err(status) => {
                let failure = self.shared.members.gone(&status);
                tracing::info!(
                    reason = failure.reason(),
                    after = self.received,
                    "a watch goes on with another member of etcd"
                );
                self.reopen();
            }
        }
    }

    /// Whether somebody may wait for more than we have heard of, and nobody asks yet.
    fn lags(&mut self) -> bool {
        let told = *self.told.borrow_and_update();
        if told <= self.received {
            self.asking = None;
            self.caught_up = true;
            return false;
        }
        self.everything && self.asking.is_none()
    }

    /// When it is taken for silent: there is something to be heard, of ours or of others, and nothing is.
    fn silent_at(&mut self) -> Option<Instant> {
        // One that is being opened has limits of its own; of a part it needn't be told at all.
        let is_open = matches!(self.state, State::Open(_)) && self.everything;
        let newest = (*self.told.borrow()).max(*self.written.borrow_and_update());
        if !is_open || newest <= self.received {
            self.silent_since = None;
            return None;
        }
        Some(*self.silent_since.get_or_insert_with(Instant::now) + SILENCE)
    }

    /// When a watch of a closed store ends; `None`: it isn't closed.
    fn end(&mut self) -> Option<Instant> {
        let last = (*self.closing.borrow_and_update())?;
        if self.received >= last {
            return Some(Instant::now());
        }
        Some(
            *self
                .closed_at
                .get_or_insert_with(|| Instant::now() + LAST_WORDS),
        )
    }
}

#[async_trait]
impl WatchSource for EtcdWatch {
    async fn next(&mut self) -> Result<Batch, WatchError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(batch);
            }
            if let Some(error) = &self.failed {
                return Err(error.clone());
            }
            let end = self.end();
            if end.is_some_and(|end| end <= Instant::now()) {
                self.failed = Some(StoreError::Closed.into());
                continue;
            }
            if self.lags() {
                let patience = if self.caught_up {
                    PATIENCE
                } else {
                    PATIENCE_AT_FIRST
                };
                self.asking = Some(Box::pin(ask_for_progress(self.shared.clone(), patience)));
            }
            let ended = async {
                match end {
                    Some(end) => sleep_until(end).await,
                    None => pending().await,
                }
            };
            let silent_at = self.silent_at();
            let silent = async {
                match silent_at {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            let (state, asking) = (&mut self.state, &mut self.asking);
            let asked = async {
                match asking {
                    Some(asking) => asking.as_mut().await,
                    None => pending().await,
                }
            };
            // What each branch waits for survives when another comes first.
            tokio::select! {
                biased;
                happened = async {
                    match state {
                        State::Opening(opening) => Happened::Opened(Box::new(opening.as_mut().await)),
                        State::Open(stream) => Happened::Heard(stream.message().await),
                    }
                } => match happened {
                    Happened::Opened(opened) => self.opened(*opened),
                    Happened::Heard(answer) => self.heard(answer),
                },
                _ = self.closing.changed(), if end.is_none() => {}
                _ = self.told.changed() => {}
                _ = self.written.changed() => {}
                () = asked => self.asking = None,
                () = silent => {
                    tracing::info!(after = self.received, "a watch hears nothing: it goes on with whoever answers");
                    self.reopen();
                }
                () = ended => {}
            }
        }
    }
}

enum Happened {
    Opened(Box<Opened>),
    Heard(Result<Option<WatchResponse>, tonic::Status>),
}

async fn begin(
    shared: Arc<Shared>,
    key: Bytes,
    range_end: Bytes,
    after: i64,
    rest: bool,
) -> Opened {
    if rest {
        sleep(REST).await;
    }
    let request = WatchRequest {
        create: Some(WatchCreateRequest {
            key,
            range_end,
            start_revision: after + 1,
            progress_notify: true,
            fragment: true,
        }),
    };
    shared.members.listen(path::WATCH, &request).await
}

/// Has the cluster say how far it is, in a way that watches hear in order.
async fn ask_for_progress(shared: Arc<Shared>, patience: Duration) {
    sleep(patience).await;
    if let Err(failure) = write_sign(&shared).await {
        tracing::debug!(reason = failure.reason(), "no sign of progress was written");
    }
    sleep(ASK_AGAIN).await;
}

/// Writes the sign of progress.
pub(super) async fn write_sign(shared: &Shared) -> Result<(), Failure> {
    let sign = PutRequest {
        key: shared.keys.progress(),
        value: Bytes::new(),
        lease: 0,
    };
    let written: Result<HeaderResponse, _> = shared.members.ask(path::PUT, &sign).await;
    written.map(drop)
}
