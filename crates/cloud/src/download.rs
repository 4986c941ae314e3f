//! The content of images on its way to who may read them.

use std::{fmt, sync::Arc};

use cimi::{
    Right,
    model::Kind,
    resources::{Image, ImageState},
};

use documents::Cached;

use crate::{ByteStream, Caller, Cloud, CloudError, OpContext, Result, access, cloud::is_public};

/// Which content of an image is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DownloadRequest {
    /// `raw`, `qcow2`, `vdi`, `vmdk`, `vpc`; none: as it is kept.
    pub format: Option<String>,
    /// Only from this byte on, up to the one before the second.
    pub part: Option<(u64, Option<u64>)>,
}

/// Content of an image.
pub struct Download {
    /// What it is, as the request names formats.
    pub format: &'static str,
    /// Length of the whole content, if it is known.
    pub length: Option<u64>,
    /// The first byte and the one behind the last that come, if it is a part.
    pub part: Option<(u64, u64)>,
    /// The identifier of the whole content, if it has one: what was converted has none.
    pub identifier: Option<String>,
    /// The bytes.
    pub content: ByteStream,
    /// Names the content, whatever asks for it: two that are equal have the same bytes.
    pub tag: String,
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Download")
            .field("format", &self.format)
            .field("length", &self.length)
            .field("part", &self.part)
            .finish_non_exhaustive()
    }
}

impl Cloud {
    /// The content of an image that the caller may see; for who isn't logged in, of one that is public, as it is kept. Whether those are
    /// let in at all is decided at the door.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] for an image without content, [`CloudError::Invalid`] for a format that can't be made.
    pub async fn download_image(
        &self,
        context: &OpContext,
        id: &str,
        request: DownloadRequest,
    ) -> Result<Download> {
        let read = match context.caller {
            Caller::Anonymous => self.public_image(id, &request)?,
            _ => {
                access::require_type(context, Kind::MachineImage)?;
                self.find_image(context, id, Right::View)?
            }
        };
        if read.state != ImageState::Available {
            return Err(CloudError::Conflict(format!(
                "{} has no content yet; wait until it is AVAILABLE",
                read.id
            )));
        }
        let image: Arc<Image> = Arc::new(read.document.0.clone());
        let mut download = self.0.intake.open(image.clone(), request).await?;
        download.tag = format!(
            "{}-{}",
            image.identifier().unwrap_or_default(),
            download.format
        );
        Ok(download)
    }

    /// An image for everybody. What is to be converted costs more than a stranger is given.
    fn public_image(&self, id: &str, request: &DownloadRequest) -> Result<Arc<Cached<Image>>> {
        let read = self.documents().images.get(id);
        read.filter(|image| is_public(&image.common.acl))
            .filter(|image| !image.desired.deleted && request.format.is_none())
            .ok_or_else(|| CloudError::not_found(format!("MachineImage/{id}")))
    }

    /// The file of an image, byte for byte as it is kept, or this part of it: for a host that was found to see its document. Its
    /// tag is that of the file.
    ///
    /// # Errors
    /// [`CloudError::NotFound`] without a file. [`CloudError::Invalid`] for a part behind its end.
    pub async fn image_for_host(
        &self,
        local: &str,
        part: Option<(u64, Option<u64>)>,
    ) -> Result<Download> {
        let not_found = || CloudError::not_found(format!("file of MachineImage/{local}"));
        let read = self.documents().images.get(local).ok_or_else(not_found)?;
        let available = read.state == ImageState::Available;
        let file = read.file.as_ref().filter(|_| available);
        let tag = file.and_then(|file| {
            let content = file.content();
            let (sha1, bytes) = (content.sha1.as_ref()?, content.bytes?);
            Some(format!("{sha1}-{bytes}"))
        });
        let tag = tag.ok_or_else(not_found)?;
        let request = DownloadRequest { format: None, part };
        let image = Arc::new(read.document.0.clone());
        let download = self.0.intake.open(image, request).await?;
        Ok(Download { tag, ..download })
    }
}
