//! The root disk of a machine on another host, brought here for as long as an image is made of it.
//!
//! What its host gives is a stranger's: of bounded length and pace, kept where nothing but the merging looks, and read by that as any
//! disk that a guest has written. The host keeps its own until the image is there; so nothing is lost with what lies here, and
//! whoever begins anew begins with nothing.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::Duration;

use cimi::HostId;
use cimi::resources::Capture;
use tokio_util::io::StreamReader;

use super::StorageController;
use super::transfer::{Part, Transfer};
use crate::digest::Expected;
use crate::durable;
use crate::elsewhere::{GivenDisk, NoDisk};
use crate::error::Error;
use crate::identifier::ImageIdentifier;
use crate::import::{ImageStore, Limits, Options, Source};

/// How often a host is asked that doesn't answer: it costs nothing.
pub(super) const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(3);
/// What the file of an overlay has beside what the guest has written: tables, and clusters that were given back.
const BESIDE: u64 = 64 << 20;

/// What became of asking for a disk.
pub(super) enum Had {
    /// It is here, by this name in the store of overlays.
    Here(ImageIdentifier),
    /// The host can't be asked now: why.
    NotNow(String),
    /// The host has it and can't read it: a sentence.
    Unreadable(String),
    /// It was here already, for another machine that left the same, and went with that.
    Vanished,
    /// Its image is wanted no more.
    Unwanted,
}

/// Where the disk of a machine that is off is.
pub(super) enum Place {
    /// On this computer.
    Here,
    /// On a host that has joined.
    On(HostId),
    /// That can't be said yet: why.
    NotKnown(String),
    /// Nowhere any more: why.
    Gone(String),
}

/// Opens the store, empty. Only by who has the storage. Blocks.
pub(super) fn open(dir: &Path, options: Options) -> Result<ImageStore, Error> {
    durable::remove(dir)?;
    // Its files hold what users have not cleaned yet.
    DirBuilder::new()
        .mode(0o700)
        .create(dir)
        .map_err(Error::io("create", dir))?;
    ImageStore::open_files(dir, options)
}

/// The most that the file of such a disk may be.
fn most(disk_bytes: u64) -> u64 {
    let tables = disk_bytes / 64;
    disk_bytes.saturating_add(tables).saturating_add(BESIDE)
}

impl StorageController {
    /// Where the disk of a machine is.
    pub(super) fn place_of_disk(&self, capture: &Capture) -> Place {
        let documents = &self.0.documents;
        let Some(machine) = documents.machines.get(capture.machine.local()) else {
            return Place::NotKnown(format!("{} isn't known here just now", capture.machine));
        };
        let Some(host) = &machine.host else {
            return Place::Gone(format!(
                "the host of {} was removed from the cloud, and the machine's disk with it",
                capture.machine
            ));
        };
        match documents.hosts.get(host.local()) {
            Some(known) if known.has_joined() => Place::On(host.clone()),
            Some(_) => Place::Here,
            None => Place::NotKnown(format!("its {host} isn't known here just now")),
        }
    }

    /// Brings the disk of a machine here from its host; a guest sees so many bytes of it.
    pub(super) async fn have_disk(
        &self,
        (capture, host): (&Capture, &HostId),
        disk_bytes: u64,
        transfer: &mut Transfer,
    ) -> Result<Had, Error> {
        let Some(elsewhere) = &self.0.settings.disks_elsewhere else {
            return Ok(Had::NotNow(format!("nobody here reaches {host}")));
        };
        let GivenDisk {
            host,
            length,
            content,
        } = match elsewhere.disk(host, &capture.machine).await {
            Ok(given) => given,
            Err(NoDisk::NotNow(why)) => return Ok(Had::NotNow(why)),
            Err(NoDisk::Unreadable(why)) => return Ok(Had::Unreadable(why)),
        };
        self.checkpoint("save: the host gives the disk").await;
        let most = most(disk_bytes);
        if length > most {
            // Nor is room made for it.
            let reason = format!("{length} bytes are more than such a disk can be ({most})");
            return Err(Error::NotGiven { host, reason });
        }
        let expected = Expected {
            bytes: Some(length),
            proven_later: true,
            ..Expected::default()
        };
        let source = Source::Stream {
            reader: Box::new(StreamReader::new(content)),
            length: Some(length),
        };
        let limits = Limits {
            max_source_bytes: most,
            max_image_bytes: most,
            ..self.0.settings.limits
        };
        transfer.part = Part::FIRST;
        let store = &self.0.overlays;
        let had = self.import_shown(store, (source, expected), limits, transfer);
        let had = match had.await {
            Ok(None) => Had::Unwanted,
            Ok(Some(imported)) => self.use_disk(imported.image.identifier).await,
            Err(
                error @ (Error::NoSpace { .. }
                | Error::Io { .. }
                | Error::Document(_)
                | Error::Cancelled),
            ) => return Err(error),
            // Whatever it is, the disk is still there.
            Err(error) => {
                if let Some(why) = unreadable(&error) {
                    return Ok(Had::Unreadable(why));
                }
                let reason = error.to_string();
                return Err(Error::NotGiven { host, reason });
            }
        };
        transfer.part = Part::SECOND;
        self.checkpoint("save: the disk is here").await;
        Ok(had)
    }

    /// Notes that what was brought here is needed until it is forgotten.
    async fn use_disk(&self, identifier: ImageIdentifier) -> Had {
        let mut used = self.0.overlays_used.lock().await;
        if self.0.overlays.find(&identifier).is_none() {
            return Had::Vanished;
        }
        used.push(identifier);
        Had::Here(identifier)
    }

    /// Removes what was brought here, unless another machine left the same, and needs it still. What stays goes at the next start.
    pub(super) async fn forget_disk(&self, identifier: &ImageIdentifier) {
        // Held until it is removed: nobody begins to need it meanwhile.
        let mut used = self.0.overlays_used.lock().await;
        if let Some(place) = used.iter().position(|one| one == identifier) {
            used.swap_remove(place);
        }
        if used.contains(identifier) {
            return;
        }
        if let Err(error) = self.0.overlays.delete(identifier).await {
            tracing::warn!(%error, "the disk of a machine on another host, of which an image was made, stays here for now");
        }
    }
}

/// What a host says that broke off because it can't read its disk.
fn unreadable(error: &Error) -> Option<String> {
    let Error::Source { source, .. } = error else {
        return None;
    };
    match source.get_ref()?.downcast_ref()? {
        NoDisk::Unreadable(why) => Some(why.clone()),
        NoDisk::NotNow(_) => None,
    }
}
