//! How much peers by name write, and ask at once, so that one that is taken over doesn't take the store from the others, nor
//! their entry's memory.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tonic::Status;

use super::{Peer, status};
use crate::MAX_TRANSACTION_BYTES;

/// Writes, and bytes of them: so much a second, and so much at once after having been quiet.
const WRITES: Rate = Rate {
    a_second: 50.0,
    at_once: 500.0,
};
const BYTES: Rate = Rate {
    a_second: (1 << 20) as f64,
    at_once: (8 * MAX_TRANSACTION_BYTES) as f64,
};
/// Calls that are answered at once, from the first byte of the question to the last of the answer: each has a few MiB in memory.
/// More of them wait.
const CALLS: usize = 16;

struct Rate {
    a_second: f64,
    at_once: f64,
}

/// Of all peers by name. They are few, and known: whoever makes a gateway has seen to that.
#[derive(Default)]
pub(super) struct Allowances(Mutex<HashMap<Arc<str>, Arc<Allowance>>>);

/// Of one.
pub(super) struct Allowance {
    left: Mutex<Left>,
    calls: Arc<Semaphore>,
    /// Held while it gets a lease.
    pub(super) granting: tokio::sync::Mutex<()>,
}

struct Left {
    writes: f64,
    bytes: f64,
    at: Instant,
}

impl Allowances {
    pub(super) fn of(&self, name: &Arc<str>) -> Arc<Allowance> {
        let mut all = self.0.lock();
        Arc::clone(all.entry(Arc::clone(name)).or_insert_with(|| {
            Arc::new(Allowance {
                left: Mutex::new(Left::all(Instant::now())),
                calls: Arc::new(Semaphore::new(CALLS)),
                granting: tokio::sync::Mutex::default(),
            })
        }))
    }

    /// Waits for the turn of a call of `peer`.
    pub(super) async fn turn(&self, peer: &Peer) -> Option<OwnedSemaphorePermit> {
        let Peer::Named(name) = peer else {
            return None;
        };
        let calls = Arc::clone(&self.of(name).calls);
        // Closed never.
        calls.acquire_owned().await.ok()
    }

    /// Takes a write of so many bytes from what `peer` has left.
    ///
    /// # Errors
    /// If it has too little; nothing is taken then. What it wanted it can do later.
    pub(super) fn spend(&self, peer: &Peer, bytes: usize) -> Result<(), Status> {
        match peer {
            Peer::Named(name) => self.of(name).spend(bytes),
            Peer::Trusted => Ok(()),
        }
    }
}

impl Allowance {
    /// See [`Allowances::spend`].
    pub(super) fn spend(&self, bytes: usize) -> Result<(), Status> {
        if self.left.lock().take(bytes, Instant::now()) {
            return Ok(());
        }
        Err(status::too_many(&format!(
            "{} writes a second are taken, and {} KiB",
            WRITES.a_second,
            BYTES.a_second / 1024.0
        )))
    }
}

impl Left {
    const fn all(at: Instant) -> Self {
        Self {
            writes: WRITES.at_once,
            bytes: BYTES.at_once,
            at,
        }
    }

    fn take(&mut self, bytes: usize, now: Instant) -> bool {
        let time = now.saturating_duration_since(self.at).as_secs_f64();
        let (writes, size) = (1.0, bytes as f64);
        self.writes = WRITES.after(self.writes, time);
        self.bytes = BYTES.after(self.bytes, time);
        self.at = now;
        let is_enough = self.writes >= writes && self.bytes >= size;
        if is_enough {
            self.writes -= writes;
            self.bytes -= size;
        }
        is_enough
    }
}

impl Rate {
    fn after(&self, left: f64, seconds: f64) -> f64 {
        (left + seconds * self.a_second).min(self.at_once)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_was_quiet_may_write_much_at_once_and_then_so_much_a_second() {
        let begun = Instant::now();
        let mut left = Left::all(begun);
        let mut taken = |bytes, seconds| {
            let now = begun + Duration::from_secs(seconds);
            (0..10_000).filter(|_| left.take(bytes, now)).count()
        };
        assert_eq!(taken(0, 0), 500);
        assert_eq!(taken(0, 1), 50);
        assert_eq!(taken(0, 1000), 500, "no more, however long it was quiet");
        assert_eq!(taken(MAX_TRANSACTION_BYTES, 2000), 8);
        let largest = MAX_TRANSACTION_BYTES as f64 / BYTES.a_second;
        assert!(
            largest < 10.0,
            "the largest is written at some time: {largest}"
        );
    }
}
