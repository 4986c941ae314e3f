//! Images from Marketplaces that are in the cache: whether they may still be used.
//!
//! The policy of the site is asked whenever the document is looked at, by the entry that is kept in it. Once in a while, and
//! when the entry's time is over, the Marketplaces are asked anew. If none answers an image stays as it is.

use cimi::Timestamp;
use cimi::resources::{EventOutcome, Image, ImageSource, ImageState};
use documents::Cached;

use super::StorageController;
use super::follow::Next;
use super::image_document::expected;
use crate::error::Error;
use crate::registry::{LookupError, Standing};

/// After a Marketplace did not answer.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(15 * 60);

impl StorageController {
    /// Sees to it that a cached image can be used as long as its entry is accepted, and only so long.
    pub(super) async fn keep_fetched(&self, read: &Cached<Image>) -> Result<Next, Error> {
        let Some(entry) = read
            .provenance
            .as_ref()
            .and_then(|origin| origin.entry.clone())
        else {
            return self.keep_image(read).await;
        };
        match self.0.settings.registries.judge(&entry).await {
            Err(LookupError::Refused(reason)) => return self.refuse(read, reason).await,
            // Nobody can say now: it stays as it is.
            Err(LookupError::Unavailable(_)) => return self.keep_as_it_is(read).await,
            Ok(Standing::Good) if !self.is_due(read) => return self.accept(read, None).await,
            Ok(Standing::Good | Standing::Expired(_)) => {}
        }
        if let Some(left) = self.0.rests.left(read.id.local(), read.desired.attempt) {
            self.keep_as_it_is(read).await?;
            return Ok(Next::Again(left));
        }
        let Some(identifier) = expected(&read.desired.expected)?.known_identifier() else {
            return self.keep_image(read).await;
        };
        match self.0.settings.registries.look_up(&identifier).await {
            Ok(found) => {
                self.0.rests.forget(read.id.local());
                let document = String::from_utf8(found.entry.document().to_vec()).ok();
                self.accept(read, document.map(|entry| (entry, found)))
                    .await
            }
            Err(LookupError::Refused(reason)) => {
                self.0.rests.forget(read.id.local());
                self.refuse(read, reason).await
            }
            Err(error @ LookupError::Unavailable(_)) => {
                tracing::warn!(image = %read.id, %error, "the entry of a cached image can't be looked up; it can be used meanwhile");
                let local = read.id.local();
                self.0.rests.failed(local, read.desired.attempt, AGAIN);
                self.keep_as_it_is(read).await?;
                Ok(Next::Again(AGAIN))
            }
        }
    }

    /// What was accepted stays so, and what was refused.
    async fn keep_as_it_is(&self, read: &Cached<Image>) -> Result<Next, Error> {
        if is_refused(read) {
            return Ok(Next::Settled);
        }
        self.keep_image(read).await
    }

    /// Whether the Marketplaces are to be asked for the entry of a cached image.
    pub(super) fn is_to_be_looked_up_anew(&self, image: &Image) -> bool {
        image.desired.source == ImageSource::Marketplace
            && image.file.is_some()
            && !image.desired.deleted
            && self.is_due(image)
    }

    fn is_due(&self, read: &Image) -> bool {
        read.provenance.as_ref().is_none_or(|origin| {
            Timestamp::now().since(origin.checked) >= self.0.settings.entries_recheck
        })
    }

    /// The image may be used; `newer` is what the Marketplaces say now.
    async fn accept(
        &self,
        read: &Cached<Image>,
        newer: Option<(String, crate::registry::Found)>,
    ) -> Result<Next, Error> {
        if newer.is_none() && !is_refused(read) {
            return self.keep_image(read).await;
        }
        let edit = |image: &mut Image| {
            if let Some(origin) = &mut image.provenance {
                origin.refused = None;
                if let Some((entry, found)) = newer {
                    origin.endorser = Some(found.entry.endorsement().email.clone());
                    origin.found_in = found.marketplace;
                    origin.entry = Some(entry);
                    origin.checked = Timestamp::now();
                }
            }
        };
        // The state follows when the document is looked at again, by what lies on the disk.
        self.write_image(read, edit, None).await?;
        Ok(Next::Again(std::time::Duration::ZERO))
    }

    async fn refuse(&self, read: &Cached<Image>, reason: String) -> Result<Next, Error> {
        if read.state == ImageState::Error && is_refused(read) {
            return Ok(Next::Settled);
        }
        tracing::warn!(image = %read.id, reason, "a cached image may not be used any more");
        let edit = |image: &mut Image| {
            image.state = ImageState::Error;
            image.reason = Some(format!("it may not be used any more: {reason}"));
            if let Some(origin) = &mut image.provenance {
                origin.refused = Some(reason.clone());
                origin.checked = Timestamp::now();
            }
        };
        self.write_image(read, edit, Some(EventOutcome::Failure))
            .await?;
        Ok(Next::Settled)
    }
}

fn is_refused(image: &Image) -> bool {
    let origin = image.provenance.as_ref();
    origin.is_some_and(|origin| origin.refused.is_some())
}
