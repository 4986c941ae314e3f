//! Which images are being brought in by this process, and how their workers hear that something changed.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The images whose content is on its way.
#[derive(Debug, Clone, Default)]
pub(super) struct Transfers(Arc<Mutex<HashMap<String, Arc<Notify>>>>);

/// One of them; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Transfer {
    all: Transfers,
    local: String,
    changed: Arc<Notify>,
}

impl Transfers {
    /// Begins a transfer, unless there is one already.
    pub(super) fn begin(&self, local: &str) -> Option<Transfer> {
        let mut all = self.0.lock();
        if all.contains_key(local) {
            return None;
        }
        let changed = Arc::new(Notify::new());
        all.insert(local.to_owned(), changed.clone());
        metrics::gauge!("storage_imports_running").increment(1);
        Some(Transfer {
            all: self.clone(),
            local: local.to_owned(),
            changed,
        })
    }

    /// Whether an image is being brought in.
    pub(super) fn contains(&self, local: &str) -> bool {
        self.0.lock().contains_key(local)
    }

    /// Whether none is.
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Tells the worker that its document changed.
    pub(super) fn ring(&self, local: &str) {
        if let Some(changed) = self.0.lock().get(local) {
            changed.notify_one();
        }
    }
}

impl Transfer {
    /// Waits until the document changed.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.all.0.lock().remove(&self.local);
        metrics::gauge!("storage_imports_running").decrement(1);
    }
}
