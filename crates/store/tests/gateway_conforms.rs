//! A store seen through a gateway, by a peer that may see and write all of it, passes the suite that every store has to
//! pass: of compaction only the gateway's owner decides.

use std::sync::Arc;

use async_trait::async_trait;
use store::conformance::Fixture;
use store::testing::Interposed;
use store::{Gateway, Peer, Revision, SharedStore, SqliteStore, StoreError};

use crate::gateways::{Entry, TrustedOnly, client};

struct Compacting {
    client: SharedStore,
    gateway: Arc<Gateway>,
}

#[async_trait]
impl Interposed for Compacting {
    fn behind(&self) -> &SharedStore {
        &self.client
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        self.gateway.compact(before).await
    }
}

async fn fixture() -> Fixture {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let behind = SqliteStore::open(folder.path().join("db")).expect("a new store");
    let behind: SharedStore = Arc::new(behind);
    let mut entry = Entry::open(&behind, TrustedOnly).await;
    let endpoint = entry.listen(Peer::Trusted).await;
    let store = Compacting {
        client: Arc::new(client(vec![endpoint]).await),
        gateway: Arc::clone(&entry.gateway),
    };
    Fixture::new(store, (entry, folder))
}

store::conformance_tests!(fixture);
