//! How often somebody may ask for what costs others something: letters, places in a list.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Keys that are watched at once; where there are more, the oldest are forgotten.
const KEYS_AT_MOST: usize = 10_000;

/// A table of who asked how often within the last while. Keys are kept hashed.
#[derive(Debug)]
pub(crate) struct Pace {
    hasher: RandomState,
    within: Duration,
    asked: Mutex<HashMap<u64, (Instant, u32)>>,
}

impl Pace {
    pub(crate) fn new(within: Duration) -> Self {
        Self {
            hasher: RandomState::new(),
            within,
            asked: Mutex::default(),
        }
    }

    /// Counts a request of `key`; how long to wait if there were `most` already.
    pub(crate) fn ask(&self, key: &str, most: u32, now: Instant) -> Result<(), Duration> {
        let key = self.hasher.hash_one(key);
        let mut asked = self.asked.lock();
        if asked.len() >= KEYS_AT_MOST && !asked.contains_key(&key) {
            asked.retain(|_, (since, _)| now.saturating_duration_since(*since) < self.within);
            if asked.len() >= KEYS_AT_MOST {
                let oldest = asked.iter().min_by_key(|(_, (since, _))| *since);
                if let Some(oldest) = oldest.map(|(key, _)| *key) {
                    asked.remove(&oldest);
                }
            }
        }
        let (since, count) = asked.entry(key).or_insert((now, 0));
        let age = now.saturating_duration_since(*since);
        if age >= self.within {
            (*since, *count) = (now, 0);
        }
        if *count >= most {
            return Err(self.within.saturating_sub(age));
        }
        *count += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

    use super::*;

    #[test]
    fn who_asks_too_often_waits_and_others_do_not() {
        let pace = Pace::new(Duration::from_secs(60));
        let now = Instant::now();
        assert_eq!(pace.ask("a", 2, now), Ok(()));
        assert_eq!(pace.ask("a", 2, now), Ok(()));
        let later = now + Duration::from_secs(20);
        assert_eq!(pace.ask("a", 2, later), Err(Duration::from_secs(40)));
        assert_eq!(pace.ask("b", 2, later), Ok(()));
        assert_eq!(pace.ask("a", 2, now + Duration::from_secs(60)), Ok(()));
    }

    #[test]
    fn the_table_stays_bounded() {
        let pace = Pace::new(Duration::from_secs(60));
        let now = Instant::now();
        for number in 0..KEYS_AT_MOST + 50 {
            pace.ask(&number.to_string(), 1, now).unwrap();
        }
        assert!(pace.asked.lock().len() <= KEYS_AT_MOST);
    }
}
