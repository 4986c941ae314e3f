//! The VM host controller: makes machines on this host as their documents want them.
//!
//! ```text
//!  documents.machines ──changes──▶ dispatcher ──wakes──▶ worker (one a machine) ──▶ hypervisor, network, disks
//!  documents.images, volumes ───────▲                        │  ▲
//!  files of images ─────────────────▲                        │  │
//!                                                     reports│  │events: halted, panicked, died, detached
//!                                                            ▼  │
//!                                                      documents.machines (observed part only)
//! ```
//!
//! A worker compares what is wanted with what it sees and takes the next idempotent step, whatever happened before: it
//! holds no plan, so a controller that was killed between any two steps goes on where it was. Workers never wait for
//! each other. What a guest never answers (power button, unplugging) is a deadline, not a call.

mod arrival;
mod audit;
mod console;
mod crossing;
mod disk_to_save;
mod forwarding;
mod groups;
mod health;
mod host;
mod image_files;
mod links;
mod media;
mod memory;
mod meters;
mod prepare;
mod report;
mod root_disk;
mod settings;
mod traffic;
mod volume_files;
mod volumes;
mod worker;

use std::{
    collections::{BTreeSet, HashMap},
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use cimi::{
    HostId,
    resources::{ImageState, Machine, Network},
};
use documents::{Cached, Documents};
use futures::{FutureExt, future::BoxFuture};
use network::{NetworkHost, Overlay, Peer, PlugRequest};
use parking_lot::Mutex;
use storage::quarantine::Quarantine;
use store::cache::Changed;
use tokio::sync::{Notify, OnceCell};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use arrival::{Channel, Duplex, MachineFiles, WayEnd};
pub use audit::Finding;
pub use console::ConsoleText;
pub use forwarding::overlay;
pub use health::Check;
pub use host::{boot_id, describe};
pub use image_files::{ImageContent, ImageFiles, OfStorage};
pub use meters::{ASPECTS, Aspect, INTERVAL as METER_INTERVAL, Reading};
pub use settings::Settings;
pub use volume_files::{VolumeFiles, VolumePlace, VolumeUser, volume_disk};

use crate::{cgroup::Cgroups, hypervisor::Hypervisor, serial::SerialLogs};

/// How long a machine whose worker panicked is left alone.
const AFTER_PANIC: Duration = Duration::from_secs(1);

/// How networks are set up on this host.
pub trait Networks: Send + Sync {
    /// Sets one up, the first time a machine needs it; it forwards to these, and is one with that on other hosts, from its first
    /// moment on.
    fn open(&self, network: &Network, peers: BTreeSet<Peer>, overlay: Option<Overlay>) -> Opening;

    /// What the others know one by, by its name, whether it is set up or not; none if nothing is forwarded to it.
    fn as_peer(&self, network: &str) -> Option<Peer>;

    /// The bridges of the operator's on this host that networks can be plugged into, by their names; what can't be looked at is none.
    fn bridges(&self) -> BoxFuture<'_, Vec<String>> {
        std::future::ready(Vec::new()).boxed()
    }
}

/// A network that is being set up.
pub type Opening = Pin<Box<dyn Future<Output = network::Result<NetworkHost>> + Send>>;

/// Why the controller could not begin.
#[derive(Debug, thiserror::Error)]
pub enum VmHostError {
    /// The store or its caches.
    #[error(transparent)]
    Documents(#[from] documents::DocumentsError),
    /// Two hosts of one name can't be told apart.
    #[error(
        "there is a host `{name}` already ({host}), which has joined this cloud from elsewhere: give this one another `host_name`"
    )]
    NameTaken {
        /// The name of both.
        name: String,
        /// The one that has it.
        host: HostId,
    },
    /// A folder of ours.
    #[error("{path}: {source}; make sure the daemon may write there")]
    Folder {
        /// Which.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The quarantine.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) documents: Documents,
    pub(crate) host: HostId,
    pub(crate) settings: Settings,
    accelerator: Mutex<crate::accel::Accelerator>,
    /// Rung when this host's document is to be written anew.
    host_changed: Notify,
    pub(crate) hypervisor: Arc<dyn Hypervisor>,
    pub(crate) images: Arc<dyn ImageFiles>,
    pub(crate) volumes: Arc<dyn VolumeFiles>,
    pub(crate) moves: Arc<dyn MachineFiles>,
    pub(crate) quarantine: Quarantine,
    networks: Mutex<HashMap<String, Arc<OnceCell<Arc<NetworkHost>>>>>,
    setup: Arc<dyn Networks>,
    /// Rung when one more is set up.
    network_opened: Notify,
    serial_logs: SerialLogs,
    troubles: health::Troubles,
    consoles: Mutex<HashMap<String, console::Console>>,
    meters: meters::Meters,
}

impl Shared {
    /// The network of this name, set up if this is the first use.
    pub(crate) async fn network(&self, network: &Network) -> network::Result<Arc<NetworkHost>> {
        let cell = self
            .networks
            .lock()
            .entry(network.id.local().to_owned())
            .or_default()
            .clone();
        let is_known = cell.initialized();
        let opened = cell
            .get_or_try_init(|| async {
                let peers = self.peers_of(network.id.local());
                let overlay = overlay(network, &self.host);
                let is_joined = overlay.is_some();
                let opened = self.setup.open(network, peers.clone(), overlay).await;
                // Machines here need it, whatever keeps it from being one with that on other hosts: that is told later.
                let opened = match opened {
                    Err(_) if is_joined => self.setup.open(network, peers, None).await,
                    opened => opened,
                };
                Ok(Arc::new(opened?))
            })
            .await;
        match &opened {
            Err(error) => self.note_network(network.id.local(), Some(error)),
            Ok(_) if !is_known => self.network_opened.notify_one(),
            Ok(_) => {}
        }
        opened.cloned()
    }

    /// The machines of this host, and those that come with their guests running.
    fn machines_here(&self) -> impl Iterator<Item = Arc<Cached<Machine>>> {
        let machines = &self.documents.machines;
        let coming = machines.by_index("movingTo", self.host.local());
        let coming = coming.into_iter().filter(|one| one.crossing().is_some());
        let here = machines.by_index("host", self.host.local());
        here.into_iter().chain(coming)
    }

    /// The networks that are set up.
    pub(crate) fn networks_in_use(&self) -> Vec<(String, Arc<NetworkHost>)> {
        let networks = self.networks.lock();
        networks
            .iter()
            .filter_map(|(name, cell)| Some((name.clone(), cell.get()?.clone())))
            .collect()
    }
}

/// Removes control groups without processes. Before anything is started nobody needs them: they are of machines that this
/// daemon was killed over while it made or removed them. The kernel refuses to remove those that machines live in.
fn sweep_groups(parent: &str) {
    for group in Cgroups::detect().machines(parent) {
        if std::fs::remove_dir(&group).is_ok() {
            tracing::info!(group = %group.display(), "control group of an earlier run removed");
        }
    }
}

/// Waits until something else is seen of the guard; for ever, if there is to be none.
async fn guard_changed(changes: Option<&mut crate::guard::Changes>) {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}

/// The controller of this host. Cheap to clone.
#[derive(Clone)]
pub struct VmHost(Arc<Controller>);

struct Controller {
    shared: Arc<Shared>,
    /// The bell of each machine's worker.
    workers: Mutex<HashMap<String, Arc<Notify>>>,
    tasks: TaskTracker,
}

impl VmHost {
    /// Writes this host's document. Nothing is started before [`VmHost::run`].
    ///
    /// # Errors
    /// [`VmHostError`].
    pub async fn open(
        documents: Documents,
        mut settings: Settings,
        hypervisor: Arc<dyn Hypervisor>,
        (images, volumes, moves): (
            Arc<dyn ImageFiles>,
            Arc<dyn VolumeFiles>,
            Arc<dyn MachineFiles>,
        ),
        setup: Arc<dyn Networks>,
    ) -> Result<Self, VmHostError> {
        for folder in [&mut settings.machines_dir, &mut settings.quarantine_dir] {
            // The kernel tells the files of a process without symbolic links.
            *folder = std::fs::create_dir_all(&*folder)
                .and_then(|()| folder.canonicalize())
                .map_err(|source| VmHostError::Folder {
                    path: folder.display().to_string(),
                    source,
                })?;
        }
        if let Some(cgroup) = &settings.cgroup {
            sweep_groups(&cgroup.parent);
        }
        let serial_logs = SerialLogs::new().map_err(|source| VmHostError::Folder {
            path: settings.machines_dir.display().to_string(),
            source,
        })?;
        let quarantine = Quarantine::open(&settings.quarantine_dir)?;
        let host = host::announce(&documents, &settings, &*setup).await?;
        let shared = Shared {
            documents,
            host,
            accelerator: Mutex::new(settings.accelerator.clone()),
            host_changed: Notify::new(),
            settings,
            hypervisor,
            images,
            volumes,
            moves,
            quarantine,
            networks: Mutex::default(),
            setup,
            network_opened: Notify::new(),
            serial_logs,
            troubles: health::Troubles::default(),
            consoles: Mutex::default(),
            meters: meters::Meters::default(),
        };
        Ok(Self(Arc::new(Controller {
            shared: Arc::new(shared),
            workers: Mutex::default(),
            tasks: TaskTracker::new(),
        })))
    }

    /// This host's id.
    #[must_use]
    pub fn host(&self) -> &HostId {
        &self.0.shared.host
    }

    /// What a machine of this host used lately; nothing of one that didn't run.
    #[must_use]
    pub fn meters(&self, machine: &str) -> Vec<Reading> {
        self.0.shared.meters.of(machine)
    }

    /// What this host used lately.
    #[must_use]
    pub fn host_meters(&self) -> Vec<Reading> {
        self.0.shared.meters.of_host()
    }

    /// Takes over the machines that run, then does what documents want, until told to stop. Machines run on.
    pub async fn run(&self, stop: CancellationToken) {
        let shared = &self.0.shared;
        let mut machines = shared.documents.machines.changes();
        let mut images = shared.documents.images.changes();
        let mut volumes = shared.documents.volumes.changes();
        let fence = shared.settings.fence.as_ref();
        let mut guard = fence.map(|fence| fence.guard.changes());
        self.restore_networks().await;
        arrival::sweep(shared).await;
        let refresh = host::keep_current(shared.clone(), stop.clone());
        self.0.tasks.spawn(refresh);
        self.0
            .tasks
            .spawn(meters::keep(shared.clone(), stop.clone()));
        self.0
            .tasks
            .spawn(self.clone().retry_networks(stop.clone()));
        self.0
            .tasks
            .spawn(forwarding::follow_groups(shared.clone(), stop.clone()));
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                changed = machines.next() => self.wake(changed.id(), &stop),
                changed = images.next() => {
                    // Told also while it is being fetched, some times a second: only its end, and why it doesn't come, is of interest.
                    let on_its_way = matches!(&changed, Changed::Present(image) if image.state == ImageState::Creating && image.reason.is_none());
                    if !on_its_way {
                        self.wake_users_of(changed.id(), &stop);
                    }
                }
                image = shared.images.changed() => {
                    self.wake_users_of(image.local(), &stop);
                    host::image_changed(shared, image.local());
                }
                changed = volumes.next() => {
                    if let Some(volume) = changed.present()
                        && let Some(attachment) = &volume.attachment
                    {
                        self.wake(attachment.machine.local(), &stop);
                    }
                }
                () = guard_changed(guard.as_mut()) => {
                    shared.host_changed.notify_one();
                    self.wake_guarded(&stop);
                }
            }
        }
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// The files of a machine that has left this host for another one, packed; none if it hasn't.
    #[must_use]
    pub fn files(&self, machine: &str) -> Option<crate::moving::Packed> {
        let shared = &self.0.shared;
        let read = shared.documents.machines.get(machine)?;
        let is_ours = read.host.as_ref() == Some(&shared.host) && read.has_left();
        is_ours.then(|| crate::moving::pack(&prepare::folder(&shared.settings, &read)))
    }

    /// What the machines of this host ask of a network, and those that come with their guests running.
    fn wanted_on(&self, network: &str, of: impl Fn(&Machine) -> bool) -> Vec<PlugRequest> {
        let machines = self.0.shared.machines_here();
        machines
            .filter(|machine| of(machine))
            .flat_map(|machine| prepare::plug_requests(&machine))
            .filter(|(name, _)| name == network)
            .map(|(_, request)| request)
            .collect()
    }

    /// Rings the workers of the machines that can't start without an image.
    fn wake_users_of(&self, image: &str, stop: &CancellationToken) {
        let shared = &self.0.shared;
        let machines = &shared.documents.machines;
        let here = machines.by_index("host", shared.host.local());
        let coming = machines.by_index("movingTo", shared.host.local());
        for machine in here.into_iter().chain(coming) {
            if prepare::needs_image(&machine, image) {
                self.wake(machine.id(), stop);
            }
        }
    }

    /// Rings the workers of the machines that are to be guarded, or are said to be.
    fn wake_guarded(&self, stop: &CancellationToken) {
        let shared = &self.0.shared;
        let here = shared
            .documents
            .machines
            .by_index("host", shared.host.local());
        let is_meant = |machine: &Machine| machine.observed.guarded || machine.goes_on_elsewhere();
        for machine in here.iter().filter(|machine| is_meant(machine)) {
            self.wake(machine.id(), stop);
        }
    }

    /// Rings a machine's worker, and starts one if there is none. Workers of machines that are not ours end at once.
    fn wake(&self, machine: &str, stop: &CancellationToken) {
        let mut workers = self.0.workers.lock();
        if let Some(bell) = workers.get(machine) {
            bell.notify_one();
            return;
        }
        let ours = |document: &cimi::resources::Machine| {
            let own = &self.0.shared.host;
            document.host.as_ref() == Some(own)
                || document.left_on.contains(own)
                || document.moving_to() == Some(own)
        };
        if !self
            .0
            .shared
            .documents
            .machines
            .get(machine)
            .is_some_and(|document| ours(&document))
        {
            return;
        }
        let bell = Arc::new(Notify::new());
        workers.insert(machine.to_owned(), bell.clone());
        let (this, id, stop) = (self.clone(), machine.to_owned(), stop.clone());
        self.0.tasks.spawn(async move {
            let worker = worker::Worker::new(this.0.shared.clone(), id.clone(), bell, stop.clone());
            let panicked = AssertUnwindSafe(worker.run()).catch_unwind().await.is_err();
            if panicked {
                tracing::error!(machine = %id, "its worker panicked: it begins anew");
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(AFTER_PANIC) => {}
                }
            }
            this.0.shared.note_silent(&id, None);
            this.0.workers.lock().remove(&id);
            // The document may have changed between the worker's last look and its removal from the table.
            if !stop.is_cancelled() {
                this.wake(&id, &stop);
            }
        });
    }
}
