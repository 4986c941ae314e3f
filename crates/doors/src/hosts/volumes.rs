//! Volumes that hosts use, each on a connection of its own ([`trust::VOLUME_PROTOCOL`]).

use std::{net::SocketAddr, sync::Arc, time::Duration};

use relay::Remote;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use trust::{HostPeer, VOLUME_REQUEST_BYTES, VolumeRequest};

use super::{Ending, HostDoor, seats::Seat};

/// How long a host may take to say which volume it wants.
pub(super) const ASKING: Duration = Duration::from_secs(10);

impl HostDoor {
    /// One connection for a volume.
    pub(super) async fn serve_volume(
        self: &Arc<Self>,
        (stream, patience): (TlsStream<TcpStream>, Duration),
        (peer, seat): (&HostPeer, Seat<'_>),
        from: SocketAddr,
        ending: &Ending,
    ) {
        let Some(host) = self.cloud.host_of(peer) else {
            return;
        };
        let mut stream = Remote::from(stream);
        let mut request = [0; VOLUME_REQUEST_BYTES];
        let asked = timeout(ASKING, stream.read_exact(&mut request)).await;
        let (Ok(Ok(_)), Some(VolumeRequest(of))) = (asked, VolumeRequest::of_bytes(&request))
        else {
            return;
        };
        tracing::debug!(%host, volume = %of.volume, %from, "a host asks for a volume");
        // Of what follows the kernel keeps the time.
        let tcp = stream.get_ref().0;
        if let Err(error) = set_socket_timeout(tcp, Timeout::Send, Some(patience)) {
            tracing::error!(%host, %error, "a connection for a volume can't be watched over");
            return;
        }
        let (until, served) = (CancellationToken::new(), CancellationToken::new());
        let over = async {
            self.volume_is_over(peer, &seat, ending).await;
            until.cancel();
        };
        let serving = async {
            self.volumes.serve(&host, &of, stream, &until).await;
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
