//! What comes to nothing, written down at a pace: the first of a minute one by one, the others counted together.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use doors::Audited;

/// Entries of one user, or of one address where nobody is known, that are written one by one in each period.
const ONE_BY_ONE: u32 = 60;
/// What is counted together.
const PERIOD: Duration = Duration::from_secs(60);
/// Users and addresses that are counted at once; who comes beyond them is counted with all who do.
const COUNTED_AT_MOST: usize = 10_000;

#[derive(Debug)]
struct Period {
    began: Instant,
    written: u32,
    counted: u64,
    last: Option<Box<Audited>>,
}

/// How much everybody has sent in vain.
#[derive(Debug, Default)]
pub(super) struct Pace(HashMap<String, Period>);

impl Pace {
    /// The entry, if it is to be written now; else it is counted.
    pub(super) fn pass(&mut self, entry: Audited, now: Instant) -> Option<Audited> {
        if !entry.is_in_vain() {
            return Some(entry);
        }
        let mut whose = match &entry.user {
            Some(user) => format!("user {user}"),
            None => format!("address {}", accounts::network_of(entry.address)),
        };
        if self.0.len() >= COUNTED_AT_MOST && !self.0.contains_key(&whose) {
            whose.clear();
        }
        let period = self.0.entry(whose).or_insert(Period {
            began: now,
            written: 0,
            counted: 0,
            last: None,
        });
        if period.written < ONE_BY_ONE {
            period.written += 1;
            return Some(entry);
        }
        // The last of them stands for the others.
        period.counted += u64::from(period.last.is_some());
        period.last = Some(Box::new(entry));
        None
    }

    /// What the periods that are over come to; all of them at the end.
    pub(super) fn over(&mut self, now: Instant, is_end: bool) -> Vec<Audited> {
        let mut due = Vec::new();
        self.0.retain(|_, period| {
            if !is_end && now.saturating_duration_since(period.began) < PERIOD {
                return true;
            }
            due.extend(period.last.take().map(|mut last| {
                last.others = period.counted;
                *last
            }));
            false
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::entry, *};

    #[test]
    fn each_has_a_pace_of_their_own_and_what_was_done_has_none() {
        let mut pace = Pace::default();
        let now = Instant::now();
        let refused = |user: &str, n| Audited {
            status: 404,
            ..entry(user, n)
        };
        let written = (0..500).filter(|n| pace.pass(refused("joe", *n), now).is_some());
        assert_eq!(written.count(), 60);
        assert!(pace.pass(refused("ann", 0), now).is_some());
        assert!(pace.pass(entry("joe", 0), now).is_some(), "it was done");
        let unknown = Audited {
            outcome: Some("unknown"),
            status: 503,
            ..entry("joe", 0)
        };
        assert!(pace.pass(unknown, now).is_some(), "it may have been done");
        assert!(pace.over(now, false).is_empty());
        let later = pace.over(now + PERIOD, false);
        let others: Vec<u64> = later.iter().map(|entry| entry.others).collect();
        assert_eq!(others, [439]);
        assert!(pace.pass(refused("joe", 0), now + PERIOD).is_some());
    }
}
