//! Places between two steps where a crash is made to happen by tests. In a real build there is nothing here.

use super::StorageController;

#[cfg(not(test))]
impl StorageController {
    pub(super) async fn checkpoint(&self, _place: &'static str) {}
}

#[cfg(test)]
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    stop_at: parking_lot::Mutex<Option<&'static str>>,
    reached: tokio::sync::Notify,
}

#[cfg(test)]
impl StorageController {
    /// Halts here for ever if a test wants so.
    pub(super) async fn checkpoint(&self, place: &'static str) {
        if *self.0.checkpoints.stop_at.lock() == Some(place) {
            self.0.checkpoints.reached.notify_one();
            std::future::pending::<()>().await;
        }
    }

    /// Lets the controller halt at a place.
    pub(super) fn stop_at(&self, place: &'static str) {
        *self.0.checkpoints.stop_at.lock() = Some(place);
    }

    /// Waits until it did.
    pub(super) async fn stopped(&self) {
        self.0.checkpoints.reached.notified().await;
    }
}
