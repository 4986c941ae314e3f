//! Failed logins: who fails often from one place has to wait, longer each time. So does a place from which very many
//! fail under whatever names, and, gently, an account at which very many fail from wherever: nobody guesses faster by
//! having many addresses, and nobody is kept out from where they logged in lately.

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
/// Failures of one large network of IPv6 (48 bits, what a customer of a provider has at most) that cost nothing.
const FREE_OF_LARGE_NETWORK: u32 = 400;
/// Failures of one account from anywhere that cost nothing.
const FREE_OF_ACCOUNT: u32 = 50;
/// The longest wait of an account, short: its owner may be somewhere new.
const LONGEST_WAIT_OF_ACCOUNT: Duration = Duration::from_secs(10);
/// So long after a success failures elsewhere make nobody wait there.
const TRUSTED_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
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
    /// Pairs of account and network with a success, and when that was.
    trusted: Mutex<HashMap<u64, Instant>>,
}

/// What one attempt counts for.
struct Keys {
    pair: u64,
    network: Option<u64>,
    large_network: Option<u64>,
    account: u64,
}

impl Attempts {
    pub(crate) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            failures: Mutex::default(),
            trusted: Mutex::default(),
        }
    }

    fn keys(&self, account: &str, address: Option<IpAddr>) -> Keys {
        let hash = |kind: u8, what: (&str, Option<IpAddr>)| self.hasher.hash_one((kind, what));
        // Directories have one user for all spellings of a name.
        let account = account.trim().to_lowercase();
        let network = address.map(network_of);
        Keys {
            pair: hash(0, (&account, network)),
            network: network.map(|network| hash(1, ("", Some(network)))),
            large_network: network
                .and_then(large_network_of)
                .map(|large| hash(2, ("", Some(large)))),
            account: hash(3, (&account, None)),
        }
    }

    /// Whether there was a success of this account at this address lately.
    pub(crate) fn is_trusted(&self, account: &str, address: Option<IpAddr>, now: Instant) -> bool {
        self.trusts(self.keys(account, address).pair, now)
    }

    fn trusts(&self, pair: u64, now: Instant) -> bool {
        let trusted = self.trusted.lock().get(&pair).copied();
        trusted.is_some_and(|since| now.saturating_duration_since(since) <= TRUSTED_FOR)
    }

    /// How long who says to be this account (or this name, if there is none) has to wait at this address; `None`: not at
    /// all.
    pub(crate) fn wait(
        &self,
        account: &str,
        address: Option<IpAddr>,
        now: Instant,
    ) -> Option<Duration> {
        let keys = self.keys(account, address);
        let is_trusted = self.trusts(keys.pair, now);
        let failures = self.failures.lock();
        let wait = |key: u64| {
            let until = failures.get(&key)?.blocked_until;
            until.checked_duration_since(now).filter(|d| !d.is_zero())
        };
        let elsewhere = (!is_trusted).then_some(keys.account);
        [Some(keys.pair), keys.network, keys.large_network, elsewhere]
            .into_iter()
            .filter_map(|key| wait(key?))
            .max()
    }

    /// Counts a failure.
    pub(crate) fn failed(&self, account: &str, address: Option<IpAddr>, now: Instant) {
        let keys = self.keys(account, address);
        let mut failures = self.failures.lock();
        count(&mut failures, keys.pair, now, FREE, LONGEST_WAIT);
        let (free, longest) = (FREE_OF_ACCOUNT, LONGEST_WAIT_OF_ACCOUNT);
        count(&mut failures, keys.account, now, free, longest);
        for (key, free) in [
            (keys.network, FREE_OF_ADDRESS),
            (keys.large_network, FREE_OF_LARGE_NETWORK),
        ] {
            if let Some(key) = key {
                count(&mut failures, key, now, free, LONGEST_WAIT_OF_ADDRESS);
            }
        }
    }

    /// Forgets the account's failures here after a success, and lets those elsewhere not count here. Those of the address
    /// stay: who has an account could otherwise guess others' for ever.
    pub(crate) fn succeeded(&self, account: &str, address: Option<IpAddr>, now: Instant) {
        let pair = self.keys(account, address).pair;
        self.failures.lock().remove(&pair);
        let mut trusted = self.trusted.lock();
        if trusted.len() >= PAIRS_AT_MOST && !trusted.contains_key(&pair) {
            keep_later_half(&mut trusted, |since| *since);
        }
        trusted.insert(pair, now);
    }
}

/// The network of 48 bits that an address of IPv6 is in.
fn large_network_of(network: IpAddr) -> Option<IpAddr> {
    match network {
        IpAddr::V6(v6) => Some(IpAddr::V6((u128::from(v6) >> 80 << 80).into())),
        IpAddr::V4(_) => None,
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
    keep_later_half(failures, |f| f.last);
}

/// Drops the older half of a table that isn't empty.
fn keep_later_half<T>(table: &mut HashMap<u64, T>, time: impl Fn(&T) -> Instant) {
    let mut times: Vec<Instant> = table.values().map(&time).collect();
    let middle = times.len() / 2;
    let (_, median, _) = times.select_nth_unstable(middle);
    let median = *median;
    table.retain(|_, entry| time(entry) > median);
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
        attempts.succeeded("a", here, now);
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
    fn an_account_that_many_addresses_try_has_to_wait_but_where_it_was_lately() {
        let attempts = Attempts::new();
        let (home, abroad) = (
            Some(IpAddr::from([192, 0, 2, 1])),
            Some(IpAddr::from([192, 0, 2, 2])),
        );
        let now = Instant::now();
        attempts.succeeded("a", home, now);
        let elsewhere = |n: u32| Some(IpAddr::from(0x0a00_0000_u32.wrapping_add(n).to_be_bytes()));
        for n in 1..FREE_OF_ACCOUNT {
            attempts.failed("a", elsewhere(n), now);
        }
        assert_eq!(attempts.wait("a", abroad, now), None);
        attempts.failed("A ", elsewhere(0), now);
        assert_eq!(attempts.wait("a", abroad, now), Some(FIRST_WAIT));
        assert_eq!(attempts.wait("a", home, now), None);
        assert_eq!(attempts.wait("b", abroad, now), None);
        for n in 100..120 {
            attempts.failed("a", elsewhere(n), now);
        }
        let wait = attempts.wait("a", abroad, now);
        assert_eq!(wait, Some(LONGEST_WAIT_OF_ACCOUNT), "and no longer");
        assert_eq!(attempts.wait("a", home, now), None);
        // Failures where it was lately count there as everywhere.
        for _ in 0..FREE {
            attempts.failed("a", home, now);
        }
        assert_eq!(attempts.wait("a", home, now), Some(FIRST_WAIT));
    }

    #[test]
    fn networks_of_one_customer_wait_together() {
        let attempts = Attempts::new();
        let address = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        let now = Instant::now();
        for n in 0..FREE_OF_LARGE_NETWORK {
            let new = address("2001:db8:1:ffff::1");
            assert_eq!(attempts.wait("new", new, now), None);
            attempts.failed(
                &n.to_string(),
                address(&format!("2001:db8:1:{n:x}::1")),
                now,
            );
        }
        let wait = |text| attempts.wait("new", address(text), now);
        assert_eq!(wait("2001:db8:1:ffff::1"), Some(FIRST_WAIT));
        assert_eq!(wait("2001:db8:2::1"), None);
    }

    #[test]
    fn the_table_is_bounded() {
        let attempts = Attempts::new();
        let now = Instant::now();
        for n in 0..3 * PAIRS_AT_MOST {
            let later = now + Duration::from_micros(n as u64);
            attempts.failed(&n.to_string(), None, later);
            attempts.succeeded(&n.to_string(), None, later);
        }
        assert!(attempts.trusted.lock().len() <= PAIRS_AT_MOST);
        assert!(attempts.failures.lock().len() <= PAIRS_AT_MOST);
    }
}
