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
use crate::elsewhere::GivenDisk;
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
    /// Its image is wanted no more.
    Unwanted,
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
    /// The host of a machine, if that has joined: it has the machine's disk.
    pub(super) fn host_elsewhere(&self, capture: &Capture) -> Option<HostId> {
        let documents = &self.0.documents;
        let machine = documents.machines.get(capture.machine.local())?;
        let host = machine.host.clone()?;
        let known = documents.hosts.get(host.local())?;
        known.has_joined().then_some(host)
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
            Err(why) => return Ok(Had::NotNow(why)),
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
            Ok(Some(imported)) => Had::Here(imported.image.identifier),
            Err(
                error @ (Error::NoSpace { .. }
                | Error::Io { .. }
                | Error::Document(_)
                | Error::Cancelled),
            ) => return Err(error),
            // Whatever it is, the disk is still there.
            Err(error) => {
                let reason = error.to_string();
                return Err(Error::NotGiven { host, reason });
            }
        };
        transfer.part = Part::SECOND;
        self.checkpoint("save: the disk is here").await;
        Ok(had)
    }

    /// Removes what was brought here. What stays goes at the next start.
    pub(super) async fn forget_disk(&self, identifier: &ImageIdentifier) {
        if let Err(error) = self.0.overlays.delete(identifier).await {
            tracing::warn!(%error, "the disk of a machine on another host, of which an image was made, stays here for now");
        }
    }
}
