//! The watch cache and `update`, on top of any store.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::future::join_all;

use super::{all, commit, key, put};
use crate::cache::{Cache, CacheSet, Changed, Direction, Document, DocumentError, IndexTerms};
use crate::{Edit, SharedStore, Transaction, UpdateError, update};

/// `<owner> <number>`
#[derive(Debug, PartialEq, Eq)]
struct Thing {
    owner: String,
    number: u64,
}

impl Document for Thing {
    const COLLECTION: &'static str = "thing";

    fn decode(value: &[u8]) -> Result<Self, DocumentError> {
        let (owner, number) = std::str::from_utf8(value)?
            .split_once(' ')
            .ok_or("no space")?;
        Ok(Self {
            owner: owner.to_owned(),
            number: number.parse()?,
        })
    }

    fn encode(&self) -> Result<Bytes, DocumentError> {
        Ok(format!("{} {}", self.owner, self.number).into())
    }

    fn index(&self, terms: &mut IndexTerms) {
        terms.add("owner", &self.owner);
        terms.weigh("owner", "number", self.number);
        terms.add(
            "parity",
            if self.number.is_multiple_of(2) {
                "even"
            } else {
                "odd"
            },
        );
    }
}

async fn things(store: &SharedStore) -> (Cache<Thing>, CacheSet) {
    let mut builder = CacheSet::builder();
    let cache = builder.cache::<Thing>();
    (
        cache,
        builder.start(store.clone()).await.expect("the store works"),
    )
}

fn ids(documents: &[std::sync::Arc<crate::cache::Versioned<Thing>>]) -> Vec<&str> {
    documents.iter().map(|document| document.id()).collect()
}

/// Commit, wait for its revision, read: it is there.
pub async fn a_writer_reads_what_it_wrote(store: SharedStore) {
    put(&store, "thing/before", "alice 1").await;
    let (cache, set) = things(&store).await;
    assert_eq!(
        cache.get("before").expect("what was there is there").number,
        1
    );
    let writers = (0..8).map(|writer| {
        let (store, set, cache) = (store.clone(), set.clone(), cache.clone());
        tokio::spawn(async move {
            let id = format!("w{writer}");
            for number in 0..20 {
                let at = put(&store, &format!("thing/{id}"), &format!("bob {number}")).await;
                set.wait_for(at).await.unwrap();
                let seen = cache.get(&id).expect("it was written");
                assert_eq!((seen.number, seen.revision), (number, at));
            }
            let at = commit(
                &store,
                Transaction::new().delete(key(&format!("thing/{id}"))),
            )
            .await;
            set.wait_for(at).await.unwrap();
            assert!(cache.get(&id).is_none());
        })
    });
    for writer in join_all(writers).await {
        writer.unwrap();
    }
    assert_eq!(cache.len(), 1);
    let last = all(&store, "").await.revision;
    store.close().await;
    assert!(
        set.wait_for(last.next()).await.is_err(),
        "a wait that can't end says so"
    );
}

/// Started in the midst of writes, and with `update` from many sides: in the end cache and store are the same.
pub async fn caches_agree_with_the_store_under_load(store: SharedStore) {
    for n in 0..20 {
        put(&store, &format!("thing/{n:02}"), "nobody 0").await;
    }
    let writers: Vec<_> = (0..6_usize)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for round in 0..40_usize {
                    let n = (writer * 7 + round * 3) % 20;
                    let id = format!("{n:02}");
                    let edit = |thing: &mut Thing| -> Result<Edit, std::convert::Infallible> {
                        thing.number += 1;
                        thing.owner = format!("w{writer}");
                        Ok(Edit::Save)
                    };
                    match update(&*store, &id, edit).await {
                        Ok(updated) => assert!(updated.document.number > 0),
                        Err(UpdateError::Absent(_)) => {
                            put(&store, &format!("thing/{n:02}"), "anew 1").await;
                        }
                        Err(error) => panic!("{error}"),
                    }
                    if round % 10 == writer {
                        commit(
                            &store,
                            Transaction::new().delete(key(&format!("thing/{n:02}"))),
                        )
                        .await;
                    }
                }
            })
        })
        .collect();
    let (cache, set) = things(&store).await;
    for writer in join_all(writers).await {
        writer.unwrap();
    }
    let page = all(&store, "thing/").await;
    set.wait_for(page.revision).await.unwrap();
    let cached: Vec<_> = cache
        .all()
        .iter()
        .map(|thing| (thing.key.clone(), thing.revision, thing.created))
        .collect();
    let stored: Vec<_> = page
        .entries
        .iter()
        .map(|entry| (entry.key.clone(), entry.revision, entry.created))
        .collect();
    assert_eq!(cached, stored);
    let unchanged = update::<Thing, ()>(&*store, cache.all()[0].id(), |_thing| Ok(Edit::Unchanged))
        .await
        .unwrap();
    assert_eq!(unchanged.revision, cache.all()[0].revision);
    assert_eq!(
        all(&store, "").await.revision,
        page.revision,
        "nothing to change writes nothing"
    );
}

/// However slow a follower is, it ends with the state of now, removals included, and never has more to look at than
/// there are documents.
pub async fn changes_tell_the_last_state_of_everything(store: SharedStore) {
    put(&store, "thing/initial", "alice 1").await;
    let (cache, set) = things(&store).await;
    let mut changes = cache.changes();
    let first = changes.next().await;
    assert_eq!(
        (
            first.id().to_owned(),
            first.present().map(|thing| thing.number)
        ),
        ("initial".to_owned(), Some(1))
    );
    assert!(changes.try_next().is_none());

    let mut last = put(&store, "thing/initial", "alice 2").await;
    for round in 0..30 {
        last = put(
            &store,
            &format!("thing/{}", round % 3),
            &format!("bob {round}"),
        )
        .await;
        put(&store, &format!("thing/short-{round}"), "x 1").await;
        last = last.max(
            commit(
                &store,
                Transaction::new().delete(key(&format!("thing/short-{round}"))),
            )
            .await,
        );
    }
    last = last.max(commit(&store, Transaction::new().delete(key("thing/initial"))).await);
    set.wait_for(last).await.unwrap();
    assert!(
        changes.pending() <= 4,
        "{} documents wait to be looked at",
        changes.pending()
    );
    let mut told = BTreeMap::new();
    while let Some(changed) = changes.try_next() {
        let id = changed.id().to_owned();
        assert!(
            told.insert(id.clone(), changed.present().map(|thing| thing.number))
                .is_none(),
            "{id} was told twice"
        );
    }
    let wanted = [
        ("0", Some(27)),
        ("1", Some(28)),
        ("2", Some(29)),
        ("initial", None),
    ];
    assert_eq!(
        told,
        wanted.map(|(id, number)| (id.to_owned(), number)).into()
    );

    let waiting = tokio::spawn(async move { changes.next().await.id().to_owned() });
    put(&store, "thing/late", "bob 1").await;
    assert_eq!(waiting.await.unwrap(), "late");
}

/// A document of a second type.
struct Other(u64);

impl Document for Other {
    const COLLECTION: &'static str = "other";

    fn decode(value: &[u8]) -> Result<Self, DocumentError> {
        Ok(Self(std::str::from_utf8(value)?.parse()?))
    }

    fn encode(&self) -> Result<Bytes, DocumentError> {
        Ok(self.0.to_string().into())
    }

    fn index(&self, _terms: &mut IndexTerms) {}
}

/// Who sees a part of a transaction in one cache sees the rest of it in another, whichever they look at first.
pub async fn caches_change_together(store: SharedStore) {
    let mut builder = CacheSet::builder();
    let (things, others) = (builder.cache::<Thing>(), builder.cache::<Other>());
    let set = builder.start(store.clone()).await.expect("the store works");
    let done = Arc::new(AtomicBool::new(false));
    let reader = std::thread::spawn({
        let done = done.clone();
        move || {
            let thing = || things.get("1").map_or(0, |thing| thing.number);
            let other = || others.get("1").map_or(0, |other| other.0);
            while !done.load(Ordering::Relaxed) {
                let (first, second) = (thing(), other());
                assert!(first <= second, "{first} of the things, then {second}");
                let (first, second) = (other(), thing());
                assert!(first <= second, "{first} of the others, then {second}");
            }
        }
    });
    for number in 1..=400_u64 {
        let transaction = Transaction::new()
            .put(key("thing/1"), format!("alice {number}"))
            .put(key("other/1"), number.to_string());
        let revision = commit(&store, transaction).await;
        set.wait_for(revision).await.expect("it follows");
    }
    done.store(true, Ordering::Relaxed);
    assert!(reader.join().is_ok(), "the reader saw half a transaction");
}

/// Documents are found under the terms they have now, in order, from both ends.
pub async fn indexes_follow_their_documents(store: SharedStore) {
    let (cache, set) = things(&store).await;
    let mut last = crate::Revision::ZERO;
    for n in 0..9 {
        last = put(
            &store,
            &format!("thing/{n}"),
            &format!("{} {n}", if n < 5 { "alice" } else { "bob" }),
        )
        .await;
    }
    set.wait_for(last).await.unwrap();
    assert_eq!(
        ids(&cache.by_index("owner", "alice")),
        ["0", "1", "2", "3", "4"]
    );
    assert_eq!(cache.count_by_index("parity", "odd"), 4);
    let sum = |owner: &str| cache.sum_by_index("owner", owner, "number");
    assert_eq!((sum("alice"), sum("bob"), sum("nobody")), (10, 26, 0));
    assert_eq!(cache.sum_by_index("parity", "odd", "number"), 0);
    let changed = put(&store, "thing/8", "alice 100").await;
    let gone = commit(&store, Transaction::new().delete(key("thing/4"))).await;
    set.wait_for(gone.max(changed)).await.unwrap();
    assert_eq!((sum("alice"), sum("bob")), (106, 18));
    for (id, value) in [("4", "alice 4"), ("8", "bob 8")] {
        last = put(&store, &format!("thing/{id}"), value).await;
    }
    set.wait_for(last).await.unwrap();
    assert_eq!((sum("alice"), sum("bob")), (10, 26));
    assert_eq!(
        ids(&cache.page(Bound::Excluded("2"), Direction::Forward, 3)),
        ["3", "4", "5"]
    );
    assert_eq!(
        ids(&cache.page(Bound::Included("2"), Direction::Backward, 9)),
        ["2", "1", "0"]
    );
    assert_eq!(
        ids(&cache.page(Bound::Unbounded, Direction::Backward, 2)),
        ["8", "7"]
    );
    let even = cache.page_by_index(
        "parity",
        "even",
        Bound::Excluded("6"),
        Direction::Backward,
        2,
    );
    assert_eq!(ids(&even), ["4", "2"]);
    let gone = commit(
        &store,
        Transaction::new()
            .put(key("thing/1"), "bob 2")
            .delete(key("thing/4")),
    )
    .await;
    set.wait_for(gone).await.unwrap();
    assert_eq!(ids(&cache.by_index("owner", "alice")), ["0", "2", "3"]);
    assert_eq!(
        ids(&cache.by_index("owner", "bob")),
        ["1", "5", "6", "7", "8"]
    );
    assert_eq!(
        ids(&cache.by_index("parity", "even")),
        ["0", "1", "2", "6", "8"]
    );
    assert_eq!(
        (
            cache.count_by_index("owner", "nobody"),
            cache.count_by_index("none", "x")
        ),
        (0, 0)
    );
}

/// What can't be decoded is counted and not shown, but never said to be gone.
pub async fn unreadable_documents_are_left_out(store: SharedStore) {
    put(&store, "thing/bad", "gibberish").await;
    put(&store, "thing/good", "alice 1").await;
    put(&store, "other/1", "no cache for it").await;
    let (cache, set) = things(&store).await;
    assert_eq!((cache.len(), cache.unreadable()), (1, 1));
    assert!(cache.get("bad").is_none());
    let mut changes = cache.changes();
    while changes.try_next().is_some() {}

    let last = commit(
        &store,
        Transaction::new()
            .put(key("thing/bad"), "bob 2")
            .put(key("thing/good"), "?"),
    )
    .await;
    set.wait_for(last).await.unwrap();
    assert_eq!(cache.get("bad").expect("readable now").number, 2);
    assert_eq!((cache.len(), cache.unreadable()), (1, 1));
    let mut told = [changes.next().await, changes.next().await];
    told.sort_by(|a, b| a.id().cmp(b.id()));
    assert!(matches!(&told[0], Changed::Present(thing) if thing.number == 2));
    assert!(matches!(&told[1], Changed::Unreadable(id) if &**id == "good"));
    let refused = update::<Thing, ()>(&*store, "good", |_thing| Ok(Edit::Save)).await;
    assert!(
        matches!(refused, Err(UpdateError::Document { .. })),
        "what can't be read is not overwritten"
    );
}
