//! What a cluster of three promises beyond the suite: it survives the loss of a member, says when it can't go on, is
//! shared by several clouds, and never tells a lie about a transaction whose answer was lost.
#![allow(clippy::panic)] // a test that panics has failed

use std::time::{Duration, Instant};

use store::conformance::etcd_cluster::EtcdCluster;
use store::{
    EtcdOptions, EtcdStore, Key, Outcome, Prefix, Revision, SharedStore, StoreError, Transaction,
};

const LIMIT: Duration = Duration::from_secs(60);

async fn cluster() -> Option<(EtcdCluster, tempfile::TempDir)> {
    if !EtcdCluster::possible() {
        return None;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().to_owned();
    let started = tokio::task::spawn_blocking(move || EtcdCluster::start(&path, 3, None)).await;
    Some((started.expect("a cluster"), folder))
}

async fn store(cluster: &EtcdCluster, prefix: &str) -> SharedStore {
    store_with(cluster, prefix, |_| {}).await
}

async fn store_with(
    cluster: &EtcdCluster,
    prefix: &str,
    change: impl FnOnce(&mut EtcdOptions),
) -> SharedStore {
    let mut options = EtcdOptions::new(cluster.endpoints());
    options.prefix = prefix.to_owned();
    change(&mut options);
    std::sync::Arc::new(EtcdStore::open(options).await.expect("a store"))
}

fn key(text: &str) -> Key {
    text.parse().expect("a key")
}

/// Counters counted by compare-and-swap, and a watch, while one member after the other is killed or hangs: what was
/// acknowledged is there, nothing is counted twice, and the watch yields each revision once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_done_twice_while_members_fail() {
    let Some((mut cluster, _folder)) = cluster().await else {
        return;
    };
    let store = store(&cluster, "one").await;
    let name = key("counter/1");
    let begun = store
        .commit(Transaction::new().put(name.clone(), "0"))
        .await;
    let Ok(Outcome::Committed(start)) = begun else {
        panic!("{begun:?}")
    };
    let mut watch = store
        .watch(Prefix::everything(), start)
        .await
        .expect("a watch");
    let (done, mut stop) = tokio::sync::oneshot::channel::<()>();
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            let (mut at, mut count, mut doubts) = (start, 0_u64, 0);
            while stop.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty) {
                let next = Transaction::new()
                    .revision_is(&name, at)
                    .put(name.clone(), (count + 1).to_string());
                match store.commit(next).await {
                    Ok(Outcome::Committed(revision)) => (at, count) = (revision, count + 1),
                    Ok(Outcome::Conflict(conflicts)) => {
                        panic!("nobody else writes, at {at}: {conflicts:?}")
                    }
                    Err(StoreError::InDoubt { .. }) => {
                        doubts += 1;
                        // The one way that is left: look.
                        if let Ok(Some(entry)) = store.get(&name).await
                            && entry.revision != at
                        {
                            (at, count) = (entry.revision, count + 1);
                        }
                    }
                    Err(StoreError::Unavailable { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            (at, count, doubts)
        }
    });
    for round in 0..3 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let leader = cluster.leader();
        let began = Instant::now();
        if round == 1 {
            cluster.freeze(leader, true);
            tokio::time::sleep(Duration::from_secs(3)).await;
            cluster.freeze(leader, false);
        } else {
            cluster.kill(leader);
            let wrote = store
                .commit(Transaction::new().put(key("other/1"), round.to_string()))
                .await;
            println!(
                "leader killed: written after {:?}: {wrote:?}",
                began.elapsed()
            );
            cluster.restart(leader);
        }
    }
    drop(done);
    let (last, count, doubts) = writer.await.expect("the writer");
    println!("{count} counted, {doubts} in doubt");
    let value = store.get(&key("counter/1")).await.expect("it answers");
    let value = value.expect("it is there");
    assert_eq!(value.revision, last);
    assert_eq!(&*value.value, count.to_string().as_bytes());
    let (mut seen, mut told) = (start, 0_u64);
    while seen < last {
        let next = tokio::time::timeout(LIMIT, watch.next())
            .await
            .expect("the watch hangs");
        let batch = next.expect("the watch goes on");
        assert!(batch.revision > seen, "{} after {seen}", batch.revision);
        seen = batch.revision;
        told += batch
            .changes
            .iter()
            .filter(|change| *change.key() == key("counter/1"))
            .count() as u64;
    }
    assert_eq!(told, count, "the watch yielded each count once");
    store.close().await;
}

/// A member that says nothing more, and is not gone either, keeps no watch from what others write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_of_a_silent_member_goes_on_with_another() {
    let Some((cluster, _folder)) = cluster().await else {
        return;
    };
    // Nothing but that silence tells of it: no connection is tried for as long as this test lasts.
    let quiet = |options: &mut EtcdOptions| options.ping = Duration::from_secs(24 * 3600);
    let store = store_with(&cluster, "silent", quiet).await;
    let mut watch = store
        .watch(Prefix::everything(), Revision::ZERO)
        .await
        .expect("a watch");
    // All was asked of the first so far.
    cluster.freeze(0, true);
    let began = Instant::now();
    let written = Transaction::new().put(key("word/1"), "said");
    let at = match store.commit(written).await {
        Ok(Outcome::Committed(at)) => at,
        other => panic!("{other:?}"),
    };
    println!("written {:?} after the member fell silent", began.elapsed());
    let mut seen = Revision::ZERO;
    while seen < at {
        let next = tokio::time::timeout(LIMIT, watch.next()).await;
        seen = next.expect("the watch hangs").expect("it goes on").revision;
    }
    println!("heard {:?} after the member fell silent", began.elapsed());
    cluster.freeze(0, false);
    store.close().await;
}

/// Without a majority, calls fail in time and say so; with it, the same store goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_calls_fail_in_time() {
    let Some((mut cluster, _folder)) = cluster().await else {
        return;
    };
    let store = store(&cluster, "one").await;
    let put = || Transaction::new().put(key("a/1"), "x");
    assert!(store.commit(put()).await.is_ok());
    cluster.kill(0);
    cluster.kill(1);
    let began = Instant::now();
    let read = store.get(&key("a/1")).await;
    assert!(
        matches!(read, Err(StoreError::Unavailable { .. })),
        "{read:?}"
    );
    let wrote = store.commit(put()).await;
    let failed = matches!(
        wrote,
        Err(StoreError::Unavailable { .. } | StoreError::InDoubt { .. })
    );
    assert!(failed, "{wrote:?}");
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
    cluster.restart(0);
    cluster.restart(1);
    let until = Instant::now() + LIMIT;
    while let Err(error) = store.commit(put()).await {
        assert!(Instant::now() < until, "{error}");
    }
    store.close().await;
}

/// Two clouds share a cluster: neither sees the other, and who waits for a revision that the other has made is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clouds_share_a_cluster_unseen() {
    let Some((cluster, _folder)) = cluster().await else {
        return;
    };
    let (one, two) = (store(&cluster, "one").await, store(&cluster, "two").await);
    let put = |text: &str| Transaction::new().put(key("a/1"), text.to_owned());
    assert!(one.commit(put("of one")).await.is_ok());
    let set = store::cache::CacheSet::builder()
        .start(one.clone())
        .await
        .expect("caches");
    assert!(two.commit(put("of two")).await.is_ok());
    // Changes nothing, and is of a revision that only the other cloud has a change at.
    let nothing = one.commit(Transaction::new().delete(key("a/none"))).await;
    let Ok(Outcome::Committed(at)) = nothing else {
        panic!("{nothing:?}")
    };
    let began = Instant::now();
    let waited = tokio::time::timeout(LIMIT, set.wait_for(at)).await;
    assert!(
        waited.is_ok_and(|waited| waited.is_ok()),
        "nobody told of progress"
    );
    println!("told of progress after {:?}", began.elapsed());
    let found = one
        .get(&key("a/1"))
        .await
        .expect("it answers")
        .expect("it is there");
    assert_eq!(&*found.value, b"of one");
    let page = one
        .range(store::Range::prefix(&Prefix::everything()))
        .await
        .expect("it answers");
    assert_eq!(page.entries.len(), 1);
    assert!(page.revision > Revision::ZERO);
    one.close().await;
    two.close().await;
}
