//! The rules over a real store in a temporary folder, with the image, host and people that most requests need.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    missing_docs
)]

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use cimi::{
    HostId, ImageId,
    common::{ADMIN_ROLE, USER_ROLE},
    model::{self, Kind},
    query::{Query, Select},
    resources::{Digests, Host, Image, ImageFile, ImageState, MediumFormat, NetworkClass},
    size::ByteSize,
};
use cloud::{
    Cloud, CloudError, Created, Done, NetworkSettings, NoServices, OpContext, Page, Result,
    Settings, View,
    testing::{self, PATIENCE, caller, machine_type},
};
use documents::Documents;
use serde_json::{Value, json};
use store::{SharedStore, SqliteStore};
use tracing::Subscriber;

pub use cloud::testing::object;

pub const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKqTSIRqtYhVQXVlP0jC4mUlZ1Y3fFrjzGkZ9zXcNJ5n alice";

pub struct World {
    pub folder: tempfile::TempDir,
    pub documents: Documents,
    pub cloud: Cloud,
    pub image: ImageId,
}

pub fn alice() -> OpContext {
    caller("alice", &[USER_ROLE])
}

pub fn bob() -> OpContext {
    caller("bob", &[USER_ROLE])
}

pub fn admin() -> OpContext {
    caller("root", &[USER_ROLE, ADMIN_ROLE])
}

pub fn network(name: &str, class: NetworkClass, third: u8) -> NetworkSettings {
    NetworkSettings {
        subnet: format!("10.99.{third}.0/24"),
        subnet6: Some(format!("fd00:0:0:{third}::/64")),
        gateway: [10, 99, third, 1].into(),
        first: [10, 99, third, 10].into(),
        last: [10, 99, third, 200].into(),
        ..testing::network(name, class)
    }
}

pub fn settings() -> Settings {
    Settings {
        machine_types: vec![machine_type("m1.tiny", 64), machine_type("m1.large", 512)],
        default_network: "public".into(),
        networks: vec![
            network("public", NetworkClass::Public, 1),
            network("local", NetworkClass::Local, 2),
        ],
        spare_ports: 2,
        largest_volume_gib: 100,
        ..testing::settings()
    }
}

impl World {
    pub async fn start() -> Self {
        Self::with(settings(), |store| store).await
    }

    /// With these settings, over a store that `wrap` may put something in front of.
    pub async fn with(settings: Settings, wrap: impl FnOnce(SharedStore) -> SharedStore) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(folder.path().join("db")).unwrap());
        let documents = Documents::open(wrap(store)).await.unwrap();
        let image = image();
        let id = image.id.clone();
        documents.changes().create(&image).commit().await.unwrap();
        let cloud = open(&documents, settings).await;
        Self {
            folder,
            documents,
            cloud,
            image: id,
        }
    }

    /// A creation as the doors do it: the body is checked and normalised first.
    pub async fn create(&self, who: &OpContext, kind: Kind, body: Value) -> Result<Created> {
        let body = model::check(kind, &body)?;
        self.cloud.create(who, kind, body).await
    }

    /// As [`create`](Self::create); returns the id.
    pub async fn made(&self, who: &OpContext, kind: Kind, body: Value) -> String {
        let created = self.create(who, kind, body).await.unwrap();
        created.view.id.to_string()
    }

    /// An edit as the doors do it.
    pub async fn put(&self, who: &OpContext, id: &str, body: Value) -> Result<Done> {
        let (kind, local) = split(id);
        let changes = model::check_changes(kind, &body, &Select::All)?;
        self.cloud.edit(who, kind, local, changes).await
    }

    pub fn view(&self, who: &OpContext, id: &str) -> View {
        let (kind, local) = split(id);
        self.cloud.get(who, kind, local).unwrap()
    }

    /// What a client gets to see.
    pub fn get(&self, who: &OpContext, id: &str) -> Value {
        representation(&self.view(who, id))
    }

    pub fn list(&self, who: &OpContext, kind: Kind, parameters: &[(&str, &str)]) -> Page {
        let query = Query::from_parameters(parameters.iter().copied()).unwrap();
        self.cloud.list(who, kind, &query).unwrap()
    }

    /// A MachineCreate with the world's image; `more` is laid over the template.
    pub fn machine(&self, more: Value) -> Value {
        let mut template = object(json!({"machineImage": {"href": self.image}}));
        template.extend(object(more));
        json!({"machineTemplate": template})
    }

    pub async fn volume(&self, who: &OpContext) -> String {
        let body = json!({"volumeTemplate": {"volumeConfig": {"capacity": 5_000_000}}});
        self.made(who, Kind::Volume, body).await
    }

    pub async fn host(&self, memory_mib: u64) -> HostId {
        let host = host(memory_mib);
        let changes = self.documents.changes().create(&host);
        changes.commit().await.unwrap();
        host.id
    }
}

/// The rules as they begin anew over these documents.
/// What is logged under its subscriber.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub fn subscriber(&self) -> impl Subscriber + Send + Sync + 'static + use<> {
        let log = self.clone();
        let lines = tracing_subscriber::fmt().with_ansi(false);
        lines.with_writer(move || log.clone()).finish()
    }

    pub fn lines(&self) -> Vec<String> {
        let written = self.0.lock().unwrap();
        let text = std::str::from_utf8(&written).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub async fn open(documents: &Documents, settings: Settings) -> Cloud {
    let services = Arc::new(NoServices);
    Cloud::open(documents.clone(), settings, services.clone(), services)
        .await
        .unwrap()
}

pub fn split(id: &str) -> (Kind, &str) {
    let (kind, local) = id.split_once('/').unwrap();
    (Kind::from_name(kind).unwrap(), local)
}

/// The JSON that a client gets to see.
pub fn representation(view: &View) -> Value {
    let attributes = view.document.attributes(view.right);
    let mut out = Vec::new();
    let representation = model::Representation {
        kind: view.kind,
        id: &view.id,
        attributes: &attributes,
        select: &Select::All,
        operations: &[],
    };
    model::render(&representation, &mut out);
    serde_json::from_slice(&out).unwrap()
}

/// The violations of a refusal, one text each: path and problem.
pub fn violations<T: std::fmt::Debug>(result: Result<T>) -> Vec<String> {
    match result {
        Err(CloudError::Invalid { violations }) => {
            violations.iter().map(ToString::to_string).collect()
        }
        other => panic!("not refused as invalid: {other:?}"),
    }
}

/// Waits until `done`, for as long as anybody would.
pub async fn until<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !done().await {
        assert!(tokio::time::Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn image() -> Image {
    let digests = Digests {
        identifier: Some("A".repeat(27)),
        md5: Some("0".repeat(32)),
        sha1: Some("0".repeat(40)),
        sha256: Some("0".repeat(64)),
        sha512: Some("0".repeat(128)),
        bytes: Some(1 << 20),
    };
    let mut image = Image {
        state: ImageState::Available,
        progress: Some(100),
        file: Some(ImageFile {
            path: "/nowhere".into(),
            format: MediumFormat::Raw,
            virtual_size: ByteSize(1 << 20),
            digests: digests.clone(),
            kept: None,
        }),
        ..cimi::testing::image()
    };
    image.desired.expected = digests;
    image
}

fn host(memory_mib: u64) -> Host {
    let mut host = cimi::testing::host();
    host.common.name = Some("here".into());
    host.capacity.memory_kib = memory_mib * 1024;
    host.troubles = vec!["a disk is nearly full".into()];
    host.bridges = vec!["br-else".into()];
    host.features = vec!["newest".into()];
    host
}
