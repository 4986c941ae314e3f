//! The content of an image on its way into the cache: from a URL, or sent by a client.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cimi::resources::{Image, ImageSource, ImageState};
use documents::Cached;
use documents::room::{NoRoom, Room};
use futures::Stream;
use tokio::sync::watch;
use tokio_util::io::StreamReader;

use super::StorageController;
use super::follow::Next;
use super::image_document::expected;
use super::images::owner;
use super::transfer::Transfer;
use crate::digest::Expected;
use crate::error::{Error, IMAGE_CACHE};
use crate::identifier::ImageIdentifier;
use crate::import::{self, ImageStore, Imported, Progress, Source};

/// Shortest time between two writes of a progress.
pub(super) const PROGRESS_PERIOD: Duration = Duration::from_secs(1);

/// How often it is asked whether there is room for what was uploaded, and after what pause; each question waits, too.
const ASKED_AT_MOST: u32 = 3;
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What an image's content is treated as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A disk: decompressed and examined.
    Disk,
    /// A kernel or an initrd: kept as it comes.
    File,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Disk, Self::File];

    pub(super) fn of(image: &Image) -> Self {
        if image.kind == "FILE" {
            Self::File
        } else {
            Self::Disk
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::File => "file",
        }
    }
}

/// What became of an import.
pub(super) enum Brought {
    /// The image is in the cache, and its document says so.
    Kept,
    /// The document wants it no more.
    Unwanted,
    /// The content was in the cache, but went before the document could refer to it.
    Vanished,
}

impl StorageController {
    /// Takes the content of an image that waits for its upload, and returns when the outcome is in its document. The
    /// work goes on if the caller leaves; it ends when `content` does.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless the image waits for content, then nothing is changed. Otherwise why the content was
    /// not taken, as in [`ImageStore::import`](crate::import::ImageStore::import): then the image is in ERROR with it as reason.
    pub async fn take(
        &self,
        image: &Image,
        length: Option<u64>,
        content: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<(), Error> {
        let (this, local) = (self.clone(), image.id.local().to_owned());
        let owner = owner(image).to_owned();
        let work = self.0.uploads.spawn(async move {
            let stopping = this.0.stopping.clone();
            tokio::select! {
                biased;
                // The document stays as it is: the next start finds a transfer that was begun and has no worker.
                () = stopping.cancelled() => Err(Error::Cancelled),
                taken = this.take_now(&local, &owner, length, content) => taken,
            }
        });
        work.await.unwrap_or(Err(Error::Cancelled))
    }

    async fn take_now(
        &self,
        local: &str,
        owner: &str,
        length: Option<u64>,
        content: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<(), Error> {
        let refused = |reason: &str| Error::Invalid {
            what: "upload to",
            value: format!("MachineImage/{local}"),
            reason: reason.to_owned(),
        };
        let waited = self.0.settings.upload_turn;
        let _turn = tokio::time::timeout(waited, self.0.intakes.take(owner))
            .await
            .map_err(|_| Error::Busy { waited })?
            .ok_or(Error::Cancelled)?;
        let transfer = self
            .0
            .transfers
            .begin(local)
            .ok_or_else(|| refused("its content is already being sent"))?;
        // From here on a progress above 0 without a transfer means that the daemon ended in between.
        let claimed = self
            .0
            .documents
            .update::<Image, Error>(local, |image| {
                let waits = image.desired.source == ImageSource::Upload
                    && image.state == ImageState::Creating
                    && image.progress.unwrap_or(0) == 0
                    && !image.desired.deleted;
                if !waits {
                    return Err(refused(
                        "it doesn't wait for content; create a new MachineImage",
                    ));
                }
                image.progress = Some(1);
                Ok(true)
            })
            .await?;
        self.checkpoint("upload: begun").await;
        let reader = Box::new(StreamReader::new(Box::pin(content)));
        let source = Source::Stream { reader, length };
        let brought = match expected(&claimed.desired.expected) {
            Ok(expected) => {
                self.bring(&claimed.document.0, expected, source, &transfer)
                    .await
            }
            Err(error) => Err(error),
        };
        let error = match brought {
            Ok(Brought::Kept) => return Ok(()),
            Ok(Brought::Unwanted) => return Err(refused("it was deleted meanwhile")),
            Ok(Brought::Vanished) => {
                refused("the same content was removed at this moment; create the image anew")
            }
            Err(error) => error,
        };
        let reason = match &error {
            Error::Source {
                received_bytes,
                source,
            } => {
                let of = length.map_or(String::new(), |length| format!(" of {length}"));
                format!(
                    "the upload broke off after {received_bytes}{of} bytes: {source}; create the image anew and send its content again"
                )
            }
            other => other.to_string(),
        };
        self.give_up(local, &reason).await?;
        Err(error)
    }

    /// Imports, showing how far it is, and has the document refer to what came.
    pub(super) async fn bring(
        &self,
        image: &Image,
        expected: Expected,
        source: Source,
        transfer: &Transfer,
    ) -> Result<Brought, Error> {
        self.bring_if(image, expected, source, transfer, &|| Ok(()))
            .await
    }

    /// The same, if `check` finds nothing against it once all is there.
    pub(super) async fn bring_if(
        &self,
        image: &Image,
        expected: Expected,
        source: Source,
        transfer: &Transfer,
        check: &(dyn Fn() -> Result<(), Error> + Sync),
    ) -> Result<Brought, Error> {
        let (local, kind) = (image.id.local(), Kind::of(image));
        if let Some(identifier) = expected.known_identifier() {
            self.forget_if_lost(kind, &identifier).await?;
        }
        let mut limits = self.limits_now()?;
        if image.capture().is_some() {
            // What a guest left nearly empty is no bomb: it was this large here before.
            limits.size.max_virtual_per_byte = u64::MAX;
        }
        let store = self.store(kind);
        let import = self.import_shown(store, (source, expected), limits, transfer);
        let Some(imported) = import.await? else {
            return Ok(Brought::Unwanted);
        };
        self.checkpoint("image: in the cache, not told").await;
        let referred = match check() {
            Ok(()) => self.refer(local, kind, &imported.image).await,
            Err(error) => Err(error),
        };
        let brought = match referred {
            // To be tried again (of uploads, this is about writing the document alone): it needn't come another time.
            Err(error @ Error::Document(_)) => return Err(error),
            Err(error) => {
                let _references = self.0.references.lock().await;
                let identifier = &imported.image.identifier;
                self.mark_unwanted(kind, identifier).await?;
                self.collect(kind, identifier).await?;
                return Err(error);
            }
            Ok(brought) => brought,
        };
        if matches!(brought, Brought::Kept) {
            let (identifier, bytes) = (imported.image.identifier, imported.image.bytes);
            tracing::info!(image = %image.id, %identifier, bytes, shared = imported.already_present, "image imported");
        }
        self.checkpoint("image: in the cache and told").await;
        Ok(brought)
    }

    /// Writes into the document that its content is there, if its owner may have so much. If nobody wants it any more it goes
    /// again.
    async fn refer(
        &self,
        local: &str,
        kind: Kind,
        image: &Arc<import::Image>,
    ) -> Result<Brought, Error> {
        if self.is_there_already(local, &image.identifier).await? {
            return Ok(Brought::Kept);
        }
        loop {
            // Asked for without holding up others: it may have to wait for what the owner makes at this moment.
            let asked = match self.wanted_image(local) {
                Some(read) => Some((self.room_for(&read, image).await?, read)),
                None => None,
            };
            let _references = self.0.references.lock().await;
            self.forget_if_lost(kind, &image.identifier).await?;
            if self.store(kind).find(&image.identifier).is_none() {
                return Ok(Brought::Vanished);
            }
            let (Some(read), Some((room, asked))) = (self.wanted_image(local), asked) else {
                self.mark_unwanted(kind, &image.identifier).await?;
                self.collect(kind, &image.identifier).await?;
                return Ok(Brought::Unwanted);
            };
            if read.common.acl.owner != asked.common.acl.owner {
                // The room is the owner's of then.
                continue;
            }
            match self.image_available(&read, image, room.as_ref()).await {
                Ok(()) => return Ok(Brought::Kept),
                Err(Error::Document(error)) if error.is_conflict() => {
                    room.is_lost(&error).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Imports into a store, showing how far it is; none if the document wants it no more.
    pub(super) async fn import_shown(
        &self,
        store: &ImageStore,
        (source, expected): (Source, Expected),
        limits: import::Limits,
        transfer: &Transfer,
    ) -> Result<Option<Imported>, Error> {
        let (local, begun) = (transfer.local(), Instant::now());
        let (sender, progress) = watch::channel(Progress::default());
        let known_bytes = expected.bytes;
        let import = store.import(source, expected, limits, &sender);
        let mut import = std::pin::pin!(import);
        let mut ticks = tokio::time::interval_at(
            tokio::time::Instant::now() + PROGRESS_PERIOD,
            PROGRESS_PERIOD,
        );
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let imported = loop {
            tokio::select! {
                biased;
                () = transfer.changed() => if !self.is_wanted(local) {
                    return Ok(None);
                },
                imported = &mut import => break imported,
                _ = ticks.tick() => {
                    let now = *progress.borrow();
                    if let Some(percent) = percent(now, known_bytes) {
                        self.image_progress(local, transfer.of_all(percent)).await;
                    }
                }
            }
        };
        let outcome = if imported.is_ok() { "done" } else { "failed" };
        metrics::counter!("storage_imports_total", "outcome" => outcome).increment(1);
        metrics::counter!("storage_import_bytes_total").increment(progress.borrow().bytes_read);
        metrics::histogram!("storage_import_seconds").record(begun.elapsed().as_secs_f64());
        imported.map(Some)
    }

    async fn room_for(&self, read: &Image, image: &import::Image) -> Result<Box<dyn Room>, Error> {
        let mut asked = 1;
        loop {
            match self.0.settings.rooms.room(read, image.virtual_bytes).await {
                Ok(room) => return Ok(room),
                Err(NoRoom::Exceeded(reason)) => return Err(Error::Quota(reason)),
                // What was uploaded doesn't come another time by itself.
                Err(NoRoom::NotNow(error)) if read.desired.source == ImageSource::Upload => {
                    if asked == ASKED_AT_MOST {
                        return Err(Error::RoomUnknown(Arc::new(error)));
                    }
                }
                Err(NoRoom::NotNow(error)) => return Err(error.into()),
            }
            asked += 1;
            tokio::time::sleep(ASKED_AGAIN_AFTER).await;
        }
    }

    /// The import failed for good: the document tells why.
    pub(super) async fn give_up(&self, local: &str, reason: &str) -> Result<Next, Error> {
        loop {
            let Some(read) = self.0.documents.images.get(local) else {
                return Ok(Next::Settled);
            };
            if read.state != ImageState::Creating || read.desired.deleted {
                return Ok(Next::Settled);
            }
            match self.image_failed(&read, reason).await {
                Err(Error::Document(error)) if error.is_conflict() => {}
                other => return other,
            }
        }
    }

    pub(super) fn is_wanted(&self, local: &str) -> bool {
        self.wanted_image(local).is_some()
    }

    /// An image whose content is still to come.
    pub(super) fn wanted_image(&self, local: &str) -> Option<Arc<Cached<Image>>> {
        let image = self.0.documents.images.get(local);
        image.filter(|image| image.is_on_its_way())
    }

    /// The store believes its memory; a file that somebody took away must be fetched again.
    pub(super) async fn forget_if_lost(
        &self,
        kind: Kind,
        identifier: &ImageIdentifier,
    ) -> Result<(), Error> {
        let store = self.store(kind);
        if let Some(image) = store.find(identifier)
            && is_missing(&image.path).await?
        {
            tracing::warn!(%identifier, path = %image.path.display(), "the file of a cached image is gone");
            store.delete(identifier).await?;
        }
        Ok(())
    }

    /// The limits of an import that begins now: what the cache may still take.
    fn limits_now(&self) -> Result<import::Limits, Error> {
        let mut limits = self.0.settings.limits;
        if let Some(most) = self.0.settings.cache_bytes {
            let images = Kind::ALL
                .into_iter()
                .flat_map(|kind| self.store(kind).list());
            let kept: u64 = images
                .map(|image| image.kept().0)
                .fold(0, u64::saturating_add);
            let left = most.saturating_sub(kept);
            if left == 0 {
                return Err(Error::TooLarge {
                    what: IMAGE_CACHE,
                    limit_bytes: most,
                });
            }
            limits.max_image_bytes = limits.max_image_bytes.min(left);
        }
        Ok(limits)
    }
}

/// Whether there is no such file.
pub(super) async fn is_missing(path: &std::path::Path) -> Result<bool, Error> {
    match tokio::fs::metadata(path).await {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(Error::io("examine", path)(error)),
    }
}

/// Percent done, as far as anybody can know; 0 and 100 mean "not begun" and "done".
fn percent(progress: Progress, known_bytes: Option<u64>) -> Option<u8> {
    let (done, all) = match (progress.total, known_bytes) {
        (Some(total), _) => (progress.bytes_read, total),
        (None, Some(bytes)) => (progress.bytes_written, bytes),
        (None, None) => return None,
    };
    let percent = u128::from(done) * 100 / u128::from(all.max(1));
    Some(u8::try_from(percent.clamp(1, 99)).unwrap_or(99))
}
