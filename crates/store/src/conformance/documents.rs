//! Documents, transactions and ranges.

use super::{all, commit, key, put};
use crate::{
    Conflict, LeaseId, MAX_OPERATIONS, MAX_TRANSACTION_BYTES, Outcome, Range, Revision,
    SharedStore, StoreError, Transaction, TransactionError,
};

/// Created, replaced, deleted, created anew: value and revisions are right each time.
pub async fn a_document_has_its_value_and_revisions(store: SharedStore) {
    let name = key("thing/1");
    assert_eq!(store.get(&name).await.unwrap(), None);
    let created = put(&store, "thing/1", "a").await;
    let entry = store.get(&name).await.unwrap().expect("it was put");
    assert_eq!(
        (&entry.key, &*entry.value, entry.lease),
        (&name, b"a".as_slice(), None)
    );
    assert_eq!((entry.revision, entry.created), (created, created));

    let replaced = put(&store, "thing/1", "b").await;
    let entry = store.get(&name).await.unwrap().expect("it was put");
    assert_eq!(
        (&*entry.value, entry.revision, entry.created),
        (b"b".as_slice(), replaced, created)
    );

    let deleted = commit(&store, Transaction::new().delete(name.clone())).await;
    assert_eq!(store.get(&name).await.unwrap(), None);
    assert!(created < replaced && replaced < deleted);

    let again = put(&store, "thing/1", "c").await;
    let entry = store.get(&name).await.unwrap().expect("it was put");
    assert_eq!(
        (entry.revision, entry.created),
        (again, again),
        "a document written anew is a new one"
    );
}

/// Each changing transaction gets the next revision; others get the present one.
pub async fn only_changes_raise_the_revision(store: SharedStore) {
    let first = put(&store, "thing/1", "a").await;
    assert_eq!(commit(&store, Transaction::new()).await, first);
    assert_eq!(
        commit(&store, Transaction::new().delete(key("thing/none"))).await,
        first
    );
    assert_eq!(
        commit(&store, Transaction::new().present(&key("thing/1"))).await,
        first
    );
    let conflict = store
        .commit(
            Transaction::new()
                .absent(&key("thing/1"))
                .put(key("thing/1"), "x"),
        )
        .await
        .unwrap();
    assert!(matches!(conflict, Outcome::Conflict(_)));
    assert_eq!(all(&store, "").await.revision, first);
    assert_eq!(
        put(&store, "thing/1", "a").await,
        first.next(),
        "the same value again is a change"
    );
    let both = commit(
        &store,
        Transaction::new()
            .delete(key("thing/none"))
            .delete(key("thing/1")),
    )
    .await;
    assert_eq!(both, first.next().next());
    assert_eq!(all(&store, "").await.revision, both);
}

/// All operations at one revision, or none.
pub async fn a_transaction_happens_wholly_or_not_at_all(store: SharedStore) {
    put(&store, "a/old", "1").await;
    let at = commit(
        &store,
        Transaction::new()
            .absent(&key("a/new"))
            .put(key("a/new"), "2")
            .put(key("b/new"), "3")
            .delete(key("a/old")),
    )
    .await;
    let page = all(&store, "").await;
    assert_eq!(page.revision, at);
    assert_eq!(
        page.entries
            .iter()
            .map(|entry| entry.key.as_str())
            .collect::<Vec<_>>(),
        ["a/new", "b/new"]
    );
    assert!(
        page.entries
            .iter()
            .all(|entry| entry.revision == at && entry.created == at)
    );

    let refused = store
        .commit(
            Transaction::new()
                .present(&key("a/new"))
                .absent(&key("b/new"))
                .put(key("c/new"), "4")
                .delete(key("a/new")),
        )
        .await
        .unwrap();
    assert!(matches!(refused, Outcome::Conflict(_)));
    assert_eq!(all(&store, "").await, page, "a conflict changes nothing");
}

/// Every condition holds when it should, and a conflict tells the state of exactly the keys that didn't compare.
pub async fn conflicts_show_what_is_there(store: SharedStore) {
    let (there, gone) = (key("thing/there"), key("thing/gone"));
    let at = put(&store, "thing/there", "a").await;
    let entry = store.get(&there).await.unwrap();
    let holds = |transaction: Transaction| {
        let store = store.clone();
        async move { store.commit(transaction).await.unwrap() == Outcome::Committed(at) }
    };
    assert!(holds(Transaction::new().revision_is(&there, at)).await);
    assert!(holds(Transaction::new().present(&there)).await);
    assert!(holds(Transaction::new().absent(&gone)).await);
    assert!(
        holds(Transaction::new().revision_is(&gone, Revision::ZERO)).await,
        "revision zero means absent"
    );
    assert!(!holds(Transaction::new().revision_is(&there, at.next())).await);
    assert!(!holds(Transaction::new().revision_is(&there, Revision::ZERO)).await);
    assert!(!holds(Transaction::new().revision_is(&gone, at)).await);
    assert!(!holds(Transaction::new().present(&gone)).await);

    let outcome = store
        .commit(
            Transaction::new()
                .present(&there)
                .revision_is(&gone, at)
                .present(&gone)
                .absent(&there)
                .put(key("thing/x"), "never"),
        )
        .await
        .unwrap();
    let Outcome::Conflict(mut conflicts) = outcome else {
        panic!("three compares don't hold")
    };
    conflicts.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(
        conflicts,
        [
            Conflict {
                key: gone,
                current: None
            },
            Conflict {
                key: there,
                current: entry
            }
        ]
    );
}

/// Invalid transactions are errors, and do nothing.
pub async fn what_no_store_accepts_is_refused(store: SharedStore) {
    let before = put(&store, "thing/1", "a").await;
    let twice = store
        .commit(
            Transaction::new()
                .put(key("thing/2"), "a")
                .delete(key("thing/2")),
        )
        .await;
    assert!(matches!(
        twice,
        Err(StoreError::Transaction(TransactionError::KeyTwice(_)))
    ));
    let many = |n| {
        (0..n).fold(Transaction::new(), |all, n| {
            all.put(key(&format!("many/{n}")), "x")
        })
    };
    let too_many = store.commit(many(MAX_OPERATIONS + 1)).await;
    assert!(matches!(
        too_many,
        Err(StoreError::Transaction(TransactionError::TooMany(_)))
    ));
    let large = store
        .commit(Transaction::new().put(key("thing/2"), vec![0; MAX_TRANSACTION_BYTES]))
        .await;
    assert!(matches!(
        large,
        Err(StoreError::Transaction(TransactionError::TooLarge(_)))
    ));
    let lease = LeaseId(987_654_321);
    let no_lease = store
        .commit(Transaction::new().put(key("thing/2"), "a").put_with_lease(
            key("thing/3"),
            "a",
            lease,
        ))
        .await;
    assert!(matches!(no_lease, Err(StoreError::LeaseNotFound { lease: told }) if told == lease));
    assert_eq!(all(&store, "").await.revision, before);
    assert_eq!(
        commit(&store, many(MAX_OPERATIONS)).await,
        before.next(),
        "the largest one is accepted"
    );
}

/// Prefixes end where they should, order is by bytes, pages join without gap or overlap.
pub async fn ranges_are_ordered_and_paged(store: SharedStore) {
    let names = ["a/1", "a/10", "a/1/x", "a/2", "a/~", "a-b/1", "ab/1", "b/1"];
    for name in names {
        put(&store, name, name).await;
    }
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    let read = |range: Range| {
        let store = store.clone();
        async move {
            let page = store.range(range).await.unwrap();
            (
                page.entries
                    .into_iter()
                    .map(|entry| entry.key.as_str().to_owned())
                    .collect::<Vec<_>>(),
                page.more,
            )
        }
    };
    assert_eq!(
        read(Range::prefix(&super::prefix(""))).await,
        (sorted.iter().map(ToString::to_string).collect(), false)
    );
    for begin in ["a", "a/", "a/1", "a/1/", "ab/1", "c"] {
        let wanted: Vec<_> = sorted
            .iter()
            .filter(|name| name.starts_with(begin))
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            read(Range::prefix(&super::prefix(begin))).await,
            (wanted, false),
            "prefix {begin}"
        );
    }
    let between: Vec<_> = sorted
        .iter()
        .filter(|name| **name >= "a/10" && **name < "ab/1")
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        read(Range::between(&key("a/10"), &key("ab/1"))).await,
        (between, false)
    );
    assert_eq!(
        read(Range::between(&key("b/1"), &key("a/1"))).await,
        (vec![], false),
        "an empty range"
    );
    assert!(
        !read(Range::prefix(&super::prefix("a/")).limit(5)).await.1,
        "exactly as many as the limit"
    );

    for limit in 1..=3 {
        let (mut found, mut range) = (Vec::new(), Range::prefix(&super::prefix("")).limit(limit));
        loop {
            let (page, more) = read(range.clone()).await;
            assert!(page.len() == limit || !more, "only the last page is short");
            let Some(last) = page.last() else { break };
            range = range.after(&key(last));
            found.extend(page);
            if !more {
                break;
            }
        }
        assert_eq!(found, sorted, "pages of {limit}");
    }
}

/// The store gives back the bytes it got.
pub async fn values_may_be_empty_large_and_binary(store: SharedStore) {
    let binary: Vec<u8> = (0..=255).collect();
    let large = vec![0xa5; MAX_TRANSACTION_BYTES - 1024];
    for value in [vec![], binary, large] {
        let at = commit(
            &store,
            Transaction::new().put(key("thing/1"), value.clone()),
        )
        .await;
        let entry = store
            .get(&key("thing/1"))
            .await
            .unwrap()
            .expect("it was put");
        assert_eq!(entry.revision, at);
        assert!(
            entry.value == value,
            "a value of {} bytes came back as another",
            value.len()
        );
    }
}

/// After closing, everything says so.
pub async fn a_closed_store_refuses(store: SharedStore) {
    put(&store, "thing/1", "a").await;
    store.close().await;
    store.close().await;
    let put = store
        .commit(Transaction::new().put(key("thing/2"), "b"))
        .await;
    assert!(matches!(put, Err(StoreError::Closed)), "{put:?}");
    let got = store.get(&key("thing/1")).await;
    assert!(matches!(got, Err(StoreError::Closed)), "{got:?}");
    let granted = store.grant(std::time::Duration::from_secs(5)).await;
    assert!(matches!(granted, Err(StoreError::Closed)), "{granted:?}");
}
