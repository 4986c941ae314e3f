//! What lies between a daemon and the store: it is slow, loses answers, lets what was sent arrive late, and is cut.

use std::{ops::Range as Between, sync::Arc, time::Duration};

use async_trait::async_trait;
use cimi::HostId;
use futures::FutureExt as _;
use parking_lot::Mutex;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use store::{
    Batch, Entry, Key, LeaseId, Outcome, Page, Prefix, Range, Revision, Store, StoreError,
    Transaction, Watch, WatchError, WatchSource,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until, timeout_at},
};

use crate::{
    clock,
    fuse::Fuse,
    gate::Gate,
    store::{Follower, MemoryStore},
};

/// How long a call is tried, as by a host or an entry.
const CALL_LIMIT: Duration = Duration::from_secs(4);
/// How much later than its sender gave up what was sent may arrive.
const LATE: Between<u64> = 10..8_000;
/// After how long of news for others a host is told how far the store is.
const SILENT_FOR: Duration = Duration::from_millis(20);

/// A daemon's way to the store. It outlives the daemon.
pub struct Wire {
    state: Mutex<State>,
    changed: Notify,
    /// Writes that are still on their way though nobody waits for them, and when they arrive.
    late: Mutex<Vec<(Duration, Transaction)>>,
    store: MemoryStore,
    /// What reads and writes come by, and as whose; none: those of who has all documents.
    gate: Option<(Arc<Gate>, String)>,
}

struct State {
    is_cut: bool,
    /// Of a thousand writes, those whose answer is lost, and as many that arrive late.
    lost: u32,
    /// Of a message, in milliseconds.
    takes: Between<u64>,
    rng: StdRng,
}

impl Wire {
    /// A whole one.
    #[must_use]
    pub fn new(store: MemoryStore, seed: u64) -> Arc<Self> {
        Self::by(store, seed, None)
    }

    /// A host's: what this one sees and writes comes by the door.
    #[must_use]
    pub fn of_host(
        store: MemoryStore,
        seed: u64,
        (gate, host): (&Arc<Gate>, &HostId),
    ) -> Arc<Self> {
        Self::by(store, seed, Some((gate.clone(), host.local().to_owned())))
    }

    fn by(store: MemoryStore, seed: u64, gate: Option<(Arc<Gate>, String)>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                is_cut: false,
                lost: 0,
                takes: 0..3,
                rng: StdRng::seed_from_u64(seed),
            }),
            changed: Notify::new(),
            late: Mutex::default(),
            store,
            gate,
        })
    }

    /// Cuts it, or mends it.
    pub fn cut(&self, cut: bool) {
        self.state.lock().is_cut = cut;
        self.changed.notify_waiters();
    }

    /// Whether it is cut.
    pub fn is_cut(&self) -> bool {
        self.state.lock().is_cut
    }

    /// So many of a thousand writes lose their answer from now on, and messages take so many milliseconds.
    pub fn worsen(&self, lost: u32, takes: Between<u64>) {
        let mut state = self.state.lock();
        (state.lost, state.takes) = (lost, takes);
    }

    /// Has what is late arrive.
    pub fn deliver(&self, now: Duration) {
        let due: Vec<_> = {
            let mut late = self.late.lock();
            late.extract_if(.., |(at, _)| *at <= now).collect()
        };
        for (_, transaction) in due {
            // Nobody waits for the answer.
            match &self.gate {
                Some((gate, host)) => drop(gate.ask(host, transaction)),
                None => drop(self.store.write(&transaction)),
            }
        }
    }

    /// One message's way.
    async fn pass(&self) {
        let takes = self.takes();
        if takes > 0 {
            sleep(Duration::from_millis(takes)).await;
        }
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !self.is_cut() {
                return;
            }
            changed.await;
        }
    }

    fn takes(&self) -> u64 {
        let mut state = self.state.lock();
        let between = state.takes.clone();
        state.rng.random_range(between)
    }

    fn is_lost(&self) -> bool {
        let mut state = self.state.lock();
        let lost = state.lost;
        state.rng.random_range(0..1000) < lost
    }
}

/// The store at the other end of a wire. It ends with its daemon.
pub struct Link(Arc<Wire>, Arc<Fuse>);

impl Link {
    /// By this wire, for a daemon that dies with this.
    #[must_use]
    pub const fn new(wire: Arc<Wire>, fuse: Arc<Fuse>) -> Self {
        Self(wire, fuse)
    }

    /// The dead send nothing.
    async fn is_alive(&self) {
        if self.1.is_blown() {
            std::future::pending::<()>().await;
        }
    }

    async fn call<T>(
        &self,
        doing: &'static str,
        changes: bool,
        work: impl FnOnce(&MemoryStore) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let store = &self.0.store;
        self.call_to(doing, changes, async { work(store) }).await
    }

    /// The same of what takes its time at the other end.
    async fn call_to<T>(
        &self,
        doing: &'static str,
        changes: bool,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.is_alive().await;
        let until = Instant::now() + CALL_LIMIT;
        if timeout_at(until, self.0.pass()).await.is_err() {
            return Err(unheard(doing));
        }
        let Ok(done) = timeout_at(until, work).await else {
            return Err(in_doubt(doing));
        };
        let is_lost = changes && self.0.is_lost();
        if is_lost || timeout_at(until, self.0.pass()).await.is_err() {
            sleep_until(until).await;
            return Err(if changes {
                in_doubt(doing)
            } else {
                unheard(doing)
            });
        }
        done
    }
}

fn unheard(doing: &'static str) -> StoreError {
    StoreError::Unavailable {
        endpoints: "the wire".to_owned(),
        doing,
        reason: "it is cut".to_owned(),
    }
}

fn in_doubt(doing: &'static str) -> StoreError {
    StoreError::InDoubt {
        endpoints: "the wire".to_owned(),
        doing,
        reason: "the answer is lost".to_owned(),
    }
}

#[async_trait]
impl Store for Link {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let read = |store: &MemoryStore| match &self.0.gate {
            Some((gate, host)) => gate.read(host, key),
            None => store.read(key),
        };
        self.call("reading", false, read).await
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        let read = |store: &MemoryStore| match &self.0.gate {
            Some((gate, host)) => gate.page(host, &range),
            None => store.page(&range),
        };
        self.call("reading", false, read).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        self.is_alive().await;
        if self.0.is_lost() {
            let until = Instant::now() + CALL_LIMIT;
            let after = self.0.state.lock().rng.random_range(LATE);
            let at = clock::passed() + Duration::from_millis(after);
            self.0.late.lock().push((at, transaction));
            sleep_until(until).await;
            return Err(in_doubt("a transaction"));
        }
        let work = async {
            match &self.0.gate {
                Some((gate, host)) => {
                    let answered = gate.ask(host, transaction).await;
                    answered.unwrap_or_else(|_| Err(in_doubt("a transaction")))
                }
                None => self.0.store.write(&transaction),
            }
        };
        self.call_to("a transaction", true, work).await
    }

    async fn watch(&self, prefix: Prefix, after: Revision) -> Result<Watch, StoreError> {
        self.call("watching", false, |_| Ok(())).await?;
        let near = match &self.0.gate {
            Some((gate, host)) => Near::Seen(SeenFollower {
                gate: gate.clone(),
                host: host.clone(),
                prefix,
                position: after,
                silent_since: None,
                news: self.0.store.news(),
            }),
            None => Near::All(self.0.store.follow(prefix, after)),
        };
        Ok(Watch::new(FarFollower {
            near,
            wire: self.0.clone(),
            coming: None,
            arrives: Duration::ZERO,
        }))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.call("a lease", true, |store| store.lend(ttl, clock::passed()))
            .await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, StoreError> {
        self.call("a lease", false, |store| {
            store.prolong(lease, clock::passed())
        })
        .await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.call("a lease", true, |store| store.end_lease(lease))
            .await
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        self.call("compaction", true, |store| store.forget(before))
            .await
    }

    fn trouble(&self) -> Option<StoreError> {
        None
    }

    /// What is of the daemon ends with it; the store is for all.
    async fn close(&self) {}
}

/// A watch at the store.
enum Near {
    All(Follower),
    Seen(SeenFollower),
}

impl Near {
    async fn next(&mut self) -> Result<Batch, WatchError> {
        match self {
            Self::All(all) => all.next().await,
            Self::Seen(seen) => seen.next().await,
        }
    }
}

/// A watch of what a host sees.
struct SeenFollower {
    gate: Arc<Gate>,
    host: String,
    prefix: Prefix,
    position: Revision,
    /// From when on there was news for others only.
    silent_since: Option<Instant>,
    news: watch::Receiver<(Revision, bool)>,
}

impl SeenFollower {
    /// What happened, or that nothing did that it sees: of that it is told, too, a moment later.
    async fn next(&mut self) -> Result<Batch, WatchError> {
        loop {
            let (_, is_open) = *self.news.borrow_and_update();
            let (batch, looked) = self.gate.after(self.position, &self.host, &self.prefix)?;
            if batch.is_some() || looked <= self.position {
                self.silent_since = None;
            }
            if let Some(batch) = batch {
                self.position = batch.revision;
                return Ok(batch);
            }
            let told = match looked > self.position {
                true => Some(*self.silent_since.get_or_insert_with(Instant::now) + SILENT_FOR),
                false => None,
            };
            if told.is_some_and(|told| told <= Instant::now()) {
                (self.position, self.silent_since) = (looked, None);
                let (revision, changes) = (looked, Vec::new());
                return Ok(Batch { revision, changes });
            }
            if !is_open {
                return Err(StoreError::Closed.into());
            }
            let told = async {
                match told {
                    Some(told) => sleep_until(told).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                changed = self.news.changed() => if changed.is_err() {
                    return Err(StoreError::Closed.into());
                },
                () = told => {}
            }
        }
    }
}

/// A watch at the other end of a wire.
struct FarFollower {
    near: Near,
    wire: Arc<Wire>,
    /// What is on its way, kept here lest it is lost when nobody waits for a moment.
    coming: Option<Batch>,
    arrives: Duration,
}

#[async_trait]
impl WatchSource for FarFollower {
    async fn next(&mut self) -> Result<Batch, WatchError> {
        if self.coming.is_none() {
            // What is sent in one go arrives in one go.
            let (batch, takes) = match self.near.next().now_or_never() {
                Some(batch) => (batch?, 0),
                None => (self.near.next().await?, self.wire.takes()),
            };
            self.arrives = clock::passed() + Duration::from_millis(takes);
            self.coming = Some(batch);
        }
        let left = self.arrives.saturating_sub(clock::passed());
        if !left.is_zero() {
            sleep(left).await;
        }
        if self.wire.is_cut() {
            self.wire.pass().await;
            return Err(unheard("watching").into());
        }
        self.coming.take().ok_or_else(|| unheard("watching").into())
    }
}
