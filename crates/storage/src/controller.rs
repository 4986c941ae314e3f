//! The storage controller: makes volumes and images be as their documents say.
//!
//! ```text
//! Volume         CREATING ──made──▶ AVAILABLE ──file gone──▶ ERROR        ERROR ──file back──▶ AVAILABLE
//!                    └──no space, impossible──▶ ERROR
//! MachineImage   CREATING ──fetched or merged, checked──▶ AVAILABLE ──file gone──▶ ERROR ──file back──▶ AVAILABLE
//!                    └──refused, broken off, never begun──▶ ERROR
//!                    └──can't be fetched now: reason, again later──▶ CREATING (images found by name only)
//!                AVAILABLE ──its entry is refused now──▶ ERROR ──accepted again──▶ AVAILABLE
//! VolumeImage    CREATING ──captured──▶ AVAILABLE (made by the step of its volume, which is CAPTURING meanwhile)
//! all            any, with `deleted` (set by the rules, with DELETING) ──file removed──▶ no document
//! ```
//!
//! It writes the observed part of these (state, reason, location, file, progress), and nothing else. It acts on what a
//! document says and what lies on the disk, never on what it did before, so that a crash between any two steps is cured
//! by looking again. Every document is worked on by at most one task.
//!
//! ```text
//! DIR/volumes/UUID.raw             volumes, 0600; UUID.qcow2 if they stand on an image of a volume
//! DIR/volumes/images/UUID.*        images of volumes, 0400
//! DIR/volumes/orphans/UUID.raw     volumes that nobody knew, moved here by `repair`
//! DIR/cache/disks/                 images that machines begin as (an `ImageStore`), 0400: QEMU gets them as descriptors
//! DIR/cache/files/                 kernels and initrds (an `ImageStore`), 0444: QEMU opens them by name as its own user
//! DIR/saving/                      disks of machines on other hosts, for as long as images are made of them (an `ImageStore`), 0700
//! DIR/unwanted/KIND.IDENTIFIER     images whose last document is gone and that are to go too
//! ```
//!
//! All directories may be passed through but not listed by others (0711); those above DIR must be passable too.
//! Disks and files are kept apart, so that what was never examined as a disk can't become one.
//!
//! Metrics: `storage_imports_running`, `storage_imports_total{outcome}`, `storage_import_bytes_total`,
//! `storage_import_seconds`, `storage_volumes_made_total`, `storage_volumes_deleted_total`.

mod audit;
mod by_name;
mod capture;
mod checkpoint;
mod disk_elsewhere;
mod entries;
mod export;
mod follow;
mod image_content;
mod image_document;
mod images;
mod patience;
mod settings;
mod site_rules;
mod transfer;
mod twins;
mod unwanted;
mod volume_images;
mod volumes;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use documents::Documents;
use tokio::sync::{Mutex, Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::audit::{Finding, FindingKind};
pub use self::export::{Export, ExportFormat};
pub use self::settings::Settings;

use self::entries::Looking;
use self::follow::{Lane, Limits as LaneLimits};
use self::image_content::Kind;
use self::patience::Rests;
use self::transfer::{Transfers, Turns};
use crate::backend::{Backend as _, FileBackend};
use crate::blocking::blocking;
use crate::error::Error;
use crate::identifier::ImageIdentifier;
use crate::import::{ImageStore, Options};
use crate::space::Space;

/// The storage controller of a host. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct StorageController(Arc<Inner>);

struct Inner {
    documents: Documents,
    settings: Settings,
    volumes: FileBackend,
    volumes_dir: PathBuf,
    disks: ImageStore,
    files: ImageStore,
    /// Disks of machines on other hosts that are being saved.
    overlays: ImageStore,
    /// Which of them are being merged; one that two machines left alike stands here twice.
    overlays_used: Mutex<Vec<ImageIdentifier>>,
    unwanted_dir: PathBuf,
    transfers: Transfers,
    /// Images that can't be fetched now, and when they are tried again.
    rests: Rests,
    /// Entries that are looked up for those who start machines.
    looking: Looking,
    /// Uploads that may run at once.
    intakes: Turns,
    /// Exports that `qemu-img` may make at once.
    exports: Arc<Semaphore>,
    /// Held while an image document comes to refer to a cached file, or ceases to, or a file is removed, so that no
    /// file goes that somebody is about to refer to. Never held during an import.
    references: Mutex<()>,
    uploads: TaskTracker,
    /// Rung when the machine of an image that is on its way has changed, the rules of the site have, or room was made for what waits
    /// for it.
    look_at_all: Notify,
    stopping: CancellationToken,
    #[cfg(test)]
    checkpoints: checkpoint::Checkpoints,
}

impl std::fmt::Debug for StorageController {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StorageController")
            .field("dir", &self.0.settings.dir)
            .finish_non_exhaustive()
    }
}

impl StorageController {
    /// Opens the directories, made if missing, and sweeps what unfinished work left in them.
    ///
    /// # Errors
    /// [`Error::InUse`] while another process works there; [`Error::Io`].
    pub async fn open(documents: Documents, settings: Settings) -> Result<Self, Error> {
        blocking(move || {
            let dir = directory(&settings.dir)?;
            let volumes_dir = dir.join("volumes");
            let unwanted_dir = directory(&dir.join("unwanted"))?;
            let cache = directory(&dir.join("cache"))?;
            let options = Options {
                reserve_bytes: settings.reserve_bytes,
                qemu_img: settings.qemu_img.clone(),
            };
            Ok(Self(Arc::new(Inner {
                documents,
                volumes: FileBackend::open(&volumes_dir, settings.reserve_bytes)?,
                volumes_dir,
                disks: ImageStore::open(&cache.join("disks"), options.clone())?,
                files: ImageStore::open_files(&cache.join("files"), options.clone())?,
                overlays: disk_elsewhere::open(&dir.join("saving"), options)?,
                overlays_used: Mutex::default(),
                unwanted_dir,
                transfers: Transfers::default(),
                rests: Rests::default(),
                looking: Looking::default(),
                intakes: Turns::new(settings.imports, settings.imports_per_owner),
                exports: Arc::new(Semaphore::new(2)),
                references: Mutex::new(()),
                uploads: TaskTracker::new(),
                look_at_all: Notify::new(),
                stopping: CancellationToken::new(),
                settings,
                #[cfg(test)]
                checkpoints: checkpoint::Checkpoints::default(),
            })))
        })
        .await
    }

    /// Works until `shutdown`. What is under way then is broken off, and taken up by the next start.
    pub async fn run(&self, shutdown: CancellationToken) {
        let recheck = self.0.settings.recheck;
        let never = Notify::new();
        let volumes = follow::follow(
            self.0.documents.volumes.changes(),
            LaneLimits {
                quick: self.0.settings.volume_operations.max(1),
                long: 1,
                long_per_owner: 1,
                long_per_host: 1,
            },
            |_: &str| Lane::Quick,
            |_: &str| {},
            |local, failures| {
                let this = self.clone();
                async move { this.step_volume(&local, failures).await }
            },
            Vec::new,
            recheck,
            &never,
            shutdown.clone(),
        );
        let images = follow::follow(
            self.0.documents.images.changes(),
            LaneLimits {
                quick: 8,
                long: self.0.settings.imports.max(1),
                long_per_owner: self.0.settings.imports_per_owner.max(1),
                long_per_host: self.0.settings.imports_per_host(),
            },
            |local: &str| self.image_lane(local),
            |local: &str| self.0.transfers.ring(local),
            |local, _| {
                let this = self.clone();
                async move { this.step_image(&local).await }
            },
            || self.unsettled_images(),
            recheck,
            &self.0.look_at_all,
            shutdown.clone(),
        );
        let volume_images = follow::follow(
            self.0.documents.volume_images.changes(),
            LaneLimits {
                quick: 4,
                long: 1,
                long_per_owner: 1,
                long_per_host: 1,
            },
            |_: &str| Lane::Quick,
            |_: &str| {},
            |local, _| {
                let this = self.clone();
                async move { this.step_volume_image(&local).await }
            },
            || self.unwanted_volume_images(),
            recheck,
            &never,
            shutdown.clone(),
        );
        tokio::join!(
            volumes,
            images,
            volume_images,
            self.follow_machines(&shutdown),
            self.follow_site_rules(&shutdown),
            self.sweep_regularly(&shutdown)
        );
        self.0.stopping.cancel();
        self.0.uploads.close();
        self.0.uploads.wait().await;
    }

    /// Size and free space of what volumes and images lie on.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn space(&self) -> Result<Space, Error> {
        self.0.volumes.space().await
    }

    /// Where images are found by name.
    #[must_use]
    pub fn registries(&self) -> &crate::registry::Registries {
        &self.0.settings.registries
    }

    fn store(&self, kind: Kind) -> &ImageStore {
        match kind {
            Kind::Disk => &self.0.disks,
            Kind::File => &self.0.files,
        }
    }

    /// Removes unwanted images that something still stood on when their documents went.
    async fn sweep_regularly(&self, shutdown: &CancellationToken) {
        let mut ticks = tokio::time::interval(self.0.settings.recheck);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let sweep = async {
                ticks.tick().await;
                self.sweep_unwanted().await
            };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                swept = sweep => if let Err(error) = swept {
                    tracing::warn!(%error, "unwanted images can't be removed; trying again later");
                },
            }
        }
    }
}

/// Makes a directory that others may pass through but not list.
fn directory(dir: &Path) -> Result<PathBuf, Error> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(dir)
        .map_err(Error::io("create", dir))?;
    dir.canonicalize().map_err(Error::io("find", dir))
}

/// The name of a state, as documents have it.
fn state_name(state: &impl serde::Serialize) -> String {
    match serde_json::to_value(state) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}
