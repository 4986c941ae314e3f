//! Volumes that hosts use, each on a connection of its own ([`trust::VOLUME_PROTOCOL`]).

use std::{net::SocketAddr, sync::Arc, time::Duration};

use cloud::Duplex;
use tokio::{io::AsyncReadExt as _, time::timeout};
use tokio_util::sync::CancellationToken;
use trust::{HostPeer, VOLUME_REQUEST_BYTES, VolumeRequest};

use super::{Ending, HostDoor, seats::Seat};

/// How long a host may take to say which volume it wants.
pub(super) const ASKING: Duration = Duration::from_secs(10);

impl HostDoor {
    /// One connection for a volume.
    pub(super) async fn serve_volume(
        self: &Arc<Self>,
        mut stream: impl Duplex,
        (peer, seat): (&HostPeer, Seat<'_>),
        from: SocketAddr,
        ending: &Ending,
    ) {
        let Some(host) = self.cloud.host_of(peer) else {
            return;
        };
        let mut request = [0; VOLUME_REQUEST_BYTES];
        let asked = timeout(ASKING, stream.read_exact(&mut request)).await;
        let (Ok(Ok(_)), Some(VolumeRequest(of))) = (asked, VolumeRequest::of_bytes(&request))
        else {
            return;
        };
        tracing::debug!(%host, volume = %of.volume, %from, "a host asks for a volume");
        let (until, served) = (CancellationToken::new(), CancellationToken::new());
        let over = async {
            self.volume_is_over(peer, &seat, ending).await;
            until.cancel();
        };
        let serving = async {
            self.volumes.serve(&host, &of, &mut stream, &until).await;
            served.cancel();
        };
        // To its end, whatever ends it: the volume isn't free before.
        tokio::join!(serving, served.run_until_cancelled(over));
    }

    /// Waits until a connection for a volume is to end.
    pub(super) async fn volume_is_over(&self, peer: &HostPeer, seat: &Seat<'_>, ending: &Ending) {
        tokio::select! {
            () = seat.cut_off() => {}
            () = self.until_over(peer) => {}
            () = ending.closing.cancelled() => {}
        }
    }
}
