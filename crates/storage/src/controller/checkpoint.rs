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
    go_on: tokio::sync::Notify,
}

#[cfg(test)]
impl StorageController {
    /// Halts here if a test wants so, until it says to go on.
    pub(super) async fn checkpoint(&self, place: &'static str) {
        if *self.0.checkpoints.stop_at.lock() == Some(place) {
            self.0.checkpoints.reached.notify_one();
            self.0.checkpoints.go_on.notified().await;
        }
    }

    /// Lets the controller halt at a place.
    pub(super) fn stop_at(&self, place: &'static str) {
        *self.0.checkpoints.stop_at.lock() = Some(place);
    }

    /// Lets everybody pass who comes from now on; who halted still does.
    pub(super) fn stop_no_more(&self) {
        *self.0.checkpoints.stop_at.lock() = None;
    }

    /// Lets go on who halted.
    pub(super) fn go_on(&self) {
        self.0.checkpoints.go_on.notify_one();
    }

    /// Waits until it did.
    pub(super) async fn stopped(&self) {
        self.0.checkpoints.reached.notified().await;
    }
}
