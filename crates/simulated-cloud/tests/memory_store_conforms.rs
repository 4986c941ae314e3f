//! The store in memory passes the suite that every store has to pass.

use simulated_cloud::store::MemoryStore;
use store::conformance::Fixture;

async fn fixture() -> Fixture {
    Fixture::new(MemoryStore::default(), ())
}

store::conformance_tests!(fixture);
