//! What the controller writes into the documents of images, and what it reads from them.

use std::str::FromStr;

use cimi::Timestamp;
use cimi::resources::{Digests, Event, EventOutcome, Image, ImageFile, ImageState, MediumFormat};
use cimi::size::ByteSize;
use documents::room::Room;
use documents::{Cached, Changes};

use super::follow::Next;
use super::{StorageController, state_name};
use crate::decompress::Packing;
use crate::digest::{self, Expected, ExpectedSource};
use crate::error::Error;
use crate::identifier::ImageIdentifier;
use crate::import;
use crate::inspect::Format;

/// What a user said the content must be, or which part of it makes no sense.
pub(super) fn expected(given: &Digests) -> Result<Expected, Error> {
    fn parse<T: FromStr>(what: &'static str, given: Option<&String>) -> Result<Option<T>, Error>
    where
        T::Err: std::fmt::Display,
    {
        given
            .map(|text| {
                text.parse().map_err(|error: T::Err| Error::Invalid {
                    what,
                    value: text.chars().take(140).collect(),
                    reason: error.to_string(),
                })
            })
            .transpose()
    }
    Ok(Expected {
        identifier: parse("expected identifier", given.identifier.as_ref())?,
        bytes: given.bytes,
        md5: parse("expected MD5", given.md5.as_ref())?,
        sha1: parse("expected SHA-1", given.sha1.as_ref())?,
        sha256: parse("expected SHA-256", given.sha256.as_ref())?,
        sha512: parse("expected SHA-512", given.sha512.as_ref())?,
        format: None,
        packing: Packing::Unknown,
        source: ExpectedSource::default(),
        proven_later: false,
    })
}

/// A cached image as its document tells it.
pub(super) fn image_file(image: &import::Image) -> ImageFile {
    let converted = image.converted.as_ref();
    ImageFile {
        path: image.path.display().to_string(),
        format: match image.format {
            Format::Raw => MediumFormat::Raw,
            Format::Qcow2 => MediumFormat::Qcow2,
        },
        virtual_size: ByteSize(image.virtual_bytes),
        digests: told(image.bytes, &image.digests),
        kept: converted.map(|converted| told(converted.bytes, &converted.digests)),
    }
}

fn told(bytes: u64, digests: &digest::Digests) -> Digests {
    Digests {
        identifier: Some(ImageIdentifier::from_sha1(&digests.sha1).to_string()),
        md5: digests.md5.as_ref().map(ToString::to_string),
        sha1: Some(digests.sha1.to_string()),
        sha256: digests.sha256.as_ref().map(ToString::to_string),
        sha512: digests.sha512.as_ref().map(ToString::to_string),
        bytes: Some(bytes),
    }
}

impl StorageController {
    pub(super) async fn image_available(
        &self,
        read: &Cached<Image>,
        image: &import::Image,
        room: &dyn Room,
    ) -> Result<(), Error> {
        let edit = |document: &mut Image| {
            document.state = ImageState::Available;
            document.file = Some(image_file(image));
            document.progress = Some(100);
            document.needs_space = false;
            document.reason = document.warning();
        };
        let changes = room.guard(self.0.documents.changes());
        self.write_image_in(changes, read, edit, Some(EventOutcome::Success))
            .await
    }

    pub(super) async fn image_failed(
        &self,
        read: &Cached<Image>,
        reason: &str,
    ) -> Result<Next, Error> {
        tracing::warn!(image = %read.id, reason, "image can't be used");
        let edit = |document: &mut Image| {
            document.state = ImageState::Error;
            document.reason = Some(reason.to_owned());
        };
        self.write_image(read, edit, Some(EventOutcome::Failure))
            .await?;
        Ok(Next::Settled)
    }

    /// Tells why an image is not yet as it should be.
    pub(super) async fn image_reason(
        &self,
        read: &Cached<Image>,
        reason: &str,
    ) -> Result<(), Error> {
        if read.reason.as_deref() == Some(reason) {
            return Ok(());
        }
        self.write_image(
            read,
            |document| document.reason = Some(reason.to_owned()),
            None,
        )
        .await
    }

    pub(super) async fn write_image(
        &self,
        read: &Cached<Image>,
        edit: impl FnOnce(&mut Image),
        event: Option<EventOutcome>,
    ) -> Result<(), Error> {
        let changes = self.0.documents.changes();
        self.write_image_in(changes, read, edit, event).await
    }

    async fn write_image_in(
        &self,
        changes: Changes<'_>,
        read: &Cached<Image>,
        edit: impl FnOnce(&mut Image),
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
        let mut changes = changes.replace(read, document);
        if let Some(event) = &event {
            changes = changes.create(event);
        }
        changes.commit().await?;
        Ok(())
    }

    /// The document goes, in one transaction with the event that tells so.
    pub(super) async fn image_gone(&self, read: &Cached<Image>) -> Result<(), Error> {
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
        tracing::info!(image = %read.id, "image removed");
        Ok(())
    }

    /// Shows how far an import is. That it can't be written now is no reason to end the import.
    pub(super) async fn image_progress(&self, local: &str, percent: u8) {
        let shown = self
            .0
            .documents
            .update::<Image, documents::DocumentsError>(local, |image| {
                let show = image.state == ImageState::Creating
                    && !image.desired.deleted
                    && image.progress != Some(percent);
                if show {
                    image.progress = Some(percent);
                }
                Ok(show)
            })
            .await;
        if let Err(error) = shown {
            tracing::debug!(image = local, %error, "progress can't be shown");
        }
    }
}
