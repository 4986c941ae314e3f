//! A peer behind a gateway sees and writes what is its own, and nothing else whatever it asks for; entry points may die.
#![allow(clippy::panic, clippy::unwrap_used)] // a test that panics has failed

mod entry_points;
mod much_is_asked;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use store::{
    Batch, Change, EtcdStore, Key, Outcome, Peer, Prefix, Range, Revision, SharedStore,
    SqliteStore, Store as _, StoreError, Transaction, Watch, WatchError,
};
use tokio::time::timeout;

use crate::gateways::{Ending, Entry, OwnersOnly, client, owner};

const LIMIT: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(300);

struct World {
    store: SharedStore,
    entry: Entry,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        Self::with(|store| store).await
    }

    async fn with(wrap: impl FnOnce(SharedStore) -> SharedStore) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = SqliteStore::open(folder.path().join("db")).expect("a store");
        let store: SharedStore = Arc::new(store);
        Self {
            entry: Entry::open(&wrap(store.clone()), OwnersOnly).await,
            store,
            _folder: folder,
        }
    }

    async fn client(&mut self, name: &str) -> EtcdStore {
        let endpoint = self.entry.listen(Peer::named(name)).await;
        client(vec![endpoint]).await
    }

    async fn put(&self, name: &str, value: &str) -> Revision {
        committed(
            &*self.store,
            Transaction::new().put(key(name), value.to_owned()),
        )
        .await
    }
}

fn key(text: &str) -> Key {
    text.parse().expect("a key")
}

async fn committed(store: &dyn store::Store, transaction: Transaction) -> Revision {
    match store.commit(transaction).await.expect("the store works") {
        Outcome::Committed(at) => at,
        Outcome::Conflict(conflicts) => panic!("{conflicts:?}"),
    }
}

async fn keys(store: &EtcdStore) -> Vec<String> {
    let page = store.range(Range::prefix(&Prefix::everything())).await;
    let entries = page.expect("the store works").entries;
    entries.iter().map(|entry| entry.key.to_string()).collect()
}

async fn next(watch: &mut Watch) -> Batch {
    loop {
        let batch = timeout(LIMIT, watch.next())
            .await
            .expect("something happens");
        let batch = batch.expect("the watch goes on");
        if !batch.changes.is_empty() {
            return batch;
        }
    }
}

fn names(batch: &Batch) -> Vec<String> {
    let name = |change: &Change| match change {
        Change::Put(entry) => format!("+{}={}", entry.key, String::from_utf8_lossy(&entry.value)),
        Change::Delete { key } => format!("-{key}"),
    };
    batch.changes.iter().map(name).collect()
}

fn is_refused<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> bool {
    match answer {
        Err(StoreError::Refused { .. }) => true,
        Err(StoreError::LeaseNotFound { .. }) => true,
        other => panic!("{other:?}"),
    }
}

/// Who sees a document sees what it refers to: no more, as long as it does, and by whatever entry point.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_referred_to_comes_and_goes_with_what_refers_to_it() {
    let mut world = World::new().await;
    world.put("n/1", "nobody:a").await;
    world.put("n/2", "nobody:b").await;
    let one = world.client("one").await;
    let two = world.client("two").await;
    assert_eq!(keys(&one).await, [""; 0]);
    let page = one.range(Range::prefix(&Prefix::everything())).await;
    let mut watch = one
        .watch(Prefix::everything(), page.unwrap().revision)
        .await
        .unwrap();

    world.put("m/1", "one:>n/1").await;
    let mut told = names(&next(&mut watch).await);
    told.sort();
    assert_eq!(told, ["+m/1=one:>n/1", "+n/1=nobody:a"]);
    assert_eq!(keys(&one).await, ["m/1", "n/1"]);
    assert_eq!(keys(&two).await, [""; 0]);
    assert!(is_refused(
        one.commit(Transaction::new().put(key("n/1"), "one:mine"))
            .await
    ));
    // A second one that refers to it changes nothing; what becomes of it is told.
    world.put("m/2", "one:>n/1").await;
    assert_eq!(names(&next(&mut watch).await), ["+m/2=one:>n/1"]);
    world.put("n/1", "nobody:c").await;
    assert_eq!(names(&next(&mut watch).await), ["+n/1=nobody:c"]);
    world.put("m/1", "one:>n/2").await;
    let mut told = names(&next(&mut watch).await);
    told.sort();
    assert_eq!(told, ["+m/1=one:>n/2", "+n/2=nobody:b"]);
    // The last one that referred to it is given to somebody else.
    world.put("m/2", "two:>n/1").await;
    let mut told = names(&next(&mut watch).await);
    told.sort();
    assert_eq!(told, ["-m/2", "-n/1"]);
    assert_eq!(keys(&one).await, ["m/1", "n/2"]);
    assert_eq!(keys(&two).await, ["m/2", "n/1"]);
    // What isn't there yet comes when it does, and goes when it goes.
    world.put("m/1", "one:>n/3").await;
    let mut told = names(&next(&mut watch).await);
    told.sort();
    assert_eq!(told, ["+m/1=one:>n/3", "-n/2"]);
    world.put("n/3", "nobody:d").await;
    assert_eq!(names(&next(&mut watch).await), ["+n/3=nobody:d"]);
    committed(&*world.store, Transaction::new().delete(key("n/3"))).await;
    assert_eq!(names(&next(&mut watch).await), ["-n/3"]);

    // An entry point that has just been started knows the same.
    world.put("n/3", "nobody:e").await;
    world.entry = Entry::open(&world.store, OwnersOnly).await;
    let again = world.client("one").await;
    assert_eq!(keys(&again).await, ["m/1", "n/3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_peer_may_not_see_is_not_there() {
    let mut world = World::new().await;
    world.put("m/1", "one:a").await;
    let theirs = world.put("m/2", "two:b").await;
    world.put("m/3", "all:c").await;
    world.put("m/4", "nobody:d").await;
    let one = world.client("one").await;
    assert_eq!(keys(&one).await, ["m/1", "m/3"]);
    let page = one
        .range(Range::prefix(&Prefix::everything()).limit(1))
        .await
        .unwrap();
    assert_eq!((page.entries.len(), page.more), (1, true));
    assert_eq!(one.get(&key("m/2")).await.unwrap(), None);
    assert!(one.get(&key("m/1")).await.unwrap().is_some());

    // In a conflict it is gone, and what is its own is shown.
    let stale = Transaction::new()
        .revision_is(&key("m/1"), Revision(1000))
        .revision_is(&key("m/2"), Revision(1000))
        .put(key("m/1"), "one:x");
    let Outcome::Conflict(conflicts) = one.commit(stale).await.unwrap() else {
        panic!("nothing is of that revision");
    };
    let shown: Vec<_> = conflicts
        .iter()
        .map(|conflict| (conflict.key.as_str(), conflict.current.is_some()))
        .collect();
    assert_eq!(shown, [("m/1", true), ("m/2", false)]);
    // And it can't be found out by asking for its absence, or by writing it.
    let absent = Transaction::new()
        .absent(&key("m/2"))
        .put(key("m/5"), "one:x");
    assert!(is_refused(one.commit(absent).await));
    let guessed = Transaction::new()
        .revision_is(&key("m/2"), theirs)
        .put(key("m/2"), "one:stolen");
    assert!(is_refused(one.commit(guessed).await));
    // Nor by demanding that it be there.
    for guessed in [
        Transaction::new().revision_is(&key("m/2"), theirs),
        Transaction::new().present(&key("m/2")),
    ] {
        let Outcome::Conflict(conflicts) =
            one.commit(guessed.put(key("m/5"), "one:x")).await.unwrap()
        else {
            panic!("that was guessed");
        };
        assert!(
            conflicts.iter().all(|one| one.current.is_none()),
            "{conflicts:?}"
        );
    }
    assert!(is_refused(
        one.commit(Transaction::new().delete(key("m/2"))).await
    ));
    assert_eq!(
        &*world.store.get(&key("m/2")).await.unwrap().unwrap().value,
        b"two:b"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_writes_its_own_and_nothing_else() {
    let mut world = World::new().await;
    world.put("m/1", "one:a").await;
    world.put("m/3", "all:c").await;
    world.put("fixed/1", "one:a").await;
    let one = world.client("one").await;
    let mine = Transaction::new()
        .put(key("m/1"), "one:b")
        .put(key("m/9"), "one:new")
        .delete(key("m/none"));
    committed(&one, mine).await;
    assert_eq!(
        &*one.get(&key("m/1")).await.unwrap().unwrap().value,
        b"one:b"
    );
    for (refused, why) in [
        (Transaction::new().put(key("m/1"), "two:gift"), "gives away"),
        (
            Transaction::new().put(key("m/8"), "two:new"),
            "makes another's",
        ),
        (
            Transaction::new().put(key("m/3"), "one:taken"),
            "takes what all see",
        ),
        (
            Transaction::new().delete(key("m/3")),
            "deletes what all see",
        ),
        (Transaction::new().put(key("fixed/1"), "one:b"), "is fixed"),
        (
            Transaction::new()
                .put(key("m/1"), "one:c")
                .put(key("m/3"), "one:d"),
            "half of it",
        ),
        (
            Transaction::new().put(key("GatewayLease/1"), "one"),
            "the gateway's own",
        ),
        (
            Transaction::new().delete(key("GatewaySlot/0-1")),
            "the gateway's own",
        ),
    ] {
        assert!(is_refused(one.commit(refused).await), "{why}");
    }
    assert_eq!(
        &*one.get(&key("m/1")).await.unwrap().unwrap().value,
        b"one:b"
    );
    assert!(is_refused(one.compact(Revision(1)).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_come_into_sight_and_leave_it() {
    let mut world = World::new().await;
    let start = world.put("m/1", "one:a").await;
    let one = world.client("one").await;
    let mut watch = one.watch(Prefix::everything(), start).await.unwrap();
    world.put("m/2", "two:b").await;
    let moved = committed(
        &*world.store,
        Transaction::new()
            .put(key("m/1"), "two:a")
            .put(key("m/2"), "one:b")
            .put(key("m/4"), "two:c"),
    )
    .await;
    let batch = next(&mut watch).await;
    assert_eq!(batch.revision, moved);
    assert_eq!(names(&batch), ["-m/1", "+m/2=one:b"]);
    world.put("m/1", "two:again").await;
    world.put("m/3", "all:now").await;
    assert_eq!(names(&next(&mut watch).await), ["+m/3=all:now"]);
    world.put("m/3", "nobody:now").await;
    assert_eq!(names(&next(&mut watch).await), ["-m/3"]);
    committed(
        &*world.store,
        Transaction::new().delete(key("m/4")).delete(key("m/2")),
    )
    .await;
    assert_eq!(names(&next(&mut watch).await), ["-m/2"]);
    // The same, told of the past.
    let mut again = one.watch(Prefix::everything(), start).await.unwrap();
    assert_eq!(names(&next(&mut again).await), ["-m/1", "+m/2=one:b"]);
    // What is older than what the gateway remembers is gone.
    world.entry.gateway.compact(moved).await.unwrap();
    let mut old = one.watch(Prefix::everything(), start).await.unwrap();
    let told = timeout(LIMIT, old.next()).await.expect("an answer");
    assert!(
        matches!(told, Err(WatchError::Compacted { oldest }) if oldest == moved),
        "{told:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_of_others_do_not_exist() {
    let mut world = World::new().await;
    let (one, two) = (world.client("one").await, world.client("two").await);
    let lease = one.grant(LONG).await.unwrap();
    let at = committed(
        &one,
        Transaction::new().put_with_lease(key("m/1"), "one:alive", lease),
    )
    .await;
    assert!(one.keep_alive(lease).await.is_ok());
    assert!(is_refused(two.keep_alive(lease).await));
    assert!(is_refused(two.revoke(lease).await));
    let attached = Transaction::new().put_with_lease(key("m/2"), "two:x", lease);
    assert!(is_refused(two.commit(attached).await));
    // The cloud's own, which no peer was given.
    let inner = world.store.grant(LONG).await.unwrap();
    assert!(is_refused(one.keep_alive(inner).await));
    assert!(is_refused(one.revoke(inner).await));
    // Its own it may end, and what it held is gone; of a lease that has ended nothing is left over.
    let mut watch = one.watch(Prefix::everything(), at).await.unwrap();
    one.revoke(lease).await.unwrap();
    assert_eq!(names(&next(&mut watch).await), ["-m/1"]);
    assert!(is_refused(one.keep_alive(lease).await));
    one.close().await;
    two.close().await;
    let left = world
        .store
        .range(Range::prefix(&Prefix::everything()))
        .await;
    assert_eq!(left.unwrap().entries, [], "leases and slots leave nothing");
}

/// Two documents always say the same, and a third one is seen by turns, while they are read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_reads_its_documents_as_they_were_at_one_moment() {
    let mut world = World::new().await;
    let one = world.client("one").await;
    let store = world.store.clone();
    let ended = Arc::new(AtomicBool::new(false));
    let write = |number: u32| {
        let whose = if number.is_multiple_of(2) {
            "one"
        } else {
            "two"
        };
        Transaction::new()
            .put(key("m/1"), format!("one:{number}"))
            .put(key("m/2"), format!("one:{number}"))
            .put(key("m/3"), format!("{whose}:{number}"))
    };
    committed(&*store, write(0)).await;
    let _writing = {
        let ended = Arc::clone(&ended);
        Ending(tokio::spawn(async move {
            for number in 1.. {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                committed(&*store, write(number)).await;
                // Now and then nothing happens for a while.
                if number.is_multiple_of(20) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }))
    };
    let mut last = Revision::ZERO;
    let mut different = std::collections::HashSet::new();
    let deadline = Instant::now() + LIMIT;
    while different.len() < 100 {
        assert!(Instant::now() < deadline, "{different:?}");
        let page = one
            .range(Range::prefix(&Prefix::everything()))
            .await
            .unwrap();
        assert!(page.revision >= last, "{page:?}");
        last = page.revision;
        let texts: Vec<&[u8]> = page.entries.iter().map(|entry| &*entry.value).collect();
        assert!(texts.windows(2).all(|two| two[0] == two[1]), "{page:?}");
        let number = std::str::from_utf8(&texts[0]["one:".len()..]).unwrap();
        let is_even = number.parse::<u32>().unwrap().is_multiple_of(2);
        assert_eq!(texts.len(), if is_even { 3 } else { 2 }, "{page:?}");
        different.insert(page.revision);
    }
    ended.store(true, Ordering::Relaxed);
}

/// The owner of a document is changed again and again, while its owner of a moment ago writes it: never does one write
/// what isn't his own any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_looked_at_is_what_is_written() {
    let mut world = World::new().await;
    let start = world.put("m/1", "one:0").await;
    let mut watch = world
        .store
        .watch(Prefix::everything(), start)
        .await
        .unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for name in ["one", "two"] {
        let (peer, done) = (world.client(name).await, Arc::clone(&done));
        writers.push(tokio::spawn(async move {
            let mut written = 0;
            while !done.load(Ordering::Relaxed) {
                let blind = Transaction::new().put(key("m/1"), format!("{name}:mine"));
                match peer.commit(blind).await {
                    Ok(Outcome::Committed(_)) => written += 1,
                    Err(StoreError::Refused { .. }) => {}
                    other => panic!("{other:?}"),
                }
            }
            written
        }));
    }
    let began = Instant::now();
    let mut owners = 0;
    while owners < 100 && began.elapsed() < LIMIT {
        owners += 1;
        let name = if owners % 2 == 0 { "one" } else { "two" };
        let last = world.put("m/1", &format!("{name}:given")).await;
        // Until the other has used it.
        loop {
            let now = world.store.get(&key("m/1")).await.unwrap().unwrap();
            if now.revision > last {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    done.store(true, Ordering::Relaxed);
    for writer in writers {
        assert!(writer.await.unwrap() > 0);
    }
    let last = world.put("m/2", "all:end").await;
    let mut held_by = "one".to_owned();
    loop {
        let batch = next(&mut watch).await;
        if batch.revision == last {
            return;
        }
        for change in batch.changes {
            let Change::Put(entry) = change else { continue };
            if entry.key != key("m/1") {
                continue;
            }
            let text = String::from_utf8(entry.value.to_vec()).unwrap();
            if text.ends_with(":mine") {
                assert_eq!(owner(&entry.value), held_by, "written by who had lost it");
            }
            owner(&entry.value).clone_into(&mut held_by);
        }
    }
}
