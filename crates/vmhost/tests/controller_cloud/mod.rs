//! A whole cloud of one host in a temporary folder: real store, documents, rules, scheduler and controller, over the
//! simulated hypervisor. [`World::crash`] ends everything but the machines, as a kill of the daemon does.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    missing_docs
)]

mod image_files;
mod volume_files;
mod writes;

use std::{
    collections::BTreeSet,
    future::Future,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cimi::{
    ImageId,
    common::USER_ROLE,
    lifecycle::{MachineState, Phase},
    resources::{
        Digests, Image, ImageFile, ImageState, Job, JobState, Machine, MediumFormat, Network,
        Resource, Volume, VolumeLocation, VolumeState,
    },
    size::ByteSize,
};
use cloud::{
    Cloud, NoServices, OpContext, Retention,
    testing::{self, caller},
};
use documents::Documents;
use network::{NetworkConfig, NetworkHost, Overlay, Peer, UserModeConfig};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use store::SqliteStore;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use vmhost::{
    accel::{Accelerator, AcceleratorKind},
    controller::{Networks, Opening, Settings, VmHost, VmHostError},
    hypervisor::Hypervisor,
    simulated::{SimulatedHypervisor, SimulatedMachine},
};

pub use cloud::testing::{PATIENCE, object};
use image_files::TestImages;
use volume_files::TestVolumes;
use writes::Meddler;

/// What survives a crash.
pub struct World {
    pub folder: tempfile::TempDir,
    pub simulated: SimulatedHypervisor,
    pub hypervisor: Arc<dyn Hypervisor>,
    pub settings: Settings,
    pub image: ImageId,
    pub images: TestImages,
    pub volumes: TestVolumes,
    pub writes: Meddler,
    networks: TestNetworks,
    life: Option<Life>,
}

/// What doesn't.
struct Life {
    runtime: Runtime,
    documents: Documents,
    cloud: Cloud,
    host: VmHost,
    stop: CancellationToken,
}

/// What another host has of the machines that come here.
pub struct Elsewhere(PathBuf);

impl vmhost::controller::MachineFiles for Elsewhere {
    fn files<'a>(
        &'a self,
        machine: &'a Machine,
    ) -> futures::future::BoxFuture<'a, Result<vmhost::moving::Packed, String>> {
        Box::pin(async move {
            match self.0.exists() {
                true => Ok(vmhost::moving::pack(&self.0)),
                false => Err(format!("nobody has the files of {}", machine.id)),
            }
        })
    }
}

pub fn user() -> OpContext {
    caller("alice", &[USER_ROLE])
}

pub fn admin() -> OpContext {
    caller("root", &[USER_ROLE, cimi::common::ADMIN_ROLE])
}

fn settings(folder: &Path) -> Settings {
    Settings {
        host_name: "here".into(),
        joined: None,
        tunnel: None,
        fence: None,
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
        power_button_limit: Duration::from_millis(400),
        uid_base: None,
        cgroup: None,
        reserve_bytes: 0,
        console_bytes: 1 << 16,
        cpus: Some(1000),
        memory_mib: Some(1 << 20),
        storage_daemon: None,
        version: "test".into(),
        qemu_version: "simulated".into(),
    }
}

pub fn rules() -> cloud::Settings {
    cloud::Settings {
        per_user: cloud::PerUser {
            machines: 100_000,
            cpus: 1_000_000,
            memory_gib: 1_000_000,
            addresses: 100_000,
            volumes: 100_000,
            ..cloud::PerUser::default()
        },
        ..testing::settings()
    }
}

/// A network that was set up, and what it forwarded to from the beginning.
pub type Opened = (String, BTreeSet<Peer>);

/// Networks that need no rights; what each was to forward to when it was set up is kept.
#[derive(Clone, Default)]
pub struct TestNetworks {
    broken: Arc<AtomicBool>,
    opened: Arc<Mutex<Vec<Opened>>>,
}

impl Networks for TestNetworks {
    fn open(&self, network: &Network, peers: BTreeSet<Peer>, _overlay: Option<Overlay>) -> Opening {
        let broken = self.broken.load(Ordering::SeqCst);
        if !broken {
            let name = network.id.local().to_owned();
            self.opened.lock().push((name, peers));
        }
        Box::pin(async move {
            if broken {
                return Err(network::NetworkError::File {
                    path: "bridge".into(),
                    source: std::io::Error::other("broken for a test"),
                });
            }
            let config = UserModeConfig::new(
                "t".parse().unwrap(),
                "10.99.0.0/16".parse().unwrap(),
                [10, 99, 0, 1].into(),
                "test.internal".parse().unwrap(),
            );
            NetworkHost::open(NetworkConfig::User(config)).await
        })
    }

    fn as_peer(&self, network: &str) -> Option<Peer> {
        Some(peer(network))
    }
}

/// What a network would be known by if it had a bridge.
pub fn peer(network: &str) -> Peer {
    Peer {
        bridge: format!("st{network}-br").parse().unwrap(),
        network: "10.99.0.0/16".parse().unwrap(),
        network6: None,
    }
}

/// An image as the storage controller leaves it.
pub fn image(path: &Path, state: ImageState) -> Image {
    let file = ImageFile {
        path: path.display().to_string(),
        format: MediumFormat::Raw,
        virtual_size: ByteSize(1 << 20),
        digests: Digests::default(),
        kept: None,
    };
    Image {
        state,
        file: (state == ImageState::Available).then_some(file),
        ..cimi::testing::image()
    }
}

impl World {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// With other settings.
    pub async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::over(|simulated| Arc::new(simulated), change).await
    }

    /// With something between the controller and the simulated hypervisor.
    pub async fn over(
        wrap: impl FnOnce(SimulatedHypervisor) -> Arc<dyn Hypervisor>,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("controller-test-")
            .tempdir()
            .unwrap();
        let mut settings = settings(folder.path());
        change(&mut settings);
        let path = folder.path().join("base.raw");
        std::fs::File::create(&path)
            .unwrap()
            .set_len(1 << 20)
            .unwrap();
        let base = image(&path, ImageState::Available);
        let simulated = SimulatedHypervisor::new();
        let mut world = Self {
            folder,
            hypervisor: wrap(simulated.clone()),
            simulated,
            settings,
            image: base.id.clone(),
            images: TestImages::default(),
            volumes: TestVolumes::default(),
            writes: Meddler::default(),
            networks: TestNetworks::default(),
            life: None,
        };
        world.start().await;
        world.add(&base).await;
        world
    }

    /// Starts the daemon, as it were.
    pub async fn start(&mut self) {
        assert!(self.life.is_none(), "it runs already");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (path, settings) = (self.folder.path().join("db"), self.settings.clone());
        let (hypervisor, stop) = (self.hypervisor.clone(), CancellationToken::new());
        let networks = Arc::new(self.networks.clone());
        let images = Arc::new(self.images.clone());
        let volumes = Arc::new(self.volumes.clone());
        let (elsewhere, writes) = (self.elsewhere(), self.writes.clone());
        let begin = async move {
            let store = writes.over(SqliteStore::open(path).unwrap());
            let documents = Documents::open(store).await.unwrap();
            let services = Arc::new(NoServices);
            let cloud = Cloud::open(documents.clone(), rules(), services.clone(), services)
                .await
                .unwrap();
            let host = VmHost::open(
                documents.clone(),
                settings,
                hypervisor,
                (images, volumes, Arc::new(Elsewhere(elsewhere))),
                networks,
            )
            .await
            .unwrap();
            (documents, cloud, host)
        };
        let (documents, cloud, host) = runtime.spawn(begin).await.unwrap();
        let policy = placement::Policy::default();
        let placing =
            scheduler::Scheduler::new(documents.clone(), policy, "test").run(stop.clone());
        runtime.spawn(placing);
        let (rules, working, until) = (cloud.clone(), host.clone(), stop.clone());
        runtime.spawn(async move { rules.run(Retention::default()).await });
        runtime.spawn(async move { working.run(until).await });
        self.life = Some(Life {
            runtime,
            documents,
            cloud,
            host,
            stop,
        });
    }

    /// Begins another controller, of a host of this name.
    pub async fn open_named(&self, name: &str) -> Result<VmHost, VmHostError> {
        let settings = Settings {
            host_name: name.to_owned(),
            ..self.settings.clone()
        };
        let (documents, hypervisor) = (self.documents().clone(), self.hypervisor.clone());
        VmHost::open(
            documents,
            settings,
            hypervisor,
            (
                Arc::new(vmhost::controller::OfStorage),
                Arc::new(storage::exports::Exports::default()),
                Arc::new(Elsewhere(self.elsewhere())),
            ),
            Arc::new(self.networks.clone()),
        )
        .await
    }

    /// Networks can't be set up from now on, or can.
    pub fn break_networks(&self, broken: bool) {
        self.networks.broken.store(broken, Ordering::SeqCst);
    }

    /// The networks that were set up since the last time of asking.
    pub fn opened(&self) -> Vec<Opened> {
        std::mem::take(&mut *self.networks.opened.lock())
    }

    /// Kills the daemon in the middle of whatever it does. Machines live on.
    pub async fn crash(&mut self) {
        let life = self.life.take().expect("it runs");
        // What blocks can't be interrupted from inside a process; it is over before the next life begins.
        tokio::task::spawn_blocking(move || {
            let Life { runtime, .. } = life;
            runtime.shutdown_timeout(PATIENCE);
        })
        .await
        .unwrap();
    }

    /// Writes something while the daemon isn't there, as an entry does.
    pub async fn edit_meanwhile(&self, id: &str, edit: impl Fn(&mut Machine)) {
        assert!(self.life.is_none(), "it runs");
        let store = Arc::new(SqliteStore::open(self.folder.path().join("db")).unwrap());
        let documents = Documents::open(store).await.unwrap();
        let read = documents.machines.get(id).unwrap();
        let mut machine = read.document.0.clone();
        edit(&mut machine);
        let changed = documents.changes().replace(&read, machine).commit().await;
        changed.unwrap();
        documents.store().close().await;
    }

    /// Ends the daemon in order.
    pub async fn stop(&mut self) {
        self.life().stop.cancel();
        self.crash().await;
    }

    fn life(&self) -> &Life {
        self.life.as_ref().expect("it runs")
    }

    /// Where the files of machines lie that come here.
    pub fn elsewhere(&self) -> PathBuf {
        self.folder.path().join("elsewhere")
    }

    pub fn documents(&self) -> &Documents {
        &self.life().documents
    }

    pub fn cloud(&self) -> &Cloud {
        &self.life().cloud
    }

    pub fn host(&self) -> &VmHost {
        &self.life().host
    }

    /// Runs something that a crash ends, too.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.life().runtime.spawn(task);
    }

    pub async fn add<R: Resource>(&self, document: &R) {
        let changes = self.documents().changes().create(document);
        changes.commit().await.unwrap();
    }

    /// A body that makes a machine; `more` goes into its template.
    pub fn body(&self, more: Value) -> Map<String, Value> {
        let mut template = object(json!({"machineImage": {"href": self.image.to_string()}}));
        template.extend(object(more));
        object(json!({"machineTemplate": template}))
    }

    /// Makes a machine; returns its local id and job.
    pub async fn create(&self, more: Value) -> (String, String) {
        let made = self.cloud().create_machine(&user(), self.body(more)).await;
        let made = made.unwrap();
        let id = made.view.id.strip_prefix("Machine/").unwrap().to_owned();
        (id, made.job.unwrap())
    }

    /// A machine that runs.
    pub async fn running(&self, more: Value) -> String {
        let (id, job) = self.create(more).await;
        self.succeeds(&job).await;
        self.phase(&id, Phase::Running).await;
        id
    }

    /// Does an action; returns its job.
    pub async fn act(&self, id: &str, action: &str, force: bool) -> String {
        let context = user();
        let done = self.cloud().act_on_machine(&context, id, action, force);
        done.await.unwrap().job.unwrap()
    }

    /// A volume that is there, by its local id.
    pub async fn volume(&self) -> String {
        let id = self.volume_to_be().await;
        self.make_volume(&id).await;
        id
    }

    /// A volume that is wanted.
    pub async fn volume_to_be(&self) -> String {
        let body = object(json!({"volumeTemplate": {"volumeConfig": {"capacity": 1024}}}));
        let made = self.cloud().create_volume(&user(), body).await.unwrap();
        made.view.id.strip_prefix("Volume/").unwrap().to_owned()
    }

    /// Does what the storage controller does.
    pub async fn make_volume(&self, id: &str) {
        let path = self.folder.path().join(format!("volume-{id}"));
        std::fs::File::create(&path).unwrap();
        let path = path.display().to_string();
        self.edit::<Volume>(id, |volume| {
            volume.state = VolumeState::Available;
            volume.location = Some(VolumeLocation::File {
                path: path.clone(),
                backing: Vec::new(),
            });
        })
        .await;
    }

    pub async fn edit<R: documents::OfType>(
        &self,
        id: &str,
        mut change: impl FnMut(&mut R) + Send,
    ) {
        let edited = self.documents().update(id, |document: &mut R| {
            change(document);
            Ok::<bool, documents::DocumentsError>(true)
        });
        edited.await.unwrap();
    }

    pub async fn attach(&self, machine: &str, volume: &str) -> String {
        let body = object(json!({"volume": {"href": format!("Volume/{volume}")}}));
        let made = self.cloud().attach_volume(&user(), machine, body).await;
        made.unwrap().job.unwrap()
    }

    pub async fn detach(&self, machine: &str, volume: &str) -> String {
        let done = self.cloud().detach_volume(&user(), machine, volume).await;
        done.unwrap().job.unwrap()
    }

    pub fn machine(&self, id: &str) -> Option<Machine> {
        let found = self.documents().machines.get(id);
        found.map(|machine| machine.document.0.clone())
    }

    /// Waits until the document of a type satisfies `wanted` (`None`: it is gone).
    pub async fn wait<R: documents::OfType + std::fmt::Debug>(
        &self,
        id: &str,
        what: &str,
        wanted: impl Fn(Option<&R>) -> bool,
    ) {
        let view = self.documents().view::<R>();
        let mut changes = view.changes();
        let look = async {
            while !wanted(view.get(id).as_ref().map(|read| &read.document.0)) {
                changes.next().await;
            }
        };
        if tokio::time::timeout(PATIENCE, look).await.is_err() {
            let last = view.get(id).map(|read| format!("{:#?}", read.document.0));
            panic!("{what} never happened: {}", last.unwrap_or_default());
        }
    }

    /// Waits until a machine satisfies `wanted`.
    pub async fn until(&self, id: &str, what: &str, wanted: impl Fn(&Machine) -> bool) -> Machine {
        self.wait::<Machine>(id, what, |machine| machine.is_some_and(&wanted))
            .await;
        self.machine(id).unwrap()
    }

    pub async fn phase(&self, id: &str, phase: Phase) -> Machine {
        self.until(id, &format!("{phase:?}"), |m| m.phase == phase)
            .await
    }

    pub async fn state(&self, id: &str, state: MachineState) -> Machine {
        self.until(id, &format!("{state:?}"), |m| m.state == state)
            .await
    }

    pub async fn gone(&self, id: &str) {
        self.wait::<Machine>(id, "its end", |machine| machine.is_none())
            .await;
    }

    /// Waits for the end of a job.
    pub async fn ended(&self, job: &str) -> Job {
        let local = job.strip_prefix("Job/").unwrap();
        let over = |job: Option<&Job>| job.is_some_and(|job| job.state.is_final());
        self.wait::<Job>(local, "the end of the job", over).await;
        self.documents().jobs.get(local).unwrap().document.0.clone()
    }

    pub async fn succeeds(&self, job: &str) {
        let job = self.ended(job).await;
        assert_eq!(job.state, JobState::Success, "{job:#?}");
    }

    pub async fn fails(&self, job: &str) -> String {
        let job = self.ended(job).await;
        assert_eq!(job.state, JobState::Failed, "{job:#?}");
        job.status_message.unwrap_or_default()
    }

    pub fn run_folder(&self, id: &str) -> PathBuf {
        self.settings.machines_dir.join(id)
    }

    pub fn guest(&self, id: &str) -> Arc<SimulatedMachine> {
        let uuid: Uuid = id.parse().unwrap();
        self.simulated.machine(uuid).expect("it was launched")
    }

    pub fn lives(&self, id: &str) -> bool {
        self.simulated.running().contains(&id.parse().unwrap())
    }

    /// What the leak checkers and the direct comparison find. Empty once all is still.
    pub async fn wrong(&self) -> Vec<String> {
        let documents = self.documents();
        let mut wrong: Vec<String> = Vec::new();
        for finding in self.host().audit(false).await {
            wrong.push(format!("audit: {finding:?}"));
        }
        let doctor = self.cloud().doctor(&admin(), false).await.unwrap();
        if doctor["findings"] != json!([]) {
            wrong.push(format!("doctor: {doctor}"));
        }
        let machines = documents.machines.all();
        let live = self.simulated.running();
        for machine in &machines {
            let uuid: Uuid = machine.id().parse().unwrap();
            let runs = matches!(
                machine.observed.stage,
                cimi::lifecycle::Stage::Running
                    | cimi::lifecycle::Stage::Paused
                    | cimi::lifecycle::Stage::Held
            );
            if runs != live.contains(&uuid) {
                wrong.push(format!(
                    "{}: {:?}, process: {}",
                    machine.document.id,
                    machine.observed.stage,
                    live.contains(&uuid)
                ));
            }
        }
        for uuid in live {
            if documents.machines.get(&uuid.to_string()).is_none() {
                wrong.push(format!("process of {uuid}, which is no machine"));
            }
        }
        let folders = std::fs::read_dir(&self.settings.machines_dir).unwrap();
        for folder in folders {
            let name = folder.unwrap().file_name().into_string().unwrap();
            if documents.machines.get(&name).is_none() {
                wrong.push(format!("folder {name} of no machine"));
            }
        }
        let held: usize = machines.iter().map(|machine| machine.nics.len()).sum();
        if documents.addresses.len() != held {
            let leased = documents.addresses.len();
            wrong.push(format!("{leased} addresses leased, {held} held"));
        }
        wrong
    }

    /// Waits until nothing is on its way and nothing is wrong.
    pub async fn settles(&self) {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let mut wrong = self.wrong().await;
            for machine in self.documents().machines.all() {
                use MachineState as S;
                if matches!(
                    machine.state,
                    S::Creating
                        | S::Starting
                        | S::Pausing
                        | S::Suspending
                        | S::Stopping
                        | S::Deleting
                ) {
                    wrong.push(format!("{} is {:?}", machine.document.id, machine.state));
                }
            }
            for job in self.documents().jobs.all() {
                if !job.state.is_final() {
                    let whose = job.target_resource.href.split('/').nth(1);
                    let machine = whose.and_then(|id| self.documents().machines.get(id));
                    let machine = machine.map(|machine| machine.document.0.clone());
                    wrong.push(format!("open: {:?}, of {machine:?}", job.document.0));
                }
            }
            if wrong.is_empty() {
                return;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "never settled: {wrong:#?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(life) = self.life.take() {
            life.stop.cancel();
            life.runtime.shutdown_background();
        }
    }
}
