//! Volumes: made, grown and removed as their documents say.

use std::time::Duration;

use cimi::Timestamp;
use cimi::resources::{Event, EventOutcome, Volume, VolumeLocation, VolumeState};
use documents::Cached;

use super::follow::Next;
use super::{StorageController, state_name};
use crate::backend::{Backend as _, Location, VolumeId};
use crate::error::Error;

/// After so many failures in a row a volume that can't be made is given up.
pub(super) const TRIES_TO_MAKE: u32 = 5;

impl StorageController {
    /// Looks at a volume and takes what step is due.
    pub(super) async fn step_volume(&self, local: &str, failures: u32) -> Result<Next, Error> {
        let Some(read) = self.0.documents.volumes.get(local) else {
            return Ok(Next::Settled);
        };
        let volume = match local.parse::<VolumeId>() {
            Ok(volume) => volume,
            Err(error) if read.deleted || read.state == VolumeState::Creating => {
                // It never had a file.
                return if read.deleted {
                    self.volume_gone(&read).await
                } else {
                    self.volume_failed(&read, &error.to_string()).await
                };
            }
            Err(_) => return Ok(Next::Settled),
        };
        if read.attachment.is_none() {
            // A host that has lost it may not have been cut off yet: nothing is written into an image that is made of it.
            self.0.settings.exports.end(local).await;
        }
        // Also of one that is to go: somebody may want the image.
        if let Some(image) = &read.capture {
            return self.capture_volume(&read, volume, image, failures).await;
        }
        if read.deleted {
            return self.remove_volume(&read, volume).await;
        }
        match read.state {
            VolumeState::Creating => self.make_volume(&read, volume, failures).await,
            VolumeState::Available => self.keep_volume(&read, volume).await,
            VolumeState::Error if read.location.is_some() => {
                self.recover_volume(&read, volume).await
            }
            VolumeState::Capturing => {
                let edit = |volume: &mut Volume| volume.state = VolumeState::Available;
                self.write_volume(&read, edit, None).await?;
                Ok(Next::Settled)
            }
            VolumeState::Error | VolumeState::Deleting => Ok(Next::Settled),
        }
    }

    async fn make_volume(
        &self,
        read: &Cached<Volume>,
        volume: VolumeId,
        failures: u32,
    ) -> Result<Next, Error> {
        self.checkpoint("volume: before it is made").await;
        let bytes = read.size_bytes.0;
        let origin = read.origin.as_ref().map(|image| self.files_of(image));
        let made = match origin.as_ref().map(|files| files.first()) {
            Some(Some(image)) => {
                let image = image.into();
                self.0.volumes.begin_from(volume, bytes, image).await
            }
            Some(None) => {
                return self
                    .volume_failed(read, "the image it is made from is gone")
                    .await;
            }
            None => match self.0.volumes.create(volume, bytes).await {
                // It was made before the document grew.
                Err(Error::Exists { .. }) => self.0.volumes.resize(volume, bytes).await,
                other => other,
            },
        };
        match made {
            Ok(()) => {}
            Err(error @ (Error::NoSpace { .. } | Error::Invalid { .. })) => {
                return self.volume_failed(read, &error.to_string()).await;
            }
            Err(error) if failures >= TRIES_TO_MAKE => {
                return self.volume_failed(read, &error.to_string()).await;
            }
            Err(error) => {
                self.volume_reason(read, &error.to_string()).await?;
                return Err(error);
            }
        }
        self.checkpoint("volume: made, not told").await;
        self.volume_available(read, volume).await?;
        metrics::counter!("storage_volumes_made_total").increment(1);
        tracing::info!(volume = %read.id, bytes, "volume made");
        self.checkpoint("volume: made and told").await;
        Ok(Next::Settled)
    }

    async fn keep_volume(&self, read: &Cached<Volume>, volume: VolumeId) -> Result<Next, Error> {
        if read.attachment.is_some() {
            return Ok(Next::Settled);
        }
        let bytes = read.size_bytes.0;
        match self.0.volumes.stat(volume).await {
            Err(Error::NotFound { .. }) => {
                let path = self.volume_path(volume);
                let reason = format!("its file {path} is gone; put it back, or delete the volume");
                return self.volume_failed(read, &reason).await;
            }
            Err(error) => return Err(error),
            Ok(stat) if stat.virtual_bytes >= bytes => {}
            Ok(_) => {
                if let Err(error) = self.0.volumes.resize(volume, bytes).await {
                    let reason = format!("it can't grow to {bytes} bytes yet: {error}");
                    self.volume_reason(read, &reason).await?;
                    return Err(error);
                }
                tracing::info!(volume = %read.id, bytes, "volume grown");
            }
        }
        if read.reason.is_some() {
            self.write_volume(read, |volume| volume.reason = None, None)
                .await?;
        }
        Ok(Next::Settled)
    }

    /// A volume whose file was missing is well again when the file is back.
    async fn recover_volume(&self, read: &Cached<Volume>, volume: VolumeId) -> Result<Next, Error> {
        match self.0.volumes.stat(volume).await {
            Err(Error::NotFound { .. }) => Ok(Next::Settled),
            Err(error) => Err(error),
            Ok(_) => self
                .volume_available(read, volume)
                .await
                .map(|()| Next::Again(Duration::ZERO)),
        }
    }

    async fn remove_volume(&self, read: &Cached<Volume>, volume: VolumeId) -> Result<Next, Error> {
        if read.attachment.is_some() {
            return Ok(Next::Settled);
        }
        self.checkpoint("volume: before its file is removed").await;
        if let Err(error) = self.0.volumes.delete(volume).await {
            self.volume_reason(read, &format!("it can't be removed yet: {error}"))
                .await?;
            return Err(error);
        }
        self.checkpoint("volume: file removed, document not").await;
        metrics::counter!("storage_volumes_deleted_total").increment(1);
        self.volume_gone(read).await
    }

    async fn volume_gone(&self, read: &Cached<Volume>) -> Result<Next, Error> {
        if read.attachment.is_some() {
            return Ok(Next::Settled);
        }
        let previous = state_name(&read.state);
        let now = Timestamp::now();
        let event = Event::state_change(
            &read.document.0,
            &previous,
            "DELETED",
            None,
            EventOutcome::Success,
            now,
        );
        self.0
            .documents
            .changes()
            .remove(read)
            .create(&event)
            .commit()
            .await?;
        tracing::info!(volume = %read.id, "volume removed");
        for image in [&read.base, &read.origin].into_iter().flatten() {
            self.look_at_image_of(image).await;
        }
        Ok(Next::Settled)
    }

    pub(super) fn volume_path(&self, volume: VolumeId) -> String {
        let Location::Local { path, .. } = self.0.volumes.location(volume);
        path.display().to_string()
    }

    async fn volume_available(&self, read: &Cached<Volume>, volume: VolumeId) -> Result<(), Error> {
        let path = self.volume_path(volume);
        let backing = match &read.location {
            Some(VolumeLocation::File { backing, .. }) => backing.clone(),
            None => read
                .origin
                .as_ref()
                .map_or_else(Vec::new, |image| self.files_of(image)),
        };
        let edit = |document: &mut Volume| {
            document.state = VolumeState::Available;
            document.base = document.base.take().or_else(|| document.origin.clone());
            document.location = Some(VolumeLocation::File { path, backing });
            document.reason = None;
        };
        self.write_volume(read, edit, Some(EventOutcome::Success))
            .await
    }

    async fn volume_failed(&self, read: &Cached<Volume>, reason: &str) -> Result<Next, Error> {
        tracing::warn!(volume = %read.id, reason, "volume can't be used");
        let edit = |document: &mut Volume| {
            document.state = VolumeState::Error;
            document.reason = Some(reason.to_owned());
        };
        self.write_volume(read, edit, Some(EventOutcome::Failure))
            .await?;
        Ok(Next::Settled)
    }

    /// Tells why a volume is not yet as it should be.
    async fn volume_reason(&self, read: &Cached<Volume>, reason: &str) -> Result<(), Error> {
        if read.reason.as_deref() == Some(reason) {
            return Ok(());
        }
        self.write_volume(
            read,
            |document| document.reason = Some(reason.to_owned()),
            None,
        )
        .await
    }

    pub(super) async fn write_volume(
        &self,
        read: &Cached<Volume>,
        edit: impl FnOnce(&mut Volume),
        event: Option<EventOutcome>,
    ) -> Result<(), Error> {
        let mut document = read.document.0.clone();
        edit(&mut document);
        let event = event.map(|outcome| {
            let (previous, state) = (state_name(&read.state), state_name(&document.state));
            let now = Timestamp::now();
            Event::state_change(
                &document,
                &previous,
                &state,
                document.reason.as_deref(),
                outcome,
                now,
            )
        });
        let mut changes = self.0.documents.changes().replace(read, document);
        if let Some(event) = &event {
            changes = changes.create(event);
        }
        changes.commit().await?;
        Ok(())
    }
}
