//! A computer of the cloud: guests that outlive its daemon, the daemon, and the guard that ends guests if nobody hears it.
//!
//! The daemon does what `stratusd` does on a host that has joined (`stratusd/src/joined_host.rs`): the controller of machines, and
//! a pulse under a lease.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use cimi::{
    Acl, Common, HostId, Timestamp,
    ids::HostPulseId,
    resources::{AttachedVolume, HostPulse, Machine, Network, Resource as _, VolumeUse},
};
use documents::Documents;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use network::{NetworkConfig, NetworkHost, Overlay, Peer, UserModeConfig};
use parking_lot::Mutex;
use store::{Key, LeaseId, Outcome, Revision, SharedStore, StoreError, Transaction};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use vmhost::{
    DiskId,
    accel::{Accelerator, AcceleratorKind},
    controller::{
        MachineFiles, Networks, OfStorage, Opening, Settings, VmHost, VolumeFiles, VolumePlace,
        VolumeUser, volume_disk,
    },
    guard::{Fence, Presence},
    hypervisor::ExitCause,
    moving::Packed,
    simulated::SimulatedHypervisor,
};

use crate::{
    clock,
    fuse::Fuse,
    node::Node,
    store::MemoryStore,
    wire::{Link, Wire},
};

/// As on a host that has joined.
const PULSE_LIFE: Duration = Duration::from_secs(10);
const PULSE_EVERY: Duration = Duration::from_secs(3);
const REST: Duration = Duration::from_secs(2);
const UNHEARD: Duration = Duration::from_secs(20);
/// How long nobody may hear a host before its guard ends what goes on elsewhere.
pub const FENCES_AFTER: Duration = Duration::from_secs(30);
/// What a host offers to machines, and keeps for itself ([`placement::Policy`]).
pub const MEMORY_MIB: u64 = 2560;
/// What the controller leaves in the folder of a machine for the guard.
const GUARDED: &str = "guarded";

/// What the daemons of hosts know of each other, since their entries lead them to each other, and of volumes, since the storage
/// gives each to one machine at a time.
#[derive(Default)]
pub struct Between {
    /// Controllers that run, and their ways to the entries, by the ids of their hosts.
    controllers: Mutex<BTreeMap<String, (VmHost, Arc<Wire>)>>,
    /// Who has which volume.
    taken: Mutex<BTreeMap<String, (String, VolumeUse)>>,
}

impl Between {
    /// Whether the storage still lets a guest on this host write a disk: always, if that is no volume.
    #[must_use]
    pub fn may_write(&self, host: &HostId, guest: Uuid, disk: &DiskId) -> bool {
        let name = disk.to_string();
        let Some(volume) = name.strip_prefix("vol-").and_then(|rest| rest.get(..36)) else {
            return true;
        };
        let taken = self.taken.lock();
        taken.get(volume).is_some_and(|(user, of)| {
            user == host.local() && of.machine.local() == guest.to_string()
        })
    }
}

/// A computer that runs machines.
pub struct Computer {
    /// What its document is called.
    pub id: HostId,
    /// Its way to the store.
    pub wire: Arc<Wire>,
    /// Its guests.
    pub guests: SimulatedHypervisor,
    /// Its daemon; none: it was killed.
    pub daemon: Option<Node>,
    settings: Settings,
    shared: Arc<Between>,
    store: MemoryStore,
    /// When it was heard last, as its guard has noted.
    heard: Arc<Mutex<Option<Duration>>>,
}

impl Computer {
    /// One that is switched on, and whose daemon isn't started.
    #[must_use]
    pub fn new(
        (number, id): (u8, HostId),
        folder: &Path,
        store: &MemoryStore,
        wire: Arc<Wire>,
        shared: Arc<Between>,
    ) -> Self {
        let settings = settings(number, &id, &folder.join(format!("host-{number}")));
        Self {
            id,
            wire,
            guests: SimulatedHypervisor::new(),
            daemon: None,
            settings,
            shared,
            store: store.clone(),
            heard: Arc::default(),
        }
    }

    /// Starts its daemon.
    pub fn start(&mut self) {
        let fuse = Arc::new(Fuse::default());
        let work = Daemon {
            id: self.id.clone(),
            link: Arc::new(Link::new(self.wire.clone(), fuse.clone())),
            settings: self.settings.clone(),
            guests: self.guests.clone(),
            heard: self.heard.clone(),
            volumes: Arc::new(FarVolumes {
                host: self.id.clone(),
                store: self.store.clone(),
                wire: self.wire.clone(),
                shared: self.shared.clone(),
            }),
            shared: self.shared.clone(),
        };
        self.daemon = Some(Node::with(fuse, work.run()));
    }

    /// SIGKILL to its daemon. Guests run on.
    pub fn kill(&mut self) {
        self.shared.controllers.lock().remove(self.id.local());
        if let Some(daemon) = self.daemon.take() {
            daemon.kill();
        }
    }

    /// The power goes, and with it everything that runs.
    pub fn lose_power(&mut self) {
        self.kill();
        self.guests.power_cut();
        *self.heard.lock() = None;
    }

    /// What its guard does meanwhile.
    pub fn guard(&self) {
        let last = *self.heard.lock();
        if last.is_none_or(|last| clock::passed().saturating_sub(last) <= FENCES_AFTER) {
            return;
        }
        for guest in self.guests.running() {
            let is_guarded = self.folder(&guest.to_string()).join(GUARDED).exists();
            if is_guarded && let Some(guest) = self.guests.machine(guest) {
                guest.die(&ExitCause::Signal(9));
            }
        }
    }

    /// The folder of one of its machines.
    #[must_use]
    pub fn folder(&self, machine: &str) -> PathBuf {
        self.settings.machines_dir.join(machine)
    }

    /// The folders of machines there are.
    #[must_use]
    pub fn folders(&self) -> BTreeSet<String> {
        let read = std::fs::read_dir(&self.settings.machines_dir);
        let names = read.into_iter().flatten().flatten();
        names
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }

    /// Its controller, if it runs.
    #[must_use]
    pub fn controller(&self) -> Option<VmHost> {
        self.shared
            .controllers
            .lock()
            .get(self.id.local())
            .map(|(one, _)| one.clone())
    }
}

/// Its guard is always there.
fn fence() -> Fence {
    let guard = Presence::default();
    guard.tell(Ok(()));
    Fence {
        after: FENCES_AFTER,
        guard,
    }
}

fn settings(number: u8, id: &HostId, folder: &Path) -> Settings {
    Settings {
        host_name: format!("host-{number}"),
        joined: Some(id.clone()),
        tunnel: Some([10, 0, 0, number].into()),
        fence: Some(fence()),
        images_port: None,
        opens_iscsi: false,
        machines_dir: folder.join("machines"),
        quarantine_dir: folder.join("quarantine"),
        quarantine_period: Duration::from_secs(3600),
        accelerator: Accelerator {
            kind: AcceleratorKind::Tcg,
            reason: "simulated".into(),
        },
        falls_back_to_tcg: false,
        kvm_group: None,
        translation_cache_mib: 32,
        cpu_model: None,
        spare_ports: 8,
        power_button_limit: Duration::from_secs(20),
        uid_base: None,
        cgroup: None,
        reserve_bytes: 0,
        console_bytes: 1 << 16,
        cpus: Some(4),
        memory_mib: Some(MEMORY_MIB),
        storage_daemon: None,
        version: "test".into(),
        qemu_version: "simulated".into(),
    }
}

/// What the daemon is made of.
struct Daemon {
    id: HostId,
    link: SharedStore,
    settings: Settings,
    guests: SimulatedHypervisor,
    heard: Arc<Mutex<Option<Duration>>>,
    volumes: Arc<FarVolumes>,
    shared: Arc<Between>,
}

impl Daemon {
    async fn run(self) {
        loop {
            match Documents::open_part(self.link.clone()).await {
                Ok(documents) => self.with(&documents).await,
                Err(error) => tracing::warn!(%error, "no documents"),
            }
            sleep(REST).await;
        }
    }

    /// Until nobody has heard it for a while.
    async fn with(&self, documents: &Documents) {
        let stop = CancellationToken::new();
        let beat = async {
            self.beat().await;
            stop.cancel();
        };
        tokio::join!(beat, self.work(documents, &stop));
        self.shared.controllers.lock().remove(self.id.local());
    }

    async fn work(&self, documents: &Documents, stop: &CancellationToken) {
        loop {
            let opened = VmHost::open(
                documents.clone(),
                self.settings.clone(),
                Arc::new(self.guests.clone()),
                (
                    Arc::new(OfStorage),
                    self.volumes.clone(),
                    Arc::new(FromHosts {
                        wire: self.volumes.wire.clone(),
                        shared: self.shared.clone(),
                    }),
                ),
                Arc::new(UserNetworks),
            );
            match stop.run_until_cancelled(opened).await {
                None => return,
                Some(Ok(controller)) => {
                    let own = self.id.local().to_owned();
                    let known = (controller.clone(), self.volumes.wire.clone());
                    self.shared.controllers.lock().insert(own, known);
                    controller.run(stop.clone()).await;
                    return;
                }
                Some(Err(error)) => tracing::warn!(%error, "no controller"),
            }
            if stop.run_until_cancelled(sleep(REST)).await.is_none() {
                return;
            }
        }
    }

    async fn beat(&self) {
        let (mut lease, mut last) = (None, Instant::now());
        loop {
            let asked = clock::passed();
            let beaten = match lease {
                None => self.begin_pulse().await.map(|begun| lease = Some(begun)),
                Some(lease) => self.link.keep_alive(lease).await.map(drop),
            };
            match beaten {
                Ok(()) => {
                    last = Instant::now();
                    *self.heard.lock() = Some(asked);
                    sleep(PULSE_EVERY).await;
                }
                Err(_) if last.elapsed() > UNHEARD => return,
                Err(StoreError::LeaseNotFound { .. }) => lease = None,
                Err(_) => sleep(REST).await,
            }
        }
    }

    async fn begin_pulse(&self) -> Result<LeaseId, StoreError> {
        let Some((key, text)) = pulse(&self.id) else {
            return Err(StoreError::Closed);
        };
        loop {
            let there = self.link.get(&key).await?;
            let there = there.map_or(Revision::ZERO, |there| there.revision);
            let lease = self.link.grant(PULSE_LIFE).await?;
            let put = Transaction::new().revision_is(&key, there).put_with_lease(
                key.clone(),
                text.clone(),
                lease,
            );
            if let Outcome::Committed(_) = self.link.commit(put).await? {
                return Ok(lease);
            }
            self.link.revoke(lease).await?;
        }
    }
}

fn pulse(host: &HostId) -> Option<(Key, Vec<u8>)> {
    let key = Key::new(HostPulse::COLLECTION, host.local()).ok()?;
    let pulse = HostPulse {
        id: HostPulseId::from_local(host.local()).ok()?,
        common: Common::new(Acl::owned_by_admin(), Timestamp::now()),
    };
    Some((key, serde_json::to_vec(&pulse).ok()?))
}

/// Networks that need no rights.
struct UserNetworks;

impl Networks for UserNetworks {
    fn open(&self, network: &Network, _: BTreeSet<Peer>, _: Option<Overlay>) -> Opening {
        let config = (|| {
            Some(UserModeConfig::new(
                "t".parse().ok()?,
                network.subnet.parse().ok()?,
                network.gateway,
                network.domain.parse().ok()?,
            ))
        })();
        Box::pin(async move {
            let config = config.ok_or_else(|| network::NetworkError::File {
                path: "bridge".into(),
                source: std::io::Error::other("what its document says can't be"),
            })?;
            NetworkHost::open(NetworkConfig::User(config)).await
        })
    }

    fn as_peer(&self, _: &str) -> Option<Peer> {
        None
    }
}

/// Volumes, which the storage gives to who may have them by its documents.
struct FarVolumes {
    host: HostId,
    store: MemoryStore,
    wire: Arc<Wire>,
    shared: Arc<Between>,
}

impl FarVolumes {
    fn asks(&self, by: &VolumeUser, attached: &AttachedVolume) -> Result<(), String> {
        if self.wire.is_cut() {
            return Err("the storage doesn't answer".to_owned());
        }
        let of = by.of(attached);
        let key = Key::new(Machine::COLLECTION, of.machine.local());
        let read = key.ok().and_then(|key| self.store.read(&key).ok()?);
        let machine = read.and_then(|read| serde_json::from_slice::<Machine>(&read.value).ok());
        let machine = machine.ok_or("there is no such machine")?;
        let has = |one: &AttachedVolume| one.volume == of.volume && one.taken == of.taken;
        if machine.host.as_ref() != Some(&self.host) || !machine.volumes.iter().any(has) {
            return Err(format!("{} is not this host's", of.volume));
        }
        let volume = of.volume.local().to_owned();
        let mut taken = self.shared.taken.lock();
        taken.insert(volume, (self.host.local().to_owned(), of));
        Ok(())
    }
}

impl VolumeFiles for FarVolumes {
    fn ready<'a>(
        &'a self,
        by: &'a VolumeUser,
        attached: &'a AttachedVolume,
    ) -> BoxFuture<'a, Result<VolumePlace, String>> {
        async move {
            self.asks(by, attached)?;
            Ok(VolumePlace::Socket(format!(
                "{}.sock",
                volume_disk(attached)
            )))
        }
        .boxed()
    }

    fn answers<'a>(
        &'a self,
        by: &'a VolumeUser,
        attached: &'a AttachedVolume,
    ) -> BoxFuture<'a, Result<(), String>> {
        async move { self.asks(by, attached) }.boxed()
    }

    fn expected<'a>(
        &'a self,
        _: &'a VolumeUser,
        _: &'a AttachedVolume,
        _: u64,
    ) -> BoxFuture<'a, Result<VolumePlace, String>> {
        async { Err("guests don't run on their way here".to_owned()) }.boxed()
    }

    fn lost(&self, _: &VolumeUser, _: &DiskId) {}
}

/// All at once, as the other host would have them ready.
fn all_files(from: &VmHost, machine: &str) -> Option<Vec<std::io::Result<Bytes>>> {
    let collect = || {
        let apart = tokio::runtime::Builder::new_current_thread().build().ok()?;
        apart.block_on(async { Some(from.files(machine)?.collect().await) })
    };
    std::thread::scope(|scope| scope.spawn(collect).join().ok()?)
}

/// Files of machines that come from other hosts.
struct FromHosts {
    wire: Arc<Wire>,
    shared: Arc<Between>,
}

impl MachineFiles for FromHosts {
    fn files<'a>(&'a self, machine: &'a Machine) -> BoxFuture<'a, Result<Packed, String>> {
        async move {
            if self.wire.is_cut() {
                return Err("no entry answers".to_owned());
            }
            let from = machine.host.as_ref().ok_or("it has no host")?;
            let heard = self.shared.controllers.lock().get(from.local()).cloned();
            let heard = heard.filter(|(_, wire)| !wire.is_cut());
            let (from, _) = heard.ok_or("its host isn't there")?;
            let files = all_files(&from, machine.id.local());
            let files = files.ok_or("its host doesn't give them")?;
            let packed: Packed = Box::pin(stream::iter(files));
            Ok(packed)
        }
        .boxed()
    }
}
