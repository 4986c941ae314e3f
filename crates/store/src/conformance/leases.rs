//! Leases.

use std::time::{Duration, Instant};

use super::watches::next;
use super::{all, commit, key, put};
use crate::{Change, LeaseId, Outcome, Prefix, SharedStore, StoreError, Transaction};

const LONG: Duration = Duration::from_secs(600);

/// All keys go at one revision, and only they.
pub async fn revoking_deletes_all_keys_at_once(store: SharedStore) {
    let lease = store.grant(LONG).await.unwrap();
    let other = store.grant(LONG).await.unwrap();
    assert_ne!(lease, other);
    let attached = Transaction::new()
        .put_with_lease(key("a/1"), "x", lease)
        .put_with_lease(key("a/2"), "x", lease)
        .put_with_lease(key("a/3"), "x", other)
        .put(key("a/4"), "x");
    let at = commit(&store, attached).await;
    put(&store, "a/5", "x").await;
    assert_eq!(
        store.get(&key("a/1")).await.unwrap().unwrap().lease,
        Some(lease)
    );

    let before = all(&store, "").await.revision;
    let mut watch = store.watch(Prefix::everything(), at.next()).await.unwrap();
    store.revoke(lease).await.unwrap();
    let batch = next(&mut watch).await;
    assert_eq!(batch.revision, before.next());
    let mut gone: Vec<_> = batch.changes;
    gone.sort_by(|a, b| a.key().cmp(b.key()));
    assert_eq!(
        gone,
        [
            Change::Delete { key: key("a/1") },
            Change::Delete { key: key("a/2") }
        ]
    );
    let left = all(&store, "").await;
    assert_eq!(left.revision, before.next());
    assert_eq!(
        left.entries
            .iter()
            .map(|entry| entry.key.as_str())
            .collect::<Vec<_>>(),
        ["a/3", "a/4", "a/5"]
    );
}

/// The last put decides which lease a key goes with.
pub async fn a_put_moves_a_key_between_leases(store: SharedStore) {
    let (one, two) = (
        store.grant(LONG).await.unwrap(),
        store.grant(LONG).await.unwrap(),
    );
    commit(
        &store,
        Transaction::new()
            .put_with_lease(key("a/freed"), "x", one)
            .put_with_lease(key("a/moved"), "x", one),
    )
    .await;
    commit(
        &store,
        Transaction::new()
            .put(key("a/freed"), "y")
            .put_with_lease(key("a/moved"), "y", two),
    )
    .await;
    let before = all(&store, "").await;
    store.revoke(one).await.unwrap();
    assert_eq!(
        all(&store, "").await,
        before,
        "a lease without keys leaves no trace"
    );
    store.revoke(two).await.unwrap();
    let left = all(&store, "").await;
    assert_eq!(
        left.entries
            .iter()
            .map(|entry| entry.key.as_str())
            .collect::<Vec<_>>(),
        ["a/freed"]
    );
}

/// Not before its time, soon after it, and not at all while kept alive.
pub async fn a_lease_expires_unless_kept_alive(store: SharedStore) {
    let asked = Duration::from_millis(1500);
    let (dies, lives) = (
        store.grant(asked).await.unwrap(),
        store.grant(asked).await.unwrap(),
    );
    let began = Instant::now();
    let ttl = store.keep_alive(dies).await.unwrap();
    assert!(ttl >= asked, "granted less than asked: {ttl:?}");
    let attached = Transaction::new()
        .put_with_lease(key("a/dies"), "x", dies)
        .put_with_lease(key("a/lives"), "x", lives);
    let at = commit(&store, attached).await;
    let mut watch = store.watch(Prefix::everything(), at).await.unwrap();
    let mut tick = tokio::time::interval(ttl / 8);
    let mut expired = None;
    // Another whole time to live beyond the expiry of the one shows that the other really lives on.
    while expired.is_none_or(|at: Instant| at.elapsed() < ttl + ttl / 2) {
        tokio::select! {
            batch = next(&mut watch) => {
                assert_eq!(batch.changes, [Change::Delete { key: key("a/dies") }]);
                assert!(expired.replace(Instant::now()).is_none(), "expired twice");
                assert!(began.elapsed() >= ttl, "expired after {:?} instead of {ttl:?}", began.elapsed());
            }
            _ = tick.tick() => {
                store.keep_alive(lives).await.expect("kept alive in time");
            }
        }
    }
    let gone = store.keep_alive(dies).await;
    assert!(
        matches!(gone, Err(StoreError::LeaseNotFound { lease }) if lease == dies),
        "{gone:?}"
    );
    assert_eq!(all(&store, "").await.entries.len(), 1);
    // Left alone, the other goes too.
    assert_eq!(
        next(&mut watch).await.changes,
        [Change::Delete {
            key: key("a/lives")
        }]
    );
}

/// A lease that is gone can't be used again; a conflict is told before that.
pub async fn ended_leases_are_refused(store: SharedStore) {
    let lease = store.grant(LONG).await.unwrap();
    store.revoke(lease).await.unwrap();
    let before = put(&store, "a/1", "x").await;
    let gone = |result: Result<(), StoreError>| matches!(result, Err(StoreError::LeaseNotFound { lease: told }) if told == lease);
    assert!(gone(store.revoke(lease).await));
    assert!(gone(store.keep_alive(lease).await.map(drop)));
    let attach = || {
        Transaction::new()
            .put(key("a/2"), "x")
            .put_with_lease(key("a/1"), "y", lease)
    };
    assert!(gone(store.commit(attach()).await.map(drop)));
    let conflict = store.commit(attach().absent(&key("a/1"))).await.unwrap();
    assert!(matches!(conflict, Outcome::Conflict(_)));
    assert_eq!(all(&store, "").await.revision, before);
    assert!(matches!(
        store.keep_alive(LeaseId(4_711)).await,
        Err(StoreError::LeaseNotFound { .. })
    ));
    assert_ne!(
        store.grant(LONG).await.unwrap(),
        lease,
        "names of leases are never given out again"
    );
}
