//! Volumes: storage that outlives machines. The storage controller makes and removes them; here is what is wanted.

use std::sync::Arc;

use cimi::{
    Acl, Common, Right, Timestamp, VolumeId,
    model::{Changes, Kind},
    resources::{
        Attachment, Event, Job, JobGoal, MAPPED, Machine, Resource, Volume, VolumeConfiguration,
        VolumeImage, VolumeState, VolumeTemplate,
    },
    size::ByteSize,
};
use documents::{Cached, Documents};
use serde_json::{Map, Value, json};

use crate::{
    Cloud, CloudError, Created, Done, OpContext, Rel, Result, access,
    catalogue::{self, Public, object},
    cloud::{is_public, set_public, visibility},
    jobs, machine,
    quota::Measure,
    resolve,
};

/// The guest sees at most 20 bytes of a virtio disk's serial.
const SERIAL_LENGTH: usize = 20;

/// A volume that is still to be made.
pub(crate) fn new_volume(size_bytes: ByteSize, acl: Acl, now: Timestamp) -> Volume {
    Volume {
        id: VolumeId::generate(),
        common: Common::new(acl, now),
        state: VolumeState::Creating,
        reason: None,
        kind: MAPPED.to_owned(),
        size_bytes,
        bootable: false,
        attachment: None,
        deleted: false,
        origin: None,
        base: None,
        capture: None,
        location: None,
        size_since: None,
        unknown: Map::new(),
    }
}

/// The serial by which a guest finds a volume: the last 20 digits of its UUID. (The first ones are the time, and the
/// same for volumes made in the same millisecond.)
pub(crate) fn serial(volume: &VolumeId) -> String {
    let digits: String = volume.local().chars().filter(|c| *c != '-').collect();
    digits
        .chars()
        .skip(digits.len().saturating_sub(SERIAL_LENGTH))
        .collect()
}

/// Refuses to attach a volume that the caller may see, not change: what has it attached writes to it, and keeps it from
/// its owner. Public ones are for everybody; that is what making a volume public says.
///
/// # Errors
/// [`CloudError::Forbidden`]
pub(crate) fn may_attach(context: &OpContext, volume: &Volume) -> Result<()> {
    let acl = &volume.common.acl;
    if context.right_on(acl) >= Some(Right::Modify) || is_public(acl) {
        return Ok(());
    }
    Err(CloudError::Forbidden(format!(
        "you may see {}, not change it; a machine would write to it. Ask {} for the right MODIFY",
        volume.id, acl.owner.principal
    )))
}

/// What StratusLab says of a volume that a machine has, and which that is.
pub(crate) fn not_available(
    documents: &Documents,
    context: &OpContext,
    attachment: &Attachment,
) -> String {
    format!(
        "Disk not available: {} has it, until that lets go of it or is gone",
        machine::called_by_id(documents, context, &attachment.machine)
    )
}

/// `volume` as taken by `machine`.
pub(crate) fn taken(
    documents: &Documents,
    context: &OpContext,
    volume: &Volume,
    machine: &Machine,
    now: Timestamp,
) -> Result<Volume> {
    machine::available(volume)?;
    if let Some(attachment) = &volume.attachment {
        return Err(CloudError::Conflict(if attachment.machine == machine.id {
            format!(
                "Mount already exists for: {} and {}",
                machine.vmid,
                volume.id.local()
            )
        } else {
            not_available(documents, context, attachment)
        }));
    }
    let mut taken = volume.clone();
    taken.attachment = Some(Attachment {
        machine: machine.id.clone(),
        since: now,
    });
    Ok(taken)
}

/// The capacity in kB of the configuration in a resolved volume template.
pub(crate) fn configured_capacity(
    documents: &Documents,
    context: &OpContext,
    template: &Map<String, Value>,
    path: &str,
) -> Result<u64> {
    let path = format!("{path}.volumeConfig");
    match template.get("volumeConfig") {
        Some(Value::Object(given)) => {
            machine::configuration_capacity(documents, context, given.clone(), &path)
        }
        _ => Err(CloudError::invalid(
            path,
            "is missing; give a reference or {\"capacity\": kB}",
        )),
    }
}

impl Cloud {
    pub(crate) fn check_volume_size(&self, size: ByteSize, path: &str) -> Result<()> {
        let largest = self.0.settings.largest_volume_gib;
        if size.0 == 0 || size > ByteSize::from_gib(largest) {
            return Err(CloudError::invalid(
                path,
                format!("must be above 0 and at most {largest} GiB"),
            ));
        }
        Ok(())
    }

    /// Makes a volume (VolumeCreate).
    ///
    /// # Errors
    /// [`CloudError::Invalid`] for a size that can't be.
    pub async fn create_volume(
        &self,
        context: &OpContext,
        mut body: Map<String, Value>,
    ) -> Result<Created> {
        let documents = &self.0.documents;
        let (size, origin) = self.asked_volume(context, &mut body)?;
        let now = Timestamp::now();
        let mut volume = new_volume(size, Self::acl_for(context, false)?, now);
        volume.common.part_of.clone_from(&context.part_of);
        if let Some(origin) = &origin {
            volume.origin = Some(origin.document.id.clone());
            volume.bootable = origin.bootable;
        }
        for (name, value) in &body {
            match name.as_str() {
                "acl" => set_public(&mut volume.common.acl, grants_view_to_users(value)),
                "visibility" => set_public(&mut volume.common.acl, value == "PUBLIC"),
                "name" | "description" | "properties" => {
                    catalogue::edit_common(&mut volume.common, name, Some(value))?;
                }
                _ => {}
            }
        }
        let job = Job::creation(
            Volume::COLLECTION.to_owned(),
            volume.key(),
            JobGoal::Available,
            volume.common.acl.clone(),
            now,
        )
        .within(context.parent_job.as_ref());
        let event = Event::request(&volume, "add", context.user().unwrap_or_default(), now);
        catalogue::check_size(&volume)?;
        let amounts = [(Measure::Volumes, 1), (Measure::VolumeSpace, size.0)];
        self.write_within(context, &amounts, |changes| {
            let changes = match &origin {
                Some(origin) => changes.unchanged(origin),
                None => changes,
            };
            changes.create(&volume).create(&job).create(&event)
        })
        .await?;
        tracing::info!(volume = %volume.id, owner = context.user(), bytes = size.0, "volume wanted");
        let read = access::find::<Volume>(documents, context, volume.id.local(), Right::View)?;
        Ok(Created {
            view: catalogue::view(documents, context, read),
            job: Some(job.id.to_string()),
            existed: false,
        })
    }

    /// How large a volume the template of a creation asks for, and what it begins as; takes it out of the body.
    pub(crate) fn asked_volume(
        &self,
        context: &OpContext,
        body: &mut Map<String, Value>,
    ) -> Result<(ByteSize, Option<Arc<Cached<VolumeImage>>>)> {
        let documents = &self.0.documents;
        let path = "volumeTemplate";
        let Some(Value::Object(given)) = body.remove(path) else {
            return Err(CloudError::invalid(
                path,
                "is missing; give {\"volumeConfig\": {\"capacity\": kB}}",
            ));
        };
        let template = resolve::resolve::<VolumeTemplate>(documents, context, given, path)?;
        let capacity = configured_capacity(documents, context, &template, path)?;
        let size = ByteSize::from_capacity_kb(capacity);
        self.check_volume_size(size, "volumeTemplate.volumeConfig.capacity")?;
        let origin = self.origin_of(context, &template, capacity, path)?;
        Ok((size, origin))
    }

    /// Removes a volume that nobody has.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] while it is attached.
    pub async fn delete_volume(&self, context: &OpContext, local: &str) -> Result<Done> {
        let documents = &self.0.documents;
        loop {
            context.in_time()?;
            let now = Timestamp::now();
            let read = access::find::<Volume>(documents, context, local, Right::Modify)?;
            if let Some(attachment) = &read.attachment {
                return Err(CloudError::Conflict(format!(
                    "disk ({local}) is in use and can't be deleted: {} has it; detach it or remove its machine first",
                    machine::called_by_id(documents, context, &attachment.machine)
                )));
            }
            if read.deleted
                && let Some(job) = jobs::under_way(documents, &read.key(), "delete", &JobGoal::Gone)
            {
                return Ok(Done {
                    view: None,
                    job: Some(job),
                });
            }
            let mut volume = read.document.0.clone();
            volume.deleted = true;
            volume.state = VolumeState::Deleting;
            let job = Job::accepted(
                volume.key(),
                "delete",
                JobGoal::Gone,
                volume.common.acl.clone(),
                now,
            )
            .within(context.parent_job.as_ref());
            let event = Event::request(&volume, "delete", context.user().unwrap_or_default(), now);
            match documents
                .changes()
                .replace(&read, volume)
                .create(&job)
                .create(&event)
                .commit()
                .await
            {
                Ok(_) => {
                    tracing::info!(volume = %read.id, user = context.user(), "volume is to be deleted");
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

    /// Changes name, description, properties, visibility or (growing only) the capacity.
    ///
    /// # Errors
    /// [`CloudError::Invalid`], [`CloudError::Conflict`].
    pub async fn edit_volume(
        &self,
        context: &OpContext,
        local: &str,
        changes: Changes,
    ) -> Result<Done> {
        if let Some(Some(capacity)) = changes.get("capacity") {
            let size = ByteSize::from_capacity_kb(capacity.as_u64().unwrap_or(0));
            self.check_volume_size(size, "capacity")?;
        }
        let documents = &self.0.documents;
        let read = loop {
            context.in_time()?;
            let read = access::find::<Volume>(documents, context, local, Right::View)?;
            let mut volume = read.document.0.clone();
            if !catalogue::apply(documents, context, &mut volume, &changes)? {
                break read;
            }
            let more = volume.size_bytes.0.saturating_sub(read.size_bytes.0);
            let mut transaction = documents.changes();
            let mut place = None;
            if more > 0 {
                let (owner, amounts) = (&read.common.acl.owner, [(Measure::VolumeSpace, more)]);
                place = self.place_of(context, owner, &amounts).await?;
            }
            if let Some(place) = &place {
                transaction = place.guard(transaction);
            }
            match transaction.replace(&read, volume).commit().await {
                Ok(_) => break access::find::<Volume>(documents, context, local, Right::View)?,
                Err(error) if error.is_conflict() => {
                    if let Some(place) = place {
                        place.is_lost(&error).await;
                    }
                }
                Err(error) => return Err(error.into()),
            }
        };
        Ok(Done {
            view: Some(catalogue::view(documents, context, read)),
            job: None,
        })
    }
}

/// Whether an `acl` that a client sent makes a resource readable by all users.
fn grants_view_to_users(acl: &Value) -> bool {
    let rules = acl.get("rules").and_then(Value::as_array);
    rules.is_some_and(|rules| {
        rules.iter().any(|rule| {
            rule.get("principal").and_then(Value::as_str) == Some(cimi::common::USER_ROLE)
        })
    })
}

impl Public for Volume {
    const KIND: Kind = Kind::Volume;

    fn own_attributes(&self, _documents: &Documents) -> Map<String, Value> {
        let mut out = object(json!({
            "state": self.state,
            "type": self.kind,
            "capacity": self.size_bytes.capacity_kb(),
            "bootable": self.bootable,
            "size": self.size_bytes.gib_ceil(),
            "sizeBytes": self.size_bytes,
            "visibility": visibility(&self.common.acl),
            "count": u32::from(self.attachment.is_some()),
            "eventLog": crate::event_log::link(self),
        }));
        if let Some(attachment) = &self.attachment {
            out.insert("attachedTo".to_owned(), json!({"href": attachment.machine}));
        }
        if let Some(origin) = &self.origin {
            out.insert("volumeImage".to_owned(), json!({"href": origin}));
        }
        if let Some(reason) = &self.reason {
            out.insert("reason".to_owned(), reason.as_str().into());
        }
        out
    }

    fn edit(&mut self, name: &str, value: Option<&Value>) -> Result<()> {
        match (name, value) {
            ("visibility", Some(value)) => set_public(&mut self.common.acl, value == "PUBLIC"),
            ("capacity", Some(value)) => {
                let wanted = ByteSize::from_capacity_kb(value.as_u64().unwrap_or(0));
                if wanted < self.size_bytes {
                    return Err(CloudError::Conflict(format!(
                        "{} has {} kB and can't shrink; copy the data to a smaller volume instead",
                        self.id,
                        self.size_bytes.capacity_kb()
                    )));
                }
                if wanted > self.size_bytes && self.attachment.is_some() {
                    return Err(CloudError::Conflict(format!(
                        "{} is attached; detach it to let it grow",
                        self.id
                    )));
                }
                if wanted > self.size_bytes && self.capture.is_some() {
                    return Err(CloudError::Conflict(format!(
                        "an image is being made of {}; wait until it is there",
                        self.id
                    )));
                }
                self.size_bytes = wanted;
            }
            ("bootable", Some(value)) => self.bootable = value.as_bool().unwrap_or(false),
            _ => return Err(CloudError::invalid(name, "of a volume can't be changed")),
        }
        Ok(())
    }
}

impl Public for VolumeConfiguration {
    const KIND: Kind = Kind::VolumeConfiguration;

    fn own_attributes(&self, _documents: &Documents) -> Map<String, Value> {
        let mut out = object(json!({"capacity": self.capacity}));
        for (name, text) in [("type", &self.kind), ("format", &self.format)] {
            if let Some(text) = text {
                out.insert(name.to_owned(), text.as_str().into());
            }
        }
        out
    }

    fn edit(&mut self, name: &str, value: Option<&Value>) -> Result<()> {
        let text = || value.and_then(Value::as_str).map(str::to_owned);
        match name {
            "capacity" => {
                self.capacity = value.and_then(Value::as_u64).ok_or_else(|| {
                    CloudError::invalid("capacity", "is mandatory: a number of kB")
                })?;
            }
            "type" => self.kind = text(),
            "format" => self.format = text(),
            _ => return Err(CloudError::invalid(name, "can't be changed")),
        }
        Ok(())
    }
}

impl Public for VolumeTemplate {
    const KIND: Kind = Kind::VolumeTemplate;

    fn own_attributes(&self, _documents: &Documents) -> Map<String, Value> {
        self.body.clone()
    }

    fn operations(&self, _documents: &Documents) -> Vec<Rel> {
        vec![Rel::Edit, Rel::Delete]
    }

    fn edit(&mut self, name: &str, value: Option<&Value>) -> Result<()> {
        crate::configuration::edit_body(&mut self.body, name, value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_of_volumes_made_at_the_same_moment_differ() {
        let (a, b) = (VolumeId::generate(), VolumeId::generate());
        assert_eq!(serial(&a).len(), 20);
        assert_ne!(serial(&a), serial(&b));
    }
}
