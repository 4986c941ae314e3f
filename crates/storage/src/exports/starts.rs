//! How many processes of targets are started at a time: each start is a dozen forks of this program, and whoever has the processor
//! for it takes it from all others. A host that asks for many, as all its guests do after a cut of the network, waits behind itself
//! first.

use std::{collections::HashMap, sync::Arc};

use cimi::HostId;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// For a host, and for all together.
const OF_ONE_HOST: usize = 2;
const OF_ALL: usize = 8;

/// See the module. Clones are of the same.
#[derive(Clone, Debug)]
pub(super) struct Starts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    all: Arc<Semaphore>,
    hosts: Mutex<HashMap<HostId, Arc<Semaphore>>>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _host: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Starts {
    pub(super) fn new() -> Self {
        Self(Arc::new(Inner {
            all: Arc::new(Semaphore::new(OF_ALL)),
            hosts: Mutex::default(),
        }))
    }

    /// Waits for a place; none never, as long as this is there.
    pub(super) async fn turn(&self, host: &HostId) -> Option<Turn> {
        let of_host = {
            let mut hosts = self.0.hosts.lock();
            // Of hosts for which nothing is started any more.
            hosts.retain(|_, places| Arc::strong_count(places) > 1);
            let places = hosts.entry(host.clone());
            Arc::clone(places.or_insert_with(|| Arc::new(Semaphore::new(OF_ONE_HOST))))
        };
        // In this order: what one host waits for takes no place of others.
        let of_host = of_host.acquire_owned().await.ok()?;
        let of_all = Arc::clone(&self.0.all).acquire_owned().await.ok()?;
        Some(Turn {
            _host: of_host,
            _all: of_all,
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_host_takes_no_place_of_others() {
        let starts = Starts::new();
        let (one, other) = (HostId::generate(), HostId::generate());
        let first = starts.turn(&one).now_or_never().flatten().expect("a place");
        let second = starts.turn(&one).now_or_never().flatten();
        assert!(second.is_some());
        assert!(starts.turn(&one).now_or_never().is_none(), "it waits");
        let others = starts.turn(&other).now_or_never().flatten();
        assert!(others.is_some());
        drop(first);
        assert!(starts.turn(&one).now_or_never().flatten().is_some());

        let hosts: Vec<HostId> = (0..OF_ALL).map(|_| HostId::generate()).collect();
        drop((second, others));
        let mut turns = Vec::new();
        for host in &hosts {
            turns.push(starts.turn(host).now_or_never().flatten().expect("one"));
        }
        assert!(
            starts.turn(&other).now_or_never().is_none(),
            "all are taken"
        );
        turns.clear();
        assert!(starts.turn(&other).now_or_never().is_some());
        assert_eq!(starts.0.hosts.lock().len(), 1, "others are forgotten");
    }
}
