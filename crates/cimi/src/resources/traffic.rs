//! What went over a machine's network interfaces.

use serde::{Deserialize, Serialize};

/// Bytes over all interfaces of a machine since its process began, as the host counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkTraffic {
    /// To the guest.
    pub received_bytes: u64,
    /// From the guest.
    pub sent_bytes: u64,
}

impl NetworkTraffic {
    /// What came after `earlier`.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self {
            received_bytes: self.received_bytes.saturating_sub(earlier.received_bytes),
            sent_bytes: self.sent_bytes.saturating_sub(earlier.sent_bytes),
        }
    }
}
