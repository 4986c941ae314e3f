//! What requests may use up at once: how many there are, and the bytes of their bodies; in all, and of one caller.
//!
//! Without this, what one client may have open (connections times streams) bounds nothing: each could hold a body of
//! the largest size for as long as a request may take.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{HeaderValue, header};
use parking_lot::Mutex;

use crate::problem::Problem;

/// How much there may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Requests being answered.
    pub(crate) requests: usize,
    /// Requests of one caller being answered.
    pub(crate) requests_per_caller: usize,
    /// Bytes of bodies.
    pub(crate) body_bytes: usize,
    /// Bytes of bodies of one caller.
    pub(crate) body_bytes_per_caller: usize,
}

/// Whose request it is.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) enum Whose<'r> {
    /// A user's, wherever they are.
    User(&'r str),
    /// Of somebody who isn't known, or not yet: by address, of IPv6 by /64 ([`accounts::network_of`]).
    Network(IpAddr),
}

#[derive(Clone, Copy, Default)]
struct Used {
    requests: usize,
    body_bytes: usize,
}

/// What is used now.
pub(crate) struct Budget {
    bounds: Bounds,
    requests: AtomicUsize,
    body_bytes: AtomicUsize,
    hasher: RandomState,
    by_caller: Mutex<HashMap<u64, Used>>,
}

/// What one request uses; given back when dropped.
pub(crate) struct Share<'b> {
    budget: &'b Budget,
    caller: Option<u64>,
    body_bytes: usize,
}

impl Budget {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            requests: AtomicUsize::new(0),
            body_bytes: AtomicUsize::new(0),
            hasher: RandomState::new(),
            by_caller: Mutex::default(),
        }
    }

    /// One more request.
    ///
    /// # Errors
    /// 503 if there are too many.
    pub(crate) fn enter(self: &Arc<Self>) -> Result<Share<'_>, Problem> {
        if !add(&self.requests, 1, self.bounds.requests) {
            return Err(again(503, "too many requests at once; try again"));
        }
        Ok(Share {
            budget: self,
            caller: None,
            body_bytes: 0,
        })
    }
}

impl Share<'_> {
    /// Whose request it has turned out to be; what it was taken for before has a place more.
    ///
    /// # Errors
    /// 429 if the caller has too many.
    pub(crate) fn belongs_to(&mut self, whose: Whose<'_>) -> Result<(), Problem> {
        let caller = self.budget.hasher.hash_one(whose);
        let most = self.budget.bounds.requests_per_caller;
        let mut by_caller = self.budget.by_caller.lock();
        if let Some(before) = self.caller.take() {
            give_back(&mut by_caller, before, 0);
        }
        let used = by_caller.entry(caller).or_default();
        if used.requests >= most {
            let text = format!("you have {most} requests going on already; wait for their answers");
            return Err(again(429, text));
        }
        used.requests += 1;
        self.caller = Some(caller);
        Ok(())
    }

    /// So many bytes more of its body.
    ///
    /// # Errors
    /// 503 if all together have too many, 429 if the caller has.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<(), Problem> {
        let bounds = &self.budget.bounds;
        if let Some(caller) = self.caller {
            let mut by_caller = self.budget.by_caller.lock();
            let used = by_caller.entry(caller).or_default();
            if used.body_bytes.saturating_add(bytes) > bounds.body_bytes_per_caller {
                let text = "you are sending too much at once; wait for answers";
                return Err(again(429, text));
            }
            if !add(&self.budget.body_bytes, bytes, bounds.body_bytes) {
                return Err(again(503, "too much is being sent at once; try again"));
            }
            used.body_bytes += bytes;
            self.body_bytes += bytes;
        }
        Ok(())
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.budget.requests.fetch_sub(1, Ordering::Relaxed);
        let Some(caller) = self.caller else {
            return;
        };
        self.budget
            .body_bytes
            .fetch_sub(self.body_bytes, Ordering::Relaxed);
        give_back(&mut self.budget.by_caller.lock(), caller, self.body_bytes);
    }
}

/// One request less of a caller, with what it had of its body.
fn give_back(by_caller: &mut HashMap<u64, Used>, caller: u64, body_bytes: usize) {
    if let Some(used) = by_caller.get_mut(&caller) {
        used.requests = used.requests.saturating_sub(1);
        used.body_bytes = used.body_bytes.saturating_sub(body_bytes);
        if used.requests == 0 {
            by_caller.remove(&caller);
        }
    }
}

/// Adds if it stays within the bound.
fn add(used: &AtomicUsize, more: usize, most: usize) -> bool {
    used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
        used.checked_add(more).filter(|sum| *sum <= most)
    })
    .is_ok()
}

fn again(status: u16, text: impl Into<String>) -> Problem {
    Problem::new(status, text).with(header::RETRY_AFTER, HeaderValue::from_static("1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> Arc<Budget> {
        Arc::new(Budget::new(Bounds {
            requests: 3,
            requests_per_caller: 2,
            body_bytes: 100,
            body_bytes_per_caller: 60,
        }))
    }

    fn status<T>(result: Result<T, Problem>) -> u16 {
        result
            .err()
            .map_or(200, |problem| problem.status().as_u16())
    }

    #[test]
    fn requests_are_bounded_in_all_and_of_each() {
        let budget = budget();
        let (alice, bob) = (Whose::User("alice"), Whose::User("bob"));
        let mut shares = [budget.enter(), budget.enter(), budget.enter()].map(Result::unwrap);
        assert_eq!(status(budget.enter()), 503);
        let [one, two, three] = &mut shares;
        one.belongs_to(alice).unwrap();
        two.belongs_to(alice).unwrap();
        assert_eq!(status(three.belongs_to(alice)), 429);
        three.belongs_to(bob).unwrap();
        // Whoever has turned out to be somebody else gives the first one's place back.
        one.belongs_to(bob).unwrap();
        three.belongs_to(alice).unwrap();
        assert_eq!(status(one.belongs_to(alice)), 429);
        drop(shares);
        assert!(budget.by_caller.lock().is_empty());
        let mut all = [budget.enter(), budget.enter(), budget.enter()].map(Result::unwrap);
        assert_eq!(status(all[0].belongs_to(alice)), 200);
    }

    #[test]
    fn bodies_are_bounded_in_all_and_of_each() {
        let budget = budget();
        let (mut one, mut two) = (budget.enter().unwrap(), budget.enter().unwrap());
        one.belongs_to(Whose::User("alice")).unwrap();
        two.belongs_to(Whose::Network(IpAddr::from([192, 0, 2, 1])))
            .unwrap();
        one.take(50).unwrap();
        assert_eq!(status(one.take(20)), 429);
        two.take(45).unwrap();
        assert_eq!(status(two.take(10)), 503);
        drop(one);
        two.take(10).unwrap();
        drop(two);
        assert_eq!(budget.body_bytes.load(Ordering::Relaxed), 0);
        assert!(budget.by_caller.lock().is_empty());
    }
}
