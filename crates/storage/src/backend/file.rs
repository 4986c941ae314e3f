//! Volumes as sparse raw files in one directory, `DIR/UUID.raw`; those that stand on an image as overlays (`overlays`).
//!
//! Raw, because a volume is written in place for years: no metadata that a crash could tear, no copy-on-write chain, the
//! full speed of the file system. Thin, because the file system only stores what was written.

mod overlays;

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rustix::fs::{SeekFrom, ioctl_ficlone, seek};

use super::{Backend, Location, VolumeId, VolumeStat};
use crate::durable::{self, Durability};
use crate::error::Error;
use crate::exclusive;
use crate::inspect::Format;
use crate::qcow2;
use crate::space::{self, Space};
use crate::swap;

const SUFFIX: &str = ".raw";

/// Volumes as files. Cheap to clone.
#[derive(Debug, Clone)]
pub struct FileBackend {
    dir: PathBuf,
    reserve_bytes: u64,
    /// Its lock tells other processes not to sweep here.
    _lock: std::sync::Arc<File>,
}

impl FileBackend {
    /// Opens the directory, made if missing, and sweeps unfinished files from it. New volumes must leave
    /// `reserve_bytes` of the file system free. Blocks briefly.
    ///
    /// # Errors
    /// [`Error::InUse`] while another process works in it; [`Error::Io`].
    pub fn open(dir: &Path, reserve_bytes: u64) -> Result<Self, Error> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(dir)
            .map_err(Error::io("create", dir))?;
        let dir = dir.canonicalize().map_err(Error::io("find", dir))?;
        let lock_path = dir.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(Error::io("open", &lock_path))?;
        exclusive::lock(&lock, &lock_path, &dir)?;
        durable::sweep(&dir)?;
        Ok(Self {
            dir,
            reserve_bytes,
            _lock: std::sync::Arc::new(lock),
        })
    }

    /// The file of a volume: an overlay, if there is one.
    fn path(&self, volume: VolumeId) -> PathBuf {
        let overlay = self.overlay_path(volume);
        if overlay.exists() {
            return overlay;
        }
        self.dir.join(format!("{volume}{SUFFIX}"))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let this = self.clone();
        // A join error is a panic or a runtime that ends; in both cases there is no result.
        tokio::task::spawn_blocking(move || work(&this))
            .await
            .unwrap_or(Err(Error::Cancelled))
    }

    fn metadata(&self, volume: VolumeId) -> Result<fs::Metadata, Error> {
        let path = self.path(volume);
        fs::metadata(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::NotFound {
                kind: "volume",
                name: volume.to_string(),
            },
            _ => Error::io("examine", &path)(error),
        })
    }

    fn create_now(&self, volume: VolumeId, bytes: u64) -> Result<(), Error> {
        swap::check_size(bytes)?;
        // A thin volume takes nothing yet; but what is already below the reserve takes no more of them.
        space::require(&self.dir, 0, self.reserve_bytes)?;
        match swap::create_empty(&self.path(volume), bytes, Durability::Flushed) {
            Err(Error::Exists { .. }) => {
                let found = self.metadata(volume)?.len();
                if found == bytes {
                    return Ok(());
                }
                let difference = format!(" with {found} bytes instead of {bytes}");
                Err(Error::Exists {
                    kind: "volume",
                    name: volume.to_string(),
                    difference,
                })
            }
            other => other,
        }
    }

    fn resize_now(&self, volume: VolumeId, bytes: u64) -> Result<(), Error> {
        swap::check_size(bytes)?;
        self.metadata(volume)?;
        let path = self.path(volume);
        let found = overlays::virtual_bytes(&path)?;
        if bytes < found {
            return Err(Error::Invalid {
                what: "volume size",
                value: bytes.to_string(),
                reason: format!("the volume has {found} bytes and volumes only grow"),
            });
        }
        space::require(&self.dir, 0, self.reserve_bytes)?;
        if overlays::format_of(&path) == Format::Qcow2 {
            return qcow2::grow(&path, bytes);
        }
        let file = File::options()
            .write(true)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        file.set_len(bytes)
            .and_then(|()| file.sync_all())
            .map_err(Error::io("grow", &path))
    }

    fn copy_now(&self, origin: VolumeId, target: VolumeId) -> Result<(), Error> {
        let needed_bytes = self.metadata(origin)?.blocks().saturating_mul(512);
        let (from, to) = (self.path(origin), self.path(target));
        if to.exists() {
            return Ok(());
        }
        let mut input = File::open(&from).map_err(Error::io("open", &from))?;
        let copied = durable::create_whole(&to, Durability::Flushed, |temporary| {
            let mut output = File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(temporary)
                .map_err(Error::io("create", temporary))?;
            // Shared blocks where the file system can (XFS, Btrfs): constant time, no space.
            if ioctl_ficlone(&output, &input).is_err() {
                space::require(&self.dir, needed_bytes, self.reserve_bytes)?;
                copy_data(&mut input, &mut output).map_err(Error::io("copy to", temporary))?;
            }
            Ok(output)
        });
        match copied {
            Err(Error::Exists { .. }) => Ok(()),
            other => other,
        }
    }
}

/// Copies what is stored and leaves the holes.
fn copy_data(input: &mut File, output: &mut File) -> io::Result<()> {
    let length = input.metadata()?.len();
    output.set_len(length)?;
    let mut at = 0;
    while at < length {
        let start = match seek(&*input, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break, // only a hole is left
            Err(error) => return Err(error.into()),
        };
        let end = seek(&*input, SeekFrom::Hole(start))?;
        input.seek(io::SeekFrom::Start(start))?;
        output.seek(io::SeekFrom::Start(start))?;
        io::copy(&mut input.take(end - start), output)?;
        at = end;
    }
    output.flush()
}

#[async_trait]
impl Backend for FileBackend {
    fn name(&self) -> &'static str {
        "file"
    }

    async fn create(&self, volume: VolumeId, bytes: u64) -> Result<(), Error> {
        self.blocking(move |this| this.create_now(volume, bytes))
            .await
    }

    async fn delete(&self, volume: VolumeId) -> Result<(), Error> {
        self.blocking(move |this| {
            let overlay = this.overlay_path(volume);
            let raw = this.dir.join(format!("{volume}{SUFFIX}"));
            // First what is below, if somebody was killed while putting the other above it.
            durable::remove(&raw)?;
            durable::remove(&overlay)?;
            durable::sync_parent(&raw)
        })
        .await
    }

    async fn resize(&self, volume: VolumeId, bytes: u64) -> Result<(), Error> {
        self.blocking(move |this| this.resize_now(volume, bytes))
            .await
    }

    async fn copy(&self, origin: VolumeId, target: VolumeId) -> Result<(), Error> {
        self.blocking(move |this| this.copy_now(origin, target))
            .await
    }

    async fn stat(&self, volume: VolumeId) -> Result<VolumeStat, Error> {
        self.blocking(move |this| {
            let metadata = this.metadata(volume)?;
            let allocated_bytes = metadata.blocks().saturating_mul(512);
            Ok(VolumeStat {
                virtual_bytes: overlays::virtual_bytes(&this.path(volume))?,
                allocated_bytes,
            })
        })
        .await
    }

    fn location(&self, volume: VolumeId) -> Location {
        let path = self.path(volume);
        Location::Local {
            format: overlays::format_of(&path),
            path,
        }
    }

    async fn list(&self) -> Result<Vec<VolumeId>, Error> {
        self.blocking(|this| {
            let mut volumes = Vec::new();
            for entry in fs::read_dir(&this.dir).map_err(Error::io("list", &this.dir))? {
                let name = entry.map_err(Error::io("list", &this.dir))?.file_name();
                volumes.extend(
                    name.to_str()
                        .and_then(|name| {
                            let overlay = || name.strip_suffix(overlays::OVERLAY_SUFFIX);
                            name.strip_suffix(SUFFIX).or_else(overlay)
                        })
                        .and_then(|name| name.parse::<VolumeId>().ok()),
                );
            }
            volumes.sort();
            volumes.dedup();
            Ok(volumes)
        })
        .await
    }

    async fn space(&self) -> Result<Space, Error> {
        self.blocking(|this| Space::of(&this.dir)).await
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    fn volume() -> VolumeId {
        VolumeId(uuid::Uuid::now_v7())
    }

    fn path(location: Location) -> PathBuf {
        let Location::Local { path, .. } = location;
        path
    }

    #[tokio::test]
    async fn everything_may_be_done_twice() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let backend = FileBackend::open(dir.path(), 0).expect("open");
        let id = volume();
        for _ in 0..2 {
            backend.create(id, 1 << 40).await.expect("create");
            assert_eq!(backend.list().await.expect("list"), [id]);
        }
        let stat = backend.stat(id).await.expect("stat");
        assert_eq!(stat.virtual_bytes, 1 << 40);
        assert!(stat.allocated_bytes < 1 << 20);
        assert!(matches!(
            backend.create(id, 1 << 30).await,
            Err(Error::Exists { .. })
        ));
        for _ in 0..2 {
            backend.delete(id).await.expect("delete");
            assert!(backend.list().await.expect("list").is_empty());
        }
        assert!(matches!(
            backend.stat(id).await,
            Err(Error::NotFound { .. })
        ));
        assert!(matches!(
            backend.resize(id, 1 << 30).await,
            Err(Error::NotFound { .. })
        ));
    }

    #[tokio::test]
    async fn volumes_grow_and_never_shrink() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let backend = FileBackend::open(dir.path(), 0).expect("open");
        let id = volume();
        backend.create(id, 1 << 20).await.expect("create");
        for _ in 0..2 {
            backend.resize(id, 2 << 20).await.expect("grow");
        }
        assert!(matches!(
            backend.resize(id, 1 << 20).await,
            Err(Error::Invalid { .. })
        ));
        for bytes in [0, 1000, u64::MAX] {
            assert!(
                matches!(backend.resize(id, bytes).await, Err(Error::Invalid { .. })),
                "{bytes}"
            );
        }
        assert_eq!(backend.stat(id).await.expect("stat").virtual_bytes, 2 << 20);
    }

    #[tokio::test]
    async fn a_copy_has_the_same_contents_and_holes() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let backend = FileBackend::open(dir.path(), 0).expect("open");
        let (origin, target) = (volume(), volume());
        backend.create(origin, 64 << 20).await.expect("create");
        let file = File::options()
            .write(true)
            .open(path(backend.location(origin)))
            .expect("open");
        file.write_all_at(b"first", 0).expect("write");
        file.write_all_at(b"later", 40 << 20).expect("write");
        for _ in 0..2 {
            backend.copy(origin, target).await.expect("copy");
        }
        let read = |id| fs::read(path(backend.location(id))).expect("read");
        assert!(read(origin) == read(target));
        assert!(backend.stat(target).await.expect("stat").allocated_bytes < 1 << 20);
        assert!(matches!(
            backend.copy(volume(), volume()).await,
            Err(Error::NotFound { .. })
        ));
        assert!(matches!(
            backend.snapshot(origin, volume()).await,
            Err(Error::Unsupported { .. })
        ));
    }

    #[tokio::test]
    async fn unfinished_files_are_swept_and_strangers_left_alone() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let unfinished = dir.path().join(format!("{}x", durable::UNFINISHED));
        fs::write(&unfinished, "half").expect("write");
        fs::write(dir.path().join("README"), "a stranger").expect("write");
        let backend = FileBackend::open(dir.path(), 0).expect("open");
        assert!(!unfinished.exists() && dir.path().join("README").exists());
        assert!(backend.list().await.expect("list").is_empty());
        assert!(matches!(
            FileBackend::open(dir.path(), 0),
            Err(Error::InUse { .. })
        ));
    }

    #[tokio::test]
    async fn below_the_reserve_nothing_new_is_made() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let backend = FileBackend::open(dir.path(), u64::MAX).expect("open");
        assert!(matches!(
            backend.create(volume(), 512).await,
            Err(Error::NoSpace { .. })
        ));
        assert!(backend.list().await.expect("list").is_empty());
    }

    #[test]
    fn a_volume_has_one_name() {
        assert!(
            "0189aaaa-0000-7000-8000-000000000001"
                .parse::<VolumeId>()
                .is_ok()
        );
        for text in [
            "",
            "../x",
            "0189AAAA-0000-7000-8000-000000000001",
            "0189aaaa000070008000000000000001",
        ] {
            assert!(text.parse::<VolumeId>().is_err(), "{text}");
        }
    }
}
