//! The store for programs that are not trusted with all of it: a host of machines sees and writes what concerns it alone.
//!
//! ```text
//!  EtcdStore ──gRPC──▶ Gateway ──▶ any Store        hosts, a few keys each
//!                        │
//!                        ├─ Rules: who sees a document, who may write it, what follows from that
//!                        └─ hub: one watch of the store, handed out to all who watch
//! ```
//!
//! The language is the part of etcd v3 that [`EtcdStore`](crate::EtcdStore) speaks, so that the client is the one that
//! is proven on real clusters: deadlines, several endpoints, transactions of unknown outcome, watches that go on. To it
//! the entry points of a cloud are the members of a cluster.
//!
//! What a [`Peer`] may not see isn't there for it: not in a range, not in a conflict, not in a watch. A document that
//! comes into its sight is put, one that leaves it is deleted, at the revision where that happened. With a document it sees
//! what that refers to. A write is allowed by what the document was and will be, and happens only if it still is what was
//! looked at. What follows from it in documents that the peer can't write is written with it.
//!
//! History is what the hub remembers. Who asks for older changes, or comes from another entry point that knows more, is
//! told that history is gone, and reads its few documents again.

mod allowances;
mod calls;
mod hub;
mod index;
mod leases;
mod rpc;
mod rules;
#[cfg(feature = "testing")]
mod showing;
mod sight;
mod status;
mod told;
mod transaction;

use std::sync::Arc;

use http_body::Body as HttpBody;
use tokio::task::JoinHandle;

use crate::etcd::keyspace::Keyspace;
use crate::{Key, Revision, SharedStore, StoreError};
use allowances::Allowances;
use hub::Hub;
pub use rules::{Audience, Peer, Permit, Refusal, Rules, Write};
#[cfg(feature = "testing")]
pub use showing::Showing;

/// Below which prefix clients find the documents: what [`EtcdOptions`](crate::EtcdOptions) have by default.
const PREFIX: &str = "stratus";

/// See the module.
pub struct Gateway {
    shared: Arc<Shared>,
    hub: JoinHandle<()>,
}

struct Shared {
    store: SharedStore,
    rules: Arc<dyn Rules>,
    keys: Keyspace,
    hub: Hub,
    allowances: Allowances,
}

impl Gateway {
    /// One in front of `store`, which it reads whole, once.
    ///
    /// # Errors
    /// If the store can't be read.
    pub async fn open(store: SharedStore, rules: Arc<dyn Rules>) -> Result<Self, StoreError> {
        let shared = Arc::new(Shared {
            hub: Hub::default(),
            allowances: Allowances::default(),
            keys: Keyspace::new(PREFIX)?,
            store,
            rules,
        });
        hub::load(&shared).await?;
        let hub = tokio::spawn(hub::run(Arc::clone(&shared)));
        Ok(Self { shared, hub })
    }

    /// Answers a call of `peer`, whoever that was proven to be.
    pub async fn answer<B>(
        &self,
        peer: Peer,
        request: http::Request<B>,
    ) -> http::Response<tonic::body::Body>
    where
        B: HttpBody<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    {
        rpc::answer(Arc::clone(&self.shared), peer, request).await
    }

    /// Whether `peer` sees the document at `key` now, which is there.
    #[must_use]
    pub fn sees(&self, peer: &Peer, key: &Key) -> bool {
        self.shared.hub.sees(peer, key)
    }

    /// [`Store::compact`](crate::Store::compact), of which those who watch here are told. No peer can do it.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        self.shared.store.compact(before).await?;
        self.shared.hub.forget(before);
        Ok(())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.hub.abort();
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Gateway")
    }
}
