//! Room for the contents of images, whose size is known only when they are there.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use cimi::{PrincipalType, resources::Image};
use documents::{
    Changes, DocumentsError,
    room::{ImageRooms, NoRoom, Room, Unbounded},
};

use super::{Measure, Place, Quotas};
use crate::CloudError;

/// How long is waited for what the owner makes at the same moment.
const PATIENCE: Duration = Duration::from_secs(60);

#[async_trait]
impl ImageRooms for Quotas {
    async fn room(&self, image: &Image, bytes: u64) -> Result<Box<dyn Room>, NoRoom> {
        let owner = &image.common.acl.owner;
        let more = bytes.saturating_sub(image.bytes().unwrap_or(0));
        if owner.kind != PrincipalType::User || more == 0 {
            return Ok(Box::new(Unbounded));
        }
        let user = &owner.principal;
        let amounts = [(Measure::ImageSpace, more)];
        let deadline = Instant::now() + PATIENCE;
        let place = self.place(user, self.bound(user), &amounts, deadline);
        match place.await {
            Ok(place) => Ok(Box::new(place)),
            Err(CloudError::Exhausted(reason)) => Err(NoRoom::Exceeded(reason)),
            Err(error) => {
                tracing::warn!(image = %image.id, user, %error, "there is no room for an image now");
                let key = format!("what {user} has");
                Err(NoRoom::NotNow(DocumentsError::Conflict { key }))
            }
        }
    }
}

#[async_trait]
impl Room for Place {
    fn guard<'a>(&self, changes: Changes<'a>) -> Changes<'a> {
        Self::guard(self, changes)
    }

    async fn is_lost(&self, error: &DocumentsError) -> bool {
        Self::is_lost(self, error).await
    }
}
