//! History is kept as long as promised and no longer; who comes too late is told, and the cache reads everything again.

#![allow(clippy::panic, reason = "a test says so when a promise is broken")]

use std::time::Duration;

use bytes::Bytes;
use rusqlite::Connection;
use store::cache::{CacheSet, Document, DocumentError};
use store::{
    Change, Key, Prefix, Revision, SharedStore, SqliteOptions, SqliteStore, Store, Transaction,
    WatchError,
};

const DEADLINE: Duration = Duration::from_secs(60);

struct Text(String);

impl Document for Text {
    const COLLECTION: &'static str = "a";

    fn decode(value: &[u8]) -> Result<Self, DocumentError> {
        Ok(Self(std::str::from_utf8(value)?.to_owned()))
    }

    fn encode(&self) -> Result<Bytes, DocumentError> {
        Ok(self.0.clone().into())
    }
}

fn key(id: &str) -> Key {
    Key::new("a", id).expect("a valid key")
}

async fn put(store: &dyn Store, id: &str, value: String) -> Revision {
    let outcome = store
        .commit(Transaction::new().put(key(id), value))
        .await
        .expect("the store works");
    outcome.committed().expect("nothing to conflict with")
}

#[tokio::test]
async fn old_history_is_discarded_and_its_space_used_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let database = folder.path().join("db");
    let options = SqliteOptions {
        history_revisions: 100,
        ..SqliteOptions::default()
    };
    let store = SqliteStore::open_with(&database, options).expect("a new store");
    let first = put(&store, "kept", "x".to_owned()).await;
    let mut last = first;
    for n in 0..2000 {
        last = put(
            &store,
            &format!("{}", n % 5),
            format!("{n}{}", "x".repeat(1000)),
        )
        .await;
        if n % 7 == 0 {
            let deleted = store
                .commit(Transaction::new().delete(key(&format!("{}", n % 5))))
                .await;
            last = deleted
                .expect("the store works")
                .committed()
                .expect("nothing to conflict with");
        }
    }
    let mut recent = store
        .watch(Prefix::everything(), Revision(last.0 - 100))
        .await
        .expect("the store works");
    assert_eq!(
        recent.next().await.expect("it is kept").revision,
        Revision(last.0 - 99)
    );
    let mut old = store
        .watch(Prefix::everything(), first)
        .await
        .expect("the store works");
    assert!(
        matches!(old.next().await, Err(WatchError::Compacted { oldest }) if oldest.0 > last.0 - 120)
    );
    assert!(
        store
            .get(&key("kept"))
            .await
            .expect("the store works")
            .is_some(),
        "documents are no history"
    );
    store.close().await;
    let rows = Connection::open(&database).expect("it is a database");
    let rows = rows
        .query_one("SELECT count(*) FROM versions", [], |row| {
            row.get::<_, i64>(0)
        })
        .expect("an answer");
    assert!(rows <= 130, "{rows} versions are kept");
}

#[tokio::test]
async fn a_slow_watch_reads_on_from_the_database() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = SqliteStore::open(folder.path().join("db")).expect("a new store");
    let start = put(&store, "start", String::new()).await;
    let mut slow = store
        .watch(Prefix::everything(), start)
        .await
        .expect("the store works");
    let mut part = store
        .watch(Prefix::new("a/7").expect("a prefix"), start)
        .await
        .expect("the store works");
    // More than is kept in memory, by number of transactions and by bytes.
    let mut last = start;
    for n in 0..300 {
        let write = (0..40).fold(Transaction::new(), |write, m| {
            write.put(key(&format!("{n}/{m}")), vec![b'x'; 1000])
        });
        last = store
            .commit(write)
            .await
            .expect("the store works")
            .committed()
            .expect("nothing to conflict with");
    }
    let mut seen = start;
    while seen < last {
        let batch = tokio::time::timeout(DEADLINE, slow.next())
            .await
            .expect("it goes on")
            .expect("it goes on");
        assert_eq!((batch.revision, batch.changes.len()), (seen.next(), 40));
        seen = batch.revision;
    }
    let mut found = 0;
    while found < 11 {
        let batch = tokio::time::timeout(DEADLINE, part.next())
            .await
            .expect("it goes on")
            .expect("it goes on");
        assert!(
            batch.changes.iter().all(
                |change| matches!(change, Change::Put(entry) if entry.key.id().starts_with('7'))
            )
        );
        found += 1;
    }
}

/// A store whose watches fail as told, to see what the cache makes of it.
mod faulty {
    use super::*;
    use parking_lot::Mutex;
    use std::sync::Arc;
    use store::{Batch, StoreError, Watch, WatchSource, testing::Interposed};

    /// The fault that watches have next, each yielded once.
    pub type Faults = Arc<Mutex<Vec<WatchError>>>;

    pub struct Faulty {
        pub store: SharedStore,
        pub faults: Faults,
        pub bell: Arc<tokio::sync::Notify>,
    }

    struct FaultyWatch(Watch, Faults, Arc<tokio::sync::Notify>);

    #[async_trait::async_trait]
    impl WatchSource for FaultyWatch {
        async fn next(&mut self) -> Result<Batch, WatchError> {
            loop {
                if let Some(fault) = self.1.lock().pop() {
                    return Err(fault);
                }
                tokio::select! {
                    batch = self.0.next() => return batch,
                    () = self.2.notified() => {}
                }
            }
        }
    }

    #[async_trait::async_trait]
    impl Interposed for Faulty {
        fn behind(&self) -> &SharedStore {
            &self.store
        }

        async fn watch(&self, prefix: Prefix, after: Revision) -> Result<Watch, StoreError> {
            let watch = self.store.watch(prefix, after).await?;
            Ok(Watch::new(FaultyWatch(
                watch,
                self.faults.clone(),
                self.bell.clone(),
            )))
        }
    }
}

#[tokio::test]
async fn the_cache_survives_compaction_and_failures_of_its_watch() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store: SharedStore =
        std::sync::Arc::new(SqliteStore::open(folder.path().join("db")).expect("a new store"));
    for id in ["same", "changes", "goes"] {
        put(&*store, id, "old".to_owned()).await;
    }
    let (faults, bell) = (
        faulty::Faults::default(),
        std::sync::Arc::new(tokio::sync::Notify::new()),
    );
    let mut builder = CacheSet::builder();
    let cache = builder.cache::<Text>();
    let faulty = faulty::Faulty {
        store: store.clone(),
        faults: faults.clone(),
        bell: bell.clone(),
    };
    let set = builder
        .start(std::sync::Arc::new(faulty))
        .await
        .expect("the store works");
    let mut changes = cache.changes();
    while changes.try_next().is_some() {}

    let broken = || {
        let source = std::sync::Arc::new(std::io::Error::other("a broken cable"));
        WatchError::Store(store::StoreError::Database {
            path: "x".into(),
            doing: "watching",
            source,
        })
    };
    let compacted = WatchError::Compacted {
        oldest: Revision(3),
    };
    // The last of them comes first.
    for next in [
        vec![compacted.clone()],
        vec![broken()],
        vec![compacted, broken()],
    ] {
        // The faults are in place before the writes, so that the watch can't tell of them in its own way.
        faults.lock().extend(next);
        let value = format!("new {}", cache.len());
        let write = Transaction::new()
            .put(key("changes"), value)
            .delete(key("goes"))
            .put(key("comes"), "x");
        let outcome = store.commit(write).await.expect("the store works");
        bell.notify_one();
        let last = outcome.committed().expect("nothing to conflict with");
        tokio::time::timeout(DEADLINE, set.wait_for(last))
            .await
            .expect("it recovers")
            .expect("it goes on");
        let mut told: Vec<_> = std::iter::from_fn(|| changes.try_next()).collect();
        told.sort_by(|a, b| a.id().cmp(b.id()));
        let names: Vec<_> = told.iter().map(|changed| changed.id()).collect();
        assert_eq!(
            names,
            ["changes", "comes", "goes"],
            "what is as it was is not told again"
        );
        assert!(cache.get("goes").is_none() && cache.get("comes").is_some());

        let undo = Transaction::new()
            .put(key("goes"), "again")
            .delete(key("comes"));
        let last = store
            .commit(undo)
            .await
            .expect("the store works")
            .committed()
            .expect("nothing to conflict with");
        set.wait_for(last).await.expect("it goes on");
        while changes.try_next().is_some() {}
    }
    assert!(faults.lock().is_empty(), "every fault has happened");
}
