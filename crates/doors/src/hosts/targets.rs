//! Volumes that hosts use by iSCSI, each as long as a connection of its own ([`trust::TARGET_PROTOCOL`]) is there.

use std::{net::SocketAddr, sync::Arc};

use cloud::Duplex;
use tokio_util::sync::CancellationToken;
use trust::{HostPeer, TARGET_REQUEST_BYTES, TargetRequest};

use super::{Ending, HostDoor, seats::Seat};

impl HostDoor {
    /// One connection for a volume.
    pub(super) async fn serve_target(
        self: &Arc<Self>,
        mut stream: impl Duplex,
        (peer, seat): (&HostPeer, Seat<'_>),
        from: SocketAddr,
        ending: &Ending,
    ) {
        let asked = self.asked::<TARGET_REQUEST_BYTES>(peer, &mut stream);
        let Some((host, request)) = asked.await else {
            return;
        };
        let Some(asked) = TargetRequest::of_bytes(&request) else {
            return;
        };
        tracing::debug!(%host, volume = %asked.0.volume, why = ?asked.1, %from, "a host asks for a volume by iSCSI");
        let serve = async |until: &CancellationToken| {
            let shown = self.volumes.show_target(&host, &asked, &mut stream, until);
            shown.await;
        };
        self.to_the_end((peer, &seat), ending, serve).await;
    }
}
