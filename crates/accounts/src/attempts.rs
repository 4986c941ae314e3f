//! Failed logins: who fails often from one place has to wait, longer each time.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Failures that cost nothing.
const FREE: u32 = 5;
/// The first wait; each further failure doubles it.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// After so long without a failure all is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(900);
/// Pairs of user and address that are watched at once.
const PAIRS_AT_MOST: usize = 10_000;

#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
    blocked_until: Instant,
}

/// The table of failures. Names are kept hashed, so that long ones cost no memory.
pub(crate) struct Attempts {
    hasher: RandomState,
    failures: Mutex<HashMap<u64, Failures>>,
}

impl Attempts {
    pub(crate) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            failures: Mutex::default(),
        }
    }

    fn key(&self, login: &str, address: Option<IpAddr>) -> u64 {
        // One IPv6 customer has a whole /64.
        let network = match address {
            Some(IpAddr::V6(v6)) => Some(IpAddr::V6((u128::from(v6) >> 64 << 64).into())),
            other => other,
        };
        self.hasher.hash_one((login, network))
    }

    /// How long this user has to wait at this address; `None`: not at all.
    pub(crate) fn wait(
        &self,
        login: &str,
        address: Option<IpAddr>,
        now: Instant,
    ) -> Option<Duration> {
        let failures = self.failures.lock();
        let until = failures.get(&self.key(login, address))?.blocked_until;
        until.checked_duration_since(now).filter(|d| !d.is_zero())
    }

    /// Counts a failure.
    pub(crate) fn failed(&self, login: &str, address: Option<IpAddr>, now: Instant) {
        let key = self.key(login, address);
        let mut failures = self.failures.lock();
        if failures.len() >= PAIRS_AT_MOST && !failures.contains_key(&key) {
            make_room(&mut failures, now);
        }
        let entry = failures.entry(key).or_insert(Failures {
            count: 0,
            last: now,
            blocked_until: now,
        });
        if now.saturating_duration_since(entry.last) > FORGOTTEN_AFTER {
            entry.count = 0;
        }
        entry.count = entry.count.saturating_add(1);
        entry.last = now;
        if entry.count >= FREE {
            let doublings = (entry.count - FREE).min(16);
            entry.blocked_until = now + (FIRST_WAIT * (1 << doublings)).min(LONGEST_WAIT);
        }
    }

    /// Forgets the failures after a success.
    pub(crate) fn succeeded(&self, login: &str, address: Option<IpAddr>) {
        self.failures.lock().remove(&self.key(login, address));
    }
}

/// Drops what is forgotten anyway, else the half that is quiet for longest.
fn make_room(failures: &mut HashMap<u64, Failures>, now: Instant) {
    failures.retain(|_, f| now.saturating_duration_since(f.last) <= FORGOTTEN_AFTER);
    if failures.len() < PAIRS_AT_MOST {
        return;
    }
    let mut times: Vec<Instant> = failures.values().map(|f| f.last).collect();
    let middle = times.len() / 2;
    let (_, median, _) = times.select_nth_unstable(middle);
    let median = *median;
    failures.retain(|_, f| f.last > median);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_by_user_and_address_and_end_with_a_success() {
        let attempts = Attempts::new();
        let here = Some(IpAddr::from([192, 0, 2, 1]));
        let there = Some(IpAddr::from([192, 0, 2, 2]));
        let now = Instant::now();
        for _ in 1..FREE {
            attempts.failed("a", here, now);
            assert_eq!(attempts.wait("a", here, now), None);
        }
        attempts.failed("a", here, now);
        assert_eq!(attempts.wait("a", here, now), Some(FIRST_WAIT));
        assert_eq!(attempts.wait("a", there, now), None);
        assert_eq!(attempts.wait("b", here, now), None);
        for _ in 0..40 {
            attempts.failed("a", here, now);
        }
        assert_eq!(attempts.wait("a", here, now), Some(LONGEST_WAIT));
        assert_eq!(attempts.wait("a", here, now + LONGEST_WAIT), None);
        attempts.succeeded("a", here);
        assert_eq!(attempts.wait("a", here, now), None);
    }

    #[test]
    fn the_table_is_bounded() {
        let attempts = Attempts::new();
        let now = Instant::now();
        for n in 0..3 * PAIRS_AT_MOST {
            let later = now + Duration::from_micros(n as u64);
            attempts.failed(&n.to_string(), None, later);
        }
        assert!(attempts.failures.lock().len() <= PAIRS_AT_MOST);
    }
}
