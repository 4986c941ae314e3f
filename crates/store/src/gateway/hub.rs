//! One watch of the store for all who watch through the gateway.
//!
//! It knows of each document who sees it, so that a change is looked at once, and told to those whom it concerns. What it
//! told lately it remembers: a watch begins in there.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tonic::Status;

use super::calls::is_own;
use super::{Audience, Peer, Rules, Shared, status};
use crate::etcd::keyspace::{Keyspace, lease_number, number};
use crate::etcd::wire::{Event, Header, KeyValue, WatchRequest, WatchResponse};
use crate::{Batch, Change, Key, Prefix, Range, Revision, StoreError, WatchError};

/// What is remembered: so many transactions, and so many bytes of documents.
const HISTORY: usize = 20_000;
const HISTORY_BYTES: usize = 64 << 20;
/// Answers that may wait for one who watches. Whoever is slower begins anew, from the history.
const QUEUE: usize = 1024;
/// How often those who watch are told that nothing happened to what they see.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Rest after the store failed.
const REST: Duration = Duration::from_millis(200);
/// How long a sign of progress waits for the hub, which is hardly ever behind.
const PROGRESS_LIMIT: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Default)]
pub(super) struct Hub {
    state: Mutex<State>,
    /// Up to which revision everything was told.
    reached: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    audiences: HashMap<Key, Audience>,
    history: VecDeque<Arc<Told>>,
    history_bytes: usize,
    /// The first revision whose changes are remembered.
    oldest: u64,
    /// The last that was told.
    at: u64,
    listeners: HashMap<Peer, Vec<Listener>>,
    ended: bool,
}

/// A transaction, and who saw and sees what it changed.
struct Told {
    revision: u64,
    changes: Vec<(Change, Option<Audience>, Option<Audience>)>,
    bytes: usize,
}

struct Listener {
    view: View,
    queue: mpsc::Sender<WatchResponse>,
}

/// What one watch is about.
struct View {
    peer: Peer,
    keys: Keyspace,
    from: String,
    to: Option<String>,
    after: u64,
}

impl View {
    fn answer(&self, told: &Told) -> Option<WatchResponse> {
        if told.revision <= self.after {
            return None;
        }
        let events: Vec<Event> = told
            .changes
            .iter()
            .filter_map(|(change, was, is)| self.event(change, was.as_ref(), is.as_ref(), told))
            .collect();
        (!events.is_empty()).then(|| WatchResponse {
            events,
            ..progress(told.revision)
        })
    }

    fn event(
        &self,
        change: &Change,
        was: Option<&Audience>,
        is: Option<&Audience>,
        told: &Told,
    ) -> Option<Event> {
        let key = change.key().as_str();
        let inside = *self.from <= *key && self.to.as_deref().is_none_or(|to| key < to);
        let saw = was.is_some_and(|audience| self.peer.is_among(audience));
        let sees = is.is_some_and(|audience| self.peer.is_among(audience));
        if !inside || !(saw || sees) {
            return None;
        }
        let mut kv = KeyValue {
            key: self.keys.key(change.key()),
            mod_revision: number(Revision(told.revision)),
            ..KeyValue::default()
        };
        match change {
            Change::Put(entry) if sees => {
                kv.create_revision = number(entry.created);
                kv.value = entry.value.clone();
                kv.lease = entry.lease.map_or(0, lease_number);
                Some(Event {
                    kind: Event::PUT,
                    kv: Some(kv),
                })
            }
            Change::Put(_) | Change::Delete { .. } => Some(Event {
                kind: Event::DELETE,
                kv: Some(kv),
            }),
        }
    }
}

/// That everything up to `at` was told.
fn progress(at: u64) -> WatchResponse {
    WatchResponse {
        header: Some(Header {
            revision: number(Revision(at)),
        }),
        ..WatchResponse::default()
    }
}

impl State {
    /// A batch of the store becomes a piece of history, and is told.
    fn take(&mut self, rules: &dyn Rules, batch: Batch) {
        self.at = batch.revision.0;
        let mut told = Told {
            revision: batch.revision.0,
            changes: Vec::with_capacity(batch.changes.len()),
            bytes: 0,
        };
        for change in batch.changes {
            if is_own(change.key()) {
                continue;
            }
            let was = self.audiences.remove(change.key());
            let is = match &change {
                Change::Put(entry) => Some(rules.audience(&entry.key, &entry.value)),
                Change::Delete { .. } => None,
            };
            if let (Change::Put(entry), Some(audience)) = (&change, &is) {
                told.bytes += entry.value.len();
                self.audiences.insert(entry.key.clone(), audience.clone());
            }
            told.changes.push((change, was, is));
        }
        if told.changes.is_empty() {
            return;
        }
        let told = Arc::new(told);
        self.tell(&told);
        self.history_bytes += told.bytes;
        self.history.push_back(told);
        while self.history.len() > HISTORY || self.history_bytes > HISTORY_BYTES {
            let Some(next) = self.history.get(1).map(|next| next.revision) else {
                break;
            };
            self.forget(next);
        }
    }

    fn tell(&mut self, told: &Told) {
        let audiences = || {
            told.changes
                .iter()
                .flat_map(|(_, was, is)| was.iter().chain(is))
        };
        let peers: HashSet<Peer> = if audiences().any(|audience| *audience == Audience::Everybody) {
            self.listeners.keys().cloned().collect()
        } else {
            let named = audiences().flat_map(|audience| match audience {
                Audience::Peers(names) => &**names,
                Audience::Nobody | Audience::Everybody => &[],
            });
            let named = named.map(|name| Peer::Named(Arc::clone(name)));
            named.chain([Peer::Trusted]).collect()
        };
        for peer in peers {
            self.send(&peer, |view| view.answer(told));
        }
    }

    /// Who is gone, or too slow, is forgotten: the end of its watch tells it to begin anew.
    fn send(&mut self, peer: &Peer, answer: impl Fn(&View) -> Option<WatchResponse>) {
        let Some(listeners) = self.listeners.get_mut(peer) else {
            return;
        };
        listeners.retain(|listener| match answer(&listener.view) {
            Some(answer) => listener.queue.try_send(answer).is_ok(),
            None => !listener.queue.is_closed(),
        });
        if listeners.is_empty() {
            self.listeners.remove(peer);
        }
    }

    fn tell_progress(&mut self, peer: &Peer) {
        let at = self.at;
        self.send(peer, |view| (at > view.after).then(|| progress(at)));
    }

    fn forget(&mut self, before: u64) {
        self.oldest = self.oldest.max(before);
        while let Some(first) = self.history.front()
            && first.revision < before
        {
            self.history_bytes -= first.bytes;
            self.history.pop_front();
        }
    }
}

impl Hub {
    pub(super) fn sees(&self, peer: &Peer, key: &Key) -> bool {
        let state = self.state.lock();
        let audience = state.audiences.get(key);
        audience.is_some_and(|audience| peer.is_among(audience))
    }

    pub(super) fn forget(&self, before: Revision) {
        self.state.lock().forget(before.0);
    }

    /// All watches end, and no others begin.
    pub(super) fn end(&self) {
        let mut state = self.state.lock();
        state.ended = true;
        state.listeners.clear();
    }

    /// Tells `peer` of everything up to `at`.
    pub(super) async fn tell_progress(&self, peer: &Peer, at: Revision) {
        let mut reached = self.reached.subscribe();
        let reached = reached.wait_for(|reached| *reached >= at.0);
        if timeout(PROGRESS_LIMIT, reached).await.is_ok() {
            self.state.lock().tell_progress(peer);
        }
    }

    fn take(&self, rules: &dyn Rules, batch: Batch) {
        let at = batch.revision.0;
        self.state.lock().take(rules, batch);
        self.reached.send_replace(at);
    }

    fn heartbeat(&self) {
        let mut state = self.state.lock();
        let peers: Vec<Peer> = state.listeners.keys().cloned().collect();
        for peer in peers {
            state.tell_progress(&peer);
        }
    }
}

/// Reads who sees what, now.
pub(super) async fn load(shared: &Shared) -> Result<(), StoreError> {
    let page = shared
        .store
        .range(Range::prefix(&Prefix::everything()))
        .await?;
    let audiences = page
        .entries
        .iter()
        .filter(|entry| !is_own(&entry.key))
        .map(|entry| {
            let audience = shared.rules.audience(&entry.key, &entry.value);
            (entry.key.clone(), audience)
        })
        .collect();
    let at = page.revision;
    let mut state = shared.hub.state.lock();
    *state = State {
        audiences,
        oldest: at.next().0,
        at: at.0,
        ended: state.ended,
        ..State::default()
    };
    drop(state);
    shared.hub.reached.send_replace(at.0);
    Ok(())
}

/// Ends the hub with whoever follows the store for it.
struct Following<'a>(&'a Hub);

impl Drop for Following<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Follows the store until it is closed.
pub(super) async fn run(shared: Arc<Shared>) {
    let _following = Following(&shared.hub);
    loop {
        let at = Revision(shared.hub.state.lock().at);
        let failed = match shared.store.watch(Prefix::everything(), at).await {
            Ok(watch) => follow(&shared, watch).await,
            Err(error) => error.into(),
        };
        match failed {
            WatchError::Store(StoreError::Closed) => return,
            WatchError::Store(error) => {
                tracing::warn!(%error, "the gateway can't follow the store");
            }
            WatchError::Compacted { .. } => match load(&shared).await {
                Ok(()) => continue,
                Err(error) => tracing::warn!(%error, "the gateway can't read the store"),
            },
        }
        sleep(REST).await;
    }
}

async fn follow(shared: &Shared, mut watch: crate::Watch) -> WatchError {
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            batch = watch.next() => match batch {
                Ok(batch) => shared.hub.take(&*shared.rules, batch),
                Err(error) => return error,
            },
            _ = heartbeat.tick() => shared.hub.heartbeat(),
        }
    }
}

/// Answers one who watches.
pub(super) async fn watch(
    shared: &Shared,
    peer: &Peer,
    asked: WatchRequest,
) -> Result<BoxStream<'static, Result<WatchResponse, Status>>, Status> {
    let asked = asked
        .create
        .ok_or_else(|| Status::invalid_argument("a watch begins with a create_request"))?;
    let bounds = shared.keys.bounds(&asked.key, &asked.range_end);
    let (from, to) =
        bounds.ok_or_else(|| Status::invalid_argument("that is no range of documents"))?;
    let first = u64::try_from(asked.start_revision)
        .ok()
        .filter(|first| *first > 0)
        .ok_or_else(|| status::unusual("a watch that names no revision to begin at"))?;
    let view = View {
        peer: peer.clone(),
        keys: shared.keys.clone(),
        from,
        to,
        after: first - 1,
    };
    let mut state = shared.hub.state.lock();
    if state.ended {
        return Err(status::of(&StoreError::Closed));
    }
    let created = WatchResponse {
        created: true,
        ..progress(state.at)
    };
    if first < state.oldest {
        let gone = WatchResponse {
            canceled: true,
            compact_revision: number(Revision(state.oldest)),
            ..progress(state.at)
        };
        return Ok(stream::iter([Ok(created), Ok(gone)]).boxed());
    }
    let mut past = vec![created];
    let begin = state.history.partition_point(|told| told.revision < first);
    past.extend(
        state
            .history
            .range(begin..)
            .filter_map(|told| view.answer(told)),
    );
    if state.at > view.after {
        past.push(progress(state.at));
    }
    let (queue, mut waiting) = mpsc::channel(QUEUE);
    state
        .listeners
        .entry(peer.clone())
        .or_default()
        .push(Listener { view, queue });
    drop(state);
    let coming = stream::poll_fn(move |context| waiting.poll_recv(context));
    Ok(stream::iter(past).chain(coming).map(Ok).boxed())
}
