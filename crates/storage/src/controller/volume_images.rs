//! Images of volumes: made of volumes as their documents say, and removed when nothing stands on them any more.

use std::time::Duration;

use cimi::Timestamp;
use cimi::ids::VolumeImageId;
use cimi::resources::{
    Event, EventOutcome, ImageState, Volume, VolumeImage, VolumeLocation, VolumeState,
};
use documents::Cached;

use super::follow::Next;
use super::volumes::TRIES_TO_MAKE;
use super::{StorageController, state_name};
use crate::backend::VolumeId;
use crate::error::Error;

impl StorageController {
    /// The file of an image and those it stands on; none if it isn't there.
    pub(super) fn files_of(&self, image: &VolumeImageId) -> Vec<String> {
        let found = self.0.documents.volume_images.get(image.local());
        found.map_or_else(Vec::new, |image| image.files.clone())
    }

    /// Makes the image that is wanted of a volume. Both documents tell of it in one transaction.
    pub(super) async fn capture_volume(
        &self,
        read: &Cached<Volume>,
        volume: VolumeId,
        image: &VolumeImageId,
        failures: u32,
    ) -> Result<Next, Error> {
        let wanted = self.0.documents.volume_images.get(image.local());
        let Some(wanted) = wanted.filter(|image| image.state == ImageState::Creating) else {
            // Nobody waits for it.
            self.write_volume(read, without_capture, Some(EventOutcome::Success))
                .await?;
            return Ok(Next::Settled);
        };
        if read.attachment.is_some() {
            return Ok(Next::Settled);
        }
        self.checkpoint("image of a volume: before it is made")
            .await;
        let name: VolumeId = image.local().parse()?;
        let captured = match self.0.volumes.capture(volume, name).await {
            Ok(path) => path,
            Err(error) if failures >= TRIES_TO_MAKE || is_final(&error) => {
                // Nothing of it may stay: the volume's own name is still on the file.
                self.0.volumes.remove_image(name).await?;
                return self.capture_failed(read, &wanted, &error.to_string()).await;
            }
            Err(error) => return Err(error),
        };
        self.checkpoint("image of a volume: made, not told").await;
        let below = match &read.location {
            Some(VolumeLocation::File { backing, .. }) => backing.clone(),
            None => Vec::new(),
        };
        let mut made = wanted.document.0.clone();
        made.state = ImageState::Available;
        made.base.clone_from(&read.base);
        made.files = std::iter::once(captured.display().to_string())
            .chain(below)
            .collect();
        let mut next = read.document.0.clone();
        without_capture(&mut next);
        next.base = Some(image.clone());
        next.location = Some(VolumeLocation::File {
            path: self.volume_path(volume),
            backing: made.files.clone(),
        });
        self.captured(read, next, &wanted, made, EventOutcome::Success)
            .await?;
        tracing::info!(volume = %read.id, image = %image, "image of a volume made");
        Ok(Next::Again(Duration::ZERO))
    }

    async fn capture_failed(
        &self,
        read: &Cached<Volume>,
        wanted: &Cached<VolumeImage>,
        reason: &str,
    ) -> Result<Next, Error> {
        tracing::warn!(volume = %read.id, image = %wanted.id, reason, "no image of a volume");
        let mut failed = wanted.document.0.clone();
        failed.state = ImageState::Error;
        failed.reason = Some(reason.to_owned());
        let mut next = read.document.0.clone();
        without_capture(&mut next);
        self.captured(read, next, wanted, failed, EventOutcome::Failure)
            .await?;
        Ok(Next::Settled)
    }

    /// Writes what became of a volume and of the image that was to be made of it, with an event of each.
    async fn captured(
        &self,
        read: &Cached<Volume>,
        volume: Volume,
        wanted: &Cached<VolumeImage>,
        image: VolumeImage,
        outcome: EventOutcome,
    ) -> Result<(), Error> {
        let now = Timestamp::now();
        let (was, is) = (state_name(&wanted.state), state_name(&image.state));
        let reason = image.reason.as_deref();
        let of_image = Event::state_change(&image, &was, &is, reason, outcome, now);
        let (was, is) = (state_name(&read.state), state_name(&volume.state));
        let of_volume = Event::state_change(&volume, &was, &is, reason, outcome, now);
        let changes = self.0.documents.changes();
        let changes = changes.replace(read, volume).replace(wanted, image);
        let changes = changes.create(&of_image).create(&of_volume);
        changes.commit().await?;
        Ok(())
    }

    /// Looks at an image: removes one that is to go, once nothing stands on it.
    pub(super) async fn step_volume_image(&self, local: &str) -> Result<Next, Error> {
        let Some(read) = self.0.documents.volume_images.get(local) else {
            return Ok(Next::Settled);
        };
        if !read.deleted || self.is_stood_on(local) {
            return Ok(Next::Settled);
        }
        if let Ok(name) = local.parse::<VolumeId>() {
            self.0.volumes.remove_image(name).await?;
        }
        self.checkpoint("image of a volume: file removed, document not")
            .await;
        let now = Timestamp::now();
        let (previous, image) = (state_name(&read.state), &read.document.0);
        let event = Event::state_change(
            image,
            &previous,
            "DELETED",
            None,
            EventOutcome::Success,
            now,
        );
        let changes = self.0.documents.changes().remove(&read).create(&event);
        changes.commit().await?;
        tracing::info!(image = %read.id, "image of a volume removed");
        if let Some(base) = &read.base {
            Box::pin(self.look_at_image_of(base)).await;
        }
        Ok(Next::Settled)
    }

    /// Looks at an image that something stood on. What can't be done now is done at the next round.
    pub(super) async fn look_at_image_of(&self, image: &VolumeImageId) {
        if let Err(error) = self.step_volume_image(image.local()).await {
            tracing::debug!(%image, %error, "an image stays for another round");
        }
    }

    fn is_stood_on(&self, local: &str) -> bool {
        let documents = &self.0.documents;
        documents.volumes.count_by_index("image", local) > 0
            || documents.volume_images.count_by_index("base", local) > 0
    }

    /// Images that are to go.
    pub(super) fn unwanted_volume_images(&self) -> Vec<String> {
        let all = self.0.documents.volume_images.all().into_iter();
        all.filter(|image| image.deleted)
            .map(|image| image.id().to_owned())
            .collect()
    }
}

fn without_capture(volume: &mut Volume) {
    volume.capture = None;
    volume.state = if volume.deleted {
        VolumeState::Deleting
    } else {
        VolumeState::Available
    };
}

/// Errors that don't go away by waiting a little.
fn is_final(error: &Error) -> bool {
    matches!(
        error,
        Error::NotFound { .. } | Error::NoSpace { .. } | Error::Invalid { .. }
    )
}
