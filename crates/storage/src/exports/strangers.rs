//! Connections that haven't said anything yet: so many at a time, and so many of each address. Where there is no room for another
//! one, the oldest goes: whoever means it speaks at once.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

const OF_ALL: usize = 64;
const OF_ONE_ADDRESS: usize = 16;
/// How often the same is told.
const TELLING: Duration = Duration::from_secs(60);

/// See the module. Clones are of the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Strangers(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// In the order in which they came: which, from where, and when it is to end.
    all: Vec<(u64, IpAddr, CancellationToken)>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Stranger {
    strangers: Strangers,
    number: u64,
    /// When it is to go.
    pub(super) end: CancellationToken,
    /// Whether another one had to go for it.
    pub(super) is_of_another: bool,
}

impl Strangers {
    /// One more.
    pub(super) fn come(&self, from: IpAddr) -> Stranger {
        let mut waiting = self.0.lock();
        let its = |one: &&(u64, IpAddr, CancellationToken)| one.1 == from;
        let of_address = waiting.all.iter().filter(its).count();
        let oldest = if of_address >= OF_ONE_ADDRESS {
            waiting.all.iter().position(|one| one.1 == from)
        } else {
            (waiting.all.len() >= OF_ALL).then_some(0)
        };
        if let Some(oldest) = oldest {
            waiting.all.remove(oldest).2.cancel();
        }
        let (number, end) = (waiting.next, CancellationToken::new());
        waiting.next += 1;
        waiting.all.push((number, from, end.clone()));
        Stranger {
            strangers: self.clone(),
            number,
            end,
            is_of_another: oldest.is_some(),
        }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut waiting = self.strangers.0.lock();
        waiting.all.retain(|one| one.0 != self.number);
    }
}

/// Whether something that happens often is to be told once more.
#[derive(Debug, Default)]
pub(super) struct Rarely(Mutex<Option<Instant>>);

impl Rarely {
    pub(super) fn may(&self) -> bool {
        let mut told = self.0.lock();
        let is_new = told.is_none_or(|told| told.elapsed() >= TELLING);
        if is_new {
            *told = Some(Instant::now());
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_says_nothing_takes_no_place_of_others() {
        let strangers = Strangers::default();
        let address = |last: usize| IpAddr::from([10, 0, 0, u8::try_from(last).expect("small")]);
        let other = strangers.come(address(1));
        let mut silent: Vec<Stranger> = (0..OF_ONE_ADDRESS)
            .map(|_| strangers.come(address(2)))
            .collect();
        assert!(silent.iter().all(|one| !one.is_of_another));
        let next = strangers.come(address(2));
        assert!(next.is_of_another && silent[0].end.is_cancelled());
        assert!(!other.end.is_cancelled() && !silent[1].end.is_cancelled());
        // One that spoke has left its place.
        drop(silent.remove(1));
        assert!(!strangers.come(address(2)).is_of_another);

        // Of many addresses, the oldest one of all.
        let all: Vec<Stranger> = (3..OF_ALL + 3)
            .map(|last| strangers.come(address(last)))
            .collect();
        assert!(other.end.is_cancelled() && silent.iter().all(|one| one.end.is_cancelled()));
        assert!(all.iter().all(|one| !one.end.is_cancelled()));
        assert_eq!(strangers.0.lock().all.len(), OF_ALL);
    }
}
