//! Network traffic in the documents of machines, for accounting.
//!
//! The host counts at the taps, which are there as long as a machine's process is, whatever becomes of this program. What
//! they count is written down before a process is ended, and while it runs every [`PERIOD`]: so much is lost when the host
//! dies, and what came after the last look of the [meters](super::meters) when a process dies by itself.

use std::time::Duration;

use cimi::{HostId, resources::NetworkTraffic};
use documents::{Documents, DocumentsError};

use super::report::report;
use crate::usage::Traffic;

/// Between two times at which it is written down.
pub(super) const PERIOD: Duration = Duration::from_secs(15 * 60);
/// The kernel answers at once.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Writes down what went over a machine's network since its process began.
pub(super) async fn write_down(
    documents: &Documents,
    of: (&HostId, &str),
    traffic: Traffic,
) -> Result<(), DocumentsError> {
    let seen = NetworkTraffic {
        received_bytes: traffic.bytes_in,
        sent_bytes: traffic.bytes_out,
    };
    // Once it is another's, it is counted there.
    report(documents, of, |machine| {
        if machine.running_since.is_some() {
            machine.observed.traffic = Some(seen);
        }
    })
    .await
    .map(drop)
}
