//! Where the files of images are, as a test wants it.

use std::collections::BTreeSet;
use std::sync::Arc;

use cimi::{ImageId, resources::Image};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Notify;
use vmhost::controller::{ImageContent, ImageFiles, OfStorage};

/// The files of images: where the storage wrote them, but for what a test says of all of them.
#[derive(Clone, Default)]
pub struct TestImages(Arc<Told>);

#[derive(Default)]
struct Told {
    instead: Mutex<Option<ImageContent>>,
    changed: Mutex<Vec<ImageId>>,
    bell: Notify,
}

impl TestImages {
    /// What is told of all images from now on; none: where they are.
    pub fn tell(&self, instead: Option<ImageContent>) {
        *self.0.instead.lock() = instead;
    }

    /// That another answer is there for this one.
    pub fn ring(&self, image: &ImageId) {
        self.0.changed.lock().push(image.clone());
        self.0.bell.notify_one();
    }
}

impl ImageFiles for TestImages {
    fn content(&self, image: &Image) -> ImageContent {
        let instead = self.0.instead.lock().clone();
        instead.unwrap_or_else(|| OfStorage.content(image))
    }

    fn fetched(&self) -> BoxFuture<'_, BTreeSet<String>> {
        OfStorage.fetched()
    }

    fn changed(&self) -> BoxFuture<'_, ImageId> {
        Box::pin(async {
            loop {
                let changed = self.0.changed.lock().pop();
                match changed {
                    Some(image) => return image,
                    None => self.0.bell.notified().await,
                }
            }
        })
    }
}
