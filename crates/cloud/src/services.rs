//! What the rules need of the controllers beside documents: things that are streams, not state.

use std::sync::Arc;

use async_trait::async_trait;
use cimi::{MachineId, resources::Image};
use serde_json::Value;

use crate::{Check, CloudError, Console, ConsoleRange, Download, DownloadRequest, Result, Upload};

/// What a VM host offers beside its documents.
#[async_trait]
pub trait HostServices: Send + Sync {
    /// The serial console of one of its machines.
    async fn console(&self, machine: &MachineId, range: ConsoleRange) -> Result<Console>;

    /// What is there without belonging to a document, and what a document has that isn't there. With `repair` the
    /// former is removed.
    async fn doctor(&self, repair: bool) -> Result<Vec<Value>>;

    /// What an operator should know at a glance. Fast; never waits.
    fn checks(&self) -> Vec<Check>;
}

/// Where the content of an image goes that a client sends, and comes from that one asks for.
#[async_trait]
pub trait ImageIntake: Send + Sync {
    /// Takes the content, checks it and caches it; writes the outcome to the image's document.
    async fn take(&self, image: Arc<Image>, upload: Upload) -> Result<()>;

    /// The content of an image that is there. Its tag is left empty.
    async fn open(&self, image: Arc<Image>, request: DownloadRequest) -> Result<Download>;
}

/// A cloud without hosts, for tests of the rules alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoServices;

#[async_trait]
impl HostServices for NoServices {
    async fn console(&self, machine: &MachineId, _range: ConsoleRange) -> Result<Console> {
        Err(CloudError::Unavailable(format!(
            "the host of {machine} can't be reached"
        )))
    }

    async fn doctor(&self, _repair: bool) -> Result<Vec<Value>> {
        Ok(Vec::new())
    }

    fn checks(&self) -> Vec<Check> {
        Vec::new()
    }
}

#[async_trait]
impl ImageIntake for NoServices {
    async fn take(&self, image: Arc<Image>, _upload: Upload) -> Result<()> {
        Err(CloudError::Unavailable(format!(
            "no storage controller takes the content of {}",
            image.id
        )))
    }

    async fn open(&self, image: Arc<Image>, _request: DownloadRequest) -> Result<Download> {
        Err(CloudError::Unavailable(format!(
            "no storage controller has the content of {}",
            image.id
        )))
    }
}
