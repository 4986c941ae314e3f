//! Without space, writes fail clearly, reads go on, and with space again so do writes; nothing acknowledged is lost.

#![allow(clippy::panic, reason = "a test says so when a promise is broken")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use store::{
    Change, Key, Outcome, Prefix, Range, Revision, SqliteOptions, SqliteStore, Store, StoreError,
    Transaction,
};

/// Set in the process that has a small disk of its own.
const SMALL_DISK: &str = "STORE_SMALL_DISK";

fn key(id: &str) -> Key {
    Key::new("a", id).expect("a valid key")
}

/// Write until there is no space. Returns how many were acknowledged.
async fn fill(store: &SqliteStore, name: &str, bytes: usize) -> usize {
    for n in 0..100_000 {
        let write = Transaction::new().put(key(&format!("{name}-{n:06}")), vec![b'x'; bytes]);
        match store.commit(write).await {
            Ok(Outcome::Committed(_)) => {}
            Err(StoreError::Full { .. }) => return n,
            other => panic!("neither written nor full: {other:?}"),
        }
    }
    panic!("the disk is never full");
}

async fn written(store: &SqliteStore, name: &str) -> usize {
    let prefix = Prefix::new(&format!("a/{name}-")).expect("a valid prefix");
    store
        .range(Range::prefix(&prefix))
        .await
        .expect("reads go on")
        .entries
        .len()
}

#[tokio::test]
async fn a_full_database_recovers_when_it_may_grow() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let database = folder.path().join("db");
    let small = SqliteOptions {
        max_bytes: Some(1024 * 1024),
        ..SqliteOptions::default()
    };
    let store = SqliteStore::open_with(&database, small).expect("a new store");
    let watch_from = Revision(1);
    assert!(store.trouble().is_none());
    let done = fill(&store, "large", 20_000).await;
    assert!(matches!(store.trouble(), Some(StoreError::Full { .. })));
    assert!(done > 10, "{done} documents in a megabyte");
    assert_eq!(written(&store, "large").await, done);
    let mut watch = store
        .watch(Prefix::everything(), watch_from)
        .await
        .expect("watches go on");
    for n in 0..done {
        assert_eq!(
            watch.next().await.expect("watches go on").revision,
            Revision(watch_from.0 + 1 + n as u64)
        );
    }

    // In one batch with large ones, small ones still find space.
    let store = Arc::new(store);
    let mixed: Vec<_> = (0..16)
        .map(|n| {
            let store = store.clone();
            let bytes = if n % 2 == 0 { 500_000 } else { 10 };
            let write = Transaction::new().put(key(&format!("mixed-{n:02}")), vec![b'x'; bytes]);
            tokio::spawn(async move { (bytes, store.commit(write).await) })
        })
        .collect();
    for mixed in mixed {
        match mixed.await.expect("no panic") {
            (10, Ok(Outcome::Committed(_))) | (500_000, Err(StoreError::Full { .. })) => {}
            other => panic!("a large one kept a small one out: {other:?}"),
        }
    }
    assert_eq!(written(&store, "mixed").await, 8);
    store.close().await;

    let store = SqliteStore::open(&database).expect("it opens again");
    assert_eq!(written(&store, "large").await, done);
    let more = store
        .commit(Transaction::new().put(key("more"), vec![b'x'; 20_000]))
        .await
        .expect("there is space");
    assert!(matches!(more, Outcome::Committed(_)));
    assert!(store.trouble().is_none());
    store.close().await;
    assert!(matches!(store.trouble(), Some(StoreError::Closed)));
}

/// The same on a real file system, 3 MiB of memory, in a mount namespace that goes with the process.
#[test]
fn a_full_file_system_recovers_when_there_is_space() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mount = format!(
        "mount -t tmpfs -o size=3m tmpfs '{}'",
        folder.path().display()
    );
    let probe = Command::new("unshare")
        .args(["--mount", "sh", "-c", &mount])
        .output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        println!("skipped: needs root and unshare(1) for a file system of its own");
        return;
    }
    let test = std::env::current_exe().expect("this test has a path");
    let run = format!(
        "{mount} && exec \"$0\" --exact a_full_disk_stops_only_writes::on_a_small_disk --ignored --nocapture"
    );
    let child = Command::new("unshare")
        .args(["--mount", "sh", "-c", &run])
        .arg(test)
        .env(SMALL_DISK, folder.path())
        .output()
        .expect("this test runs");
    let told = String::from_utf8_lossy(&child.stdout);
    print!("{told}");
    eprint!("{}", String::from_utf8_lossy(&child.stderr));
    // Success also means that there is no test of that name.
    assert!(child.status.success() && told.contains("1 passed"));
}

#[tokio::test]
#[ignore = "the process with a small disk that the other test starts"]
async fn on_a_small_disk() {
    let Some(disk) = std::env::var_os(SMALL_DISK) else {
        println!("skipped: only the other test gives it a disk");
        return;
    };
    let disk = Path::new(&disk);
    let ballast = disk.join("ballast");
    std::fs::write(&ballast, vec![0; 1024 * 1024]).expect("there is space for it");
    let store = SqliteStore::open(disk.join("db")).expect("a new store");
    // As brief as this it may have ended before it is used.
    let mut seen = loop {
        let lease = store.grant(Duration::from_millis(50)).await;
        let lease = lease.expect("the store works");
        let leased = Transaction::new().put_with_lease(key("leased"), "x", lease);
        match store.commit(leased).await {
            Ok(Outcome::Committed(at)) => break at,
            Err(StoreError::LeaseNotFound { .. }) => {}
            other => panic!("there is space: {other:?}"),
        }
    };
    let mut watch = store
        .watch(Prefix::everything(), seen)
        .await
        .expect("watches go on");
    // Two rounds: a store that recovered once can do it again.
    for name in ["one", "two"] {
        let done = fill(&store, name, 10_000).await;
        assert!(done > 5, "{done} documents");
        for _ in 0..3 {
            let refused = store
                .commit(Transaction::new().put(key("more"), vec![b'x'; 50_000]))
                .await;
            assert!(
                matches!(refused, Err(StoreError::Full { .. })),
                "{refused:?}"
            );
        }
        assert_eq!(written(&store, name).await, done, "reads go on");
        if name == "one" {
            std::fs::remove_file(&ballast).expect("it is there");
            // The lease ends too, however often its end did not fit. Nothing committed meanwhile is missing.
            let leased = Change::Delete { key: key("leased") };
            loop {
                let batch = tokio::time::timeout(Duration::from_secs(60), watch.next()).await;
                let batch = batch.expect("the lease ends").expect("watches go on");
                assert_eq!(batch.revision, seen.next());
                seen = batch.revision;
                if batch.changes.contains(&leased) {
                    break;
                }
            }
        }
    }
    let before: Vec<usize> = vec![written(&store, "one").await, written(&store, "two").await];
    drop(store);
    let store =
        SqliteStore::open(disk.join("db")).expect("a full disk doesn't keep it from opening");
    assert_eq!(
        before,
        [written(&store, "one").await, written(&store, "two").await],
        "nothing acknowledged is lost"
    );
}
