//! Which images could not be fetched, how often, and when they are tried again. Forgotten with the process, and when the site's
//! rules change: good moments to try.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);

#[derive(Debug, Clone, Copy)]
struct Rest {
    /// Of `ImageDesired`: whoever asks anew doesn't wait for old failures.
    attempt: u64,
    failures: u32,
    until: Instant,
}

#[derive(Debug, Default)]
struct Known {
    resting: HashMap<String, Rest>,
    /// The images that the site refuses, once the Marketplaces have been asked for another entry of theirs.
    asked: HashSet<String>,
}

/// The images that rest.
#[derive(Debug, Clone, Default)]
pub(super) struct Rests(Arc<Mutex<Known>>);

impl Rests {
    /// How long an image has to rest still.
    pub(super) fn left(&self, local: &str, attempt: u64) -> Option<Duration> {
        let known = self.0.lock();
        let rest = known
            .resting
            .get(local)
            .filter(|rest| rest.attempt == attempt)?;
        let left = rest.until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Notes a failure; how many there were in a row, and how long to rest.
    pub(super) fn failed(&self, local: &str, attempt: u64, first: Duration) -> (u32, Duration) {
        let resting = &mut self.0.lock().resting;
        let known = resting.get(local).filter(|rest| rest.attempt == attempt);
        let failures = known.map_or(0, |rest| rest.failures).saturating_add(1);
        let pause = first
            .saturating_mul(2_u32.saturating_pow(failures.min(16) - 1))
            .min(LONGEST_PAUSE);
        let until = Instant::now() + pause;
        let rest = Rest {
            attempt,
            failures,
            until,
        };
        resting.insert(local.to_owned(), rest);
        (failures, pause)
    }

    /// Notes, before it is done, that the Marketplaces are asked for another entry of an image that the site refuses: should the
    /// rules change meanwhile, that is forgotten, and they are asked again.
    pub(super) fn asks(&self, local: &str) {
        self.0.lock().asked.insert(local.to_owned());
    }

    /// Whether they were asked by the rules as they are.
    pub(super) fn has_asked(&self, local: &str) -> bool {
        self.0.lock().asked.contains(local)
    }

    /// What was in the way of any of them may be gone.
    pub(super) fn forget_all(&self) {
        *self.0.lock() = Known::default();
    }

    /// It is over, one way or the other.
    pub(super) fn forget(&self, local: &str) {
        let mut known = self.0.lock();
        known.resting.remove(local);
        known.asked.remove(local);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_somebody_asks_anew() {
        let rests = Rests::default();
        let first = Duration::from_secs(10);
        assert_eq!(rests.left("a", 1), None);
        assert_eq!(rests.failed("a", 1, first), (1, first));
        assert_eq!(rests.failed("a", 1, first), (2, first * 2));
        assert!(rests.left("a", 1).is_some_and(|left| left > first));
        assert_eq!(rests.left("a", 2), None);
        assert_eq!(rests.failed("a", 2, first), (1, first));
        for _ in 0..40 {
            assert!(rests.failed("a", 2, first).1 <= LONGEST_PAUSE);
        }
        rests.forget("a");
        assert_eq!(rests.left("a", 2), None);
    }
}
