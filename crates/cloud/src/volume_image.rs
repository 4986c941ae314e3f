//! Images of volumes: what a volume was at one moment. The storage controller makes and removes them; here is what is
//! wanted.

use std::sync::Arc;

use cimi::{
    Acl, PrincipalType, Ref, Right, Timestamp,
    ids::VolumeImageId,
    model::Kind,
    resources::{
        Event, ImageState, Job, JobGoal, Resource, Volume, VolumeImage, VolumeLocation, VolumeState,
    },
};
use documents::{Cached, Documents};
use serde_json::{Map, Value, json};

use crate::{
    Cloud, CloudError, Created, Done, OpContext, Result, access,
    catalogue::{self, Public, object},
    cloud::{set_public, visibility},
    jobs,
    quota::Measure,
    resolve,
};

/// Most images that a volume stands on, one on the other; QEMU opens all of them.
const LONGEST_CHAIN: usize = 12;

impl Cloud {
    /// Makes an image of a volume that no machine has.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] while a machine has the volume, or it isn't available.
    pub async fn create_volume_image(
        &self,
        context: &OpContext,
        body: Map<String, Value>,
    ) -> Result<Created> {
        let documents = &self.0.documents;
        let path = "imageLocation";
        let local = resolve::named::<Volume>(&body, path, "").map_err(|_| {
            CloudError::invalid(path, "must refer to the volume: {\"href\": \"Volume/…\"}")
        })?;
        loop {
            context.in_time()?;
            let now = Timestamp::now();
            let found = access::find::<Volume>(documents, context, &local, Right::Modify);
            let volume = resolve::at(path, found)?;
            capturable(&volume)?;
            let mut image = VolumeImage {
                id: VolumeImageId::generate(),
                common: Self::common_for(context, now)?,
                state: ImageState::Creating,
                reason: None,
                volume: Ref::to(volume.id.clone()),
                size_bytes: volume.size_bytes,
                bootable: volume.bootable,
                deleted: false,
                kept_for: None,
                base: None,
                files: Vec::new(),
                used_since: None,
                unknown: Map::new(),
            };
            for (name, value) in &body {
                match name.as_str() {
                    "name" | "description" | "properties" => {
                        catalogue::edit_common(&mut image.common, name, Some(value))?;
                    }
                    "visibility" | "bootable" => image.edit(name, Some(value))?,
                    _ => {}
                }
            }
            catalogue::check_size(&image)?;
            let mut captured = volume.document.0.clone();
            captured.state = VolumeState::Capturing;
            captured.capture = Some(image.id.clone());
            let job = Job::creation(
                VolumeImage::COLLECTION.to_owned(),
                image.key(),
                JobGoal::Available,
                image.common.acl.clone(),
                now,
            );
            let event = Event::request(&image, "add", context.user().unwrap_or_default(), now);
            let of_volume = Event::request(
                &captured,
                "capture",
                context.user().unwrap_or_default(),
                now,
            );
            let amounts = [
                (Measure::VolumeImages, 1),
                (Measure::VolumeImageSpace, image.size_bytes.0),
            ];
            let written = self.write_within(context, &amounts, |changes| {
                let changes = changes.replace(&volume, captured.clone());
                let changes = changes.create(&image).create(&job);
                changes.create(&event).create(&of_volume)
            });
            match written.await {
                Ok(()) => {
                    tracing::info!(image = %image.id, volume = %volume.id, owner = context.user(), "image of a volume wanted");
                    let read = access::find(documents, context, image.id.local(), Right::View)?;
                    return Ok(Created {
                        view: catalogue::view::<VolumeImage>(documents, context, read),
                        job: Some(job.id.to_string()),
                        existed: false,
                    });
                }
                Err(CloudError::Raced(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Removes an image. What other volumes and images stand on is kept until the last of them is gone, out of sight.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] while it is being made.
    pub async fn delete_volume_image(&self, context: &OpContext, local: &str) -> Result<Done> {
        let documents = &self.0.documents;
        loop {
            context.in_time()?;
            let now = Timestamp::now();
            let read = access::find::<VolumeImage>(documents, context, local, Right::Modify)?;
            if read.deleted {
                let job = jobs::under_way(documents, &read.key(), "delete", &JobGoal::Gone);
                return Ok(Done { view: None, job });
            }
            if read.state == ImageState::Creating {
                return Err(CloudError::Conflict(format!(
                    "{} is being made; wait until it is there",
                    read.document.id
                )));
            }
            let mut image = read.document.0.clone();
            image.deleted = true;
            image.state = ImageState::Deleting;
            let event = Event::request(&image, "delete", context.user().unwrap_or_default(), now);
            let users = users(documents, local);
            let mut job = None;
            if users == 0 {
                let acl = image.common.acl.clone();
                job = Some(Job::accepted(
                    image.key(),
                    "delete",
                    JobGoal::Gone,
                    acl,
                    now,
                ));
            } else {
                // For its owner it is gone, but for what it takes.
                let owner = &image.common.acl.owner;
                if owner.kind == PrincipalType::User {
                    image.kept_for = Some(owner.principal.clone());
                }
                image.common.acl = Acl::owned_by_admin();
                image.reason = Some(format!(
                    "kept for {users} volumes and images that stand on it"
                ));
            }
            let mut changes = documents.changes().replace(&read, image).create(&event);
            if let Some(job) = &job {
                changes = changes.create(job);
            }
            match changes.commit().await {
                Ok(_) => {
                    tracing::info!(image = %read.id, users, user = context.user(), "image of a volume is to be deleted");
                    return Ok(Done {
                        view: None,
                        job: job.map(|job| job.id.to_string()),
                    });
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The image that a resolved volume template names, if any, from which the caller may make a volume of this size.
    ///
    /// # Errors
    /// [`CloudError::Invalid`] for one that isn't there, isn't available or is larger.
    pub(crate) fn origin_of(
        &self,
        context: &OpContext,
        template: &Map<String, Value>,
        capacity_kb: u64,
        path: &str,
    ) -> Result<Option<Arc<Cached<VolumeImage>>>> {
        if !template.contains_key("volumeImage") {
            return Ok(None);
        }
        let local = resolve::named::<VolumeImage>(template, "volumeImage", path)?;
        let at = format!("{path}.volumeImage");
        let found = access::find::<VolumeImage>(&self.0.documents, context, &local, Right::View);
        let image = resolve::at(&at, found)?;
        if image.state != ImageState::Available || image.deleted {
            let problem = format!(
                "{} is {}",
                image.document.id,
                crate::machine::text_of(image.state)
            );
            return Err(CloudError::invalid(at, problem));
        }
        let least = image.size_bytes.capacity_kb();
        if capacity_kb < least {
            return Err(CloudError::invalid(
                format!("{path}.volumeConfig.capacity"),
                format!("is {capacity_kb}, but the image has {least} kB: ask for at least as much"),
            ));
        }
        Ok(Some(image))
    }
}

/// How many volumes and images need an image's file.
fn users(documents: &Documents, local: &str) -> usize {
    documents.volumes.count_by_index("image", local)
        + documents.volume_images.count_by_index("base", local)
}

/// Refuses volumes of which no image can be made now.
fn capturable(volume: &Volume) -> Result<()> {
    if let Some(attachment) = &volume.attachment {
        return Err(CloudError::Conflict(format!(
            "{} is attached to {}, which may be writing: detach it first",
            volume.id, attachment.machine
        )));
    }
    if let Some(VolumeLocation::File { backing, .. }) = &volume.location
        && backing.len() >= LONGEST_CHAIN
    {
        return Err(CloudError::Conflict(format!(
            "{} stands on {} images, one on the other, and more would make it slow: copy its data to a new volume, \
             and make the image of that",
            volume.id,
            backing.len()
        )));
    }
    if volume.state != VolumeState::Available || volume.deleted || volume.capture.is_some() {
        return Err(CloudError::Conflict(format!(
            "{} is {}; an image can be made of it when it is AVAILABLE",
            volume.id,
            crate::machine::text_of(volume.state)
        )));
    }
    Ok(())
}

impl Public for VolumeImage {
    const KIND: Kind = Kind::VolumeImage;

    fn own_attributes(&self, _documents: &Documents) -> Map<String, Value> {
        let mut out = object(json!({
            "state": self.state,
            "imageLocation": self.volume,
            "bootable": self.bootable,
            "capacity": self.size_bytes.capacity_kb(),
            "visibility": visibility(&self.common.acl),
        }));
        if let Some(reason) = &self.reason {
            out.insert("reason".to_owned(), reason.as_str().into());
        }
        out
    }

    fn edit(&mut self, name: &str, value: Option<&Value>) -> Result<()> {
        match (name, value) {
            ("visibility", Some(value)) => set_public(&mut self.common.acl, value == "PUBLIC"),
            ("bootable", Some(value)) => self.bootable = value.as_bool().unwrap_or(false),
            _ => return Err(CloudError::invalid(name, "can't be changed")),
        }
        Ok(())
    }
}
