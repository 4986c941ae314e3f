//! How many runs a host may still end.

use std::time::Instant;

use crate::rules::{ENDS_AT_ONCE, ENDS_EVERY};

/// Of one host. Filled up as time goes by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    left: u32,
    /// Until when it is filled up.
    at: Instant,
}

impl Allowance {
    pub(crate) const fn whole(now: Instant) -> Self {
        Self {
            left: ENDS_AT_ONCE,
            at: now,
        }
    }

    pub(crate) fn is_whole(self, now: Instant) -> bool {
        self.filled(now).left == ENDS_AT_ONCE
    }

    /// Takes one, if there is one left.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        *self = self.filled(now);
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }

    fn filled(self, now: Instant) -> Self {
        let time = now.saturating_duration_since(self.at);
        let more = u32::try_from(time.as_secs() / ENDS_EVERY.as_secs()).unwrap_or(u32::MAX);
        if more >= ENDS_AT_ONCE - self.left {
            return Self::whole(now);
        }
        Self {
            left: self.left + more,
            at: self.at + ENDS_EVERY * more,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn so_many_at_once_and_then_as_time_goes_by() {
        let begun = Instant::now();
        let mut allowance = Allowance::whole(begun);
        let mut taken = |seconds| {
            let now = begun + Duration::from_secs(seconds);
            (0..10_000).filter(|_| allowance.take(now)).count()
        };
        assert_eq!(taken(0), 2000);
        assert_eq!(taken(9), 0);
        assert_eq!(taken(19), 1, "what is begun of the next one is kept");
        assert_eq!(taken(20), 1);
        assert_eq!(taken(1020), 100);
        assert_eq!(
            taken(10_000_000),
            2000,
            "no more, however long it was quiet"
        );
        assert!(!allowance.is_whole(begun));
        assert!(allowance.is_whole(begun + Duration::from_secs(20_000_000)));
    }
}
