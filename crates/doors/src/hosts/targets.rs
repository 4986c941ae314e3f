//! Volumes that hosts use by iSCSI, each as long as a connection of its own ([`trust::TARGET_PROTOCOL`]) is there.

use std::{net::SocketAddr, sync::Arc};

use cloud::Duplex;
use tokio::{io::AsyncReadExt as _, time::timeout};
use tokio_util::sync::CancellationToken;
use trust::{HostPeer, TARGET_REQUEST_BYTES, TargetRequest};

use super::{Ending, HostDoor, seats::Seat, volumes::ASKING};

impl HostDoor {
    /// One connection for a volume.
    pub(super) async fn serve_target(
        self: &Arc<Self>,
        mut stream: impl Duplex,
        (peer, seat): (&HostPeer, Seat<'_>),
        from: SocketAddr,
        ending: &Ending,
    ) {
        let Some(host) = self.cloud.host_of(peer) else {
            return;
        };
        let mut request = [0; TARGET_REQUEST_BYTES];
        let asked = timeout(ASKING, stream.read_exact(&mut request)).await;
        let (Ok(Ok(_)), Some(asked)) = (asked, TargetRequest::of_bytes(&request)) else {
            return;
        };
        tracing::debug!(%host, volume = %asked.0.volume, why = ?asked.1, %from, "a host asks for a volume by iSCSI");
        let until = CancellationToken::new();
        let serving = async {
            let shown = self.volumes.show_target(&host, &asked, &mut stream, &until);
            shown.await;
            until.cancel();
        };
        let over = self.volume_is_over(peer, &seat, ending);
        let over = async {
            until.run_until_cancelled(over).await;
            until.cancel();
        };
        // To its end, whatever ends it: the volume isn't free before.
        tokio::join!(serving, over);
    }
}
