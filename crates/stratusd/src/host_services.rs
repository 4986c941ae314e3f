//! What the rules ask of this host beside documents: consoles, what is really there, and to take content that is sent.

use std::{io, sync::Arc};

use async_trait::async_trait;
use cimi::{
    HostId, MachineId,
    resources::{EventSeverity, Host, Image, Machine, VolumeUse},
};
use cloud::{
    ByteStream, Check, CloudError, Console, ConsoleRange, Download, DownloadRequest, Duplex,
    FilesOfMachines, HostServices, ImageIntake, MeterReading, Metered, Relay, Resolved, Upload,
    VolumesOfHosts,
};
use documents::Documents;
use doors::CrossingEnd;
use futures::{FutureExt as _, future::BoxFuture};
use serde::Serialize;
use serde_json::{Value, json};
use storage::{
    Error as StorageError,
    controller::{ExportFormat, StorageController},
    exports::{User, VolumeServer, WhyTarget},
    import::Redirects,
    registry::{Catalogue, Found, LookupError, Registries},
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;
use trust::{Asking, CrossingRequest, HERE, MET, TargetAnswer, TargetRequest, VolumeTarget};
use vmhost::{
    controller::{Channel, MachineFiles, VmHost, WayEnd},
    moving::Packed,
};

use crate::{
    asking_hosts::{Elsewhere, Question},
    keeper::Keeper,
    own_host,
};

/// What may be on its way between this host and the door for hosts.
const CHANNEL_BYTES: usize = 1 << 20;

/// The controllers of this process, as the rules see them.
#[derive(Clone)]
pub struct LocalHost {
    /// All documents.
    pub documents: Documents,
    /// Who runs machines here, if anybody does.
    pub machines: Option<VmHost>,
    /// Who keeps images and volumes here, if anybody does.
    pub storage: Option<StorageController>,
    /// Whether volumes are to be used by iSCSI elsewhere.
    pub shares_by_iscsi: bool,
    /// The hosts that have joined.
    pub elsewhere: Elsewhere,
    /// Who keeps images and volumes, if it isn't this daemon.
    pub keeper: Keeper,
    /// Where images are found by name, if users are served here or images kept.
    pub names: Option<Names>,
    /// Where users reach this cloud, as entries of saved images say.
    pub base_url: String,
}

/// Where images are found by name.
#[derive(Clone)]
pub struct Names {
    /// Marketplaces and catalogues, with the site's policy.
    pub registries: Registries,
    /// What follows short URLs.
    pub redirects: Redirects,
}

#[async_trait]
impl HostServices for LocalHost {
    async fn console(&self, machine: &MachineId, range: ConsoleRange) -> cloud::Result<Console> {
        match self.place_of(machine) {
            Place::Elsewhere(host) => self.elsewhere.console(&host, machine, range).await,
            Place::Here(host) => own_host::console((host, &self.documents), machine, range).await,
            Place::Nowhere => Err(CloudError::Unavailable(format!(
                "the host of {machine} can't be reached from here"
            ))),
        }
    }

    async fn doctor(&self, repair: bool) -> cloud::Result<Vec<Value>> {
        let mut findings = Vec::new();
        if let Some(host) = &self.machines {
            findings.extend(values(&host.audit(repair).await)?);
        }
        if let Some(storage) = &self.storage {
            let found = if repair {
                storage.repair().await
            } else {
                storage.audit().await
            };
            findings.extend(values(&found.map_err(|error| told(&error))?)?);
        }
        findings.extend(self.elsewhere.findings().await);
        if self.shares_by_iscsi {
            let hosts = self.documents.hosts.all();
            findings.extend(hosts.iter().filter_map(|host| without_iscsi(host)));
        }
        Ok(findings)
    }

    fn meters_here(&self, of: Metered<'_>) -> Vec<MeterReading> {
        let Some(host) = &self.machines else {
            return Vec::new();
        };
        let readings = match of {
            Metered::Machine(machine) => host.meters(machine.local()),
            Metered::Host(id) if id == host.host() => host.host_meters(),
            Metered::Host(_) => Vec::new(),
        };
        readings.into_iter().map(own_host::reading).collect()
    }

    async fn meters(&self, of: Metered<'_>) -> cloud::Result<Vec<MeterReading>> {
        let (host, question) = match of {
            Metered::Machine(machine) => match self.place_of(machine) {
                Place::Elsewhere(host) => (host, Question::MetersOf(machine.clone())),
                Place::Here(_) | Place::Nowhere => return Ok(self.meters_here(of)),
            },
            Metered::Host(id) if self.is_elsewhere(id) => (id.clone(), Question::Meters),
            Metered::Host(_) => return Ok(self.meters_here(of)),
        };
        self.elsewhere.meters(&host, question).await
    }

    fn checks(&self) -> Vec<Check> {
        let checks = self
            .machines
            .as_ref()
            .map(VmHost::checks)
            .unwrap_or_default();
        // Without any of the networks that machines need, none starts.
        let no_network = !checks.iter().any(|check| check.needed && check.ok);
        let told = |check: vmhost::controller::Check| Check {
            vital: no_network && check.needed,
            name: check.name.into(),
            ok: check.ok,
            detail: check.detail,
        };
        checks.into_iter().map(told).collect()
    }
}

/// That a host uses volumes in NBD though they are to be used by iSCSI. No trouble of the host's: it runs machines all the same.
fn without_iscsi(host: &Host) -> Option<Value> {
    let lacks = host.has_joined() && host.runs_machines() && !host.has_feature(Host::ISCSI);
    lacks.then(|| {
        json!({
            "kind": "host",
            "what": host.common.name.as_deref().unwrap_or(host.id.local()),
            "detail": "its QEMU has no iSCSI driver, or its stratusd is older: its machines use volumes in NBD, though `storage.share` is iscsi",
            "repair": "install the driver there (Debian: qemu-block-extra), and start its stratusd anew",
            "severity": EventSeverity::Medium,
            "host": host.id.to_string(),
        })
    })
}

#[async_trait]
impl ImageIntake for LocalHost {
    async fn take(&self, image: Arc<Image>, upload: Upload) -> cloud::Result<()> {
        let Some(storage) = &self.storage else {
            return self.keeper.take(&image, upload).await;
        };
        storage
            .take(&image, upload.length, upload.content)
            .await
            .map_err(|error| told(&error))
    }

    async fn open(&self, image: Arc<Image>, request: DownloadRequest) -> cloud::Result<Download> {
        let Some(storage) = &self.storage else {
            return self.keeper.open(&image, request).await;
        };
        let format: Option<ExportFormat> = request
            .format
            .map(|format| format.parse())
            .transpose()
            .map_err(|error: StorageError| CloudError::invalid("format", error.to_string()))?;
        let export = storage
            .export(&image, format, request.part)
            .await
            .map_err(|error| told(&error))?;
        Ok(Download {
            format: export.format.as_str(),
            length: export.length,
            part: export.part,
            identifier: export.identifier,
            content: export.content,
            tag: String::new(),
        })
    }

    fn has_marketplaces(&self) -> bool {
        let registries = self.registries();
        registries.is_some_and(|registries| !registries.marketplaces().is_empty())
    }

    fn is_of_marketplace(&self, url: &str) -> bool {
        let registries = self.registries();
        registries.is_some_and(|registries| registries.have_entry_at(url))
    }

    async fn why_no_entry(&self, identifier: &str) -> Option<String> {
        let registries = self.registries()?;
        match registries.look_up_in_time(&identifier.parse().ok()?).await {
            // Of an image that was saved here, or sent here and published: whoever may use that finds the image itself.
            Ok(found) if found.iter().all(|found| self.is_only_here(&found.entry)) => Some(
                "its entry names this cloud as the only place of the image, and here is none that you may use: its owner doesn't share it with you, or has deleted it".to_owned(),
            ),
            Ok(_) | Err(LookupError::Unavailable(_)) => None,
            Err(LookupError::Refused(reason)) => Some(reason),
        }
    }

    async fn why_other_entry(
        &self,
        identifier: &str,
        email: &str,
        created: Option<&str>,
    ) -> Option<String> {
        let (Some(registries), Ok(identifier)) = (self.registries(), identifier.parse()) else {
            return Some("this cloud has no Marketplace to look it up in".to_owned());
        };
        let found = match registries.look_up_in_time(&identifier).await {
            Ok(found) => found,
            Err(error) => return Some(error.to_string()),
        };
        let is_it = |found: &Found| {
            let endorsement = found.entry.endorsement();
            endorsement.email.eq_ignore_ascii_case(email)
                && created.is_none_or(|created| endorsement.created.to_string() == created)
        };
        // All of them are of the same content: whoever endorses it later takes nothing from those before.
        if found.iter().any(is_it) {
            return None;
        }
        // The one that is tried first.
        let found = found.first()?;
        let endorsement = found.entry.endorsement();
        Some(format!(
            "it goes by that of {} of {}, from Marketplace {}",
            endorsement.email, endorsement.created, found.marketplace
        ))
    }

    async fn tagged(&self, email: &str, tag: &str) -> cloud::Result<String> {
        let Some(registries) = self.registries() else {
            return Err(CloudError::Unavailable(
                "nobody looks images up here".to_owned(),
            ));
        };
        let found = registries.tagged(email, tag).await;
        let found = found.map_err(|error| not_found(&error))?;
        Ok(found.entry.metadata().identifier.to_string())
    }

    async fn entry_behind(&self, url: &str) -> Option<String> {
        let names = self.names.as_ref()?;
        names.registries.entry_behind(&names.redirects, url).await
    }

    async fn look_again(&self, image: &Image) -> bool {
        match &self.storage {
            Some(storage) => storage.look_again(image.id.local()).await,
            None => self.keeper.look_again(image).await,
        }
    }

    async fn catalogues(&self) -> cloud::Result<Vec<Value>> {
        let Some(registries) = self.registries() else {
            return Ok(Vec::new());
        };
        let of_marketplaces = registries.marketplaces().iter().map(|marketplace| {
            json!({"name": marketplace.name(), "kind": "marketplace", "url": marketplace.address(), "trust": "endorsers", "own": marketplace.is_here()})
        });
        let of_catalogues = registries.catalogues().iter().map(|catalogue| {
            json!({"name": catalogue.name(), "kind": catalogue.kind(), "url": catalogue.address(), "trust": catalogue.voucher()})
        });
        Ok(of_marketplaces.chain(of_catalogues).collect())
    }

    async fn catalogue(&self, name: &str) -> cloud::Result<Vec<Value>> {
        let catalogue = self
            .known_catalogue(name)
            .ok_or_else(|| self.no_catalogue(name))?;
        let products = catalogue.products().await.map_err(|error| {
            refusal(&error, "name", "is that of a catalogue that can't be used")
        })?;
        values(&products)
    }

    async fn resolve(
        &self,
        catalogue: &str,
        product: &str,
        version: Option<&str>,
    ) -> cloud::Result<Resolved> {
        let known = self.known_catalogue(catalogue).ok_or_else(|| {
            let problem = format!("names the catalogue `{catalogue}`, which this cloud does not have; `stratus image catalogue` shows those it has");
            CloudError::invalid("imageLocation", problem)
        })?;
        let found = known.find(product, version).await;
        let (product, version) = found.map_err(|error| not_found(&error))?;
        Ok(Resolved {
            product: product.name,
            version: version.version,
            outdated: known.why_outdated().await.map(|error| error.to_string()),
        })
    }
}

#[async_trait]
impl FilesOfMachines for LocalHost {
    async fn files(&self, machine: &Machine) -> cloud::Result<ByteStream> {
        match self.place_of(&machine.id) {
            Place::Elsewhere(host) => self.elsewhere.files(&host, &machine.id).await,
            Place::Here(host) => host.files(machine.id.local()).ok_or_else(|| {
                CloudError::Unavailable(format!("{} has not left this host", machine.id))
            }),
            Place::Nowhere => Err(CloudError::Unavailable(format!(
                "the host of {} can't be reached from here",
                machine.id
            ))),
        }
    }
}

/// What asks for a connection between the two hosts of a machine.
pub(crate) fn crossing_request(machine: &Machine, name: &str) -> Result<CrossingRequest, String> {
    let way = machine.desired.moving.as_ref().ok_or("it is not moved")?;
    Ok(CrossingRequest {
        machine: machine.id.clone(),
        way: way.since,
        name: name.to_owned(),
    })
}

/// Waits until an entry says that the other host has come, too.
pub(crate) async fn is_met(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    match stream.read_u8().await? {
        MET => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Makes sure that the other host, which was met there, is still there.
pub(crate) async fn agree(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    end: WayEnd,
) -> io::Result<()> {
    if end == WayEnd::Leaving {
        stream.write_u8(HERE).await?;
        stream.flush().await?;
    }
    if stream.read_u8().await? != HERE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    if end == WayEnd::Coming {
        stream.write_u8(HERE).await?;
        stream.flush().await?;
    }
    Ok(())
}

/// For machines that come to this computer from hosts that have joined, and go there.
impl MachineFiles for Elsewhere {
    fn files<'a>(&'a self, machine: &'a Machine) -> BoxFuture<'a, Result<Packed, String>> {
        async move {
            let host = machine.host.as_ref().ok_or("it is on no host")?;
            let files = self.files(host, &machine.id).await;
            files.map_err(|error| error.to_string())
        }
        .boxed()
    }

    fn channel<'a>(
        &'a self,
        machine: &'a Machine,
        end: WayEnd,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Channel, String>> {
        async move {
            let of = crossing_request(machine, name)?;
            let as_end = match end {
                WayEnd::Leaving => CrossingEnd::Leaving,
                WayEnd::Coming => CrossingEnd::Coming,
            };
            let (mut ours, theirs) = tokio::io::duplex(CHANNEL_BYTES);
            let meetings = self.meetings.clone();
            // Ends with either end of it.
            tokio::spawn(async move { meetings.meet(of, as_end, Box::new(theirs)).await });
            let gone = |_| "another connection took its place".to_owned();
            is_met(&mut ours).await.map_err(gone)?;
            agree(&mut ours, end).await.map_err(gone)?;
            Ok(Box::new(ours) as Channel)
        }
        .boxed()
    }
}

/// Where a machine is.
enum Place<'h> {
    Here(&'h VmHost),
    /// On a host that has joined.
    Elsewhere(HostId),
    Nowhere,
}

impl LocalHost {
    /// Whether all places that an entry names are images of this cloud.
    fn is_only_here(&self, entry: &marketplace::Entry) -> bool {
        let own = format!("{}/cimi/MachineImage/", self.base_url);
        let locations = &entry.metadata().locations;
        !locations.is_empty() && locations.iter().all(|url| url.starts_with(&own))
    }

    fn place_of(&self, machine: &MachineId) -> Place<'_> {
        let read = self.documents.machines.get(machine.local());
        let host = read.and_then(|machine| machine.host.clone());
        match (host.filter(|host| self.is_elsewhere(host)), &self.machines) {
            (Some(host), _) => Place::Elsewhere(host),
            (None, Some(here)) => Place::Here(here),
            (None, None) => Place::Nowhere,
        }
    }

    fn is_elsewhere(&self, host: &HostId) -> bool {
        let known = self.documents.hosts.get(host.local());
        known.is_some_and(|host| host.has_joined())
    }

    fn registries(&self) -> Option<&Registries> {
        self.names.as_ref().map(|names| &names.registries)
    }

    fn known_catalogue(&self, name: &str) -> Option<&Catalogue> {
        self.registries()?.catalogue(name)
    }

    /// Why there is no list of what something has that was asked for as a catalogue.
    fn no_catalogue(&self, name: &str) -> CloudError {
        let marketplaces = self.registries().map_or(&[][..], Registries::marketplaces);
        let named = marketplaces.iter().find(|known| known.name() == name);
        match named.map(|marketplace| marketplace.address()) {
            Some(address) => CloudError::invalid(
                "name",
                format!(
                    "`{name}` is a Marketplace, which is searched rather than listed: `stratus image search --marketplace {address} WORD…`, or open {address} in a browser"
                ),
            ),
            None => CloudError::not_found(format!(
                "catalogue `{name}`; `stratus image catalogue` shows those that this cloud has"
            )),
        }
    }
}

/// Why a name leads to no image.
fn not_found(error: &LookupError) -> CloudError {
    refusal(error, "imageLocation", "leads to no image that can be used")
}

fn refusal(error: &LookupError, path: &str, what: &str) -> CloudError {
    match error {
        LookupError::Unavailable(text) => CloudError::Unavailable(text.clone()),
        LookupError::Refused(text) => CloudError::invalid(path, format!("{what}: {text}")),
    }
}

fn values<F: Serialize>(findings: &[F]) -> cloud::Result<Vec<Value>> {
    findings
        .iter()
        .map(|finding| {
            serde_json::to_value(finding).map_err(|error| CloudError::Internal(error.to_string()))
        })
        .collect()
}

/// An error of storage, by what whoever sent an image can do about it.
fn told(error: &StorageError) -> CloudError {
    let text = error.to_string();
    match error {
        StorageError::NoSpace { .. } | StorageError::Quota(_) => CloudError::Exhausted(text),
        // The disk was filled by something else meanwhile.
        StorageError::Io { .. } if error.is_for_want_of_space() => CloudError::Exhausted(text),
        StorageError::TooLarge { .. } => CloudError::TooLarge(text),
        StorageError::NotFound { .. } => CloudError::not_found(text),
        StorageError::Exists { .. } | StorageError::InUse { .. } => CloudError::Conflict(text),
        StorageError::Cancelled => {
            CloudError::Unavailable("the cloud is being stopped; send it again".to_owned())
        }
        StorageError::Busy { .. } | StorageError::RoomUnknown(_) => CloudError::Unavailable(text),
        StorageError::Invalid { .. } if text.contains("upload") => CloudError::Conflict(text),
        StorageError::Io { .. }
        | StorageError::Tool { .. }
        | StorageError::Document(_)
        | StorageError::Unsupported { .. } => CloudError::Internal(text),
        _ => CloudError::invalid("content", text),
    }
}

/// The volumes that are kept on this computer; none: they are kept elsewhere.
pub(crate) struct VolumesHere(pub(crate) Option<VolumeServer>);

#[async_trait]
impl VolumesOfHosts for VolumesHere {
    async fn serve(&self, host: &HostId, of: &VolumeUse, relay: Relay, until: &CancellationToken) {
        let Some(server) = &self.0 else {
            tracing::debug!(%host, volume = %of.volume, "a host asks for a volume that isn't kept here");
            return;
        };
        let user = User {
            host: host.clone(),
            of: of.clone(),
        };
        server.serve(&user, relay, until).await;
    }

    async fn show_target(
        &self,
        host: &HostId,
        asked: &TargetRequest,
        stream: &mut dyn Duplex,
        until: &CancellationToken,
    ) {
        let TargetRequest(of, asking) = asked;
        let Some(server) = &self.0 else {
            tracing::debug!(%host, volume = %of.volume, "a host asks for a volume that isn't kept here");
            return;
        };
        let user = User {
            host: host.clone(),
            of: of.clone(),
        };
        let why = match asking {
            Asking::Anew => WhyTarget::Anew,
            Asking::Again => WhyTarget::Again,
            Asking::Lost => WhyTarget::Lost,
        };
        let offer = match server.offer(&user, why).await {
            Ok(offer) => offer,
            Err(reason) => {
                tracing::warn!(%host, volume = %of.volume, machine = %of.machine, reason, "a host doesn't get a volume by iSCSI");
                return;
            }
        };
        let answer = TargetAnswer(offer.as_ref().map(|offer| VolumeTarget {
            portal: offer.portal,
            target: offer.target.clone(),
            initiator: offer.initiator.clone(),
            user: offer.user.to_owned(),
            secret: offer.secret.clone(),
        }));
        let speaking = async {
            let answer = answer.to_bytes().ok_or(io::ErrorKind::InvalidData)?;
            stream.write_all(&answer).await?;
            stream.flush().await?;
            // Nothing is said: it ends when the host does, or wants to.
            stream.read_u8().await.map(drop)
        };
        match offer {
            None => {
                let _ = until.run_until_cancelled(speaking).await;
            }
            Some(offer) => {
                let gone = async {
                    let _ = until.run_until_cancelled(speaking).await;
                };
                offer.until(&user, gone).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cimi::{Acl, Common, Timestamp};

    use super::*;

    #[test]
    fn hosts_that_use_no_iscsi_where_it_is_to_be_used_are_told_with_what_to_do() {
        let acl = Acl::owned_by_admin();
        let mut host = Host::newcomer(Common::new(acl, Timestamp::now()));
        host.runs_machines = true;
        assert_eq!(without_iscsi(&host), None, "the cloud's own has the files");
        host.desired.apart = true;
        host.common.name = Some("node7".to_owned());
        let told = without_iscsi(&host).map(|told| told.to_string());
        let told = told.unwrap_or_default();
        assert!(
            told.contains("node7") && told.contains("qemu-block-extra"),
            "{told}"
        );
        host.features.push(Host::ISCSI.to_owned());
        assert_eq!(without_iscsi(&host), None);
    }
}
