//! What a database means to the next program that opens it: the same content, or a clear refusal.

#![allow(clippy::panic, reason = "a test says so when a promise is broken")]

use std::path::PathBuf;
use std::time::Duration;

use rusqlite::Connection;
use store::{
    Change, Entry, Key, LeaseId, Prefix, Range, Revision, SqliteStore, Store, StoreError,
    Transaction,
};

const LONG: Duration = Duration::from_secs(600);

fn key(text: &str) -> Key {
    text.parse().expect("a valid key")
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let database = folder.path().join("db");
    (folder, database)
}

async fn everything(store: &SqliteStore) -> store::Page {
    store
        .range(Range::prefix(&Prefix::everything()))
        .await
        .expect("the store works")
}

#[tokio::test]
async fn a_reopened_store_goes_on_where_it_ended() {
    let (folder, database) = folder();
    let store = SqliteStore::open(&database).expect("a new store");
    let lease = store.grant(LONG).await.expect("the store works");
    let write = Transaction::new()
        .put(key("a/1"), "x")
        .put_with_lease(key("a/2"), "y", lease);
    let start = store
        .commit(write)
        .await
        .expect("the store works")
        .committed()
        .expect("nothing to conflict with");
    let last = store
        .commit(Transaction::new().put(key("a/1"), "z"))
        .await
        .expect("the store works");
    let before = everything(&store).await;
    store.close().await;
    let mut files: Vec<_> = std::fs::read_dir(folder.path())
        .expect("it is there")
        .map(|f| f.expect("a file").file_name())
        .collect();
    files.sort();
    assert_eq!(
        files,
        ["db", "db.lock"],
        "a closed store is one file, and its lock"
    );

    let store = SqliteStore::open(&database).expect("it opens again");
    assert_eq!(everything(&store).await, before);
    let mut watch = store
        .watch(Prefix::everything(), start)
        .await
        .expect("the store works");
    let batch = watch.next().await.expect("history is there");
    assert_eq!(
        Ok(batch.revision),
        last.committed(),
        "history is still there"
    );
    store.keep_alive(lease).await.expect("leases live on");
    assert_ne!(store.grant(LONG).await.expect("the store works"), lease);
    store.revoke(lease).await.expect("leases live on");
    assert_eq!(everything(&store).await.entries.len(), 1);
    drop(store);
    SqliteStore::open(&database).expect("dropping a store lets go of the database");
}

#[tokio::test]
async fn a_lease_ends_in_the_next_program_too() {
    let (_folder, database) = folder();
    let store = SqliteStore::open(&database).expect("a new store");
    let lease = store
        .grant(Duration::from_secs(2))
        .await
        .expect("the store works");
    let write = Transaction::new().put_with_lease(key("a/1"), "x", lease);
    let at = store
        .commit(write)
        .await
        .expect("the store works")
        .committed()
        .expect("nothing to conflict with");
    store.close().await;
    let store = SqliteStore::open(&database).expect("it opens again");
    let mut watch = store
        .watch(Prefix::everything(), at)
        .await
        .expect("the store works");
    let ended = tokio::time::timeout(Duration::from_secs(30), watch.next())
        .await
        .expect("it ends");
    assert_eq!(
        ended.expect("the watch goes on").changes,
        [Change::Delete { key: key("a/1") }]
    );
}

#[test]
fn a_second_program_is_kept_out() {
    let (_folder, database) = folder();
    let first = SqliteStore::open(&database).expect("a new store");
    let second = SqliteStore::open(&database).expect_err("only one may have it");
    assert!(matches!(second, StoreError::Locked { .. }));
    let told = second.to_string();
    assert!(
        told.contains(&format!("process {}", std::process::id())),
        "says who has it: {told}"
    );
    drop(first);
    SqliteStore::open(&database).expect("the first has let go");
}

#[tokio::test]
async fn a_version_1_database_is_upgraded() {
    let (_folder, database) = folder();
    let old = Connection::open(&database).expect("a new database");
    old.execute_batch(include_str!("fixtures/schema_1.sql"))
        .expect("the fixture is valid");
    drop(old);

    let store = SqliteStore::open(&database).expect("it is upgraded");
    let entry = |name, value: &'static str, revision, created, lease| Entry {
        key: key(name),
        value: value.into(),
        revision: Revision(revision),
        created: Revision(created),
        lease,
    };
    let page = everything(&store).await;
    let wanted = [
        entry("a/leased", "x", 5, 5, Some(LeaseId(3))),
        entry("a/replaced", "new", 3, 2, None),
    ];
    assert_eq!(
        (page.entries.as_slice(), page.revision),
        (wanted.as_slice(), Revision(5))
    );
    let mut watch = store
        .watch(Prefix::everything(), Revision(1))
        .await
        .expect("the store works");
    for (revision, changes) in [(2, 2), (3, 1), (4, 1), (5, 1)] {
        let batch = watch.next().await.expect("history is there");
        assert_eq!(
            (batch.revision, batch.changes.len()),
            (Revision(revision), changes)
        );
    }
    store.revoke(LeaseId(3)).await.expect("the lease is there");
    store.close().await;
    let upgraded = Connection::open(&database).expect("it is a database");
    let index = "SELECT count(*) FROM sqlite_schema WHERE name = 'entries_by_lease'";
    assert_eq!(
        upgraded
            .query_one(index, [], |row| row.get::<_, i64>(0))
            .expect("an answer"),
        1
    );
    drop(upgraded);
    SqliteStore::open(&database).expect("an upgraded store opens again");
}

#[test]
fn what_is_not_ours_is_refused_untouched() {
    let (_folder, database) = folder();
    drop(SqliteStore::open(&database).expect("a new store"));
    let newer = Connection::open(&database).expect("it is a database");
    newer
        .execute(
            "UPDATE meta SET value = 99 WHERE name = 'schema_version'",
            [],
        )
        .expect("an update");
    drop(newer);
    let refused = SqliteStore::open(&database).expect_err("too new");
    assert!(
        matches!(refused, StoreError::NewerSchema { found: 99, .. }),
        "{refused}"
    );
    assert!(
        refused.to_string().contains("start a newer version"),
        "says what to do: {refused}"
    );

    let other = database.with_file_name("other");
    Connection::open(&other)
        .expect("a new database")
        .execute_batch("CREATE TABLE songs (title TEXT)")
        .expect("a table");
    let refused = SqliteStore::open(&other).expect_err("something else");
    assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused}");

    let text = database.with_file_name("text");
    std::fs::write(&text, "this is no database at all\n".repeat(100)).expect("a file");
    let refused = SqliteStore::open(&text).expect_err("no database");
    assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused}");

    let nowhere =
        SqliteStore::open(database.with_file_name("missing").join("db")).expect_err("no folder");
    assert!(matches!(nowhere, StoreError::Database { .. }), "{nowhere}");
}
