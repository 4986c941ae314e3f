//! A controller with its documents in a temporary directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cimi::resources::{Image, ImageSource, ImageState, Resource, Volume, VolumeState};
use cimi::{Acl, Common, Timestamp, VolumeId, size::ByteSize};
use documents::{Cached, Documents, DocumentsError, OfType};
use store::SqliteStore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::{Settings, StorageController};
use crate::import::{Fetcher, Reach};

/// Generous: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct World {
    pub(super) dir: tempfile::TempDir,
    pub(super) documents: Documents,
    running: Option<(StorageController, CancellationToken, JoinHandle<()>)>,
}

impl World {
    /// Documents without a controller yet.
    pub(super) async fn new() -> Self {
        Self::within(&std::env::temp_dir()).await
    }

    /// The same in a directory of its own below another one.
    pub(super) async fn within(above: &Path) -> Self {
        let dir = tempfile::tempdir_in(above).expect("temporary directory");
        let store = SqliteStore::open(dir.path().join("stratus.db")).expect("database");
        let documents = Documents::open(Arc::new(store)).await.expect("documents");
        Self {
            dir,
            documents,
            running: None,
        }
    }

    pub(super) fn storage_dir(&self) -> PathBuf {
        self.dir.path().join("storage")
    }

    pub(super) fn settings(&self) -> Settings {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let reach = Reach {
            allowed: vec!["127.0.0.0/8".parse().expect("a block")],
            ..Reach::default()
        };
        let fetcher = Fetcher::new(reqwest::Client::builder(), reach).expect("fetcher");
        let mut settings = Settings::new(self.storage_dir(), fetcher);
        settings.reserve_bytes = 0;
        settings.recheck = Duration::from_millis(200);
        settings.overlay_dirs = vec![self.dir.path().join("quarantine")];
        settings
    }

    pub(super) async fn start(&mut self) -> StorageController {
        self.start_with(self.settings(), None).await
    }

    /// Starts a controller that halts at a place.
    pub(super) async fn start_with(
        &mut self,
        settings: Settings,
        stop_at: Option<&'static str>,
    ) -> StorageController {
        self.kill().await;
        let controller = StorageController::open(self.documents.clone(), settings)
            .await
            .expect("open");
        if let Some(place) = stop_at {
            controller.stop_at(place);
        }
        let shutdown = CancellationToken::new();
        let task = tokio::spawn({
            let (controller, shutdown) = (controller.clone(), shutdown.clone());
            async move { controller.run(shutdown).await }
        });
        self.running = Some((controller.clone(), shutdown, task));
        controller
    }

    /// Starts a controller, waits until it reached a place between two steps, and ends it there.
    pub(super) async fn crash_at(&mut self, place: &'static str) {
        let controller = self.start_with(self.settings(), Some(place)).await;
        tokio::time::timeout(PATIENCE, controller.stopped())
            .await
            .unwrap_or_else(|_| panic!("`{place}` is not reached"));
        drop(controller);
        self.kill().await;
    }

    /// Ends the controller wherever it is.
    pub(super) async fn kill(&mut self) {
        if let Some((controller, shutdown, task)) = self.running.take() {
            shutdown.cancel();
            task.await.expect("the controller ends");
            drop(controller);
            // Blocking work may still hold the directory for a moment; the next `open` must not find it in use.
            let dir = self.storage_dir();
            let free = || {
                ["volumes/lock", "cache/disks/lock", "cache/files/lock"]
                    .iter()
                    .all(|lock| {
                        let file = std::fs::File::open(dir.join(lock)).expect("lock file");
                        rustix::fs::flock(
                            &file,
                            rustix::fs::FlockOperation::NonBlockingLockExclusive,
                        )
                        .is_ok()
                    })
            };
            let deadline = std::time::Instant::now() + PATIENCE;
            while !free() {
                assert!(
                    std::time::Instant::now() < deadline,
                    "the directory stays in use"
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// Waits until a document is as it should be.
    pub(super) async fn until<R: OfType>(
        &self,
        local: &str,
        good: impl Fn(&R) -> bool,
    ) -> Arc<Cached<R>> {
        let mut changes = self.documents.view::<R>().changes();
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(read) = self.documents.view::<R>().get(local)
                    && good(&read.document.0)
                {
                    return read;
                }
                changes.next().await;
            }
        });
        match found.await {
            Ok(read) => {
                self.whole_transactions().await;
                read
            }
            Err(_) => panic!(
                "{local} stays {}",
                self.documents
                    .view::<R>()
                    .get(local)
                    .map_or("absent".to_owned(), |read| {
                        serde_json::to_string(&read.document.0).expect("JSON")
                    })
            ),
        }
    }

    pub(super) async fn until_gone<R: OfType>(&self, local: &str) {
        let mut changes = self.documents.view::<R>().changes();
        let gone = async {
            while self.documents.view::<R>().get(local).is_some() {
                changes.next().await;
            }
        };
        tokio::time::timeout(PATIENCE, gone)
            .await
            .unwrap_or_else(|_| panic!("{local} stays"));
        self.whole_transactions().await;
    }

    /// Caches are brought up to date one after the other: waits until all of them show what one of them showed.
    async fn whole_transactions(&self) {
        let key = store::Key::new("Test", "barrier").expect("a key");
        let entry = self.documents.store().get(&key).await.expect("the store");
        let revision = entry.map_or(store::Revision::ZERO, |entry| entry.revision);
        let barrier = self
            .documents
            .changes()
            .put_raw(&key, revision, b"1".to_vec());
        barrier.commit().await.expect("a commit");
    }

    pub(super) async fn eventually(what: &str, good: impl Fn() -> bool) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while !good() {
            assert!(std::time::Instant::now() < deadline, "never: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(super) async fn create<R: Resource>(&self, document: &R) {
        self.documents
            .changes()
            .create(document)
            .commit()
            .await
            .expect("create");
    }

    pub(super) async fn edit<R: OfType>(&self, local: &str, edit: impl Fn(&mut R) + Send + Sync) {
        self.documents
            .update::<R, DocumentsError>(local, |document| {
                edit(document);
                Ok(true)
            })
            .await
            .expect("edit");
    }

    pub(super) async fn delete_volume(&self, local: &str) {
        self.edit::<Volume>(local, |volume| {
            volume.deleted = true;
            volume.state = VolumeState::Deleting;
        })
        .await;
    }

    pub(super) async fn delete_image(&self, local: &str) {
        self.edit::<Image>(local, |image| {
            image.desired.deleted = true;
            image.state = ImageState::Deleting;
        })
        .await;
    }

    /// The states that the events about a resource tell of, in order.
    pub(super) fn events(&self, key: &str) -> Vec<String> {
        let mut events: Vec<_> = self
            .documents
            .events
            .all()
            .into_iter()
            .filter(|e| e.content["resource"] == key)
            .collect();
        events.sort_by_key(|event| event.id.clone());
        events
            .iter()
            .filter_map(|event| event.content["state"].as_str().map(str::to_owned))
            .collect()
    }
}

pub(super) fn volume(bytes: u64) -> Volume {
    Volume {
        id: VolumeId::generate(),
        common: Common::new(Acl::owned_by_user("alice"), Timestamp::now()),
        state: VolumeState::Creating,
        reason: None,
        kind: "http://schemas.dmtf.org/cimi/1/mapped".to_owned(),
        size_bytes: ByteSize(bytes),
        bootable: false,
        attachment: None,
        deleted: false,
        origin: None,
        base: None,
        capture: None,
        location: None,
        size_since: None,
        unknown: serde_json::Map::new(),
    }
}

pub(super) fn image(source: ImageSource, kind: &str) -> Image {
    let mut image = Image {
        common: Common::new(Acl::owned_by_user("alice"), Timestamp::now()),
        kind: kind.to_owned(),
        progress: Some(0),
        ..cimi::testing::image()
    };
    image.desired.source = source;
    image
}

/// Names of what is in a directory.
pub(super) fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("list");
    let mut names: Vec<_> = entries
        .map(|entry| {
            entry
                .expect("entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}
