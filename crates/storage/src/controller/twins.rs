//! What somebody brings that is theirs already: one owner's images of the same content that boot alike are one image. The one
//! that was there first stands for those that come later, whose content could not be known before it came.

use std::sync::Arc;

use cimi::resources::{Event, EventOutcome, Image, ImageState, Resource as _};
use cimi::{Ref, Timestamp};
use documents::Cached;

use super::image_content::Kind;
use super::{StorageController, state_name};
use crate::error::Error;
use crate::identifier::ImageIdentifier;

/// So many of those that it stands for are known of an image; the oldest are forgotten.
const STANDS_FOR_AT_MOST: usize = 16;

impl StorageController {
    /// Whether an image whose content has come is its owner's already. Then it goes, the one that was there stands for it, and
    /// who waits for the one is told of the other. What was to be allowed to others is.
    pub(super) async fn is_there_already(
        &self,
        local: &str,
        identifier: &ImageIdentifier,
    ) -> Result<bool, Error> {
        loop {
            let _references = self.0.references.lock().await;
            let Some(read) = self.wanted_image(local) else {
                return Ok(false);
            };
            // What has lost its file stands for nothing.
            self.forget_if_lost(Kind::of(&read), identifier).await?;
            let is_kept = self.store(Kind::of(&read)).find(identifier).is_some();
            let Some(twin) = self.twin_of(&read, identifier).filter(|_| is_kept) else {
                return Ok(false);
            };
            match self.merge(&read, &twin).await {
                Ok(()) => {}
                Err(Error::Document(error)) if error.is_conflict() => continue,
                Err(error) => return Err(error),
            }
            if !self.is_needed(&read) {
                tracing::info!(image = %read.id, same_as = %twin.id, %identifier, "image was there already");
                return Ok(true);
            }
            // Somebody came to need it between the look and the write: so it stays.
            let back = |image: &mut Image| {
                image.desired.deleted = false;
                image.state = ImageState::Creating;
                image.reason = None;
                Ok::<_, documents::DocumentsError>(true)
            };
            self.0.documents.update::<Image, _>(local, back).await?;
            return Ok(false);
        }
    }

    fn twin_of(&self, read: &Image, identifier: &ImageIdentifier) -> Option<Arc<Cached<Image>>> {
        if !is_brought(read) || self.is_needed(read) {
            return None;
        }
        let boots = |image: &Image| {
            (
                image.kernel.clone(),
                image.initrd.clone(),
                image.kernel_arguments.clone(),
            )
        };
        let images = &self.0.documents.images;
        let same = images.by_index("identifier", &identifier.to_string());
        same.into_iter()
            .filter(|other| {
                other.id != read.id
                    && other.state == ImageState::Available
                    && !other.desired.deleted
                    && is_brought(other)
                    && other.common.acl.owner == read.common.acl.owner
                    && other.kind == read.kind
                    && boots(other) == boots(read)
            })
            .min_by_key(|other| other.id.clone())
    }

    /// Whether a machine or another image stands on it.
    fn is_needed(&self, image: &Image) -> bool {
        let documents = &self.0.documents;
        let id = Some(&image.id);
        let boots = |other: &Arc<Cached<Image>>| {
            [other.kernel.as_ref(), other.initrd.as_ref()].contains(&id)
        };
        documents.machines.count_by_index("image", image.id.local()) > 0
            || documents.images.all().iter().any(boots)
    }

    async fn merge(&self, read: &Cached<Image>, twin: &Cached<Image>) -> Result<(), Error> {
        let (mut kept, mut gone) = (twin.document.0.clone(), read.document.0.clone());
        for rule in &gone.common.acl.rules {
            if !kept.common.acl.rules.contains(rule) {
                kept.common.acl.rules.push(rule.clone());
            }
        }
        let too_many = (kept.stands_for.len() + 1).saturating_sub(STANDS_FOR_AT_MOST);
        kept.stands_for.drain(..too_many);
        kept.stands_for.push(gone.id.clone());
        // As its owner would have it go: what comes to need it at this moment is then seen.
        gone.desired.deleted = true;
        gone.state = ImageState::Deleting;
        gone.reason = Some(format!("it is the same as {}", twin.id));
        let event = Event::state_change(
            &gone,
            &state_name(&read.state),
            &state_name(&gone.state),
            gone.reason.as_deref(),
            EventOutcome::Success,
            Timestamp::now(),
        );
        let (was, is) = (gone.key(), kept.key());
        let mut changes = self
            .0
            .documents
            .changes()
            .replace(twin, kept)
            .replace(read, gone)
            .create(&event);
        for job in self.0.documents.jobs.by_index("open", &was) {
            let mut told = job.document.0.clone();
            told.affected_resources = vec![Ref::to(is.clone())];
            told.subject = Some(is.clone());
            changes = changes.replace(&job, told);
        }
        changes.commit().await?;
        Ok(())
    }
}

/// Whether somebody brought it, to have it: not one that is there for whoever names it, nor a machine's disk.
fn is_brought(image: &Image) -> bool {
    image.desired.on_demand.is_none() && image.capture().is_none()
}
