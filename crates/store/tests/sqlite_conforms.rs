//! The embedded store passes the suite that every store has to pass.

use store::SqliteStore;
use store::conformance::Fixture;

async fn fixture() -> Fixture {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = SqliteStore::open(folder.path().join("db")).expect("a new store");
    Fixture::new(store, folder)
}

store::conformance_tests!(fixture);
