//! Where the contents of images are on this host. A machine starts from a file; whether that lies where the storage wrote it, or
//! has to be fetched first, is not its affair.

use std::{collections::BTreeSet, path::PathBuf};

use cimi::{ImageId, resources::Image};
use futures::{
    FutureExt as _,
    future::{self, BoxFuture},
};
use storage::replicas::{Replica, Replicas};

/// The content of an image, as this host has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageContent {
    /// In this file, whole.
    Here(PathBuf),
    /// Not yet; a sentence for users says what goes on. Machines wait.
    OnItsWay(String),
    /// Never, as things are; a sentence for users says why. Machines fail.
    Unusable(String),
}

/// Where the contents of images are on this host.
pub trait ImageFiles: Send + Sync {
    /// Where that of an image is that is available, and has a file. Fast, never waits: asked whenever a machine is to start. To
    /// be asked is the sign to fetch it.
    fn content(&self, image: &Image) -> ImageContent;

    /// The SHA-1 of contents that were fetched and are here. Nothing where all of the storage's are.
    fn fetched(&self) -> BoxFuture<'_, BTreeSet<String>>;

    /// The next image whose answer is another than it was. For one listener; what nobody waited for is told later. Can be
    /// dropped without losing anything.
    fn changed(&self) -> BoxFuture<'_, ImageId>;
}

/// Copies of what the storage of another computer has.
impl ImageFiles for Replicas {
    fn content(&self, image: &Image) -> ImageContent {
        match self.of(image) {
            Replica::Here(path) => ImageContent::Here(path),
            Replica::OnItsWay(text) => ImageContent::OnItsWay(text),
            Replica::Refused(text) => ImageContent::Unusable(text),
        }
    }

    fn fetched(&self) -> BoxFuture<'_, BTreeSet<String>> {
        let contents = self.contents().map(|found| {
            found.unwrap_or_else(|error| {
                tracing::warn!(%error, "which images are here can't be told");
                BTreeSet::new()
            })
        });
        contents.boxed()
    }

    fn changed(&self) -> BoxFuture<'_, ImageId> {
        Self::changed(self).boxed()
    }
}

/// Where the storage wrote them: both are on one computer.
#[derive(Clone, Copy, Debug, Default)]
pub struct OfStorage;

impl ImageFiles for OfStorage {
    fn content(&self, image: &Image) -> ImageContent {
        match &image.file {
            Some(file) => ImageContent::Here(file.path.clone().into()),
            None => ImageContent::Unusable(format!("{} has no content", image.id)),
        }
    }

    fn fetched(&self) -> BoxFuture<'_, BTreeSet<String>> {
        future::ready(BTreeSet::new()).boxed()
    }

    fn changed(&self) -> BoxFuture<'_, ImageId> {
        future::pending().boxed()
    }
}
