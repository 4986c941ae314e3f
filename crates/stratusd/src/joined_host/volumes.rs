//! How machines of a host that has joined write their volumes: each by a socket in its machine's folder, behind which this daemon
//! leads to the entry that has the volume.
//!
//! ```text
//!  QEMU ──NBD──▶ FOLDER OF THE MACHINE/volumes/<disk>.sock ──▶ this daemon ──TLS──▶ an entry ──▶ its qemu-storage-daemon ──▶ the volume
//! ```
//!
//! When a connection ends, on whichever way, QEMU waits and connects again, as when this daemon is started anew: the guest waits,
//! and loses nothing. A socket is of one attachment of a volume, and of no later one.

mod entries;
mod targets;

use std::{
    collections::{HashMap, HashSet},
    io,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use cimi::{
    MachineId,
    resources::{AttachedVolume, VolumeUse},
};
use documents::Documents;
use futures::{FutureExt as _, future::BoxFuture};
use parking_lot::Mutex;
use relay::{Relayed, relay};
use rustls::ClientConfig;
use storage::exports::StorageDaemon;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional_with_sizes},
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use trust::{HostKey, VOLUME_PROTOCOL, VolumeRequest};
use vmhost::{
    DiskId,
    controller::{VolumeFiles, VolumePlace, VolumeUser, volume_disk},
};

use self::{
    entries::{Connected, Entries, NotGiven, WhyNot},
    targets::{Targets, secret_of},
};
use crate::joining::{Believed, Kept};

/// How long an entry may take to give a volume: who had it ends first.
const GIVING: Duration = Duration::from_secs(5);
/// The first words of a server that speaks NBD: that the volume is given.
const GREETING: [u8; 8] = *b"NBDMAGIC";

/// A disk of a machine.
type Disk = (MachineId, String);

/// See the module. Clones are of the same.
#[derive(Clone)]
pub(super) struct RemoteVolumes(Arc<Inner>);

struct Inner {
    documents: Documents,
    /// By which guests are told that they have lost a volume.
    daemon: Option<StorageDaemon>,
    entries: Entries,
    config: Arc<ClientConfig>,
    /// Those that are used by iSCSI.
    targets: Targets,
    sockets: Mutex<HashMap<Disk, Socket>>,
}

struct Socket {
    folder: PathBuf,
    leads: Led,
    /// Ends its connections, and then what serves them.
    end: CancellationToken,
    /// When that has ended, however it did.
    over: CancellationToken,
    _serving: AbortOnDropHandle<()>,
}

/// Where a socket leads, in short.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Led {
    Entry,
    /// The volume was taken from the machine; its guest is to notice.
    Nothing,
    Blank,
}

impl Leads {
    const fn short(&self) -> Led {
        match self {
            Self::Entry(_) => Led::Entry,
            Self::Nothing(_) => Led::Nothing,
            Self::Blank { .. } => Led::Blank,
        }
    }
}

/// Where a socket leads.
#[derive(Clone)]
enum Leads {
    Entry(VolumeUse),
    /// To errors alone, made by a process of this user.
    Nothing(Option<u32>),
    /// To nothing yet: to a volume of this size that can't be written, by a process of this user.
    Blank {
        bytes: u64,
        user: Option<u32>,
    },
}

impl RemoteVolumes {
    /// By these entries, as good as this certificate is; by iSCSI only if QEMU can.
    ///
    /// # Errors
    /// If what this host keeps of its cloud can't be used.
    pub(super) fn open(
        kept: &Kept,
        key: &HostKey,
        documents: Documents,
        (daemon, opens_iscsi): (Option<StorageDaemon>, bool),
    ) -> anyhow::Result<Self> {
        let mut config = Believed::of_host(kept, key)?
            .config()
            .context("preparing to use volumes")?;
        let targets = Targets::of(config.clone(), opens_iscsi);
        config.alpn_protocols = vec![VOLUME_PROTOCOL.to_vec()];
        Ok(Self(Arc::new(Inner {
            documents,
            daemon,
            entries: Entries::of(kept.entries.clone()),
            config: Arc::new(config),
            targets,
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
        self.0.targets.clear();
    }

    /// Has a disk's socket lead there.
    fn open_socket(&self, by: &VolumeUser, disk: &str, leads_to: Leads) -> io::Result<()> {
        let of = (by.machine.clone(), disk.to_owned());
        // One of an earlier stay of the machine would take the volume from this socket.
        self.0.targets.end(&of);
        let mut sockets = self.0.sockets.lock();
        let leads = leads_to.short();
        // One that was left here, and is here again, has another folder.
        if sockets
            .get(&of)
            .is_some_and(|socket| socket.leads == leads && by.has_socket(&socket_of(disk)))
        {
            return Ok(());
        }
        let listener = by.listen(&socket_of(disk))?;
        let end = CancellationToken::new();
        let over = CancellationToken::new();
        let serving = serve(Arc::clone(&self.0), listener, leads_to, end.clone());
        let told = over.clone().drop_guard();
        let serving = async move {
            let _told = told;
            serving.await;
        };
        let socket = Socket {
            folder: by.folder.0.clone(),
            leads,
            end,
            over,
            _serving: AbortOnDropHandle::new(tokio::spawn(serving)),
        };
        sockets.insert(of, socket);
        Ok(())
    }

    /// Ends what stands in for a volume, if something does: when this returns, nobody is connected to it any more. It is there until
    /// then, for who begins anew because nobody waited for it.
    async fn end_blank(&self, by: &VolumeUser, disk: &str) {
        let of = (by.machine.clone(), disk.to_owned());
        let blank = {
            let sockets = self.0.sockets.lock();
            let blank = sockets.get(&of).filter(|socket| socket.leads == Led::Blank);
            blank.map(|blank| (blank.end.clone(), blank.over.clone()))
        };
        if let Some((end, over)) = blank {
            end.cancel();
            over.cancelled().await;
            let mut sockets = self.0.sockets.lock();
            if sockets
                .get(&of)
                .is_some_and(|socket| socket.over.is_cancelled())
            {
                sockets.remove(&of);
            }
        }
    }
}

fn socket_of(disk: &str) -> String {
    format!("{disk}.sock")
}

impl VolumeFiles for RemoteVolumes {
    fn begin(&self, by: &VolumeUser) {
        let mut stay: HashSet<String> = self.0.targets.begin(by);
        stay = stay.iter().map(|disk| secret_of(disk)).collect();
        let sockets = self.0.sockets.lock();
        let of_it = sockets.keys().filter(|(of, _)| *of == by.machine);
        stay.extend(of_it.map(|(_, disk)| socket_of(disk)));
        if let Err(error) = by.forget_all_but(&stay) {
            let machine = &by.machine;
            tracing::warn!(%machine, %error, "what an earlier process had of its volumes can't be cleared away");
        }
    }

    fn ready<'a>(
        &'a self,
        by: &'a VolumeUser,
        attached: &'a AttachedVolume,
    ) -> BoxFuture<'a, Result<VolumePlace, String>> {
        async move {
            let disk = volume_disk(attached);
            if let Some(place) = self.0.target(by, attached).await? {
                return Ok(place);
            }
            self.end_blank(by, &disk).await;
            let opened = self.open_socket(by, &disk, Leads::Entry(by.of(attached)));
            opened.map_err(|error| {
                format!(
                    "waits for {}: the way to it can't be opened on this host: {error}",
                    attached.volume
                )
            })?;
            Ok(VolumePlace::Socket(socket_of(&disk)))
        }
        .boxed()
    }

    fn answers<'a>(
        &'a self,
        by: &'a VolumeUser,
        attached: &'a AttachedVolume,
    ) -> BoxFuture<'a, Result<(), String>> {
        async move {
            if let Some(answers) = self.0.portal_answers(by, attached).await {
                return answers;
            }
            let connected = self.0.connect(&by.of(attached)).await;
            connected
                .map(drop)
                .map_err(|why| format!("waits for {}: {why}", attached.volume))
        }
        .boxed()
    }

    fn expected<'a>(
        &'a self,
        by: &'a VolumeUser,
        attached: &'a AttachedVolume,
        bytes: u64,
    ) -> BoxFuture<'a, Result<VolumePlace, String>> {
        async move {
            if self.0.daemon.is_none() {
                return Err("there is no qemu-storage-daemon on the other host".to_owned());
            }
            // Nothing is read or written before the machine is this host's. Then it leads to the volume, and QEMU connects anew.
            let disk = volume_disk(attached);
            let nothing = Leads::Blank {
                bytes,
                user: by.user,
            };
            let opened = self.open_socket(by, &disk, nothing);
            opened.map_err(|error| {
                let volume = &attached.volume;
                format!("the way to {volume} can't be opened on the other host: {error}")
            })?;
            Ok(VolumePlace::Socket(socket_of(&disk)))
        }
        .boxed()
    }

    fn lost(&self, by: &VolumeUser, disk: &DiskId) {
        if self.0.lose_target(by, disk) {
            return;
        }
        let nothing = Leads::Nothing(by.user);
        if let Err(error) = self.open_socket(by, disk.as_str(), nothing) {
            tracing::error!(%disk, %error, "a guest can't be told that it has lost a volume");
        }
    }
}

impl Inner {
    fn close_unneeded(&self, machine: &str) {
        self.targets.close_unneeded(machine, &self.documents);
        let mut sockets = self.sockets.lock();
        let read = self.documents.machines.get(machine);
        let is_needed = |disk: &str| {
            let attached = read.as_ref().map(|machine| machine.volumes.iter());
            attached.is_some_and(|mut all| all.any(|one| volume_disk(one) == disk))
        };
        sockets.retain(|(of, disk), socket| {
            let is_wanted = is_needed(disk) || (socket.leads == Led::Nothing && read.is_some());
            // Which way it is to be, is asked anew before it starts.
            let is_off = read
                .as_ref()
                .is_some_and(|machine| targets::is_off(machine));
            let stays = of.local() != machine || (is_wanted && !is_off);
            if !stays {
                VolumeUser::forget(&socket.folder, &socket_of(disk));
            }
            stays
        });
    }

    /// A connection to an entry that gives this volume, and has said so by [`GREETING`].
    async fn connect(&self, of: &VolumeUse) -> Result<Connected, NotGiven> {
        let asked = self.entries.ask(&self.config, |stream| given(stream, of));
        asked.await
    }
}

/// The connection, if the entry gives the volume on it.
async fn given(mut stream: Connected, of: &VolumeUse) -> Result<Connected, WhyNot> {
    let request = VolumeRequest(of.clone()).to_bytes();
    let request = request.ok_or("that is no volume of a machine")?;
    let mut said = [0; GREETING.len()];
    let asking = async {
        stream.write_all(&request).await?;
        stream.flush().await?;
        stream.read_exact(&mut said).await
    };
    let heard = timeout(GIVING, asking).await.map_err(|_| WhyNot::Silent)?;
    // Who is refused hears nothing.
    if heard.is_err() || said != GREETING {
        return Err("not to this host now; its log says why".into());
    }
    Ok(stream)
}

/// Leads whoever connects to the volume. All ends with the future.
async fn serve(inner: Arc<Inner>, listener: UnixListener, leads: Leads, end: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = end.cancelled() => {
                connections.shutdown().await;
                return;
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    // QEMU has one, and who comes again has given up the one before.
                    connections.abort_all();
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
    let of = match leads {
        Leads::Entry(of) => of,
        Leads::Nothing(user) => return stand_in(&inner, stream, (None, user)).await,
        Leads::Blank { bytes, user } => {
            return stand_in(&inner, stream, (Some(bytes), user)).await;
        }
    };
    let (volume, machine) = (&of.volume, &of.machine);
    let entry = match inner.connect(&of).await {
        Ok(entry) => entry,
        // QEMU tries again.
        Err(why) => {
            tracing::warn!(%volume, %machine, %why, "the guest waits for its volume");
            return;
        }
    };
    tracing::info!(%volume, %machine, "a machine is connected to its volume");
    let spoken = async {
        stream.write_all(&GREETING).await?;
        relay(entry.into(), stream).await
    };
    match spoken.await {
        Ok(Relayed { sent, received }) => {
            tracing::info!(%volume, %machine, sent, received, "the connection to a volume ended");
        }
        Err(error) => {
            tracing::info!(%volume, %machine, %error, "the connection to a volume ended");
        }
    }
}

/// Answers in place of a volume: with errors, so that the guest notices, or as a blank one of so many bytes.
async fn stand_in(
    inner: &Inner,
    mut stream: UnixStream,
    (blank, user): (Option<u64>, Option<u32>),
) {
    let Some(daemon) = &inner.daemon else {
        tracing::error!(
            "a guest can't be told that it has lost a volume: `qemu-storage-daemon` is not in PATH"
        );
        return;
    };
    let shown = match blank {
        Some(bytes) => daemon.show_blank(bytes, user).await,
        None => daemon.show_broken(user).await,
    };
    match shown {
        Ok((shown, mut other)) => {
            let _ = copy_bidirectional_with_sizes(&mut stream, &mut other, 4096, 4096).await;
            shown.end().await;
        }
        Err(error) => tracing::error!(%error, "a guest can't be told that it has lost a volume"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test that panics has failed
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use cimi::{VolumeId, resources::AttachStage};
    use futures::FutureExt as _;
    use rustls::{RootCertStore, crypto::ring};
    use store::SqliteStore;
    use tokio::net::UnixStream;
    use vmhost::hypervisor::RunFolder;

    use super::*;

    /// A host in this folder without entries, and a machine on it with a volume.
    async fn world(folder: &std::path::Path) -> (RemoteVolumes, VolumeUser, AttachedVolume) {
        let store = Arc::new(SqliteStore::open(folder.join("db")).unwrap());
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let volumes = RemoteVolumes(Arc::new(Inner {
            documents: Documents::open(store).await.unwrap(),
            daemon: None,
            entries: Entries::of(Vec::new()),
            targets: Targets::of(config.clone(), true),
            config: Arc::new(config),
            sockets: Mutex::default(),
        }));
        let by = VolumeUser {
            machine: MachineId::generate(),
            folder: RunFolder(folder.join("machine")),
            user: None,
        };
        let attached = AttachedVolume {
            volume: VolumeId::generate(),
            initial_location: None,
            hot: false,
            wanted: true,
            stage: AttachStage::Waiting,
            serial: "v".to_owned(),
            taken: None,
        };
        (volumes, by, attached)
    }

    #[tokio::test]
    async fn the_socket_of_a_machine_whose_folder_went_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (volumes, by, attached) = world(folder.path()).await;
        let socket = by.folder.volumes().join(socket_of(&volume_disk(&attached)));
        // It is known that it isn't used by iSCSI.
        drop(by.listen(&socket_of(&volume_disk(&attached))).unwrap());
        volumes.ready(&by, &attached).await.unwrap();
        UnixStream::connect(&socket).await.unwrap();
        let mode = std::fs::metadata(&by.folder.0)
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700, "nobody else has a way to its disks");
        // It goes on elsewhere, and comes to this host again.
        std::fs::remove_dir_all(&by.folder.0).unwrap();
        volumes.ready(&by, &attached).await.unwrap();
        UnixStream::connect(&socket).await.unwrap();
        // Asked again, it stays what it is.
        let found = || std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&socket).unwrap());
        let before = found();
        volumes.ready(&by, &attached).await.unwrap();
        assert_eq!(found(), before);
    }

    #[tokio::test]
    async fn what_stands_in_for_a_volume_has_ended_before_it_is_ready_whoever_gave_up_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let (volumes, by, attached) = world(folder.path()).await;
        let disk = volume_disk(&attached);
        let user = by.user;
        let nothing = Leads::Blank { bytes: 1, user };
        volumes.open_socket(&by, &disk, nothing).unwrap();
        let of = (by.machine.clone(), disk);
        let leads = || volumes.0.sockets.lock().get(&of).map(|socket| socket.leads);
        // Given up before what serves it has heard that it is to end.
        assert!(volumes.ready(&by, &attached).now_or_never().is_none());
        assert!(leads() == Some(Led::Blank));
        volumes.ready(&by, &attached).await.unwrap();
        assert!(leads() == Some(Led::Entry));
    }
}
