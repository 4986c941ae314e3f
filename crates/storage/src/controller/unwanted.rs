//! Cached images whose last document went: marked first, removed as soon as nothing stands on them.
//!
//! The mark is an empty file. It is what tells an image that nobody wants from one whose document was lost with the
//! database: only the former is removed without asking.

use std::fs::{self, File};
use std::path::PathBuf;

use super::image_content::Kind;
use super::images::cached_name;
use super::{StorageController, blocking};
use crate::backing;
use crate::durable;
use crate::error::Error;
use crate::identifier::ImageIdentifier;

impl StorageController {
    fn mark_path(&self, kind: Kind, identifier: &ImageIdentifier) -> PathBuf {
        self.0
            .unwanted_dir
            .join(format!("{}.{identifier}", kind.name()))
    }

    /// Notes, durably, that an image is to go when its last document has gone.
    pub(super) async fn mark_unwanted(
        &self,
        kind: Kind,
        identifier: &ImageIdentifier,
    ) -> Result<(), Error> {
        let path = self.mark_path(kind, identifier);
        blocking(move || {
            File::create(&path).map_err(Error::io("create", &path))?;
            durable::sync_parent(&path)
        })
        .await
    }

    /// Whether a document refers to a cached image. What can't be read might.
    pub(super) fn is_referred_to(&self, kind: Kind, identifier: &ImageIdentifier) -> bool {
        let images = &self.0.documents.images;
        images.unreadable() > 0
            || images
                .by_index("identifier", &identifier.to_string())
                .iter()
                .any(|image| cached_name(image) == Some((kind, *identifier)))
    }

    /// Removes a marked image unless it is needed. Only while `references` is held.
    pub(super) async fn collect(
        &self,
        kind: Kind,
        identifier: &ImageIdentifier,
    ) -> Result<(), Error> {
        let mark = self.mark_path(kind, identifier);
        if self.is_referred_to(kind, identifier) {
            // The last document that goes marks it again. With unreadable documents the mark must stay.
            return if self.0.documents.images.unreadable() > 0 {
                Ok(())
            } else {
                remove(mark).await
            };
        }
        if let Some(image) = self.store(kind).find(identifier) {
            let dirs = self.0.settings.overlay_dirs.clone();
            let needed = blocking(move || backing::backing_files(&dirs)).await?;
            if kind == Kind::Disk && needed.contains(&image.path) {
                tracing::debug!(%identifier, "a disk still stands on the image");
                return Ok(());
            }
            self.store(kind).delete(identifier).await?;
            tracing::info!(%identifier, "removed the file of an image that nobody has any more");
            self.try_those_without_room();
        }
        self.checkpoint("image: file gone, mark there").await;
        remove(mark).await
    }

    /// There is room now that wasn't: what waits for it is tried at once, so that nothing else has to go meanwhile.
    fn try_those_without_room(&self) {
        let images = self.0.documents.images.all();
        let waiting = images
            .iter()
            .filter(|image| image.needs_space && image.is_on_its_way());
        let mut some_wait = false;
        for image in waiting {
            self.0.rests.forget(image.id.local());
            some_wait = true;
        }
        if some_wait {
            self.0.look_at_all.notify_one();
        }
    }

    /// Looks at everything marked.
    pub(super) async fn sweep_unwanted(&self) -> Result<(), Error> {
        for (kind, identifier) in self.marked().await? {
            let _references = self.0.references.lock().await;
            // A document that is about to go keeps its mark: its worker relies on it after a crash only, and writes it
            // anew under the same lock.
            self.collect(kind, &identifier).await?;
        }
        Ok(())
    }

    /// Everything marked.
    pub(super) async fn marked(&self) -> Result<Vec<(Kind, ImageIdentifier)>, Error> {
        let dir = self.0.unwanted_dir.clone();
        blocking(move || {
            let mut marked = Vec::new();
            for entry in fs::read_dir(&dir).map_err(Error::io("list", &dir))? {
                let name = entry.map_err(Error::io("list", &dir))?.file_name();
                let parsed = name.to_str().and_then(|name| {
                    let (kind, identifier) = name.split_once('.')?;
                    let kind = Kind::ALL.into_iter().find(|known| known.name() == kind)?;
                    Some((kind, identifier.parse().ok()?))
                });
                marked.extend(parsed);
            }
            Ok(marked)
        })
        .await
    }
}

async fn remove(path: PathBuf) -> Result<(), Error> {
    blocking(move || durable::remove(&path)).await
}
