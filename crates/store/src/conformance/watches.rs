//! Watches and compaction.

use std::time::Duration;

use futures::future::join_all;

use super::{commit, key, prefix, put};
use crate::{
    Batch, Change, Prefix, Revision, SharedStore, StoreError, Transaction, Watch, WatchError,
};

/// The next batch that has changes.
pub(super) async fn next(watch: &mut Watch) -> Batch {
    loop {
        let batch = watch.next().await.expect("the watch goes on");
        if !batch.changes.is_empty() {
            return batch;
        }
    }
}

/// The batches up to `last`.
pub(super) async fn until(watch: &mut Watch, last: Revision) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    while batches.last().is_none_or(|batch| batch.revision < last) {
        batches.push(next(watch).await);
    }
    batches
}

fn names(batch: &Batch) -> Vec<String> {
    let name = |change: &Change| match change {
        Change::Put(entry) => format!("+{}={}", entry.key, String::from_utf8_lossy(&entry.value)),
        Change::Delete { key } => format!("-{key}"),
    };
    batch.changes.iter().map(name).collect()
}

/// Past and coming transactions, each as one batch with all its changes in order.
pub async fn a_watch_yields_every_transaction_in_order(store: SharedStore) {
    let zero = put(&store, "a/0", "0").await;
    let one = put(&store, "a/1", "1").await;
    let two = commit(
        &store,
        Transaction::new()
            .put(key("b/9"), "2")
            .delete(key("a/0"))
            .put(key("a/1"), "3"),
    )
    .await;
    let mut watch = store.watch(Prefix::everything(), zero).await.unwrap();
    let batch = next(&mut watch).await;
    assert_eq!(
        (batch.revision, names(&batch)),
        (one, vec!["+a/1=1".to_owned()])
    );
    let batch = next(&mut watch).await;
    assert_eq!(batch.revision, two);
    assert_eq!(names(&batch), ["+b/9=2", "-a/0", "+a/1=3"]);
    let Some(Change::Put(entry)) = batch.changes.last() else {
        panic!("the last change was a put")
    };
    assert_eq!(
        store.get(&key("a/1")).await.unwrap().as_ref(),
        Some(entry),
        "a change is the entry as it is stored"
    );
    assert_eq!((entry.revision, entry.created), (two, one));

    let waiting = tokio::spawn(async move { next(&mut watch).await });
    commit(&store, Transaction::new().delete(key("a/none"))).await;
    let three = put(&store, "a/3", "4").await;
    assert_eq!(
        waiting.await.unwrap().revision,
        three,
        "nothing is told of transactions that changed nothing"
    );
}

/// From every revision, a watch yields exactly what came after it.
pub async fn a_watch_resumes_anywhere(store: SharedStore) {
    let start = put(&store, "a/start", "x").await;
    let mut last = start;
    for n in 0..30 {
        last = put(&store, &format!("a/{}", n % 7), &n.to_string()).await;
    }
    let mut whole = store.watch(Prefix::everything(), start).await.unwrap();
    let whole = until(&mut whole, last).await;
    assert_eq!(whole.len(), 30);
    for (seen, batch) in whole.iter().enumerate() {
        let mut rest = store
            .watch(Prefix::everything(), batch.revision)
            .await
            .unwrap();
        let wanted = &whole[seen + 1..];
        if let Some(last) = wanted.last() {
            assert_eq!(
                until(&mut rest, last.revision).await,
                wanted,
                "after {}",
                batch.revision
            );
        }
    }
    let mut future = store
        .watch(Prefix::everything(), last.next())
        .await
        .unwrap();
    put(&store, "a/skipped", "x").await;
    let wanted = put(&store, "a/wanted", "x").await;
    assert_eq!(
        next(&mut future).await.revision,
        wanted,
        "a watch may begin in the future"
    );
}

/// Other keys are left out, even out of the same transaction.
pub async fn a_watch_sees_only_its_prefix(store: SharedStore) {
    let start = put(&store, "x/0", "x").await;
    let mut collection = store
        .watch(Prefix::collection("a").unwrap(), start)
        .await
        .unwrap();
    let mut part = store.watch(prefix("a/1"), start).await.unwrap();
    put(&store, "ab/1", "no").await;
    let mixed = commit(
        &store,
        Transaction::new()
            .put(key("ab/1"), "no")
            .put(key("a/2"), "yes")
            .put(key("b/1"), "no"),
    )
    .await;
    let last = commit(
        &store,
        Transaction::new()
            .put(key("a/10"), "yes")
            .delete(key("ab/1"))
            .put(key("a/1"), "yes"),
    )
    .await;
    let batches = until(&mut collection, last).await;
    assert_eq!(
        batches
            .iter()
            .map(|batch| batch.revision)
            .collect::<Vec<_>>(),
        [mixed, last]
    );
    assert_eq!(names(&batches[0]), ["+a/2=yes"]);
    assert_eq!(names(&batches[1]), ["+a/10=yes", "+a/1=yes"]);
    assert_eq!(names(&next(&mut part).await), ["+a/10=yes", "+a/1=yes"]);
}

/// Dropping the future of `next` loses nothing.
pub async fn a_watch_survives_cancellation(store: SharedStore) {
    let start = put(&store, "a/0", "x").await;
    let mut watch = store.watch(Prefix::everything(), start).await.unwrap();
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for n in 0..200 {
                put(&store, "a/0", &n.to_string()).await;
            }
        }
    });
    let mut seen = start;
    while seen.0 < start.0 + 200 {
        if let Ok(batch) = tokio::time::timeout(Duration::from_micros(50), next(&mut watch)).await {
            assert_eq!(
                batch.revision,
                seen.next(),
                "no batch is lost or told twice"
            );
            seen = batch.revision;
        }
    }
    writer.await.unwrap();
}

/// Watches that begin before, while and after many clients write see the same history, without gaps.
pub async fn watches_agree_under_load(store: SharedStore) {
    const WRITERS: u64 = 8;
    const ROUNDS: u64 = 40;
    let start = put(&store, "load/start", "x").await;
    let last = Revision(start.0 + WRITERS * ROUNDS);
    let follow = || {
        let store = store.clone();
        async move {
            let mut watch = store.watch(Prefix::everything(), start).await.unwrap();
            until(&mut watch, last).await
        }
    };
    let early = tokio::spawn(follow());
    let writers = (0..WRITERS).map(|writer| {
        let store = store.clone();
        async move {
            for round in 0..ROUNDS {
                let (one, two) = (
                    key(&format!("load/{writer}")),
                    key(&format!("pair/{writer}")),
                );
                commit(
                    &store,
                    Transaction::new()
                        .put(one, round.to_string())
                        .put(two, round.to_string()),
                )
                .await;
            }
        }
    });
    let (_, meanwhile) = tokio::join!(join_all(writers), follow());
    let (early, late) = (early.await.unwrap(), follow().await);
    assert_eq!(early.len() as u64, WRITERS * ROUNDS);
    assert!(
        early
            .windows(2)
            .all(|pair| pair[0].revision.next() == pair[1].revision),
        "one batch for each revision"
    );
    assert!(
        early.iter().all(|batch| batch.changes.len() == 2),
        "transactions are not split"
    );
    assert_eq!(early, meanwhile);
    assert_eq!(early, late);
}

/// Compaction takes history only: documents stay, newer watches work, older ones are told.
pub async fn compaction_ends_old_watches_and_nothing_else(store: SharedStore) {
    let start = put(&store, "a/kept", "never touched again").await;
    let mut last = start;
    for n in 0..20 {
        last = put(&store, "a/busy", &n.to_string()).await;
    }
    let deleted = commit(&store, Transaction::new().delete(key("a/busy"))).await;
    put(&store, "a/busy", "anew").await;
    let before = super::all(&store, "").await;

    let future = store.compact(Revision(before.revision.0 + 10)).await;
    assert!(
        matches!(future, Err(StoreError::FutureRevision { .. })),
        "{future:?}"
    );
    store.compact(last).await.unwrap();
    store.compact(last).await.unwrap();
    store.compact(start).await.unwrap();
    assert_eq!(
        super::all(&store, "").await,
        before,
        "documents are as they were"
    );

    let mut fresh = store.watch(Prefix::everything(), last).await.unwrap();
    let batch = next(&mut fresh).await;
    assert_eq!(
        (batch.revision, names(&batch)),
        (deleted, vec!["-a/busy".to_owned()])
    );
    let mut edge = store
        .watch(Prefix::everything(), Revision(last.0 - 1))
        .await
        .unwrap();
    assert_eq!(
        next(&mut edge).await.revision,
        last,
        "the changes of the oldest revision are still there"
    );
    for after in [start, Revision(last.0 - 2)] {
        let mut old = store.watch(Prefix::everything(), after).await.unwrap();
        let told = old.next().await;
        assert!(
            matches!(told, Err(WatchError::Compacted { oldest }) if oldest == last),
            "{told:?}"
        );
    }
    assert_eq!(put(&store, "a/busy", "more").await, before.revision.next());
}

/// What was committed before closing is still told, then the end.
pub async fn closing_ends_a_watch_after_its_last_batch(store: SharedStore) {
    let start = put(&store, "a/0", "x").await;
    let mut watch = store.watch(Prefix::everything(), start).await.unwrap();
    let mut waiting = store
        .watch(Prefix::everything(), start.next())
        .await
        .unwrap();
    let waiting = tokio::spawn(async move { waiting.next().await });
    let last = put(&store, "a/1", "x").await;
    store.close().await;
    assert_eq!(next(&mut watch).await.revision, last);
    for told in [
        watch.next().await,
        watch.next().await,
        waiting.await.unwrap(),
    ] {
        assert!(
            matches!(told, Err(WatchError::Store(StoreError::Closed))),
            "{told:?}"
        );
    }
}
