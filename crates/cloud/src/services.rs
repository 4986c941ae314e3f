//! What the rules need of the controllers beside documents: things that are streams, not state.

use std::{io, sync::Arc};

use async_trait::async_trait;
use cimi::{
    HostId, MachineId, Timestamp,
    resources::{Image, Machine, VolumeUse},
};
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
};
use tokio_util::sync::CancellationToken;
use trust::TargetRequest;

use crate::{
    ByteStream, Check, CloudError, Console, ConsoleRange, Download, DownloadRequest, Result, Upload,
};

/// What is metered.
#[derive(Clone, Copy, Debug)]
pub enum Metered<'a> {
    /// A machine.
    Machine(&'a MachineId),
    /// A host.
    Host(&'a HostId),
}

/// The values of a meter.
#[derive(Clone, Debug, Default)]
pub struct MeterReading {
    /// What it measures: `cpu`, `diskRead`, ….
    pub aspect: &'static str,
    /// What its values count.
    pub units: &'static str,
    /// Seconds between two samples.
    pub interval_seconds: u64,
    /// Values with the end of the time they are the mean of, oldest first.
    pub samples: Vec<(Timestamp, f64)>,
}

/// What a VM host offers beside its documents.
#[async_trait]
pub trait HostServices: Send + Sync {
    /// The serial console of one of its machines.
    async fn console(&self, machine: &MachineId, range: ConsoleRange) -> Result<Console>;

    /// What is there without belonging to a document, and what a document has that isn't there. With `repair` the
    /// former is removed.
    async fn doctor(&self, repair: bool) -> Result<Vec<Value>>;

    /// What a machine or a host used lately, as far as this daemon has measured it. Fast; never waits.
    fn meters_here(&self, _of: Metered<'_>) -> Vec<MeterReading> {
        Vec::new()
    }

    /// The same, also where another host has measured it.
    async fn meters(&self, of: Metered<'_>) -> Result<Vec<MeterReading>> {
        Ok(self.meters_here(of))
    }

    /// What an operator should know at a glance. Fast; never waits.
    fn checks(&self) -> Vec<Check>;
}

/// Where the content of an image goes that a client sends, and comes from that one asks for; and where images are found by name.
#[async_trait]
pub trait ImageIntake: Send + Sync {
    /// Takes the content, checks it and caches it; writes the outcome to the image's document.
    async fn take(&self, image: Arc<Image>, upload: Upload) -> Result<()>;

    /// The content of an image that is there. Its tag is left empty.
    async fn open(&self, image: Arc<Image>, request: DownloadRequest) -> Result<Download>;

    /// Whether there are Marketplaces to look identifiers up in.
    fn has_marketplaces(&self) -> bool {
        false
    }

    /// Whether a URL is the address of an entry or a tag of one of them.
    fn is_of_marketplace(&self, _url: &str) -> bool {
        false
    }

    /// Why no Marketplace has an entry under an identifier that this cloud may use; nothing if one has, or they can't be asked now.
    /// Takes seconds at most.
    async fn why_no_entry(&self, _identifier: &str) -> Option<String> {
        None
    }

    /// Why the entry of this endorser, and of this time if one is given, is none that this cloud goes by for an image; nothing if it is
    /// one. Takes seconds at most.
    async fn why_other_entry(
        &self,
        identifier: &str,
        _email: &str,
        _created: Option<&str>,
    ) -> Option<String> {
        Some(format!("nobody can be asked for the entry of {identifier}"))
    }

    /// The identifier of the image that an endorser's tag leads to now. Takes seconds at most. [`CloudError::Unavailable`] if no
    /// Marketplace that might know it can be asked.
    async fn tagged(&self, email: &str, tag: &str) -> Result<String> {
        Err(CloudError::Unavailable(format!(
            "nobody can be asked for the tag `{tag}` of {email}"
        )))
    }

    /// The address of a Marketplace's entry that a URL leads to by redirects; none if it leads elsewhere, or nobody can say now. Takes
    /// seconds at most.
    async fn entry_behind(&self, _url: &str) -> Option<String> {
        None
    }

    /// Has the Marketplaces asked whether a cached image of theirs may still be used, if that was not done lately; whether its
    /// document may say something else now. Takes seconds at most.
    async fn look_again(&self, _image: &Image) -> bool {
        false
    }

    /// The catalogues: `name`, `url`, `kind`, `trust`; of Marketplaces also `own`, which is true of this cloud's.
    async fn catalogues(&self) -> Result<Vec<Value>> {
        Ok(Vec::new())
    }

    /// The products of a catalogue: `name`, `aliases`, `title`, `architecture`, `versions`. From memory if it was read lately.
    async fn catalogue(&self, name: &str) -> Result<Vec<Value>> {
        Err(CloudError::not_found(format!("catalogue `{name}`")))
    }

    /// What a product of a catalogue leads to. [`CloudError::Unavailable`] if the catalogue can't be read.
    async fn resolve(
        &self,
        catalogue: &str,
        _product: &str,
        _version: Option<&str>,
    ) -> Result<Resolved> {
        Err(CloudError::invalid(
            "imageLocation",
            format!("names the catalogue `{catalogue}`, which this cloud does not have"),
        ))
    }
}

/// A product of a catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Its full name.
    pub product: String,
    /// The version that was asked for; of none, the newest.
    pub version: String,
    /// Why the catalogue can't say it now, and what it said before is gone by.
    pub outdated: Option<String>,
}

/// What is read and written.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// Leads what a host says to a program of this computer and back, until either has ended; ends both when it is dropped.
pub type Relay = Box<dyn FnOnce(UnixStream) -> BoxFuture<'static, io::Result<()>> + Send>;

/// Where hosts that have joined get the volumes of their machines.
#[async_trait]
pub trait VolumesOfHosts: Send + Sync {
    /// Shows a volume to this host, for this attachment, in NBD by `relay`, until either end ends it, `until` is cancelled, or it is
    /// to have it no more. A host that doesn't get it hears nothing. When this returns, nobody writes it for the host: it is to be
    /// driven to its end.
    async fn serve(&self, host: &HostId, of: &VolumeUse, relay: Relay, until: &CancellationToken);

    /// Shows a volume to this host by iSCSI, as the request that has come on `stream` asks for, and tells it there where; until
    /// either end ends it, `until` is cancelled, or it is to have it no more. A host that doesn't get it hears nothing. When this
    /// returns, nobody writes it for the host: it is to be driven to its end.
    async fn show_target(
        &self,
        host: &HostId,
        asked: &TargetRequest,
        stream: &mut dyn Duplex,
        until: &CancellationToken,
    );
}

/// Where hosts that have joined get the files of machines that come to them.
#[async_trait]
pub trait FilesOfMachines: Send + Sync {
    /// The files of a machine that has left its host, packed.
    ///
    /// # Errors
    /// [`CloudError::Unavailable`] if that host can't be asked.
    async fn files(&self, machine: &Machine) -> Result<ByteStream>;
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

    fn meters_here(&self, _of: Metered<'_>) -> Vec<MeterReading> {
        vec![MeterReading {
            aspect: "cpu",
            units: "percent of one CPU",
            interval_seconds: 10,
            samples: vec![(Timestamp::from_millis(0), 50.0)],
        }]
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

#[async_trait]
impl FilesOfMachines for NoServices {
    async fn files(&self, machine: &Machine) -> Result<ByteStream> {
        Err(CloudError::Unavailable(format!(
            "nobody has the files of {}",
            machine.id
        )))
    }
}

#[async_trait]
impl VolumesOfHosts for NoServices {
    async fn serve(
        &self,
        _host: &HostId,
        _of: &VolumeUse,
        _relay: Relay,
        _until: &CancellationToken,
    ) {
    }

    async fn show_target(
        &self,
        _host: &HostId,
        _asked: &TargetRequest,
        _stream: &mut dyn Duplex,
        _until: &CancellationToken,
    ) {
    }
}
