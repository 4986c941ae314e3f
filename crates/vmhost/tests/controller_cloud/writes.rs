//! The store, with what a test does to writes.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use store::{Operation, Outcome, SharedStore, StoreError, Transaction, testing::Interposed};

/// What becomes of a write before it is done; an error is its answer.
type Meddle = dyn Fn(&str) -> BoxFuture<'static, Result<(), StoreError>> + Send + Sync;

/// Outlives the daemon, as the test does.
#[derive(Clone, Default)]
pub struct Meddler(Arc<Mutex<Option<Arc<Meddle>>>>);

impl Meddler {
    /// Has this done first to each document that is written from now on, of which it is given the text.
    pub fn with(
        &self,
        meddle: impl Fn(&str) -> BoxFuture<'static, Result<(), StoreError>> + Send + Sync + 'static,
    ) {
        *self.0.lock() = Some(Arc::new(meddle));
    }

    /// All is written as it comes.
    pub fn ends(&self) {
        *self.0.lock() = None;
    }

    pub fn over(&self, store: impl store::Store + 'static) -> SharedStore {
        Arc::new(Meddled {
            behind: Arc::new(store),
            meddler: self.clone(),
        })
    }
}

struct Meddled {
    behind: SharedStore,
    meddler: Meddler,
}

#[async_trait]
impl Interposed for Meddled {
    fn behind(&self) -> &SharedStore {
        &self.behind
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        let meddle = self.meddler.0.lock().clone();
        if let Some(meddle) = meddle {
            for operation in transaction.operations() {
                if let Operation::Put { value, .. } = operation {
                    meddle(&String::from_utf8_lossy(value)).await?;
                }
            }
        }
        self.behind.commit(transaction).await
    }
}
