//! How long refusals take: so long that nobody sees by the time whether there was something to check.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// For how long a slow check has refusals take as long.
const SLOWEST_COUNTS_FOR: Duration = Duration::from_secs(15 * 60);
/// Refusals wait no longer for others' sake.
const SLOWEST_AT_MOST: Duration = Duration::from_secs(10);

/// When a refusal comes: at a multiple of `step`, after what took `took`.
pub(crate) fn due(step: Duration, took: Duration) -> Duration {
    let steps = took.as_nanos().div_ceil(step.as_nanos().max(1)).max(1);
    step.saturating_mul(u32::try_from(steps).unwrap_or(u32::MAX))
}

/// How long the slowest check took of late. A hash of high cost and a directory that is slow to answer take longer than any
/// floor: nobody is to see by the time of a refusal that there was one to check.
#[derive(Default)]
pub(crate) struct Slowest(Mutex<Option<(Duration, Instant)>>);

impl Slowest {
    /// With one more.
    pub(crate) fn with(&self, took: Duration) -> Duration {
        let took = took.min(SLOWEST_AT_MOST);
        let mut slowest = self.0.lock();
        let known = slowest.filter(|(_, when)| when.elapsed() < SLOWEST_COUNTS_FOR);
        match known {
            Some((known, _)) if known > took => known,
            _ => {
                *slowest = Some((took, Instant::now()));
                took
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_due_at_a_multiple() {
        let ms = Duration::from_millis;
        assert_eq!(due(ms(500), ms(0)), ms(500));
        assert_eq!(due(ms(500), ms(500)), ms(500));
        assert_eq!(due(ms(500), ms(501)), ms(1000));
        assert_eq!(due(Duration::ZERO, ms(501)).as_millis(), 0);
        let slowest = Slowest::default();
        assert_eq!(slowest.with(ms(700)), ms(700));
        assert_eq!(slowest.with(ms(20)), ms(700));
        assert_eq!(slowest.with(Duration::from_secs(60)), SLOWEST_AT_MOST);
    }
}
