//! What went over a machine's network, written down before it is forgotten: taps, and their counters, go with the process.

use super::Worker;
use crate::{
    controller::traffic::{self, write_down},
    usage::Traffic,
};

impl Worker {
    /// Writes down what the process has counted, for it is about to be ended. That this can't be done keeps nobody from ending
    /// it.
    pub(super) async fn note_traffic(&self) {
        let Some(live) = &self.live else { return };
        let patience = traffic::PATIENCE;
        if let Ok(Some(traffic)) = tokio::time::timeout(patience, live.handle.traffic()).await {
            self.write_traffic(traffic).await;
        }
    }

    /// The process has ended by itself: what was seen last is what is known.
    pub(super) async fn note_last_traffic(&self) {
        if let Some(traffic) = self.shared.meters.last_traffic(&self.id) {
            self.write_traffic(traffic).await;
        }
    }

    async fn write_traffic(&self, traffic: Traffic) {
        let of = (&self.shared.host, self.id.as_str());
        if let Err(error) = write_down(&self.shared.documents, of, traffic).await {
            tracing::warn!(%error, "what went over its network isn't accounted to the end");
        }
    }
}
