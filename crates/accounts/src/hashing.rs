//! Computing hashes of passwords: slow on purpose, so it is rationed.
//!
//! All of it goes through one [`Hashing`]: logins and new passwords together never keep more than some processors
//! busy, and what comes from one address waits for each other first, so that somebody who sends thousands only makes
//! that address wait. Many addresses make each other wait, but not who was right where they are now: of all others no more
//! wait with them for a processor than there are.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
    time::timeout,
};

use passwords::Cost;

use crate::{
    files::Entry,
    password::{self, PolicyError},
};

/// How many hashes of one address may compete with those of others.
const OF_ONE_ADDRESS: usize = 2;
/// How many hashes are computed at a time on a computer of any size: each takes memory, 19 MiB by default.
const AT_ONCE_AT_MOST: usize = 4;

/// Why there is no hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// The password is against the policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Too many others wait for the same.
    #[error("too many passwords are being checked at once; try again")]
    Busy,
}

/// Who computes hashes. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Hashing(Arc<Inner>);

struct Inner {
    cost: Cost,
    patience: Duration,
    all: Arc<Semaphore>,
    /// Of these, those of whom nothing good is known.
    strangers: Arc<Semaphore>,
    /// Only those that somebody uses or waits for are alive.
    by_address: Mutex<HashMap<Option<IpAddr>, Weak<Semaphore>>>,
}

/// A turn; over when dropped.
pub(crate) struct Turn {
    _of_all: OwnedSemaphorePermit,
    _of_strangers: Option<OwnedSemaphorePermit>,
    _of_address: OwnedSemaphorePermit,
}

impl std::fmt::Debug for Hashing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hashing")
            .field("cost", &self.0.cost)
            .field("free", &self.0.all.available_permits())
            .finish_non_exhaustive()
    }
}

impl Hashing {
    /// New hashes get `cost`, `at_once` are computed at a time, and nobody waits for
    /// longer than `patience` for a turn.
    #[must_use]
    pub fn new(cost: Cost, at_once: usize, patience: Duration) -> Self {
        Self(Arc::new(Inner {
            cost,
            patience,
            all: Arc::new(Semaphore::new(at_once.max(1))),
            strangers: Arc::new(Semaphore::new(at_once.max(1))),
            by_address: Mutex::default(),
        }))
    }

    /// With half of this computer's processors, so that the other half goes on with everything else, and at most four.
    #[must_use]
    pub fn with_cost(cost: Cost) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self::new(
            cost,
            (cores / 2).min(AT_ONCE_AT_MOST),
            Duration::from_secs(10),
        )
    }

    /// The cost of new hashes.
    pub(crate) fn cost(&self) -> Cost {
        self.0.cost
    }

    /// Waits for a turn for somebody at `address`, who is trusted if they were right there before.
    pub(crate) async fn turn(
        &self,
        address: Option<IpAddr>,
        is_trusted: bool,
    ) -> Result<Turn, HashError> {
        let of_address = self.of_address(address.map(network_of));
        let wait = async {
            let of_address = of_address.acquire_owned().await.ok()?;
            let strangers = Arc::clone(&self.0.strangers);
            let of_strangers = if is_trusted {
                None
            } else {
                Some(strangers.acquire_owned().await.ok()?)
            };
            let of_all = Arc::clone(&self.0.all).acquire_owned().await.ok()?;
            Some(Turn {
                _of_all: of_all,
                _of_strangers: of_strangers,
                _of_address: of_address,
            })
        };
        timeout(self.0.patience, wait)
            .await
            .ok()
            .flatten()
            .ok_or(HashError::Busy)
    }

    /// The hash of a new password that somebody at `address` chose.
    ///
    /// # Errors
    /// [`HashError`].
    pub async fn hash(
        &self,
        password: String,
        address: Option<IpAddr>,
    ) -> Result<String, HashError> {
        password::check_policy(&password)?;
        let turn = self.turn(address, false).await?;
        let cost = self.0.cost;
        let hashed = spawn_blocking(move || {
            let hashed = password::hash_blocking(&password, cost);
            drop(turn);
            hashed
        });
        // The task ends early only with the whole program.
        Ok(hashed.await.map_err(|_| HashError::Busy)??)
    }

    /// What is kept of an entry of a file: its hash as it is, or a new one of a password that can be read there, whatever
    /// the policy says of it.
    ///
    /// # Errors
    /// [`HashError::Busy`].
    pub async fn imported(&self, entry: &Entry) -> Result<String, HashError> {
        if let Some(hash) = &entry.hash {
            return Ok(hash.clone());
        }
        let plain = entry.credential.plain().unwrap_or_default();
        let password = String::from_utf8_lossy(plain).into_owned();
        let (turn, cost) = (self.turn(None, false).await?, self.0.cost);
        let hashed = spawn_blocking(move || {
            let hash = cost.hash_blocking(&password);
            drop(turn);
            hash
        });
        hashed.await.map_err(|_| HashError::Busy)
    }

    fn of_address(&self, address: Option<IpAddr>) -> Arc<Semaphore> {
        let mut by_address = self.0.by_address.lock();
        if let Some(known) = by_address.get(&address).and_then(Weak::upgrade) {
            return known;
        }
        by_address.retain(|_, semaphore| semaphore.strong_count() > 0);
        let new = Arc::new(Semaphore::new(OF_ONE_ADDRESS));
        by_address.insert(address, Arc::downgrade(&new));
        new
    }
}

/// What one customer has: an IPv4 address, or a whole /64 of IPv6.
#[must_use]
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_asks_for_much_waits_for_itself() {
        let hashing = Hashing::new(Cost::NONE, 3, Duration::from_millis(200));
        let address = |last| Some(IpAddr::from([192, 0, 2, last]));
        let held = [
            hashing.turn(address(1), false).await.unwrap(),
            hashing.turn(address(1), false).await.unwrap(),
        ];
        assert_eq!(
            hashing.turn(address(1), false).await.err(),
            Some(HashError::Busy)
        );
        // Others still have their turn, and new passwords are rationed like logins.
        let other = hashing.turn(address(2), false).await.unwrap();
        let refused = hashing.hash("correct horse".to_owned(), address(3)).await;
        assert_eq!(refused, Err(HashError::Busy));
        drop(other);
        let hashed = hashing.hash("correct horse".to_owned(), address(3)).await;
        let stored = passwords::Stored::hash(&hashed.unwrap()).unwrap();
        assert!(stored.verify_blocking("correct horse"));
        drop(held);
        assert!(hashing.turn(address(1), false).await.is_ok());
    }

    #[test]
    fn a_customer_of_ipv6_is_a_whole_network() {
        let network = |text: &str| network_of(text.parse().unwrap()).to_string();
        assert_eq!(network("2001:db8:1:2:3::4"), "2001:db8:1:2::");
        assert_eq!(network("::ffff:192.0.2.1"), "192.0.2.1");
    }

    #[tokio::test]
    async fn who_was_right_before_waits_for_no_crowd_of_strangers() {
        let hashing = Hashing::new(Cost::NONE, 1, Duration::from_secs(60));
        let at = |n: u8| Some(IpAddr::from([192, 0, 2, n]));
        let first = hashing.turn(at(0), false).await.unwrap();
        let mut crowd = tokio::task::JoinSet::new();
        for n in 1..100 {
            let hashing = hashing.clone();
            crowd.spawn(async move { hashing.turn(at(n), false).await.map(|_| ()) });
        }
        // They are in the queue, all but one of them in that of strangers.
        while hashing.0.by_address.lock().len() < 100 {
            tokio::task::yield_now().await;
        }
        let known = tokio::spawn({
            let hashing = hashing.clone();
            async move { hashing.turn(at(200), true).await.unwrap() }
        });
        while hashing.0.by_address.lock().len() < 101 {
            tokio::task::yield_now().await;
        }
        drop(first);
        let turn = timeout(Duration::from_secs(60), known)
            .await
            .unwrap()
            .unwrap();
        // At most the one stranger who waited for a processor came before.
        assert!(
            hashing.0.strangers.available_permits() == 0,
            "strangers wait still"
        );
        drop(turn);
        while let Some(done) = crowd.join_next().await {
            done.unwrap().unwrap();
        }
    }
}
