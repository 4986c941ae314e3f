//! Copies of images that the storage of another computer has: a host that has joined a cloud starts its machines from them.
//!
//! ```text
//!  a machine asks ──▶ is it here? ──▶ its path
//!                          │ no
//!                          ▼
//!                     one fetch an image ──▶ other hosts that have it, then entries, until one gives all of it ──▶ whoever asked is told
//! ```
//!
//! A replica is named by what it contains, and has its name only once it was examined as an imported image is. What no machine
//! of this host refers to is kept for a day, or until its space is needed.

mod clearing;
mod fetching;
mod folder;
mod neighbours;

use std::collections::{BTreeSet, HashMap};
use std::fs::{File, Metadata};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use cimi::ImageId;
use cimi::resources::Image;
use documents::Documents;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::clearing::Spare;
use self::folder::{Folder, Name, Wanted};
pub use self::neighbours::{Neighbour, Neighbours};
use crate::blocking::blocking;
use crate::error::Error;
use crate::import::Fetcher;

/// Images fetched at once.
const FETCHES: usize = 2;
/// How long a machine is told why an image can't be used, instead of fetching it once more.
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// How often it is looked for what is needed no more.
const CLEARED_EVERY: Duration = Duration::from_secs(3600);

/// An entry of the cloud, which gives the contents of images.
#[derive(Debug, Clone)]
pub struct ImageServer {
    /// How operators know it.
    pub name: String,
    /// What stands before the local part of an image's id.
    pub url: String,
    /// Asks it, as whom it knows.
    pub fetcher: Fetcher,
}

/// Where and from where replicas are, and how long.
#[derive(Clone)]
pub struct Settings {
    /// Their folder; made if missing. Nothing else may be in it.
    pub dir: PathBuf,
    /// Asked in turn, from the one on that gave something last; from the first one on until then.
    pub servers: Vec<ImageServer>,
    /// Knows who is asked before them; none: nobody is.
    pub neighbours: Option<Arc<dyn Neighbours>>,
    /// Folders whose overlays, and those of whose folders, may stand on replicas: the machines and the quarantine.
    pub overlay_dirs: Vec<PathBuf>,
    /// Bytes of the file system that stay free.
    pub reserve_bytes: u64,
    /// How long what no machine refers to is kept.
    pub kept: Duration,
    /// The first rest after no server gave an image; it grows up to a minute.
    pub rest: Duration,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("dir", &self.dir)
            .field("servers", &self.servers)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// The usual ones.
    #[must_use]
    pub fn new(dir: PathBuf, servers: Vec<ImageServer>) -> Self {
        Self {
            dir,
            servers,
            neighbours: None,
            overlay_dirs: Vec::new(),
            reserve_bytes: 1 << 30,
            kept: Duration::from_secs(24 * 3600),
            rest: Duration::from_secs(1),
        }
    }
}

/// A replica, as a machine needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replica {
    /// In this file.
    Here(PathBuf),
    /// A sentence says how far it is, or why it isn't yet.
    OnItsWay(String),
    /// A sentence says why it can't be used.
    Refused(String),
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Replicas(Arc<Inner>);

struct Inner {
    settings: Settings,
    folder: Folder,
    documents: Documents,
    state: Mutex<State>,
    /// Rung for whoever fetches.
    asked: Notify,
    /// Rung for whoever waits for [`Replicas::changed`].
    changed: Notify,
    turns: Semaphore,
    /// The server that gave one last, which is asked first.
    first: AtomicUsize,
}

#[derive(Default)]
struct State {
    fetches: HashMap<Name, Fetch>,
    /// Images of which something else is told than before.
    changed: BTreeSet<ImageId>,
    spare: Spare,
}

/// An image that isn't here.
struct Fetch {
    wanted: Wanted,
    /// For which of its documents; the first says where it is asked for.
    images: BTreeSet<ImageId>,
    stage: Stage,
}

enum Stage {
    /// Nobody is at it yet.
    Asked,
    /// What is told of it.
    UnderWay(String),
    Refused(String, Instant),
}

impl std::fmt::Debug for Replicas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Replicas")
            .field(&self.0.settings.dir)
            .finish()
    }
}

impl Replicas {
    /// Opens the folder; removes what is none of ours in it. Nothing is fetched before [`run`](Self::run).
    ///
    /// # Errors
    /// [`Error::Io`]
    pub async fn open(settings: Settings, documents: Documents) -> Result<Self, Error> {
        let dir = settings.dir.clone();
        let folder = blocking(move || Folder::open(&dir)).await?;
        Ok(Self(Arc::new(Inner {
            settings,
            folder,
            documents,
            state: Mutex::default(),
            asked: Notify::new(),
            changed: Notify::new(),
            turns: Semaphore::new(FETCHES),
            first: AtomicUsize::new(0),
        })))
    }

    /// The replica of an image that is available. It is fetched if it isn't here.
    #[must_use]
    pub fn of(&self, image: &Image) -> Replica {
        let Some(wanted) = Wanted::of(image) else {
            return Replica::Refused(format!(
                "its image {} has no content that could be told from another's",
                image.id
            ));
        };
        let name = wanted.name;
        let mut state = self.0.state.lock();
        if self.0.folder.has(&wanted) {
            state.spare.needs(name);
            return Replica::Here(self.0.folder.path(name));
        }
        let fetch = state.fetches.entry(name).or_insert_with(|| Fetch {
            wanted,
            images: BTreeSet::new(),
            stage: Stage::Asked,
        });
        fetch.images.insert(image.id.clone());
        if matches!(&fetch.stage, Stage::Refused(_, when) if when.elapsed() > REFUSED_FOR) {
            fetch.stage = Stage::Asked;
        }
        match &fetch.stage {
            Stage::Asked => {
                self.0.asked.notify_one();
                Replica::OnItsWay(format!("fetching its image {}", image.id))
            }
            Stage::UnderWay(text) => {
                Replica::OnItsWay(format!("fetching its image {}: {text}", image.id))
            }
            Stage::Refused(text, _) => {
                Replica::Refused(format!("its image {} can't be used: {text}", image.id))
            }
        }
    }

    /// The file of this name, for another host that may have it, with its length. None if it isn't
    /// here and whole. Blocks.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<(File, u64)> {
        let file = File::open(self.0.folder.path(name.parse().ok()?)).ok()?;
        let length = file.metadata().ok().filter(Metadata::is_file)?.len();
        Some((file, length))
    }

    /// The SHA-1 of what is here and whole, in hexadecimal digits.
    ///
    /// # Errors
    /// [`Error::Io`]
    pub async fn contents(&self) -> Result<BTreeSet<String>, Error> {
        let folder = self.0.folder.clone();
        let names = blocking(move || folder.names()).await?;
        Ok(names.iter().map(Name::content).collect())
    }

    /// The next image of whose replica something else is told than before. For one listener; nothing is lost by dropping it.
    pub async fn changed(&self) -> ImageId {
        loop {
            if let Some(image) = self.0.state.lock().changed.pop_first() {
                return image;
            }
            self.0.changed.notified().await;
        }
    }

    /// Fetches and clears up, until told to stop. What is here of an image then stays for the next time.
    pub async fn run(&self, stop: CancellationToken) {
        // What is dropped with it ends.
        let mut fetches = JoinSet::new();
        let mut clearing = tokio::time::interval(CLEARED_EVERY);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.0.asked.notified() => {
                    for (name, wanted) in self.0.begin() {
                        let inner = Arc::clone(&self.0);
                        fetches.spawn(async move { inner.fetch(name, wanted).await });
                    }
                }
                Some(ended) = fetches.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "fetching an image ended");
                    }
                }
                _ = clearing.tick() => self.0.clear(self.0.settings.kept).await,
            }
        }
    }
}

impl Inner {
    /// What nobody is at yet.
    fn begin(&self) -> Vec<(Name, Wanted)> {
        let mut state = self.state.lock();
        let asked = state
            .fetches
            .iter_mut()
            .filter(|(_, fetch)| matches!(fetch.stage, Stage::Asked));
        asked
            .map(|(name, fetch)| {
                fetch.stage = Stage::UnderWay("it waits for its turn".to_owned());
                (*name, fetch.wanted.clone())
            })
            .collect()
    }

    /// Has something else told of one.
    fn tell(&self, name: Name, stage: Stage) {
        let mut state = self.state.lock();
        let State {
            fetches, changed, ..
        } = &mut *state;
        if let Some(fetch) = fetches.get_mut(&name) {
            fetch.stage = stage;
            changed.extend(fetch.images.iter().cloned());
        }
        drop(state);
        self.changed.notify_one();
    }

    /// It is here, or nobody wants it any more.
    fn forget(&self, name: Name) {
        let mut state = self.state.lock();
        if let Some(fetch) = state.fetches.remove(&name) {
            state.changed.extend(fetch.images);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// An image of this content that is in sight.
    fn in_sight(&self, name: Name) -> Option<ImageId> {
        let mut images = self.documents.images.all().into_iter();
        images
            .find(|image| Wanted::of(image).is_some_and(|wanted| wanted.name == name))
            .map(|image| image.id.clone())
    }
}
