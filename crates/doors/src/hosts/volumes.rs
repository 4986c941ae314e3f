//! Volumes that hosts use, each on a connection of its own ([`trust::VOLUME_PROTOCOL`]).

use std::{net::SocketAddr, sync::Arc, time::Duration};

use cimi::HostId;
use cloud::Duplex;
use futures::{FutureExt as _, TryFutureExt as _};
use relay::{Remote, relay};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use trust::{HostPeer, VOLUME_REQUEST_BYTES, VolumeRequest};

use super::{Ending, HostDoor, seats::Seat};

/// How long a host may take to say which volume it wants.
const ASKING: Duration = Duration::from_secs(10);

impl HostDoor {
    /// One connection for a volume.
    pub(super) async fn serve_volume(
        self: &Arc<Self>,
        (stream, patience): (TlsStream<TcpStream>, Duration),
        (peer, seat): (&HostPeer, Seat<'_>),
        from: SocketAddr,
        ending: &Ending,
    ) {
        let mut stream = Remote::from(stream);
        let asked = self.asked::<VOLUME_REQUEST_BYTES>(peer, &mut stream);
        let Some((host, request)) = asked.await else {
            return;
        };
        let Some(VolumeRequest(of)) = VolumeRequest::of_bytes(&request) else {
            return;
        };
        tracing::debug!(%host, volume = %of.volume, %from, "a host asks for a volume");
        // Of what follows the kernel keeps the time.
        if let Err(error) = set_socket_timeout(stream.get_ref().0, Timeout::Send, Some(patience)) {
            tracing::error!(%host, %error, "a connection for a volume can't be watched over");
            return;
        }
        let serve = async |until: &CancellationToken| {
            let relay = Box::new(|local| relay(stream, local).map_ok(drop).boxed());
            self.volumes.serve(&host, &of, relay, until).await;
        };
        self.to_the_end((peer, &seat), ending, serve).await;
    }

    /// Who asks for a volume, and what it says.
    pub(super) async fn asked<const BYTES: usize>(
        &self,
        peer: &HostPeer,
        stream: &mut impl Duplex,
    ) -> Option<(HostId, [u8; BYTES])> {
        let host = self.cloud.host_of(peer)?;
        let mut request = [0; BYTES];
        let asked = timeout(ASKING, stream.read_exact(&mut request)).await;
        asked.ok()?.ok()?;
        Some((host, request))
    }

    /// Has a volume served, which is told when its connection is over. To its end, whatever ends it: the volume isn't free before.
    pub(super) async fn to_the_end(
        &self,
        (peer, seat): (&HostPeer, &Seat<'_>),
        ending: &Ending,
        serve: impl AsyncFnOnce(&CancellationToken),
    ) {
        let until = CancellationToken::new();
        let serving = async {
            serve(&until).await;
            until.cancel();
        };
        let is_over = async {
            tokio::select! {
                () = seat.cut_off() => {}
                () = self.until_over(peer) => {}
                () = ending.closing.cancelled() => {}
                () = until.cancelled() => {}
            }
            until.cancel();
        };
        tokio::join!(serving, is_over);
    }
}
