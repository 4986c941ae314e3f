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
use super::index::Index;
use super::sight::{Changed, Sight};
use super::told::{News, Told, put};
use super::{Audience, Peer, Rules, Shared, leases, status};
use crate::etcd::keyspace::{Keyspace, lease_number, number};
use crate::etcd::wire::{Event, Header, KeyValue, WatchRequest, WatchResponse};
use crate::{Batch, Entry, Key, Prefix, Range, Revision, StoreError, WatchError};

/// What is remembered: so many transactions, and so many bytes of documents.
const HISTORY: usize = 20_000;
const HISTORY_BYTES: usize = 64 << 20;
/// Answers that may wait for one who watches. Whoever is slower begins anew, from the history.
const QUEUE: usize = 1024;
/// Watches of one peer by name: a store has one. Of more, the oldest ends, whose peer may be gone.
const WATCHES: usize = 64;
/// Answers that are made before they are taken, and how long a peer may take none, before its watch ends: what waits for it is
/// kept in memory.
const AHEAD: usize = 8;
const UNREAD: Duration = Duration::from_secs(60);
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
    sight: Sight,
    /// Leases of peers, by the documents that say whose they are.
    leases: Index,
    history: VecDeque<Arc<Told>>,
    history_bytes: usize,
    /// The first revision whose changes are remembered.
    oldest: u64,
    /// The last that was told.
    at: u64,
    listeners: HashMap<Peer, Vec<Listener>>,
    ended: bool,
}

struct Listener {
    view: Arc<View>,
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

/// What a peer by name sees, from one text up to another.
type Seen<'a> = (&'a str, &'a str, Option<&'a str>);

/// A document, and what was written of it lately, if anything was.
type Last = (Key, Option<Entry>);

impl View {
    fn answer(&self, told: &Told) -> Option<WatchResponse> {
        if told.revision <= self.after {
            return None;
        }
        let events: Vec<Event> = told
            .changes
            .iter()
            .filter_map(|(news, who)| self.event(news, who, told))
            .collect();
        (!events.is_empty()).then(|| WatchResponse {
            events,
            ..progress(told.revision)
        })
    }

    /// Whether there may be something in it to tell.
    fn concerns(&self, told: &Told) -> bool {
        told.revision > self.after && told.concerns(&self.peer)
    }

    fn event(&self, news: &News, who: &Changed, told: &Told) -> Option<Event> {
        let key = news.key().as_str();
        let inside = *self.from <= *key && self.to.as_deref().is_none_or(|to| key < to);
        let now = news.told_to(&self.peer, who).filter(|_| inside)?;
        let mut kv = KeyValue {
            key: self.keys.key(news.key()),
            mod_revision: number(Revision(told.revision)),
            ..KeyValue::default()
        };
        let kind = match now {
            Some(entry) => {
                kv.create_revision = number(entry.created);
                kv.value = entry.value.clone();
                kv.lease = entry.lease.map_or(0, lease_number);
                Event::PUT
            }
            None => Event::DELETE,
        };
        Some(Event { kind, kv: Some(kv) })
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
    /// A batch of the store becomes a piece of history, and is told. `gained` are the documents that it brings into sight.
    fn take(&mut self, rules: &dyn Rules, mut batch: Batch, gained: HashMap<Key, Entry>) {
        self.at = batch.revision.0;
        for own in batch.changes.extract_if(.., |one| is_own(one.key())) {
            let owner = put(&own).and_then(leases::owner);
            self.leases.set(own.key(), owner.as_ref());
        }
        let told = Told::of(batch, &mut self.sight, rules, gained);
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
                .flat_map(|(_, who)| who.was.iter().chain(&who.is))
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

    fn listen(&mut self, listener: Listener) {
        let peer = &listener.view.peer;
        let all = self.listeners.entry(peer.clone()).or_default();
        if matches!(peer, Peer::Named(_)) && all.len() >= WATCHES {
            all.retain(|other| !other.queue.is_closed());
            all.drain(..(all.len() + 1).saturating_sub(WATCHES));
        }
        all.push(listener);
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
        peer.is_in(self.state.lock().sight.audience(key).as_ref())
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

    /// Waits until everything up to `at` is known here; whether it is.
    pub(super) async fn reach(&self, at: Revision) -> bool {
        let mut reached = self.reached.subscribe();
        let reached = reached.wait_for(|reached| *reached >= at.0);
        matches!(timeout(PROGRESS_LIMIT, reached).await, Ok(Ok(_)))
    }

    /// Tells `peer` of everything up to `at`.
    pub(super) async fn tell_progress(&self, peer: &Peer, at: Revision) {
        if self.reach(at).await {
            self.state.lock().tell_progress(peer);
        }
    }

    /// What a peer by name sees from one text up to another, in order, and when.
    pub(super) fn seen_by(&self, (name, from, to): Seen<'_>) -> (Revision, Vec<Key>) {
        let state = self.state.lock();
        (Revision(state.at), state.sight.between(name, from, to))
    }

    /// As [`seen_by`](Self::seen_by), each with what was written of it after `since`, if anything was; none if that isn't
    /// remembered any more.
    pub(super) fn written_since(
        &self,
        since: Revision,
        (name, from, to): Seen<'_>,
    ) -> Option<(Revision, Vec<Last>)> {
        let state = self.state.lock();
        if state.oldest > since.next().0 {
            return None;
        }
        let begin = state
            .history
            .partition_point(|told| told.revision <= since.0);
        let mut written = HashMap::new();
        for (news, _) in state.history.range(begin..).flat_map(|told| &told.changes) {
            if let News::Written(change) = news {
                written.insert(change.key(), put(change));
            }
        }
        let seen = state.sight.between(name, from, to).into_iter();
        let seen = seen.map(|key| {
            let last = written.get(&key).copied().flatten().cloned();
            (key, last)
        });
        Some((Revision(state.at), seen.collect()))
    }

    /// How many leases a peer by name has.
    pub(super) fn leases_of(&self, name: &str) -> usize {
        self.state.lock().leases.count_of(name)
    }

    /// Takes in what happened, with what it brings into somebody's sight.
    async fn take(&self, shared: &Shared, batch: Batch) -> Result<(), StoreError> {
        let rules = &*shared.rules;
        let keys = {
            let written = batch.changes.iter().filter_map(put);
            let written = written.filter(|entry| !is_own(&entry.key));
            self.state.lock().sight.gained(rules, written)
        };
        let mut gained = HashMap::new();
        for key in keys {
            // It may be newer than the batch: what happened to it since is told once more, later.
            if let Some(entry) = shared.store.get(&key).await? {
                gained.insert(key, entry);
            }
        }
        let at = batch.revision.0;
        self.state.lock().take(rules, batch, gained);
        self.reached.send_replace(at);
        Ok(())
    }

    /// See [`Sight::is_referred`].
    pub(super) fn is_referred(&self, key: &Key, name: &str) -> bool {
        self.state.lock().sight.is_referred(key, name)
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
    let (mut entries, mut leases) = (page.entries, Index::default());
    for own in entries.extract_if(.., |entry| is_own(&entry.key)) {
        leases.set(&own.key, leases::owner(&own).as_ref());
    }
    let sight = Sight::of(&*shared.rules, &entries);
    let at = page.revision;
    let mut state = shared.hub.state.lock();
    *state = State {
        sight,
        leases,
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
                Ok(batch) => if let Err(error) = shared.hub.take(shared, batch).await {
                    return error.into();
                },
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
    let begin = state.history.partition_point(|told| told.revision < first);
    let past = state.history.range(begin..);
    let past = past.filter(|told| view.concerns(told)).cloned().collect();
    let at = (state.at > view.after).then(|| progress(state.at));
    let view = Arc::new(view);
    let (queue, coming) = mpsc::channel(QUEUE);
    state.listen(Listener {
        view: Arc::clone(&view),
        queue,
    });
    drop(state);
    let (tell, mut told) = mpsc::channel(AHEAD);
    // Ends with who watches, or when that takes nothing.
    tokio::spawn(async move {
        tokio::select! {
            () = tell.closed() => {}
            () = tell_all((&tell, UNREAD), created, &view, past, at, coming) => {}
        }
    });
    let told = stream::poll_fn(move |context| told.poll_recv(context));
    Ok(told.map(Ok).boxed())
}

/// Tells who watches what was, and what comes.
async fn tell_all(
    (tell, patience): (&mpsc::Sender<WatchResponse>, Duration),
    created: WatchResponse,
    view: &View,
    past: VecDeque<Arc<Told>>,
    at: Option<WatchResponse>,
    mut coming: mpsc::Receiver<WatchResponse>,
) {
    let told = async |answer| matches!(timeout(patience, tell.send(answer)).await, Ok(Ok(())));
    if !told(created).await {
        return;
    }
    // Of what waits, there is the answer when it is its turn, and the piece of history until then.
    for one in past {
        if let Some(answer) = view.answer(&one)
            && !told(answer).await
        {
            return;
        }
    }
    if let Some(at) = at
        && !told(at).await
    {
        return;
    }
    while let Some(answer) = coming.recv().await {
        if !told(answer).await {
            return;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test that panics has failed
mod tests {
    use super::*;
    use crate::Change;

    fn view(peer: Peer) -> Arc<View> {
        Arc::new(View {
            peer,
            keys: Keyspace::new("stratus").unwrap(),
            from: String::new(),
            to: None,
            after: 0,
        })
    }

    fn named() -> Peer {
        Peer::Named("one".into())
    }

    #[test]
    fn of_too_many_watches_of_one_peer_the_oldest_end() {
        let mut state = State::default();
        let mut begin = |peer: Peer| {
            let (queue, coming) = mpsc::channel(1);
            let view = view(peer);
            state.listen(Listener { view, queue });
            coming
        };
        let trusted: Vec<_> = (0..=WATCHES).map(|_| begin(Peer::Trusted)).collect();
        let mut all: VecDeque<_> = (0..WATCHES).map(|_| begin(named())).collect();
        // One that its peer ended makes room.
        all.pop_back();
        all.extend((0..3).map(|_| begin(named())));
        let ended = |coming: &&mpsc::Receiver<WatchResponse>| coming.is_closed();
        assert_eq!(all.iter().filter(ended).count(), 2);
        assert!(all.iter().take(2).all(mpsc::Receiver::is_closed));
        assert_eq!(trusted.iter().filter(ended).count(), 0);
    }

    #[tokio::test]
    async fn who_takes_nothing_is_told_nothing_more_and_nothing_is_kept_for_it() {
        let told = Arc::new(Told {
            revision: 1,
            changes: vec![(
                News::Written(Change::Delete {
                    key: "n/1".parse().unwrap(),
                }),
                Changed {
                    was: Some(Audience::Everybody),
                    is: None,
                },
            )],
            bytes: 0,
        });
        let view = view(named());
        assert!(view.concerns(&told) && view.answer(&told).is_some());
        let (tell, mut taken) = mpsc::channel(AHEAD);
        let (_queue, coming) = mpsc::channel(1);
        let past: VecDeque<_> = (0..100).map(|_| Arc::clone(&told)).collect();
        let patience = Duration::from_millis(20);
        tell_all((&tell, patience), progress(1), &view, past, None, coming).await;
        drop(tell);
        let mut answers = 0;
        while taken.recv().await.is_some() {
            answers += 1;
        }
        assert_eq!(answers, AHEAD);
        assert_eq!(Arc::strong_count(&told), 1);
    }
}
