//! What the daemon that keeps the images does for entries of the same cloud that don't: the part of an operation behind the rules,
//! which the entry has asked already.
//!
//! Each says what of the store it has seen, and waits for what the other has: what one has just written, the other knows.

use std::{sync::Arc, time::Duration};

use cimi::resources::Image;
use documents::Documents;
use store::Revision;
use tokio::time::timeout;

use crate::{Cloud, CloudError, Download, DownloadRequest, Result, Upload};

/// How long the caches may be behind what an entry has seen.
const BEHIND: Duration = Duration::from_secs(5);

impl Cloud {
    /// The content of an image. Its tag is left empty.
    ///
    /// # Errors
    /// As [`ImageIntake::open`](crate::ImageIntake::open); [`CloudError::NotFound`].
    pub async fn content_for_entry(
        &self,
        local: &str,
        seen: Revision,
        request: DownloadRequest,
    ) -> Result<Download> {
        let image = self.image_as_seen(local, seen).await?;
        self.0.intake.open(image, request).await
    }

    /// Takes the content of an image that waits for it; what the store shows of it then.
    ///
    /// # Errors
    /// As [`ImageIntake::take`](crate::ImageIntake::take); [`CloudError::NotFound`].
    pub async fn content_from_entry(
        &self,
        local: &str,
        seen: Revision,
        upload: Upload,
    ) -> Result<Revision> {
        let image = self.image_as_seen(local, seen).await?;
        self.0.intake.take(image, upload).await?;
        Ok(self.documents().revision())
    }

    /// Has the Marketplaces asked anew about an image; what the store shows then, if that may be something else.
    ///
    /// # Errors
    /// [`CloudError::NotFound`]
    pub async fn look_again_for_entry(
        &self,
        local: &str,
        seen: Revision,
    ) -> Result<Option<Revision>> {
        let image = self.image_as_seen(local, seen).await?;
        let is_other = self.0.intake.look_again(&image).await;
        Ok(is_other.then(|| self.documents().revision()))
    }

    async fn image_as_seen(&self, local: &str, seen: Revision) -> Result<Arc<Image>> {
        catch_up(self.documents(), seen).await?;
        let read = self.documents().images.get(local);
        let read = read.ok_or_else(|| CloudError::not_found(format!("MachineImage/{local}")))?;
        Ok(Arc::new(read.document.0.clone()))
    }
}

/// Waits until reads here show what another daemon of the cloud has seen.
///
/// # Errors
/// [`CloudError::Unavailable`] if that takes too long.
pub async fn catch_up(documents: &Documents, seen: Revision) -> Result<()> {
    match timeout(BEHIND, documents.wait_for(seen)).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(CloudError::Unavailable(
            "a daemon of this cloud is behind the others; try again".to_owned(),
        )),
    }
}
