//! Images made of the root disks of machines that are off.
//!
//! The disk is merged with the image it stands on into one standalone qcow2, as a stream that goes the way of every
//! import: digested while it is written, examined, whole or not at all. SHA-1, which names it, is all that it waits for; the
//! checksum that proves it to others is made when it is there already (`prove`), before anything is told of it.
//! That of a machine on another host is brought here first (`disk_elsewhere`), as it is: there is one place where disks are merged and
//! cleaned. The disk is only read: should anything go wrong it is as it was. What went wrong for now (no space, say) is tried again, and the machine waits; a machine that was killed has
//! nothing to save any more.

use std::path::PathBuf;
use std::time::Duration;

use cimi::resources::{Capture, Image, MediumFormat};
use documents::Cached;
use store::cache::Changed;
use tokio_util::sync::CancellationToken;

use super::disk_elsewhere::{ASKED_AGAIN_AFTER, Had, Place};
use super::follow::Next;
use super::image_content::Brought;
use super::images::BUSY;
use super::transfer::Transfer;
use super::{StorageController, blocking};
use crate::digest::Expected;
use crate::disk::{self, FlatQcow2, clean};
use crate::error::Error;
use crate::identifier::ImageIdentifier;
use crate::import::Source;
use crate::inspect::Format;

/// The name of a machine's root disk in its folder.
const ROOT_DISK: &str = "root.qcow2";

impl StorageController {
    /// Rings the workers of images that wait for their machines.
    pub(super) async fn follow_machines(&self, shutdown: &CancellationToken) {
        let mut machines = self.0.documents.machines.changes();
        loop {
            let changed = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                changed = machines.next() => changed,
            };
            let of = match &changed {
                // The usual case costs no look at the images.
                Changed::Present(machine) if machine.saved_as.is_none() => continue,
                Changed::Present(_) | Changed::Removed(_) => changed.id(),
                Changed::Unreadable(_) => continue,
            };
            let images = self.0.documents.images.by_index("machine", of);
            for image in images.iter().filter(|image| image.is_on_its_way()) {
                self.0.transfers.ring(image.id.local());
                self.0.look_at_all.notify_one();
            }
        }
    }

    /// Whether the machine is off, so that its disk is what it left.
    pub(super) fn disk_is_left(&self, capture: &Capture) -> bool {
        let machine = self.0.documents.machines.get(capture.machine.local());
        machine.is_some_and(|machine| machine.disk_is_left())
    }

    /// Makes the content of an image from its machine's disk, as soon as the machine is off.
    pub(super) async fn save_machine(
        &self,
        read: &Cached<Image>,
        capture: &Capture,
    ) -> Result<Next, Error> {
        let (local, attempt) = (read.id.local(), read.desired.attempt);
        if let Some(reason) = self.will_never_be_left(capture).await? {
            return self.give_up(local, &reason).await;
        }
        if !self.disk_is_left(capture) {
            return Ok(Next::Settled);
        }
        if let Some(left) = self.0.rests.left(local, attempt) {
            return Ok(Next::Again(left));
        }
        let Some(mut transfer) = self.0.transfers.begin(local) else {
            return Ok(Next::Again(BUSY));
        };
        let brought = match self.place_of_disk(capture) {
            Place::NotKnown(why) => return self.waits_for_host(local, &why).await,
            Place::Gone(why) => return self.give_up(local, &why).await,
            Place::Here => {
                let overlay = self.overlay_here(capture);
                let disk = overlay.as_ref().ok().map(|overlay| overlay.path.clone());
                let brought = self.save_disk(read, capture, overlay, &transfer).await;
                // As one that its host can't read: not for ever.
                if let (Err(error), Some(disk)) = (&brought, disk) {
                    let failed = error.clone();
                    if blocking(move || Ok(failed.is_loss_of(&disk))).await? {
                        let why = format!("{error}: put the machine's root disk back as it was");
                        return self.not_now(local, attempt, true, &why).await;
                    }
                }
                brought
            }
            Place::On(host) => {
                let disk_bytes = self.disk_bytes(capture);
                let had = self.have_disk((capture, &host), disk_bytes, &mut transfer);
                match had.await {
                    Ok(Had::Here(identifier)) => {
                        let overlay = self.overlay_from(&identifier, disk_bytes);
                        let brought = self.save_disk(read, capture, overlay, &transfer).await;
                        self.forget_disk(&identifier).await;
                        brought
                    }
                    Ok(Had::NotNow(why)) => return self.waits_for_host(local, &why).await,
                    // What is broken rarely mends itself: not for ever.
                    Ok(Had::Unreadable(why)) => {
                        return self.not_now(local, attempt, true, &why).await;
                    }
                    Ok(Had::Vanished) => Ok(Brought::Vanished),
                    Ok(Had::Unwanted) => Ok(Brought::Unwanted),
                    Err(error) => Err(error),
                }
            }
        };
        match brought {
            Ok(Brought::Kept | Brought::Unwanted) => {
                self.0.rests.forget(local);
                Ok(Next::Settled)
            }
            Ok(Brought::Vanished) => Ok(Next::Again(Duration::ZERO)),
            Err(error @ (Error::Document(_) | Error::Cancelled)) => Err(error),
            // The machine waits, with its disk.
            Err(
                error @ (Error::NoSpace { .. }
                | Error::Io { .. }
                | Error::TooLarge { .. }
                | Error::NotGiven { .. }),
            ) => {
                if error.is_for_want_of_space() {
                    self.ask_for_space(local).await?;
                }
                if let Some(read) = self.0.documents.images.get(local)
                    && read.is_on_its_way()
                {
                    self.image_reason(&read, &error.to_string()).await?;
                }
                Err(error)
            }
            Err(error) => self.give_up(local, &error.to_string()).await,
        }
    }

    /// Says why the host of a machine isn't asked for its disk now; it is soon.
    async fn waits_for_host(&self, local: &str, why: &str) -> Result<Next, Error> {
        if let Some(read) = self.wanted_image(local) {
            self.image_reason(&read, why).await?;
        }
        Ok(Next::Again(ASKED_AGAIN_AFTER))
    }

    /// Makes the content of an image from a disk that can be read here.
    async fn save_disk(
        &self,
        read: &Cached<Image>,
        capture: &Capture,
        overlay: Result<Overlay, Error>,
        transfer: &Transfer,
    ) -> Result<Brought, Error> {
        let merged = match overlay {
            Ok(overlay) => self.merged(capture, overlay).await,
            Err(error) => Err(error),
        };
        self.checkpoint("save: before the disk is merged").await;
        let disk = merged?;
        // Before anybody can use it, so that whoever goes on after a crash knows it, too.
        if !self.note_uncleaned(read.id.local(), disk.left).await? {
            return Ok(Brought::Unwanted);
        }
        let source = Source::Disk(disk.flat);
        self.bring(&read.document.0, expected(), source, transfer)
            .await
    }

    /// Writes into the document what could not be cleaned. False: the image is wanted no more.
    async fn note_uncleaned(&self, local: &str, left: Vec<String>) -> Result<bool, Error> {
        loop {
            let Some(read) = self.wanted_image(local) else {
                return Ok(false);
            };
            if read.uncleaned == left {
                return Ok(true);
            }
            tracing::warn!(
                image = local,
                left = left.join("; "),
                "a saved image may hold keys and histories of who made it"
            );
            let edit = |image: &mut Image| image.uncleaned.clone_from(&left);
            match self.write_image(&read, edit, None).await {
                Ok(()) => self.checkpoint("save: uncleaned and told").await,
                Err(Error::Document(error)) if error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Why there will be no disk to save.
    async fn will_never_be_left(&self, capture: &Capture) -> Result<Option<String>, Error> {
        let documents = &self.0.documents;
        let local = capture.machine.local();
        let machine = match documents.machines.get(local) {
            Some(read) => Some(read.document.0.clone()),
            None => documents.stored(local).await?,
        };
        Ok(match machine {
            None => Some(format!("{} is gone, and its disk with it", capture.machine)),
            Some(machine) if machine.desired.deleted && !machine.desired.graceful => Some(format!(
                "{} was killed: its changes are lost",
                capture.machine
            )),
            Some(_) => None,
        })
    }

    /// The disk of a machine of this computer.
    fn overlay_here(&self, capture: &Capture) -> Result<Overlay, Error> {
        let machines = self.0.settings.machines_dir.as_ref();
        let machines = machines.ok_or_else(|| missing("this host has no machines".to_owned()))?;
        Ok(Overlay {
            path: machines.join(capture.machine.local()).join(ROOT_DISK),
            most_bytes: self.0.settings.limits.size.max_virtual_bytes,
        })
    }

    /// The disk of a machine elsewhere that was brought here. A guest sees no more of it than it was given.
    fn overlay_from(&self, name: &ImageIdentifier, disk_bytes: u64) -> Result<Overlay, Error> {
        let found = self.0.overlays.find(name);
        let found = found.ok_or_else(|| missing("what its host gave is gone".to_owned()))?;
        Ok(Overlay {
            path: found.path.clone(),
            most_bytes: disk_bytes,
        })
    }

    /// How much of its disk the guest of a machine sees at most.
    fn disk_bytes(&self, capture: &Capture) -> u64 {
        let origin = self.0.documents.images.get(capture.origin.local());
        let below = origin.and_then(|image| Some(image.file.as_ref()?.virtual_size.0));
        let given = capture.disk_bytes.map(|bytes| bytes.0);
        let most = self.0.settings.limits.size.max_virtual_bytes;
        below.max(given).map_or(most, |bytes| bytes.min(most))
    }

    /// The disk of a machine on the image it stands on, as one, cleaned.
    async fn merged(&self, capture: &Capture, overlay: Overlay) -> Result<Merged, Error> {
        let origin = self.0.documents.images.get(capture.origin.local());
        let origin = origin
            .as_ref()
            .and_then(|image| image.file.clone())
            .ok_or_else(|| missing(format!("{} has no file", capture.origin)))?;
        let settings = &self.0.settings;
        let (debugfs, dir_of_images) = (settings.debugfs.clone(), settings.dir.clone());
        let reserve_bytes = settings.reserve_bytes;
        let machine = capture.machine.clone();
        blocking(move || {
            let format = match origin.format {
                MediumFormat::Raw => Format::Raw,
                MediumFormat::Qcow2 => Format::Qcow2,
            };
            let below = disk::open(&PathBuf::from(origin.path), format, None)?;
            let merged = disk::open(&overlay.path, Format::Qcow2, Some(below))?;
            if merged.bytes() > overlay.most_bytes {
                return Err(crate::inspect::Refusal::VirtualSize {
                    virtual_bytes: merged.bytes(),
                    limit_bytes: overlay.most_bytes,
                }
                .into());
            }
            let scratch = clean::Scratch {
                dir: &dir_of_images,
                reserve_bytes,
            };
            let cleaned = clean::cleaned(merged, debugfs.as_ref(), scratch)?;
            tracing::info!(%machine, files = cleaned.files, "disk cleaned of keys, histories and logs");
            Ok(Merged {
                flat: FlatQcow2::new(cleaned.disk)?,
                left: cleaned.left,
            })
        })
        .await
    }
}

/// What a machine has written on its image.
struct Overlay {
    path: PathBuf,
    /// The most that a guest may see of it.
    most_bytes: u64,
}

fn missing(what: String) -> Error {
    Error::NotFound {
        kind: "disk to save",
        name: what,
    }
}

/// A disk without what it stands on, and without traces of its builder.
struct Merged {
    flat: FlatQcow2,
    /// What could not be cleaned.
    left: Vec<String>,
}

/// What is known of a merged disk beforehand.
pub(super) fn expected() -> Expected {
    Expected {
        format: Some(Format::Qcow2),
        proven_later: true,
        ..Expected::default()
    }
}
