//! What time it is in a schedule. The tests' program answers `clock_gettime` by it, so that everything in it lives in this time.

use std::{
    sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst},
    time::Duration,
};

/// 2030-01-01: later than whatever was built before.
const FIRST_MORNING: Duration = Duration::from_secs(1_893_456_000);

static IS_VIRTUAL: AtomicBool = AtomicBool::new(false);
static PASSED_NANOS: AtomicU64 = AtomicU64::new(0);
static WALL_AHEAD_MILLIS: AtomicI64 = AtomicI64::new(0);

/// From now on time stands still, unless it is [advanced](advance).
pub fn begin() {
    IS_VIRTUAL.store(true, SeqCst);
}

/// How long the schedule has lasted.
#[must_use]
pub fn passed() -> Duration {
    Duration::from_nanos(PASSED_NANOS.load(SeqCst))
}

/// Lets time pass.
pub fn advance(by: Duration) {
    let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
    PASSED_NANOS.fetch_add(nanos, SeqCst);
}

/// Somebody sets all clocks on walls, forward or back. Those that only count stay as they are.
pub fn jump(millis: i64) {
    WALL_AHEAD_MILLIS.fetch_add(millis, SeqCst);
}

/// What clocks show that only count, since their beginning; none: as the computer's own does.
#[must_use]
pub fn monotonic() -> Option<Duration> {
    IS_VIRTUAL.load(SeqCst).then(|| FIRST_MORNING + passed())
}

/// What clocks on walls show, since 1970; none: as the computer's own does.
#[must_use]
pub fn wall() -> Option<Duration> {
    let ahead = WALL_AHEAD_MILLIS.load(SeqCst);
    let time = FIRST_MORNING + passed();
    let by = Duration::from_millis(ahead.unsigned_abs());
    let shown = if ahead < 0 {
        time.saturating_sub(by)
    } else {
        time + by
    };
    IS_VIRTUAL.load(SeqCst).then_some(shown)
}
