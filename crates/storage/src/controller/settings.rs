//! How the storage of a host is run, as the operator decided.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use documents::room::{ImageRooms, Unbounded};

use crate::confine::{Debugfs, QemuImg};
use crate::elsewhere::DisksElsewhere;
use crate::exports::Exports;
use crate::import::{Fetcher, Limits};
use crate::registry::Registries;

/// How the storage of a host is run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where volumes and images are kept. Made if missing.
    pub dir: PathBuf,
    /// Bytes of the file system that new volumes and images leave free.
    pub reserve_bytes: u64,
    /// Most bytes of images kept (as their lengths count, not what they occupy); none: as many as fit.
    pub cache_bytes: Option<u64>,
    /// Says whether owners of images may have so much.
    pub rooms: Arc<dyn ImageRooms>,
    /// Fetches images.
    pub fetcher: Fetcher,
    /// Where images are found by name.
    pub registries: Registries,
    /// How often an image that is fetched by name, or made of a disk that its host can't read, is tried, with growing pauses, before it
    /// is given up.
    pub fetch_tries: u32,
    /// The first of these pauses; doubled each time, up to five minutes.
    pub fetch_pause: Duration,
    /// How often the entries of cached images are looked up anew.
    pub entries_recheck: Duration,
    /// How old the entry of a cached image may be when a machine is started from it; an older one is looked up first.
    pub entries_fresh: Duration,
    /// What one import may cost.
    pub limits: Limits,
    /// Examines qcow2 images before they are accepted.
    pub qemu_img: Option<QemuImg>,
    /// Where machines of this host have their folders, to save their disks from; none: it has no machines.
    pub machines_dir: Option<PathBuf>,
    /// From where the disks of machines on other hosts are had to be saved; none: there are no such hosts.
    pub disks_elsewhere: Option<Arc<dyn DisksElsewhere>>,
    /// Removes traces of their builders from saved machines; none: they are left.
    pub debugfs: Option<Debugfs>,
    /// Directories whose files, and whose subdirectories' files, may be overlays on cached images: the machines and the
    /// quarantine. An image is not removed while one of them stands on it.
    pub overlay_dirs: Vec<PathBuf>,
    /// Imports from URLs at once; and as many uploads.
    pub imports: usize,
    /// And of each of the two, those of one owner.
    pub imports_per_owner: usize,
    /// How long an upload waits for its turn.
    pub upload_turn: Duration,
    /// Volumes that hosts use from afar: none of those that are worked on.
    pub exports: Exports,
    /// Volumes worked on at once.
    pub volume_operations: usize,
    /// How long an image waits for its upload to begin.
    pub upload_patience: Duration,
    /// How often what waits for something without an event (a quarantined disk's end) is looked at again.
    pub recheck: Duration,
}

impl Settings {
    /// Of the imports at once, those whose content one host of the cloud gives: as many as of one owner, and never all.
    #[must_use]
    pub fn imports_per_host(&self) -> usize {
        let not_all = self.imports.saturating_sub(1);
        self.imports_per_owner.min(not_all).max(1)
    }

    /// The usual settings.
    #[must_use]
    pub fn new(dir: PathBuf, fetcher: Fetcher) -> Self {
        Self {
            dir,
            reserve_bytes: 1 << 30,
            cache_bytes: None,
            rooms: Arc::new(Unbounded),
            fetcher,
            registries: Registries::default(),
            fetch_tries: 12,
            fetch_pause: Duration::from_secs(1),
            entries_recheck: Duration::from_secs(24 * 3600),
            entries_fresh: Duration::from_secs(60),
            limits: Limits::default(),
            qemu_img: None,
            machines_dir: None,
            disks_elsewhere: None,
            debugfs: None,
            overlay_dirs: Vec::new(),
            imports: 4,
            imports_per_owner: 2,
            upload_turn: Duration::from_secs(10 * 60),
            exports: Exports::default(),
            volume_operations: 8,
            upload_patience: Duration::from_secs(24 * 3600),
            recheck: Duration::from_secs(5 * 60),
        }
    }
}
