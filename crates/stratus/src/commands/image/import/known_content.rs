//! Content that the cloud has already, when it shall boot in a certain way: what an image boots with is decided when it is made.

use serde_json::{Map, Value};

use super::Import;
use crate::cloud::{ApiError, ImageView, Reference};
use crate::failure::Result;

/// What an image boots with besides its own boot loader; files by their content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Boot {
    pub(super) kernel: Option<String>,
    pub(super) initrd: Option<String>,
    pub(super) arguments: Option<String>,
}

impl Import<'_> {
    /// A usable image of this content that boots so already. If there are only others, says that another one is made.
    pub(super) async fn booting_so(&self, identifier: Option<&str>, boot: &Boot, document: &Map<String, Value>) -> Result<Option<ImageView>> {
        let Some(identifier) = identifier else {
            return Ok(None);
        };
        let mut images: Vec<ImageView> = self.api.views("MachineImage").await?;
        images.retain(|image| image.identifier.as_deref() == Some(identifier) && image.state.as_deref() == Some("AVAILABLE"));
        for image in &images {
            if self.boot_of(image).await? == *boot {
                self.session.out.step("The cloud has this content already, and it boots so.");
                return Ok(Some(image.clone()));
            }
        }
        let Some(other) = images.last() else {
            return Ok(None);
        };
        self.session.out.step(format_args!("The cloud has this content already ({}), but it boots otherwise: another image of it is made.", other.id));
        let name = document.get("name").and_then(Value::as_str);
        if let Some(namesake) = images.iter().find(|image| image.name.as_deref() == name) {
            self.session.out.warning(format_args!(
                "Two images are called '{}' then. The identifier means the newer one; stratus image delete {} or stratus image update --name NAME {} ends that.",
                name.unwrap_or_default(),
                namesake.id,
                namesake.id
            ));
        }
        Ok(None)
    }

    async fn boot_of(&self, image: &ImageView) -> Result<Boot> {
        Ok(Boot { kernel: self.content_of(image.kernel.as_ref()).await?, initrd: self.content_of(image.initrd.as_ref()).await?, arguments: image.kernel_arguments.clone() })
    }

    /// The content of a file that an image refers to; of one that may not be seen its own name, which is nobody's content.
    async fn content_of(&self, file: Option<&Reference>) -> Result<Option<String>> {
        let Some(file) = file else {
            return Ok(None);
        };
        let path = self.api.relative(&file.href);
        match self.api.view::<ImageView>(&path).await {
            Ok(view) => Ok(Some(view.content().to_owned())),
            Err(ApiError::Refused { .. }) => Ok(Some(path)),
            Err(error) => Err(error.into()),
        }
    }
}
