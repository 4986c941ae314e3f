//! How machines of a host that has joined write their volumes: each by a socket in its machine's folder, behind which this daemon
//! leads to the entry that has the volume.
//!
//! ```text
//!  QEMU ──NBD──▶ FOLDER OF THE MACHINE/volumes/<id>.sock ──▶ this daemon ──TLS──▶ an entry ──▶ its qemu-storage-daemon ──▶ the volume
//! ```
//!
//! When a connection ends, on whichever way, QEMU waits and connects again, as when this daemon is started anew: the guest waits,
//! and loses nothing.

use std::{collections::HashMap, io, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use cimi::VolumeId;
use documents::Documents;
use futures::{FutureExt as _, future::BoxFuture};
use parking_lot::Mutex;
use rustls::ClientConfig;
use storage::exports::StorageDaemon;
use tokio::{
    io::{AsyncWriteExt as _, copy_bidirectional_with_sizes},
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use trust::{HostKey, VOLUME_PROTOCOL};
use vmhost::controller::{VolumeFiles, VolumePlace, VolumeUser};

use crate::joining::{self, Believed, Kept};

/// How long an entry may take to be connected to.
const CONNECTING: Duration = Duration::from_secs(4);
/// What is read before it is written, each way.
const BUFFER_BYTES: usize = 256 * 1024;

/// By what a machine writes a volume.
type Use = (String, VolumeId);

/// See the module. Clones are of the same.
#[derive(Clone)]
pub(super) struct RemoteVolumes(Arc<Inner>);

struct Inner {
    documents: Documents,
    /// By which guests are told that they have lost a volume.
    daemon: Option<StorageDaemon>,
    entries: Vec<joining::Entry>,
    config: Arc<ClientConfig>,
    sockets: Mutex<HashMap<Use, Socket>>,
}

struct Socket {
    folder: PathBuf,
    /// The volume was taken from the machine; its guest is to notice.
    is_lost: bool,
    _serving: AbortOnDropHandle<()>,
}

impl RemoteVolumes {
    /// By these entries, as good as this certificate is.
    ///
    /// # Errors
    /// If what this host keeps of its cloud can't be used.
    pub(super) fn open(
        kept: &Kept,
        key: &HostKey,
        documents: Documents,
        daemon: Option<StorageDaemon>,
    ) -> anyhow::Result<Self> {
        let mut config = Believed::of_host(kept, key)?
            .config()
            .context("preparing to use volumes")?;
        config.alpn_protocols = vec![VOLUME_PROTOCOL.to_vec()];
        Ok(Self(Arc::new(Inner {
            documents,
            daemon,
            entries: kept.entries.clone(),
            config: Arc::new(config),
            sockets: Mutex::default(),
        })))
    }

    /// Closes sockets that no machine needs any more, until told to stop.
    pub(super) async fn run(&self, stop: CancellationToken) {
        let mut changes = self.0.documents.machines.changes();
        while let Some(changed) = stop.run_until_cancelled(changes.next()).await {
            self.0.close_unneeded(changed.id());
        }
        self.0.sockets.lock().clear();
    }
}

impl RemoteVolumes {
    fn open_socket(&self, by: &VolumeUser, volume: &VolumeId, is_lost: bool) -> io::Result<()> {
        let mut sockets = self.0.sockets.lock();
        let of = (by.machine.clone(), volume.clone());
        if sockets
            .get(&of)
            .is_some_and(|socket| socket.is_lost == is_lost)
        {
            return Ok(());
        }
        let listener = by.listen(&name_of(volume))?;
        let leads_to = if is_lost {
            Leads::ToNothing(by.user)
        } else {
            Leads::ToEntry(volume.clone())
        };
        let serving = serve(Arc::clone(&self.0), listener, leads_to);
        let socket = Socket {
            folder: by.folder.0.clone(),
            is_lost,
            _serving: AbortOnDropHandle::new(tokio::spawn(serving)),
        };
        sockets.insert(of, socket);
        Ok(())
    }
}

/// Where a socket leads.
#[derive(Clone)]
enum Leads {
    ToEntry(VolumeId),
    /// To errors alone, made by a process of this user.
    ToNothing(Option<u32>),
}

fn name_of(volume: &VolumeId) -> String {
    format!("{}.sock", volume.local())
}

impl VolumeFiles for RemoteVolumes {
    fn ready<'a>(
        &'a self,
        by: &'a VolumeUser,
        volume: &'a VolumeId,
    ) -> BoxFuture<'a, Result<VolumePlace, String>> {
        async move {
            self.open_socket(by, volume, false).map_err(|error| {
                format!("the way to {volume} can't be opened on this host: {error}")
            })?;
            Ok(VolumePlace::Socket(name_of(volume)))
        }
        .boxed()
    }

    fn lost(&self, by: &VolumeUser, volume: &VolumeId) {
        if let Err(error) = self.open_socket(by, volume, true) {
            tracing::error!(%volume, %error, "a guest can't be told that it has lost a volume");
        }
    }
}

impl Inner {
    fn close_unneeded(&self, machine: &str) {
        let read = self.documents.machines.get(machine);
        let is_needed = |volume: &VolumeId| {
            let attached = read.as_ref().map(|machine| machine.volumes.iter());
            attached.is_some_and(|mut all| all.any(|one| one.volume == *volume))
        };
        self.sockets.lock().retain(|(of, volume), socket| {
            let is_wanted = is_needed(volume) || (socket.is_lost && read.is_some());
            let stays = of != machine || is_wanted;
            if !stays {
                VolumeUser::forget(&socket.folder, &name_of(volume));
            }
            stays
        });
    }

    /// A connection to the entry that gives this volume.
    async fn connect(&self, volume: &VolumeId) -> io::Result<Connected> {
        let mut failed = io::Error::other("this host knows no entry");
        for entry in &self.entries {
            let connecting = entry.connect(Arc::clone(&self.config));
            let connected = timeout(CONNECTING, connecting).await;
            let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            match connected {
                Ok(mut stream) => {
                    stream.write_all(volume.local().as_bytes()).await?;
                    stream.flush().await?;
                    return Ok(stream);
                }
                Err(error) => failed = io::Error::new(error.kind(), format!("{entry}: {error}")),
            }
        }
        Err(failed)
    }
}

type Connected = tokio_rustls::client::TlsStream<tokio::net::TcpStream>;

/// Leads whoever connects to the volume. All ends with the future.
async fn serve(inner: Arc<Inner>, listener: UnixListener, leads: Leads) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(lead(Arc::clone(&inner), stream, leads.clone()));
                }
                Err(error) => {
                    tracing::error!(%error, "the socket of a volume is broken");
                    return;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn lead(inner: Arc<Inner>, mut stream: UnixStream, leads: Leads) {
    let volume = match leads {
        Leads::ToEntry(volume) => volume,
        Leads::ToNothing(user) => return fail(&inner, stream, user).await,
    };
    let mut entry = match inner.connect(&volume).await {
        Ok(entry) => entry,
        // QEMU tries again.
        Err(error) => {
            tracing::warn!(%volume, %error, "no entry gives the volume; the guest waits");
            return;
        }
    };
    tracing::info!(%volume, "a machine is connected to its volume");
    let spoken = copy_bidirectional_with_sizes(&mut stream, &mut entry, BUFFER_BYTES, BUFFER_BYTES);
    match spoken.await {
        Ok((_, 0)) => tracing::warn!(%volume, "no entry gives the volume; the guest waits"),
        Ok((written, read)) => {
            tracing::info!(%volume, written, read, "the connection to a volume ended");
        }
        Err(error) => tracing::info!(%volume, %error, "the connection to a volume ended"),
    }
}

/// Answers with errors, so that the guest notices.
async fn fail(inner: &Inner, mut stream: UnixStream, user: Option<u32>) {
    let Some(daemon) = &inner.daemon else {
        return;
    };
    match daemon.show_broken(user).await {
        Ok(mut shown) => {
            let ways = (&mut stream, &mut shown.stream);
            let _ = copy_bidirectional_with_sizes(ways.0, ways.1, 4096, 4096).await;
            shown.end().await;
        }
        Err(error) => tracing::error!(%error, "a guest can't be told that it has lost a volume"),
    }
}
