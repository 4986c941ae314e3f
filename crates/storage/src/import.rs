//! The image cache: images streamed in from strangers, kept by what they contain.
//!
//! ```text
//! DIR/lock                 held while a process works here
//! DIR/incoming/…           unfinished imports and half-deleted images; swept at open
//! DIR/images/IDENTIFIER/   appears by one rename, complete and flushed
//!         disk             the image, read-only (0400; 0444 in a store of files), zero runs are holes
//!         image.json       what is known of it
//! ```
//!
//! An import is one stream: source → decompression → { digests · examination of the header, writing }. Whatever ends it
//! early, an error, a kill or a full disk, leaves nothing. Two imports of one image do the work once. An image of another
//! hypervisor is converted when it is there; it goes on being named by what came.

mod flight;
mod pipeline;
mod reach;
mod redirects;
pub(crate) mod replica;
mod source;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use self::reach::Reach;
pub use self::redirects::Redirects;
pub use self::source::{Fetcher, Source, client_of_server};
use crate::blocking::blocking;
use crate::confine::QemuImg;
use crate::digest::{Digests, Expected};
use crate::durable::{self, RemoveOnDrop};
use crate::error::Error;
use crate::exclusive;
use crate::identifier::ImageIdentifier;
use crate::inspect::{Format, SizeLimits};
use crate::space::{self, Space};

/// What one import may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes taken from the source, compressed as they come.
    pub max_source_bytes: u64,
    /// Largest image after decompression.
    pub max_image_bytes: u64,
    /// Bounds on the disk the guest sees.
    pub size: SizeLimits,
    /// Longest silence of the source before it counts as broken.
    pub stall: Duration,
    /// How often a broken download is taken up again without any progress in between.
    pub resumes: u32,
    /// What the source must give on average, once it had [`grace`](Self::grace). A server that sends a byte now and then
    /// is never silent.
    pub least_bytes_per_second: u64,
    /// From when on the average counts.
    pub grace: Duration,
    /// Longest time for all of the source.
    pub longest: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let size = SizeLimits::default();
        Self {
            max_source_bytes: size.max_virtual_bytes,
            max_image_bytes: size.max_virtual_bytes,
            size,
            stall: Duration::from_secs(30),
            resumes: 5,
            least_bytes_per_second: 16 * 1024,
            grace: Duration::from_secs(60),
            longest: Duration::from_secs(24 * 3600),
        }
    }
}

/// How far an import is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Bytes taken from the source.
    pub bytes_read: u64,
    /// Bytes of the image done (decompressed, hashed, written).
    pub bytes_written: u64,
    /// Bytes the source will give in all, if it said so.
    pub total: Option<u64>,
}

/// One image of the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its name.
    pub identifier: ImageIdentifier,
    /// Its format.
    pub format: Format,
    /// Size of the disk the guest sees.
    pub virtual_bytes: u64,
    /// Length of the image as it came, uncompressed.
    pub bytes: u64,
    /// Checksums of the image as it came, uncompressed.
    pub digests: Digests,
    /// What is kept instead, if it had to be converted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub converted: Option<Converted>,
    /// When it came.
    pub imported: Timestamp,
    /// Where it lies. Not stored: the directory may be moved.
    #[serde(skip)]
    pub path: PathBuf,
}

/// The file that an image of another hypervisor became.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Converted {
    /// QEMU's name of the format it came in.
    pub from: String,
    /// Length of the file.
    pub bytes: u64,
    /// Checksums of the file.
    pub digests: Digests,
}

impl Image {
    /// Length and checksums of the file that is kept.
    #[must_use]
    pub fn kept(&self) -> (u64, &Digests) {
        match &self.converted {
            None => (self.bytes, &self.digests),
            Some(converted) => (converted.bytes, &converted.digests),
        }
    }
}

/// The outcome of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The image, ready for use.
    pub image: Arc<Image>,
    /// It was in the cache before, or another import brought it meanwhile.
    pub already_present: bool,
}

/// How a store works.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Bytes of the file system that imports leave free.
    pub reserve_bytes: u64,
    /// Has a qcow2 examined by the real `qemu-img`, confined, before it is accepted; and converts images of other
    /// hypervisors, which are refused without it.
    pub qemu_img: Option<QemuImg>,
}

/// What a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// Disks of machines: decompressed, examined, readable by us alone.
    Disks,
    /// Kernels and initrds: kept byte by byte as they come, readable by all, because QEMU opens them by name.
    Files,
}

impl Content {
    /// Permissions of a finished file. A disk is opened by us and handed to QEMU as a descriptor.
    const fn mode(self) -> u32 {
        match self {
            Self::Disks => 0o400,
            Self::Files => 0o444,
        }
    }
}

/// A directory of images. Cheap to clone; all clones are one store.
#[derive(Debug, Clone)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    options: Options,
    content: Content,
    images: RwLock<BTreeMap<ImageIdentifier, Arc<Image>>>,
    flights: Mutex<flight::Flights>,
    /// Held (by blocking threads only) while a directory of `images` appears, changes or goes, so that `images` need not be.
    renaming: Mutex<()>,
    /// Its lock is what keeps other processes out.
    _lock: File,
}

impl ImageStore {
    /// Opens the store in `dir`, made if missing; sweeps what unfinished imports left. Blocks; no longer than it takes
    /// to list the images.
    ///
    /// # Errors
    /// [`Error::InUse`] while another process (or another `open`) has it; [`Error::Io`].
    pub fn open(dir: &Path, options: Options) -> Result<Self, Error> {
        Self::open_as(dir, options, Content::Disks)
    }

    /// Opens a store of plain files (kernels, initrds) instead of disks: what is imported is neither decompressed nor
    /// examined, counts as raw, and may be read by everybody who knows its name.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_files(dir: &Path, options: Options) -> Result<Self, Error> {
        Self::open_as(dir, options, Content::Files)
    }

    fn open_as(dir: &Path, options: Options, content: Content) -> Result<Self, Error> {
        // Others may pass through to a file they were told of, but not list what there is.
        let create = |dir: &Path| {
            DirBuilder::new()
                .recursive(true)
                .mode(0o711)
                .create(dir)
                .map_err(Error::io("create", dir))
        };
        create(dir)?;
        let dir = dir.canonicalize().map_err(Error::io("find", dir))?;
        let lock_path = dir.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(Error::io("open", &lock_path))?;
        exclusive::lock(&lock, &lock_path, &dir)?;
        durable::remove(&dir.join("incoming"))?;
        create(&dir.join("incoming"))?;
        create(&dir.join("images"))?;
        let images = load(&dir.join("images"))?;
        Ok(Self {
            inner: Arc::new(Inner {
                dir,
                options,
                content,
                images: RwLock::new(images),
                flights: Mutex::default(),
                renaming: Mutex::new(()),
                _lock: lock,
            }),
        })
    }

    /// Brings an image in. `progress` is kept up to date, also while another import of the same image does the work.
    ///
    /// Imports are one and the same if they state the same identifier or SHA-1, or else come from the same URL. If the
    /// one doing the work fails, another takes over with its own source. Dropping the future ends the work, unless
    /// somebody else waits for it too.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Mismatch`], [`Error::TooLarge`], [`Error::Decompress`]: the image's fault.
    /// [`Error::Url`], [`Error::Source`], [`Error::Stalled`]: the source's. [`Error::NoSpace`], [`Error::Io`]: ours.
    pub async fn import(
        &self,
        source: Source,
        expected: Expected,
        limits: Limits,
        progress: &watch::Sender<Progress>,
    ) -> Result<Imported, Error> {
        flight::join(self, source, expected, limits, progress).await
    }

    /// The image with this identifier, if it is here. Memory only.
    #[must_use]
    pub fn find(&self, identifier: &ImageIdentifier) -> Option<Arc<Image>> {
        self.inner.images.read().get(identifier).cloned()
    }

    /// All images, in order of their identifiers. Memory only.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.inner.images.read().values().cloned().collect()
    }

    /// Removes an image. That it is missing is fine. Whoever has it open keeps it; the caller makes sure that no
    /// overlay needs it any more.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn delete(&self, identifier: &ImageIdentifier) -> Result<(), Error> {
        let (store, identifier) = (self.clone(), *identifier);
        blocking(move || {
            let (from, to) = (store.image_dir(&identifier), store.incoming());
            {
                let _renaming = store.inner.renaming.lock();
                if store.find(&identifier).is_none() {
                    return Ok(());
                }
                durable::rename_new(&from, &to)?;
                store.inner.images.write().remove(&identifier);
            }
            durable::sync_parent(&from)?;
            durable::remove(&to)
        })
        .await
    }

    /// Reads the whole image again and compares it with its digests.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Mismatch`] if it is damaged; [`Error::Io`].
    pub async fn verify(&self, identifier: &ImageIdentifier) -> Result<(), Error> {
        let image = self.find(identifier).ok_or_else(|| Error::NotFound {
            kind: "image",
            name: identifier.to_string(),
        })?;
        blocking(move || pipeline::verify(&image)).await
    }

    /// Compares an image with what is stated of it. What was not computed while it came is read for, once: unless `may_read`,
    /// then it is none.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Mismatch`] and [`Error::Refused`] if it is another one; [`Error::Io`].
    pub async fn compare(
        &self,
        identifier: &ImageIdentifier,
        expected: &Expected,
        may_read: bool,
    ) -> Result<Option<()>, Error> {
        let image = self.find(identifier).ok_or_else(|| Error::NotFound {
            kind: "image",
            name: identifier.to_string(),
        })?;
        if !may_read && pipeline::must_read(&image, expected) {
            return Ok(None);
        }
        flight::same(self, &image, expected).await.map(Some)
    }

    /// Sees to it that there is a checksum which proves the image, for one that came [without](Expected::proven_later): it is read
    /// again, once. Where it can't be written down the next one does it anew.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Mismatch`] if it isn't what was written any more; [`Error::Io`].
    pub async fn prove(&self, identifier: &ImageIdentifier) -> Result<(), Error> {
        let expected = Expected {
            identifier: Some(*identifier),
            ..Expected::default()
        };
        self.compare(identifier, &expected, true).await.map(drop)
    }

    /// Size and free space of the file system below.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn space(&self) -> Result<Space, Error> {
        Space::of(&self.inner.dir)
    }

    fn image_dir(&self, identifier: &ImageIdentifier) -> PathBuf {
        self.inner.dir.join("images").join(identifier.to_string())
    }

    /// A fresh name among the unfinished.
    fn incoming(&self) -> PathBuf {
        self.inner
            .dir
            .join("incoming")
            .join(uuid::Uuid::new_v4().simple().to_string())
    }

    /// Gives the finished image in `unfinished` (a directory in `incoming`) its name. Blocks.
    fn commit(&self, unfinished: &Path, mut image: Image) -> Result<Imported, Error> {
        let dir = self.image_dir(&image.identifier);
        image.path = dir.join("disk");
        // Two imports may find at the same moment that they hold the same image.
        let renaming = self.inner.renaming.lock();
        if let Some(present) = self.find(&image.identifier) {
            return Ok(Imported {
                image: present,
                already_present: true,
            });
        }
        // What is there without being known was damaged when the store was opened.
        let damaged = self.incoming();
        match durable::rename_new(&dir, &damaged) {
            Ok(()) => tracing::warn!(image = %image.identifier, "replacing a damaged image"),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        durable::rename_new(unfinished, &dir)?;
        durable::sync_parent(&dir)?;
        let image = Arc::new(image);
        self.inner
            .images
            .write()
            .insert(image.identifier, image.clone());
        drop(renaming);
        durable::remove(&damaged)?;
        Ok(Imported {
            image,
            already_present: false,
        })
    }

    /// Keeps checksums of an image that were computed now. If that fails they are computed again when they are asked for. Blocks.
    fn learn(&self, image: &Image, digests: Digests) {
        let known = Image {
            digests,
            ..image.clone()
        };
        let _renaming = self.inner.renaming.lock();
        // It may be gone, and another one of its name may be there.
        if self.find(&image.identifier).as_deref() != Some(image) {
            return;
        }
        let (unfinished, description) = (self.incoming(), image.path.with_file_name("image.json"));
        let _guard = RemoveOnDrop::new(unfinished.clone());
        let kept = pipeline::describe(&unfinished, &known)
            .and_then(|()| fs::rename(&unfinished, &description))
            .map_err(Error::io("write", &description))
            .and_then(|()| durable::sync_parent(&description));
        match kept {
            Ok(()) => {
                let mut images = self.inner.images.write();
                images.insert(known.identifier, Arc::new(known));
            }
            Err(error) => {
                tracing::warn!(image = %image.identifier, %error, "checksums are not kept");
            }
        }
    }

    fn require_space(&self, needed_bytes: u64) -> Result<(), Error> {
        space::require(
            &self.inner.dir,
            needed_bytes,
            self.inner.options.reserve_bytes,
        )
    }
}

/// Reads the descriptions of all complete images. An incomplete one (which only damage can explain, since images appear
/// by one rename) is left out, and replaced when it is imported again.
fn load(dir: &Path) -> Result<BTreeMap<ImageIdentifier, Arc<Image>>, Error> {
    let mut images = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let path = entry.map_err(Error::io("list", dir))?.path();
        match load_one(&path) {
            Ok(image) => {
                images.insert(image.identifier, Arc::new(image));
            }
            Err(reason) => {
                tracing::warn!(path = %path.display(), %reason, "an image is damaged; import it again");
            }
        }
    }
    Ok(images)
}

fn load_one(dir: &Path) -> Result<Image, String> {
    let text = fs::read(dir.join("image.json")).map_err(|error| format!("image.json: {error}"))?;
    let mut image: Image =
        serde_json::from_slice(&text).map_err(|error| format!("image.json: {error}"))?;
    image.path = dir.join("disk");
    let length = fs::metadata(&image.path)
        .map_err(|error| format!("disk: {error}"))?
        .len();
    let (bytes, _) = image.kept();
    if length != bytes {
        return Err(format!("disk has {length} bytes instead of {bytes}"));
    }
    if dir
        .file_name()
        .is_none_or(|name| name != image.identifier.to_string().as_str())
    {
        return Err(format!("the directory is not named {}", image.identifier));
    }
    Ok(image)
}
