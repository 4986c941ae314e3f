//! Images: fetched, kept and removed as their documents say.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use cimi::Timestamp;
use cimi::resources::{Image, ImageSource, ImageState};
use documents::Cached;
use documents::room::Unbounded;

use super::StorageController;
use super::disk_elsewhere::Place;
use super::follow::{Lane, Next};
use super::image_content::{Kind, is_missing};
use super::image_document::image_file;
use crate::error::Error;
use crate::identifier::ImageIdentifier;

/// How long work that is already at an image is left alone.
pub(super) const BUSY: Duration = Duration::from_secs(1);
/// How often it is asked whether the last machine of a removed image is gone.
const MACHINES_PERIOD: Duration = Duration::from_secs(30);

impl StorageController {
    /// Fetching, reading and looking up is long work, everything else is quick.
    pub(super) fn image_lane(&self, local: &str) -> Lane {
        match self.0.documents.images.get(local) {
            Some(image) if image.is_on_its_way() && self.is_long(&image.desired.source) => {
                Lane::Long {
                    owner: owner(&image).into(),
                    host: self.given_by(&image.desired.source),
                }
            }
            Some(image) if is_to_be_proven(&image) => Lane::of(owner(&image)),
            // A Marketplace that doesn't answer must not hold up what has nothing to do with it.
            Some(image) if self.is_to_be_looked_up_anew(&image) => Lane::of("entries"),
            _ => Lane::Quick,
        }
    }

    /// Whether bringing the content in is long work that can begin now.
    fn is_long(&self, source: &ImageSource) -> bool {
        match source {
            ImageSource::Url { .. }
            | ImageSource::Marketplace
            | ImageSource::Catalogue { .. }
            | ImageSource::Volume { .. } => true,
            ImageSource::Upload => false,
            ImageSource::Machine(capture) => self.disk_is_left(capture),
        }
    }

    /// The host of the cloud that gives the content.
    fn given_by(&self, source: &ImageSource) -> Option<Arc<str>> {
        let ImageSource::Machine(capture) = source else {
            return None;
        };
        match self.place_of_disk(capture) {
            Place::On(host) => Some(host.local().into()),
            Place::Here | Place::NotKnown(_) | Place::Gone(_) => None,
        }
    }

    /// The images that wait for something.
    pub(super) fn unsettled_images(&self) -> Vec<String> {
        let images = self.0.documents.images.all();
        let unsettled = images.iter().filter(|image| {
            image.desired.deleted
                || image.state == ImageState::Creating
                || image.desired.source == ImageSource::Marketplace
        });
        unsettled.map(|image| image.id.local().to_owned()).collect()
    }

    /// Looks at an image and takes what step is due.
    pub(super) async fn step_image(&self, local: &str) -> Result<Next, Error> {
        let Some(read) = self.0.documents.images.get(local) else {
            self.0.rests.forget(local);
            return Ok(Next::Settled);
        };
        if read.desired.deleted {
            return self.remove_image(&read).await;
        }
        match (read.state, &read.desired.source) {
            (ImageState::Creating, ImageSource::Machine(capture)) => {
                self.save_machine(&read, capture).await
            }
            (ImageState::Creating, ImageSource::Upload) => self.await_upload(&read).await,
            (
                ImageState::Creating,
                ImageSource::Url { .. }
                | ImageSource::Marketplace
                | ImageSource::Catalogue { .. }
                | ImageSource::Volume { .. },
            ) => self.fetch(&read).await,
            (ImageState::Available | ImageState::Error, _) if is_to_be_proven(&read) => {
                self.prove(&read).await
            }
            (ImageState::Available | ImageState::Error, ImageSource::Marketplace)
                if read.file.is_some() =>
            {
                self.keep_fetched(&read).await
            }
            (ImageState::Available, _) => self.keep_image(&read).await,
            (ImageState::Error, _) if read.file.is_some() => self.keep_image(&read).await,
            (ImageState::Error | ImageState::Deleting, _) => Ok(Next::Settled),
        }
    }

    async fn await_upload(&self, read: &Cached<Image>) -> Result<Next, Error> {
        if self.0.transfers.contains(read.id.local()) {
            return Ok(Next::Settled);
        }
        if read.progress.unwrap_or(0) > 0 {
            let reason =
                "the transfer was interrupted; create the image anew and send its content again";
            return self.image_failed(read, reason).await;
        }
        let patience = self.0.settings.upload_patience;
        let waited = Timestamp::now().since(read.common.created);
        match patience.checked_sub(waited) {
            Some(rest) if !rest.is_zero() => Ok(Next::Again(rest)),
            _ => {
                let reason = format!(
                    "no content was sent within {} s; create the image anew",
                    patience.as_secs()
                );
                self.image_failed(read, &reason).await
            }
        }
    }

    /// Has the checksum computed that an image was made available without.
    async fn prove(&self, read: &Cached<Image>) -> Result<Next, Error> {
        let local = read.id.local();
        let Some((kind, identifier)) = cached_name(read) else {
            return Ok(Next::Settled);
        };
        let Some(transfer) = self.0.transfers.begin(local) else {
            return Ok(Next::Again(BUSY));
        };
        let store = self.store(kind);
        let mut proving = pin!(store.prove(&identifier));
        let proven = loop {
            tokio::select! {
                biased;
                () = transfer.changed() => {
                    let image = self.0.documents.images.get(local);
                    if image.is_none_or(|image| image.desired.deleted) {
                        return Ok(Next::Again(Duration::ZERO));
                    }
                }
                proven = &mut proving => break proven,
            }
        };
        self.checkpoint("image: proven, not told").await;
        match proven {
            Ok(()) => {
                let known = store.find(&identifier);
                if known.is_some_and(|image| !image.digests.is_proof()) {
                    return Ok(Next::Retry);
                }
            }
            // What is there is told below.
            Err(Error::NotFound { .. }) => {}
            Err(error @ Error::Mismatch { .. }) => {
                tracing::error!(image = local, %error, "a saved image isn't what was written");
                let reason = format!("its file isn't what was written any more: {error}");
                if read.state == ImageState::Error && read.reason.as_ref() == Some(&reason) {
                    return Ok(Next::Settled);
                }
                return self.image_failed(read, &reason).await;
            }
            Err(error) => return Err(error),
        }
        self.keep_image(read).await
    }

    /// Sees to it that the document of an image tells the truth about its file.
    pub(super) async fn keep_image(&self, read: &Cached<Image>) -> Result<Next, Error> {
        let (Some(file), Some((kind, identifier))) = (&read.file, cached_name(read)) else {
            return Ok(Next::Settled);
        };
        let _references = self.0.references.lock().await;
        self.forget_if_lost(kind, &identifier).await?;
        match (self.store(kind).find(&identifier), read.state) {
            (None, ImageState::Available) => {
                let reason = format!(
                    "its file {} is gone; delete the image and import it again",
                    file.path
                );
                self.image_failed(read, &reason).await
            }
            (None, _) => Ok(Next::Settled),
            (Some(image), ImageState::Error) => {
                // It counts all the time, so it needs no room.
                self.image_available(read, &image, &Unbounded).await?;
                Ok(Next::Settled)
            }
            (Some(image), _) => {
                let found = image_file(&image);
                // The directory may have been moved while the daemon was down.
                if found != *file {
                    self.write_image(read, |document| document.file = Some(found), None)
                        .await?;
                }
                Ok(Next::Settled)
            }
        }
    }

    /// Removes the document, and the file unless somebody needs it.
    async fn remove_image(&self, read: &Cached<Image>) -> Result<Next, Error> {
        let machines = self
            .0
            .documents
            .machines
            .count_by_index("image", read.id.local());
        if machines > 0 {
            self.image_reason(read, &format!("{machines} machines still need it"))
                .await?;
            return Ok(Next::Again(MACHINES_PERIOD));
        }
        self.checkpoint("image: before it is removed").await;
        let removed = self.remove_image_now(read).await;
        if let Err(error) = &removed
            && !matches!(error, Error::Document(_))
        {
            self.image_reason(read, &format!("it can't be removed yet: {error}"))
                .await?;
        }
        removed.map(|()| Next::Settled)
    }

    async fn remove_image_now(&self, read: &Cached<Image>) -> Result<(), Error> {
        let _references = self.0.references.lock().await;
        let cached = cached_name(read);
        if let Some((kind, identifier)) = &cached {
            self.mark_unwanted(*kind, identifier).await?;
        }
        self.checkpoint("image: marked, document there").await;
        self.image_gone(read).await?;
        self.checkpoint("image: document gone, file there").await;
        if let Some((kind, identifier)) = &cached
            // The document is gone; the mark has the file removed later, too.
            && let Err(error) = self.collect(*kind, identifier).await
        {
            tracing::warn!(%identifier, %error, "the file of a removed image stays for now");
        }
        Ok(())
    }
}

/// On whose behalf an image is brought in.
pub(super) fn owner(image: &Image) -> &str {
    match &image.desired.on_demand {
        Some(on_demand) => &on_demand.requested_by,
        None => &image.common.acl.owner.principal,
    }
}

fn is_to_be_proven(image: &Image) -> bool {
    matches!(image.state, ImageState::Available | ImageState::Error)
        && !image.desired.deleted
        && image.file.as_ref().is_some_and(|file| !file.is_proven())
}

/// Under which name the content of an image is cached.
pub(super) fn cached_name(image: &Image) -> Option<(Kind, ImageIdentifier)> {
    let identifier = image.file.as_ref()?.digests.identifier.as_deref()?;
    Some((Kind::of(image), identifier.parse().ok()?))
}

/// Whether the file of an image is missing.
pub(super) async fn file_is_missing(image: &Image) -> Result<bool, Error> {
    match &image.file {
        Some(file) => is_missing(Path::new(&file.path)).await,
        None => Ok(false),
    }
}
