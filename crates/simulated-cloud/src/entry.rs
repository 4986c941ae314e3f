//! Daemons that have all documents: entries with their schedulers, and the storage.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cloud::{Cloud, NoServices, Retention, testing};
use documents::Documents;
use parking_lot::Mutex;
use storage::{
    controller::{Settings, StorageController},
    import::{Fetcher, Reach},
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    fuse::Fuse,
    node::Node,
    wire::{Link, Wire},
};

const REST: Duration = Duration::from_secs(2);

/// What an entry answers by, once it has begun.
pub type Front = Arc<Mutex<Option<Cloud>>>;

/// One that has all documents.
pub struct Central {
    /// Its way to the store.
    pub wire: Arc<Wire>,
    /// It, if it runs.
    pub daemon: Option<Node>,
    /// Where users ask, if it is an entry.
    pub front: Front,
    /// Where it keeps files, if it is the storage.
    files: Option<PathBuf>,
    name: String,
}

impl Central {
    /// One that isn't started; the storage, if it has files.
    #[must_use]
    pub fn new(name: String, wire: Arc<Wire>, files: Option<PathBuf>) -> Self {
        Self {
            name,
            wire,
            daemon: None,
            front: Front::default(),
            files,
        }
    }

    /// Starts it.
    pub fn start(&mut self) {
        let fuse = Arc::new(Fuse::default());
        let link = Arc::new(Link::new(self.wire.clone(), fuse.clone()));
        let (front, files, name) = (self.front.clone(), self.files.clone(), self.name.clone());
        self.daemon = Some(Node::with(fuse, async move {
            let documents = loop {
                match Documents::open(link.clone()).await {
                    Ok(documents) => break documents,
                    Err(error) => tracing::warn!(%error, "no documents"),
                }
                sleep(REST).await;
            };
            match files {
                None => be_entry(&documents, &front, &name).await,
                Some(files) => be_storage(&documents, &files).await,
            }
        }));
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        *self.front.lock() = None;
        if let Some(daemon) = self.daemon.take() {
            daemon.kill();
        }
    }
}

/// The rules with which all entries begin: as many of everything as there is room for.
#[must_use]
pub fn rules() -> cloud::Settings {
    cloud::Settings {
        per_user: cloud::PerUser {
            machines: 1000,
            cpus: 1000,
            memory_gib: 1000,
            addresses: 1000,
            volumes: 1000,
            ..cloud::PerUser::default()
        },
        ..testing::settings()
    }
}

async fn be_entry(documents: &Documents, front: &Front, name: &str) {
    let cloud = loop {
        let services = Arc::new(NoServices);
        let opened = Cloud::open(documents.clone(), rules(), services.clone(), services);
        match opened.await {
            Ok(cloud) => break cloud,
            Err(error) => tracing::warn!(%error, "no rules"),
        }
        sleep(REST).await;
    };
    let placing = scheduler::Scheduler::new(documents.clone(), rules().placement, name);
    *front.lock() = Some(cloud.clone());
    tokio::join!(
        placing.run(CancellationToken::new()),
        Box::pin(cloud.run(Retention::default()))
    );
}

async fn be_storage(documents: &Documents, files: &Path) {
    let fetcher = Fetcher::new(reqwest::Client::builder(), Reach::default());
    let Ok(fetcher) = fetcher else {
        tracing::error!("no HTTP client");
        return;
    };
    let mut settings = Settings::new(files.to_owned(), fetcher);
    settings.reserve_bytes = 0;
    loop {
        match StorageController::open(documents.clone(), settings.clone()).await {
            Ok(storage) => return storage.run(CancellationToken::new()).await,
            Err(error) => tracing::warn!(%error, "no storage"),
        }
        sleep(REST).await;
    }
}
