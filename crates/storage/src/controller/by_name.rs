//! Images that are fetched: found by a name (the identifier of a Marketplace's entry, a product of a catalogue, a volume), or at
//! the URL that somebody gave.
//!
//! ```text
//! find ──▶ places, and what the content must be ──▶ one place after the other ──▶ AVAILABLE
//!   └── not now ──▶ reason, rest, again                  └── none works: rest, or ERROR if it is the content's fault
//! ```

use cimi::Timestamp;
use cimi::resources::{Image, ImageOrigin, ImageSource};
use cimi::uri::plain;
use documents::Cached;
use marketplace::policy::check_host;

use super::StorageController;
use super::follow::Next;
use super::image_content::{Brought, PROGRESS_PERIOD};
use super::image_document::expected;
use super::transfer::Transfer;
use crate::backend::{Backend as _, Location, VolumeId};
use crate::decompress::{Compression, Packing};
use crate::digest::{Expected, ExpectedSource};
use crate::error::Error;
use crate::foreign::ForeignFormat;
use crate::import::{Fetcher, Source};
use crate::inspect::Format;
use crate::registry::{Found, LookupError};

/// Places that are tried of one entry.
const MOST_PLACES: usize = 16;
/// Places that are tried of all entries together: each has its share, so that none has others not tried.
const MOST_TRIES: usize = 128;
/// The longest entry that is kept, and so used: it is judged again later.
const MOST_ENTRY_BYTES: usize = 128 << 10;
/// Texts of strangers are cut to so many characters.
const MOST_TITLE: usize = 200;
const MOST_REASON: usize = 2000;

/// What was found under a name.
pub(super) struct Wanted {
    /// What is written down of it; nothing of what somebody gave the place of.
    pub(super) origin: Option<ImageOrigin>,
    /// Properties that the image gets: what is known of its content.
    properties: Vec<(&'static str, String)>,
    /// What the content must be.
    expected: Expected,
    /// Where it may be, to be tried in this order.
    places: Vec<Place>,
    /// Places that can't be tried, each with the reason.
    unusable: Vec<String>,
}

enum Place {
    Url { url: String, fetcher: Fetcher },
    Volume(VolumeId),
}

/// Whose fault a failed import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// The content is not what it must be; it will not change.
    Content,
    /// The place doesn't give it now.
    Place,
    /// This host can't take it now: no other place helps.
    Host,
}

impl Fault {
    fn of(error: &Error, source: &ImageSource) -> Self {
        match error {
            error if error.is_for_want_of_space() => Self::Host,
            Error::Io { .. } | Error::InUse { .. } | Error::Busy { .. } => Self::Host,
            // A new entry may name another place, and what it names may come there; what somebody gave stays as it is.
            Error::Url { .. } if !matches!(source, ImageSource::Url { .. }) => Self::Place,
            Error::Server { .. }
            | Error::Changed { .. }
            | Error::BrokeOff { .. }
            | Error::Source { .. }
            | Error::Stalled { .. }
            | Error::TooSlow { .. }
            | Error::TooLong { .. }
            | Error::NotFound { .. } => Self::Place,
            _ => Self::Content,
        }
    }
}

impl StorageController {
    /// Finds an image and brings it in; later again if that can't be done now.
    pub(super) async fn fetch(&self, read: &Cached<Image>) -> Result<Next, Error> {
        let (local, attempt) = (read.id.local(), read.desired.attempt);
        if let Some(left) = self.0.rests.left(local, attempt) {
            return Ok(Next::Again(left));
        }
        let Some(transfer) = self.0.transfers.begin(local) else {
            return Ok(Next::Again(PROGRESS_PERIOD));
        };
        let found = tokio::select! {
            found = self.find(&read.document.0) => found,
            () = self.unwanted(local, &transfer) => return Ok(Next::Settled),
        };
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                let tries_help = error.is_temporary();
                return self
                    .not_now(local, attempt, tries_help, &error.to_string())
                    .await;
            }
        };
        let mut reasons = Vec::new();
        let mut worst = Fault::Content;
        let mut no_space = false;
        'found: for wanted in found {
            self.write_origin(local, &wanted).await?;
            self.checkpoint("image: found, not fetched").await;
            reasons.extend(wanted.unusable);
            for place in wanted.places {
                let (name, brought) = self
                    .bring_from(&read.document.0, &wanted.expected, place, &transfer)
                    .await;
                match brought {
                    Ok(Brought::Kept) => {
                        self.0.rests.forget(local);
                        return Ok(Next::Settled);
                    }
                    Ok(Brought::Unwanted) => return Ok(Next::Settled),
                    Ok(Brought::Vanished) => return Ok(Next::Again(std::time::Duration::ZERO)),
                    Err(error @ (Error::Document(_) | Error::Cancelled)) => return Err(error),
                    // The same from any place, and not to be tried again until somebody has removed something.
                    Err(Error::Quota(reason)) => {
                        self.0.rests.forget(local);
                        return self.give_up(local, &reason).await;
                    }
                    Err(error) => {
                        tracing::info!(image = %read.id, from = name, %error, "the image did not come");
                        let fault = Fault::of(&error, &read.desired.source);
                        no_space |= error.is_for_want_of_space();
                        worst = worst.max(fault);
                        let text = error.to_string();
                        reasons.push(if text.contains(&name) {
                            text
                        } else {
                            format!("{name}: {text}")
                        });
                        if fault == Fault::Host {
                            break 'found;
                        }
                    }
                }
            }
        }
        if reasons.is_empty() {
            reasons.push("its entry names no place where it could be fetched".to_owned());
        }
        if worst == Fault::Host && no_space {
            self.ask_for_space(local).await?;
        }
        self.not_now(local, attempt, worst > Fault::Content, &reasons.join("; "))
            .await
    }

    /// Has images go that nobody needs.
    pub(super) async fn ask_for_space(&self, local: &str) -> Result<(), Error> {
        let asked = |image: &mut Image| Ok(!std::mem::replace(&mut image.needs_space, true));
        self.0
            .documents
            .update::<Image, documents::DocumentsError>(local, asked)
            .await?;
        Ok(())
    }

    /// Brings an image from one place, and says what that place is called.
    async fn bring_from(
        &self,
        image: &Image,
        expected: &Expected,
        place: Place,
        transfer: &Transfer,
    ) -> (String, Result<Brought, Error>) {
        match place {
            Place::Url { url, fetcher } => {
                let name = plain(&url);
                let source = Source::Url { url, fetcher };
                let brought = self.bring(image, expected.clone(), source, transfer).await;
                (name, brought)
            }
            Place::Volume(volume) => {
                let brought = self.copy_volume(image, expected, volume, transfer).await;
                (format!("Volume/{volume}"), brought)
            }
        }
    }

    /// Ends when nobody wants the image any more.
    async fn unwanted(&self, local: &str, transfer: &Transfer) {
        while self.is_wanted(local) {
            transfer.changed().await;
        }
    }

    /// Tells why an image isn't there yet, and when it is tried again; or that it never will be.
    pub(super) async fn not_now(
        &self,
        local: &str,
        attempt: u64,
        tries_help: bool,
        reason: &str,
    ) -> Result<Next, Error> {
        let reason: String = reason.chars().take(MOST_REASON).collect();
        if !tries_help {
            self.0.rests.forget(local);
            return self.give_up(local, &reason).await;
        }
        let settings = &self.0.settings;
        let (failures, pause) = self.0.rests.failed(local, attempt, settings.fetch_pause);
        if failures >= settings.fetch_tries {
            self.0.rests.forget(local);
            let reason = format!("{reason}; given up after {failures} tries");
            return self.give_up(local, &reason).await;
        }
        tracing::warn!(
            image = local,
            reason,
            "the image can't be fetched now; again in {} s",
            pause.as_secs()
        );
        let reason = format!("{reason}; it is tried again");
        let told = self
            .0
            .documents
            .update::<Image, documents::DocumentsError>(local, |image| {
                let changes = image.reason.as_deref() != Some(&reason);
                image.reason = Some(reason.clone());
                Ok(changes)
            })
            .await;
        match told {
            Ok(_) | Err(documents::DocumentsError::Absent { .. }) => Ok(Next::Again(pause)),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes down what was found, before anything is fetched.
    async fn write_origin(&self, local: &str, wanted: &Wanted) -> Result<(), Error> {
        let origin = &wanted.origin;
        self.0
            .documents
            .update::<Image, documents::DocumentsError>(local, |image| {
                let of = |origin: &ImageOrigin| {
                    let ImageOrigin {
                        found_in,
                        entry,
                        version,
                        ..
                    } = origin.clone();
                    (found_in, entry, version)
                };
                let is_known = image.provenance.as_ref().map(of) == origin.as_ref().map(of);
                if !is_known {
                    image.provenance.clone_from(origin);
                }
                if let Some(origin) = origin
                    && image.common.name.is_none()
                {
                    image.common.name.clone_from(&origin.title);
                }
                for (name, value) in &wanted.properties {
                    let properties = &mut image.common.properties;
                    if !is_known && !properties.contains_key(*name) {
                        properties.insert((*name).to_owned(), value.clone());
                    }
                }
                let had_reason = image.reason.take().is_some();
                let had_no_space = std::mem::take(&mut image.needs_space);
                Ok(!is_known || had_reason || had_no_space)
            })
            .await?;
        Ok(())
    }

    /// What is to be tried, one after the other: of each endorser whose entry counts, or the only thing there is.
    async fn find(&self, image: &Image) -> Result<Vec<Wanted>, LookupError> {
        let refused = |error: Error| LookupError::Refused(error.to_string());
        match &image.desired.source {
            ImageSource::Marketplace => {
                let known = expected(&image.desired.expected).map_err(refused)?;
                let identifier = known.known_identifier().ok_or_else(|| {
                    LookupError::Refused("it has no identifier to be looked up by".to_owned())
                })?;
                let found = self.0.settings.registries.look_up(&identifier).await?;
                self.of_entries(&found)
            }
            ImageSource::Url { url } => Ok(vec![Wanted {
                origin: None,
                properties: Vec::new(),
                expected: expected(&image.desired.expected).map_err(refused)?,
                places: vec![Place::Url {
                    url: url.clone(),
                    fetcher: self.0.settings.fetcher.clone(),
                }],
                unusable: Vec::new(),
            }]),
            ImageSource::Catalogue {
                catalogue,
                product,
                version,
            } => {
                // It was told that this is no image, or another one: what is tried anew goes by what is said now.
                if image.desired.attempt > 1
                    && let Some(catalogue) = self.0.settings.registries.catalogue(catalogue)
                {
                    catalogue.doubt().await;
                }
                let wanted = self.of_catalogue(catalogue, product, version.as_deref());
                Ok(vec![wanted.await?])
            }
            ImageSource::Volume { volume } => {
                let volume: VolumeId = volume.local().parse().map_err(refused)?;
                Ok(vec![Wanted {
                    origin: Some(origin(format!("Volume/{volume}"))),
                    properties: Vec::new(),
                    expected: Expected {
                        format: Some(Format::Raw),
                        ..Expected::default()
                    },
                    places: vec![Place::Volume(volume)],
                    unusable: Vec::new(),
                }])
            }
            ImageSource::Upload | ImageSource::Machine(_) => {
                Err(LookupError::Refused("it is not fetched".to_owned()))
            }
        }
    }

    /// What verified entries say, those that can be used.
    fn of_entries(&self, found: &[Found]) -> Result<Vec<Wanted>, LookupError> {
        let mut refused = Vec::new();
        let share = (MOST_TRIES / found.len().max(1)).clamp(1, MOST_PLACES);
        if let Some(left) = found.len().checked_sub(MOST_TRIES).filter(|left| *left > 0) {
            refused.push(format!(
                "{left} of {} entries are not tried; if the policy of the site lists endorsers (whitelistendorsers) others don't \
                 count",
                found.len()
            ));
        }
        let tried = found.iter().take(MOST_TRIES);
        let read = tried.filter_map(|found| match self.of_entry(found, share) {
            Ok(wanted) => Some(wanted),
            Err(error) => {
                let email = &found.entry.endorsement().email;
                refused.push(format!("the entry of {email}: {error}"));
                None
            }
        });
        let mut usable: Vec<_> = read.collect();
        match usable.first_mut() {
            Some(first) => first.unusable.splice(0..0, refused).for_each(drop),
            None => return Err(LookupError::Refused(refused.join("; "))),
        }
        Ok(usable)
    }

    /// What a verified entry says.
    fn of_entry(&self, found: &Found, most_places: usize) -> Result<Wanted, LookupError> {
        let metadata = found.entry.metadata();
        let mut places = Vec::new();
        let mut unusable = Vec::new();
        for url in metadata.locations.iter().take(most_places) {
            if let Err(refusal) = check_host(&found.hosts, url) {
                unusable.push(refusal.to_string());
            } else if url.starts_with("http://") || url.starts_with("https://") {
                let fetcher = self.0.settings.fetcher.clone();
                places.push(Place::Url {
                    url: url.clone(),
                    fetcher,
                });
            } else {
                let shown: String = url.chars().take(100).collect();
                unusable.push(format!(
                    "`{}` is no http or https URL",
                    shown.escape_debug()
                ));
            }
        }
        let packing = match metadata.compression.as_deref() {
            // None, or nothing that is said.
            None => Packing::Unknown,
            // One that isn't known is not worth the download.
            Some(text) => {
                let known = text.parse::<Compression>();
                Packing::As(known.map_err(|error| LookupError::Refused(error.to_string()))?)
            }
        };
        if found.entry.document().len() > MOST_ENTRY_BYTES {
            return Err(LookupError::Refused(format!(
                "its entry has more than {MOST_ENTRY_BYTES} bytes"
            )));
        }
        let mut origin = origin(found.marketplace.clone());
        let cut = |text: &String| text.chars().take(MOST_TITLE).collect();
        origin.title = metadata.title.as_ref().map(cut);
        origin.endorser = Some(found.entry.endorsement().email.clone());
        origin.version = metadata.version.as_ref().map(cut);
        origin.entry = String::from_utf8(found.entry.document().to_vec()).ok();
        let buses = Some(metadata.disks_buses.join(",")).filter(|buses| !buses.is_empty());
        let described = [
            ("os", &metadata.os),
            ("os-version", &metadata.os_version),
            ("os-arch", &metadata.os_arch),
            ("disks-bus", &buses),
            ("version", &metadata.version),
        ];
        let properties = described
            .into_iter()
            .filter_map(|(name, text)| Some((name, cut(text.as_ref()?))))
            .collect();
        Ok(Wanted {
            origin: Some(origin),
            properties,
            expected: Expected {
                packing,
                ..stated_by(found)?
            },
            places,
            unusable,
        })
    }

    async fn of_catalogue(
        &self,
        name: &str,
        product: &str,
        version: Option<&str>,
    ) -> Result<Wanted, LookupError> {
        let catalogue = self.0.settings.registries.catalogue(name).ok_or_else(|| {
            LookupError::Refused(format!("this cloud has no catalogue `{name}` any more"))
        })?;
        let (product, version) = catalogue.find(product, version).await?;
        let url = catalogue.url_of(&version)?;
        let mut origin = origin(name.to_owned());
        origin.title = product.title.clone().or_else(|| Some(product.name.clone()));
        origin.endorser = Some(format!("{} ({})", catalogue.address(), catalogue.voucher()));
        origin.version = Some(version.version.clone());
        let described = [("os", product.os), ("os-version", product.os_version)];
        Ok(Wanted {
            origin: Some(origin),
            properties: described
                .into_iter()
                .filter_map(|(name, text)| Some((name, text?)))
                .collect(),
            expected: Expected {
                source: ExpectedSource {
                    bytes: version.bytes,
                    sha256: version.sha256,
                    sha512: version.sha512,
                },
                ..Expected::default()
            },
            places: vec![Place::Url {
                url,
                fetcher: catalogue.fetcher().clone(),
            }],
            unusable: Vec::new(),
        })
    }

    /// Copies a volume that no machine has, and had meanwhile.
    async fn copy_volume(
        &self,
        image: &Image,
        expected: &Expected,
        volume: VolumeId,
        transfer: &Transfer,
    ) -> Result<Brought, Error> {
        let local = volume.to_string();
        let before = self.free_volume(&local)?;
        let Location::Local { path, .. } = self.0.volumes.location(volume);
        let still_free = || {
            let after = self.free_volume(&local)?;
            if after == before {
                return Ok(());
            }
            Err(in_use(&local, "it was at a machine meanwhile"))
        };
        self.bring_if(
            image,
            expected.clone(),
            Source::File(path),
            transfer,
            &still_free,
        )
        .await
    }

    /// The revision of a volume that no machine has.
    fn free_volume(&self, local: &str) -> Result<store::Revision, Error> {
        let volume = self.0.documents.volumes.get(local);
        let volume = volume.filter(|volume| !volume.deleted);
        let Some(volume) = volume else {
            return Err(Error::Invalid {
                what: "volume",
                value: local.to_owned(),
                reason: "it does not exist any more".to_owned(),
            });
        };
        match &volume.attachment {
            None => Ok(volume.revision),
            Some(attachment) => Err(in_use(local, &format!("it is at {}", attachment.machine))),
        }
    }
}

/// Temporary: the machine may leave it.
fn in_use(volume: &str, why: &str) -> Error {
    Error::Server {
        url: format!("Volume/{volume}"),
        reason: why.to_owned(),
    }
}

fn origin(found_in: String) -> ImageOrigin {
    ImageOrigin {
        found_in,
        title: None,
        endorser: None,
        version: None,
        checked: Timestamp::now(),
        entry: None,
        refused: None,
        withdrawn: false,
    }
}

/// What an entry says that the content is.
pub(super) fn stated_by(found: &Found) -> Result<Expected, LookupError> {
    let metadata = found.entry.metadata();
    let sums = &metadata.checksums;
    Ok(Expected {
        identifier: Some(metadata.identifier),
        bytes: Some(metadata.bytes),
        md5: sums.md5,
        sha1: Some(sums.sha1),
        sha256: sums.sha256,
        sha512: sums.sha512,
        format: stated_format(metadata.format.as_deref())?,
        packing: Packing::Unknown,
        source: ExpectedSource::default(),
        proven_later: false,
    })
}

/// The format to hold the content to; none for one that is converted, which the content itself tells.
fn stated_format(text: Option<&str>) -> Result<Option<Format>, LookupError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    match text.parse::<Format>() {
        Ok(format) => Ok(Some(format)),
        Err(_) if text.parse::<ForeignFormat>().is_ok() => Ok(None),
        Err(refusal) => Err(LookupError::Refused(refusal.to_string())),
    }
}
