//! Entry points that die.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use store::{Outcome, Peer, Prefix, SharedStore, Store as _, StoreError, Transaction, WatchError};
use tokio::time::timeout;

use super::{LIMIT, World, key};
use crate::gateways::{Ending, Entry, OwnersOnly, client};

/// A counter is counted through two entry points, of which one after the other ends and begins anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_goes_on_with_another_entry_point() {
    let world = World::new().await;
    let begun = world.put("m/1", "one:0").await;
    // Entry points behind ports that stay: a relay each, so that a client finds the next one where the last one was.
    let mut relays = Vec::new();
    let mut endpoints = Vec::new();
    for _ in 0..2 {
        let relay = Relay::new(&world.store).await;
        endpoints.push(relay.endpoint.clone());
        relays.push(relay);
    }
    let one = Arc::new(client(endpoints).await);
    let mut watch = one.watch(Prefix::everything(), begun).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (one, done) = (Arc::clone(&one), Arc::clone(&done));
        async move {
            let (mut at, mut count) = (begun, 0_u64);
            while !done.load(Ordering::Relaxed) {
                let next = Transaction::new()
                    .revision_is(&key("m/1"), at)
                    .put(key("m/1"), format!("one:{}", count + 1));
                match one.commit(next).await {
                    Ok(Outcome::Committed(revision)) => (at, count) = (revision, count + 1),
                    Ok(Outcome::Conflict(conflicts)) => {
                        panic!("nobody else writes, at {at}: {conflicts:?}")
                    }
                    Err(StoreError::Unavailable { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            (at, count)
        }
    });
    for round in 0..10 {
        let before = world
            .store
            .get(&key("m/1"))
            .await
            .unwrap()
            .unwrap()
            .revision;
        relays[round % 2].restart(&world.store).await;
        let began = Instant::now();
        loop {
            let now = world.store.get(&key("m/1")).await.unwrap().unwrap();
            if now.revision.0 > before.0 + 5 {
                break;
            }
            assert!(began.elapsed() < LIMIT, "nothing is counted any more");
            tokio::task::yield_now().await;
        }
    }
    done.store(true, Ordering::Relaxed);
    let (at, count) = writer.await.unwrap();
    let last = world.store.get(&key("m/1")).await.unwrap().unwrap();
    assert_eq!(last.revision, at);
    assert_eq!(&*last.value, format!("one:{count}").as_bytes());
    // The watch yields each count once, in order, or says that history is gone.
    let mut seen = begun;
    loop {
        match timeout(LIMIT, watch.next()).await.expect("it is told") {
            Ok(batch) => {
                assert!(batch.revision >= seen, "{} after {seen}", batch.revision);
                seen = batch.revision;
            }
            Err(WatchError::Compacted { oldest }) => {
                assert!(oldest > seen, "{oldest} and {seen}");
                break;
            }
            Err(error) => panic!("{error}"),
        }
        if seen >= at {
            break;
        }
    }
}

/// A port in front of an entry point that may be another one the next time.
struct Relay {
    endpoint: String,
    behind: tokio::sync::watch::Sender<Option<String>>,
    entry: Option<Entry>,
    _task: Ending,
}

impl Relay {
    async fn new(store: &SharedStore) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (behind, seen) = tokio::sync::watch::channel(None::<String>);
        let task = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut seen = seen.clone();
                tokio::spawn(async move {
                    let Some(to) = seen.borrow_and_update().clone() else {
                        return;
                    };
                    let to = to.trim_start_matches("http://").to_owned();
                    let Ok(mut far) = tokio::net::TcpStream::connect(to).await else {
                        return;
                    };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = seen.changed() => {}
                    }
                });
            }
        });
        let mut relay = Self {
            endpoint,
            behind,
            entry: None,
            _task: Ending(task),
        };
        relay.restart(store).await;
        relay
    }

    /// Ends the entry point in the midst of what it does, and starts another.
    async fn restart(&mut self, store: &SharedStore) {
        self.entry = None;
        self.behind.send_replace(None);
        let mut entry = Entry::open(store, OwnersOnly).await;
        let address = entry.listen(Peer::named("one")).await;
        self.entry = Some(entry);
        self.behind.send_replace(Some(address));
    }
}
