//! When leases end. What they are is in the database; how long they still live is only here.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::LeaseId;

/// How long the end of a lease that could not be written (full disk) waits for the next try.
const RETRY: Duration = Duration::from_secs(1);

/// The clocks of all leases. Shared by callers that keep alive and the writer, which ends leases.
#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<Clocks>);

#[derive(Debug, Default)]
struct Clocks {
    clocks: HashMap<LeaseId, Clock>,
    /// The same by what comes next.
    queue: BTreeSet<(Instant, LeaseId)>,
}

#[derive(Debug)]
struct Clock {
    ttl: Duration,
    due: Instant,
    /// Its time was up once: nothing brings it back.
    ending: bool,
}

impl Leases {
    /// Start the clock of a lease.
    pub(super) fn start(&self, lease: LeaseId, ttl: Duration) {
        let due = Instant::now() + ttl;
        let mut inner = self.0.lock();
        inner.clocks.insert(
            lease,
            Clock {
                ttl,
                due,
                ending: false,
            },
        );
        inner.queue.insert((due, lease));
    }

    /// Start the clock anew; `None` if the lease is not there or has ended.
    pub(super) fn keep_alive(&self, lease: LeaseId) -> Option<Duration> {
        let mut inner = self.0.lock();
        let Clocks { clocks, queue } = &mut *inner;
        let now = Instant::now();
        let clock = clocks
            .get_mut(&lease)
            .filter(|clock| !clock.ending && clock.due > now)?;
        queue.remove(&(clock.due, lease));
        clock.due = now + clock.ttl;
        queue.insert((clock.due, lease));
        Some(clock.ttl)
    }

    /// Forget a lease whose end is durable.
    pub(super) fn stop(&self, lease: LeaseId) {
        let mut inner = self.0.lock();
        if let Some(clock) = inner.clocks.remove(&lease) {
            inner.queue.remove(&(clock.due, lease));
        }
    }

    /// Whether it may still be used.
    pub(super) fn alive(&self, lease: LeaseId) -> bool {
        self.0
            .lock()
            .clocks
            .get(&lease)
            .is_some_and(|clock| !clock.ending)
    }

    /// When the next one is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.0.lock().queue.first().map(|(due, _)| *due)
    }

    /// The leases whose time is up; from now on nothing keeps them alive. Until [`stop`](Self::stop) says that the end
    /// is written, each is handed out again after a while.
    pub(super) fn take_due(&self) -> Vec<LeaseId> {
        let mut inner = self.0.lock();
        let Clocks { clocks, queue } = &mut *inner;
        let now = Instant::now();
        let mut ended = Vec::new();
        while let Some(&(due, lease)) = queue.first().filter(|(due, _)| *due <= now) {
            queue.remove(&(due, lease));
            if let Some(clock) = clocks.get_mut(&lease) {
                clock.ending = true;
                clock.due = now + RETRY;
                queue.insert((clock.due, lease));
                ended.push(lease);
            }
        }
        ended
    }
}
