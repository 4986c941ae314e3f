//! Waiting for what tells no event of itself.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How often is looked. Short against everything that is waited for.
const INTERVAL: Duration = Duration::from_millis(50);

/// Looks until there is something, and gives it.
///
/// # Panics
/// If there is nothing after `limit`.
#[track_caller]
pub fn wait_until<T>(what: &str, limit: Duration, look: impl FnMut() -> Option<T>) -> T {
    soon(limit, look).unwrap_or_else(|| panic!("{what}: not within {} s", limit.as_secs()))
}

/// Looks until there is something, and gives it, or nothing after `limit`.
pub(crate) fn soon<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    loop {
        let found = look();
        if found.is_some() || begun.elapsed() > limit {
            return found;
        }
        thread::sleep(INTERVAL);
    }
}
