//! Room for what a controller is about to write down, as the rules give it.
//!
//! Controllers know no quotas, and the rules don't know when a controller learns how large something is. So whoever is
//! about to write down a size asks here first, and has the answer guard its transaction.

use async_trait::async_trait;
use cimi::resources::Image;

use crate::{Changes, DocumentsError};

/// Gives room to the contents of images.
#[async_trait]
pub trait ImageRooms: std::fmt::Debug + Send + Sync {
    /// Room for an image's owner to have it with a disk of `bytes` bytes, beyond what the image counts already. To be held
    /// until that is written.
    ///
    /// # Errors
    /// [`NoRoom`].
    async fn room(&self, image: &Image, bytes: u64) -> Result<Box<dyn Room>, NoRoom>;
}

/// Room that is held until it is dropped.
#[async_trait]
pub trait Room: Send + Sync {
    /// Has the transaction happen only while the room is there. To be called before anything else is demanded.
    fn guard<'a>(&self, changes: Changes<'a>) -> Changes<'a>;

    /// Whether the transaction failed because the room was lost to another daemon: then new room is to be asked for.
    async fn is_lost(&self, error: &DocumentsError) -> bool;
}

/// Why there is no room.
#[derive(Debug, thiserror::Error)]
pub enum NoRoom {
    /// The owner may not have so much: what, how much, and what to do.
    #[error("{0}")]
    Exceeded(String),
    /// It can't be said now.
    #[error(transparent)]
    NotNow(#[from] DocumentsError),
}

/// Bounds nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unbounded;

#[async_trait]
impl ImageRooms for Unbounded {
    async fn room(&self, _image: &Image, _bytes: u64) -> Result<Box<dyn Room>, NoRoom> {
        Ok(Box::new(Self))
    }
}

#[async_trait]
impl Room for Unbounded {
    fn guard<'a>(&self, changes: Changes<'a>) -> Changes<'a> {
        changes
    }

    async fn is_lost(&self, _error: &DocumentsError) -> bool {
        false
    }
}
