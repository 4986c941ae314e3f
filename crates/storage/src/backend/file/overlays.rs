//! What volumes were at one moment, and volumes that stand on such an image: constant time and no space, whatever the size.
//!
//! ```text
//! DIR/UUID.raw                 a volume that stands on nothing
//! DIR/UUID.qcow2               a volume that stands on an image
//! DIR/images/UUID.raw|qcow2    images; never written again
//! ```
//!
//! An image is made by giving the volume's file a second name, and then putting an empty overlay in the volume's place:
//! whoever is killed between the two finds both names on one file, and goes on from there.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::{FileBackend, SUFFIX};
use crate::backend::VolumeId;
use crate::durable::{self, Durability, UNFINISHED};
use crate::error::Error;
use crate::inspect::Format;
use crate::qcow2;
use crate::space;

pub(super) const OVERLAY_SUFFIX: &str = ".qcow2";

impl FileBackend {
    /// The file of a volume that stands on an image.
    pub(super) fn overlay_path(&self, volume: VolumeId) -> PathBuf {
        self.dir.join(format!("{volume}{OVERLAY_SUFFIX}"))
    }

    fn images_dir(&self) -> PathBuf {
        self.dir.join("images")
    }

    /// The file of an image, if it is there.
    fn found_image(&self, image: VolumeId) -> Option<PathBuf> {
        [OVERLAY_SUFFIX, SUFFIX]
            .map(|suffix| self.images_dir().join(format!("{image}{suffix}")))
            .into_iter()
            .find(|path| path.exists())
    }

    /// Makes `image` what `volume` is now, and has the volume stand on it; the image's file. The volume must not be
    /// written meanwhile. May be repeated.
    ///
    /// # Errors
    /// [`Error::NotFound`] without the volume's file, [`Error::NoSpace`], [`Error::Io`].
    pub async fn capture(&self, volume: VolumeId, image: VolumeId) -> Result<PathBuf, Error> {
        self.blocking(move |this| this.capture_now(volume, image))
            .await
    }

    fn capture_now(&self, volume: VolumeId, image: VolumeId) -> Result<PathBuf, Error> {
        self.metadata(volume)?;
        let current = self.path(volume);
        let path = match self.found_image(image) {
            Some(path) => path,
            None => self.second_name(&current, image)?,
        };
        let overlay = self.overlay_path(volume);
        if is_same_file(&current, &path)? {
            space::require(&self.dir, 0, self.reserve_bytes)?;
            let aside = self.dir.join(format!("{UNFINISHED}{image}"));
            durable::remove(&aside)?;
            let backing = qcow2::Backing {
                path: &path,
                format: format_of(&path),
            };
            let bytes = virtual_bytes(&current)?;
            qcow2::create(&aside, bytes, Some(backing), Durability::Flushed)?;
            fs::rename(&aside, &overlay).map_err(Error::io("rename a file to", &overlay))?;
            durable::sync_parent(&overlay)?;
        }
        // The name it had before it stood on anything.
        if overlay.exists() {
            durable::remove(&self.dir.join(format!("{volume}{SUFFIX}")))?;
            durable::sync_parent(&overlay)?;
        }
        fs::set_permissions(&path, Permissions::from_mode(0o400))
            .map_err(Error::io("protect", &path))?;
        Ok(path)
    }

    fn second_name(&self, current: &Path, image: VolumeId) -> Result<PathBuf, Error> {
        let dir = self.images_dir();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&dir)
            .map_err(Error::io("create", &dir))?;
        let suffix = match format_of(current) {
            Format::Qcow2 => OVERLAY_SUFFIX,
            _ => SUFFIX,
        };
        let path = dir.join(format!("{image}{suffix}"));
        fs::hard_link(current, &path).map_err(Error::io("link", &path))?;
        durable::sync_parent(&path)?;
        Ok(path)
    }

    /// Undoes a capture that went no further than the second name, so that nothing of it is left.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn remove_image(&self, image: VolumeId) -> Result<(), Error> {
        self.blocking(move |this| {
            while let Some(path) = this.found_image(image) {
                durable::remove(&path)?;
                durable::sync_parent(&path)?;
            }
            Ok(())
        })
        .await
    }

    /// Whether an image's file is there.
    pub async fn has_image(&self, image: VolumeId) -> bool {
        let found = self.blocking(move |this| Ok(this.found_image(image).is_some()));
        found.await.unwrap_or(false)
    }

    /// Makes a volume of `bytes` that begins as `image`, the file of one.
    ///
    /// # Errors
    /// [`Error::NotFound`] without the image, [`Error::Invalid`] for an impossible size, [`Error::NoSpace`],
    /// [`Error::Io`].
    pub async fn begin_from(
        &self,
        volume: VolumeId,
        bytes: u64,
        image: PathBuf,
    ) -> Result<(), Error> {
        self.blocking(move |this| {
            if !image.exists() {
                return Err(Error::NotFound {
                    kind: "image of a volume",
                    name: image.display().to_string(),
                });
            }
            space::require(&this.dir, 0, this.reserve_bytes)?;
            let backing = qcow2::Backing {
                path: &image,
                format: format_of(&image),
            };
            let path = this.overlay_path(volume);
            match qcow2::create(&path, bytes, Some(backing), Durability::Flushed) {
                // Made before; the document may have grown since.
                Err(Error::Exists { .. }) => qcow2::grow(&path, bytes),
                other => other,
            }
        })
        .await
    }
}

/// What is in a file of ours, by its name.
pub(super) fn format_of(path: &Path) -> Format {
    if path
        .extension()
        .is_some_and(|extension| extension == "qcow2")
    {
        Format::Qcow2
    } else {
        Format::Raw
    }
}

/// The bytes a guest sees of a file of ours.
pub(super) fn virtual_bytes(path: &Path) -> Result<u64, Error> {
    match format_of(path) {
        Format::Qcow2 => qcow2::virtual_bytes(path),
        _ => Ok(fs::metadata(path)
            .map_err(Error::io("examine", path))?
            .len()),
    }
}

fn is_same_file(a: &Path, b: &Path) -> Result<bool, Error> {
    let of = |path: &Path| -> io::Result<(u64, u64)> {
        let metadata = fs::metadata(path)?;
        Ok((metadata.dev(), metadata.ino()))
    };
    let a = of(a).map_err(Error::io("examine", a))?;
    Ok(a == of(b).map_err(Error::io("examine", b))?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;
    use std::process::Command;

    use super::*;
    use crate::backend::Backend as _;

    fn volume() -> VolumeId {
        VolumeId(uuid::Uuid::now_v7())
    }

    fn qemu_io(path: &Path, command: &str) -> String {
        let format = format_of(path);
        let out = Command::new("qemu-io")
            .args(["-f", format.as_str(), "-c", command])
            .arg(path)
            .output()
            .expect("qemu-io");
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    #[tokio::test]
    async fn an_image_stays_as_it_was_and_volumes_begin_as_it() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let backend = FileBackend::open(dir.path(), 0).expect("open");
        let (id, image, next) = (volume(), volume(), volume());
        backend.create(id, 8 << 20).await.expect("create");
        let file = File::options()
            .write(true)
            .open(backend.path(id))
            .expect("open");
        file.write_all_at(&[0x11; 4096], 0).expect("write");
        let kept = backend.capture(id, image).await.expect("capture");
        assert_eq!(backend.capture(id, image).await.expect("again"), kept);
        // What the volume becomes doesn't change the image.
        let path = backend.path(id);
        assert!(qemu_io(&path, "read -P 0x11 0 4096").contains("read 4096"));
        qemu_io(&path, "write -P 0x22 0 4096");
        assert!(qemu_io(&path, "read -P 0x22 0 4096").contains("read 4096"));
        assert_eq!(fs::read(&kept).expect("read")[..4096], [0x11; 4096]);
        // A larger volume begins as it.
        backend
            .begin_from(next, 16 << 20, kept.clone())
            .await
            .expect("begin");
        let path = backend.path(next);
        assert!(qemu_io(&path, "read -P 0x11 0 4096").contains("read 4096"));
        let stat = backend.stat(next).await.expect("stat");
        assert_eq!(stat.virtual_bytes, 16 << 20);
        assert!(stat.allocated_bytes < 1 << 20);
        // It grows, and what it was stays.
        backend.resize(next, 3 << 30).await.expect("grow");
        assert!(qemu_io(&path, "read -P 0 3221221376 4096").contains("read 4096"));
        assert!(qemu_io(&path, "read -P 0x11 0 4096").contains("read 4096"));
        assert!(backend.resize(next, 1 << 20).await.is_err());
        // An image of a volume that stands on an image.
        let second = volume();
        let on_top = backend.capture(id, second).await.expect("capture");
        assert!(qemu_io(&on_top, "read -P 0x22 0 4096").contains("read 4096"));
        assert!(qemu_io(&backend.path(id), "read -P 0x22 0 4096").contains("read 4096"));
        let mut listed = vec![id, next];
        listed.sort();
        assert_eq!(backend.list().await.expect("list"), listed);
        for made in [id, next] {
            backend.delete(made).await.expect("delete");
        }
        for made in [image, second] {
            backend.remove_image(made).await.expect("remove");
            assert!(!backend.has_image(made).await);
        }
        assert!(backend.list().await.expect("list").is_empty());
    }

    #[tokio::test]
    async fn whoever_is_killed_within_a_capture_goes_on() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let backend = FileBackend::open(dir.path(), 0).expect("open");
        // Killed after the second name.
        let (id, image) = (volume(), volume());
        backend.create(id, 1 << 20).await.expect("create");
        backend.second_name(&backend.path(id), image).expect("link");
        let kept = backend.capture(id, image).await.expect("capture");
        assert!(!is_same_file(&backend.path(id), &kept).expect("examine"));
        // Killed before the old name was removed.
        let (id, image) = (volume(), volume());
        backend.create(id, 1 << 20).await.expect("create");
        let raw = backend.path(id);
        let kept = backend.capture(id, image).await.expect("capture");
        fs::hard_link(&kept, &raw).expect("link");
        backend.capture(id, image).await.expect("again");
        assert!(!raw.exists());
        assert_eq!(backend.path(id), backend.overlay_path(id));
        // Given up: the volume is as it was.
        let (id, image) = (volume(), volume());
        backend.create(id, 1 << 20).await.expect("create");
        backend.second_name(&backend.path(id), image).expect("link");
        backend.remove_image(image).await.expect("remove");
        assert!(backend.path(id).ends_with(format!("{id}.raw")) && backend.path(id).exists());
    }
}
