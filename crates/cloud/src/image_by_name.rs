//! Images that are wanted by a name: a Marketplace's identifier, a product of a catalogue, a URL, a volume. Whoever asks for
//! the same gets the same document, so that it is fetched once; it goes when nobody needs it for long (`eviction`).

mod location;

use std::sync::Arc;

use cimi::{
    Acl, Common, ImageId, Right, Timestamp,
    common::USER_ROLE,
    query::{Attributes, Scalar},
    resources::{
        Digests, Event, Image, ImageDesired, ImageSource, ImageState, Job, JobGoal, OnDemand,
        Resource, Volume,
    },
    uri::plain,
};
use documents::Cached;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use self::location::{entry_identifier, named_entry};
pub(crate) use self::location::{identifier_in, is_identifier, named_source, shown};
use crate::{
    Cloud, CloudError, Created, Document, OpContext, Rel, Result, View, access, catalogue,
    quota::Measure, resolve,
};

pub(crate) const LOCATION: &str = "imageLocation";
/// Images that everybody shares and that are not there yet: more are not begun. Anybody can ask for what does not exist.
const MOST_AWAITED: usize = 500;

/// Of a URL so much becomes a name.
const NAME_AT_MOST: usize = 250;

/// An image that is wanted by a name.
struct Name {
    source: ImageSource,
    expected: Digests,
    acl: Acl,
    /// What the document is called by; the same for all who may share it.
    key: String,
    /// A name for people, if the fetching finds no better one.
    title: Option<String>,
    /// Why the catalogue that it is of can't be asked now.
    outdated: Option<String>,
}

/// An image that is there and may not be the newest of its name, with the reason.
struct Outdated {
    image: Arc<dyn Document>,
    why: String,
}

impl Attributes for Outdated {
    fn attribute(&self, name: &str) -> Option<Scalar<'_>> {
        match name {
            "reason" => Some(Scalar::from(self.why.as_str())),
            other => self.image.attribute(other),
        }
    }

    fn several(&self, name: &str) -> Vec<Scalar<'_>> {
        self.image.several(name)
    }

    fn property(&self, key: &str) -> Option<&str> {
        self.image.property(key)
    }
}

impl Document for Outdated {
    fn attributes(&self, right: Right) -> Map<String, Value> {
        let mut attributes = self.image.attributes(right);
        attributes.insert("reason".to_owned(), Value::String(self.why.clone()));
        attributes
    }

    fn operations(&self, right: Right) -> Vec<Rel> {
        self.image.operations(right)
    }
}

impl Name {
    /// The image as whoever asked for it by this name sees it.
    fn view(&self, view: View, image: &Image) -> View {
        let Some(why) = &self.outdated else {
            return view;
        };
        let version = match &image.desired.source {
            ImageSource::Catalogue {
                version: Some(version),
                ..
            } => format!(" (version {version})"),
            _ => String::new(),
        };
        View {
            stamp: None,
            document: Arc::new(Outdated {
                image: view.document,
                why: format!(
                    "the catalogue can't be asked for the newest version now: {why}; this is what it said last, or the newest that is here{version}"
                ),
            }),
            ..view
        }
    }

    /// As the log may have it: what opens a URL is its user's alone.
    fn shown(&self) -> String {
        match &self.source {
            ImageSource::Url { url } => plain(url),
            named => shown(named, self.expected.identifier.as_deref()).unwrap_or_default(),
        }
    }
}

impl Cloud {
    /// The image under a name, wanted from now on if it wasn't yet. One that could not be fetched is tried again.
    ///
    /// # Errors
    /// [`CloudError::Invalid`] for what isn't a name of an image, [`CloudError::Exhausted`] when too many are awaited.
    pub(crate) async fn image_on_demand(
        &self,
        context: &OpContext,
        source: ImageSource,
        expected: Digests,
    ) -> Result<Created> {
        access::require_change(context)?;
        let name = self.name(context, source, expected).await?;
        let id = ImageId::from_local(&stable_id(&name.key))
            .map_err(|error| CloudError::Internal(error.to_string()))?;
        let documents = &self.0.documents;
        self.check_entry(&name, documents.images.get(id.local()).as_deref())
            .await?;
        loop {
            context.in_time()?;
            let now = Timestamp::now();
            let known = documents.images.get(id.local());
            let image = match &known {
                None => self.new_on_demand(context, id.clone(), &name, now)?,
                Some(read) if read.desired.deleted => {
                    return Err(CloudError::Unavailable(format!(
                        "{id} is being removed at this moment because nobody needed it: try again in a few seconds"
                    )));
                }
                Some(read) if read.state == ImageState::Error && read.file.is_none() => {
                    let mut image = read.document.0.clone();
                    image.state = ImageState::Creating;
                    image.reason = None;
                    image.progress = Some(0);
                    image.desired.attempt += 1;
                    image
                }
                Some(read) => {
                    let view = catalogue::view(documents, context, read.clone());
                    return Ok(Created {
                        view: name.view(view, read),
                        job: None,
                        existed: true,
                    });
                }
            };
            let place = match &known {
                None if image.common.acl.owner.kind == cimi::PrincipalType::User => {
                    let bytes = image.bytes().unwrap_or(1).max(1);
                    let amounts = [(Measure::Images, 1), (Measure::ImageSpace, bytes)];
                    Some(self.place(context, &amounts).await?)
                }
                _ => None,
            };
            let job = Job::creation(
                Image::COLLECTION.to_owned(),
                image.key(),
                JobGoal::Available,
                image.common.acl.clone(),
                now,
            );
            let event = Event::request(&image, "add", context.user().unwrap_or_default(), now);
            catalogue::check_size(&image)?;
            let changes = documents.changes();
            let changes = match &place {
                Some(place) => place.guard(changes),
                None => changes,
            };
            let changes = match &known {
                None => changes.create(&image),
                Some(read) => changes.replace(read, image),
            };
            match changes.create(&job).create(&event).commit().await {
                Ok(_) => {}
                Err(error) => {
                    let is_lost = match &place {
                        Some(place) => place.is_lost(&error).await,
                        None => false,
                    };
                    // Somebody asked for the same at the same moment.
                    if is_lost || error.is_conflict() {
                        continue;
                    }
                    return Err(error.into());
                }
            }
            tracing::info!(image = %id, name = name.shown(), owner = context.user(), "image wanted by name");
            let read = access::find::<Image>(documents, context, id.local(), Right::View)?;
            return Ok(Created {
                view: catalogue::view(documents, context, read),
                job: Some(job.id.to_string()),
                existed: false,
            });
        }
    }

    /// Whoever names an endorser's entry gets that one or nothing. Which entry of an image counts is for the site's policy to say: so it must
    /// be the one that the policy chooses.
    pub(crate) async fn check_named_entry(
        &self,
        context: &OpContext,
        location: &str,
    ) -> Result<()> {
        let Some((email, created)) = named_entry(location) else {
            return Ok(());
        };
        access::require_user(context)?;
        let identifier = entry_identifier(location).unwrap_or_default();
        let decoded = |text: &str| {
            text.replace("%40", "@")
                .replace("%3A", ":")
                .replace("%3a", ":")
        };
        let (email, created) = (decoded(email), created.map(decoded));
        self.check_endorser(identifier, &email, created.as_deref())
            .await
    }

    /// Refuses what the cloud doesn't go by: an image has one entry here, whoever else endorsed it.
    pub(crate) async fn check_endorser(
        &self,
        identifier: &str,
        email: &str,
        created: Option<&str>,
    ) -> Result<()> {
        let intake = &self.0.intake;
        match intake.why_other_entry(identifier, email, created).await {
            None => Ok(()),
            Some(reason) => Err(CloudError::invalid(
                LOCATION,
                format!(
                    "names an entry that this cloud doesn't go by: {reason}. Give the identifier alone ({identifier}) for the entry that its policy chooses"
                ),
            )),
        }
    }

    /// An identifier that nobody endorsed, or one that was mistyped, leaves no document behind.
    async fn check_entry(&self, name: &Name, known: Option<&Cached<Image>>) -> Result<()> {
        let is_there =
            known.is_some_and(|image| image.state != ImageState::Error || image.file.is_some());
        let identifier = name.expected.identifier.as_deref();
        let (ImageSource::Marketplace, Some(identifier), false) =
            (&name.source, identifier, is_there)
        else {
            return Ok(());
        };
        match self.0.intake.why_no_entry(identifier).await {
            None => Ok(()),
            Some(reason) => Err(CloudError::invalid(
                LOCATION,
                format!("leads to no image that can be used: {reason}"),
            )),
        }
    }

    /// What is asked for, and under which key all who may share it find it.
    async fn name(
        &self,
        context: &OpContext,
        source: ImageSource,
        mut expected: Digests,
    ) -> Result<Name> {
        let everybodys = || Acl::owned_by_admin().allowing_role(USER_ROLE, Right::View);
        let user = access::require_user(context)?;
        let own = |key: String| (Acl::owned_by_user(user), format!("{user}\n{key}"));
        let (mut title, mut outdated) = (None, None);
        let (source, (acl, key)) = match source {
            ImageSource::Marketplace => {
                if !self.0.intake.has_marketplaces() {
                    return Err(no_marketplace());
                }
                let identifier = expected.identifier.clone().unwrap_or_default();
                let key = (everybodys(), format!("marketplace:{identifier}"));
                // The entry says all the rest.
                expected = Digests {
                    identifier: Some(identifier),
                    ..Digests::default()
                };
                (ImageSource::Marketplace, key)
            }
            ImageSource::Catalogue {
                catalogue,
                product,
                version,
            } => {
                let asked = format!("{catalogue}:{product}");
                let (source, why) = self.in_catalogue(catalogue, product, version).await?;
                outdated = why;
                let key = shown(&source, None).unwrap_or_default();
                title = Some(asked);
                (source, (everybodys(), key))
            }
            ImageSource::Volume { volume } => {
                let found = access::find::<Volume>(
                    &self.0.documents,
                    context,
                    volume.local(),
                    Right::Modify,
                );
                // Who may see a volume sees that it is there, not what is on it.
                let why = "an image of a volume shows all that is on it, so it is for those who may change the volume (its owner can give you the right MODIFY)";
                let read = resolve::at(LOCATION, access::for_that(found, why))?;
                if let Some(attachment) = &read.attachment {
                    return Err(CloudError::Conflict(format!(
                        "{volume} can't be booted from: it is at {}; detach it first",
                        attachment.machine
                    )));
                }
                // A volume that was written to since is another disk.
                let key = own(format!("{volume}@{}", read.common.updated));
                title = Some(
                    read.common
                        .name
                        .clone()
                        .unwrap_or_else(|| volume.to_string()),
                );
                (ImageSource::Volume { volume }, key)
            }
            ImageSource::Url { url } => {
                title = Some(plain(&url).chars().take(NAME_AT_MOST).collect());
                let key = key_of_url(user, &url, &expected);
                (ImageSource::Url { url }, (Acl::owned_by_user(user), key))
            }
            ImageSource::Upload | ImageSource::Machine(_) => {
                return Err(CloudError::invalid(
                    "onDemand",
                    "is for images that the cloud fetches, not for those that are sent",
                ));
            }
        };
        Ok(Name {
            source,
            expected,
            acl,
            key,
            title,
            outdated,
        })
    }

    /// The product as the catalogue calls it, in the newest version if none is asked for. When the catalogue can't be read
    /// what came from it before is still good; then also why it can't.
    async fn in_catalogue(
        &self,
        catalogue: String,
        product: String,
        version: Option<String>,
    ) -> Result<(ImageSource, Option<String>)> {
        let found = self
            .0
            .intake
            .resolve(&catalogue, &product, version.as_deref())
            .await;
        let asked = format!("{catalogue}:{product}");
        // The newest that is here.
        let here = |names: &[&str]| {
            let is_it = |image: &Arc<Cached<Image>>| match &image.desired.source {
                ImageSource::Catalogue {
                    catalogue: of,
                    product: name,
                    version: known,
                } => {
                    *of == catalogue
                        && (names.contains(&name.as_str())
                            || image.common.name.as_deref() == Some(&asked))
                        && (version.is_none() || version == *known)
                        && image.state == ImageState::Available
                }
                _ => false,
            };
            let images = self.0.documents.images.by_index("onDemand", "yes");
            let newest = images
                .into_iter()
                .filter(is_it)
                .max_by_key(|image| image.common.created);
            newest.map(|image| image.desired.source.clone())
        };
        match found {
            Ok(resolved) => {
                let said = ImageSource::Catalogue {
                    catalogue: catalogue.clone(),
                    product: resolved.product.clone(),
                    version: Some(resolved.version),
                };
                // What it said last may never have come, and can't come now.
                let is_here = |source: &ImageSource| {
                    let key = stable_id(&shown(source, None).unwrap_or_default());
                    let image = self.0.documents.images.get(&key);
                    image.is_some_and(|image| image.state == ImageState::Available)
                };
                let source = match &resolved.outdated {
                    Some(_) if !is_here(&said) => {
                        here(&[&product, &resolved.product]).unwrap_or(said)
                    }
                    _ => said,
                };
                Ok((source, resolved.outdated))
            }
            Err(CloudError::Unavailable(why)) => match here(&[&product]) {
                Some(source) => Ok((source, Some(why))),
                None => Err(CloudError::Unavailable(why)),
            },
            Err(error) => Err(error),
        }
    }

    fn new_on_demand(
        &self,
        context: &OpContext,
        id: ImageId,
        name: &Name,
        now: Timestamp,
    ) -> Result<Image> {
        let awaited = self.0.documents.images.by_index("onDemand", "yes");
        let awaited = awaited
            .iter()
            .filter(|image| image.state != ImageState::Available)
            .count();
        if awaited >= MOST_AWAITED {
            return Err(CloudError::Exhausted(format!(
                "{awaited} other images are still being fetched or could not be: try again later"
            )));
        }
        let mut common = Common::new(name.acl.clone(), now);
        common.name.clone_from(&name.title);
        Ok(Image {
            id,
            common,
            state: ImageState::Creating,
            reason: None,
            kind: "IMAGE".to_owned(),
            desired: ImageDesired {
                source: name.source.clone(),
                expected: name.expected.clone(),
                attempt: 1,
                deleted: false,
                on_demand: Some(OnDemand {
                    requested_by: context.user().unwrap_or_default().to_owned(),
                    last_used: now,
                    pinned: false,
                }),
            },
            progress: Some(0),
            file: None,
            needs_space: false,
            provenance: None,
            kernel: None,
            initrd: None,
            kernel_arguments: None,
            announced: None,
            uncleaned: Vec::new(),
            stands_for: Vec::new(),
            used_since: None,
            unknown: Map::new(),
        })
    }

    /// Has the images looked up that a machine is to be made from by their identifiers, and that the cloud doesn't have.
    pub(crate) async fn want_images(
        &self,
        context: &OpContext,
        body: &Map<String, Value>,
    ) -> Result<()> {
        let Some(Value::Object(template)) = body.get("machineTemplate") else {
            return Ok(());
        };
        let disks = template.get("readOnlyDisks").and_then(Value::as_array);
        let given = template
            .get("machineImage")
            .into_iter()
            .chain(disks.into_iter().flatten());
        let hrefs = given.filter_map(|given| given.as_object().and_then(resolve::href_of));
        for href in hrefs {
            let Ok(identifier) = resolve::local_part::<Image>(href, "") else {
                continue;
            };
            if self.may_be_fetched(context, identifier) {
                let here = self.find_image(context, identifier, Right::View).ok();
                let expected = Digests {
                    identifier: Some(identifier.to_owned()),
                    ..Digests::default()
                };
                let wanted = self.image_on_demand(context, ImageSource::Marketplace, expected);
                match wanted.await {
                    // What somebody brought here and what failed says itself why it can't be used.
                    Err(CloudError::Invalid { .. })
                        if here.is_some_and(|image| image.desired.on_demand.is_none()) => {}
                    result => {
                        result?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether an image that isn't here would be looked up in a Marketplace when a machine is made of it.
    pub(crate) fn may_be_fetched(&self, context: &OpContext, identifier: &str) -> bool {
        is_identifier(identifier) && self.is_to_be_looked_up(context, identifier)
    }

    /// Whether nothing usable is here under an identifier, and a Marketplace may have it.
    fn is_to_be_looked_up(&self, context: &OpContext, identifier: &str) -> bool {
        match self.find_image(context, identifier, Right::View) {
            Ok(image) if image.state != ImageState::Error || image.file.is_some() => false,
            // One of a Marketplace is told if there is none any more.
            Ok(image) if image.desired.on_demand.is_some() => {
                image.desired.source == ImageSource::Marketplace || self.0.intake.has_marketplaces()
            }
            Ok(_) | Err(_) => self.0.intake.has_marketplaces(),
        }
    }

    /// The catalogues there are.
    ///
    /// # Errors
    /// [`CloudError::Unauthenticated`].
    pub async fn catalogues(&self, context: &OpContext) -> Result<Value> {
        access::require_user(context)?;
        Ok(Value::Array(self.0.intake.catalogues().await?))
    }

    /// The products of one of them.
    ///
    /// # Errors
    /// [`CloudError::NotFound`] if there is no such catalogue, [`CloudError::Unavailable`] if it can't be read.
    pub async fn products_of(&self, context: &OpContext, name: &str) -> Result<Value> {
        access::require_user(context)?;
        Ok(Value::Array(self.0.intake.catalogue(name).await?))
    }
}

pub(crate) fn no_marketplace() -> CloudError {
    CloudError::invalid(
        LOCATION,
        "this cloud has no Marketplace to look images up in; an administrator can configure one ([[catalogue]])",
    )
}

/// What the image of a URL is called by, which is its user's alone.
pub(crate) fn key_of_url(user: &str, url: &str, expected: &Digests) -> String {
    let expected = serde_json::to_string(expected).unwrap_or_default();
    format!("{user}\n{url}\n{expected}")
}

/// An id that follows from a text (UUID version 8, RFC 9562 §5.8): two who write it at once can't both create it.
pub(crate) fn stable_id(key: &str) -> String {
    let digest: [u8; 32] = Sha256::digest(key.as_bytes()).into();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes)
        .into_uuid()
        .to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn what_opens_a_url_is_not_in_the_log() {
        let url = "https://ann:secret@example.org:8443/x.img?token=secret#secret".to_owned();
        let name = Name {
            key: key_of_url("ann", &url, &Digests::default()),
            source: ImageSource::Url { url },
            expected: Digests::default(),
            acl: Acl::owned_by_user("ann"),
            title: None,
            outdated: None,
        };
        assert_eq!(name.shown(), "https://example.org:8443/x.img");
    }

    #[test]
    fn the_same_name_has_the_same_id() {
        assert_eq!(stable_id("a"), stable_id("a"));
        assert_ne!(stable_id("a"), stable_id("b"));
        assert_eq!(stable_id("a").as_bytes()[14], b'8');
    }
}
