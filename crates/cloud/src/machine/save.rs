//! The root disk of a machine as a new image: at its shutdown, if it was started to be saved, or while it is off.
//!
//! ```text
//! shutdown of a machine with `save` ─┐                                    ┌─▶ machine released, its disk in quarantine
//!                                    ├─▶ image CREATING ─▶ AVAILABLE ─────┤
//! capture of a machine that is off ──┘     (storage merges the disk)      └─▶ machine may start again
//! ```
//!
//! Image and machine name each other and are written in one transaction; both controllers wait for what the other shows. It makes no
//! difference which host the machine is on: one that has joined keeps the disk, and gives it to the storage, until the image is there.

use std::collections::BTreeMap;

use cimi::{
    Acl, Common, EmailAddress, ImageId, Ref, Right, Timestamp,
    lifecycle::{MachineState, Power, RestartPolicy},
    resources::{
        BootSource, Capture, Digests, Event, Image, ImageDesired, ImageSource, ImageState, Job,
        JobGoal, Machine, Resource, Save,
    },
};
use placement::Means;
use serde_json::{Map, Value};

use crate::{
    Cloud, CloudError, Created, OpContext, Result, access, catalogue, host::WITHOUT_STORAGE,
    quota::Measure, resolve,
};

const SAVE: &str = "machineTemplate.save";

/// Most characters of an author's name, which letters begin with, and of a Marketplace's address.
const AUTHOR_AT_MOST: usize = 80;
const URL_AT_MOST: usize = 200;

/// What a template says of saving, checked.
pub(super) fn save_of(given: Option<&Map<String, Value>>) -> Result<Option<Save>> {
    let Some(given) = given else {
        return Ok(None);
    };
    let mut save: Save = super::typed(given.clone(), SAVE)?;
    // Letters go there: what can't be one is told now, and not days later to nobody.
    save.author_email = EmailAddress::parse(&save.author_email)
        .map_err(|error| CloudError::invalid(format!("{SAVE}.authorEmail"), error.to_string()))?
        .as_str()
        .to_owned();
    let length = save.author.chars().count();
    if length > AUTHOR_AT_MOST || save.author.contains(char::is_control) {
        return Err(CloudError::invalid(
            format!("{SAVE}.author"),
            format!(
                "must be a name of one line and at most {AUTHOR_AT_MOST} characters, but has {length}"
            ),
        ));
    }
    let is_web = |url: &str| {
        ["https://", "http://"]
            .iter()
            .any(|scheme| url.starts_with(scheme))
    };
    let is_blank = |c: char| c.is_whitespace() || c.is_control();
    if let Some(url) = &save.marketplace
        && (!is_web(url) || url.contains(is_blank) || url.len() > URL_AT_MOST)
    {
        let shown: String = url.chars().filter(|c| !c.is_control()).take(100).collect();
        return Err(CloudError::invalid(
            format!("{SAVE}.marketplace"),
            format!(
                "must be an http or https URL without blanks and of at most {URL_AT_MOST} characters, but is `{shown}`"
            ),
        ));
    }
    let version_is_text = |version: &String| {
        version.starts_with(|first: char| first.is_ascii_alphanumeric())
            && version
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || ".-_+~".contains(c))
    };
    if let Some(version) = save
        .version
        .as_ref()
        .filter(|version| !version_is_text(version))
    {
        return Err(CloudError::invalid(
            format!("{SAVE}.version"),
            format!(
                "`{version}` is no version: letters, digits and .-_+~ make one, which begins with a letter or a digit, such as 1.2"
            ),
        ));
    }
    Ok(Some(save))
}

/// Whether a machine holds a disk that can be captured now.
pub(super) fn can_be_captured(machine: &Machine) -> bool {
    machine.image.is_some()
        && machine.state == MachineState::Stopped
        && machine.first_started.is_some()
        && machine.desired.moving.is_none()
        && (machine.desired.power == Power::Off || machine.restart_policy == RestartPolicy::Never)
}

/// The image that the root disk of a machine began as, if it has one of its own.
fn beginning(machine: &Machine) -> Result<&ImageId> {
    let image = machine.image.as_ref().map(|image| &image.href);
    image.ok_or_else(|| {
        CloudError::Conflict(format!(
            "{} boots from a volume: make an image of that when the machine is gone",
            machine.id
        ))
    })
}

/// Properties that describe the content of an image, and go on to those made of its machines.
const INHERITED: [&str; 4] = ["os", "os-version", "os-arch", "disks-bus"];
const VERSION: &str = "version";

/// What is known of an image from the one that its machine began as.
fn properties_of(origin: Option<&Image>, save: Option<&Save>) -> BTreeMap<String, String> {
    let known = origin.map(|origin| &origin.common.properties);
    let mut properties = BTreeMap::new();
    for name in INHERITED {
        if let Some(value) = known.and_then(|known| known.get(name)) {
            properties.insert(name.to_owned(), value.clone());
        }
    }
    let before = known.and_then(|known| known.get(VERSION));
    let version = save
        .and_then(|save| save.version.clone())
        .or_else(|| raised(before?));
    if let Some(version) = version {
        properties.insert(VERSION.to_owned(), version);
    }
    properties
}

/// A version with its second number raised by one: `1.2` becomes `1.3`, `4` becomes `4.1`.
fn raised(version: &str) -> Option<String> {
    let mut parts = version.split('.');
    let major = parts.next()?;
    let minor: u64 = match parts.next() {
        None => 0,
        Some(minor) => minor.parse().ok()?,
    };
    Some(format!("{major}.{}", minor.checked_add(1)?))
}

impl Cloud {
    /// The image that a machine's disk is being saved as at this moment.
    pub(super) fn saving(&self, machine: &Machine) -> Option<ImageId> {
        let id = &machine.saved_as.as_ref()?.href;
        let image = self.0.documents.images.get(id.local())?;
        image.is_on_its_way().then(|| id.clone())
    }

    /// Refuses what would change a disk that is being saved.
    pub(super) fn not_being_saved(&self, machine: &Machine) -> Result<()> {
        match self.saving(machine) {
            None => Ok(()),
            Some(image) => Err(CloudError::Conflict(format!(
                "the disk of {} is being saved as {image}; try again when that is AVAILABLE",
                machine.id
            ))),
        }
    }

    /// The image that a machine becomes. The machine is marked.
    ///
    /// # Errors
    /// [`CloudError::Conflict`] if it has no root disk of its own.
    pub(super) fn image_of(
        &self,
        machine: &mut Machine,
        acl: Acl,
        save: Option<Save>,
        now: Timestamp,
    ) -> Result<Image> {
        let began_as = beginning(machine)?.clone();
        let origin = self.0.documents.images.get(began_as.local());
        let (kernel, initrd, kernel_arguments) = match &machine.boot {
            BootSource::Disk => (None, None, None),
            BootSource::Kernel {
                kernel,
                initrd,
                arguments,
            } => (
                Some(kernel.clone()),
                initrd.clone(),
                Some(arguments.clone()).filter(|text| !text.is_empty()),
            ),
        };
        let title = save.as_ref().map(|save| save.title.clone());
        let comment = save.as_ref().map(|save| save.comment.clone());
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let image = Image {
            id: ImageId::generate(),
            common: Common {
                name: given(title).or_else(|| Some(format!("saved {}", machine.display_name()))),
                description: given(comment),
                properties: properties_of(origin.as_deref().map(|o| &o.document.0), save.as_ref()),
                ..Common::new(acl, now)
            },
            state: ImageState::Creating,
            reason: None,
            kind: "IMAGE".to_owned(),
            desired: ImageDesired {
                source: ImageSource::Machine(Capture {
                    machine: machine.id.clone(),
                    vmid: machine.vmid,
                    origin: began_as,
                    origin_identifier: origin.and_then(|o| o.identifier().map(str::to_owned)),
                    disk_bytes: machine.disks.first().map(|disk| disk.size_bytes),
                    save,
                }),
                expected: Digests::default(),
                attempt: 1,
                deleted: false,
                on_demand: None,
            },
            progress: Some(0),
            file: None,
            needs_space: false,
            provenance: None,
            kernel,
            initrd,
            kernel_arguments,
            announced: None,
            uncleaned: Vec::new(),
            stands_for: Vec::new(),
            used_since: None,
            unknown: Map::new(),
        };
        machine.saved_as = Some(Ref::to(image.id.clone()));
        Ok(image)
    }

    /// Makes an image of the root disk of a machine that is off (CIMI `capture`).
    ///
    /// # Errors
    /// [`CloudError::Conflict`] unless the machine is off and has run.
    pub(crate) async fn capture_machine(
        &self,
        context: &OpContext,
        body: &Map<String, Value>,
        location: &str,
    ) -> Result<Created> {
        let documents = &self.0.documents;
        let path = "imageLocation";
        if let Some(name) = ["kernel", "initrd", "kernelArguments", "expected"]
            .into_iter()
            .find(|name| body.contains_key(*name))
        {
            return Err(CloudError::invalid(
                name,
                "can't be given for the disk of a machine: it is taken from there",
            ));
        }
        if body.get("type").and_then(Value::as_str).unwrap_or("IMAGE") != "IMAGE" {
            return Err(CloudError::invalid("type", "of a machine's disk is IMAGE"));
        }
        let local = resolve::local_part::<Machine>(location, path)?.to_owned();
        let public = body.get("visibility").and_then(Value::as_str) == Some("PUBLIC");
        loop {
            context.in_time()?;
            let now = Timestamp::now();
            let read = resolve::at(path, self.find_machine(context, &local, Right::Modify))?;
            self.not_being_saved(&read)?;
            beginning(&read)?;
            if read.desired.deleted || !can_be_captured(&read) {
                let state = super::text_of(read.state);
                let why = if read.desired.moving.is_some() {
                    "is on its way to another host: wait until it is there".to_owned()
                } else if read.state == MachineState::Stopped {
                    "has no disk yet that it ran from, or is started again by its restart policy"
                        .to_owned()
                } else {
                    format!("is {state}: what it has in memory would be missing; stop it first")
                };
                return Err(CloudError::Conflict(format!("{} {why}", read.id)));
            }
            let instead = "its stratusd is too old to give disks to be saved; have it upgraded";
            let needs = Means {
                saving: true,
                ..Means::default()
            };
            self.require_means(&read, needs, (WITHOUT_STORAGE, instead))?;
            let mut machine = read.document.0.clone();
            let mut image =
                self.image_of(&mut machine, Self::acl_for(context, public)?, None, now)?;
            for name in ["name", "description", "properties"] {
                if let Some(value) = body.get(name) {
                    catalogue::edit_common(&mut image.common, name, Some(value))?;
                }
            }
            catalogue::check_size(&image)?;
            let job = Job::creation(
                Image::COLLECTION.to_owned(),
                image.key(),
                JobGoal::Available,
                image.common.acl.clone(),
                now,
            );
            let event = Event::request(&image, "add", context.user().unwrap_or_default(), now);
            let place = self.place(context, &image_amounts(&read)).await?;
            let changes = place
                .guard(documents.changes())
                .create(&image)
                .replace(&read, machine)
                .create(&job)
                .create(&event);
            match changes.commit().await {
                Ok(_) => {
                    tracing::info!(image = %image.id, machine = %read.id, owner = context.user(), "machine is captured");
                    let read =
                        access::find::<Image>(documents, context, image.id.local(), Right::View)?;
                    return Ok(Created {
                        view: catalogue::view(documents, context, read),
                        job: Some(job.id.to_string()),
                        existed: false,
                    });
                }
                Err(error) if error.is_conflict() => {
                    place.is_lost(&error).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// What an image of a machine's root disk adds to what a user has.
pub(super) fn image_amounts(machine: &Machine) -> [(Measure, u64); 2] {
    let root = machine.disks.first().map_or(0, |disk| disk.size_bytes.0);
    [(Measure::Images, 1), (Measure::ImageSpace, root.max(1))]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn versions_are_raised_at_their_second_number() {
        for (version, next) in [
            ("1.2", Some("1.3")),
            ("4", Some("4.1")),
            ("2.9.7", Some("2.10")),
            ("1.x", None),
        ] {
            assert_eq!(raised(version).as_deref(), next, "{version}");
        }
    }

    #[test]
    fn what_can_not_describe_an_image_is_refused_by_name() {
        let good = json!({"author": "Ann", "authorEmail": "ann@example.org", "title": "t", "comment": "c", "version": "1.2"});
        let save = |change: Value| {
            let mut all = good.as_object().unwrap().clone();
            all.extend(change.as_object().unwrap().clone());
            save_of(Some(&all))
        };
        assert_eq!(
            save(json!({})).unwrap().unwrap().version.as_deref(),
            Some("1.2")
        );
        assert_eq!(save_of(None).unwrap(), None);
        let long = "x".repeat(81);
        for (change, named) in [
            (json!({"authorEmail": "ann"}), "authorEmail"),
            (json!({"authorEmail": "a b@c"}), "authorEmail"),
            (json!({"authorEmail": "joe@@x"}), "authorEmail"),
            (json!({"authorEmail": "joe@x,eve@y"}), "authorEmail"),
            (json!({"author": "Ann\nOpen this"}), "a name of one line"),
            (json!({"author": long}), "a name of one line"),
            (json!({"marketplace": "http://m and more"}), "marketplace"),
            (
                json!({"marketplace": format!("http://{}", "m".repeat(200))}),
                "marketplace",
            ),
            (json!({"version": "1 2"}), "version"),
            (json!({"marketplace": "ftp://m"}), "marketplace"),
        ] {
            let error = save(change).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
