//! Backups are whole or refused, and a store that was filled in part only says so.
#![allow(clippy::panic)] // a test that panics has failed

use store::conformance::etcd_cluster::EtcdCluster;
use store::snapshot::{self, SnapshotError};
use store::{EtcdOptions, EtcdStore, Key, Prefix, Range, SqliteStore, Store, Transaction};

/// More than a page when read, several transactions when written.
const DOCUMENTS: usize = 1200;

fn key(text: &str) -> Key {
    text.parse().expect("a key")
}

fn empty(folder: &tempfile::TempDir, name: &str) -> SqliteStore {
    SqliteStore::open(folder.path().join(name)).expect("a new store")
}

async fn put(store: &dyn Store, name: &str, value: impl Into<Vec<u8>>) {
    let write = Transaction::new().put(key(name), value.into());
    let outcome = store.commit(write).await.expect("the store works");
    outcome.committed().expect("nothing to conflict with");
}

/// A store with documents of all sizes, and a mark of somebody alive.
async fn full(folder: &tempfile::TempDir) -> SqliteStore {
    let store = empty(folder, "full");
    for begin in (0..DOCUMENTS).step_by(100) {
        let write = (begin..begin + 100).fold(Transaction::new(), |write, number| {
            let text = "ä\\\"\n ".repeat(number % 60);
            let text = serde_json::to_string(&text).expect("JSON");
            write.put(
                key(&format!("Thing/{number:05}")),
                format!("{{\"text\":{text}}}"),
            )
        });
        let outcome = store.commit(write).await.expect("the store works");
        outcome.committed().expect("nothing to conflict with");
    }
    put(&store, "Large/1", format!("\"{}\"", "x".repeat(700_000))).await;
    put(&store, "Large/2", format!("\"{}\"", "y".repeat(700_000))).await;
    let lease = store.grant(std::time::Duration::from_secs(600)).await;
    let alive = Transaction::new().put_with_lease(key("Alive/1"), "{}", lease.expect("a lease"));
    let outcome = store.commit(alive).await.expect("the store works");
    outcome.committed().expect("nothing to conflict with");
    store
}

/// Keys and documents, without what vanishes by itself.
async fn content(store: &dyn Store) -> Vec<(Key, Vec<u8>)> {
    let page = store.range(Range::prefix(&Prefix::everything())).await;
    let entries = page.expect("the store works").entries;
    entries
        .into_iter()
        .filter(|entry| entry.lease.is_none())
        .map(|entry| (entry.key, entry.value.to_vec()))
        .collect()
}

#[tokio::test]
async fn a_backup_restored_is_what_was_backed_up() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = full(&folder).await;
    let mut file = Vec::new();
    let written = snapshot::write(&store, &mut file).await.expect("a backup");
    assert_eq!(written.documents, DOCUMENTS as u64 + 2);
    for line in file
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        serde_json::from_slice::<serde_json::Value>(line).expect("every line is JSON");
    }

    let other = empty(&folder, "other");
    let read = snapshot::read(&mut file.as_slice(), &other).await;
    assert_eq!(read.expect("it is restored"), written);
    assert_eq!(content(&other).await, content(&store).await);
    assert!(
        !snapshot::is_unfinished(&other)
            .await
            .expect("the store works")
    );

    // Not over anything.
    let again = snapshot::read(&mut file.as_slice(), &other).await;
    assert!(
        matches!(again, Err(SnapshotError::NotEmpty(_))),
        "{again:?}"
    );
    assert_eq!(content(&other).await, content(&store).await);
}

#[tokio::test]
async fn a_damaged_backup_is_refused_wherever_the_damage_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = empty(&folder, "small");
    for number in 0..5 {
        put(
            &store,
            &format!("Thing/{number}"),
            format!("{{\"n\":{number}}}"),
        )
        .await;
    }
    let mut file = Vec::new();
    let whole = snapshot::write(&store, &mut file).await.expect("a backup");
    let target = empty(&folder, "target");
    for cut in 0..file.len() - 1 {
        let read = snapshot::read(&mut &file[..cut], &target).await;
        assert!(read.is_err(), "cut after {cut} bytes");
    }
    for at in 0..file.len() {
        let mut damaged = file.clone();
        damaged[at] ^= 1;
        let read = snapshot::read(&mut damaged.as_slice(), &target).await;
        assert!(read.is_err(), "byte {at} changed: {read:?}");
    }
    // What these attempts left is known as such, and no obstacle.
    assert!(
        snapshot::is_unfinished(&target)
            .await
            .expect("the store works")
    );
    let out = snapshot::write(&target, &mut Vec::new()).await;
    assert!(matches!(out, Err(SnapshotError::Unfinished)), "{out:?}");
    let read = snapshot::read(&mut file.as_slice(), &target).await;
    assert_eq!(read.expect("it is restored"), whole);
    assert_eq!(content(&target).await, content(&store).await);
}

#[tokio::test]
async fn a_copy_that_failed_half_way_is_done_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = full(&folder).await;
    put(&store, "Thing/00777", "no JSON").await;
    let target = empty(&folder, "target");
    let failed = snapshot::copy(&store, &target).await;
    assert!(
        matches!(&failed, Err(SnapshotError::NotJson(at)) if *at == key("Thing/00777")),
        "{failed:?}"
    );
    assert!(
        snapshot::is_unfinished(&target)
            .await
            .expect("the store works")
    );

    put(&store, "Thing/00777", "{}").await;
    snapshot::copy(&store, &target).await.expect("a copy");
    assert_eq!(content(&target).await, content(&store).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_go_to_etcd_and_back() {
    if !EtcdCluster::possible() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().to_owned();
    let started = tokio::task::spawn_blocking(move || EtcdCluster::start(&path, 1, None)).await;
    let cluster = started.expect("a cluster");
    let options = EtcdOptions::new(cluster.endpoints());
    let etcd = EtcdStore::open(options).await.expect("a store");
    let store = full(&folder).await;
    let there = snapshot::copy(&store, &etcd).await.expect("a copy");
    assert_eq!(content(&etcd).await, content(&store).await);
    let back = empty(&folder, "back");
    assert_eq!(snapshot::copy(&etcd, &back).await.expect("a copy"), there);
    assert_eq!(content(&back).await, content(&store).await);
    etcd.close().await;
}
