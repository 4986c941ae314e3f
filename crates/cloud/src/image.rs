//! Images: what machines begin as. The storage controller fetches and checks them; here is what is wanted.

mod shown;

use std::sync::Arc;

use cimi::{
    Acl, Common, ImageId, PrincipalType, Right, Timestamp,
    model::Kind,
    resources::{
        Digests, Event, Image, ImageDesired, ImageSource, ImageState, Job, JobGoal, Resource,
    },
};
use documents::Cached;
use serde_json::{Map, Value};

use crate::{
    Cloud, CloudError, Created, Done, OpContext, Result, Upload, View, access, catalogue,
    cloud::{is_public, set_public},
    error::unreadable,
    image_by_name, jobs, machine,
    quota::Measure,
    resolve,
};

/// Length of the identifier that follows from an image's content.
pub(crate) const IDENTIFIER_LENGTH: usize = 27;

impl Cloud {
    /// An image by the part of its id after the slash, or by its 27-character identifier. To be used, that means the newest
    /// usable one: of one's own, else of those that are shared with one, else of everybody's. To be changed it must be the only
    /// one.
    pub(crate) fn find_image(
        &self,
        context: &OpContext,
        id: &str,
        right: Right,
    ) -> Result<Arc<Cached<Image>>> {
        let images = &self.0.documents.images;
        let there = images.get(id);
        if id.len() == IDENTIFIER_LENGTH && there.is_none() {
            let found = match self.image_with(context, id, right)? {
                // Seen, and not to be changed: told as for any other.
                None => self.image_with(context, id, Right::View)?,
                found => found,
            };
            return access::found(context, found, id, right);
        }
        // One that turned out to be another one is found as that; not to be deleted, by who takes back what was begun.
        if right == Right::View
            && there.is_none_or(|image| image.desired.deleted)
            && let Some(same) = images.by_index("standsFor", id).pop()
        {
            return access::found(context, Some(same), id, right);
        }
        access::find(&self.0.documents, context, id, right)
    }

    fn image_with(
        &self,
        context: &OpContext,
        identifier: &str,
        right: Right,
    ) -> Result<Option<Arc<Cached<Image>>>> {
        let nearness = |image: &Image| Nearness::of(context, &image.common.acl);
        let mut images = self.0.documents.images.by_index("identifier", identifier);
        images.retain(|image| {
            context
                .right_on(image.acl())
                .is_some_and(|had| had >= right)
        });
        images.sort_by_key(|image| (usability(image.state), nearness(image), image.id.clone()));
        if right > Right::View {
            // What is on its way out is not meant, unless there is nothing else.
            if images.iter().any(|image| !image.desired.deleted) {
                images.retain(|image| !image.desired.deleted);
            }
            let nearest = images.iter().map(|image| nearness(image)).max();
            images.retain(|image| Some(nearness(image)) == nearest);
            if images.len() > 1 {
                let ids: Vec<String> = images.iter().map(|image| image.id.to_string()).collect();
                return Err(CloudError::Conflict(format!(
                    "{} images have the content {identifier}; say which one is meant: {}",
                    ids.len(),
                    ids.join(", ")
                )));
            }
        }
        Ok(images.pop())
    }

    /// Makes an image whose content is fetched from a URL, or sent next by the client.
    ///
    /// # Errors
    /// [`CloudError::Invalid`] for a location that can't be fetched.
    pub async fn create_image(
        &self,
        context: &OpContext,
        body: Map<String, Value>,
    ) -> Result<Created> {
        if let Some(machine) = machine_location(&body) {
            return self.capture_machine(context, &body, machine).await;
        }
        let body = self.with_identifier(context, body).await?;
        let documents = &self.0.documents;
        let expected: Digests = match body.get("expected") {
            None => Digests::default(),
            Some(given) => serde_json::from_value(given.clone())
                .map_err(|error| unreadable("expected", &error))?,
        };
        let source = source(&body)?;
        let mut expected = expected;
        if source == ImageSource::Marketplace {
            let location = location_of(&body).unwrap_or_default();
            let named = image_by_name::identifier_in(location).map(str::to_owned);
            if expected.identifier.is_some() && expected.identifier != named {
                return Err(CloudError::invalid(
                    "expected.identifier",
                    "is another one than that of `imageLocation`",
                ));
            }
            expected.identifier = named;
            self.check_named_entry(context, location).await?;
        }
        if body.get("onDemand").and_then(Value::as_bool) == Some(true) {
            return self.wanted_by_name(context, &body, source, expected).await;
        }
        if matches!(
            source,
            ImageSource::Catalogue { .. } | ImageSource::Volume { .. }
        ) {
            return Err(CloudError::invalid(
                "onDemand",
                "must be true for an image of a catalogue or a volume",
            ));
        }
        let public = body.get("visibility").and_then(Value::as_str) == Some("PUBLIC");
        if let Some(identifier) = &expected.identifier
            && let Some(image) = self.image_there(context, identifier, public).await?
        {
            let view = catalogue::view(documents, context, image);
            return Ok(Created {
                view,
                job: None,
                existed: true,
            });
        }
        let now = Timestamp::now();
        let file = |name: &str| self.boot_file(context, &body, name);
        let mut image = Image {
            id: ImageId::generate(),
            common: Common::new(Self::acl_for(context, public)?, now),
            state: ImageState::Creating,
            reason: None,
            kind: body
                .get("type")
                .and_then(Value::as_str)
                .unwrap_or("IMAGE")
                .to_owned(),
            desired: ImageDesired {
                source,
                expected,
                attempt: 1,
                deleted: false,
                on_demand: None,
            },
            progress: Some(0),
            file: None,
            needs_space: false,
            provenance: None,
            kernel: file("kernel")?,
            initrd: file("initrd")?,
            kernel_arguments: body
                .get("kernelArguments")
                .and_then(Value::as_str)
                .map(str::to_owned),
            announced: None,
            uncleaned: Vec::new(),
            stands_for: Vec::new(),
            used_since: None,
            unknown: Map::new(),
        };
        if !["IMAGE", "FILE"].contains(&image.kind.as_str()) {
            return Err(CloudError::invalid(
                "type",
                format!("must be IMAGE or FILE, but is `{}`", image.kind),
            ));
        }
        if image.initrd.is_some() && image.kernel.is_none() {
            return Err(CloudError::invalid("initrd", "needs a `kernel`"));
        }
        for name in ["name", "description", "properties"] {
            if let Some(value) = body.get(name) {
                catalogue::edit_common(&mut image.common, name, Some(value))?;
            }
        }
        let job = Job::creation(
            Image::COLLECTION.to_owned(),
            image.key(),
            JobGoal::Available,
            image.common.acl.clone(),
            now,
        );
        let event = Event::request(&image, "add", context.user().unwrap_or_default(), now);
        catalogue::check_size(&image)?;
        let mut needed = Vec::new();
        for id in [&image.kernel, &image.initrd].into_iter().flatten() {
            let read = documents
                .images
                .get(id.local())
                .filter(|read| !read.desired.deleted)
                .ok_or_else(|| CloudError::invalid("kernel", format!("{id} is being deleted")))?;
            needed.push(read);
        }
        // What isn't told beforehand is at least something.
        let bytes = image.bytes().unwrap_or(1).max(1);
        let amounts = [(Measure::Images, 1), (Measure::ImageSpace, bytes)];
        self.write_within(context, &amounts, |changes| {
            let changes = changes.create(&image).create(&job).create(&event);
            needed
                .iter()
                .fold(changes, |changes, read| changes.unchanged(read))
        })
        .await?;
        tracing::info!(image = %image.id, owner = context.user(), "image wanted");
        let read = access::find::<Image>(documents, context, image.id.local(), Right::View)?;
        Ok(Created {
            view: catalogue::view(documents, context, read),
            job: Some(job.id.to_string()),
            existed: false,
        })
    }

    /// An image that all who ask for it share: nothing else can be said of it.
    async fn wanted_by_name(
        &self,
        context: &OpContext,
        body: &Map<String, Value>,
        source: ImageSource,
        expected: Digests,
    ) -> Result<Created> {
        const SAID: [&str; 5] = [
            "resourceURI",
            "imageLocation",
            "onDemand",
            "expected",
            "type",
        ];
        if let Some(other) = body.keys().find(|name| !SAID.contains(&name.as_str())) {
            return Err(CloudError::invalid(
                other.clone(),
                "can't be chosen for an image on demand, which others may share",
            ));
        }
        if body.get("type").is_some_and(|kind| kind != "IMAGE") {
            return Err(CloudError::invalid(
                "type",
                "must be IMAGE for an image on demand",
            ));
        }
        if source == ImageSource::Marketplace
            && let Some(identifier) = &expected.identifier
            && let Some(image) = self.image_there(context, identifier, false).await?
        {
            let view = catalogue::view(&self.0.documents, context, image);
            return Ok(Created {
                view,
                job: None,
                existed: true,
            });
        }
        self.image_on_demand(context, source, expected).await
    }

    /// A usable image of this content that the caller may see, public if that is wanted: one of the caller's own becomes
    /// so. None if only others could make theirs public.
    async fn image_there(
        &self,
        context: &OpContext,
        identifier: &str,
        public: bool,
    ) -> Result<Option<Arc<Cached<Image>>>> {
        let documents = &self.0.documents;
        let right_on = |image: &Image| context.right_on(&image.common.acl);
        let mut images = documents.images.by_index("identifier", identifier);
        images.retain(|image| {
            image.state == ImageState::Available
                && !image.desired.deleted
                && right_on(image) >= Some(Right::View)
        });
        images.sort_by_key(|image| (is_public(&image.common.acl), image.id.clone()));
        let Some(best) = images.last() else {
            return Ok(None);
        };
        if !public || is_public(&best.common.acl) {
            return Ok(images.pop());
        }
        let own = images
            .iter()
            .rfind(|image| right_on(image) >= Some(Right::All));
        let Some(own) = own else {
            return Ok(None);
        };
        let shown = documents
            .update::<Image, CloudError>(own.id.local(), |image| {
                set_public(&mut image.common.acl, true);
                Ok(true)
            })
            .await?;
        tracing::info!(image = %shown.id, owner = context.user(), "image is public now");
        Ok(Some(shown))
    }

    /// The image that `kernel` or `initrd` refers to.
    fn boot_file(
        &self,
        context: &OpContext,
        body: &Map<String, Value>,
        name: &str,
    ) -> Result<Option<ImageId>> {
        let href = match body.get(name) {
            None => return Ok(None),
            Some(Value::Object(reference)) => resolve::href_of(reference),
            Some(other) => other.as_str(),
        };
        let href =
            href.ok_or_else(|| CloudError::invalid(name, "must be a reference to a MachineImage"))?;
        let local = resolve::local_part::<Image>(href, name)?;
        let image = resolve::at(name, self.find_image(context, local, Right::View))?;
        if image.kind != "FILE" {
            return Err(CloudError::invalid(
                name,
                format!("{} is not of type FILE", image.id),
            ));
        }
        Ok(Some(image.id.clone()))
    }

    /// Takes the content of an image that waits for it; returns when it is checked and cached.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] if the image doesn't wait for content; what the check found wrong.
    pub async fn upload_image(
        &self,
        context: &OpContext,
        id: &str,
        upload: Upload,
    ) -> Result<View> {
        access::require_type(context, Kind::MachineImage)?;
        let read = self.find_image(context, id, Right::Modify)?;
        if read.desired.source != ImageSource::Upload
            || read.state != ImageState::Creating
            || read.desired.deleted
        {
            return Err(CloudError::Conflict(format!(
                "{} doesn't wait for content; create a new MachineImage with imageLocation `upload:`",
                read.id
            )));
        }
        self.0
            .intake
            .take(Arc::new(read.document.0.clone()), upload)
            .await?;
        let read = self.find_image(context, read.id(), Right::View)?;
        Ok(catalogue::view(&self.0.documents, context, read))
    }

    /// Removes an image. Machines made from it keep running: its content stays until the last of them is gone.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] while machines or images need it.
    pub async fn delete_image(&self, context: &OpContext, id: &str) -> Result<Done> {
        let documents = &self.0.documents;
        loop {
            context.in_time()?;
            let now = Timestamp::now();
            let read = self.find_image(context, id, Right::Modify)?;
            if read.desired.deleted
                && let Some(job) = jobs::under_way(
                    documents,
                    &read.document.id.to_string(),
                    "delete",
                    &JobGoal::Gone,
                )
            {
                return Ok(Done {
                    view: None,
                    job: Some(job),
                });
            }
            self.unneeded(context, &read)?;
            let mut image = read.document.0.clone();
            image.desired.deleted = true;
            image.state = ImageState::Deleting;
            let job = Job::accepted(
                image.key(),
                "delete",
                JobGoal::Gone,
                image.common.acl.clone(),
                now,
            );
            let event = Event::request(&image, "delete", context.user().unwrap_or_default(), now);
            match documents
                .changes()
                .replace(&read, image)
                .create(&job)
                .create(&event)
                .commit()
                .await
            {
                // From here on nothing new can come to need it. What came between the look and the write shows now.
                Ok(_) => {
                    if let Err(needed) = self.unneeded(context, &read) {
                        self.undelete_image(&read, Some(&job)).await?;
                        return Err(needed);
                    }
                    return Ok(Done {
                        view: None,
                        job: Some(job.id.to_string()),
                    });
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether a machine or another image needs an image.
    pub(crate) fn is_needed(&self, image: &Image) -> bool {
        let machines = &self.0.documents.machines;
        machines.count_by_index("image", image.id.local()) > 0 || self.boots_with(image).is_some()
    }

    /// Makes sure that no machine and no other image needs an image.
    pub(crate) fn unneeded(&self, context: &OpContext, image: &Image) -> Result<()> {
        let machines = self
            .0
            .documents
            .machines
            .by_index("image", image.id.local());
        let machines = machines.iter().map(|machine| &machine.document.0);
        if let Some(who) = machine::who_need_it(context, machines) {
            return Err(CloudError::Conflict(format!(
                "{} can't be deleted: {who}; it can go when they are gone",
                called(image)
            )));
        }
        match self.boots_with(image) {
            None => Ok(()),
            Some(other) => Err(CloudError::Conflict(format!(
                "{} can't be deleted: {} boots with it",
                called(image),
                called(&other)
            ))),
        }
    }

    /// An image that boots with this one, a kernel or a RAM disk.
    fn boots_with(&self, image: &Image) -> Option<Arc<Cached<Image>>> {
        let of = Some(image.id.clone());
        let mut images = self.0.documents.images.all().into_iter();
        images.find(|other| !other.desired.deleted && [&other.kernel, &other.initrd].contains(&&of))
    }

    /// Takes a deletion back that somebody's new need overtook. While a machine needs the image the storage controller
    /// leaves it alone.
    pub(crate) async fn undelete_image(&self, before: &Image, job: Option<&Job>) -> Result<()> {
        let documents = &self.0.documents;
        loop {
            let Some(read) = documents.images.get(before.id.local()) else {
                return Ok(());
            };
            let mut image = read.document.0.clone();
            image.desired.deleted = false;
            image.state = before.state;
            image.reason.clone_from(&before.reason);
            let mut changes = documents.changes().replace(&read, image);
            if let Some(job) = job.and_then(|job| documents.jobs.get(job.id.local())) {
                changes = changes.remove(&job);
            }
            match changes.commit().await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// How much there is to be had of an image: one that failed is meant only if there is nothing else.
const fn usability(state: ImageState) -> u8 {
    match state {
        ImageState::Available => 2,
        ImageState::Creating => 1,
        ImageState::Error | ImageState::Deleting => 0,
    }
}

/// How near an image is to who asks; of several under one name the nearest is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Nearness {
    /// Everybody's.
    Public,
    /// Others allow it to the caller.
    Shared,
    /// The caller's.
    Own,
}

impl Nearness {
    fn of(context: &OpContext, acl: &Acl) -> Self {
        let owner = &acl.owner;
        if owner.kind == PrincipalType::User && context.user() == Some(owner.principal.as_str()) {
            Self::Own
        } else if is_public(acl) {
            Self::Public
        } else {
            Self::Shared
        }
    }
}

/// `image debian-12 (MachineImage/…)`
fn called(image: &Image) -> String {
    match &image.common.name {
        Some(name) => format!("image {name} ({})", image.id),
        None => image.id.to_string(),
    }
}

/// Where an image is to come from, as its creation says.
pub(crate) fn location_of(body: &Map<String, Value>) -> Option<&str> {
    match body.get("imageLocation") {
        Some(Value::Object(reference)) => resolve::href_of(reference),
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

/// The machine whose disk an image is to be made of, if it is one's.
fn machine_location(body: &Map<String, Value>) -> Option<&str> {
    let location = location_of(body)?;
    // A file on a web server may lie in a folder of that name, too: this cloud's own resources lie in `cimi`.
    let relative = location.starts_with("Machine/") || location.starts_with("/cimi/Machine/");
    (relative || location.contains("/cimi/Machine/")).then_some(location)
}

/// Where the content comes from.
fn source(body: &Map<String, Value>) -> Result<ImageSource> {
    let path = "imageLocation";
    let forms = "an http or https URL, a Machine, `upload:`, `marketplace:IDENTIFIER`, `TAG@EMAIL` of an endorser, `catalogue:NAME:PRODUCT` or `Volume/UUID`";
    match location_of(body) {
        None => Err(CloudError::invalid(
            path,
            format!("is missing; give {forms}"),
        )),
        Some("upload:") => Ok(ImageSource::Upload),
        Some(text) => match image_by_name::named_source(text) {
            Some(named) => named,
            None if text.starts_with("http://") || text.starts_with("https://") => {
                Ok(ImageSource::Url {
                    url: text.to_owned(),
                })
            }
            None => Err(CloudError::invalid(
                path,
                format!("must be {forms}, but is `{text}`"),
            )),
        },
    }
}
