//! Failed logins: who fails often from one place has to wait, longer each time. So does a place from which very many
//! fail under whatever names.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::hashing::network_of;

/// Failures that cost nothing.
const FREE: u32 = 5;
/// The first wait; each further failure doubles it.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Failures of one address under any names that cost nothing: many people may be behind it.
const FREE_OF_ADDRESS: u32 = 100;
/// The longest wait of a whole address, for the same reason.
const LONGEST_WAIT_OF_ADDRESS: Duration = Duration::from_secs(30);
/// After so long without a failure all is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(900);
/// Addresses, and pairs of user and address, that are watched at once.
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

    fn keys(&self, login: &str, address: Option<IpAddr>) -> (u64, Option<u64>) {
        let network = address.map(network_of);
        let of_address = network.map(|network| self.hasher.hash_one(network));
        // Directories have one user for all spellings of a name.
        let login = login.trim().to_lowercase();
        (self.hasher.hash_one((login, network)), of_address)
    }

    /// How long this user has to wait at this address; `None`: not at all.
    pub(crate) fn wait(
        &self,
        login: &str,
        address: Option<IpAddr>,
        now: Instant,
    ) -> Option<Duration> {
        let (pair, of_address) = self.keys(login, address);
        let failures = self.failures.lock();
        let wait = |key: &u64| {
            let until = failures.get(key)?.blocked_until;
            until.checked_duration_since(now).filter(|d| !d.is_zero())
        };
        wait(&pair).max(of_address.as_ref().and_then(wait))
    }

    /// Counts a failure.
    pub(crate) fn failed(&self, login: &str, address: Option<IpAddr>, now: Instant) {
        let (pair, of_address) = self.keys(login, address);
        let mut failures = self.failures.lock();
        count(&mut failures, pair, now, FREE, LONGEST_WAIT);
        if let Some(key) = of_address {
            let (free, longest) = (FREE_OF_ADDRESS, LONGEST_WAIT_OF_ADDRESS);
            count(&mut failures, key, now, free, longest);
        }
    }

    /// Forgets the user's failures after a success. Those of the address stay: who has an account could otherwise
    /// guess others' for ever.
    pub(crate) fn succeeded(&self, login: &str, address: Option<IpAddr>) {
        let (pair, _) = self.keys(login, address);
        self.failures.lock().remove(&pair);
    }
}

fn count(
    failures: &mut HashMap<u64, Failures>,
    key: u64,
    now: Instant,
    free: u32,
    longest: Duration,
) {
    if failures.len() >= PAIRS_AT_MOST && !failures.contains_key(&key) {
        make_room(failures, now);
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
    if entry.count >= free {
        let doublings = (entry.count - free).min(16);
        entry.blocked_until = now + (FIRST_WAIT * (1 << doublings)).min(longest);
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
        for _ in 0..20 {
            attempts.failed("a", here, now);
        }
        assert_eq!(attempts.wait("a", here, now), Some(LONGEST_WAIT));
        assert_eq!(attempts.wait("a", here, now + LONGEST_WAIT), None);
        assert_eq!(attempts.wait(" A", here, now), Some(LONGEST_WAIT));
        attempts.succeeded("a", here);
        assert_eq!(attempts.wait("a", here, now), None);
    }

    #[test]
    fn an_address_that_tries_many_names_has_to_wait() {
        let attempts = Attempts::new();
        let (here, there) = (
            Some("2001:db8::1".parse().unwrap()),
            Some("2001:db8:0:1::1".parse().unwrap()),
        );
        let now = Instant::now();
        for n in 1..FREE_OF_ADDRESS {
            attempts.failed(&n.to_string(), here, now);
        }
        assert_eq!(attempts.wait("new", here, now), None);
        attempts.failed("one more", Some("2001:db8::2".parse().unwrap()), now);
        assert_eq!(attempts.wait("new", here, now), Some(FIRST_WAIT));
        assert_eq!(attempts.wait("new", there, now), None);
        for n in 0..20 {
            attempts.failed(&n.to_string(), here, now);
        }
        let wait = attempts.wait("new", here, now);
        assert_eq!(wait, Some(LONGEST_WAIT_OF_ADDRESS));
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
