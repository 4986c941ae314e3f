//! Many clients at once.

use std::time::Duration;

use futures::future::join_all;

use super::{all, commit, key, put};
use crate::{Outcome, Revision, SharedStore, Transaction};

/// Compares are exact: of many writers that saw the same revision one succeeds.
pub async fn exactly_one_writer_wins_each_round(store: SharedStore) {
    const WRITERS: usize = 16;
    const ROUNDS: usize = 25;
    let name = key("race/1");
    let mut seen = Revision::ZERO;
    for round in 0..ROUNDS {
        let writers = (0..WRITERS).map(|writer| {
            let attempt = Transaction::new()
                .revision_is(&name, seen)
                .put(name.clone(), format!("{round}/{writer}"));
            let store = store.clone();
            tokio::spawn(async move { (writer, store.commit(attempt).await.unwrap()) })
        });
        let mut winners = Vec::new();
        for result in join_all(writers).await {
            match result.unwrap() {
                (writer, Outcome::Committed(revision)) => winners.push((writer, revision)),
                (_, Outcome::Conflict(conflicts)) => {
                    let now = conflicts[0]
                        .current
                        .as_ref()
                        .expect("somebody has written it");
                    assert!(now.revision > seen);
                }
            }
        }
        let [(winner, revision)] = winners[..] else {
            panic!("round {round}: {winners:?} all won")
        };
        let entry = store
            .get(&name)
            .await
            .unwrap()
            .expect("somebody has written it");
        assert_eq!(
            (entry.revision, &*entry.value),
            (revision, format!("{round}/{winner}").as_bytes())
        );
        seen = revision;
    }
}

/// Counters incremented by compare-and-swap end where they must.
pub async fn no_update_is_lost(store: SharedStore) {
    const WRITERS: u64 = 8;
    const INCREMENTS: u64 = 25;
    let name = key("counter/1");
    put(&store, "counter/1", "0").await;
    let writers = (0..WRITERS).map(|_| {
        let (store, name) = (store.clone(), name.clone());
        tokio::spawn(async move {
            for _ in 0..INCREMENTS {
                let mut entry = store.get(&name).await.unwrap().unwrap();
                loop {
                    let count: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
                    let next = Transaction::new()
                        .revision_is(&name, entry.revision)
                        .put(name.clone(), (count + 1).to_string());
                    match store.commit(next).await.unwrap() {
                        Outcome::Committed(_) => break,
                        Outcome::Conflict(conflicts) => {
                            entry = conflicts
                                .into_iter()
                                .next()
                                .and_then(|conflict| conflict.current)
                                .unwrap();
                        }
                    }
                }
            }
        })
    });
    for writer in join_all(writers).await {
        writer.unwrap();
    }
    let entry = store.get(&name).await.unwrap().unwrap();
    assert_eq!(
        std::str::from_utf8(&entry.value).unwrap(),
        (WRITERS * INCREMENTS).to_string()
    );
}

/// A range is of one moment: whoever reads between transfers sees the same sum always.
pub async fn transfers_never_show_half(store: SharedStore) {
    const TOTAL: i64 = 1000;
    commit(
        &store,
        Transaction::new()
            .put(key("account/a"), TOTAL.to_string())
            .put(key("account/b"), "0"),
    )
    .await;
    let transfers = tokio::spawn({
        let store = store.clone();
        async move {
            for moved in 1..=200 {
                let both = Transaction::new()
                    .put(key("account/a"), (TOTAL - moved).to_string())
                    .put(key("account/b"), moved.to_string());
                commit(&store, both).await;
            }
        }
    });
    while !transfers.is_finished() {
        let page = all(&store, "account/").await;
        let amount = |n: usize| -> i64 {
            std::str::from_utf8(&page.entries[n].value)
                .unwrap()
                .parse()
                .unwrap()
        };
        assert_eq!(amount(0) + amount(1), TOTAL);
        assert!(
            page.entries
                .iter()
                .all(|entry| entry.revision == page.entries[0].revision)
        );
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    transfers.await.unwrap();
}
