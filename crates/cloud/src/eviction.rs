//! Which images that came by their names go again: what nobody needed for long, what could not be fetched, and, when there is
//! no more room, what was needed longest ago. Never one that a machine needs, and none that an operator pinned.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use cimi::{
    Timestamp,
    resources::{Event, Image, ImageState, JobGoal},
};
use documents::Cached;

use crate::{Cloud, Result, jobs};

/// How long images stay that came by their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// After the last machine that needed them; none: for ever.
    pub unused: Option<Duration>,
    /// Those that could not be fetched.
    pub failed: Duration,
    /// Most bytes of all images, beyond which those that nobody needs go; none: no such bound.
    pub most_bytes: Option<u64>,
}

impl Default for Eviction {
    fn default() -> Self {
        Self {
            unused: Some(Duration::from_secs(30 * 24 * 3600)),
            failed: Duration::from_secs(3600),
            most_bytes: None,
        }
    }
}

/// How exactly the last use is known.
const USE_KNOWN_TO: Duration = Duration::from_secs(10 * 60);
/// An image that is there for its first machine has to wait for it.
const GRACE: Duration = Duration::from_secs(2 * 60);

impl Cloud {
    /// One round; how many are on their way out.
    pub(crate) async fn evict(&self, eviction: Eviction) -> usize {
        self.take_back_deletions().await;
        let now = Timestamp::now();
        let images = self.0.documents.images.by_index("onDemand", "yes");
        let mut idle = Vec::new();
        let mut gone = 0;
        for image in images {
            let Some(on_demand) = image.desired.on_demand.clone() else {
                continue;
            };
            let unused = now.since(on_demand.last_used);
            if image.desired.deleted {
                continue;
            }
            if self.is_needed(&image) {
                if unused > USE_KNOWN_TO {
                    self.note_use(&image, now).await;
                }
                continue;
            }
            let is_over = match image.state {
                ImageState::Error => unused > eviction.failed,
                ImageState::Available => eviction.unused.is_some_and(|limit| unused > limit),
                ImageState::Creating | ImageState::Deleting => false,
            };
            if is_over && !on_demand.pinned {
                gone += usize::from(self.evicted(&image, "nobody needed it for long").await);
            } else if !on_demand.pinned && image.file.is_some() && unused > GRACE {
                idle.push((on_demand.last_used, image));
            }
        }
        idle.sort_by_key(|(last_used, image)| (*last_used, image.id.clone()));
        for image in self.in_the_way(idle, eviction.most_bytes) {
            gone += usize::from(self.evicted(&image, "others need the room").await);
        }
        gone
    }

    /// A deletion that somebody's new need overtook is taken back by who began it, unless that was killed in between: then here.
    async fn take_back_deletions(&self) {
        let documents = &self.0.documents;
        for image in documents.images.all() {
            if !image.desired.deleted || !self.is_needed(&image) {
                continue;
            }
            let mut before = image.document.0.clone();
            // What lies on the disk, and who judges it, correct that.
            before.state = match before.file {
                Some(_) => ImageState::Available,
                None => ImageState::Creating,
            };
            before.reason = None;
            let job = jobs::under_way(documents, &image.id.to_string(), "delete", &JobGoal::Gone);
            let job = job.and_then(|job| documents.jobs.get(job.rsplit('/').next()?));
            let job = job.as_ref().map(|job| &job.document.0);
            match self.undelete_image(&before, job).await {
                Ok(()) => tracing::info!(image = %image.id, "image stays: it is needed after all"),
                Err(error) => {
                    tracing::warn!(image = %image.id, %error, "an image that is needed can't be kept now");
                }
            }
        }
    }

    /// Of the idle images, longest unused first, those that have to go for room.
    fn in_the_way(
        &self,
        idle: Vec<(Timestamp, Arc<Cached<Image>>)>,
        most_bytes: Option<u64>,
    ) -> Vec<Arc<Cached<Image>>> {
        let all = self.0.documents.images.all();
        let bytes_of = |image: &Image| {
            image
                .file
                .as_ref()
                .and_then(|file| file.digests.bytes)
                .unwrap_or(0)
        };
        // One whose import can't go on for want of space tells so; what was told to go for it may be enough.
        let is_waited_for = all
            .iter()
            .any(|image| image.is_on_its_way() && image.needs_space)
            && !all.iter().any(|image| self.is_about_to_make_room(image));
        // What several documents have is there once.
        let contents: BTreeMap<_, u64> = all
            .iter()
            .filter(|image| image.file.is_some() && !image.desired.deleted)
            .map(|image| (image.identifier(), bytes_of(image)))
            .collect();
        let kept: u64 = contents.values().sum();
        let mut surplus = most_bytes.map_or(0, |most| kept.saturating_sub(most - most / 10));
        let mut goes = Vec::new();
        for (_, image) in idle {
            if surplus == 0 && !(is_waited_for && goes.is_empty()) {
                break;
            }
            surplus = surplus.saturating_sub(bytes_of(&image));
            goes.push(image);
        }
        goes
    }

    /// Whether nothing but the storage controller's next step keeps the file of an image here.
    fn is_about_to_make_room(&self, image: &Image) -> bool {
        image.desired.deleted && image.file.is_some() && !self.is_needed(image)
    }

    async fn note_use(&self, image: &Image, now: Timestamp) {
        let noted = self
            .0
            .documents
            .update::<Image, documents::DocumentsError>(image.id.local(), |image| {
                if let Some(on_demand) = &mut image.desired.on_demand {
                    on_demand.last_used = now;
                }
                Ok(true)
            })
            .await;
        if let Err(error) = noted {
            tracing::debug!(image = %image.id, %error, "its use can't be noted now");
        }
    }

    async fn evicted(&self, read: &Cached<Image>, why: &str) -> bool {
        match self.begin_eviction(read).await {
            Ok(begun) => {
                if begun {
                    tracing::info!(image = %read.id, identifier = read.identifier(), why, "image goes");
                }
                begun
            }
            Err(error) => {
                tracing::warn!(image = %read.id, %error, "an image that nobody needs can't be removed now");
                false
            }
        }
    }

    async fn begin_eviction(&self, read: &Cached<Image>) -> Result<bool> {
        let mut image = read.document.0.clone();
        image.desired.deleted = true;
        image.state = ImageState::Deleting;
        let event = Event::request(&image, "delete", "", Timestamp::now());
        let changes = self
            .0
            .documents
            .changes()
            .replace(read, image)
            .create(&event);
        match changes.commit().await {
            Ok(_) => {}
            Err(error) if error.is_conflict() => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        // A machine that came between the look and the write keeps its image.
        if self.is_needed(read) {
            self.undelete_image(read, None).await?;
            return Ok(false);
        }
        Ok(true)
    }
}
